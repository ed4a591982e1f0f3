//! What a client does with responses.

use super::Unfinished;
use super::expected::{Expected, streamed_id};
use crate::codec::{Correlation, EncodeError, Protocol, Request, Response, ResponseRef};

/// The client's side of one connection, on the reactor: gets the responses of requests that were made here or by producers.
/// Those of a [`Call`](super::Call) go to the one who made it.
///
/// A closure `FnMut(response)` is one.
pub trait Caller<P: Protocol>: Send + 'static {
    /// The connection is established, for the first time or anew. Requests made here go out at once: no queue, no other thread.
    fn on_open(&mut self, requests: &mut Requests<'_, P>) {
        let _ = requests;
    }

    /// A response came. Requests made here leave with all others of this turn.
    fn on_response(&mut self, requests: &mut Requests<'_, P>, response: ResponseRef<'_, P>);

    /// The connection has ended, with everything answered or not.
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
#[derive(Debug)]
pub(super) struct NoCaller;

impl<P: Protocol> Caller<P> for NoCaller {
    fn on_response(&mut self, _requests: &mut Requests<'_, P>, _response: ResponseRef<'_, P>) {}
}

/// The way to make requests on the reactor itself.
pub struct Requests<'a, P: Protocol> {
    pub(super) codec: &'a mut P::RequestCodec,
    pub(super) expected: &'a mut Expected<Response<P>>,
    pub(super) out: &'a mut Vec<u8>,
    pub(super) room: usize,
    /// The output has not ended.
    pub(super) accepts: bool,
}

impl<P: Protocol> Requests<'_, P> {
    /// Makes a request, whose response comes to [`Caller::on_response`].
    ///
    /// # Errors
    ///
    /// The request cannot be encoded, or the client was closed and only responses are still coming.
    #[inline]
    pub fn push(&mut self, request: &Request<P>) -> Result<(), EncodeError> {
        if !self.accepts {
            return Err(EncodeError::custom("the client is closed: no request can be made any more"));
        }
        P::Correlation::encode(self.codec, streamed_id::<P::Correlation>(), request, self.out)?;
        self.expected.streamed(1);
        Ok(())
    }

    /// Bytes of output that may still be written before the connection is not read any more.
    pub fn room(&self) -> usize {
        self.room.saturating_sub(self.out.len())
    }

    /// Requests in flight; 0 if the protocol has no correlation, when nobody can know.
    pub fn in_flight(&self) -> u64 {
        self.expected.requests()
    }
}

impl<P: Protocol> std::fmt::Debug for Requests<'_, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Requests").field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}
