//! What a client has beyond its current connection: the queues, the caller, and the policy when the connection is lost.

use super::call::Pending;
use super::caller::Caller;
use super::gate::Gate;
use super::requester::Requester;
use super::target::Target;
use crate::batch::Consumer;
use crate::codec::{Protocol, Request, Response};
use crate::reactor::{Address, ReactorHandle};
use crate::rpc::Unfinished;
use crate::rpc::options::{ClientOptions, Reconnect};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(in crate::rpc) struct Engine<P: Protocol, K: Caller<P>> {
    pub(in crate::rpc) protocol: P,
    pub(in crate::rpc) caller: K,
    pub(in crate::rpc) calls: Consumer<Pending<Request<P>, Response<P>>>,
    pub(in crate::rpc) streamed: Consumer<Request<P>>,
    pub(in crate::rpc) gate: Arc<Gate<Request<P>, Response<P>>>,
    pub(in crate::rpc) target: Arc<Target>,
    pub(in crate::rpc) options: ClientOptions,
    pub(in crate::rpc) addresses: Vec<Address>,
    pub(in crate::rpc) reactor: ReactorHandle,
    /// Attempts to connect since the connection was lost.
    pub(in crate::rpc) attempt: u32,
    /// The reactor wants to stop: no new connection.
    pub(in crate::rpc) stopping: bool,
    /// Streamed requests wait for company until then.
    pub(in crate::rpc) lingers_until: Option<Instant>,
    /// A flush was asked for, and what was pushed before it has not all left yet.
    pub(in crate::rpc) flushing: bool,
    /// Taken from the queues when there was no room for all of it any more; goes before what is still there.
    pub(in crate::rpc) unsent_calls: VecDeque<Pending<Request<P>, Response<P>>>,
    pub(in crate::rpc) unsent: Vec<Request<P>>,
    /// Pushed requests that earlier connections left unanswered, and why the first of them did.
    pub(in crate::rpc) lost: u64,
    pub(in crate::rpc) loss: Option<Arc<str>>,
    pub(in crate::rpc) ended: bool,
}

/// Whether streamed requests wait for company.
pub(in crate::rpc) enum Linger {
    Over,
    /// They do from now on, for so long.
    Begins(Duration),
    /// They do, or there are none.
    GoesOn,
}

/// How a connection ended.
pub(in crate::rpc) struct Disconnected {
    pub(in crate::rpc) reason: Arc<str>,
    pub(in crate::rpc) was_open: bool,
    /// Nothing is left to be sent, or it could not be: another connection would be of no use.
    pub(in crate::rpc) finished: bool,
    /// And all of it was answered.
    pub(in crate::rpc) complete: bool,
    /// Requests without a response, and how many of these were pushed.
    pub(in crate::rpc) unanswered: u64,
    pub(in crate::rpc) unanswered_pushed: u64,
}

impl<P: Protocol, K: Caller<P>> Engine<P, K> {
    /// The queues are being looked at: nobody needs to be told of pushes.
    pub(in crate::rpc) fn wake_up(&mut self) {
        self.calls.cancel_sleep();
        self.streamed.cancel_sleep();
    }

    pub(in crate::rpc) fn prepare_sleep(&mut self) {
        self.calls.prepare_sleep();
        match self.lingers_until {
            Some(_) => self.streamed.prepare_sleep_until(self.options.batch),
            None => self.streamed.prepare_sleep(),
        }
    }

    /// Whether there is something to take; calls only count if there is room for them.
    pub(in crate::rpc) fn is_ready(&self, takes_calls: bool) -> bool {
        let streamed = match self.lingers_until {
            Some(_) => self.streamed.is_ready_lingering(),
            None => self.streamed.is_ready(),
        };
        streamed || takes_calls && self.calls.is_ready()
    }

    /// Whether streamed requests have to wait yet for others to travel with.
    pub(in crate::rpc) fn lingers(&mut self, now: Instant) -> Linger {
        let Some(linger) = self.options.linger else { return Linger::Over };
        // Before looking for items: what was pushed before a flush is then seen.
        self.flushing |= self.streamed.take_flush();
        let waiting = self.streamed.waiting();
        if waiting == 0 {
            (self.lingers_until, self.flushing) = (None, false);
            // What comes right now is not to leave before the rest of its batch.
            return if self.unsent.is_empty() { Linger::GoesOn } else { Linger::Over };
        }
        let begins = self.lingers_until.is_none();
        let until = *self.lingers_until.get_or_insert(now + linger);
        let full = self.streamed.holds(self.options.batch) || !self.unsent.is_empty();
        if self.flushing || full || now >= until || self.streamed.is_stopped() {
            self.lingers_until = None;
            return Linger::Over;
        }
        if begins { Linger::Begins(until - now) } else { Linger::GoesOn }
    }

    /// Whether the client was closed and everything accepted was taken.
    pub(in crate::rpc) fn is_finished(&mut self) -> bool {
        if !self.unsent_calls.is_empty() || !self.unsent.is_empty() {
            return false;
        }
        // Both, so that both are told.
        let (calls, streamed) = (self.calls.is_finished(), self.streamed.is_finished());
        calls && streamed
    }

    /// Accepts nothing more; what was accepted is still sent and answered.
    pub(in crate::rpc) fn stop(&mut self) {
        self.stopping = true;
        self.gate.stop_accepting();
        self.streamed.stop_accepting();
    }

    /// The connection has ended, or there was none. Connects again, or ends.
    pub(in crate::rpc) fn disconnected(mut self, how: Disconnected) {
        self.target.disconnected();
        let again = self.options.reconnect.filter(|policy| {
            let tries_again = how.was_open || self.attempt > 0;
            !how.finished && !self.stopping && self.attempt < policy.attempts && tries_again
        });
        if let Some(policy) = again {
            if how.unanswered_pushed > 0 {
                self.lost += how.unanswered_pushed;
                self.loss.get_or_insert(how.reason);
            }
            return self.connect_again(policy);
        }
        let reason = match &self.loss {
            Some(loss) if how.complete => loss.clone(),
            None if how.complete => return self.end(Ok(())),
            _ => how.reason,
        };
        self.fail(reason, how.unanswered);
    }

    fn connect_again(mut self, policy: Reconnect) {
        let doubled = policy.first_delay.saturating_mul(1 << self.attempt.min(20));
        let delay = doubled.min(policy.longest_delay);
        let address = self.addresses[self.attempt as usize % self.addresses.len()].clone();
        self.attempt += 1;
        let (reactor, stream) = (self.reactor.clone(), self.options.connection());
        // If the reactor stops first, the engine is dropped with the action, and that is the end.
        let _ = reactor.run(move |reactor| {
            reactor.after(delay, move |reactor| _ = reactor.connect(&stream, &address, Requester::new(self)));
        });
    }

    /// The end, with something not answered or not sent.
    fn fail(&mut self, reason: Arc<str>, unanswered: u64) {
        // Behind this the count is final.
        self.streamed.stop_accepting();
        let unsent = self.unsent.len() + self.streamed.waiting();
        self.end(Err(Unfinished { reason, unanswered: self.lost + unanswered, unsent }));
    }

    /// The end: calls that were not sent fail, and streamed requests are kept for whoever asks for them.
    fn end(&mut self, end: Result<(), Unfinished>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if let Err(unfinished) = &end {
            self.calls.fail(unfinished.clone(), Vec::new());
            self.streamed.fail(unfinished.clone(), std::mem::take(&mut self.unsent));
            self.unsent_calls.drain(..).for_each(|pending| pending.promise.lose(&unfinished.reason));
        }
        // Whoever waits for the end is told, whatever the application does here.
        let told = catch_unwind(AssertUnwindSafe(|| self.caller.on_close(&end)));
        self.gate.end(end);
        if let Err(panic) = told {
            resume_unwind(panic);
        }
    }
}

impl<P: Protocol, K: Caller<P>> Drop for Engine<P, K> {
    fn drop(&mut self) {
        if !self.ended {
            self.fail(Arc::from("the reactor has stopped"), 0);
        }
    }
}
