//! The client's handler of one connection: requests from the lanes out, responses in.

use super::call::Pending;
use super::caller::{Caller, Requests};
use super::engine::Engine;
use super::expected::{Expected, Recipient, streamed_id};
use super::{CallError, Unfinished};
use crate::batch::Run;
use crate::codec::{Correlation, CorrelationKind, Decode, Decoded, Encode, Protocol, Request, Response};
use crate::reactor::{CloseReason, Handler, Io};
use std::sync::Arc;

pub(super) struct Requester<P: Protocol, K: Caller<P>> {
    /// Goes on to the next connection when this one is lost.
    engine: Option<Engine<P, K>>,
    requests: P::RequestCodec,
    responses: P::ResponseCodec,
    expected: Expected<Response<P>>,
    opened: bool,
    /// Everything was sent and nothing more will be.
    finishing: bool,
    /// What this side found wrong.
    fault: Option<String>,
}

impl<P: Protocol, K: Caller<P>> Requester<P, K> {
    pub(super) fn new(engine: Engine<P, K>) -> Self {
        Requester {
            requests: engine.protocol.request_codec(),
            responses: engine.protocol.response_codec(),
            expected: Expected::new(P::Correlation::KIND),
            engine: Some(engine),
            opened: false,
            finishing: false,
            fault: None,
        }
    }

    /// Takes requests over while there is room for them. Whether there were any.
    fn pump(&mut self, io: &mut Io<'_>) -> bool {
        let Some(engine) = &mut self.engine else { return false };
        let (mut any, mut room) = (false, engine.options.room(io.pending()));
        if room > 0 && !self.finishing {
            let out = io.out();
            let full = out.len() + room;
            any |= take_calls(engine, &mut self.requests, &mut self.expected, out, full);
            room = full.saturating_sub(out.len());
        }
        if room > 0 && !self.finishing && engine.lets_streamed_go(io) {
            let out = io.out();
            match take_streamed(engine, &mut self.requests, &mut self.expected, out, room) {
                Ok(found) => any |= found,
                Err(fault) => {
                    self.fault = Some(fault);
                    io.close();
                }
            }
        }
        self.finish_if_done(io);
        any
    }

    /// Ends the output once the client was closed and everything accepted was sent.
    fn finish_if_done(&mut self, io: &mut Io<'_>) {
        if let Some(engine) = &mut self.engine
            && !self.finishing
            && engine.is_finished()
        {
            self.finishing = true;
            io.shutdown_write();
        }
    }

    fn receive(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> Result<(usize, usize), String> {
        let Some(engine) = &mut self.engine else { return Ok((bytes.len(), 0)) };
        let room = engine.options.room(io.pending());
        let out = io.out();
        let mut requests =
            Requests { codec: &mut self.requests, expected: &mut self.expected, room: out.len() + room, out };
        let mut consumed = 0;
        loop {
            let decoded = P::Correlation::decode(&mut self.responses, &bytes[consumed..]);
            let ((id, response), taken) = match decoded.map_err(|error| error.to_string())? {
                Decoded::Item { item, consumed } => (item, consumed),
                Decoded::NeedMore { at_least } => return Ok((consumed, bytes.len() - consumed + at_least)),
            };
            consumed += taken;
            match requests.expected.recipient(P::Correlation::number_of(id)) {
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

fn take_calls<P: Protocol, K: Caller<P>>(
    engine: &mut Engine<P, K>,
    codec: &mut P::RequestCodec,
    expected: &mut Expected<Response<P>>,
    out: &mut Vec<u8>,
    full: usize,
) -> bool {
    let limit = engine.options.calls_in_flight;
    if expected.calls() >= limit {
        expected.forget_unwanted();
    }
    let mut taken = 0;
    while out.len() < full {
        let most = limit.saturating_sub(expected.calls()).min(CALLS_AT_A_TIME);
        let found = engine.calls.drain(most, |Pending { request, promise }| {
            if !promise.is_wanted() {
                return;
            }
            let id = P::Correlation::id_from(expected.next_call_id());
            match P::Correlation::encode(codec, id, &request, out) {
                Ok(()) => {
                    promise.sent();
                    expected.call(promise);
                }
                Err(error) => promise.fail(CallError::Encode(error)),
            }
        });
        taken += found;
        if found < most || most == 0 {
            break;
        }
    }
    if taken > 0 {
        engine.gate.made_room();
    }
    taken > 0
}

/// Between two looks at how much output there is.
const CALLS_AT_A_TIME: usize = 256;
const STREAMED_AT_A_TIME: usize = 4096;

fn take_streamed<P: Protocol, K: Caller<P>>(
    engine: &mut Engine<P, K>,
    codec: &mut P::RequestCodec,
    expected: &mut Expected<Response<P>>,
    out: &mut Vec<u8>,
    room: usize,
) -> Result<bool, String> {
    let full = out.len() + room;
    let mut left = engine.options.batch;
    let mut fault = None;
    while left > 0 && out.len() < full && fault.is_none() {
        let most = left.min(STREAMED_AT_A_TIME);
        let found = engine.streamed.drain_runs(most, |run| {
            if fault.is_none() {
                fault = encode_run::<P>(codec, expected, run, out);
            }
        });
        left -= found;
        if found < most {
            break;
        }
    }
    match fault {
        Some(fault) => Err(fault),
        None => Ok(left < engine.options.batch),
    }
}

fn encode_run<P: Protocol>(
    codec: &mut P::RequestCodec,
    expected: &mut Expected<Response<P>>,
    run: Run<'_, Request<P>>,
    out: &mut Vec<u8>,
) -> Option<String> {
    let requests = run.as_slice();
    let (encoded, fault) = if P::Correlation::KIND == CorrelationKind::ById {
        let id = streamed_id::<P::Correlation>();
        let mut encoded = 0;
        let fault = requests.iter().find_map(|request| {
            let result = P::Correlation::encode(codec, id, request, out);
            encoded += usize::from(result.is_ok());
            result.err().map(|error| error.to_string())
        });
        (encoded, fault)
    } else {
        match codec.encode_all(requests, out) {
            Ok(()) => (requests.len(), None),
            Err(error) => (error.index, Some(error.error.to_string())),
        }
    };
    expected.streamed(encoded as u64);
    fault.map(|fault| format!("a request cannot be encoded: {fault}"))
}

impl<P: Protocol, K: Caller<P>> Handler for Requester<P, K> {
    fn on_open(&mut self, io: &mut Io<'_>) {
        self.opened = true;
        let Some(engine) = &mut self.engine else { return };
        engine.target.connected(io.handle());
        engine.attempt = 0;
        let room = engine.options.room(io.pending());
        let out = io.out();
        let mut requests =
            Requests { codec: &mut self.requests, expected: &mut self.expected, room: out.len() + room, out };
        engine.caller.on_open(&mut requests);
        engine.wake_up();
        io.poll_me();
    }

    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        match self.receive(io, bytes) {
            Ok((consumed, wanted)) => {
                io.expect(wanted);
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
        if let Some(engine) = &mut self.engine {
            engine.wake_up();
        }
        self.pump(io);
        io.poll_me();
    }

    fn on_drained(&mut self, io: &mut Io<'_>) {
        if self.pump(io) {
            if let Some(engine) = &mut self.engine {
                engine.wake_up();
            }
            io.poll_me();
        }
    }

    fn on_timer(&mut self, io: &mut Io<'_>) {
        self.pump(io);
    }

    fn prepare_sleep(&mut self) {
        if let Some(engine) = &mut self.engine {
            engine.prepare_sleep();
        }
    }

    fn is_ready(&self) -> bool {
        !self.finishing && self.engine.as_ref().is_some_and(Engine::is_ready)
    }

    fn on_shutdown(&mut self, io: &mut Io<'_>) {
        // What was accepted is still sent and answered.
        if let Some(engine) = &mut self.engine {
            engine.gate.stop_accepting();
            engine.stopping = true;
        }
        self.pump(io);
    }

    fn on_close(&mut self, reason: &CloseReason) {
        let Some(engine) = self.engine.take() else { return };
        let reason: Arc<str> = self.fault.take().unwrap_or_else(|| reason.to_string()).into();
        let unanswered = self.expected.requests();
        self.expected.lose(&reason);
        let end = if self.finishing && unanswered == 0 {
            Ok(())
        } else {
            Err(Unfinished { reason, unanswered, unsent: 0 })
        };
        engine.disconnected(self.opened, end);
    }
}
