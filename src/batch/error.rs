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
}

impl<T> PushError<T> {
    /// The item that was not accepted.
    #[must_use]
    pub fn into_item(self) -> T {
        match self {
            Self::Full(item) | Self::Closed(item) | Self::Failed(item) => item,
        }
    }

    /// Whether a later attempt may succeed.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full(_))
    }
}

// By hand, so that items need no `Debug` for `push(…)?` to work.
impl<T> fmt::Debug for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "Full(..)",
            Self::Closed(_) => "Closed(..)",
            Self::Failed(_) => "Failed(..)",
        })
    }
}

impl<T> fmt::Display for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => {
                "push to a batcher: its lane is full (`lane` items wait for the consumer); wait with `push`, or enlarge `lane`"
            }
            Self::Closed(_) => "push to a batcher: it is closed",
            Self::Failed(_) => "push to a batcher: its consumer failed; `close` returns the cause",
        })
    }
}

impl<T> Error for PushError<T> {}

/// The consumer failed. Carries why, and the items that were accepted but not delivered.
pub struct CloseError<T> {
    cause: Cause,
    undelivered: Vec<T>,
}

impl<T> CloseError<T> {
    pub(crate) fn new(cause: Cause, undelivered: Vec<T>) -> Self {
        Self { cause, undelivered }
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
            .field("cause", &self.cause)
            .field("undelivered", &self.undelivered.len())
            .finish()
    }
}

impl<T> fmt::Display for CloseError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.undelivered.len();
        write!(f, "the batcher's consumer failed, {count} items were not delivered: {}", self.cause)
    }
}

impl<T> Error for CloseError<T> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.cause)
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
