//! How a client comes to its connection: the first one, and others when that is lost.

use super::caller::Caller;
use super::engine::Engine;
use super::expected::Expected;
use super::requester::Requester;
use crate::codec::Protocol;
use crate::error::{Error, Result};
use crate::reactor::{Address, CloseReason, Reactor};
use crate::rpc::options::Reconnect;
use crate::rpc::{CallError, Cause};
use parking_lot::{Condvar, Mutex};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

/// What came of the first attempt to connect, for the one who waits for it.
#[derive(Debug, Default)]
pub(in crate::rpc) struct Told {
    inner: Mutex<(Option<Result<()>>, Option<Waker>)>,
    changed: Condvar,
}

impl Told {
    pub(in crate::rpc) fn tell(&self, outcome: Result<()>) {
        let waker = {
            let mut inner = self.inner.lock();
            inner.0.get_or_insert(outcome);
            inner.1.take()
        };
        self.changed.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(in crate::rpc) fn wait(&self) -> Result<()> {
        let mut inner = self.inner.lock();
        loop {
            match inner.0.take() {
                Some(outcome) => return outcome,
                None => self.changed.wait(&mut inner),
            }
        }
    }

    pub(in crate::rpc) fn poll(&self, waker: &Waker) -> Poll<Result<()>> {
        let waker = waker.clone();
        let mut inner = self.inner.lock();
        let outcome = inner.0.take();
        let before = if outcome.is_none() { inner.1.replace(waker) } else { None };
        drop(inner);
        drop(before);
        outcome.map_or(Poll::Pending, Poll::Ready)
    }
}

/// A client that has no connection. Whoever comes first takes it out: the connection that is being made when it opens, or the
/// client's closing.
pub(in crate::rpc) struct Slot<P: Protocol, K: Caller<P>>(Arc<Mutex<Option<Engine<P, K>>>>);

impl<P: Protocol, K: Caller<P>> Clone for Slot<P, K> {
    fn clone(&self) -> Self {
        Slot(self.0.clone())
    }
}

/// How a connection ended.
pub(in crate::rpc) struct Disconnected {
    pub(in crate::rpc) cause: Cause,
    /// Another connection would be of no use, or must not be.
    pub(in crate::rpc) for_good: bool,
    /// Requests without a response, and how many of these were pushed.
    pub(in crate::rpc) unanswered: u64,
    pub(in crate::rpc) unanswered_pushed: u64,
}

impl<P: Protocol, K: Caller<P>> Engine<P, K> {
    /// The connection has ended. Connects again, or ends.
    pub(in crate::rpc) fn disconnected(mut self, how: Disconnected) {
        let policy =
            self.options.reconnect.filter(|_| !how.for_good && !self.stopping && !self.target.aborts());
        let Some(policy) = policy.filter(|policy| policy.allows(self.attempt)) else {
            return self.fail(how.cause, how.unanswered);
        };
        if how.unanswered_pushed > 0 {
            self.lost += how.unanswered_pushed;
            self.loss.get_or_insert(how.cause);
        }
        self.connect_again(&policy);
    }

    fn connect_again(mut self, policy: &Reconnect) {
        let delay = policy.delay(self.attempt, random());
        self.attempt = self.attempt.saturating_add(1);
        self.connect_after(delay);
    }

    /// Makes a connection after that time.
    pub(in crate::rpc) fn connect_after(self, delay: Duration) {
        let (reactor, target) = (self.reactor.clone(), self.target.clone());
        let slot = Slot(Arc::new(Mutex::new(Some(self))));
        let (weak, looks_on) = (Arc::downgrade(&slot.0), reactor.clone());
        target.meanwhile(Arc::new(move || {
            if let Some(slot) = weak.upgrade() {
                let _ = looks_on.run(move |reactor| Slot(slot).look(reactor));
            }
        }));
        // If the reactor stops first, the engine is dropped with the action, and that is the end.
        let _ = reactor.run(move |reactor| {
            slot.look(reactor);
            if delay.is_zero() {
                slot.begin(reactor);
            } else {
                reactor.after(delay, move |reactor| slot.begin(reactor));
            }
        });
    }

    /// None of the addresses could be connected to.
    fn no_connection(mut self, address: Option<&Address>, error: io::Error) {
        let text = match address {
            Some(address) => format!("cannot connect to {address}: {error}"),
            None => error.to_string(),
        };
        let cause = Cause::new(error.kind(), text);
        if let Some(first) = self.first.take() {
            let shown = address.map_or_else(String::new, Address::to_string);
            first.tell(Err(Error::connect(&shown, error)));
            return self.fail(cause, 0);
        }
        match self.options.reconnect.filter(|policy| policy.allows(self.attempt) && !self.stopping) {
            Some(policy) => self.connect_again(&policy),
            None => self.fail(cause, 0),
        }
    }
}

impl<P: Protocol, K: Caller<P>> Slot<P, K> {
    pub(in crate::rpc) fn take(&self) -> Option<Engine<P, K>> {
        self.0.lock().take()
    }

    /// Sees to it that a client that is closed while it has no connection ends: at once if there is nothing to send, otherwise
    /// when its time is over.
    fn look(&self, reactor: &mut Reactor) {
        let calls = match &mut *self.0.lock() {
            Some(engine) => engine.take_calls_that_move_on(),
            None => return,
        };
        if !calls.is_empty() {
            let cause = Cause::new(io::ErrorKind::NotConnected, "the connection was lost before it was sent");
            // Not under the lock: whoever waits for them may do anything.
            calls.into_iter().for_each(|call| call.promise.fail(CallError::NotSent(cause.clone())));
        }
        let mut guard = self.0.lock();
        let Some(engine) = &mut *guard else { return };
        engine.wake_up();
        engine.sleep_until_stopped();
        let now = Instant::now();
        let (aborts, stopped) = (engine.target.aborts(), engine.is_stopped());
        let is_over = aborts || stopped && engine.has_nothing_to_send();
        let first_look = engine.stop_deadline.is_none();
        let deadline = engine.stop_deadline(now);
        let is_late = deadline.is_some_and(|deadline| deadline <= now);
        if !is_over && !is_late {
            drop(guard);
            if let Some(deadline) = deadline.filter(|_| first_look) {
                let slot = self.clone();
                reactor.after(deadline - now, move |reactor| slot.look(reactor));
            }
            return;
        }
        let Some(mut engine) = guard.take() else { return };
        drop(guard);
        if aborts {
            engine.fail(Cause::new(io::ErrorKind::ConnectionAborted, "the client was aborted"), 0);
        } else if is_over {
            engine.finish();
        } else {
            engine.fail(
                Cause::new(io::ErrorKind::TimedOut, "closing took too long: there was no connection"),
                0,
            );
        }
    }

    /// Begins a round over the addresses. Names are resolved anew, on a thread of their own, for that may take its time.
    fn begin(self, reactor: &mut Reactor) {
        let lookup = match &*self.0.lock() {
            None => return,
            Some(engine) => engine.lookup.clone(),
        };
        if lookup.is_immediate() {
            return self.resolved(lookup.resolve(), reactor);
        }
        let (slot, handle) = (self.clone(), reactor.handle());
        let resolve = move || {
            let found = lookup.resolve();
            let _ = handle.run(move |reactor| slot.resolved(found, reactor));
        };
        if let Err(error) = thread::Builder::new().name("trochus-resolve".to_owned()).spawn(resolve) {
            self.resolved(
                Err(Error::System { action: "start a thread to resolve a name", source: error }),
                reactor,
            );
        }
    }

    fn resolved(self, found: Result<Vec<Address>>, reactor: &mut Reactor) {
        let mut guard = self.0.lock();
        let Some(engine) = &mut *guard else { return };
        match found {
            Ok(addresses) => engine.addresses = addresses,
            // Better those that were found before than none.
            Err(_) if !engine.addresses.is_empty() => {}
            Err(error) => {
                let Some(mut engine) = guard.take() else { return };
                drop(guard);
                return match engine.first.take() {
                    Some(first) => {
                        engine.fail(Cause::new(io::ErrorKind::NotFound, error.to_string()), 0);
                        first.tell(Err(error));
                    }
                    None => engine.no_connection(None, error.into()),
                };
            }
        }
        drop(guard);
        self.dial(0, reactor);
    }

    /// Tries the next address, when so many were tried in vain.
    fn dial(self, tried: usize, reactor: &mut Reactor) {
        let guard = self.0.lock();
        let Some(engine) = &*guard else { return };
        let address = engine.addresses[engine.next_address % engine.addresses.len()].clone();
        let stream = engine.options.connection();
        let (requests, responses) = (engine.protocol.request_codec(), engine.protocol.response_codec());
        let expected = Expected::of::<P::Correlation>(engine.uses);
        drop(guard);
        let requester = Requester::new(self, tried, requests, responses, expected);
        let _ = reactor.connect(&stream, &address, requester);
    }

    /// The address that was tried has failed. The next round begins with the one behind it.
    pub(in crate::rpc) fn failed(self, tried: usize, reason: &CloseReason) {
        let mut guard = self.0.lock();
        let Some(engine) = &mut *guard else { return };
        let address = engine.addresses[engine.next_address % engine.addresses.len()].clone();
        engine.next_address = (engine.next_address + 1) % engine.addresses.len();
        if tried + 1 < engine.addresses.len() && !engine.stopping && !matches!(reason, CloseReason::Shutdown)
        {
            let reactor = engine.reactor.clone();
            drop(guard);
            // If the reactor stops first, that is the end.
            let _ = reactor.run(move |reactor| self.dial(tried + 1, reactor));
            return;
        }
        let Some(mut engine) = guard.take() else { return };
        drop(guard);
        engine.stopping |= matches!(reason, CloseReason::Shutdown);
        engine.no_connection(Some(&address), refusal(reason));
    }
}

/// An attempt's end, as the system's error.
fn refusal(reason: &CloseReason) -> io::Error {
    match reason {
        CloseReason::ConnectFailed(error) => {
            error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
        }
        reason => io::Error::other(reason.to_string()),
    }
}

/// Any number: the standard library seeds each of these differently.
fn random() -> u32 {
    RandomState::new().build_hasher().finish() as u32
}
