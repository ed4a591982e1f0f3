//! What a client has beyond its current connection: the queues, the caller, and the policy when the connection is lost.

use super::Unfinished;
use super::call::Pending;
use super::caller::Caller;
use super::client::Target;
use super::gate::Gate;
use super::options::{ClientOptions, Reconnect};
use super::requester::Requester;
use crate::batch::Consumer;
use crate::codec::{Protocol, Request, Response};
use crate::reactor::{Address, Io, ReactorHandle};
use std::sync::Arc;
use std::time::Instant;

pub(super) struct Engine<P: Protocol, K: Caller<P>> {
    pub(super) protocol: P,
    pub(super) caller: K,
    pub(super) calls: Consumer<Pending<Request<P>, Response<P>>>,
    pub(super) streamed: Consumer<Request<P>>,
    pub(super) gate: Arc<Gate<Request<P>, Response<P>>>,
    pub(super) target: Arc<Target>,
    pub(super) options: ClientOptions,
    pub(super) addresses: Vec<Address>,
    pub(super) reactor: ReactorHandle,
    /// Attempts to connect since the connection was lost.
    pub(super) attempt: u32,
    /// The reactor wants to stop: no new connection.
    pub(super) stopping: bool,
    /// Streamed requests wait for company until then.
    pub(super) lingers_until: Option<Instant>,
    pub(super) ended: bool,
}

impl<P: Protocol, K: Caller<P>> Engine<P, K> {
    /// The queues are being looked at: nobody needs to be told of pushes.
    pub(super) fn wake_up(&mut self) {
        self.calls.cancel_sleep();
        self.streamed.cancel_sleep();
    }

    pub(super) fn prepare_sleep(&mut self) {
        self.calls.prepare_sleep();
        match self.lingers_until {
            Some(_) => self.streamed.prepare_sleep_until(self.lane_share()),
            None => self.streamed.prepare_sleep(),
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        let streamed = match self.lingers_until {
            Some(_) => self.streamed.is_ready_with(self.lane_share()),
            None => self.streamed.is_ready(),
        };
        streamed || self.calls.is_ready()
    }

    /// Where a batch is spread over lanes, one of them holds this much when it is full.
    fn lane_share(&self) -> usize {
        self.options.batch.min(self.options.lane / 2).max(1)
    }

    /// Whether streamed requests may leave now; if they linger, sees to it that they do in time.
    pub(super) fn lets_streamed_go(&mut self, io: &mut Io<'_>) -> bool {
        let Some(linger) = self.options.linger else { return true };
        if !self.streamed.has_items() {
            self.lingers_until = None;
            return true;
        }
        let until = *self.lingers_until.get_or_insert(io.now() + linger);
        let full = self.streamed.waiting() >= self.lane_share();
        if self.streamed.take_flush() || full || io.now() >= until {
            self.lingers_until = None;
            return true;
        }
        io.set_timer(until.saturating_duration_since(io.now()));
        false
    }

    /// Whether the client was closed and everything accepted was taken.
    pub(super) fn is_finished(&mut self) -> bool {
        // Both, so that both are told.
        let (calls, streamed) = (self.calls.is_finished(), self.streamed.is_finished());
        calls && streamed
    }

    /// The connection has ended, or there was none. Connects again, or ends.
    pub(super) fn disconnected(mut self, was_open: bool, end: Result<(), Unfinished>) {
        self.target.disconnected();
        let again = self.options.reconnect.filter(|policy| {
            end.is_err() && !self.stopping && self.attempt < policy.attempts && (was_open || self.attempt > 0)
        });
        match again {
            Some(policy) => self.connect_again(policy),
            None => self.end(end),
        }
    }

    fn connect_again(mut self, policy: Reconnect) {
        let doubled = policy.first_delay.saturating_mul(1 << self.attempt.min(20));
        let delay = doubled.min(policy.longest_delay);
        let address = self.addresses[self.attempt as usize % self.addresses.len()].clone();
        self.attempt += 1;
        let (reactor, stream) = (self.reactor.clone(), self.options.connection());
        // If the reactor stops first, the engine is dropped with the action, and that is the end.
        let _ = reactor.run(move |reactor| {
            reactor.after(delay, move |reactor| reactor.connect(&address, &stream, Requester::new(self)));
        });
    }

    /// The end: calls that were not sent fail, and streamed requests are kept for whoever asks for them.
    fn end(&mut self, end: Result<(), Unfinished>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let unsent = self.streamed.waiting();
        let end = end.map_err(|unfinished| Unfinished { unsent, ..unfinished });
        if let Err(unfinished) = &end {
            self.calls.fail(unfinished.clone(), Vec::new());
            self.streamed.fail(unfinished.clone(), Vec::new());
        }
        self.caller.on_close(&end);
        self.gate.end(end);
    }
}

impl<P: Protocol, K: Caller<P>> Drop for Engine<P, K> {
    fn drop(&mut self) {
        let reason = Arc::from("the reactor has stopped");
        self.end(Err(Unfinished { reason, unanswered: 0, unsent: 0 }));
    }
}
