//! The state of one connection: what is going on, and what should be.

use super::handler::{CloseReason, Handler};
use crate::buf::{Inbox, Payload, Spare};
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
    Open,
    /// Closed by this side; output is still being sent. Input is thrown away, or the peer could wait for us to read.
    Flushing,
    /// All output is sent and ended; waiting for the peer to do the same, so that its reading is not cut short by a
    /// reset.
    Lingering,
    /// Nothing more will happen. The slot stays taken until the last operation's final completion.
    Dead,
}

/// The receive operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::reactor) enum Reading {
    Idle,
    Armed,
    /// Armed, and asked to end.
    Cancelling,
    /// In the queue for a buffer of the pool.
    Starved,
    /// The peer has ended its stream, or reading failed.
    Ended,
}

pub(in crate::reactor) struct Link {
    pub(in crate::reactor) id: Id,
    pub(in crate::reactor) connection: ConnectionId,
    pub(in crate::reactor) socket: Rc<Socket>,
    pub(in crate::reactor) peer: Address,
    pub(in crate::reactor) options: Rc<StreamOptions>,
    pub(in crate::reactor) phase: Phase,
    pub(in crate::reactor) reading: Reading,
    /// The half of the out double-buffer that is filling.
    pub(in crate::reactor) out: Payload,
    /// Bytes in the other half, which the driver has. 0 if no send is in flight.
    pub(in crate::reactor) sending: usize,
    /// The result of a send whose payload has not come back yet.
    pub(in crate::reactor) sent: Option<io::Result<usize>>,
    /// Bytes of the output that are no answer to input, because other threads wrote them. They do not make reading pause, which would only keep the peer from sending and so, in the end, from reading.
    pub(in crate::reactor) unsolicited: usize,
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
    write_ends: bool,
    write_ended: bool,
    /// In the list of connections that have output to send.
    pub(in crate::reactor) queued: bool,
    /// In the list of those that are polled every turn.
    pub(in crate::reactor) polled: bool,
    /// Output was written since the handler was last told that all is sent.
    pub(in crate::reactor) undrained: bool,
    pub(in crate::reactor) reason: Option<CloseReason>,
    pub(in crate::reactor) remote: Option<Handle>,
    /// When the handler wants to be called.
    pub(in crate::reactor) handler_deadline: Option<Instant>,
    /// The deadlines that the timers know.
    pub(in crate::reactor) handler_timer: Option<Instant>,
    pub(in crate::reactor) phase_timer: Option<Instant>,
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
    ) -> Self {
        Link {
            id,
            connection: ConnectionId::new(id),
            socket,
            peer,
            options,
            phase,
            reading: Reading::Idle,
            out: Payload::default(),
            sending: 0,
            sent: None,
            unsolicited: 0,
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
            queued: false,
            polled: false,
            undrained: false,
            reason: None,
            remote: None,
            handler_deadline: None,
            handler_timer: None,
            phase_timer: None,
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
        self.out.len() + self.sending
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
        let handle = self.remote.insert(Handle::new(remote));
        handle.remote().set_output(self.out.len() + self.sending);
        // Nothing was written to it yet, so there is nothing to take over.
        match self.phase {
            Phase::Connecting | Phase::Open if !self.write_ends => {}
            Phase::Connecting | Phase::Open => handle.remote().refuse_output(),
            Phase::Flushing | Phase::Lingering => handle.remote().refuse_all(),
            Phase::Dead => handle.remote().end(),
        }
        handle.clone()
    }

    pub(in crate::reactor) fn shutdown_write(&mut self, spare: &mut Spare) {
        if self.phase == Phase::Open {
            self.write_ends = true;
            if let Some(handle) = &self.remote {
                handle.remote().refuse_output();
            }
            // What other threads wrote before the end is a part of the output.
            self.collect_outbox(spare);
        }
    }

    pub(in crate::reactor) fn begin_close(&mut self, spare: &mut Spare) {
        match self.phase {
            Phase::Connecting => self.fail(CloseReason::Aborted),
            Phase::Open => {
                self.phase = Phase::Flushing;
                if let Some(handle) = &self.remote {
                    handle.remote().refuse_all();
                }
                self.collect_outbox(spare);
            }
            Phase::Flushing | Phase::Lingering | Phase::Dead => {}
        }
    }

    /// Takes over what other threads wrote.
    pub(in crate::reactor) fn collect_outbox(&mut self, spare: &mut Spare) {
        let Some(handle) = &self.remote else { return };
        let before = self.out.len();
        handle.remote().collect(&mut self.out, spare);
        self.unsolicited += self.out.len() - before;
    }

    /// Whether what other threads write may be taken over: while the peer is slow it waits in the outbox, so that they
    /// notice.
    pub(in crate::reactor) fn wants_outbox(&self) -> bool {
        self.accepts_output() && self.pending_output() <= self.options.limits.output_soft
    }

    /// The end, whatever the state was. The first reason is the one that counts.
    pub(in crate::reactor) fn fail(&mut self, reason: CloseReason) {
        if self.phase == Phase::Dead {
            return;
        }
        self.phase = Phase::Dead;
        self.reason.get_or_insert(reason);
        self.out = Payload::default();
        if let Some(handle) = &self.remote {
            handle.remote().end();
        }
    }

    /// Whether the receive should be armed.
    pub(in crate::reactor) fn wants_input(&self) -> bool {
        match self.phase {
            Phase::Open => !self.paused && !self.throttled,
            // To throw it away.
            Phase::Flushing | Phase::Lingering => true,
            Phase::Connecting | Phase::Dead => false,
        }
    }

    /// Checks the output limits, and whether reading should pause or go on for them. `true` if it paused now.
    pub(in crate::reactor) fn check_output(&mut self) -> bool {
        let (pending, limits) = (self.pending_output(), self.options.limits);
        if pending > limits.output_hard && self.phase == Phase::Open {
            self.fail(CloseReason::OutputLimit { pending, limit: limits.output_hard });
            return false;
        }
        let own = pending.saturating_sub(self.unsolicited);
        let throttled = own > if self.throttled { limits.output_soft / 2 } else { limits.output_soft };
        std::mem::replace(&mut self.throttled, throttled) != throttled && throttled
    }

    /// Whether the output is to be ended at the socket now: that was asked for, and all of it is sent.
    pub(in crate::reactor) fn ends_output_now(&mut self) -> bool {
        let asked = self.write_ends || self.phase == Phase::Flushing;
        let now = asked && !self.write_ended && self.pending_output() == 0 && self.phase < Phase::Dead;
        self.write_ended |= now;
        now
    }

    pub(in crate::reactor) fn has_ended_output(&self) -> bool {
        self.write_ended
    }

    pub(in crate::reactor) fn has_operations(&self) -> bool {
        self.connecting || self.sending > 0 || matches!(self.reading, Reading::Armed | Reading::Cancelling)
    }
}
