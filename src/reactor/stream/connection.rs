//! The state of one connection: what is going on, and what should be.

use super::deadlines::Since;
use super::ending::{Cut, Look};
use super::filter::Filtered;
use super::handler::{CloseReason, Handler};
use super::reading::Reading;
use super::relay::Passage;
use crate::buf::{Inbox, Marks, Payload, Spare};
use crate::config::SHORT_BYTES;
use crate::reactor::pace::budget::Share;
use crate::reactor::socket::address::Address;
use crate::reactor::socket::options::StreamOptions;
use crate::reactor::socket::race::SharedRace;
use crate::reactor::socket::seats::Seat;
use crate::reactor::table::{ConnectionId, Id};
use crate::reactor::threads::mailbox::Mailbox;
use crate::reactor::threads::outbox::Remote;
use crate::reactor::threads::stream_handle::Handle;
use socket2::Socket;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// A connection and its handler, apart so that the handler can be called with the connection in its hands.
pub(in crate::reactor) struct Connection {
    pub(in crate::reactor) handler: Box<dyn Handler>,
    pub(in crate::reactor) link: Link,
}

/// Where a connection is in its life. It only ever moves down this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::reactor) enum Phase {
    Connecting,
    /// Its filter talks with the peer, and its handler does not yet.
    Handshaking,
    Open,
    /// Closed by this side; output is still being sent. Input is thrown away, or the peer could wait for us to read.
    Flushing,
    /// All output is sent and ended; waiting for the peer to do the same, so that its reading is not cut short by a
    /// reset.
    Lingering,
    /// Nothing more will happen. The slot stays taken until the last operation's final completion.
    Dead,
}

pub(in crate::reactor) struct Link {
    pub(in crate::reactor) id: Id,
    pub(in crate::reactor) connection: ConnectionId,
    pub(in crate::reactor) socket: Rc<Socket>,
    pub(in crate::reactor) peer: Address,
    pub(in crate::reactor) options: Rc<StreamOptions>,
    pub(in crate::reactor) phase: Phase,
    pub(in crate::reactor) reading: Reading,
    /// Bytes that will be received one buffer at a time, because a pause is likely.
    pub(in crate::reactor) careful: usize,
    /// The half of the out double-buffer that is filling.
    pub(in crate::reactor) out: Payload,
    /// Bytes in the other half, which the driver has. 0 if no send is in flight.
    pub(in crate::reactor) sending: usize,
    /// Bytes that wait in the filter, on their way out.
    pub(in crate::reactor) filtered: usize,
    /// What stands between the socket and the handler.
    pub(in crate::reactor) filter: Option<Box<Filtered>>,
    /// The result of a send whose payload has not come back yet.
    pub(in crate::reactor) sent: Option<io::Result<usize>>,
    /// Which bytes of the output are no answers to input, because other threads wrote them. They do not make reading pause,
    /// which would only keep the peer from sending and so, in the end, from reading.
    pub(in crate::reactor) marks: Marks,
    /// The connection's own output when it was last checked, and what it may be: the hard limit, or a single answer that is larger.
    checked_output: usize,
    allowed_output: usize,
    /// What the handler keeps elsewhere for this connection.
    pub(in crate::reactor) claimed: usize,
    /// What the budget of memory knows that it holds.
    pub(in crate::reactor) held: usize,
    /// What its handler was given in this turn.
    pub(in crate::reactor) fed: Share,
    pub(in crate::reactor) send_cancelled: bool,
    pub(in crate::reactor) connecting: bool,
    /// It was established, and counted as that.
    pub(in crate::reactor) opened: bool,
    pub(in crate::reactor) connect_cancelled: bool,
    pub(in crate::reactor) inbox: Inbox,
    /// What the handler said it needs; see [`Io::expect`](crate::reactor::Io::expect).
    pub(in crate::reactor) wanted: usize,
    /// By the handler.
    pub(in crate::reactor) paused: bool,
    /// By the soft limit of output.
    pub(in crate::reactor) throttled: bool,
    /// Bytes lie in the inbox that the handler was not shown, or not all of which it was allowed to consume.
    pub(in crate::reactor) unread: bool,
    /// The handler has not been told yet that the peer has ended its stream: first it gets what came before.
    pub(in crate::reactor) end_owed: bool,
    pub(super) write_ends: bool,
    pub(super) write_ended: bool,
    /// The time for flushing has begun.
    pub(in crate::reactor) flushing: bool,
    /// In the list of connections that have output to send.
    pub(in crate::reactor) queued: bool,
    /// In the list of those that are polled every turn.
    pub(in crate::reactor) polled: bool,
    /// Output was written since the handler was last told that all is sent.
    pub(in crate::reactor) undrained: bool,
    /// More output than the low-water mark was waiting since the handler was last told that there is room.
    pub(in crate::reactor) above_low_water: bool,
    /// When bytes arrived last, or the peer was let speak again.
    pub(in crate::reactor) last_input: Instant,
    /// When the kernel took output last, or when it was first asked to take what is waiting.
    pub(in crate::reactor) last_progress: Instant,
    pub(in crate::reactor) since: Since,
    /// Sending has failed: this is told once the input that is there was delivered.
    pub(super) send_error: Option<io::Error>,
    /// The peer ended its stream before this side did.
    pub(in crate::reactor) ended_by_peer: bool,
    /// The close sends a reset: what the peer has got is not all there was to say.
    pub(in crate::reactor) resets: bool,
    /// It will be reset, in place of a close, as soon as the peer's system has confirmed what was written.
    pub(super) cut: Option<Cut>,
    /// When it is asked whether it has, and since when.
    pub(super) look: Option<Box<Look>>,
    /// What still arrives after the close makes a reset of it.
    pub(super) minds_input: bool,
    /// A peer that says nothing more is not waited for until the close's time is over.
    pub(in crate::reactor) hurried: bool,
    /// Where what arrives goes, if not to the handler.
    pub(super) passage: Option<Box<Passage>>,
    pub(in crate::reactor) reason: Option<CloseReason>,
    pub(in crate::reactor) remote: Option<Handle>,
    /// When the handler wants to be called.
    pub(in crate::reactor) handler_deadline: Option<Instant>,
    /// The deadlines that the timers know.
    pub(in crate::reactor) handler_timer: Option<Instant>,
    pub(in crate::reactor) phase_timer: Option<Instant>,
    /// When connecting or waiting for the peer's end has taken too long.
    pub(in crate::reactor) phase_deadline: Option<Instant>,
    pub(in crate::reactor) retry_timer: Option<Instant>,
    /// It is one of several attempts to make one connection, which has not been made yet.
    pub(in crate::reactor) race: Option<SharedRace>,
    /// The place at the server's table, given back on drop.
    pub(in crate::reactor) seat: Option<Seat>,
}

impl Link {
    pub(in crate::reactor) fn new(
        id: Id,
        socket: Rc<Socket>,
        peer: Address,
        options: Rc<StreamOptions>,
        phase: Phase,
        seat: Option<Seat>,
        now: Instant,
    ) -> Self {
        let careful = options.limits.careful;
        Link {
            id,
            connection: ConnectionId::new(id),
            socket,
            peer,
            options,
            phase,
            reading: Reading::Idle,
            careful,
            out: Payload::default(),
            sending: 0,
            filtered: 0,
            filter: None,
            sent: None,
            marks: Marks::default(),
            checked_output: 0,
            allowed_output: 0,
            claimed: 0,
            held: 0,
            fed: Share::default(),
            send_cancelled: false,
            connecting: false,
            opened: false,
            connect_cancelled: false,
            inbox: Inbox::default(),
            wanted: 0,
            paused: false,
            throttled: false,
            unread: false,
            end_owed: false,
            write_ends: false,
            write_ended: false,
            flushing: false,
            queued: false,
            polled: false,
            undrained: false,
            above_low_water: false,
            last_input: now,
            last_progress: now,
            since: Since::new(now),
            send_error: None,
            ended_by_peer: false,
            resets: false,
            cut: None,
            look: None,
            minds_input: false,
            hurried: false,
            passage: None,
            reason: None,
            remote: None,
            handler_deadline: None,
            handler_timer: None,
            phase_timer: None,
            phase_deadline: None,
            retry_timer: None,
            race: None,
            seat,
        }
    }

    pub(in crate::reactor) fn descriptor(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    pub(in crate::reactor) fn accepts_output(&self) -> bool {
        self.phase <= Phase::Open && !self.write_ends
    }

    pub(in crate::reactor) fn pending_output(&self) -> usize {
        self.out.len() + self.sending + self.filtered
    }

    /// Whether what was written before is still there. `false` once the handler has taken it away through
    /// [`Io::out`](crate::reactor::Io::out): then nobody knows any more what belongs where.
    #[inline]
    pub(in crate::reactor) fn has_intact_output(&self) -> bool {
        self.out.is_intact() && (self.marks.foreign() == 0 || self.marks.foreign() <= self.unsealed_output())
    }

    /// The vector that output is appended to; borrowed from the reactor's spare ones while there is output.
    #[inline]
    pub(in crate::reactor) fn writable_text(&mut self, spare: &mut Spare) -> &mut Vec<u8> {
        self.writable_out(spare).text()
    }

    /// The output that is filling, with memory that others have used before.
    #[inline]
    pub(in crate::reactor) fn writable_out(&mut self, spare: &mut Spare) -> &mut Payload {
        if self.out.text_capacity() == 0 && self.out.is_empty() {
            self.out = spare.take_payload();
        }
        &mut self.out
    }

    pub(in crate::reactor) fn handle(&mut self, mailbox: &Arc<Mailbox>) -> Handle {
        if let Some(handle) = &self.remote {
            return handle.clone();
        }
        let local = self.socket.local_addr().ok().map(|address| Address::from_sock_addr(&address));
        let limits = (self.options.limits.outbox, self.options.limits.output_soft);
        let addresses = (self.peer.clone(), local);
        let remote = Remote::new((self.id, self.connection), mailbox.clone(), addresses, limits);
        let pending = self.pending_output();
        let handle = self.remote.insert(Handle::new(remote));
        handle.remote().set_output(pending);
        // Nothing was written to it yet, so there is nothing to take over.
        match self.phase {
            Phase::Connecting | Phase::Handshaking | Phase::Open if !self.write_ends => {}
            Phase::Connecting | Phase::Handshaking | Phase::Open => handle.remote().refuse_output(),
            Phase::Flushing | Phase::Lingering => handle.remote().refuse_all(),
            Phase::Dead => handle.remote().end(),
        }
        handle.clone()
    }

    /// Takes over what other threads wrote.
    pub(in crate::reactor) fn collect_outbox(&mut self, spare: &mut Spare) {
        let Some(handle) = &self.remote else { return };
        let (before, ahead) = (self.out.len(), self.unsealed_output());
        handle.remote().collect(&mut self.out, spare);
        self.marks.add(ahead, self.out.len() - before);
    }

    /// Whether what other threads write may be taken over: while the peer is slow it waits in the outbox, so that they
    /// notice.
    pub(in crate::reactor) fn wants_outbox(&self) -> bool {
        self.accepts_output() && self.pending_output() <= self.options.limits.output_soft
    }

    /// Checks the output limits, and whether reading should pause or go on for them, or because memory is `short`. `true` if it
    /// paused now.
    pub(in crate::reactor) fn check_output(&mut self, short: bool) -> bool {
        let limits = &self.options.limits;
        let own = self.pending_output() - self.foreign_output();
        let before = std::mem::replace(&mut self.checked_output, own);
        if own <= limits.output_hard || before == 0 {
            // A single answer may be larger than the limit; it is what comes on top of it that waits for the peer.
            self.allowed_output = own.max(limits.output_hard);
        } else if own > self.allowed_output && matches!(self.phase, Phase::Open | Phase::Flushing) {
            let limit = limits.output_hard;
            self.fail(CloseReason::OutputLimit { pending: own, limit });
            return false;
        }
        let soft = if short { limits.output_soft.min(SHORT_BYTES) } else { limits.output_soft };
        let most = if self.throttled { soft / 2 } else { soft };
        let throttled = own > most && limits.throttles;
        std::mem::replace(&mut self.throttled, throttled) != throttled && throttled
    }

    pub(in crate::reactor) fn has_operations(&self) -> bool {
        self.connecting || self.sending > 0 || {
            use Reading::{Armed, Cancelling, Once, Watching};
            matches!(self.reading, Armed | Once | Watching | Cancelling)
        }
    }
}
