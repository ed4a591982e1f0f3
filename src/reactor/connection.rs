//! The state of one connection: what is going on, and what should be.

use super::address::Address;
use super::handle::Handle;
use super::handler::{CloseReason, Handler};
use super::listener::Seat;
use super::mailbox::Mailbox;
use super::options::StreamOptions;
use super::table::Id;
use crate::buf::{Inbox, Payload, Spare};
use socket2::Socket;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// A connection and its handler, apart so that the handler can be called with the connection in its hands.
pub(super) struct Connection {
    pub(super) handler: Box<dyn Handler>,
    pub(super) link: Link,
}

/// Where a connection is in its life. It only ever moves down this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
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
pub(super) enum Reading {
    Idle,
    Armed,
    /// Armed, and asked to end.
    Cancelling,
    /// In the queue for a buffer of the pool.
    Starved,
    /// The peer has ended its stream, or reading failed.
    Ended,
}

pub(super) struct Link {
    pub(super) id: Id,
    pub(super) socket: Rc<Socket>,
    pub(super) peer: Address,
    pub(super) options: Rc<StreamOptions>,
    pub(super) phase: Phase,
    pub(super) reading: Reading,
    /// The half of the out double-buffer that is filling.
    pub(super) out: Payload,
    /// Bytes in the other half, which the driver has. 0 if no send is in flight.
    pub(super) sending: usize,
    /// Bytes of the output that are no answer to input, because other threads wrote them. They do not make reading pause, which would only keep the peer from sending and so, in the end, from reading.
    pub(super) unsolicited: usize,
    pub(super) send_cancelled: bool,
    pub(super) connecting: bool,
    /// It was established, and counted as that.
    pub(super) opened: bool,
    pub(super) connect_cancelled: bool,
    pub(super) inbox: Inbox,
    /// What the handler said it needs; see [`Io::expect`](super::Io::expect).
    pub(super) wanted: usize,
    /// By the handler.
    pub(super) paused: bool,
    /// By the soft limit of output.
    pub(super) throttled: bool,
    /// Bytes lie in the inbox that the handler was not shown, or not all of which it was allowed to consume.
    pub(super) unread: bool,
    /// The handler has not been told yet that the peer has ended its stream: first it gets what came before.
    pub(super) end_owed: bool,
    write_ends: bool,
    write_ended: bool,
    /// In the list of connections that have output to send.
    pub(super) queued: bool,
    /// In the list of those that are polled every turn.
    pub(super) polled: bool,
    /// Output was written since the handler was last told that all is sent.
    pub(super) undrained: bool,
    pub(super) reason: Option<CloseReason>,
    pub(super) remote: Option<Handle>,
    /// When the handler wants to be called.
    pub(super) handler_deadline: Option<Instant>,
    /// The deadlines that the timers know.
    pub(super) handler_timer: Option<Instant>,
    pub(super) phase_timer: Option<Instant>,
    pub(super) retry_timer: Option<Instant>,
    /// The place at the server's table, given back on drop.
    pub(super) _seat: Option<Seat>,
}

impl Link {
    pub(super) fn new(
        id: Id,
        socket: Rc<Socket>,
        peer: Address,
        options: Rc<StreamOptions>,
        phase: Phase,
        seat: Option<Seat>,
    ) -> Self {
        Link {
            id,
            socket,
            peer,
            options,
            phase,
            reading: Reading::Idle,
            out: Payload::default(),
            sending: 0,
            unsolicited: 0,
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
            _seat: seat,
        }
    }

    pub(super) fn descriptor(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    pub(super) fn accepts_output(&self) -> bool {
        self.phase <= Phase::Open && !self.write_ends
    }

    pub(super) fn pending_output(&self) -> usize {
        self.out.len() + self.sending
    }

    /// The vector that output is appended to; borrowed from the reactor's spare ones while there is output.
    #[inline]
    pub(super) fn writable_text(&mut self, spare: &mut Spare) -> &mut Vec<u8> {
        if self.out.text_capacity() == 0 && self.out.is_empty() {
            self.out = Payload::over(spare.take());
        }
        self.out.text()
    }

    pub(super) fn handle(&mut self, mailbox: &Arc<Mailbox>) -> Handle {
        let handle = self.remote.get_or_insert_with(|| {
            let handle = Handle::new(self.id, mailbox.clone(), self.options.limits.outbox);
            if self.phase > Phase::Open {
                handle.remote().close();
            } else if self.write_ends {
                handle.remote().end_output();
            }
            handle
        });
        handle.clone()
    }

    pub(super) fn shutdown_write(&mut self) {
        if self.phase == Phase::Open {
            // What other threads wrote before the end is a part of the output.
            self.collect_outbox(true);
            self.write_ends = true;
            if let Some(handle) = &self.remote {
                handle.remote().end_output();
            }
        }
    }

    pub(super) fn begin_close(&mut self) {
        match self.phase {
            Phase::Connecting => self.fail(CloseReason::Aborted),
            Phase::Open => {
                self.collect_outbox(true);
                self.phase = Phase::Flushing;
                if let Some(handle) = &self.remote {
                    handle.remote().close();
                }
            }
            Phase::Flushing | Phase::Lingering | Phase::Dead => {}
        }
    }

    /// Takes over what other threads wrote, if that is wanted now. `true` if they want the handler to be notified.
    pub(super) fn collect_outbox(&mut self, wants_output: bool) -> bool {
        let Some(handle) = &self.remote else { return false };
        let before = self.out.len();
        let notified = handle.remote().collect(wants_output, &mut self.out);
        self.unsolicited += self.out.len() - before;
        notified
    }

    /// Whether what other threads write may be taken over: while the peer is slow it waits in the outbox, so that they
    /// notice.
    pub(super) fn wants_outbox(&self) -> bool {
        self.accepts_output() && self.pending_output() <= self.options.limits.output_soft
    }

    /// The end, whatever the state was. The first reason is the one that counts.
    pub(super) fn fail(&mut self, reason: CloseReason) {
        if self.phase == Phase::Dead {
            return;
        }
        self.phase = Phase::Dead;
        self.reason.get_or_insert(reason);
        self.out = Payload::default();
        if let Some(handle) = &self.remote {
            handle.remote().close();
        }
    }

    /// Whether the receive should be armed.
    pub(super) fn wants_input(&self) -> bool {
        match self.phase {
            Phase::Open => !self.paused && !self.throttled,
            // To throw it away.
            Phase::Flushing | Phase::Lingering => true,
            Phase::Connecting | Phase::Dead => false,
        }
    }

    /// Checks the output limits, and whether reading should pause or go on for them. `true` if it paused now.
    pub(super) fn check_output(&mut self) -> bool {
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
    pub(super) fn ends_output_now(&mut self) -> bool {
        let asked = self.write_ends || self.phase == Phase::Flushing;
        let now = asked && !self.write_ended && self.pending_output() == 0 && self.phase < Phase::Dead;
        self.write_ended |= now;
        now
    }

    pub(super) fn has_ended_output(&self) -> bool {
        self.write_ended
    }

    pub(super) fn has_operations(&self) -> bool {
        self.connecting || self.sending > 0 || matches!(self.reading, Reading::Armed | Reading::Cancelling)
    }
}
