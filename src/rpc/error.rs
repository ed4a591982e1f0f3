//! Why a call has no response.

use crate::codec::EncodeError;
use std::fmt;
use std::sync::Arc;

/// Why a call has no response, and whether the server may have executed it all the same.
#[derive(Debug)]
#[non_exhaustive]
pub enum CallError {
    /// The request never left this process, so it was not executed. It may be tried again, with another client.
    NotSent(Arc<str>),
    /// The connection was lost behind the request: it may have been executed, or not.
    Lost(Arc<str>),
    /// The deadline passed. If the request had been sent by then, it may be executed yet.
    TimedOut {
        /// Whether it had been handed to the connection.
        sent: bool,
    },
    /// The request cannot be encoded; it was not sent.
    Encode(EncodeError),
}

impl CallError {
    /// Whether the server may have executed the request, or may yet. If not, trying again is safe.
    pub fn may_have_been_executed(&self) -> bool {
        match self {
            CallError::NotSent(_) | CallError::Encode(_) => false,
            CallError::Lost(_) => true,
            CallError::TimedOut { sent } => *sent,
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::NotSent(reason) => write!(f, "the request was not sent: {reason}"),
            CallError::Lost(reason) => {
                write!(
                    f,
                    "the connection was lost before the response, and the request may have been executed: {reason}"
                )
            }
            CallError::TimedOut { sent: true } => f.write_str(
                "no response before the deadline; the request was sent and may have been executed",
            ),
            CallError::TimedOut { sent: false } => {
                f.write_str("the request could not be sent before the deadline")
            }
            CallError::Encode(error) => write!(f, "the request cannot be encoded: {error}"),
        }
    }
}

impl std::error::Error for CallError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            CallError::Encode(error) => Some(error),
            _ => None,
        }
    }
}

/// A client's connection ended before everything was answered.
#[derive(Clone, Debug)]
#[must_use]
pub struct Unfinished {
    pub(super) reason: Arc<str>,
    pub(super) unanswered: u64,
    pub(super) unsent: usize,
}

impl Unfinished {
    /// Requests that were sent and have no response; each may have been executed. Those that were pushed count on every
    /// connection that the client had; calls only on the last, and only those that somebody waited for: any other has told
    /// its caller, or was given up. For protocols without correlation this is not known, and 0.
    pub fn unanswered(&self) -> u64 {
        self.unanswered
    }

    /// Requests that were accepted and never sent.
    pub fn unsent(&self) -> usize {
        self.unsent
    }
}

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Unfinished { reason, unanswered, unsent } = self;
        write!(
            f,
            "the connection ended ({reason}) with {unanswered} requests unanswered and {unsent} not sent"
        )
    }
}

impl std::error::Error for Unfinished {}
