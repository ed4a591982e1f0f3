//! A connection, in the hands of other threads.

use super::outbox::{Place, Remote, Wish};
use crate::reactor::socket::address::Address;
use crate::reactor::table::ConnectionId;
use crate::waiting;
use bytes::Bytes;
use std::fmt;
use std::future::Future;
use std::hash::{Hash, Hasher};
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Writes to, closes or notifies a connection from any thread. Cheap to clone. Two are equal if they are of one connection.
///
/// What is written here waits in the connection's outbox until its reactor takes it over. The reactor does so until it has
/// as much output as [`StreamOptions::output_limits`](crate::reactor::StreamOptions::output_limits) says; beyond
/// that, the [outbox's limit](crate::reactor::StreamOptions::outbox_limit) is what may wait for a slow peer.
#[derive(Clone)]
pub struct Handle(Arc<Remote>);

/// Why something was not written. It can be tried again, or was never accepted; nothing was lost silently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandleError {
    /// The connection has ended or is being closed; for a write, it is enough that its output has ended.
    Closed,
    /// So much is waiting already that the outbox's limit, in bytes, would be exceeded.
    Full {
        /// The limit ([`StreamOptions::outbox_limit`](crate::reactor::StreamOptions::outbox_limit)).
        limit: usize,
    },
    /// There was no room in time.
    TimedOut,
    /// A write that waits was called on a reactor's own thread, where it could wait for what only that thread can do. Nothing was
    /// written.
    OnReactorThread {
        /// The call.
        call: &'static str,
        /// The one that does the same without waiting.
        instead: &'static str,
    },
}

impl Handle {
    pub(in crate::reactor) fn new(remote: Remote) -> Self {
        Handle(Arc::new(remote))
    }

    pub(in crate::reactor) fn remote(&self) -> &Remote {
        &self.0
    }

    /// Whether others than the connection itself have it.
    pub(in crate::reactor) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// Appends `bytes` to the connection's output, or says why not. Never blocks.
    pub fn try_write(&self, bytes: &[u8]) -> Result<(), HandleError> {
        self.0.try_put(bytes.len(), |payload| payload.text().extend_from_slice(bytes))
    }

    /// Appends `bytes` to the connection's output without a copy, or says why not. Never blocks.
    pub fn try_write_bytes(&self, bytes: Bytes) -> Result<(), HandleError> {
        self.0.try_put(bytes.len(), |payload| payload.splice(bytes))
    }

    /// Appends all of `slices` to the connection's output, one behind the other and nothing of others between them, or says why
    /// not. Never blocks.
    pub fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> Result<(), HandleError> {
        self.0.try_put(total(slices), |payload| {
            slices.iter().for_each(|slice| payload.text().extend_from_slice(slice));
        })
    }

    /// Appends `bytes` to the connection's output; waits while the peer is too slow for more. On a reactor's own thread it is
    /// an error at once: there, [`try_write`](Self::try_write) does not wait.
    pub fn write(&self, bytes: &[u8]) -> Result<(), HandleError> {
        may_wait("Handle::write", "use `try_write`, or `write_async`")?;
        self.0.put_or_wait(bytes.len(), None, |payload| payload.text().extend_from_slice(bytes))
    }

    /// As [`write`](Self::write), but waits for so long at most.
    pub fn write_timeout(&self, bytes: &[u8], timeout: Duration) -> Result<(), HandleError> {
        may_wait("Handle::write_timeout", "use `try_write`, or `write_async`")?;
        // What is too long to be told from for ever is for ever.
        let deadline = Instant::now().checked_add(timeout);
        self.0.put_or_wait(bytes.len(), deadline, |payload| payload.text().extend_from_slice(bytes))
    }

    /// As [`write`](Self::write), but without a copy.
    pub fn write_bytes(&self, bytes: Bytes) -> Result<(), HandleError> {
        may_wait("Handle::write_bytes", "use `try_write_bytes`, or `write_async`")?;
        self.0.put_or_wait(bytes.len(), None, |payload| payload.splice(bytes))
    }

    /// As [`write`](Self::write), for all of `slices`, one behind the other and nothing of others between them.
    pub fn write_vectored(&self, slices: &[IoSlice<'_>]) -> Result<(), HandleError> {
        may_wait("Handle::write_vectored", "use `try_write_vectored`")?;
        self.0.put_or_wait(total(slices), None, |payload| {
            slices.iter().for_each(|slice| payload.text().extend_from_slice(slice));
        })
    }

    /// Appends `bytes` to the connection's output without a copy, as soon as there is room; never blocks. Whoever drops the
    /// future before it is ready has written nothing.
    pub fn write_async(&self, bytes: impl Into<Bytes>) -> WriteAsync {
        WriteAsync { waiting: Waiting::new(self), bytes: bytes.into() }
    }

    /// Resolves when there is room for so many bytes; never blocks. Somebody else may take the room, so a
    /// [`try_write`](Self::try_write) may fail all the same, and then this can be awaited again.
    pub fn writable(&self, bytes: usize) -> Writable {
        Writable { waiting: Waiting::new(self), bytes: bytes.max(1) }
    }

    /// Calls the handler's [`on_notify`](crate::reactor::Handler::on_notify). Calls that come before it ran are one.
    pub fn notify(&self) -> Result<(), HandleError> {
        self.0.wish(Wish::Notify)
    }

    /// Ends the output behind everything that was written; from now on, nothing more is accepted. No error if it has ended.
    pub fn shutdown_write(&self) -> Result<(), HandleError> {
        self.0.wish(Wish::EndOutput)
    }

    /// Closes the connection once everything that was written has been sent; from now on, nothing more is accepted. No error if
    /// it is closed.
    pub fn close(&self) -> Result<(), HandleError> {
        self.0.wish(Wish::Close)
    }

    /// Closes the connection at once, with a reset. No error if it has ended.
    pub fn abort(&self) -> Result<(), HandleError> {
        self.0.wish(Wish::Abort)
    }

    /// Stops reading, as [`Io::pause_reading`](crate::reactor::Io::pause_reading) does.
    pub fn pause_reading(&self) -> Result<(), HandleError> {
        self.0.wish(Wish::Pause)
    }

    /// Reads again.
    pub fn resume_reading(&self) -> Result<(), HandleError> {
        self.0.wish(Wish::Resume)
    }

    /// Whether the connection has ended or is being closed.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Which connection this is: the same as [`Io::id`](crate::reactor::Io::id), and never another's in this process.
    pub fn id(&self) -> ConnectionId {
        self.0.connection
    }

    /// The peer's address.
    pub fn peer_addr(&self) -> &Address {
        &self.0.peer
    }

    /// This side's address, if the system told it.
    pub fn local_addr(&self) -> Option<&Address> {
        self.0.local.as_ref()
    }

    /// Bytes of output that the kernel has not taken yet: those that wait here, and those that the reactor had at the end of what
    /// it last did with the connection.
    pub fn pending(&self) -> usize {
        self.0.pending()
    }

    /// Bytes that would be accepted now. 0 if the output has ended. An outbox with nothing in it accepts even more, in one write.
    pub fn room(&self) -> usize {
        self.0.room()
    }
}

fn may_wait(call: &'static str, instead: &'static str) -> Result<(), HandleError> {
    if waiting::is_forbidden() { Err(HandleError::OnReactorThread { call, instead }) } else { Ok(()) }
}

fn total(slices: &[IoSlice<'_>]) -> usize {
    slices.iter().map(|slice| slice.len()).sum()
}

/// A future's interest in room.
#[derive(Debug)]
struct Waiting {
    handle: Handle,
    place: Place,
}

impl Waiting {
    fn new(handle: &Handle) -> Self {
        Waiting { handle: handle.clone(), place: Place::default() }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.handle.0.leave(&mut self.place);
    }
}

/// See [`Handle::write_async`].
#[derive(Debug)]
#[must_use = "nothing is written unless it is awaited"]
pub struct WriteAsync {
    waiting: Waiting,
    bytes: Bytes,
}

impl Future for WriteAsync {
    type Output = Result<(), HandleError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let WriteAsync { waiting: Waiting { handle, place }, bytes } = &mut *self;
        let len = bytes.len();
        let result = handle
            .0
            .put_or_register(len, (place, context.waker()), |payload| payload.splice(std::mem::take(bytes)));
        ready_unless_full(result)
    }
}

/// See [`Handle::writable`].
#[derive(Debug)]
#[must_use = "it does nothing unless it is awaited"]
pub struct Writable {
    waiting: Waiting,
    bytes: usize,
}

impl Future for Writable {
    type Output = Result<(), HandleError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Writable { waiting: Waiting { handle, place }, bytes } = &mut *self;
        ready_unless_full(handle.0.wait_for_room(*bytes, place, context.waker()))
    }
}

fn ready_unless_full(result: Result<(), HandleError>) -> Poll<Result<(), HandleError>> {
    match result {
        Err(HandleError::Full { .. }) => Poll::Pending,
        result => Poll::Ready(result),
    }
}

impl PartialEq for Handle {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for Handle {}

impl Hash for Handle {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id().hash(state);
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("id", &self.id())
            .field("peer", self.peer_addr())
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for HandleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HandleError::Closed => f.write_str("the connection or its output has ended"),
            HandleError::Full { limit } => {
                write!(
                    f,
                    "the connection's peer is too slow: more than {limit} bytes would wait for it (outbox limit)"
                )
            }
            HandleError::TimedOut => {
                f.write_str("the connection's peer is too slow: there was no room in time")
            }
            HandleError::OnReactorThread { call, instead } => {
                write!(
                    f,
                    "{call} would wait on a reactor's own thread, for what only that thread can do: {instead}"
                )
            }
        }
    }
}

impl std::error::Error for HandleError {}
