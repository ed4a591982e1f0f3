//! One request on its way, as the one who made it sees it.

pub(in crate::rpc) mod deadlines;
pub(in crate::rpc) mod parts;
pub(in crate::rpc) mod state;

use crate::batch::PushError;
use crate::rpc::CallError;
use crate::rpc::client::gate::{Gate, Ticket, without_promise};
use crate::waiting;
use deadlines::DeadlineKey;
use state::{CallState, Pending, Promise};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// A request whose response is awaited: a future for any executor, and [`wait`](Self::wait) for none.
///
/// The request is on its way, awaited or not, and goes out as soon as there is room for it; calls and pushes of one thread in
/// the order in which they were made. Dropping this cancels: what was not sent yet is not sent, and a response that comes is
/// thrown away.
#[must_use = "dropping a call cancels it"]
pub struct Call<Req: Send + 'static, Res: Send + 'static> {
    state: Arc<CallState<Res>>,
    gate: Arc<Gate<Req, Res>>,
    /// Its place in the waiting room, if it came there.
    ticket: Option<Ticket>,
    deadline: Option<(Instant, DeadlineKey)>,
}

impl<Req: Send + 'static, Res: Send + 'static> Call<Req, Res> {
    pub(in crate::rpc) fn new(gate: Arc<Gate<Req, Res>>, request: Req, timeout: Option<Duration>) -> Self {
        Self::of(CallState::new(None), gate, request, timeout)
    }

    /// As [`new`](Self::new), with a state that was made for it.
    pub(in crate::rpc) fn of(
        state: Arc<CallState<Res>>,
        gate: Arc<Gate<Req, Res>>,
        request: Req,
        timeout: Option<Duration>,
    ) -> Self {
        let ticket = gate.enter(request, Promise::of(&state));
        Call { state, gate, ticket, deadline: None }.with(timeout)
    }

    /// As [`new`](Self::new), if there is room now.
    pub(in crate::rpc) fn try_new(
        gate: Arc<Gate<Req, Res>>,
        request: Req,
        timeout: Option<Duration>,
    ) -> Result<Self, PushError<Req>> {
        let state = CallState::new(None);
        gate.try_enter(Pending { request, promise: Promise::of(&state) }).map_err(without_promise)?;
        Ok(Call { state, gate, ticket: None, deadline: None }.with(timeout))
    }

    fn with(self, timeout: Option<Duration>) -> Self {
        match timeout {
            Some(after) => self.timeout(after),
            None => self,
        }
    }

    /// Fails with [`CallError::TimedOut`] if there is no response after this time, counted from now; instead of a time that
    /// was set before. With `Duration::MAX` it waits for ever.
    pub fn timeout(mut self, after: Duration) -> Self {
        self.set_timeout(after);
        self
    }

    fn set_timeout(&mut self, after: Duration) {
        self.forget_deadline();
        // What lies beyond the clock's end never comes.
        let deadline = Instant::now().checked_add(after);
        self.deadline = deadline.map(|at| (at, self.gate.deadlines().insert(at, &self.state)));
    }

    /// Blocks the thread until there is a response or an error. It keeps the deadline by itself, whatever the reactor does.
    ///
    /// # Errors
    ///
    /// As for awaiting it; and at once [`CallError::OnReactorThread`] on a reactor's own thread, unless the response is
    /// there.
    pub fn wait(self) -> Result<Res, CallError> {
        let given_up = if waiting::is_forbidden() {
            self.state.refuse_to_wait()
        } else {
            self.state.wait_until(self.deadline.map(|(at, _)| at))
        };
        if let Some(sent) = given_up {
            self.gate.target().call_given_up(sent);
        }
        self.state.take(None).expect("something came of it, or it was given up")
    }

    /// Nobody waits any more. Once is enough.
    fn give_up(&mut self) {
        self.forget_deadline();
        if let Some(ticket) = self.ticket.take() {
            self.gate.leave(ticket);
        }
        if let Some(sent) = self.state.give_up() {
            self.gate.target().call_given_up(sent);
        }
    }

    fn forget_deadline(&mut self) {
        if let Some((_, key)) = self.deadline.take() {
            self.gate.deadlines().remove(key);
        }
    }
}

// Nothing in it is pinned.
impl<Req: Send + 'static, Res: Send + 'static> Unpin for Call<Req, Res> {}

impl<Req: Send + 'static, Res: Send + 'static> Future for Call<Req, Res> {
    type Output = Result<Res, CallError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.deadline.is_some_and(|(at, _)| at <= Instant::now())
            && let Some(sent) = self.state.time_out()
        {
            self.gate.target().call_given_up(sent);
        }
        self.state.take(Some(context.waker())).map_or(Poll::Pending, Poll::Ready)
    }
}

impl<Req: Send + 'static, Res: Send + 'static> Drop for Call<Req, Res> {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl<Req: Send + 'static, Res: Send + 'static> fmt::Debug for Call<Req, Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").finish_non_exhaustive()
    }
}
