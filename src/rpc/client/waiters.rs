//! Those who wait for a client: pushes for their turn, and whoever waits for the end.

use super::gate::{Gate, Ticket};
use crate::batch::PushError;
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

/// Wakers by their ticket: each can be taken out again. None is called, cloned or dropped here, so not under a lock either.
#[derive(Debug, Default)]
pub(in crate::rpc) struct Waiters {
    wakers: BTreeMap<Ticket, Waker>,
    next: Ticket,
}

impl Waiters {
    /// Puts the waker in its place, or in a new one. The one that was there before, to be dropped outside of the lock.
    pub(in crate::rpc) fn register(&mut self, ticket: &mut Option<Ticket>, waker: Waker) -> Option<Waker> {
        let ticket = *ticket.get_or_insert_with(|| {
            self.next += 1;
            self.next
        });
        self.wakers.insert(ticket, waker)
    }

    pub(in crate::rpc) fn leave(&mut self, ticket: Ticket) -> Option<Waker> {
        self.wakers.remove(&ticket)
    }

    pub(in crate::rpc) fn wake_all(self) {
        self.wakers.into_values().for_each(Waker::wake);
    }
}

/// What a push that waits for its turn learns: that it came, or that it never will.
pub(in crate::rpc) struct Admission<Req> {
    inner: Mutex<Decision<Req>>,
    decided: Condvar,
}

/// How it was decided, and who is to be told.
type Decision<Req> = (Option<Result<(), Req>>, Option<Waker>);

impl<Req> Default for Admission<Req> {
    fn default() -> Self {
        Admission { inner: Mutex::new((None, None)), decided: Condvar::new() }
    }
}

impl<Req> Admission<Req> {
    pub(in crate::rpc) fn decide(&self, outcome: Result<(), Req>) {
        let waker = {
            let mut inner = self.inner.lock();
            inner.0 = Some(outcome);
            inner.1.take()
        };
        self.decided.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Blocks until it is decided: how, or `None` if it was not by the deadline.
    pub(in crate::rpc) fn wait_until(&self, deadline: Option<Instant>) -> Option<Result<(), Req>> {
        let mut inner = self.inner.lock();
        loop {
            if let Some(outcome) = inner.0.take() {
                return Some(outcome);
            }
            match deadline {
                None => self.decided.wait(&mut inner),
                Some(deadline) if self.decided.wait_until(&mut inner, deadline).timed_out() => {
                    return inner.0.take();
                }
                Some(_) => {}
            }
        }
    }

    fn poll(&self, waker: &Waker) -> Option<Result<(), Req>> {
        let waker = waker.clone();
        let mut inner = self.inner.lock();
        let outcome = inner.0.take();
        let before = if outcome.is_none() { inner.1.replace(waker) } else { None };
        drop(inner);
        drop(before);
        outcome
    }
}

/// A push that waits for room without blocking the thread; from [`Client::push_async`](crate::rpc::Client::push_async). Any
/// executor can drive it.
///
/// The request is in the queue, in its place, from the beginning. Dropping this before it completed takes it out again, unless its
/// turn has come.
#[must_use = "dropping a push may take its request back"]
pub struct Push<Req: Send + 'static, Res: Send + 'static> {
    gate: Arc<Gate<Req, Res>>,
    state: PushState<Req>,
}

enum PushState<Req> {
    Decided(Result<(), PushError<Req>>),
    Waiting(Ticket, Arc<Admission<Req>>),
    Over,
}

impl<Req: Send + 'static, Res: Send + 'static> Push<Req, Res> {
    pub(in crate::rpc) fn new(gate: Arc<Gate<Req, Res>>, request: Req) -> Self {
        let state = match gate.begin_push(request) {
            Ok(None) => PushState::Decided(Ok(())),
            Ok(Some((ticket, admission))) => PushState::Waiting(ticket, admission),
            Err(refused) => PushState::Decided(Err(refused)),
        };
        Push { gate, state }
    }

    /// The request, if its turn has not come; then it is not sent.
    #[must_use]
    pub fn into_request(mut self) -> Option<Req> {
        match std::mem::replace(&mut self.state, PushState::Over) {
            PushState::Waiting(ticket, admission) => {
                self.gate.leave(ticket).or_else(|| admission.inner.lock().0.take()?.err())
            }
            PushState::Decided(Err(refused)) => Some(refused.into_item()),
            PushState::Decided(Ok(())) | PushState::Over => None,
        }
    }
}

// Nothing in it is pinned.
impl<Req: Send + 'static, Res: Send + 'static> Unpin for Push<Req, Res> {}

impl<Req: Send + 'static, Res: Send + 'static> Future for Push<Req, Res> {
    type Output = Result<(), PushError<Req>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let PushState::Waiting(_, admission) = &self.state {
            let Some(outcome) = admission.poll(context.waker()) else { return Poll::Pending };
            self.state = PushState::Decided(outcome.map_err(PushError::Closed));
        }
        match std::mem::replace(&mut self.state, PushState::Over) {
            PushState::Decided(outcome) => Poll::Ready(outcome),
            PushState::Waiting(..) | PushState::Over => panic!("a push was polled after it had completed"),
        }
    }
}

impl<Req: Send + 'static, Res: Send + 'static> Drop for Push<Req, Res> {
    fn drop(&mut self) {
        if let PushState::Waiting(ticket, _) = self.state {
            drop(self.gate.leave(ticket));
        }
    }
}

impl<Req: Send + 'static, Res: Send + 'static> fmt::Debug for Push<Req, Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Push")
            .field("waiting", &matches!(self.state, PushState::Waiting(..)))
            .finish_non_exhaustive()
    }
}
