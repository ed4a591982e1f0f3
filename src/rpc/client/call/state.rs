//! What the one who made a call and the connection's handler share.

use super::deadlines::{DeadlineKey, Deadlines};
use super::parts::Incoming;
use crate::rpc::{CallError, Callback, Cause, trace};
use parking_lot::{Condvar, Mutex};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::Instant;

/// How far a call is. No foreign code runs under its lock: wakers, callbacks and responses are taken out first.
pub(in crate::rpc) struct CallState<Res> {
    inner: Mutex<Inner<Res>>,
    changed: Condvar,
    /// Of a call with several responses.
    parts: Option<Box<Incoming<Res>>>,
}

struct Inner<Res> {
    outcome: Outcome<Res>,
    waker: Option<Waker>,
    callback: Option<Callback<Res>>,
    /// The id under which it goes to the connection's output, or [`NO_ID`].
    sent: Option<u64>,
    /// When it was made, until it is told what came of it.
    began: Option<Instant>,
    /// Of a callback's call, which has nobody else to take it away.
    deadline: Option<(Weak<Deadlines<Res>>, DeadlineKey)>,
}

enum Outcome<Res> {
    Pending,
    Done(Result<Res, CallError>),
    /// The caller has it, or wants it no more.
    Over,
}

/// What a call is sent under where the protocol has no ids. No call has it where there are.
pub(in crate::rpc) const NO_ID: u64 = u64::MAX;

/// A request that is given up: whether it had been sent, and under which id.
pub(in crate::rpc) type Sent = Option<u64>;

impl<Res> CallState<Res> {
    pub(in crate::rpc) fn new(callback: Option<Callback<Res>>) -> Arc<Self> {
        Self::began(callback, trace::began(), None)
    }

    /// Of a call with several responses.
    pub(in crate::rpc) fn in_parts(parts: Incoming<Res>) -> Arc<Self> {
        Self::began(None, trace::began(), Some(Box::new(parts)))
    }

    /// Of no request: what comes of it is not told.
    pub(in crate::rpc) fn of_none() -> Arc<Self> {
        Self::began(None, None, None)
    }

    fn began(
        callback: Option<Callback<Res>>,
        began: Option<Instant>,
        parts: Option<Box<Incoming<Res>>>,
    ) -> Arc<Self> {
        let (outcome, waker) = (Outcome::Pending, None);
        let inner = Inner { outcome, waker, callback, sent: None, began, deadline: None };
        Arc::new(CallState { inner: Mutex::new(inner), changed: Condvar::new(), parts })
    }

    fn is_pending(&self) -> bool {
        matches!(self.inner.lock().outcome, Outcome::Pending)
    }

    pub(in crate::rpc) fn parts(&self) -> Option<&Incoming<Res>> {
        self.parts.as_deref()
    }

    fn end_parts(&self) {
        if let Some(parts) = &self.parts {
            parts.end();
        }
    }

    /// Has whoever waits look again.
    fn wake(&self) {
        let waker = self.inner.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The callback, if it was not called.
    pub(in crate::rpc) fn take_callback(&self) -> Option<Callback<Res>> {
        self.inner.lock().callback.take()
    }

    /// Ends with the call, whatever comes of it.
    pub(in crate::rpc) fn keep_deadline(&self, deadlines: &Arc<Deadlines<Res>>, key: DeadlineKey) {
        let mut inner = self.inner.lock();
        if matches!(inner.outcome, Outcome::Pending) {
            inner.deadline = Some((Arc::downgrade(deadlines), key));
        } else {
            drop(inner);
            deadlines.remove(key);
        }
    }

    /// Ends the call, unless it has ended. `Some` if this did.
    fn resolve(&self, outcome: impl FnOnce(bool) -> Result<Res, CallError>) -> Option<Sent> {
        let mut inner = self.inner.lock();
        if !matches!(inner.outcome, Outcome::Pending) {
            return None;
        }
        let sent = inner.sent;
        let outcome = outcome(sent.is_some());
        let ended = inner.ended(&outcome);
        let (callback, waker, deadline) = (inner.callback.take(), inner.waker.take(), inner.deadline.take());
        let Some(callback) = callback else {
            inner.outcome = Outcome::Done(outcome);
            drop(inner);
            ended.tell();
            self.end_parts();
            self.changed.notify_one();
            if let Some(waker) = waker {
                waker.wake();
            }
            return Some(sent);
        };
        inner.outcome = Outcome::Over;
        drop(inner);
        ended.tell();
        if let Some((deadlines, key)) = deadline
            && let Some(deadlines) = deadlines.upgrade()
        {
            deadlines.remove(key);
        }
        // Other calls may be waiting to be told behind this one.
        if catch_unwind(AssertUnwindSafe(|| callback(outcome))).is_err() {
            crate::log::callback_panicked();
        }
        Some(sent)
    }

    /// What came of it, if anything has. Otherwise `waker` is told, instead of the one before it.
    pub(in crate::rpc) fn take(&self, waker: Option<&Waker>) -> Option<Result<Res, CallError>> {
        let waker = waker.cloned();
        let mut inner = self.inner.lock();
        match std::mem::replace(&mut inner.outcome, Outcome::Over) {
            Outcome::Done(result) => Some(result),
            Outcome::Pending => {
                inner.outcome = Outcome::Pending;
                let before = waker.and_then(|waker| inner.waker.replace(waker));
                drop(inner);
                drop(before);
                None
            }
            Outcome::Over => panic!("a call was polled after it had returned its response"),
        }
    }

    /// Blocks until something came of it, or the deadline, which ends it. `Some` if that ended the call.
    pub(in crate::rpc) fn wait_until(&self, deadline: Option<Instant>) -> Option<Sent> {
        let mut inner = self.inner.lock();
        while matches!(inner.outcome, Outcome::Pending) {
            match deadline {
                None => self.changed.wait(&mut inner),
                Some(deadline) if self.changed.wait_until(&mut inner, deadline).timed_out() => {
                    drop(inner);
                    return self.time_out();
                }
                Some(_) => {}
            }
        }
        None
    }

    /// There is no response, and will be none.
    pub(in crate::rpc) fn fail(&self, error: CallError) {
        self.resolve(|_| Err(error));
    }

    /// The deadline has passed. `Some` if that ended the call.
    pub(in crate::rpc) fn time_out(&self) -> Option<Sent> {
        self.resolve(|sent| Err(CallError::TimedOut { sent }))
    }

    /// Nobody may wait here. `Some` if that ended the call.
    pub(in crate::rpc) fn refuse_to_wait(&self) -> Option<Sent> {
        self.resolve(|sent| Err(CallError::OnReactorThread { sent }))
    }

    /// Nobody waits any more. `Some` if that ended the call.
    pub(in crate::rpc) fn give_up(&self) -> Option<Sent> {
        let mut inner = self.inner.lock();
        let outcome = std::mem::replace(&mut inner.outcome, Outcome::Over);
        let (waker, sent) = (inner.waker.take(), inner.sent);
        let was_pending = matches!(outcome, Outcome::Pending);
        let ended = if was_pending { inner.ends("cancelled") } else { Ended(None) };
        drop(inner);
        drop(waker);
        ended.tell();
        self.end_parts();
        was_pending.then_some(sent)
    }
}

/// What there is to tell of a call, not under its lock.
struct Ended(Option<(Option<u64>, &'static str, Instant)>);

impl Ended {
    fn tell(self) {
        if let Some((id, outcome, began)) = self.0 {
            trace::call(id, outcome, began.elapsed());
        }
    }
}

impl<Res> Inner<Res> {
    fn ended<T>(&mut self, outcome: &Result<T, CallError>) -> Ended {
        self.ends(match outcome {
            Ok(_) => "answered",
            Err(CallError::NotSent(_)) => "not sent",
            Err(CallError::Lost(_)) => "lost",
            Err(CallError::TimedOut { .. }) => "timed out",
            Err(CallError::Encode(_)) => "not encodable",
            Err(CallError::OnReactorThread { .. }) => "cancelled",
        })
    }

    /// Once.
    fn ends(&mut self, outcome: &'static str) -> Ended {
        let id = self.sent.filter(|id| *id != NO_ID);
        Ended(self.began.take().map(|began| (id, outcome, began)))
    }
}

/// A request and where its response goes.
pub(in crate::rpc) struct Pending<Req, Res> {
    pub(in crate::rpc) request: Req,
    pub(in crate::rpc) promise: Promise<Res>,
}

/// The handler's end of a call. Dropping it unresolved fails the call: none is left hanging.
pub(in crate::rpc) struct Promise<Res>(Option<Arc<CallState<Res>>>);

impl<Res> Promise<Res> {
    pub(in crate::rpc) fn of(state: &Arc<CallState<Res>>) -> Self {
        Promise(Some(state.clone()))
    }

    /// Of a request that is pushed: its response goes to the client's callback.
    pub(in crate::rpc) fn nobodys() -> Self {
        Promise(None)
    }

    pub(in crate::rpc) fn is_call(&self) -> bool {
        self.0.is_some()
    }

    /// Whether anybody still waits.
    pub(in crate::rpc) fn is_wanted(&self) -> bool {
        self.0.as_ref().is_some_and(|state| state.is_pending())
    }

    pub(in crate::rpc) fn has_parts(&self) -> bool {
        self.0.as_ref().is_some_and(|state| state.parts.is_some())
    }

    /// Whether responses have come already that are not the last one.
    pub(in crate::rpc) fn has_begun(&self) -> bool {
        self.0.as_ref().and_then(|state| state.parts()).is_some_and(Incoming::has_begun)
    }

    /// Whether this response is the last one. Foreign code says so where there may be several.
    pub(in crate::rpc) fn ends_with(&self, response: &Res) -> bool {
        self.0.as_ref().and_then(|state| state.parts()).is_none_or(|parts| parts.is_last(response))
    }

    /// One of several responses has come, with its bytes on the wire, which is not the last one. Whether the client has to stop
    /// reading for that.
    pub(in crate::rpc) fn put(&self, response: Res, bytes: usize) -> bool {
        let Some((state, parts)) = self.0.as_ref().and_then(|state| Some((state, state.parts()?))) else {
            return false;
        };
        let fills = parts.put(response, bytes);
        state.wake();
        fills
    }

    /// The request goes to the connection's output, under this id, unless nobody waits any more. To be asked before it does: who
    /// gives up is told at that moment whether it was sent.
    pub(in crate::rpc) fn goes_out(&self, id: u64) -> bool {
        let Some(state) = &self.0 else { return false };
        let mut inner = state.inner.lock();
        let is_wanted = matches!(inner.outcome, Outcome::Pending);
        if is_wanted {
            inner.sent = Some(id);
        }
        is_wanted
    }

    /// The server did not take it, or it did not go out after all.
    pub(in crate::rpc) fn was_not_sent(&self) {
        if let Some(state) = &self.0 {
            state.inner.lock().sent = None;
        }
    }

    /// The request goes back to the caller, who will try again.
    pub(in crate::rpc) fn dissolve(mut self) {
        self.0 = None;
    }

    pub(in crate::rpc) fn fulfil(self, response: Res) {
        self.resolve(|_| Ok(response));
    }

    pub(in crate::rpc) fn fail(self, error: CallError) {
        self.resolve(|_| Err(error));
    }

    /// There will be no response.
    pub(in crate::rpc) fn lose(self, cause: &Cause) {
        self.resolve(|sent| Err(lost(sent, cause.clone())));
    }

    fn resolve(mut self, outcome: impl FnOnce(bool) -> Result<Res, CallError>) {
        if let Some(state) = self.0.take() {
            state.resolve(outcome);
        }
    }
}

fn lost(sent: bool, cause: Cause) -> CallError {
    if sent { CallError::Lost(cause) } else { CallError::NotSent(cause) }
}

impl<Res> Drop for Promise<Res> {
    #[inline(always)]
    fn drop(&mut self) {
        // Of most there is nobody: those of pushes, which are dropped many at a time.
        if let Some(state) = self.0.take() {
            abandon(state);
        }
    }
}

/// Takes the state over, so that whoever drops a promise has nothing else to do.
#[cold]
#[inline(never)]
#[expect(clippy::needless_pass_by_value, reason = "it is dropped here")]
fn abandon<Res>(state: Arc<CallState<Res>>) {
    let closed = || Cause::new(io::ErrorKind::NotConnected, "the client was closed");
    state.resolve(|sent| Err(lost(sent, closed())));
}
