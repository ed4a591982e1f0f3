//! One request on its way, as the one who made it sees it.

use super::deadlines::DeadlineKey;
use super::gate::Gate;
use crate::rpc::CallError;
use parking_lot::{Condvar, Mutex};
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// A request whose response is awaited: a future for any executor, and [`wait`](Self::wait) for none.
///
/// The request is on its way as soon as there is room for it, awaited or not. Dropping this cancels: what was not sent yet is
/// not sent, and a response that comes is thrown away.
#[must_use = "dropping a call cancels it"]
pub struct Call<Req: Send + 'static, Res: Send + 'static> {
    state: Arc<CallState<Res>>,
    gate: Arc<Gate<Req, Res>>,
    /// Not accepted yet: the lanes are full.
    waiting: Option<Req>,
    deadline: Option<DeadlineKey>,
}

/// What the caller and the connection's handler share.
pub(in crate::rpc) struct CallState<Res> {
    inner: Mutex<Inner<Res>>,
    changed: Condvar,
}

struct Inner<Res> {
    outcome: Outcome<Res>,
    waker: Option<Waker>,
    callback: Option<Callback<Res>>,
    sent: bool,
}

/// What [`Client::send`](crate::rpc::Client::send) does with the outcome.
pub(in crate::rpc) type Callback<Res> = Box<dyn FnOnce(Result<Res, CallError>) + Send>;

enum Outcome<Res> {
    Pending,
    Done(Result<Res, CallError>),
    /// The caller has it, or wants it no more.
    Over,
}

/// A request and where its response goes.
pub(in crate::rpc) struct Pending<Req, Res> {
    pub(in crate::rpc) request: Req,
    pub(in crate::rpc) promise: Promise<Res>,
}

/// The handler's end of a call. Dropping it unresolved fails the call: none is left hanging.
pub(in crate::rpc) struct Promise<Res>(Option<Arc<CallState<Res>>>);

impl<Res> CallState<Res> {
    fn new(callback: Option<Callback<Res>>) -> Arc<Self> {
        let inner = Inner { outcome: Outcome::Pending, waker: None, callback, sent: false };
        Arc::new(CallState { inner: Mutex::new(inner), changed: Condvar::new() })
    }

    fn is_pending(&self) -> bool {
        matches!(self.inner.lock().outcome, Outcome::Pending)
    }

    /// Ends the call, unless it has ended.
    fn resolve(&self, outcome: impl FnOnce(bool) -> Result<Res, CallError>) {
        let mut inner = self.inner.lock();
        if !matches!(inner.outcome, Outcome::Pending) {
            return;
        }
        let outcome = outcome(inner.sent);
        if let Some(callback) = inner.callback.take() {
            inner.outcome = Outcome::Over;
            drop(inner);
            // Other calls may be waiting to be told behind this one.
            if catch_unwind(AssertUnwindSafe(|| callback(outcome))).is_err() {
                crate::log::callback_panicked();
            }
            return;
        }
        inner.outcome = Outcome::Done(outcome);
        self.changed.notify_one();
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn take(&self, waker: Option<&Waker>) -> Option<Result<Res, CallError>> {
        let mut inner = self.inner.lock();
        match std::mem::replace(&mut inner.outcome, Outcome::Over) {
            Outcome::Done(result) => Some(result),
            Outcome::Pending => {
                inner.outcome = Outcome::Pending;
                if let Some(waker) = waker {
                    inner.waker = Some(waker.clone());
                }
                None
            }
            Outcome::Over => panic!("a call was polled after it had returned its response"),
        }
    }

    /// The deadline has passed.
    pub(in crate::rpc) fn time_out(&self) {
        self.resolve(|sent| Err(CallError::TimedOut { sent }));
    }
}

impl<Res> Promise<Res> {
    /// For a callback instead of a call.
    pub(in crate::rpc) fn for_callback(callback: Callback<Res>) -> Self {
        Promise(Some(CallState::new(Some(callback))))
    }

    /// Whether anybody still waits.
    pub(in crate::rpc) fn is_wanted(&self) -> bool {
        self.0.as_ref().is_some_and(|state| state.is_pending())
    }

    /// The request is in the connection's output.
    pub(in crate::rpc) fn sent(&self) {
        if let Some(state) = &self.0 {
            state.inner.lock().sent = true;
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
    pub(in crate::rpc) fn lose(self, reason: &Arc<str>) {
        self.resolve(|sent| Err(lost(sent, reason.clone())));
    }

    fn resolve(mut self, outcome: impl FnOnce(bool) -> Result<Res, CallError>) {
        if let Some(state) = self.0.take() {
            state.resolve(outcome);
        }
    }
}

fn lost(sent: bool, reason: Arc<str>) -> CallError {
    if sent { CallError::Lost(reason) } else { CallError::NotSent(reason) }
}

impl<Res> Drop for Promise<Res> {
    fn drop(&mut self) {
        if let Some(state) = self.0.take() {
            state.resolve(|sent| Err(lost(sent, Arc::from("the client was closed"))));
        }
    }
}

impl<Req: Send + 'static, Res: Send + 'static> Call<Req, Res> {
    pub(in crate::rpc) fn new(gate: Arc<Gate<Req, Res>>, request: Req) -> Self {
        let mut call = Call { state: CallState::new(None), gate, waiting: Some(request), deadline: None };
        call.push(None);
        call
    }

    /// Fails with [`CallError::TimedOut`] if there is no response after this time.
    pub fn timeout(mut self, after: Duration) -> Self {
        self.forget_deadline();
        // What lies beyond the clock's end never comes.
        let deadline = Instant::now().checked_add(after);
        self.deadline = deadline.map(|deadline| self.gate.deadlines().insert(deadline, &self.state));
        self
    }

    /// Blocks the thread until there is a response or an error. Not for a reactor's own thread.
    pub fn wait(mut self) -> Result<Res, CallError> {
        while self.waiting.is_some() && self.state.is_pending() {
            self.gate.wait_for_room();
            self.push(None);
        }
        let mut inner = self.state.inner.lock();
        while matches!(inner.outcome, Outcome::Pending) {
            self.state.changed.wait(&mut inner);
        }
        drop(inner);
        self.state.take(None).expect("it is not pending any more")
    }

    /// Tries to hand the request over. If there is no room, `waker` is told when there is.
    fn push(&mut self, waker: Option<&Waker>) {
        if let Some(request) = self.waiting.take() {
            let promise = Promise(Some(self.state.clone()));
            self.waiting = self.gate.push(Pending { request, promise }, waker);
        }
    }

    fn forget_deadline(&mut self) {
        if let Some(key) = self.deadline.take() {
            self.gate.deadlines().remove(key);
        }
    }
}

// Nothing in it is pinned.
impl<Req: Send + 'static, Res: Send + 'static> Unpin for Call<Req, Res> {}

impl<Req: Send + 'static, Res: Send + 'static> Future for Call<Req, Res> {
    type Output = Result<Res, CallError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.push(Some(context.waker()));
        self.state.take(Some(context.waker())).map_or(Poll::Pending, Poll::Ready)
    }
}

impl<Req: Send + 'static, Res: Send + 'static> Drop for Call<Req, Res> {
    fn drop(&mut self) {
        self.forget_deadline();
        let given_up = self.state.is_pending();
        self.state.inner.lock().outcome = Outcome::Over;
        if given_up {
            self.gate.target().call_given_up();
        }
    }
}

impl<Req: Send + 'static, Res: Send + 'static> fmt::Debug for Call<Req, Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").finish_non_exhaustive()
    }
}
