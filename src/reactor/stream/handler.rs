//! What an application does with a connection.

use super::io::Io;
use crate::error::copy;
use crate::reactor::Reactor;
use std::any::Any;
use std::fmt;
use std::io;
use std::time::Duration;

/// The application's half of a connection. Made by the factory given to `listen` or `connect`, on the reactor's thread,
/// where it stays: it needs no locks and need not be `Send`.
///
/// A panic in any of these closes the connection and harms no other.
pub trait Handler: Any {
    /// The connection is established.
    fn on_open(&mut self, io: &mut Io<'_>) {
        let _ = io;
    }

    /// Bytes arrived; they lie where the kernel put them. Returns how many were consumed; the rest comes again with
    /// more behind it.
    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize;

    /// The peer sends no more. Unconsumed bytes, if any, stay unconsumed: [`Io::unconsumed`] tells what was left over, which is
    /// the beginning of something that the peer did not finish, and nothing where its stream ended as it should. What happens next
    /// is the handler's choice; unless it chooses, pending output is sent and the connection closed.
    fn on_end(&mut self, io: &mut Io<'_>) {
        io.close();
    }

    /// So much output had been waiting, and so much of it has been taken, that no more than the low-water mark
    /// ([`StreamOptions::low_water`](crate::reactor::StreamOptions::low_water)) is left: time to write on, if the peer shall not run dry.
    fn on_room(&mut self, io: &mut Io<'_>) {
        let _ = io;
    }

    /// The kernel has taken all output, with all files that were [written](Io::write_file).
    fn on_drained(&mut self, io: &mut Io<'_>) {
        let _ = io;
    }

    /// [`Handle::notify`](crate::reactor::Handle::notify) was called, once or more often, since the last time.
    fn on_notify(&mut self, io: &mut Io<'_>) {
        let _ = io;
    }

    /// What is asked in every turn while [`Io::poll_me`] holds, if the handler has such a thing: often the handler itself.
    fn polled(&mut self) -> Option<&mut dyn Polled> {
        None
    }

    /// The timer set by [`Io::set_timer`] expired.
    fn on_timer(&mut self, io: &mut Io<'_>) {
        let _ = io;
    }

    /// The connection is to end: because the reactor, or the server, wants to stop, because it is
    /// [too old](crate::reactor::ListenOptions::lifetime), or because its peer has been silent for
    /// [too long](crate::reactor::StreamOptions::idle_timeout). A handler that knows that nothing is in progress
    /// [closes](Io::close), one that is in the middle of something goes on until that is done, and who is still there at the deadline
    /// is cut off, with a reset.
    ///
    /// Unless it chooses, the connection is closed if it is at rest: no output waits, no input is unconsumed, and nobody else
    /// has a [`Handle`](crate::reactor::Handle) to write through. If it is not, or if the peer goes on sending, it is closed
    /// as one that is [not finished](Io::close_unfinished), so that a part is not taken for the whole.
    fn on_shutdown(&mut self, io: &mut Io<'_>) {
        io.stop();
    }

    /// The connection has ended, or was never established. The last call; the reactor is there to connect once more, for
    /// example, or to do that later ([`Reactor::after`]).
    fn on_close(&mut self, reason: &CloseReason, reactor: &mut Reactor) {
        let _ = (reason, reactor);
    }
}

/// A handler, or a part of one, that takes from queues which other threads fill without telling, such as a
/// [`Consumer`](crate::batch::Consumer)'s. See [`Handler::polled`].
pub trait Polled {
    /// Called in every turn. `true` if there was something to do. Once there was nothing for a few turns, the reactor lets go of
    /// the handler, and before it sleeps in any case; then [`prepare_sleep`](Self::prepare_sleep) is called.
    fn on_poll(&mut self, io: &mut Io<'_>) -> bool;

    /// There will be no more polls: from now on the queues have to [`notify`](crate::reactor::Handle::notify). Behind this call the
    /// reactor passes [`sleep_barrier`](crate::batch::sleep_barrier).
    fn prepare_sleep(&mut self);

    /// Asked behind that barrier: whether something came in the meantime. Then polling goes on.
    fn is_ready(&self) -> bool;
}

/// Why a connection ended, and who ended it.
///
/// Whenever this side cuts a connection off, the peer of a TCP connection sees a reset and never an orderly end of the stream, so
/// that it cannot take a part for the whole. Unix-domain sockets know no reset: there it sees the end.
#[derive(Debug)]
#[non_exhaustive]
pub enum CloseReason {
    /// This side ended it first, everything that was written was handed to the kernel, and the peer ended its side too.
    Closed,
    /// The peer ended its stream first, and everything that was written was handed to the kernel.
    ByPeer,
    /// This side closed it, and everything that was written was handed to the kernel; but the peer did not end its side in
    /// time, so that nobody knows what it has read.
    CloseTimeout {
        /// How long it had ([`StreamOptions::close_timeout`](crate::reactor::StreamOptions::close_timeout)).
        timeout: Duration,
    },
    /// This side closed it, and then the peer took none of the output that was left for too long.
    FlushTimeout {
        /// Bytes that are lost.
        pending: usize,
        /// The limit ([`StreamOptions::flush_timeout`](crate::reactor::StreamOptions::flush_timeout)).
        timeout: Duration,
    },
    /// The peer took none of the output that was waiting for it for too long.
    WriteStalled {
        /// Bytes that are lost.
        pending: usize,
        /// The limit ([`StreamOptions::write_stall_timeout`](crate::reactor::StreamOptions::write_stall_timeout)).
        timeout: Duration,
    },
    /// Output waited for the peer all the time, and it took less than it had to.
    WriteTooSlow {
        /// Bytes that are lost.
        pending: usize,
        /// Bytes that it took in the last period.
        taken: usize,
        /// Bytes that it had to take.
        least: usize,
        /// The period ([`StreamOptions::write_rate`](crate::reactor::StreamOptions::write_rate)).
        period: Duration,
    },
    /// The peer had not said anything yet, and the connection was closed by this side, as for
    /// [`IdleTimeout`](Self::IdleTimeout).
    OpeningTimeout {
        /// The limit ([`StreamOptions::opening_timeout`](crate::reactor::StreamOptions::opening_timeout)).
        timeout: Duration,
    },
    /// The peer took too long for the rest of a message.
    MessageTimeout {
        /// Bytes of it that had arrived.
        pending: usize,
        /// The limit ([`StreamOptions::message_timeout`](crate::reactor::StreamOptions::message_timeout)).
        timeout: Duration,
    },
    /// Nothing had moved for too long, and it was closed by this side: in good order if nothing was in progress, with a reset if output
    /// waited.
    IdleTimeout {
        /// The limit ([`StreamOptions::idle_timeout`](crate::reactor::StreamOptions::idle_timeout)).
        timeout: Duration,
    },
    /// It was asked to end because of its age, and had not ended in time.
    LifetimeOver {
        /// The limit ([`ListenOptions::lifetime`](crate::reactor::ListenOptions::lifetime)).
        lifetime: Duration,
    },
    /// The filter of the connection, such as TLS, had not come to terms with the peer in time.
    HandshakeTimeout {
        /// The limit ([`StreamOptions::handshake_timeout`](crate::reactor::StreamOptions::handshake_timeout)).
        timeout: Duration,
    },
    /// A server that takes its peers' addresses [from proxies](crate::reactor::ListenOptions::proxy_protocol) could not: the peer is not
    /// one of those that may say one, or what it sent is no header. Told by the log and a counter, for there is no handler yet.
    ProxyHeader {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The peer's stream ended at the socket without the end that TLS has of its own, or in the middle of the handshake: somebody on the
    /// way may have cut it short, and what was received may be a part. All of it was delivered before.
    Truncated,
    /// TLS failed: because the two sides found no terms, or do not trust each other, or because what arrived had been tampered with. An
    /// alert has told the peer.
    #[cfg(any(feature = "tls", feature = "tls-ring"))]
    Tls(crate::tls::Error),
    /// This side aborted it, or closed it as not finished: what was not sent, or not confirmed, by then is lost.
    Aborted,
    /// The socket failed, for example because the peer reset the connection. When it was sending that failed, what had arrived
    /// before was still delivered.
    Failed(io::Error),
    /// It could not be established.
    ConnectFailed(io::Error),
    /// The peer read too slowly: more output was waiting than allowed.
    OutputLimit {
        /// Bytes that were waiting.
        pending: usize,
        /// The limit ([`StreamOptions::output_limits`](crate::reactor::StreamOptions::output_limits)).
        limit: usize,
    },
    /// The handler left more input unconsumed than allowed.
    InputLimit {
        /// Bytes that were unconsumed.
        pending: usize,
        /// The limit ([`StreamOptions::input_limit`](crate::reactor::StreamOptions::input_limit)).
        limit: usize,
    },
    /// A file that was [written](Io::write_file) could not be read: it has become shorter, or the system says why.
    FileFailed {
        /// Bytes of the range that are missing.
        missing: u64,
        /// What happened; `UnexpectedEof` if it has become shorter.
        error: io::Error,
    },
    /// All connections of the runtime together held more than they may, and this one the most.
    MemoryBudget {
        /// Bytes that it held.
        held: usize,
        /// Bytes that all of them held.
        all: usize,
        /// The limit ([`RuntimeBuilder::memory_budget`](crate::net::RuntimeBuilder::memory_budget)).
        limit: usize,
    },
    /// The handler took away output that had been written before it, through [`Io::out`], which is there to be appended to.
    OutputDamaged,
    /// The handler panicked.
    Panicked,
    /// Something in this library panicked while it looked after the connection. It is a bug; the other connections go on.
    Internal,
    /// It was to end before it was finished, because the reactor or its server stopped, or because of its age.
    Shutdown,
}

/// An error of the system is the same in the copy; of any other, kind and text are.
impl Clone for CloseReason {
    fn clone(&self) -> Self {
        use CloseReason::*;
        match *self {
            Closed => Closed,
            ByPeer => ByPeer,
            CloseTimeout { timeout } => CloseTimeout { timeout },
            FlushTimeout { pending, timeout } => FlushTimeout { pending, timeout },
            WriteStalled { pending, timeout } => WriteStalled { pending, timeout },
            WriteTooSlow { pending, taken, least, period } => WriteTooSlow { pending, taken, least, period },
            OpeningTimeout { timeout } => OpeningTimeout { timeout },
            MessageTimeout { pending, timeout } => MessageTimeout { pending, timeout },
            IdleTimeout { timeout } => IdleTimeout { timeout },
            LifetimeOver { lifetime } => LifetimeOver { lifetime },
            HandshakeTimeout { timeout } => HandshakeTimeout { timeout },
            ProxyHeader { problem } => ProxyHeader { problem },
            Truncated => Truncated,
            #[cfg(any(feature = "tls", feature = "tls-ring"))]
            Tls(ref error) => Tls(error.clone()),
            Aborted => Aborted,
            Failed(ref error) => Failed(copy(error)),
            ConnectFailed(ref error) => ConnectFailed(copy(error)),
            OutputLimit { pending, limit } => OutputLimit { pending, limit },
            InputLimit { pending, limit } => InputLimit { pending, limit },
            FileFailed { missing, ref error } => FileFailed { missing, error: copy(error) },
            MemoryBudget { held, all, limit } => MemoryBudget { held, all, limit },
            OutputDamaged => OutputDamaged,
            Panicked => Panicked,
            Internal => Internal,
            Shutdown => Shutdown,
        }
    }
}

impl CloseReason {
    /// Both sides ended their streams: nothing that was written is known to be lost, in either direction.
    pub fn is_clean(&self) -> bool {
        matches!(self, CloseReason::Closed | CloseReason::ByPeer)
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::Closed => f.write_str("closed by this side"),
            CloseReason::ByPeer => f.write_str("closed by the peer"),
            CloseReason::CloseTimeout { timeout } => {
                write!(f, "closed by this side; the peer did not end its side within {timeout:?}")
            }
            CloseReason::FlushTimeout { pending, timeout } => {
                write!(
                    f,
                    "closed by this side; the peer took none of the last {pending} bytes for {timeout:?}"
                )
            }
            CloseReason::WriteStalled { pending, timeout } => {
                write!(f, "the peer took none of {pending} bytes of output for {timeout:?}")
            }
            CloseReason::WriteTooSlow { pending, taken, least, period } => write!(
                f,
                "the peer took {taken} bytes within {period:?}, and has to take {least}; {pending} were left"
            ),
            CloseReason::OpeningTimeout { timeout } => write!(f, "the peer said nothing for {timeout:?}"),
            CloseReason::MessageTimeout { pending, timeout } => {
                write!(
                    f,
                    "the peer did not send the rest of a message within {timeout:?}, only {pending} bytes of it"
                )
            }
            CloseReason::IdleTimeout { timeout } => write!(f, "nothing had moved for {timeout:?}"),
            CloseReason::LifetimeOver { lifetime } => {
                write!(f, "it was older than {lifetime:?} and did not end when it was asked to")
            }
            CloseReason::HandshakeTimeout { timeout } => {
                write!(f, "the peer did not finish the handshake within {timeout:?}")
            }
            CloseReason::ProxyHeader { problem } => write!(f, "no header of the PROXY protocol: {problem}"),
            CloseReason::Truncated => f.write_str("the peer's stream was cut short"),
            #[cfg(any(feature = "tls", feature = "tls-ring"))]
            CloseReason::Tls(error) => write!(f, "TLS failed: {error}"),
            CloseReason::Aborted => f.write_str("aborted by this side"),
            CloseReason::Failed(error) => write!(f, "the connection failed: {error}"),
            CloseReason::ConnectFailed(error) => write!(f, "could not connect: {error}"),
            CloseReason::OutputLimit { pending, limit } => {
                write!(f, "{pending} bytes of output waited for the peer; the limit is {limit}")
            }
            CloseReason::InputLimit { pending, limit } => {
                write!(f, "the handler left {pending} bytes of input unconsumed; the limit is {limit}")
            }
            CloseReason::FileFailed { missing, error } => {
                write!(f, "a file could not be sent; its last {missing} bytes are missing: {error}")
            }
            CloseReason::MemoryBudget { held, all, limit } => {
                write!(
                    f,
                    "it held {held} bytes, more than any other; all held {all}, and the limit is {limit}"
                )
            }
            CloseReason::OutputDamaged => {
                f.write_str("the handler took away output that had been written before, through `Io::out`")
            }
            CloseReason::Panicked => f.write_str("the handler panicked"),
            CloseReason::Internal => {
                f.write_str("trochus itself panicked while it looked after the connection, which is a bug")
            }
            CloseReason::Shutdown => f.write_str("the reactor stopped"),
        }
    }
}
