//! What a handler can do to its connection while it is being called.

use super::connection::{Link, Phase};
use super::ending::Cut;
use super::handler::CloseReason;
use crate::reactor::pace::timers;
use crate::reactor::socket::address::Address;
use crate::reactor::table::ConnectionId;
use crate::reactor::threads::stream_handle::Handle;
use crate::reactor::{Reactor, Shared};
use bytes::Bytes;
use socket2::SockRef;
use std::fmt;
use std::time::{Duration, Instant};

/// What is kept of the memory that took what was written to a closed connection.
const MOST_VOID: usize = 64 << 10;

/// A connection, in the hands of its handler.
///
/// Nothing here blocks or enters the kernel. Output collects and leaves in one send at the end of the reactor's turn,
/// or behind the send that is in flight.
pub struct Io<'a> {
    pub(in crate::reactor) link: &'a mut Link,
    pub(in crate::reactor) shared: &'a mut Shared,
}

impl Io<'_> {
    /// Appends `bytes` to the output.
    #[inline]
    pub fn write(&mut self, bytes: &[u8]) {
        self.out().extend_from_slice(bytes);
    }

    /// Appends `bytes` to the output without a copy. Worth it from some kilobytes on.
    pub fn write_bytes(&mut self, bytes: Bytes) {
        if self.link.accepts_output() {
            self.link.writable_out(&mut self.shared.spare).splice(bytes);
        }
    }

    /// The output itself, for encoders: append to it, and do not touch what is there. What was appended may be taken back, but
    /// not what lies before something that [`write_bytes`](Self::write_bytes), [`write_file`](Self::write_file) or another thread wrote: that closes the connection
    /// ([`CloseReason::OutputDamaged`]).
    #[inline]
    pub fn out(&mut self) -> &mut Vec<u8> {
        if !self.link.accepts_output() {
            // Whoever writes after closing writes into the void.
            self.shared.void.clear();
            self.shared.void.shrink_to(MOST_VOID);
            return &mut self.shared.void;
        }
        self.link.writable_text(&mut self.shared.spare)
    }

    /// Bytes of output in memory that the kernel has not taken yet; see [`pending_file_bytes`](Self::pending_file_bytes) for those in
    /// files.
    pub fn pending(&self) -> usize {
        self.link.pending_output()
    }

    /// Bytes that may still be written before reading pauses.
    pub fn room(&self) -> usize {
        self.link.options.limits.output_soft.saturating_sub(self.link.pending_output())
    }

    /// Tells that fewer than `bytes` bytes, counted from the first unconsumed one, are of no use: `on_bytes` is not called
    /// before. Valid until the next call; beyond the input limit, the connection is closed as soon as that is reached.
    pub fn expect(&mut self, bytes: usize) {
        self.link.wanted = bytes;
    }

    /// What arrived and was not consumed: in [`on_end`](crate::reactor::Handler::on_end), the beginning of what the peer did not
    /// finish. Empty within `on_bytes`, which is shown it.
    pub fn unconsumed(&self) -> &[u8] {
        self.link.inbox.bytes()
    }

    /// Stops reading, until [`resume_reading`](Self::resume_reading). What was received already stays unconsumed, and a little is
    /// read ahead ([`config::READ_AHEAD_BYTES`](crate::config::READ_AHEAD_BYTES)); no
    /// [`input_limit`](crate::reactor::StreamOptions::input_limit) counts it. The end of the stream is told when reading goes on, a
    /// reset at once.
    pub fn pause_reading(&mut self) {
        self.link.paused = true;
    }

    /// Reads again; unconsumed bytes come first.
    pub fn resume_reading(&mut self) {
        self.link.paused = false;
    }

    /// Says how many bytes the handler keeps for this connection elsewhere, until it says otherwise. They count in the
    /// [budget of memory](crate::reactor::ReactorBuilder::memory_budget).
    pub fn claim(&mut self, bytes: usize) {
        self.link.claimed = bytes;
    }

    /// Ends the output: the peer sees the end of the stream behind everything that was written. Input still arrives.
    pub fn shutdown_write(&mut self) {
        self.link.shutdown_write(&mut self.shared.spare);
    }

    /// Closes the connection once everything that was written has been sent. Input is no longer delivered.
    pub fn close(&mut self) {
        self.link.begin_close(&mut self.shared.spare);
    }

    /// Closes the connection as one that is not finished: what was written is still sent, and once the peer's system has confirmed
    /// it, the connection is reset, so that the peer gets all of it and does not take it for the whole. Input is no longer
    /// delivered. What is not confirmed within [`close_timeout`](crate::reactor::StreamOptions::close_timeout) is lost. Unix-domain
    /// sockets know no reset: there the peer sees the end.
    pub fn close_unfinished(&mut self) {
        self.link.begin_cut(Cut::Handler, &mut self.shared.spare);
    }

    /// What [`Handler::on_shutdown`](crate::reactor::Handler::on_shutdown) does unless it chooses otherwise.
    pub(super) fn stop(&mut self) {
        self.link.begin_stop(&mut self.shared.spare);
    }

    /// Closes the connection at once, with a reset; what was not sent is lost.
    pub fn abort(&mut self) {
        self.link.fail(CloseReason::Aborted);
    }

    /// Whether the connection is being closed, so that output goes nowhere.
    pub fn is_closing(&self) -> bool {
        self.link.phase != Phase::Open
    }

    /// Which connection this is; see [`Reactor::with_connection`].
    pub fn id(&self) -> ConnectionId {
        self.link.connection
    }

    /// A handle for other threads. The first one allocates.
    pub fn handle(&mut self) -> Handle {
        self.link.handle(&self.shared.mailbox)
    }

    /// Calls `on_timer` after this time, instead of at the time that was set before: in the next turn at the earliest, and never
    /// if the time is longer than [`config::NEVER`](crate::config::NEVER).
    pub fn set_timer(&mut self, after: Duration) {
        self.link.handler_deadline = Some(timers::deadline(self.shared.now, after));
    }

    /// Takes the timer back.
    pub fn clear_timer(&mut self) {
        self.link.handler_deadline = None;
    }

    /// Has [`Handler::polled`](crate::reactor::Handler::polled) asked in every turn, until there is nothing to do for a while.
    pub fn poll_me(&mut self) {
        if !std::mem::replace(&mut self.link.polled, true) {
            self.shared.new_pollers.push(self.link.id);
        }
    }

    /// When this turn of the reactor began to handle what had completed.
    pub fn now(&self) -> Instant {
        self.shared.now
    }

    /// The peer's address.
    pub fn peer_addr(&self) -> &Address {
        &self.link.peer
    }

    /// This side's address.
    pub fn local_addr(&self) -> std::io::Result<Address> {
        self.link.wire.local_addr().map(|address| address.to_canonical())
    }

    #[cfg(any(feature = "tls", feature = "tls-ring"))]
    pub(crate) fn filter_info(&self) -> Option<&dyn std::any::Any> {
        self.link.filter_info()
    }

    /// The socket, for options that have no method here. Reading or writing it breaks the connection. `None` if
    /// [something else](crate::reactor::Carrier) carries the stream.
    pub fn socket(&self) -> Option<SockRef<'_>> {
        self.link.wire.socket().map(|socket| SockRef::from(&**socket))
    }

    /// Does something with the reactor, such as connecting elsewhere, as soon as this call has returned.
    pub fn defer(&mut self, action: impl FnOnce(&mut Reactor) + 'static) {
        self.shared.deferred.push(Box::new(action));
    }
}

impl fmt::Debug for Io<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Io")
            .field("peer", &self.link.peer)
            .field("pending", &self.pending())
            .finish_non_exhaustive()
    }
}
