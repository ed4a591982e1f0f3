//! From a client's queues into its connection's output, as far as there is room.

use super::call::state::Pending;
use super::caller::Caller;
use super::engine::Engine;
use super::expected::{Expected, InFlight, streamed_id};
use crate::batch::Run;
use crate::codec::{Correlation, CorrelationKind, Encode, EncodeError, Protocol, Request, Response};
use crate::rpc::CallError;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// What one look at the queues needs.
pub(in crate::rpc) struct Sender<'a, P: Protocol, K: Caller<P>> {
    pub(in crate::rpc) engine: &'a mut Engine<P, K>,
    pub(in crate::rpc) codec: &'a mut P::RequestCodec,
    pub(in crate::rpc) expected: &'a mut Expected<Request<P>, Response<P>>,
    pub(in crate::rpc) out: &'a mut Vec<u8>,
    /// The length of `out` from which on there is no room.
    pub(in crate::rpc) full: usize,
    /// Bytes of requests that are kept to be sent again, and how many there may be; 0 if none is.
    pub(in crate::rpc) kept: &'a mut usize,
    pub(in crate::rpc) keeps: usize,
}

/// Taken from a queue at a time; what turns out to have no room any more waits in the engine.
const QUEUED_AT_A_TIME: usize = 1024;
const STREAMED_AT_A_TIME: usize = 4096;

/// Bytes of plain values that are encoded between two looks at how much room is left.
const BYTES_AT_A_TIME: usize = 16 << 10;

impl<P: Protocol, K: Caller<P>> Sender<'_, P, K> {
    /// Sends calls and what was pushed through the client. Whether there were any.
    pub(in crate::rpc) fn take_queued(&mut self) -> bool {
        let limit = self.engine.options.calls_in_flight;
        let mut left = self.engine.options.batch;
        let mut any = false;
        loop {
            if self.expected.calls() >= limit {
                // In this order, so that one that is given up now is either seen here or announced.
                self.engine.target.watch_calls();
                self.forget_given_up();
            }
            while self.has_room()
                && self.expected.calls() < limit
                && left > 0
                && let Some(pending) = self.engine.queued.pop_front()
            {
                left -= 1;
                any = true;
                self.send(pending);
            }
            if !self.has_room() || self.expected.calls() >= limit || left == 0 {
                return any;
            }
            // No more than can be in flight: what waits in its lane holds those back who make it.
            let most = (limit - self.expected.calls()).min(left).min(QUEUED_AT_A_TIME);
            let Sender { engine, codec, expected, out, full, .. } = self;
            let found = engine.take_queue(most, |run| {
                let sent = encode_pushed::<P>(codec, run, out, *full);
                expected.streamed(sent as u64);
                left -= sent;
                any |= sent > 0;
                sent
            });
            if found == 0 {
                return any;
            }
        }
    }

    /// Makes room for other calls where that needs no response: of those that were given up.
    pub(in crate::rpc) fn forget_given_up(&mut self) {
        for id in self.engine.target.take_given_up() {
            *self.kept -= self.expected.give_up(id);
        }
    }

    fn send(&mut self, Pending { request, promise }: Pending<Request<P>, Response<P>>) {
        if !promise.is_call() {
            match self.encode(streamed_id::<P::Correlation>(), &request) {
                Ok(()) => self.expected.streamed(1),
                Err(error) => self.engine.refuse(request, error),
            }
            return;
        }
        let (number, before) = (self.expected.next_call_id(), self.out.len());
        if !promise.goes_out(number) {
            return;
        }
        match self.encode(P::Correlation::id_from(number), &request) {
            Ok(()) => {
                let bytes = self.out.len() - before;
                let keeps = *self.kept + bytes <= self.keeps;
                if keeps {
                    *self.kept += bytes;
                }
                self.expected.call(InFlight { promise, kept: keeps.then_some((request, bytes)) });
            }
            Err(error) => {
                promise.was_not_sent();
                // It may have been given up under this id.
                self.expected.skip_call_id();
                promise.fail(CallError::Encode(Arc::new(error)));
            }
        }
    }

    /// Encodes one request. A codec that panics is at fault with this one only.
    fn encode(
        &mut self,
        id: <P::Correlation as Correlation>::Id,
        request: &Request<P>,
    ) -> Result<(), EncodeError> {
        let start = self.out.len();
        let encoded = catch_unwind(AssertUnwindSafe(|| {
            P::Correlation::encode(&mut *self.codec, id, request, self.out)
        }));
        encoded.unwrap_or_else(|_| {
            self.out.truncate(start);
            Err(EncodeError::custom("the codec panicked"))
        })
    }

    /// Sends what producers pushed. Whether there was anything. Where requests linger, only those whose time has come are sent.
    pub(in crate::rpc) fn take_streamed(&mut self) -> bool {
        let mut any = self.send_unsent();
        if self.engine.options.linger.is_some() {
            return any;
        }
        let mut left = self.engine.options.batch;
        while left > 0 && self.has_room() {
            let most = left.min(STREAMED_AT_A_TIME);
            let Sender { engine, codec, expected, out, full, .. } = self;
            let Engine { streamed, unsent, .. } = &mut **engine;
            let found = streamed.drain_runs(most, |run| {
                let encoded = if unsent.is_empty() {
                    encode::<P>(codec, expected, run.as_slice(), out, *full)
                } else {
                    0
                };
                keep_rest(run, encoded, unsent);
            });
            any |= found > 0;
            left -= found;
            if !self.engine.unsent.is_empty() {
                // There was no room, or one of them is at fault.
                self.send_unsent();
            }
            if found < most {
                break;
            }
        }
        any
    }

    /// Sends what was taken from the lanes before, as far as there is room. Whether there was anything.
    fn send_unsent(&mut self) -> bool {
        if self.engine.unsent.is_empty() {
            return false;
        }
        let unsent = std::mem::take(&mut self.engine.unsent);
        let (mut done, mut faults) = (0, Vec::new());
        while done < unsent.len() && self.has_room() {
            done += encode::<P>(self.codec, self.expected, &unsent[done..], self.out, self.full);
            if done < unsent.len() && self.has_room() {
                match self.encode(streamed_id::<P::Correlation>(), &unsent[done]) {
                    Ok(()) => self.expected.streamed(1),
                    Err(error) => faults.push((done, error)),
                }
                done += 1;
            }
        }
        let mut unsent = unsent.into_iter();
        let mut faults = faults.into_iter().peekable();
        for (index, request) in unsent.by_ref().take(done).enumerate() {
            if let Some((_, error)) = faults.next_if(|(fault, _)| *fault == index) {
                self.engine.refuse(request, error);
            }
        }
        self.engine.leaving = self.engine.leaving.saturating_sub(done);
        self.engine.unsent = unsent.collect();
        done > 0
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

/// Encodes requests as long as there is room and none is at fault: how many.
fn encode<P: Protocol>(
    codec: &mut P::RequestCodec,
    expected: &mut Expected<Request<P>, Response<P>>,
    requests: &[Request<P>],
    out: &mut Vec<u8>,
    full: usize,
) -> usize {
    let (mut encoded, mut start) = (0, out.len());
    let unharmed = catch_unwind(AssertUnwindSafe(|| {
        for chunk in requests.chunks(chunk_len::<Request<P>>()) {
            start = out.len();
            if start >= full {
                break;
            }
            let count = encode_all::<P>(codec, chunk, out);
            encoded += count;
            if count < chunk.len() {
                break;
            }
        }
    }));
    if unharmed.is_err() {
        // What the codec had written of this chunk is taken back. Its requests are tried one by one then.
        out.truncate(start);
    }
    expected.streamed(encoded as u64);
    encoded
}

/// Encodes pushes that lie at the beginning of a run, as long as there is room and none is at fault: how many. Whatever is
/// special is left to those who take requests one by one.
fn encode_pushed<P: Protocol>(
    codec: &mut P::RequestCodec,
    run: &[Pending<Request<P>, Response<P>>],
    out: &mut Vec<u8>,
    full: usize,
) -> usize {
    let (mut encoded, mut start) = (0, out.len());
    let unharmed = catch_unwind(AssertUnwindSafe(|| {
        for Pending { request, .. } in run.iter().take_while(|pending| !pending.promise.is_call()) {
            start = out.len();
            if start >= full
                || P::Correlation::encode(codec, streamed_id::<P::Correlation>(), request, out).is_err()
            {
                break;
            }
            encoded += 1;
        }
    }));
    if unharmed.is_err() {
        out.truncate(start);
    }
    encoded
}

/// Plain values take about as many bytes on the wire as in memory. What owns something may take any number of them.
fn chunk_len<T>() -> usize {
    if std::mem::needs_drop::<T>() { 1 } else { (BYTES_AT_A_TIME / size_of::<T>().max(1)).max(1) }
}

/// How many could be encoded before one that could not.
fn encode_all<P: Protocol>(codec: &mut P::RequestCodec, requests: &[Request<P>], out: &mut Vec<u8>) -> usize {
    if P::Correlation::KIND != CorrelationKind::ById {
        return codec.encode_all(requests, out).map_or_else(|error| error.index, |()| requests.len());
    }
    let id = streamed_id::<P::Correlation>();
    let mut encode = |request: &&Request<P>| P::Correlation::encode(codec, id.clone(), *request, out).is_ok();
    requests.iter().take_while(|request| encode(request)).count()
}
