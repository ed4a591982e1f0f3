//! What a client does with responses.

use super::expected::{Expected, InFlight, Recipient, streamed_id};
use super::target::Target;
use crate::codec::{Correlation, CorrelationKind, EncodeError, Protocol, Request, Response, ResponseRef};
use crate::rpc::Unfinished;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// The client's side of one connection, on the reactor: gets the responses of requests that were made here or by producers.
/// Those of a [`Call`](crate::rpc::Call) go to the one who made it.
///
/// A closure `FnMut(response)` is one. It lives as long as its client: one that owns the client, too, keeps it from ever being
/// dropped, and has to close it. If it panics, the client ends: nobody knows what state it is in.
pub trait Caller<P: Protocol>: Send + 'static {
    /// The connection is established, for the first time or anew. Requests made here go out at once: no queue, no other thread.
    fn on_open(&mut self, requests: &mut Requests<'_, P>) {
        let _ = requests;
    }

    /// A response came. Requests made here leave with all others of this turn.
    fn on_response(&mut self, requests: &mut Requests<'_, P>, response: ResponseRef<'_, P>);

    /// By id: the server sent what no request asked for ([`Connection::push`](crate::rpc::Connection::push)). Unless this is defined,
    /// it is thrown away. In order nobody can tell it from a response, and without correlation it comes to
    /// [`on_response`](Self::on_response). Here, too, [`Requests::pause_responses`] is the way to have the server wait.
    fn on_push(&mut self, requests: &mut Requests<'_, P>, message: ResponseRef<'_, P>) {
        let _ = (requests, message);
    }

    /// A request that was pushed cannot be encoded and was not sent; here it is. It counts in
    /// [`Unfinished::not_encoded`], and hurts no other.
    fn on_refused(&mut self, request: Request<P>, error: EncodeError) {
        crate::log::not_encoded(&error);
        drop(request);
    }

    /// The client has ended, with everything answered or not.
    fn on_close(&mut self, end: &Result<(), Unfinished>) {
        let _ = end;
    }
}

impl<P: Protocol, F> Caller<P> for F
where
    F: FnMut(ResponseRef<'_, P>) + Send + 'static,
{
    #[inline]
    fn on_response(&mut self, _requests: &mut Requests<'_, P>, response: ResponseRef<'_, P>) {
        self(response);
    }
}

/// Throws away what nobody called for.
#[derive(Clone, Copy, Debug)]
pub struct NoCaller;

impl<P: Protocol> Caller<P> for NoCaller {
    fn on_response(&mut self, _requests: &mut Requests<'_, P>, _response: ResponseRef<'_, P>) {}
}

/// A caller, and a callback for what the server sends unasked; from
/// [`ClientBuilder::on_push`](crate::rpc::ClientBuilder::on_push).
#[derive(Clone, Copy, Debug)]
pub struct WithPushes<K, F> {
    pub(in crate::rpc) caller: K,
    pub(in crate::rpc) on_push: F,
}

impl<P: Protocol, K: Caller<P>, F> Caller<P> for WithPushes<K, F>
where
    F: FnMut(ResponseRef<'_, P>) + Send + 'static,
{
    fn on_open(&mut self, requests: &mut Requests<'_, P>) {
        self.caller.on_open(requests);
    }

    #[inline]
    fn on_response(&mut self, requests: &mut Requests<'_, P>, response: ResponseRef<'_, P>) {
        self.caller.on_response(requests, response);
    }

    fn on_push(&mut self, _requests: &mut Requests<'_, P>, message: ResponseRef<'_, P>) {
        (self.on_push)(message);
    }

    fn on_refused(&mut self, request: Request<P>, error: EncodeError) {
        self.caller.on_refused(request, error);
    }

    fn on_close(&mut self, end: &Result<(), Unfinished>) {
        self.caller.on_close(end);
    }
}

/// The way to make requests on the reactor itself.
pub struct Requests<'a, P: Protocol> {
    codec: &'a mut P::RequestCodec,
    expected: &'a mut Expected<Request<P>, Response<P>>,
    /// The connection's output, taken out of it for the time of this value. As nothing that is called where there is nothing
    /// special to do has this value's address, the compiler can keep all of it in registers.
    out: ManuallyDrop<Vec<u8>>,
    home: &'a mut Vec<u8>,
    full: usize,
    /// What was received and not decoded yet. Empty while responses are to wait: the loop needs to look at nothing else.
    pub(in crate::rpc) input: &'a [u8],
    held: &'a [u8],
    target: &'a Target,
    /// The output has not ended.
    accepts: bool,
    /// Streamed requests that were made here and that `expected` does not know of yet.
    made: u64,
    /// Streamed requests that were taken out of `expected` and have no response yet.
    due: u64,
}

impl<'a, P: Protocol> Requests<'a, P> {
    pub(in crate::rpc) fn new(
        codec: &'a mut P::RequestCodec,
        expected: &'a mut Expected<Request<P>, Response<P>>,
        home: &'a mut Vec<u8>,
        room: usize,
        accepts: bool,
        target: &'a Target,
    ) -> Self {
        let out = ManuallyDrop::new(std::mem::take(home));
        let full = out.len().saturating_add(room);
        Requests { codec, expected, full, out, home, input: &[], held: &[], target, accepts, made: 0, due: 0 }
    }

    /// Stops reading: no response comes behind this one until [`Client::resume_responses`](crate::rpc::Client::resume_responses).
    /// The server notices by and by, and takes no more requests.
    pub fn pause_responses(&mut self) {
        self.target.set_paused();
        self.hold();
    }

    /// Has what was received and not decoded wait.
    pub(in crate::rpc) fn hold(&mut self) {
        if self.held.is_empty() {
            self.held = std::mem::take(&mut self.input);
        }
    }

    /// What was received and is not to be decoded now.
    pub(in crate::rpc) fn held(&self) -> &'a [u8] {
        self.held
    }

    /// Makes a request, whose response comes to [`Caller::on_response`].
    ///
    /// # Errors
    ///
    /// The request cannot be encoded; or the client was closed and only responses are still coming, or the last one came with the
    /// connection's end.
    #[inline]
    pub fn push(&mut self, request: &Request<P>) -> Result<(), EncodeError> {
        if !self.accepts {
            return Err(EncodeError::custom(
                "the client is closed, or its connection ends: no request can be made here any more",
            ));
        }
        P::Correlation::encode(self.codec, streamed_id::<P::Correlation>(), request, &mut self.out)?;
        self.made += 1;
        Ok(())
    }

    /// Bytes of requests that may still be written before those of calls and producers wait. What is written beyond that
    /// counts up to the hard limit of output, where the connection is closed.
    pub fn room(&self) -> usize {
        self.full.saturating_sub(self.out.len())
    }

    /// Requests in flight; 0 if the protocol has no correlation, when nobody can know.
    pub fn in_flight(&self) -> u64 {
        match P::Correlation::KIND {
            CorrelationKind::Uncorrelated => 0,
            CorrelationKind::InOrder | CorrelationKind::ById => {
                self.expected.requests() + self.made + self.due
            }
        }
    }

    /// One of several responses has come for a call that was taken out for it.
    #[cold]
    pub(in crate::rpc) fn hand_out_part(
        &mut self,
        id: u64,
        call: InFlight<Request<P>, Response<P>>,
        response: Response<P>,
        bytes: usize,
    ) {
        let promise = call.promise;
        let is_last = catch_unwind(AssertUnwindSafe(|| promise.ends_with(&response)));
        if matches!(is_last, Ok(true)) {
            return promise.fulfil(response);
        }
        if is_last.is_ok() && promise.put(response, bytes) {
            self.hold();
        }
        // What was begun is not made again.
        self.expected.put_back(id, InFlight { promise, kept: None });
        if let Err(panic) = is_last {
            resume_unwind(panic);
        }
    }

    /// Whom the next response, which has this id, is for.
    #[inline]
    pub(in crate::rpc) fn recipient(&mut self, id: u64) -> Option<Recipient<Request<P>, Response<P>>> {
        if self.due == 0 {
            self.due = take_due(self.expected, std::mem::take(&mut self.made));
            if self.due == 0 {
                return self.expected.recipient(id);
            }
        }
        self.due -= 1;
        Some(Recipient::Callback)
    }
}

/// How many responses from the next one on are for the callback, now that `expected` knows of those made since.
#[cold]
#[inline(never)]
fn take_due<Q, R>(expected: &mut Expected<Q, R>, made: u64) -> u64 {
    expected.streamed(made);
    expected.take_streamed()
}

#[cold]
#[inline(never)]
fn give_back<Q, R>(expected: &mut Expected<Q, R>, made: u64, due: u64, home: &mut Vec<u8>, out: Vec<u8>) {
    expected.streamed(made);
    expected.put_back_streamed(due);
    *home = out;
}

impl<P: Protocol> Drop for Requests<'_, P> {
    #[inline]
    fn drop(&mut self) {
        let out = ManuallyDrop::into_inner(std::mem::take(&mut self.out));
        give_back(self.expected, self.made, self.due, self.home, out);
    }
}

impl<P: Protocol> std::fmt::Debug for Requests<'_, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Requests").field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}
