//! Why a call has no response.

use crate::codec::EncodeError;
use std::fmt;
use std::io;
use std::sync::Arc;

/// Why something ended, in words and as a kind. Cheap to clone, for many calls may end for the same cause.
#[derive(Clone, PartialEq, Eq)]
pub struct Cause {
    kind: io::ErrorKind,
    text: Arc<str>,
}

impl Cause {
    pub(super) fn new(kind: io::ErrorKind, text: impl Into<Arc<str>>) -> Self {
        Cause { kind, text: text.into() }
    }

    /// What kind of error it is, as the system would say.
    pub fn kind(&self) -> io::ErrorKind {
        self.kind
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({:?})", self.kind, &*self.text)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a call has no response, and whether the server may have executed it all the same.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CallError {
    /// The request never left this process, or the server said that it did not take it: it was not executed. It may be tried
    /// again, with another client.
    NotSent(Cause),
    /// The connection was lost behind the request, or the server said that it took it and has no response: it may have been
    /// executed, or not.
    Lost(Cause),
    /// The deadline passed. If the request had been sent by then, it may be executed yet.
    TimedOut {
        /// Whether it had been handed to the connection.
        sent: bool,
    },
    /// The request cannot be encoded; it was not sent.
    Encode(Arc<EncodeError>),
    /// [`Call::wait`](crate::rpc::Call::wait), or [`ResponseParts::wait_next`](crate::rpc::ResponseParts::wait_next), was called on a
    /// reactor's own thread, where it would wait for what only that thread can do. The call is given up: await it, or use
    /// [`Client::try_send`](crate::rpc::Client::try_send) there.
    OnReactorThread {
        /// Whether the request had been handed to the connection.
        sent: bool,
    },
}

impl CallError {
    /// Whether the server may have executed the request, or may yet. If not, trying again is safe.
    pub fn may_have_been_executed(&self) -> bool {
        match self {
            CallError::NotSent(_) | CallError::Encode(_) => false,
            CallError::Lost(_) => true,
            CallError::TimedOut { sent } | CallError::OnReactorThread { sent } => *sent,
        }
    }

    /// What kind of error it is, as the system would say.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            CallError::NotSent(cause) | CallError::Lost(cause) => cause.kind(),
            CallError::TimedOut { .. } => io::ErrorKind::TimedOut,
            CallError::Encode(_) => io::ErrorKind::InvalidInput,
            CallError::OnReactorThread { .. } => io::ErrorKind::Deadlock,
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::NotSent(cause) => write!(f, "the request was not sent: {cause}"),
            CallError::Lost(cause) => {
                write!(
                    f,
                    "the connection was lost before the response, and the request may have been executed: {cause}"
                )
            }
            CallError::TimedOut { sent: true } => f.write_str(
                "no response before the deadline; the request was sent and may have been executed",
            ),
            CallError::TimedOut { sent: false } => {
                f.write_str("the request could not be sent before the deadline")
            }
            CallError::Encode(error) => write!(f, "the request cannot be encoded: {error}"),
            CallError::OnReactorThread { .. } => f.write_str(
                "Call::wait would wait on a reactor's own thread, for what only that thread can do: await the call, or \
                 use Client::try_send with a callback",
            ),
        }
    }
}

impl std::error::Error for CallError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            CallError::Encode(error) => Some(&**error),
            _ => None,
        }
    }
}

impl From<CallError> for io::Error {
    fn from(error: CallError) -> Self {
        io::Error::new(error.kind(), error)
    }
}

/// What a callback gets.
pub type Callback<Res> = Box<dyn FnOnce(Result<Res, CallError>) + Send>;

/// A request that was not accepted, and its callback, which was not called. Nothing is lost: both come back.
#[must_use]
pub struct SendError<Req, Res> {
    pub(super) request: Req,
    pub(super) callback: Callback<Res>,
    pub(super) full: bool,
}

impl<Req, Res> SendError<Req, Res> {
    /// Whether there was no room, and a later attempt may succeed; otherwise a call that waits was made on a reactor's own
    /// thread.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// The request and its callback, to be sent again.
    pub fn into_parts(self) -> (Req, Callback<Res>) {
        (self.request, self.callback)
    }
}

impl<Req, Res> fmt::Debug for SendError<Req, Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.full { "Full(..)" } else { "OnReactorThread(..)" })
    }
}

impl<Req, Res> fmt::Display for SendError<Req, Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.full {
            "there is no room for the request now: Client::when_room tells when there is"
        } else {
            "Client::send would wait on a reactor's own thread, for what only that thread can do: use Client::try_send"
        })
    }
}

impl<Req, Res> std::error::Error for SendError<Req, Res> {}

/// A client ended before everything was answered.
#[derive(Clone, Debug)]
#[must_use]
pub struct Unfinished {
    pub(super) cause: Cause,
    pub(super) unanswered: u64,
    pub(super) unsent: usize,
    pub(super) not_encoded: u64,
}

impl Unfinished {
    /// Requests that were sent and have no response; each may have been executed. Those that were pushed count on every
    /// connection that the client had; calls only on the last, and only those that somebody waited for: any other has told
    /// its caller, or was given up. For protocols without correlation this is not known, and 0.
    pub fn unanswered(&self) -> u64 {
        self.unanswered
    }

    /// Requests that were accepted and never sent: [`Client::take_unsent`](crate::rpc::Client::take_unsent) gives them back.
    pub fn unsent(&self) -> usize {
        self.unsent
    }

    /// Pushed requests that could not be encoded, and were handed to [`Caller::on_refused`](crate::rpc::Caller::on_refused).
    pub fn not_encoded(&self) -> u64 {
        self.not_encoded
    }

    /// Why it ended; where a connection was lost and another one found, why the first was lost.
    pub fn cause(&self) -> &Cause {
        &self.cause
    }

    /// What kind of error it is, as the system would say.
    pub fn kind(&self) -> io::ErrorKind {
        self.cause.kind()
    }
}

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Unfinished { cause, unanswered, unsent, not_encoded } = self;
        write!(
            f,
            "the connection ended ({cause}) with {unanswered} requests unanswered and {unsent} not sent"
        )?;
        if *not_encoded > 0 {
            write!(f, "; {not_encoded} could not be encoded")?;
        }
        Ok(())
    }
}

impl std::error::Error for Unfinished {}

impl From<Unfinished> for io::Error {
    fn from(error: Unfinished) -> Self {
        io::Error::new(error.kind(), error)
    }
}
