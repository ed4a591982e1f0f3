//! What a version number does not tell: whether a receive stays armed.

use super::Uring;
use super::entry::{Internal, Length, Wire};
use crate::driver::BufferGroup;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

impl Uring {
    /// Receives one byte over a pair of sockets and looks whether the receive is still armed (Linux 6.0).
    pub(super) fn can_receive_repeatedly(&mut self) -> io::Result<bool> {
        let (receiver, mut sender) = UnixStream::pair()?;
        sender.write_all(&[1])?;
        let mut sender = Some(sender);
        let (socket, group) = (receiver.as_raw_fd(), BufferGroup::Large);
        let wire = Wire::Receive { socket, group, length: Length::Repeatedly };
        self.push(wire, Internal::Probe.bits());
        let deadline = Instant::now() + Duration::from_secs(10);
        let (mut raw, mut stays_armed) = (Vec::new(), false);
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            self.pool.publish();
            self.ring.enter(Some(left))?;
            self.ring.reap(&mut raw);
            // More than one at a time: where the pool has a single buffer, the lack of another may be the final one.
            for raw in raw.drain(..) {
                if let Some(buffer) = raw.buffer() {
                    self.pool.taken_by_kernel(buffer);
                    self.pool.release(buffer);
                }
                if !raw.more() {
                    return Ok(stays_armed);
                }
                stays_armed = raw.bytes().is_ok_and(|received| received == 1);
                // If nothing else, the end of the stream is the final completion.
                sender = None;
            }
        }
        drop(sender);
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "io_uring did not complete a receive of one byte within 10 s",
        ))
    }
}
