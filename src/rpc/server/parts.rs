//! Several responses to one request, and responses that nobody asked for.

use super::later::{Later, Said};
use crate::reactor::Address;
use crate::rpc::notice::Why;
use std::fmt;
use std::sync::Arc;

/// Answers one request by several responses, of which the client must know which is the last. By id, each carries the request's id;
/// in order, they leave one behind the other when it is the request's turn.
///
/// Dropped without [`finish`](Self::finish), it counts as a reply that was dropped.
#[must_use = "dropped without `finish`, it counts as a reply that was dropped"]
pub struct Parts<R> {
    pub(super) later: Arc<Later<R>>,
    pub(super) ticket: u64,
    pub(super) ended: bool,
}

/// Why a response was not taken; it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PushRefused<R> {
    /// The connection has ended, or the request's time is over.
    Closed(R),
    /// More waits to be sent than should ([`ServerOptions::held_limits`](crate::rpc::ServerOptions::held_limits)): the client
    /// reads too slowly.
    Full(R),
}

impl<R> Parts<R> {
    /// Sends one of the responses. Never waits.
    pub fn push(&self, part: R) -> Result<(), PushRefused<R>> {
        if !self.later.is_wanted(self.ticket) {
            return Err(PushRefused::Closed(part));
        }
        push(&self.later, self.ticket, part)
    }

    /// There are no more. Says nothing on the wire: if the protocol has words for that, they are in the last response.
    pub fn finish(mut self) {
        self.ended = true;
        let _ = self.later.put(self.ticket, Said::End);
    }

    /// Whether anybody still waits for them: see [`Reply::is_wanted`](crate::rpc::Reply::is_wanted).
    pub fn is_wanted(&self) -> bool {
        self.later.is_wanted(self.ticket)
    }

    /// The number of the request on its connection: see [`Reply::request_number`](crate::rpc::Reply::request_number).
    pub fn request_number(&self) -> u64 {
        self.ticket
    }

    /// Who asked.
    pub fn peer(&self) -> &Address {
        self.later.peer()
    }
}

impl<R> Drop for Parts<R> {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.later.put(self.ticket, Said::Nothing(Why::Dropped));
        }
    }
}

impl<R> fmt::Debug for Parts<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts")
            .field("request", &self.ticket)
            .field("peer", self.peer())
            .finish_non_exhaustive()
    }
}

/// Hands over a response that is one of several, unless there are too many already.
pub(in crate::rpc) fn push<R>(later: &Later<R>, ticket: u64, response: R) -> Result<(), PushRefused<R>> {
    if later.is_congested() {
        return Err(PushRefused::Full(response));
    }
    match later.put(ticket, Said::Part(response)) {
        Err(Said::Part(response)) => Err(PushRefused::Closed(response)),
        _ => Ok(()),
    }
}

impl<R> fmt::Display for PushRefused<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PushRefused::Closed(_) => "nobody waits for the response any more",
            PushRefused::Full(_) => "too much waits to be sent already: the client reads too slowly",
        })
    }
}

impl<R: fmt::Debug> std::error::Error for PushRefused<R> {}
