//! One request on its way to whichever of a pool's servers takes it.

use super::{Member, Members};
use crate::batch::PushError;
use crate::codec::{Matching, Protocol, Request, Response};
use crate::rpc::client::call::Call;
use crate::rpc::client::call::deadlines::DeadlineKey;
use crate::rpc::client::call::state::CallState;
use crate::rpc::{CallError, Cause};
use crate::waiting;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// A request to a [`Pool`](crate::rpc::Pool) whose response is awaited: a future for any executor, and [`wait`](Self::wait) for
/// none. As a [`Call`]; dropping this cancels.
#[must_use = "dropping a call cancels it"]
pub struct PoolCall<P: Protocol> {
    pool: Arc<Members<P>>,
    /// To be made again.
    request: Request<P>,
    attempt: Attempt<P>,
    deadline: Option<Instant>,
}

enum Attempt<P: Protocol> {
    At(Call<Request<P>, Response<P>>, Load),
    Parked(Parked<P>),
    Nobody(Cause),
    Over,
}

/// Counts as one of a server's calls.
struct Load(Arc<AtomicUsize>);

impl Load {
    fn on<P: Protocol>(member: &Member<P>) -> Self {
        member.calls.fetch_add(1, Ordering::Relaxed);
        Load(member.calls.clone())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Waits for a server that is connected.
struct Parked<P: Protocol> {
    pool: Arc<Members<P>>,
    place: u64,
    state: Arc<CallState<Response<P>>>,
    deadline: Option<(Instant, DeadlineKey)>,
}

impl<P: Protocol> Drop for Parked<P> {
    fn drop(&mut self) {
        self.pool.lot.leave(self.place);
        if let Some((_, key)) = self.deadline {
            self.pool.first().gate().deadlines().remove(key);
        }
    }
}

impl<P: Protocol> PoolCall<P>
where
    P::Correlation: Matching,
    Request<P>: Clone,
{
    pub(super) fn new(pool: &Arc<Members<P>>, request: Request<P>) -> Self {
        let deadline = pool.deadline();
        let attempt = begin(pool, &request, deadline);
        PoolCall { pool: pool.clone(), request, attempt, deadline }
    }

    pub(super) fn try_new(
        pool: &Arc<Members<P>>,
        request: Request<P>,
    ) -> Result<Self, PushError<Request<P>>> {
        let deadline = pool.deadline();
        for member in pool.picked() {
            if let Ok(call) = Call::try_new(member.client.gate().clone(), request.clone(), left(deadline)) {
                let attempt = Attempt::At(watched(member, call), Load::on(member));
                return Ok(PoolCall { pool: pool.clone(), request, attempt, deadline });
            }
        }
        Err(if pool.end().is_some() { PushError::Closed(request) } else { PushError::Full(request) })
    }

    /// Fails with [`CallError::TimedOut`] if there is no response after this time, counted from now; instead of a time that was set
    /// before. With `Duration::MAX` it waits for ever.
    pub fn timeout(mut self, after: Duration) -> Self {
        self.deadline = Instant::now().checked_add(after);
        self.attempt = match std::mem::replace(&mut self.attempt, Attempt::Over) {
            Attempt::At(call, load) => Attempt::At(call.timeout(after), load),
            Attempt::Parked(mut parked) => {
                parked.set_deadline(self.deadline);
                Attempt::Parked(parked)
            }
            attempt => attempt,
        };
        self
    }

    /// Blocks the thread until there is a response or an error.
    ///
    /// # Errors
    ///
    /// As for awaiting it; and at once [`CallError::OnReactorThread`] on a reactor's own thread, unless the response is there.
    pub fn wait(mut self) -> Result<Response<P>, CallError> {
        loop {
            let outcome = match std::mem::replace(&mut self.attempt, Attempt::Over) {
                Attempt::At(call, _load) => call.wait(),
                Attempt::Parked(parked) if waiting::is_forbidden() => {
                    let moved = parked.state.take(None);
                    moved.unwrap_or(Err(CallError::OnReactorThread { sent: false }))
                }
                Attempt::Parked(parked) => {
                    parked.state.wait_until(self.deadline);
                    parked.state.take(None).expect("something came of it, or its time is over")
                }
                Attempt::Nobody(cause) => return Err(CallError::NotSent(cause)),
                Attempt::Over => unreachable!("it is consumed with the outcome"),
            };
            match outcome {
                Err(CallError::NotSent(_)) => self.attempt = begin(&self.pool, &self.request, self.deadline),
                outcome => return outcome,
            }
        }
    }
}

/// Asks a server that is connected, or waits until one is.
fn begin<P: Protocol>(pool: &Arc<Members<P>>, request: &Request<P>, deadline: Option<Instant>) -> Attempt<P>
where
    P::Correlation: Matching,
    Request<P>: Clone,
{
    loop {
        if let Some(cause) = pool.end() {
            return Attempt::Nobody(cause);
        }
        if let Some(member) = pool.picked().next() {
            let call = Call::new(member.client.gate().clone(), request.clone(), left(deadline));
            return Attempt::At(watched(member, call), Load::on(member));
        }
        if let Some((place, state)) = pool.lot.park(|| pool.end().is_none() && !pool.is_any_usable()) {
            let mut parked = Parked { pool: pool.clone(), place, state, deadline: None };
            parked.set_deadline(deadline);
            return Attempt::Parked(parked);
        }
    }
}

/// How long from now.
fn left(deadline: Option<Instant>) -> Option<Duration> {
    deadline.map(|at| at.saturating_duration_since(Instant::now()))
}

/// If the connection was lost in the meantime, the call has to be told.
fn watched<P: Protocol, C>(member: &Member<P>, call: C) -> C {
    member.client.gate().target().notify_if_away();
    call
}

impl<P: Protocol> Parked<P> {
    fn set_deadline(&mut self, deadline: Option<Instant>) {
        let deadlines = self.pool.first().gate().deadlines();
        if let Some((_, key)) = self.deadline.take() {
            deadlines.remove(key);
        }
        self.deadline = deadline.map(|at| (at, deadlines.insert(at, &self.state)));
    }
}

// Nothing in it is pinned.
impl<P: Protocol> Unpin for PoolCall<P> {}

impl<P: Protocol> Future for PoolCall<P>
where
    P::Correlation: Matching,
    Request<P>: Clone,
{
    type Output = Result<Response<P>, CallError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let outcome = match &mut self.attempt {
                Attempt::At(call, _) => Pin::new(call).poll(context),
                Attempt::Parked(parked) => {
                    if parked.deadline.is_some_and(|(at, _)| at <= Instant::now()) {
                        parked.state.time_out();
                    }
                    parked.state.take(Some(context.waker())).map_or(Poll::Pending, Poll::Ready)
                }
                Attempt::Nobody(cause) => {
                    let error = CallError::NotSent(cause.clone());
                    self.attempt = Attempt::Over;
                    return Poll::Ready(Err(error));
                }
                Attempt::Over => panic!("a call was polled after it had returned its response"),
            };
            match outcome {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(CallError::NotSent(_))) => {
                    let attempt = begin(&self.pool, &self.request, self.deadline);
                    self.attempt = attempt;
                }
                Poll::Ready(outcome) => {
                    self.attempt = Attempt::Over;
                    return Poll::Ready(outcome);
                }
            }
        }
    }
}

impl<P: Protocol> fmt::Debug for PoolCall<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolCall")
            .field("waits_for_connection", &matches!(self.attempt, Attempt::Parked(_)))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Runtime;
    use crate::codec::Int32;
    use crate::rpc::{Pool, Reconnect};

    /// Whoever was picked may have lost its connection before the call comes there.
    #[test]
    fn a_call_that_comes_too_late_moves_on() {
        let runtime = Runtime::builder().reactors(1).build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let nobody = listener.local_addr().unwrap().to_string();
        drop(listener);
        let hour = Duration::from_secs(3600);
        let policy = Reconnect::forever().first_delay(hour).longest_delay(hour);
        let pool = Pool::builder(Int32).reconnect(policy).connect_lazy(&runtime, [nobody]).unwrap();
        let member = &pool.members.members[0];
        for n in 0..3 {
            let limit = Some(Duration::from_secs(20));
            let call = watched(member, Call::new(member.client.gate().clone(), n, limit));
            let error = call.wait().unwrap_err();
            assert!(matches!(error, CallError::NotSent(_)), "{n}: {error}");
        }
    }
}
