//! The client's handler of one connection: requests from the lanes out, responses in.

use super::caller::{Caller, Requests};
use super::engine::{Disconnected, Engine, Linger};
use super::expected::{Expected, Recipient};
use super::sender::Sender;
use crate::codec::{Correlation, CorrelationKind, Decode, Decoded, Protocol, Response};
use crate::reactor::{CloseReason, Handler, Io};
use crate::rpc::notice::{self, Notice};
use std::sync::Arc;

pub(in crate::rpc) struct Requester<P: Protocol, K: Caller<P>> {
    /// Goes on to the next connection when this one is lost.
    engine: Option<Engine<P, K>>,
    requests: P::RequestCodec,
    responses: P::ResponseCodec,
    expected: Expected<Response<P>>,
    opened: bool,
    /// There was no room for more output when it was last looked at. Then the kernel's taking it is what to wait for.
    is_full: bool,
    /// Everything was sent and nothing more will be.
    finishing: bool,
    /// The server sends no more.
    input_ended: bool,
    /// What this side found wrong.
    fault: Option<String>,
    /// Requests that are known to remain without a response, and how many of these were pushed.
    unanswered: u64,
    unanswered_pushed: u64,
}

impl<P: Protocol, K: Caller<P>> Requester<P, K> {
    pub(in crate::rpc) fn new(engine: Engine<P, K>) -> Self {
        Requester {
            requests: engine.protocol.request_codec(),
            responses: engine.protocol.response_codec(),
            expected: Expected::of::<P::Correlation>(),
            engine: Some(engine),
            opened: false,
            is_full: false,
            finishing: false,
            input_ended: false,
            fault: None,
            unanswered: 0,
            unanswered_pushed: 0,
        }
    }

    /// Takes requests over while there is room for them. Whether there were any, or anything else was done to the connection.
    fn pump(&mut self, io: &mut Io<'_>) -> bool {
        let Some(engine) = &mut self.engine else { return false };
        let (mut any, room) = (false, engine.options.room(io.pending()));
        self.is_full = room == 0;
        if room > 0 && !self.finishing {
            let lets_streamed_go = match engine.lingers(io.now()) {
                Linger::Over => true,
                Linger::Begins(rest) => {
                    io.set_timer(rest);
                    any = true;
                    false
                }
                Linger::GoesOn => false,
            };
            let out = io.out();
            let full = out.len() + room;
            let mut sender =
                Sender { engine, codec: &mut self.requests, expected: &mut self.expected, out, full };
            any |= sender.take_calls();
            if lets_streamed_go {
                let (found, fault) = sender.take_streamed();
                any |= found;
                self.fault = fault;
            }
            self.is_full = sender.out.len() >= full;
        }
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

    /// Ends the output once the client was closed and everything accepted was sent, and the connection once everything was
    /// answered: the server need not be asked for its consent. Whether it did either.
    fn finish_if_done(&mut self, io: &mut Io<'_>) -> bool {
        let Some(engine) = &mut self.engine else { return false };
        let ends = !self.finishing && (self.fault.is_some() || engine.is_finished());
        if ends {
            self.finishing = true;
            io.shutdown_write();
        }
        if !self.finishing {
            return false;
        }
        engine.target.watch_calls();
        let closes = !self.expected.is_awaited();
        if closes {
            io.close();
        }
        ends || closes
    }

    fn has_room_for_calls(&self) -> bool {
        self.engine.as_ref().is_some_and(|engine| self.expected.calls() < engine.options.calls_in_flight)
    }

    /// No response will come any more.
    fn lose(&mut self, reason: &Arc<str>) {
        self.unanswered += self.expected.awaited_requests();
        self.unanswered_pushed += self.expected.streamed_requests();
        self.expected.lose(reason);
    }

    fn receive(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> Result<(usize, usize), String> {
        let Some(engine) = &mut self.engine else { return Ok((bytes.len(), 0)) };
        let room = engine.options.room(io.pending());
        let (codec, expected, accepts) = (&mut self.requests, &mut self.expected, !self.finishing);
        let mut requests = Requests::<P>::new(codec, expected, io.out(), room, accepts);
        let mut consumed = 0;
        loop {
            if P::Correlation::HAS_NOTICES && Notice::begins(&bytes[consumed..]) {
                match Notice::decode(&bytes[consumed..])? {
                    None => return Ok((consumed, notice::BYTES)),
                    Some(Notice::Goodbye { .. }) => {}
                    Some(Notice::WithoutResponse { id, why }) => match requests.recipient(id) {
                        Some(Recipient::Call(promise)) => promise.lose(&Arc::from(why.text())),
                        Some(Recipient::Callback) => {
                            self.unanswered += 1;
                            self.unanswered_pushed += 1;
                        }
                        Some(Recipient::Nobody) => {}
                        None => return Err("the server refused what nobody asked for".to_owned()),
                    },
                }
                consumed += notice::BYTES;
                continue;
            }
            let decoded = P::Correlation::decode(&mut self.responses, &bytes[consumed..]);
            let ((id, response), taken) = match decoded.map_err(|error| error.to_string())? {
                Decoded::Item { item, consumed } => (item, consumed),
                Decoded::NeedMore { at_least } => {
                    return Ok((consumed, (bytes.len() - consumed).saturating_add(at_least)));
                }
            };
            consumed += taken;
            match P::Correlation::number_of(id).and_then(|number| requests.recipient(number)) {
                Some(Recipient::Callback) => engine.caller.on_response(&mut requests, response),
                Some(Recipient::Call(promise)) => {
                    promise.fulfil(<P::ResponseCodec as Decode>::into_owned(response));
                }
                Some(Recipient::Nobody) => {}
                None => return Err("the server sent a response to no request".to_owned()),
            }
        }
    }
}

impl<P: Protocol, K: Caller<P>> Handler for Requester<P, K> {
    fn on_open(&mut self, io: &mut Io<'_>) {
        self.opened = true;
        let Some(engine) = &mut self.engine else { return };
        engine.target.connected(io.handle());
        engine.attempt = 0;
        let room = engine.options.room(io.pending());
        let (codec, expected, accepts) = (&mut self.requests, &mut self.expected, !self.finishing);
        engine.caller.on_open(&mut Requests::new(codec, expected, io.out(), room, accepts));
        engine.wake_up();
        io.poll_me();
    }

    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        let calls_waited = !self.has_room_for_calls();
        match self.receive(io, bytes) {
            Ok((consumed, wanted)) => {
                io.expect(wanted);
                if self.finishing {
                    self.finish_if_done(io);
                } else if calls_waited {
                    self.pump_from_now_on(io);
                }
                consumed
            }
            Err(fault) => {
                self.fault = Some(fault);
                io.abort();
                bytes.len()
            }
        }
    }

    fn on_poll(&mut self, io: &mut Io<'_>) -> bool {
        self.pump(io)
    }

    fn on_notify(&mut self, io: &mut Io<'_>) {
        self.pump_from_now_on(io);
    }

    fn on_drained(&mut self, io: &mut Io<'_>) {
        if self.is_full {
            self.pump_from_now_on(io);
        }
    }

    fn on_timer(&mut self, io: &mut Io<'_>) {
        self.pump_from_now_on(io);
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

    fn on_end(&mut self, io: &mut Io<'_>) {
        self.input_ended = true;
        // Output may take its time yet, but nobody has to wait for that.
        self.lose(&Arc::from(ENDED_BY_SERVER));
        io.close();
    }

    fn on_shutdown(&mut self, io: &mut Io<'_>) {
        // What was accepted is still sent and answered.
        if let Some(engine) = &mut self.engine {
            engine.stop();
        }
        self.pump(io);
    }

    fn on_close(&mut self, reason: &CloseReason) {
        let (faultless, clean) = (self.fault.is_none(), reason.is_clean());
        let reason: Arc<str> = match self.fault.take() {
            Some(fault) => fault.into(),
            None if self.input_ended && clean => ENDED_BY_SERVER.into(),
            None => reason.to_string().into(),
        };
        self.lose(&reason);
        let Some(engine) = self.engine.take() else { return };
        // Without correlation nobody knows what was answered, but everything may have arrived only if nothing failed.
        let answered =
            self.unanswered == 0 && (clean || P::Correlation::KIND != CorrelationKind::Uncorrelated);
        engine.disconnected(Disconnected {
            reason,
            was_open: self.opened,
            finished: self.finishing,
            complete: self.finishing && faultless && answered,
            unanswered: self.unanswered,
            unanswered_pushed: self.unanswered_pushed,
        });
    }
}

const ENDED_BY_SERVER: &str = "the server ended it";
