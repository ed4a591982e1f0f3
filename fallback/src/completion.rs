//! What comes out of `wait`.

use crate::BufferId;
use socket2::Socket;
use std::io;

/// The outcome of an operation, or one of several outcomes of an operation that stays armed.
#[derive(Debug)]
#[must_use = "it may own a socket, a buffer of the pool or a payload"]
pub struct Completion<P> {
    /// The token that the operation was submitted with.
    pub token: u64,
    /// What happened.
    pub event: Event<P>,
    /// Whether the operation stays armed. When false, this is its last completion.
    pub more: bool,
}

/// What happened to an operation. Errors carry the system's error number.
#[derive(Debug)]
pub enum Event<P> {
    /// A listener accepted a connection: non-blocking, closed on exec, not yet attached.
    ///
    /// Errors are final: the shortage of descriptors (`EMFILE`, `ENFILE`) among them, after which the
    /// connections that wait stay in the listener's queue until the caller arms it again.
    Accepted(io::Result<Socket>),
    /// A connection was established, or failed.
    Connected(io::Result<()>),
    /// Bytes arrived, or the stream ended. `ENOBUFS`: every buffer of the pool is on loan; arm again when
    /// some were released.
    Received(io::Result<Received>),
    /// A send ended; the payload comes back. Fewer bytes than the payload holds: that was as much as one send
    /// takes ([`bytes_per_send`](crate::Settings::bytes_per_send)), or an error (or a cancellation) struck after
    /// these; sending the rest shows which.
    Sent(io::Result<usize>, P),
    /// A read of a file ended: how many bytes now lie at the start of the memory, which comes back. Fewer than it has room for:
    /// the file ends there; or the system gave no more at a time.
    Read(io::Result<usize>, Vec<u8>),
}

/// Bytes that arrived.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the buffer has to be released"]
pub struct Received {
    /// The buffer that holds them; `None` at the end of the stream.
    pub buffer: Option<BufferId>,
    /// How many, from the start of the buffer; 0 at the end of the stream, and only there.
    pub len: usize,
}
