//! What a version number does not tell: whether a receive stays armed.

use super::Uring;
use super::entry::{Internal, Raw, Wire};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

impl Uring {
    /// Receives one byte over a pair of sockets and looks whether the receive is still armed (Linux 6.0).
    pub(super) fn can_receive_repeatedly(&mut self) -> io::Result<bool> {
        let (receiver, mut sender) = UnixStream::pair()?;
        sender.write_all(&[1])?;
        let wire = Wire::Receive { socket: receiver.as_raw_fd(), multishot: true };
        self.push(wire, Internal::Probe.bits());
        let first = self.next_probe_completion()?;
        drop(sender);
        if first.more() {
            // The end of the stream is the final completion.
            self.next_probe_completion()?;
        }
        Ok(first.more() && first.bytes().is_ok_and(|received| received == 1))
    }

    fn next_probe_completion(&mut self) -> io::Result<Raw> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut raw = Vec::new();
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            self.pool.publish();
            self.ring.enter(Some(left))?;
            self.ring.reap(&mut raw);
            if let Some(raw) = raw.pop() {
                if let Some(buffer) = raw.buffer() {
                    self.pool.taken_by_kernel(buffer);
                    self.pool.release(buffer);
                }
                return Ok(raw);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "io_uring did not complete a receive of one byte within 10 s",
        ))
    }
}
