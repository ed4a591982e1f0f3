//! Where the calls of a pool wait as long as none of its servers is connected.

use crate::rpc::client::call::state::CallState;
use crate::rpc::{CallError, Cause};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// Each waits for the outcome of a request that nobody has: that it may be made now, or that its time is over.
pub(super) struct Lot<Res> {
    inner: Mutex<Inner<Res>>,
}

struct Inner<Res> {
    parked: BTreeMap<u64, Arc<CallState<Res>>>,
    next: u64,
}

impl<Res> Default for Lot<Res> {
    fn default() -> Self {
        Lot { inner: Mutex::new(Inner { parked: BTreeMap::new(), next: 0 }) }
    }
}

impl<Res> Lot<Res> {
    /// A place, unless there is no reason to wait. That is asked under the lock, so that what changes behind it is told.
    pub(super) fn park(&self, waits: impl FnOnce() -> bool) -> Option<(u64, Arc<CallState<Res>>)> {
        let mut inner = self.inner.lock();
        if !waits() {
            return None;
        }
        let (place, state) = (inner.next, CallState::of_none());
        inner.next += 1;
        inner.parked.insert(place, state.clone());
        Some((place, state))
    }

    pub(super) fn leave(&self, place: u64) {
        let state = self.inner.lock().parked.remove(&place);
        // May drop a waker, so not under the lock.
        drop(state);
    }

    /// There may be somebody to ask, or there never will be: all look again, in the order in which they came.
    pub(super) fn move_all(&self) {
        let parked = std::mem::take(&mut self.inner.lock().parked);
        if parked.is_empty() {
            return;
        }
        let cause = Cause::new(io::ErrorKind::NotConnected, "it waited for a connection");
        parked.into_values().for_each(|state| state.fail(CallError::NotSent(cause.clone())));
    }
}
