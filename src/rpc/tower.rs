//! Clients and pools as services of `tower`: ready is who has a place among the calls in flight.

use crate::codec::{Matching, Protocol, Request, Response};
use crate::rpc::{Call, CallError, Cause, Client, Pool, PoolCall};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tower_service::Service;

/// Places for calls, given out in the order in which they were asked for.
#[derive(Debug)]
struct Places(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    /// Negative while there are calls that nobody had a place for.
    free: isize,
    waiting: BTreeMap<u64, Waker>,
    /// Have waited, and own a place that they have not fetched yet.
    granted: BTreeSet<u64>,
    next: u64,
}

/// One of them, until it is dropped.
#[derive(Debug)]
struct Place(Arc<Places>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl Places {
    fn release(&self) {
        let waker = {
            let mut inner = self.0.lock();
            inner.free += 1;
            match inner.waiting.first_key_value() {
                Some((&ticket, _)) if inner.free > 0 => {
                    inner.free -= 1;
                    inner.granted.insert(ticket);
                    inner.waiting.remove(&ticket)
                }
                _ => None,
            }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// One service's way to its next place. Clones share the places and nothing else.
#[derive(Debug)]
pub(super) struct Readiness {
    places: Arc<Places>,
    state: State,
}

#[derive(Debug)]
enum State {
    Idle,
    Waiting(u64),
    Ready(Place),
}

impl Readiness {
    pub(super) fn new(places: usize) -> Self {
        let free = isize::try_from(places).unwrap_or(isize::MAX);
        let inner = Inner { free, waiting: BTreeMap::new(), granted: BTreeSet::new(), next: 0 };
        Readiness { places: Arc::new(Places(Mutex::new(inner))), state: State::Idle }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if matches!(self.state, State::Ready(_)) {
            return Poll::Ready(());
        }
        let waker = context.waker().clone();
        let mut inner = self.places.0.lock();
        let has_place = match self.state {
            State::Waiting(ticket) => inner.granted.remove(&ticket),
            // Not ahead of those who wait.
            _ if inner.free > 0 && inner.waiting.is_empty() => {
                inner.free -= 1;
                true
            }
            _ => false,
        };
        if has_place {
            drop(inner);
            self.state = State::Ready(Place(self.places.clone()));
            return Poll::Ready(());
        }
        let ticket = match self.state {
            State::Waiting(ticket) => ticket,
            _ => {
                inner.next += 1;
                inner.next
            }
        };
        let before = inner.waiting.insert(ticket, waker);
        drop(inner);
        drop(before);
        self.state = State::Waiting(ticket);
        Poll::Pending
    }

    /// The place, for a call. Who did not wait for one makes those wait who do.
    fn take(&mut self) -> Place {
        match self.leave() {
            Some(place) => place,
            None => {
                self.places.0.lock().free -= 1;
                Place(self.places.clone())
            }
        }
    }

    /// Waits no more.
    fn leave(&mut self) -> Option<Place> {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Idle => None,
            State::Ready(place) => Some(place),
            State::Waiting(ticket) => {
                let (waker, granted) = {
                    let mut inner = self.places.0.lock();
                    (inner.waiting.remove(&ticket), inner.granted.remove(&ticket))
                };
                drop(waker);
                granted.then(|| Place(self.places.clone()))
            }
        }
    }
}

impl Clone for Readiness {
    fn clone(&self) -> Self {
        Readiness { places: self.places.clone(), state: State::Idle }
    }
}

impl Drop for Readiness {
    fn drop(&mut self) {
        drop(self.leave());
    }
}

/// A call that was made through a service of `tower`, with its place among those in flight, which it gives back when it is over.
#[derive(Debug)]
#[must_use = "dropping a call cancels it"]
pub struct ServiceCall<F> {
    call: F,
    place: Option<Place>,
}

impl<F: Future + Unpin> Future for ServiceCall<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let outcome = Pin::new(&mut self.call).poll(context);
        if outcome.is_ready() {
            self.place = None;
        }
        outcome
    }
}

fn closed(what: fmt::Arguments<'_>) -> CallError {
    CallError::NotSent(Cause::new(io::ErrorKind::NotConnected, what.to_string()))
}

/// With the feature `tower`. It is ready as long as fewer than [`calls_in_flight`](crate::rpc::ClientOptions::calls_in_flight)
/// calls are made this way, by all clones together; whoever is ready has a place for a call, and those who wait get theirs in
/// turn. While it has no connection, calls wait, and soon nobody is ready; once it is closed, that is an error.
impl<P: Protocol> Service<Request<P>> for Client<P>
where
    P::Correlation: Matching,
{
    type Response = Response<P>;
    type Error = CallError;
    type Future = ServiceCall<Call<Request<P>, Response<P>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        if self.is_closing() {
            self.readiness.leave();
            return Poll::Ready(Err(closed(format_args!("the client is closed"))));
        }
        self.readiness.poll(context).map(Ok)
    }

    fn call(&mut self, request: Request<P>) -> Self::Future {
        let place = Some(self.readiness.take());
        ServiceCall { call: Client::call(self, request), place }
    }
}

/// With the feature `tower`. As a [`Client`], with so many places for each of its servers.
impl<P: Protocol> Service<Request<P>> for Pool<P>
where
    P::Correlation: Matching,
    Request<P>: Clone,
{
    type Response = Response<P>;
    type Error = CallError;
    type Future = ServiceCall<PoolCall<P>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        if let Some(cause) = self.end() {
            self.readiness.leave();
            return Poll::Ready(Err(CallError::NotSent(cause)));
        }
        self.readiness.poll(context).map(Ok)
    }

    fn call(&mut self, request: Request<P>) -> Self::Future {
        let place = Some(self.readiness.take());
        ServiceCall { call: Pool::call(self, request), place }
    }
}
