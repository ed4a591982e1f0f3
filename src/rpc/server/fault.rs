//! What a server found wrong with a connection, and who hears of it.

use super::metrics::Tally;
use crate::codec::{DecodeError, EncodeError};
use crate::config::FAULT_LOG_INTERVAL;
use crate::log;
use crate::reactor::Address;
use crate::rpc::notice::Why;
use parking_lot::Mutex;
use std::fmt;
use std::time::{Duration, Instant};

/// Why a server ended a connection.
#[derive(Debug)]
#[non_exhaustive]
pub enum Fault {
    /// The peer sent what is no request.
    Decode(DecodeError),
    /// A request has no response, and nothing could be sent instead.
    NoResponse {
        /// Its number on the connection: see [`Reply::request_number`](crate::rpc::Reply::request_number).
        request: u64,
        /// Why it has none.
        reason: String,
    },
    /// More responses were waiting for the peer to read, or for those before them, than allowed.
    HeldLimit {
        /// Bytes that were waiting.
        pending: usize,
        /// The limit ([`ServerOptions::held_limits`](crate::rpc::ServerOptions::held_limits)).
        limit: usize,
    },
    /// The peer sent a part of a request, and not the rest of it in time.
    HalfRequest {
        /// The limit ([`ServerOptions::half_request_timeout`](crate::rpc::ServerOptions::half_request_timeout)).
        limit: Duration,
    },
    /// The peer sent nothing for too long.
    Idle {
        /// The limit ([`ServerOptions::idle_timeout`](crate::rpc::ServerOptions::idle_timeout)).
        limit: Duration,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Decode(error) => write!(f, "no request: {error}"),
            Fault::NoResponse { request, reason } => {
                write!(f, "request {request} of the connection has no response: {reason}")
            }
            Fault::HeldLimit { pending, limit } => {
                write!(f, "{pending} bytes of responses were waiting to be sent; the limit is {limit}")
            }
            Fault::HalfRequest { limit } => {
                write!(f, "the peer sent a part of a request and not the rest within {limit:?}")
            }
            Fault::Idle { limit } => write!(f, "the peer sent nothing for {limit:?}"),
        }
    }
}

impl std::error::Error for Fault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Fault::Decode(error) => Some(error),
            _ => None,
        }
    }
}

/// Kinds of faults that are logged apart from each other.
#[derive(Clone, Copy)]
enum Kind {
    Decode,
    HeldLimit,
    HalfRequest,
    Dropped,
    Panicked,
    TimedOut,
    NotEncodable,
}

/// Says something, unless the same kind was said a moment ago.
fn say(kind: Kind, peer: &Address, what: fmt::Arguments<'_>) {
    /// When a kind was said last, and how often it was not since then.
    type Said = Option<(Instant, u64)>;
    static SAID: Mutex<[Said; Kind::NotEncodable as usize + 1]> =
        Mutex::new([None; Kind::NotEncodable as usize + 1]);
    let now = Instant::now();
    let unsaid = match &mut SAID.lock()[kind as usize] {
        Some((last, unsaid)) if now.duration_since(*last) < FAULT_LOG_INTERVAL => {
            *unsaid += 1;
            return;
        }
        said => said.replace((now, 0)).map_or(0, |(_, unsaid)| unsaid),
    };
    log::server_fault(peer, what, unsaid);
}

/// Counts a fault, and says it if that is news.
pub(super) fn report(fault: &Fault, peer: &Address, tally: &Tally) {
    let (counter, kind) = match fault {
        Fault::Decode(_) => (&tally.decode_errors, Kind::Decode),
        Fault::HeldLimit { .. } => (&tally.over_limit, Kind::HeldLimit),
        Fault::HalfRequest { .. } => (&tally.peers_timed_out, Kind::HalfRequest),
        // Not worth a line.
        Fault::Idle { .. } => return tally.peers_timed_out.add(1),
        // Counted and said where it was found.
        Fault::NoResponse { .. } => return,
    };
    counter.add(1);
    say(kind, peer, format_args!("{fault}; the connection is closed"));
}

/// Counts a request without a response, and says it if that is news.
pub(super) fn report_missing(why: Why, error: Option<&EncodeError>, peer: &Address, tally: &Tally) {
    let (counter, kind) = match why {
        Why::Dropped => (&tally.dropped, Kind::Dropped),
        Why::Panicked => (&tally.panics, Kind::Panicked),
        Why::TimedOut => (&tally.timed_out, Kind::TimedOut),
        Why::NotEncodable => (&tally.encode_errors, Kind::NotEncodable),
    };
    counter.add(1);
    match error {
        Some(error) => say(kind, peer, format_args!("a request has no response: {error}")),
        None => say(kind, peer, format_args!("a request has no response: {}", why.text())),
    }
}
