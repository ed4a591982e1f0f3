//! From a client's queues into its connection's output, as far as there is room.

use super::call::Pending;
use super::caller::Caller;
use super::engine::Engine;
use super::expected::{Expected, streamed_id};
use crate::batch::Run;
use crate::codec::{Correlation, CorrelationKind, Encode, Protocol, Request, Response};
use crate::rpc::CallError;

/// What one look at the queues needs.
pub(in crate::rpc) struct Sender<'a, P: Protocol, K: Caller<P>> {
    pub(in crate::rpc) engine: &'a mut Engine<P, K>,
    pub(in crate::rpc) codec: &'a mut P::RequestCodec,
    pub(in crate::rpc) expected: &'a mut Expected<Response<P>>,
    pub(in crate::rpc) out: &'a mut Vec<u8>,
    /// The length of `out` from which on there is no room.
    pub(in crate::rpc) full: usize,
}

/// Taken from a queue at a time; what turns out to have no room any more waits in the engine.
const CALLS_AT_A_TIME: usize = 256;
const STREAMED_AT_A_TIME: usize = 4096;

/// Bytes of plain values that are encoded between two looks at how much room is left.
const BYTES_AT_A_TIME: usize = 16 << 10;

impl<P: Protocol, K: Caller<P>> Sender<'_, P, K> {
    /// Sends calls. Whether there were any.
    pub(in crate::rpc) fn take_calls(&mut self) -> bool {
        let limit = self.engine.options.calls_in_flight;
        let mut taken = 0;
        loop {
            if self.expected.calls() >= limit {
                // In this order, so that one that is given up now is either seen here or announced.
                self.engine.target.watch_calls();
                self.expected.forget_unwanted();
            }
            while self.has_room()
                && self.expected.calls() < limit
                && let Some(pending) = self.engine.unsent_calls.pop_front()
            {
                self.send_call(pending);
            }
            let most = limit.saturating_sub(self.expected.calls()).min(CALLS_AT_A_TIME);
            if !self.has_room() || most == 0 {
                break;
            }
            let Engine { calls, unsent_calls, .. } = &mut *self.engine;
            let found = calls.drain(most, |pending| unsent_calls.push_back(pending));
            if found == 0 {
                break;
            }
            taken += found;
        }
        if taken > 0 {
            self.engine.gate.made_room();
        }
        taken > 0
    }

    fn send_call(&mut self, Pending { request, promise }: Pending<Request<P>, Response<P>>) {
        if !promise.is_wanted() {
            return;
        }
        let id = P::Correlation::id_from(self.expected.next_call_id());
        match P::Correlation::encode(self.codec, id, &request, self.out) {
            Ok(()) => {
                promise.sent();
                self.expected.call(promise);
            }
            Err(error) => promise.fail(CallError::Encode(error)),
        }
    }

    /// Sends what was pushed. Whether there was anything, and whether a request is at fault, which is then the first one
    /// that was not sent.
    pub(in crate::rpc) fn take_streamed(&mut self) -> (bool, Option<String>) {
        let mut unsent = std::mem::take(&mut self.engine.unsent);
        let (encoded, mut fault) = encode::<P>(self.codec, self.expected, &unsent, self.out, self.full);
        unsent.drain(..encoded);
        let mut left = self.engine.options.batch;
        while left > 0 && fault.is_none() && self.has_room() {
            let most = left.min(STREAMED_AT_A_TIME);
            let Sender { engine, codec, expected, out, full } = self;
            let found = engine.streamed.drain_runs(most, |run| {
                let encoded = if fault.is_none() && unsent.is_empty() {
                    let (encoded, wrong) = encode::<P>(codec, expected, run.as_slice(), out, *full);
                    fault = wrong;
                    encoded
                } else {
                    0
                };
                keep_rest(run, encoded, &mut unsent);
            });
            left -= found;
            if found < most {
                break;
            }
        }
        self.engine.unsent = unsent;
        let any = encoded > 0 || left < self.engine.options.batch;
        (any, fault.map(|fault| format!("a request cannot be encoded: {fault}")))
    }

    fn has_room(&self) -> bool {
        self.out.len() < self.full
    }
}

fn keep_rest<T>(run: Run<'_, T>, encoded: usize, unsent: &mut Vec<T>) {
    if encoded < run.as_slice().len() {
        let start = unsent.len();
        run.append_to(unsent);
        unsent.drain(start..start + encoded);
    }
}

/// Encodes requests as long as there is room: how many, and what is wrong with the one behind them, if anything.
fn encode<P: Protocol>(
    codec: &mut P::RequestCodec,
    expected: &mut Expected<Response<P>>,
    requests: &[Request<P>],
    out: &mut Vec<u8>,
    full: usize,
) -> (usize, Option<String>) {
    let (mut encoded, mut fault) = (0, None);
    for chunk in requests.chunks(chunk_len::<Request<P>>()) {
        if out.len() >= full || fault.is_some() {
            break;
        }
        let (count, wrong) = encode_all::<P>(codec, chunk, out);
        encoded += count;
        fault = wrong;
    }
    expected.streamed(encoded as u64);
    (encoded, fault)
}

/// Plain values take about as many bytes on the wire as in memory. What owns something may take any number of them.
fn chunk_len<T>() -> usize {
    if std::mem::needs_drop::<T>() { 1 } else { (BYTES_AT_A_TIME / size_of::<T>().max(1)).max(1) }
}

fn encode_all<P: Protocol>(
    codec: &mut P::RequestCodec,
    requests: &[Request<P>],
    out: &mut Vec<u8>,
) -> (usize, Option<String>) {
    if P::Correlation::KIND != CorrelationKind::ById {
        return match codec.encode_all(requests, out) {
            Ok(()) => (requests.len(), None),
            Err(error) => (error.index, Some(error.error.to_string())),
        };
    }
    let id = streamed_id::<P::Correlation>();
    let mut encoded = 0;
    let fault = requests.iter().find_map(|request| {
        let result = P::Correlation::encode(codec, id.clone(), request, out);
        encoded += usize::from(result.is_ok());
        result.err().map(|error| error.to_string())
    });
    (encoded, fault)
}
