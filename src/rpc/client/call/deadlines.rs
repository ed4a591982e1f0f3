//! The deadlines of a client's calls, with one timer for all of them.

use super::state::CallState;
use crate::reactor::{Reactor, ReactorHandle, TimerId};
use crate::rpc::client::target::Target;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Instant;

/// When, and a number that tells equal times apart.
pub(in crate::rpc) type DeadlineKey = (Instant, u64);

/// Holds no more entries than there are calls: each takes its own away when it ends.
///
/// This is for calls that nobody's thread waits for. [`Call::wait`](crate::rpc::Call::wait) keeps its deadline by itself, for the
/// reactor may have other things to do.
pub(in crate::rpc) struct Deadlines<Res> {
    reactor: ReactorHandle,
    target: Arc<Target>,
    inner: Mutex<Inner<Res>>,
}

struct Inner<Res> {
    calls: BTreeMap<DeadlineKey, Weak<CallState<Res>>>,
    next: u64,
    /// When the timer is to fire, also while it is still to be set for that.
    armed: Option<Instant>,
    /// The one that is set. The reactor's thread alone changes it.
    timer: Option<TimerId>,
}

impl<Res> Deadlines<Res> {
    pub(in crate::rpc) fn remove(&self, key: DeadlineKey) {
        self.inner.lock().calls.remove(&key);
    }
}

impl<Res: Send + 'static> Deadlines<Res> {
    pub(in crate::rpc) fn new(reactor: ReactorHandle, target: Arc<Target>) -> Arc<Self> {
        let inner = Inner { calls: BTreeMap::new(), next: 0, armed: None, timer: None };
        Arc::new(Deadlines { reactor, target, inner: Mutex::new(inner) })
    }

    pub(in crate::rpc) fn insert(
        self: &Arc<Self>,
        deadline: Instant,
        call: &Arc<CallState<Res>>,
    ) -> DeadlineKey {
        let mut inner = self.inner.lock();
        let key = (deadline, inner.next);
        inner.next += 1;
        inner.calls.insert(key, Arc::downgrade(call));
        if inner.armed.is_none_or(|armed| deadline < armed) {
            inner.armed = Some(deadline);
            drop(inner);
            let deadlines = self.clone();
            // A reactor that has stopped has failed the calls already.
            let _ = self.reactor.run(move |reactor| deadlines.arm(reactor, deadline));
        }
        key
    }

    /// Sets the timer, instead of the one for later that there may be.
    fn arm(self: &Arc<Self>, reactor: &mut Reactor, deadline: Instant) {
        let mut inner = self.inner.lock();
        if inner.armed != Some(deadline) {
            // A call that ends earlier has come in between.
            return;
        }
        let delay = deadline.saturating_duration_since(Instant::now());
        // Whoever has dropped all else of the client shall not wait for the last deadline.
        let deadlines = Arc::downgrade(self);
        let timer = reactor.after(delay, move |reactor| {
            if let Some(deadlines) = deadlines.upgrade() {
                deadlines.fire(reactor, deadline);
            }
        });
        let before = inner.timer.replace(timer);
        drop(inner);
        if let Some(before) = before {
            reactor.cancel_after(before);
        }
    }

    fn fire(self: &Arc<Self>, reactor: &mut Reactor, at: Instant) {
        let now = Instant::now();
        let mut expired = Vec::new();
        let next = {
            let mut inner = self.inner.lock();
            inner.timer = None;
            if inner.armed != Some(at) {
                return;
            }
            while let Some(entry) = inner.calls.first_entry().filter(|entry| entry.key().0 <= now) {
                expired.push(entry.remove());
            }
            inner.armed = inner.calls.first_key_value().map(|((deadline, _), _)| *deadline);
            inner.armed
        };
        for sent in expired.iter().filter_map(Weak::upgrade).filter_map(|call| call.time_out()) {
            self.target.call_given_up(sent);
        }
        if let Some(next) = next {
            self.arm(reactor, next);
        }
    }
}

impl<Res> Drop for Deadlines<Res> {
    fn drop(&mut self) {
        if let Some(timer) = self.inner.get_mut().timer.take() {
            // A reactor that has stopped has none.
            let _ = self.reactor.run(move |reactor| _ = reactor.cancel_after(timer));
        }
    }
}

impl<Res> fmt::Debug for Deadlines<Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deadlines").field("calls", &self.inner.lock().calls.len()).finish_non_exhaustive()
    }
}
