//! Ending a wait from another thread.

use std::io;
use std::sync::Arc;

/// Ends a proactor's wait from any thread. Clones wake the same proactor, and outlive it harmlessly.
#[derive(Clone, Debug)]
pub struct Waker(Arc<mio::Waker>);

impl Waker {
    pub(crate) fn new(waker: mio::Waker) -> Self {
        Self(Arc::new(waker))
    }

    /// Makes the current wait return, or the next one when there is none. Several wakes may count as one.
    ///
    /// What was written before it is visible to the woken thread only through synchronisation of the caller's
    /// own.
    ///
    /// # Errors
    ///
    /// What the system says when it refuses to signal, which it does not do in the ordinary course of things.
    pub fn wake(&self) -> io::Result<()> {
        self.0.wake()
    }
}
