//! The seam: what a reactor asks of the kernel, in one vocabulary for every backend.
//!
//! Completion-based: [`Op`]s are submitted and own what the kernel needs until their final [`Completion`] gives it
//! back, so nothing above this module can free or change memory that is in flight. The readiness backend imitates
//! completions; the ring never imitates readiness.

mod choice;
mod readiness;
#[cfg(test)]
pub(crate) mod simulated;
mod token;
#[cfg(target_os = "linux")]
mod uring;

pub use crate::config::Backend;
pub(crate) use choice::{Choice, Chosen, choose};
pub(crate) use token::{GENERATIONS, Kind, Token};

use crate::buf::{BufferId, Payload};
use crate::config::PoolConfig;
use bytes::Bytes;
use socket2::{SockAddr, Socket};
use std::fs::File;
use std::io;
use std::net::Shutdown;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a driver can be asked to do. The set is closed: a backend that lacks an arm does not compile.
///
/// The descriptors must have been attached and must stay open until the final completion.
#[derive(Debug)]
pub(crate) enum Op {
    /// Accepts connections until cancelled.
    Accept { listener: RawFd },
    /// Connects once.
    Connect { socket: RawFd, address: SockAddr },
    /// Receives into the pool's buffers until cancelled; or `once`, no more than so many bytes.
    Receive { socket: RawFd, once: Option<usize> },
    /// Receives nothing, and completes as a receive that failed once the connection has broken. That its peer ended it in good
    /// order is no reason. Takes the place of a receive: at most one of them is armed, under the same token.
    Watch { socket: RawFd },
    /// Sends the payload. At most one is in flight on a stream: independent ring entries are not ordered.
    Send { socket: RawFd, payload: Payload },
    /// Reads a range of a regular file, as much of it as `memory` has room for. At most one is in flight of a stream.
    Read { file: Arc<File>, range: Range<u64>, memory: Vec<u8> },
}

/// The answer to an operation. It is the final one unless `more` is set.
#[derive(Debug)]
pub(crate) struct Completion {
    pub(crate) token: Token,
    pub(crate) event: Event,
    pub(crate) more: bool,
}

#[derive(Debug)]
pub(crate) enum Event {
    Accepted(io::Result<Socket>),
    Connected(io::Result<()>),
    Received(io::Result<Received>),
    /// How many bytes of the payload were sent, possibly fewer than it has. The payload comes back with it, unless the
    /// kernel goes on reading it: then [`Event::Released`] is the final completion.
    Sent(io::Result<usize>, Option<Payload>),
    /// The kernel does not read the payload any more of a send whose result came before.
    Released(Payload),
    /// How many bytes of a file now lie at the start of the memory, which comes back.
    Read(io::Result<usize>, Vec<u8>),
    /// A cancellation did not find the operation. It may have completed; but the kernel also moves operations about, and
    /// does not find one on its way. Whoever still waits for the final completion cancels again.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only the ring has such cancellations"))]
    NotCancelled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Data(Lent),
    /// The peer sends no more.
    End,
}

/// Where received bytes lie: in a buffer that is on loan until it is released, not necessarily at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lent {
    pub(crate) buffer: BufferId,
    pub(crate) start: usize,
    pub(crate) len: usize,
}

/// Buffers of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum BufferGroup {
    Large,
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only the ring has such a group"))]
    Small,
}

impl BufferGroup {
    pub(crate) const COUNT: usize = 2;
    pub(crate) const ALL: [BufferGroup; BufferGroup::COUNT] = [BufferGroup::Large, BufferGroup::Small];

    /// The number that the kernel knows it by.
    #[cfg(target_os = "linux")]
    pub(crate) fn id(self) -> u16 {
        self as u16
    }
}

/// The pool has no buffer for a receive: arm it again when some came back.
pub(crate) fn is_out_of_buffers(error: &io::Error) -> bool {
    error.raw_os_error() == Some(NO_BUFFERS)
}

#[cfg(any(test, target_os = "linux"))]
pub(crate) fn out_of_buffers() -> io::Error {
    io::Error::from_raw_os_error(NO_BUFFERS)
}

#[cfg(any(test, target_os = "linux"))]
pub(crate) fn cancelled() -> io::Error {
    io::Error::from_raw_os_error(CANCELLED)
}

pub(crate) fn is_cancelled(error: &io::Error) -> bool {
    error.raw_os_error() == Some(CANCELLED)
}

const NO_BUFFERS: i32 = libc::ENOBUFS;
const CANCELLED: i32 = libc::ECANCELED;

/// What a backend can do beyond the common meaning; upper layers ask for these and never for a backend's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Completions cost no system call each: one entry into the kernel submits and reaps everything.
    pub batched_submission: bool,
    /// One armed operation yields many receives; on io_uring into large buffers, while small ones are received into one at a time.
    pub multishot_receive: bool,
    /// One armed operation yields many connections.
    pub multishot_accept: bool,
    /// The kernel picks the receive buffer when the bytes are there.
    pub provided_buffers: bool,
    /// The kernel runs completion work only when the reactor asks for it.
    pub deferred_task_work: bool,
}

/// Plain counters of a driver; each reading is the total so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DriverStats {
    pub(crate) enters: u64,
    pub(crate) completion_overflows: u64,
}

/// A backend. One enum rather than a type parameter, so that the choice shows nowhere above.
#[derive(Debug)]
pub(crate) enum Driver {
    #[cfg(target_os = "linux")]
    Uring(Box<uring::Uring>),
    Readiness(Box<readiness::Readiness>),
    #[cfg(test)]
    Simulated(Box<simulated::Simulated>),
}

/// Calls the same method on whichever backend it is.
macro_rules! each {
    ($self:expr, $driver:ident => $call:expr) => {
        match $self {
            #[cfg(target_os = "linux")]
            Driver::Uring($driver) => $call,
            Driver::Readiness($driver) => $call,
            #[cfg(test)]
            Driver::Simulated($driver) => $call,
        }
    };
}

impl Driver {
    #[cfg(target_os = "linux")]
    pub(crate) fn uring(pool: &PoolConfig, choice: &Choice) -> io::Result<Self> {
        Ok(Driver::Uring(Box::new(uring::Uring::new(pool, choice.entries, choice.without)?)))
    }

    pub(crate) fn readiness(pool: &PoolConfig) -> io::Result<Self> {
        Ok(Driver::Readiness(Box::new(readiness::Readiness::new(pool)?)))
    }

    /// The backend that this is; [`Backend::Auto`] never.
    pub(crate) fn backend(&self) -> Backend {
        match self {
            #[cfg(target_os = "linux")]
            Driver::Uring(_) => Backend::IoUring,
            Driver::Readiness(_) => Backend::Fallback,
            #[cfg(test)]
            Driver::Simulated(_) => Backend::Fallback,
        }
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        each!(self, driver => driver.capabilities())
    }

    /// Makes operations on `socket` possible, and it non-blocking.
    pub(crate) fn attach(&mut self, socket: &Rc<Socket>) -> io::Result<()> {
        each!(self, driver => driver.attach(socket))
    }

    /// The last word about `socket`: nothing is in flight on it and nothing will be.
    pub(crate) fn detach(&mut self, socket: &Socket) {
        each!(self, driver => driver.detach(socket.as_raw_fd()));
    }

    /// Ends the output of a stream on which no send is in flight.
    pub(crate) fn end_output(&mut self, socket: &Socket) {
        // Not an operation: the ring would hand it to a thread. Fails only when the peer has gone, which a receive reports.
        let _ = socket.shutdown(Shutdown::Write);
        #[cfg(test)]
        if let Driver::Simulated(driver) = self {
            driver.end_output(socket);
        }
    }

    /// The time by which timers expire.
    pub(crate) fn now(&self) -> Instant {
        match self {
            #[cfg(test)]
            Driver::Simulated(driver) => driver.now(),
            _ => Instant::now(),
        }
    }

    /// Takes on an operation. Whatever comes of it arrives as a completion.
    pub(crate) fn submit(&mut self, token: Token, op: Op) {
        each!(self, driver => driver.submit(token, op));
    }

    /// Asks for the end of an operation, which then has its final completion soon, whichever that is, unless there is an
    /// [`Event::NotCancelled`].
    pub(crate) fn cancel(&mut self, token: Token, socket: RawFd) {
        each!(self, driver => driver.cancel(token, socket));
    }

    /// Submits what was taken on, waits up to `timeout` for a completion or a wake-up (`None`: for as long as it takes)
    /// and appends everything that completed.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>, into: &mut Vec<Completion>) -> io::Result<()> {
        each!(self, driver => driver.wait(timeout, into))
    }

    /// Appends what was decided as it was submitted, for which nobody needs to enter the kernel.
    pub(crate) fn take_decided(&mut self, into: &mut Vec<Completion>) {
        match self {
            #[cfg(target_os = "linux")]
            Driver::Uring(driver) => driver.take_decided(into),
            _ => {}
        }
    }

    pub(crate) fn waker(&self) -> DriverWaker {
        each!(self, driver => driver.waker())
    }

    /// Bytes that are on loan; whoever has them may change them, to decrypt them where they lie.
    pub(crate) fn bytes(&mut self, lent: Lent) -> &mut [u8] {
        each!(self, driver => driver.bytes(lent))
    }

    /// Makes what is on loan bytes that are sent from where they lie, and that give the buffer back when they are dropped. `None`, and
    /// it stays on loan, where buffers cannot be shared, or so many are that too few would be left to receive into.
    pub(crate) fn share(&mut self, lent: Lent) -> Option<Bytes> {
        match self {
            #[cfg(target_os = "linux")]
            Driver::Uring(driver) => driver.share(lent),
            #[cfg(test)]
            Driver::Simulated(driver) => driver.share(lent),
            Driver::Readiness(_) => None,
        }
    }

    /// Gives back a buffer that was on loan.
    pub(crate) fn release(&mut self, buffer: BufferId) {
        each!(self, driver => driver.release(buffer));
    }

    /// The group whose buffers a connection receives into.
    pub(crate) fn group(&self, receive: Token) -> BufferGroup {
        each!(self, driver => driver.group(receive))
    }

    /// Receives into this group that could be armed now and find a buffer.
    pub(crate) fn free_buffers(&self, group: BufferGroup) -> usize {
        each!(self, driver => driver.free_buffers(group))
    }

    /// Buffers on loan.
    pub(crate) fn loaned_buffers(&self) -> usize {
        each!(self, driver => driver.loaned_buffers())
    }

    /// Operations without their final completion.
    pub(crate) fn in_flight(&self) -> usize {
        each!(self, driver => driver.in_flight())
    }

    /// Whether a wait that does not sleep could find anything. Asks the kernel nothing.
    pub(crate) fn may_have_completed(&mut self) -> bool {
        each!(self, driver => driver.may_have_completed())
    }

    /// Whether the next wait has something to do that the [`descriptor`](Self::descriptor) does not show.
    pub(crate) fn has_work(&mut self) -> bool {
        each!(self, driver => driver.has_work())
    }

    /// Makes the [`descriptor`](Self::descriptor) readable, whatever it was before.
    pub(crate) fn announce(&self) {
        each!(self, driver => driver.announce());
    }

    pub(crate) fn stats(&self) -> DriverStats {
        each!(self, driver => driver.stats())
    }

    /// A descriptor that polls readable when [`wait`](Self::wait) would have something to report.
    pub(crate) fn descriptor(&self) -> RawFd {
        each!(self, driver => driver.descriptor())
    }
}

/// Ends another thread's [`Driver::wait`], the current one or the next.
#[derive(Clone, Debug)]
pub(crate) enum DriverWaker {
    #[cfg(target_os = "linux")]
    Event(Arc<uring::Bell>),
    Readiness(trochus_fallback::Waker),
    #[cfg(test)]
    Simulated(Arc<std::sync::atomic::AtomicBool>),
}

impl DriverWaker {
    pub(crate) fn wake(&self) {
        match self {
            #[cfg(target_os = "linux")]
            DriverWaker::Event(bell) => bell.ring(),
            // Fails only when the selector is gone, and then nobody waits.
            DriverWaker::Readiness(waker) => drop(waker.wake()),
            #[cfg(test)]
            DriverWaker::Simulated(woken) => woken.store(true, std::sync::atomic::Ordering::Relaxed),
        }
    }
}
