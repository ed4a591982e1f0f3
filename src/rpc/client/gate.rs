//! The way in for calls: a batcher, those who wait for room in it, and how it ended.

use super::call::{Callback, Pending, Promise};
use super::deadlines::Deadlines;
use super::target::Target;
use crate::batch::{Batcher, PushError};
use crate::rpc::{CallError, Unfinished};
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::task::Waker;

/// What a client, its calls and its connection share.
pub(in crate::rpc) struct Gate<Req, Res> {
    calls: Batcher<Pending<Req, Res>>,
    deadlines: Arc<Deadlines<Res>>,
    target: Arc<Target>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Tasks that wait for room.
    wakers: Vec<Waker>,
    /// Counts up whenever there may be room.
    rounds: u64,
    /// Threads and tasks that wait for room, so that nobody is told in vain.
    waiters: usize,
    end: Option<Result<(), Unfinished>>,
}

impl<Req: Send + 'static, Res: Send + 'static> Gate<Req, Res> {
    pub(in crate::rpc) fn new(
        calls: Batcher<Pending<Req, Res>>,
        deadlines: Arc<Deadlines<Res>>,
        target: Arc<Target>,
    ) -> Arc<Self> {
        Arc::new(Gate { calls, deadlines, target, state: Mutex::default(), changed: Condvar::new() })
    }

    pub(in crate::rpc) fn target(&self) -> &Target {
        &self.target
    }

    pub(in crate::rpc) fn deadlines(&self) -> &Arc<Deadlines<Res>> {
        &self.deadlines
    }

    /// Hands a call over, or gives the request back if there is no room; then `waker` is woken when there may be.
    pub(in crate::rpc) fn push(&self, pending: Pending<Req, Res>, waker: Option<&Waker>) -> Option<Req> {
        match self.calls.try_push(pending) {
            Ok(()) => None,
            Err(PushError::Full(pending)) => match waker {
                Some(waker) => self.push_or_wait(pending, waker),
                None => Some(give_back(pending)),
            },
            Err(refused) => {
                self.refuse(refused.into_item());
                None
            }
        }
    }

    /// Registers first and tries once more then, so that room that came between is not missed.
    fn push_or_wait(&self, pending: Pending<Req, Res>, waker: &Waker) -> Option<Req> {
        {
            let mut state = self.state.lock();
            if !state.wakers.iter().any(|other| other.will_wake(waker)) {
                state.wakers.push(waker.clone());
                state.waiters += 1;
            }
        }
        match self.calls.try_push(pending) {
            Ok(()) => None,
            Err(PushError::Full(pending)) => Some(give_back(pending)),
            Err(refused) => {
                self.refuse(refused.into_item());
                None
            }
        }
    }

    /// Makes a request for a callback; blocks while there is no room.
    pub(in crate::rpc) fn send(&self, request: Req, callback: Callback<Res>) {
        let pending = Pending { request, promise: Promise::for_callback(callback) };
        if let Err(refused) = self.calls.push(pending) {
            self.refuse(refused.into_item());
        }
    }

    fn refuse(&self, pending: Pending<Req, Res>) {
        let reason = match &self.state.lock().end {
            Some(Err(unfinished)) => unfinished.reason.clone(),
            _ => Arc::from("the client is closed"),
        };
        pending.promise.fail(CallError::NotSent(reason));
    }

    /// Blocks until there may be room, or the end.
    pub(in crate::rpc) fn wait_for_room(&self) {
        let mut state = self.state.lock();
        let round = state.rounds;
        state.waiters += 1;
        // In case that room came before this was noted. There is no harm in a round too many.
        let patience = std::time::Duration::from_millis(1);
        while state.rounds == round && state.end.is_none() {
            if self.changed.wait_for(&mut state, patience).timed_out() {
                break;
            }
        }
        state.waiters = state.waiters.saturating_sub(1);
    }

    /// The connection has taken calls over: there is room.
    pub(in crate::rpc) fn made_room(&self) {
        let mut state = self.state.lock();
        if state.waiters > 0 {
            state.rounds += 1;
            self.wake_all(&mut state);
        }
    }

    fn wake_all(&self, state: &mut State) {
        state.waiters -= state.wakers.len().min(state.waiters);
        state.wakers.drain(..).for_each(Waker::wake);
        self.changed.notify_all();
    }

    /// The connection has ended for good, and the consumer of the calls is done.
    pub(in crate::rpc) fn end(&self, end: Result<(), Unfinished>) {
        // Calls that nobody took. This does not wait: the consumer has settled it.
        if let (Err(unfinished), Err(left)) = (&end, self.calls.close()) {
            left.into_undelivered().into_iter().for_each(|pending| pending.promise.lose(&unfinished.reason));
        }
        let mut state = self.state.lock();
        state.end.get_or_insert(end);
        self.wake_all(&mut state);
    }

    pub(in crate::rpc) fn stop_accepting(&self) {
        self.calls.stop_accepting();
    }

    /// Blocks until the end.
    pub(in crate::rpc) fn wait_for_end(&self) -> Result<(), Unfinished> {
        let mut state = self.state.lock();
        loop {
            if let Some(end) = &state.end {
                return end.clone();
            }
            self.changed.wait(&mut state);
        }
    }

    pub(in crate::rpc) fn has_ended(&self) -> bool {
        self.state.lock().end.is_some()
    }
}

fn give_back<Req, Res>(pending: Pending<Req, Res>) -> Req {
    pending.promise.dissolve();
    pending.request
}
