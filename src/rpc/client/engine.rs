//! What a client has beyond its current connection: the queues, the caller, and how it ends.

use super::call::state::Pending;
use super::caller::Caller;
use super::connect::Told;
use super::gate::Gate;
use super::target::Target;
use crate::batch::Consumer;
use crate::codec::{EncodeError, Protocol, Request, Response};
use crate::reactor::{Address, Lookup, ReactorHandle};
use crate::rpc::options::ClientOptions;
use crate::rpc::{Cause, Unfinished};
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Instant;

pub(in crate::rpc) struct Engine<P: Protocol, K: Caller<P>> {
    pub(in crate::rpc) protocol: P,
    pub(in crate::rpc) caller: K,
    /// Calls, and what is pushed through the client.
    pub(in crate::rpc) queue: Consumer<Pending<Request<P>, Response<P>>>,
    /// What producers push.
    pub(in crate::rpc) streamed: Consumer<Request<P>>,
    pub(in crate::rpc) gate: Arc<Gate<Request<P>, Response<P>>>,
    pub(in crate::rpc) target: Arc<Target>,
    pub(in crate::rpc) options: ClientOptions,
    pub(in crate::rpc) lookup: Lookup,
    pub(in crate::rpc) addresses: Vec<Address>,
    /// Which of them comes next.
    pub(in crate::rpc) next_address: usize,
    pub(in crate::rpc) reactor: ReactorHandle,
    /// The one who waits for the first connection.
    pub(in crate::rpc) first: Option<Arc<Told>>,
    /// Rounds over the addresses since a connection last proved to work.
    pub(in crate::rpc) attempt: u32,
    /// The reactor wants to stop: no new connection.
    pub(in crate::rpc) stopping: bool,
    /// When everything has to be over, once nothing more is accepted.
    pub(in crate::rpc) stop_deadline: Option<Instant>,
    /// Streamed requests wait for company until then.
    pub(in crate::rpc) lingers_until: Option<Instant>,
    /// A flush was asked for, and what was pushed before it has not all been taken yet.
    flushing: bool,
    /// The first so many of `unsent` linger no longer.
    pub(in crate::rpc) leaving: usize,
    /// Taken from the queues, and not sent: there was no room any more, or they linger. Go before what is still there.
    pub(in crate::rpc) queued: VecDeque<Pending<Request<P>, Response<P>>>,
    pub(in crate::rpc) unsent: Vec<Request<P>>,
    /// Taken from the waiting room: to go behind what is in the lanes.
    admitted: VecDeque<Pending<Request<P>, Response<P>>>,
    /// Pushed requests that earlier connections left unanswered, and why the first of them did.
    pub(in crate::rpc) lost: u64,
    pub(in crate::rpc) loss: Option<Cause>,
    not_encoded: u64,
    /// How often an id was used on all connections so far.
    pub(in crate::rpc) uses: u64,
    ended: bool,
}

/// What a new engine is made of.
pub(in crate::rpc) struct Parts<P: Protocol, K: Caller<P>> {
    pub(in crate::rpc) protocol: P,
    pub(in crate::rpc) caller: K,
    pub(in crate::rpc) queue: Consumer<Pending<Request<P>, Response<P>>>,
    pub(in crate::rpc) streamed: Consumer<Request<P>>,
    pub(in crate::rpc) gate: Arc<Gate<Request<P>, Response<P>>>,
    pub(in crate::rpc) target: Arc<Target>,
    pub(in crate::rpc) options: ClientOptions,
    pub(in crate::rpc) lookup: Lookup,
    pub(in crate::rpc) reactor: ReactorHandle,
    pub(in crate::rpc) first: Option<Arc<Told>>,
}

impl<P: Protocol, K: Caller<P>> Engine<P, K> {
    pub(in crate::rpc) fn new(parts: Parts<P, K>) -> Self {
        let Parts { protocol, caller, queue, streamed, gate, target, options, lookup, reactor, first } =
            parts;
        Engine {
            protocol,
            caller,
            queue,
            streamed,
            gate,
            target,
            options,
            lookup,
            addresses: Vec::new(),
            next_address: 0,
            reactor,
            first,
            attempt: 0,
            stopping: false,
            stop_deadline: None,
            lingers_until: None,
            flushing: false,
            leaving: 0,
            queued: VecDeque::new(),
            unsent: Vec::new(),
            admitted: VecDeque::new(),
            lost: 0,
            loss: None,
            not_encoded: 0,
            uses: 0,
            ended: false,
        }
    }

    /// The queues are being looked at: nobody needs to be told of pushes.
    pub(in crate::rpc) fn wake_up(&mut self) {
        self.queue.cancel_sleep();
        self.streamed.cancel_sleep();
    }

    pub(in crate::rpc) fn prepare_sleep(&mut self) {
        self.queue.prepare_sleep();
        if self.lingers_until.is_none() {
            return self.streamed.prepare_sleep();
        }
        let missing = self.options.batch.saturating_sub(self.unsent.len() + self.queued.len());
        self.streamed.prepare_sleep_until(missing.max(1));
    }

    /// Without a connection only the end is of interest.
    pub(in crate::rpc) fn sleep_until_stopped(&mut self) {
        self.queue.prepare_sleep_until(usize::MAX);
        self.streamed.prepare_sleep_until(usize::MAX);
    }

    /// Whether there is something to take; what is queued only counts if there is room for calls.
    pub(in crate::rpc) fn is_ready(&self, takes_calls: bool) -> bool {
        let streamed = match self.lingers_until {
            Some(_) => self.streamed.is_ready_lingering(),
            None => self.streamed.is_ready(),
        };
        streamed || takes_calls && (self.queue.is_ready() || self.gate.has_waiting())
    }

    /// Moves up to so many calls and pushes of the client from their lanes into `queued`, those of the waiting room behind
    /// them. How many; fewer mean that there are no more.
    pub(in crate::rpc) fn fill_queue(&mut self, most: usize) -> usize {
        self.take_queue(most, |_| 0)
    }

    /// As [`fill_queue`](Self::fill_queue), but whatever has nothing before it is offered to `send` where it lies. So many of
    /// these are sent; the others, and what is behind them, are moved.
    pub(in crate::rpc) fn take_queue(
        &mut self,
        most: usize,
        mut send: impl FnMut(&[Pending<Request<P>, Response<P>>]) -> usize,
    ) -> usize {
        let crowded = self.gate.is_crowded();
        if crowded && self.admitted.is_empty() {
            self.gate.admit(most, &mut self.admitted);
        }
        let Engine { queue, queued, .. } = self;
        let mut found = queue.drain_runs(most, |run| {
            let sent = if queued.is_empty() { send(run.as_slice()) } else { 0 };
            queued.extend(run.skip(sent));
        });
        if found < most && crowded {
            // Whoever came since they were admitted is in the waiting room, behind them.
            found += self.admitted.len();
            self.queued.append(&mut self.admitted);
            self.gate.reopen();
        }
        self.gate.tell_of_room();
        found
    }

    /// Whether requests may leave now. Where they linger, takes them from their lanes to see.
    pub(in crate::rpc) fn may_leave(&mut self, now: Instant) -> bool {
        let Some(linger) = self.options.linger else { return true };
        // Before looking for items: what was pushed before a flush is then seen.
        self.flushing |= self.streamed.take_flush();
        let missing = self.options.batch.saturating_sub(self.unsent.len());
        let unsent = &mut self.unsent;
        let seen_all = missing == 0 || self.streamed.drain(missing, |request| unsent.push(request)) < missing;
        let missing = self.options.batch.saturating_sub(self.queued.len());
        let seen_all = seen_all && (missing == 0 || self.fill_queue(missing) < missing);
        let waiting = self.unsent.len() + self.queued.len();
        let flushes = self.flushing;
        if seen_all {
            self.flushing = false;
        }
        if waiting == 0 {
            self.lingers_until = None;
            return true;
        }
        let until = *self.lingers_until.get_or_insert_with(|| now.checked_add(linger).unwrap_or(now));
        let in_company = waiting >= self.options.batch || self.leaving > 0;
        let leaves = flushes
            || in_company
            || now >= until
            || self.is_stopped()
            || self.queued.iter().any(|pending| pending.promise.is_call());
        if leaves {
            (self.lingers_until, self.leaving) = (None, self.unsent.len());
        }
        leaves
    }

    /// A request that was pushed cannot be encoded: it goes back to the application.
    pub(in crate::rpc) fn refuse(&mut self, request: Request<P>, error: EncodeError) {
        self.not_encoded += 1;
        self.loss.get_or_insert_with(|| {
            Cause::new(io::ErrorKind::InvalidInput, format!("a request cannot be encoded: {error}"))
        });
        if catch_unwind(AssertUnwindSafe(|| self.caller.on_refused(request, error))).is_err() {
            crate::log::callback_panicked();
        }
    }

    // The end.

    /// Whether nothing more is accepted, by any way in.
    pub(in crate::rpc) fn is_stopped(&self) -> bool {
        self.queue.is_stopped() && self.streamed.is_stopped()
    }

    /// Whether the client was closed and everything accepted was taken.
    pub(in crate::rpc) fn is_finished(&mut self) -> bool {
        // Each is told for itself: until it was, it does not let the reactor sleep.
        let streamed = self.unsent.is_empty() && self.streamed.is_finished();
        let queue = self.queued.is_empty() && self.admitted.is_empty() && self.queue.is_finished();
        queue && streamed && self.gate.close_room_if_empty()
    }

    /// As [`is_finished`](Self::is_finished), with everything that nobody waits for any more thrown away. Takes all there is.
    pub(in crate::rpc) fn has_nothing_to_send(&mut self) -> bool {
        while self.fill_queue(usize::MAX) > 0 {}
        self.queued.retain(|pending| !pending.promise.is_call() || pending.promise.is_wanted());
        self.is_finished()
    }

    /// Takes out the calls that were not sent, where others can be asked instead of waiting for another connection.
    pub(in crate::rpc) fn take_calls_that_move_on(&mut self) -> Vec<Pending<Request<P>, Response<P>>> {
        if !self.options.moves_on {
            return Vec::new();
        }
        while self.fill_queue(usize::MAX) > 0 {}
        let (calls, others): (Vec<_>, Vec<_>) =
            self.queued.drain(..).partition(|pending| pending.promise.is_call());
        self.queued = others.into();
        calls
    }

    /// When everything has to be over, if the client was closed.
    pub(in crate::rpc) fn stop_deadline(&mut self, now: Instant) -> Option<Instant> {
        if self.stop_deadline.is_none() && self.is_stopped() {
            self.stop_deadline = now.checked_add(self.options.close_timeout);
        }
        self.stop_deadline
    }

    /// Accepts nothing more; what was accepted is still sent and answered.
    pub(in crate::rpc) fn stop(&mut self) {
        self.stopping = true;
        self.gate.stop_accepting();
        self.streamed.stop_accepting();
    }

    /// The end, with everything sent and answered that was on the last connection.
    pub(in crate::rpc) fn finish(mut self) {
        match self.loss.take() {
            Some(cause) => self.fail(cause, 0),
            None => self.end(Ok(()), Vec::new()),
        }
    }

    /// The end, with something not answered or not sent.
    pub(in crate::rpc) fn fail(&mut self, cause: Cause, unanswered: u64) {
        if self.ended {
            return;
        }
        // Behind this the count is final.
        self.gate.stop_accepting();
        self.streamed.stop_accepting();
        let mut unsent = std::mem::take(&mut self.unsent);
        self.streamed.drain(usize::MAX, |request| unsent.push(request));
        while self.fill_queue(usize::MAX) > 0 {}
        for Pending { request, promise } in self.queued.drain(..) {
            if promise.is_call() {
                promise.lose(&cause);
            } else {
                unsent.push(request);
            }
        }
        let cause = self.loss.take().unwrap_or(cause);
        let (unanswered, not_encoded) = (self.lost + unanswered, self.not_encoded);
        let unfinished = Unfinished { cause, unanswered, unsent: unsent.len(), not_encoded };
        self.end(Err(unfinished), unsent);
    }

    fn end(&mut self, end: Result<(), Unfinished>, unsent: Vec<Request<P>>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if let Err(unfinished) = &end {
            self.queue.fail(unfinished.clone(), Vec::new());
            self.streamed.fail(unfinished.clone(), Vec::new());
        }
        // Whoever waits for the end is told, whatever the application does here.
        let told = catch_unwind(AssertUnwindSafe(|| self.caller.on_close(&end)));
        self.gate.end(end, unsent);
        if let Err(panic) = told {
            resume_unwind(panic);
        }
    }
}

impl<P: Protocol, K: Caller<P>> Drop for Engine<P, K> {
    fn drop(&mut self) {
        if !self.ended {
            let stopped = Cause::new(io::ErrorKind::NotConnected, "the reactor has stopped");
            if let Some(first) = self.first.take() {
                first.tell(Err(crate::Error::Stopped));
            }
            self.fail(stopped, 0);
        }
    }
}
