//! The client's handler of one connection: when requests leave, and how it ends. How responses are received, `receive.rs` says.

use super::caller::{Caller, Requests};
use super::connect::{Disconnected, Slot};
use super::engine::Engine;
use super::expected::Expected;
use super::sender::Sender;
use crate::codec::{Correlation, CorrelationKind, Protocol, Request, Response};
use crate::reactor::{CloseReason, Handler, Io, Polled, Reactor};
use crate::rpc::Cause;
use std::io::ErrorKind;
use std::time::Instant;

pub(in crate::rpc) struct Requester<P: Protocol, K: Caller<P>> {
    /// Where the engine is until the connection is open, and at which of the addresses this is.
    slot: Slot<P, K>,
    tried: usize,
    /// Goes on to the next connection when this one is lost.
    pub(super) engine: Option<Engine<P, K>>,
    pub(super) requests: P::RequestCodec,
    pub(super) responses: P::ResponseCodec,
    pub(super) expected: Expected<Request<P>, Response<P>>,
    /// Bytes of requests in flight that are kept to be sent again.
    pub(super) kept: usize,
    opened: Option<Instant>,
    /// A response has come.
    pub(super) proved: bool,
    /// There was no room for more output when it was last looked at. Then the kernel's taking it is what to wait for.
    is_full: bool,
    /// Whether what producers pushed goes first when both find room.
    streamed_first: bool,
    /// Everything was sent and nothing more will be.
    pub(super) finishing: bool,
    /// The server said that it answered everything that it took.
    pub(super) goodbye: bool,
    /// Its output ended within a response.
    cut_off: bool,
    /// Whether the connection's timer is set, and for when.
    timer: Option<Instant>,
    /// What this side found wrong, or why it ends.
    fault: Option<Cause>,
    /// Requests that are known to remain without a response, and how many of these were pushed.
    pub(super) unanswered: u64,
    pub(super) unanswered_pushed: u64,
}

impl<P: Protocol, K: Caller<P>> Requester<P, K> {
    pub(in crate::rpc) fn new(
        slot: Slot<P, K>,
        tried: usize,
        requests: P::RequestCodec,
        responses: P::ResponseCodec,
        expected: Expected<Request<P>, Response<P>>,
    ) -> Self {
        Requester {
            slot,
            tried,
            engine: None,
            requests,
            responses,
            expected,
            kept: 0,
            opened: None,
            proved: false,
            is_full: false,
            streamed_first: false,
            finishing: false,
            goodbye: false,
            cut_off: false,
            timer: None,
            fault: None,
            unanswered: 0,
            unanswered_pushed: 0,
        }
    }

    /// Takes requests over while there is room for them. Whether there were any, or anything else was done to the connection.
    fn pump(&mut self, io: &mut Io<'_>) -> bool {
        if io.is_closing() {
            // What was taken now would go nowhere.
            return false;
        }
        let Some(engine) = &mut self.engine else { return false };
        let (mut any, room, kept) = (false, engine.options.room(io.pending()), self.kept);
        self.is_full = room == 0;
        if room > 0 && !self.finishing && engine.may_leave(io.now()) {
            let keeps =
                if engine.options.keeps::<P::Correlation>() { engine.options.resend_bytes } else { 0 };
            let out = io.out();
            let full = out.len() + room;
            let (codec, expected, kept) = (&mut self.requests, &mut self.expected, &mut self.kept);
            let mut sender = Sender { engine, codec, expected, out, full, kept, keeps };
            sender.forget_given_up();
            // Whoever comes second may find no room, so they take turns.
            if self.streamed_first {
                any |= sender.take_streamed();
                any |= sender.take_queued();
            } else {
                any |= sender.take_queued();
                any |= sender.take_streamed();
            }
            self.is_full = sender.out.len() >= full;
            self.streamed_first ^= self.is_full;
        }
        io.claim(self.kept);
        any |= self.set_timer(io) || self.kept != kept;
        any | self.finish_if_done(io)
    }

    /// Pumps, and goes on with that in the turns to come.
    fn pump_from_now_on(&mut self, io: &mut Io<'_>) {
        if let Some(engine) = &mut self.engine {
            engine.wake_up();
        }
        self.pump(io);
        io.poll_me();
    }

    /// One timer for what comes first: the end of lingering, or the latest end of a closed client. Whether it was set anew.
    fn set_timer(&mut self, io: &mut Io<'_>) -> bool {
        let Some(engine) = &mut self.engine else { return false };
        let deadlines = [engine.lingers_until, engine.stop_deadline(io.now())];
        let next = deadlines.into_iter().flatten().min();
        if next == self.timer {
            return false;
        }
        self.timer = next;
        match next {
            Some(at) => io.set_timer(at.saturating_duration_since(io.now())),
            None => io.clear_timer(),
        }
        true
    }

    /// Ends the connection once the client was closed, everything accepted was sent, and everything was answered: the server need
    /// not be asked for its consent. Until then the output is not ended, for many a server takes that for the end of the
    /// connection; only where nobody knows what is answered, the server has to be told so. Whether it did either.
    fn finish_if_done(&mut self, io: &mut Io<'_>) -> bool {
        let Some(engine) = &mut self.engine else { return false };
        let ends = !self.finishing && engine.is_finished();
        if ends {
            self.finishing = true;
            if P::Correlation::KIND == CorrelationKind::Uncorrelated {
                io.shutdown_write();
            }
        }
        if !self.finishing {
            return false;
        }
        engine.target.watch_calls();
        let closes = !self.expected.is_awaited();
        if closes && let Some(engine) = self.engine.take() {
            // The rest of the connection's life is nobody's concern.
            io.close();
            engine.finish();
        }
        ends || closes
    }

    fn has_room_for_calls(&self) -> bool {
        self.engine.as_ref().is_some_and(|engine| self.expected.calls() < engine.options.calls_in_flight)
    }

    /// No response will come any more.
    fn lose(&mut self, cause: &Cause) {
        self.unanswered += self.expected.awaited_requests();
        self.unanswered_pushed += self.expected.streamed_requests();
        self.expected.lose(cause);
        self.kept = 0;
    }

    /// Ends the connection at once.
    fn abort(&mut self, io: &mut Io<'_>, cause: Cause) {
        self.fault.get_or_insert(cause);
        io.abort();
    }
}

impl<P: Protocol, K: Caller<P>> Handler for Requester<P, K> {
    fn on_open(&mut self, io: &mut Io<'_>) {
        // The client may have ended in the meantime.
        let Some(engine) = self.slot.take() else { return io.abort() };
        let engine = self.engine.insert(engine);
        self.opened = Some(io.now());
        engine.next_address = (engine.next_address + 1) % engine.addresses.len();
        engine.wake_up();
        engine.target.connected(io.handle());
        if let Some(first) = engine.first.take() {
            first.tell(Ok(()));
        }
        // Those of the connection before.
        drop(engine.target.take_given_up());
        let room = engine.options.room(io.pending());
        let (codec, expected) = (&mut self.requests, &mut self.expected);
        engine.caller.on_open(&mut Requests::new(codec, expected, io.out(), room, true, &engine.target));
        self.on_notify(io);
    }

    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        let calls_waited = !self.has_room_for_calls();
        match self.receive(io, bytes) {
            Ok((consumed, wanted)) => {
                self.proved |= consumed > 0;
                io.claim(self.kept);
                let pauses = self.engine.as_ref().is_some_and(|engine| engine.target.pauses());
                match wanted {
                    Some(wanted) if !pauses => io.expect(wanted),
                    // Also if they are wanted again by now: the notification of that shows what waits.
                    _ => io.pause_reading(),
                }
                if self.finishing {
                    self.finish_if_done(io);
                } else if calls_waited {
                    self.pump_from_now_on(io);
                }
                consumed
            }
            Err(fault) => {
                self.abort(io, fault);
                bytes.len()
            }
        }
    }

    fn polled(&mut self) -> Option<&mut dyn Polled> {
        Some(self)
    }

    fn on_notify(&mut self, io: &mut Io<'_>) {
        let Some(engine) = &self.engine else { return };
        if engine.target.aborts() {
            return self.abort(io, Cause::new(ErrorKind::ConnectionAborted, "the client was aborted"));
        }
        if engine.target.pauses() {
            io.pause_reading();
        } else {
            io.resume_reading();
        }
        self.pump_from_now_on(io);
    }

    fn on_drained(&mut self, io: &mut Io<'_>) {
        if self.is_full {
            self.pump_from_now_on(io);
        }
    }

    fn on_timer(&mut self, io: &mut Io<'_>) {
        self.timer = None;
        if self.engine.as_ref().is_some_and(|engine| engine.stop_deadline.is_some_and(|at| at <= io.now())) {
            return self.abort(io, Cause::new(ErrorKind::TimedOut, "closing took too long"));
        }
        self.pump_from_now_on(io);
    }

    fn on_end(&mut self, io: &mut Io<'_>) {
        let (ended, in_order) = match self.receive_last(io) {
            Ok(()) => (Cause::new(ErrorKind::UnexpectedEof, "the server ended it"), true),
            Err(cause) => (cause, false),
        };
        self.cut_off = !in_order;
        if let Some(engine) = &mut self.engine
            && in_order
            && (self.goodbye || engine.options.peer_drains_cleanly)
        {
            // Of those that were pushed there is nothing left to be sent again.
            let streamed = self.expected.streamed_requests();
            self.unanswered += streamed;
            self.unanswered_pushed += streamed;
            // Before what was not sent yet; nobody has to wait for those that were given up.
            let (mut back, lost) = self.expected.take_back(&ended);
            self.unanswered += lost;
            self.kept = 0;
            back.append(&mut engine.queued);
            engine.queued = back;
        }
        io.claim(0);
        // Output may take its time yet, but nobody has to wait for that.
        self.lose(&ended);
        self.fault.get_or_insert(ended);
        io.close();
    }

    fn on_shutdown(&mut self, io: &mut Io<'_>) {
        // What was accepted is still sent and answered.
        if let Some(engine) = &mut self.engine {
            engine.stop();
        }
        self.pump(io);
    }

    fn on_close(&mut self, reason: &CloseReason, _reactor: &mut Reactor) {
        let Some(opened) = self.opened else { return self.slot.clone().failed(self.tried, reason) };
        let panicked = matches!(reason, CloseReason::Panicked);
        let cause = self.fault.take().filter(|_| !panicked).unwrap_or_else(|| cause_of(reason));
        self.lose(&cause);
        let Some(mut engine) = self.engine.take() else { return };
        engine.uses = self.expected.uses();
        (engine.lingers_until, engine.leaving) = (None, 0);
        let lasted =
            engine.options.reconnect.is_some_and(|policy| opened.elapsed() >= policy.proves_itself_after());
        if self.proved || lasted {
            engine.attempt = 0;
        }
        let timed_out = engine.stop_deadline.is_some_and(|at| at <= Instant::now());
        let nothing_left = self.unanswered == 0 && engine.is_stopped() && engine.has_nothing_to_send();
        // Without correlation nobody knows what was answered, but everything may have arrived only if nothing failed.
        let answered =
            !self.cut_off && (P::Correlation::KIND != CorrelationKind::Uncorrelated || reason.is_clean());
        if nothing_left && answered && !panicked && cause.kind() != ErrorKind::InvalidData {
            return engine.finish();
        }
        engine.disconnected(Disconnected {
            cause,
            for_good: panicked || self.finishing || timed_out || nothing_left,
            unanswered: self.unanswered,
            unanswered_pushed: self.unanswered_pushed,
        });
    }
}

impl<P: Protocol, K: Caller<P>> Polled for Requester<P, K> {
    fn on_poll(&mut self, io: &mut Io<'_>) -> bool {
        self.pump(io)
    }

    fn prepare_sleep(&mut self) {
        if let Some(engine) = &mut self.engine {
            engine.prepare_sleep();
        }
    }

    fn is_ready(&self) -> bool {
        let takes_calls = self.has_room_for_calls();
        !self.finishing
            && !self.is_full
            && self.engine.as_ref().is_some_and(|engine| engine.is_ready(takes_calls))
    }
}

fn cause_of(reason: &CloseReason) -> Cause {
    let kind = match reason {
        CloseReason::Failed(error) | CloseReason::ConnectFailed(error) => error.kind(),
        CloseReason::Aborted => ErrorKind::ConnectionAborted,
        CloseReason::Shutdown => ErrorKind::NotConnected,
        _ => ErrorKind::Other,
    };
    match reason {
        CloseReason::Panicked => {
            Cause::new(kind, "the client's caller, its codec or a function of a call panicked")
        }
        reason => Cause::new(kind, reason.to_string()),
    }
}
