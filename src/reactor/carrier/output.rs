//! A stream's output, in the hands of its carrier.

use crate::buf::Payload;
use crate::reactor::table::ConnectionId;
use bytes::Buf;
use std::io::IoSlice;

/// Output that a [`Carrier`](super::carried::Carrier) has to bring to the peer. What was taken of it is told by
/// [`advance`](Buf::advance); its memory is the stream's, and goes back to it by [`Carried::sent`](super::carried::Carried::sent) or
/// [`Carried::refuse`](super::carried::Carried::refuse).
#[derive(Debug)]
pub struct Output {
    stream: ConnectionId,
    payload: Payload,
    taken: usize,
}

impl Output {
    pub(in crate::reactor) fn new(stream: ConnectionId, payload: Payload) -> Self {
        Output { stream, payload, taken: 0 }
    }

    /// The payload as it was, if it is this stream's, and how many of its bytes were taken.
    pub(in crate::reactor) fn into_parts(self, stream: Option<ConnectionId>) -> (Option<Payload>, usize) {
        (Some(self.payload).filter(|_| stream == Some(self.stream)), self.taken)
    }
}

impl Buf for Output {
    fn remaining(&self) -> usize {
        self.payload.len() - self.taken
    }

    fn chunk(&self) -> &[u8] {
        self.payload.chunk(self.taken)
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        self.payload.slices(self.taken, into)
    }

    fn advance(&mut self, bytes: usize) {
        assert!(bytes <= self.remaining(), "took {bytes} of {} bytes", self.remaining());
        self.taken += bytes;
    }
}
