//! What can go wrong, and what comes back with it.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// The consumer's error as it is kept: more than one handle may ask for it.
pub(crate) type Cause = Arc<dyn Error + Send + Sync>;

/// An item was not accepted. It is handed back: nothing is lost.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PushError<T> {
    /// There is no space now. Only from `try_push`; the others wait.
    Full(T),
    /// The batcher was closed, or its consumer has been dropped after it was.
    Closed(T),
    /// The consumer failed; [`Batcher::close`](super::Batcher::close) tells why.
    Failed(T),
    /// There is no space now, and this thread cannot wait for it: it drives a reactor, or the consumer, which may be what makes
    /// space. Use `try_push` or `push_async` there.
    WouldDeadlock(T),
}

impl<T> PushError<T> {
    /// The item that was not accepted.
    #[must_use]
    pub fn into_item(self) -> T {
        match self {
            Self::Full(item) | Self::Closed(item) | Self::Failed(item) | Self::WouldDeadlock(item) => item,
        }
    }

    /// The error alone; the item is dropped. For `?` into an error type that wants more of it (`Sync`) than the item is.
    #[must_use]
    pub fn without_item(self) -> PushError<()> {
        match self {
            Self::Full(_) => PushError::Full(()),
            Self::Closed(_) => PushError::Closed(()),
            Self::Failed(_) => PushError::Failed(()),
            Self::WouldDeadlock(_) => PushError::WouldDeadlock(()),
        }
    }

    /// Whether a later attempt may succeed.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full(_) | Self::WouldDeadlock(_))
    }
}

// By hand, so that items need no `Debug` for `push(…)?` to work.
impl<T> fmt::Debug for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "Full(..)",
            Self::Closed(_) => "Closed(..)",
            Self::Failed(_) => "Failed(..)",
            Self::WouldDeadlock(_) => "WouldDeadlock(..)",
        })
    }
}

impl<T> fmt::Display for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => {
                "push to a batcher: its lane is full (`lane` items or `lane_bytes` bytes wait for the consumer); wait with `push`, \
                 or enlarge it"
            }
            Self::Closed(_) => "push to a batcher: it is closed",
            Self::Failed(_) => "push to a batcher: its consumer failed; `close` returns the cause",
            Self::WouldDeadlock(_) => {
                "push to a batcher: its lane is full, and this thread would wait for what only itself can do: use `try_push` or \
                 `push_async` on a reactor's thread and in a consumer's closure"
            }
        })
    }
}

impl<T> Error for PushError<T> {}

/// Closing did not come to a good end. If the consumer failed, carries why, and the items that were accepted but not
/// delivered.
pub struct CloseError<T> {
    kind: CloseErrorKind,
    cause: Cause,
    undelivered: Vec<T>,
}

/// What kept a [`close`](super::Batcher::close) from its good end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseErrorKind {
    /// The consumer failed.
    Failed,
    /// It took longer than the limit. Nothing is accepted any more; what was accepted may still be delivered.
    TimedOut,
    /// It would have waited on a reactor's own thread. Nothing was done.
    WouldDeadlock,
}

impl<T> CloseError<T> {
    pub(crate) fn failed(cause: Cause, undelivered: Vec<T>) -> Self {
        Self { kind: CloseErrorKind::Failed, cause, undelivered }
    }

    pub(crate) fn timed_out() -> Self {
        Self { kind: CloseErrorKind::TimedOut, cause: Arc::new(SyncError::TimedOut), undelivered: Vec::new() }
    }

    pub(crate) fn would_deadlock() -> Self {
        let cause = Arc::new(SyncError::WouldDeadlock);
        Self { kind: CloseErrorKind::WouldDeadlock, cause, undelivered: Vec::new() }
    }

    /// What happened.
    #[must_use]
    pub fn kind(&self) -> CloseErrorKind {
        self.kind
    }

    /// The error alone; what was not delivered is dropped. For `?` into an error type that wants more of it (`Sync`) than
    /// the items are.
    #[must_use]
    pub fn without_items(self) -> CloseError<()> {
        CloseError { kind: self.kind, cause: self.cause, undelivered: Vec::new() }
    }

    /// What the consumer left in its batch when it failed, and everything accepted behind it; the items of one
    /// producer in their order. Only the first `close` gets them.
    #[must_use]
    pub fn undelivered(&self) -> &[T] {
        &self.undelivered
    }

    /// The undelivered items, to be written elsewhere.
    #[must_use]
    pub fn into_undelivered(self) -> Vec<T> {
        self.undelivered
    }

    /// The consumer's error, the same for every `close`.
    #[must_use]
    pub fn cause(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.cause
    }
}

impl<T> fmt::Debug for CloseError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloseError")
            .field("kind", &self.kind)
            .field("cause", &self.cause)
            .field("undelivered", &self.undelivered.len())
            .finish()
    }
}

impl<T> fmt::Display for CloseError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.undelivered.len();
        match self.kind {
            CloseErrorKind::Failed => {
                write!(f, "the batcher's consumer failed, {count} items were not delivered: {}", self.cause)
            }
            CloseErrorKind::TimedOut => write!(f, "close of a batcher: {}", self.cause),
            CloseErrorKind::WouldDeadlock => f.write_str(
                "close of a batcher would wait on a reactor's own thread: use `close_async` there",
            ),
        }
    }
}

impl<T> Error for CloseError<T> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.cause)
    }
}

/// A [`sync`](super::Batcher::sync) that did not come to a good end.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SyncError {
    /// The consumer failed before everything was dealt with; [`close`](super::Batcher::close) returns the same error, and what was
    /// not delivered.
    Failed(Arc<dyn Error + Send + Sync>),
    /// It took longer than the limit.
    TimedOut,
    /// It would have waited on a reactor's own thread, or in the consumer's closure. Use `sync_async` there.
    WouldDeadlock,
}

impl fmt::Display for SyncError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(cause) => write!(f, "the batcher's consumer failed before everything was dealt with: {cause}"),
            Self::TimedOut => f.write_str("the batcher's consumer has not dealt with everything within the limit"),
            Self::WouldDeadlock => f.write_str(
                "sync of a batcher would wait for what only this thread can do: use `sync_async` on a reactor's thread and in a \
                 consumer's closure",
            ),
        }
    }
}

impl Error for SyncError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Failed(cause) => Some(&**cause),
            Self::TimedOut | Self::WouldDeadlock => None,
        }
    }
}

/// A panic in the consumer's closure, as an error.
#[derive(Debug)]
pub(crate) struct Panicked(pub(crate) String);

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "panicked: {}", self.0)
    }
}

impl Error for Panicked {}

/// The consumer was dropped before it had everything.
#[derive(Debug)]
pub(crate) struct Abandoned;

impl fmt::Display for Abandoned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the consumer was dropped before the batcher was closed and drained")
    }
}

impl Error for Abandoned {}
