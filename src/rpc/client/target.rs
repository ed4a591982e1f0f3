//! Whom to tell of what other threads did: the current connection.

use crate::reactor::Handle;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where the queues' notifications go.
#[derive(Debug, Default)]
pub(in crate::rpc) struct Target {
    handle: Mutex<Option<Handle>>,
    /// The connection wants to hear of calls that nobody waits for any more.
    watches_calls: AtomicBool,
}

impl Target {
    pub(in crate::rpc) fn connected(&self, handle: Handle) {
        *self.handle.lock() = Some(handle);
    }

    pub(in crate::rpc) fn disconnected(&self) {
        *self.handle.lock() = None;
    }

    pub(in crate::rpc) fn notify(&self) {
        if let Some(handle) = &*self.handle.lock() {
            // A connection that has ended is not interested; the next one looks by itself.
            let _ = handle.notify();
        }
    }

    /// The connection waits for responses, or for calls to be given up: the next one that is notifies it. Look at the calls
    /// behind this.
    pub(in crate::rpc) fn watch_calls(&self) {
        self.watches_calls.store(true, Ordering::SeqCst);
    }

    /// A call timed out or was cancelled. To be called behind the change of its state, whose lock orders this against
    /// [`watch_calls`](Self::watch_calls).
    pub(in crate::rpc) fn call_given_up(&self) {
        if self.watches_calls.load(Ordering::SeqCst) && self.watches_calls.swap(false, Ordering::SeqCst) {
            self.notify();
        }
    }
}
