//! Whom to tell of what other threads did: the current connection, or what stands for it while there is none.

use super::call::state::{NO_ID, Sent};
use crate::reactor::Handle;
use parking_lot::Mutex;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// Where a client is with its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientState {
    /// It connects for the first time.
    Connecting,
    /// It has a connection.
    Connected,
    /// Its connection was lost, and it connects again. What is asked for waits.
    Reconnecting,
    /// It has ended.
    Closed,
}

/// Where the queues' notifications go, and what the application wants of the connection.
#[derive(Default)]
pub(in crate::rpc) struct Target {
    whom: Mutex<Whom>,
    state: AtomicU8,
    /// The connection wants to hear of calls that nobody waits for any more.
    watches_calls: AtomicBool,
    /// Ids of calls that were sent and that nobody waits for any more, where there are ids.
    given_up: Mutex<Vec<u64>>,
    has_given_up: AtomicBool,
    pauses: AtomicBool,
    /// Calls with more responses than may wait.
    full_parts: AtomicUsize,
    aborts: AtomicBool,
    watcher: OnceLock<Watcher>,
}

/// Is told of each state that a client comes to, behind the change.
pub(in crate::rpc) type Watcher = Box<dyn Fn(ClientState) + Send + Sync>;

#[derive(Clone, Default)]
enum Whom {
    #[default]
    Nobody,
    Connection(Handle),
    /// There is no connection at the moment.
    Meanwhile(Arc<dyn Fn() + Send + Sync>),
}

impl Target {
    pub(in crate::rpc) fn connected(&self, handle: Handle) {
        self.set(Whom::Connection(handle), ClientState::Connected);
    }

    /// Between connections, `look` is called instead.
    pub(in crate::rpc) fn meanwhile(&self, look: Arc<dyn Fn() + Send + Sync>) {
        let first = matches!(*self.whom.lock(), Whom::Nobody) && self.state() == ClientState::Connecting;
        let state = if first { ClientState::Connecting } else { ClientState::Reconnecting };
        self.set(Whom::Meanwhile(look), state);
    }

    pub(in crate::rpc) fn ended(&self) {
        self.set(Whom::Nobody, ClientState::Closed);
    }

    fn set(&self, whom: Whom, state: ClientState) {
        let before = std::mem::replace(&mut *self.whom.lock(), whom);
        self.state.store(state as u8, Ordering::Release);
        drop(before);
        if let Some(watcher) = self.watcher.get() {
            watcher(state);
        }
    }

    /// To be called once, before there is any connection.
    pub(in crate::rpc) fn watch(&self, watcher: Watcher) {
        let first = self.watcher.set(watcher).is_ok();
        debug_assert!(first);
    }

    /// Has somebody look at what was asked for when there was no connection any more. A request that was accepted before this
    /// is found either here or by whoever loses the connection, who changes what is locked here first.
    pub(in crate::rpc) fn notify_if_away(&self) {
        let look = match &*self.whom.lock() {
            Whom::Meanwhile(look) => look.clone(),
            Whom::Nobody | Whom::Connection(_) => return,
        };
        look();
    }

    pub(in crate::rpc) fn state(&self) -> ClientState {
        match self.state.load(Ordering::Acquire) {
            0 => ClientState::Connecting,
            1 => ClientState::Connected,
            2 => ClientState::Reconnecting,
            _ => ClientState::Closed,
        }
    }

    pub(in crate::rpc) fn notify(&self) {
        // Outside of the lock: this may wake a thread.
        let whom = self.whom.lock().clone();
        match whom {
            Whom::Nobody => {}
            Whom::Connection(handle) => {
                // A connection that has ended is not interested; the next one looks by itself.
                let _ = handle.notify();
            }
            Whom::Meanwhile(look) => look(),
        }
    }

    /// The connection waits for responses, or for calls to be given up: the next one that is notifies it. Look at the calls
    /// behind this.
    pub(in crate::rpc) fn watch_calls(&self) {
        self.watches_calls.store(true, Ordering::SeqCst);
    }

    /// A call timed out or was cancelled. To be called behind the change of its state, whose lock orders this against
    /// [`watch_calls`](Self::watch_calls).
    pub(in crate::rpc) fn call_given_up(&self, sent: Sent) {
        if let Some(id) = sent.filter(|id| *id != NO_ID) {
            self.given_up.lock().push(id);
            self.has_given_up.store(true, Ordering::SeqCst);
        }
        if self.watches_calls.load(Ordering::SeqCst) && self.watches_calls.swap(false, Ordering::SeqCst) {
            self.notify();
        }
    }

    /// The ids of calls that were given up since the last time. None may be missed that was given up before
    /// [`watch_calls`](Self::watch_calls), which is to be called first.
    pub(in crate::rpc) fn take_given_up(&self) -> Vec<u64> {
        if self.has_given_up.load(Ordering::SeqCst) && self.has_given_up.swap(false, Ordering::SeqCst) {
            std::mem::take(&mut *self.given_up.lock())
        } else {
            Vec::new()
        }
    }

    /// Responses are to wait, or to come again.
    pub(in crate::rpc) fn pause(&self, on: bool) {
        self.pauses.store(on, Ordering::SeqCst);
        self.notify();
    }

    pub(in crate::rpc) fn set_paused(&self) {
        self.pauses.store(true, Ordering::SeqCst);
    }

    /// Of one call, more responses wait than may.
    pub(in crate::rpc) fn hold_for_parts(&self) {
        self.full_parts.fetch_add(1, Ordering::SeqCst);
    }

    /// They do no longer.
    pub(in crate::rpc) fn resume_for_parts(&self) {
        if self.full_parts.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.notify();
        }
    }

    pub(in crate::rpc) fn pauses(&self) -> bool {
        self.pauses.load(Ordering::SeqCst) || self.full_parts.load(Ordering::SeqCst) > 0
    }

    /// The client is to end at once.
    pub(in crate::rpc) fn abort(&self) {
        self.aborts.store(true, Ordering::SeqCst);
        self.notify();
    }

    pub(in crate::rpc) fn aborts(&self) -> bool {
        self.aborts.load(Ordering::SeqCst)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("state", &self.state()).finish_non_exhaustive()
    }
}
