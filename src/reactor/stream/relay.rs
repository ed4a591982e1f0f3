//! Two connections of a reactor that are joined: what one receives, the other sends.
//!
//! What arrives passes the handler by. Much of it is sent from where the kernel put it, where the driver can share its buffers
//! and has enough of them; the rest is copied once, to the other one's output. Each direction is bounded: a receive asks for no
//! more than there is room for behind what waits, and there is none while the other peer does not read.

use super::connection::{Connection, Link, Phase};
use super::ending::Cut;
use super::handler::{CloseReason, Handler};
use super::io::Io;
use crate::buf::Payload;
use crate::driver::Lent;
use crate::reactor::table::{ConnectionId, Id, Table};
use crate::reactor::{Reactor, Shared};
use bytes::Bytes;
use std::cell::RefCell;
use std::rc::Rc;

/// A receive asks for this part of what a direction may hold: while that is on its way, as much is being sent and as much
/// is there to be sent next.
const PARTS: usize = 3;

/// What is shorter is cheaper to copy than to send from where it was received. The simulated driver's buffers are short.
const WORTH_SHARING: usize = if cfg!(test) { 16 } else { 16 << 10 };

/// Where what a connection receives goes, instead of to its handler.
#[derive(Debug)]
pub(in crate::reactor) struct Passage {
    to: Id,
    /// Bytes that may wait there.
    limit: usize,
    /// Of these, how many more.
    room: usize,
    /// Bytes that went there.
    passed: u64,
}

impl Passage {
    fn part(&self) -> usize {
        self.limit.div_ceil(PARTS)
    }

    /// Whether there is room for a receive that is worth its while.
    pub(in crate::reactor) fn is_open(&self) -> bool {
        self.room >= self.part()
    }

    /// Bytes that are to be received next.
    pub(in crate::reactor) fn most(&self) -> usize {
        if self.is_open() { self.part() } else { 0 }
    }
}

/// How a relay ended: what [`Reactor::relay`] tells.
#[derive(Debug)]
#[non_exhaustive]
pub struct Relayed {
    /// Bytes that were passed on from the first connection to the second.
    pub forth: u64,
    /// Bytes that were passed on from the second to the first.
    pub back: u64,
    /// Why the first connection ended.
    pub first: CloseReason,
    /// Why the second one did.
    pub second: CloseReason,
}

impl Relayed {
    /// Both connections ended in good order: each peer ended its stream, and the other one was sent all of it.
    pub fn is_clean(&self) -> bool {
        self.first.is_clean() && self.second.is_clean()
    }
}

/// What the two sides of a relay have in common.
struct Both {
    sides: [End; 2],
    on_end: Option<Box<OnEnd>>,
}

#[derive(Default)]
struct End {
    /// The peer ended its stream, and the other one has all of it.
    passed_on: bool,
    closed: Option<(u64, CloseReason)>,
}

type OnEnd = dyn FnOnce(Relayed, &mut Reactor);

/// The handler of a connection that is one of the two.
struct Side {
    index: usize,
    this: Id,
    other: ConnectionId,
    both: Rc<RefCell<Both>>,
}

impl Handler for Side {
    fn on_bytes(&mut self, _io: &mut Io<'_>, _bytes: &[u8]) -> usize {
        unreachable!("what arrives goes to the other connection")
    }

    fn on_end(&mut self, io: &mut Io<'_>) {
        self.both.borrow_mut().sides[self.index].passed_on = true;
        let other = self.other;
        io.defer(move |reactor| _ = reactor.with_connection(other, |io| io.shutdown_write()));
    }

    /// What is going on comes to its end, or is cut off at the deadline, on both sides.
    fn on_shutdown(&mut self, _io: &mut Io<'_>) {}

    fn on_close(&mut self, reason: &CloseReason, reactor: &mut Reactor) {
        let passed = reactor.passed(self.this);
        let mut both = self.both.borrow_mut();
        both.sides[self.index].closed = Some((passed, reason.clone()));
        let is_whole = reason.is_clean() && both.sides.iter().all(|side| side.passed_on);
        match (both.is_over(), is_whole) {
            (Some((relayed, on_end)), _) => {
                drop(both);
                on_end(relayed, reactor);
            }
            (None, true) => {}
            (None, false) => {
                drop(both);
                reactor.with_connection(self.other, |io| io.close_unfinished());
            }
        }
    }
}

impl Both {
    /// How it went, and who is to be told, once both have closed.
    fn is_over(&mut self) -> Option<(Relayed, Box<OnEnd>)> {
        let [End { closed: first, .. }, End { closed: second, .. }] = &mut self.sides;
        if first.is_none() || second.is_none() {
            return None;
        }
        let ((forth, first), (back, second)) = (first.take()?, second.take()?);
        Some((Relayed { forth, back, first, second }, self.on_end.take()?))
    }
}

impl Link {
    fn can_be_relayed(&self) -> bool {
        self.phase == Phase::Open && self.accepts_output() && self.passage.is_none()
    }

    /// From now on what arrives goes to `to`, beginning with what the handler has not consumed.
    fn lead(&mut self, to: Id, limit: usize) {
        self.passage = Some(Box::new(Passage { to, limit, room: 0, passed: 0 }));
        self.begin_anew();
    }

    pub(super) fn is_relayed(&self) -> bool {
        self.passage.is_some()
    }

    /// Whether what arrives has somewhere to go.
    pub(in crate::reactor) fn has_passage_open(&self) -> bool {
        self.passage.as_ref().is_none_or(|passage| passage.is_open())
    }

    /// So much may be passed on to this connection.
    fn passage_room(&self, limit: usize) -> usize {
        if self.accepts_output() { limit.saturating_sub(self.pending_output()) } else { 0 }
    }
}

impl Reactor {
    /// Joins two connections of this reactor: from now on, what one receives the other one sends, with an end of a stream behind
    /// all that came before it, and at most `bytes` bytes waiting in each direction ([`config::RELAY_BYTES`](crate::config::RELAY_BYTES)
    /// is a good choice): a peer that does not read keeps the other one from sending. It begins with what the handlers have
    /// not consumed. The handlers are dropped, without another call.
    ///
    /// When both have ended, `on_end` is told how. When one ends before both peers have ended their streams, or does not end in
    /// good order, the other one is closed as [not finished](Io::close_unfinished), so that nobody takes a part for the
    /// whole. A [drain](Self::begin_drain) leaves them their time, and resets both at its deadline; a server
    /// that stops does so with its own, and the other one is closed as not finished then.
    ///
    /// `false` if one of the two is not open here any more, has ended its output, or is relayed already: then nothing happens. A
    /// handler gets here by [`Io::defer`]; [`Relay`](crate::net::Relay) is one that does all of this.
    pub fn relay(
        &mut self,
        first: ConnectionId,
        second: ConnectionId,
        bytes: usize,
        on_end: impl FnOnce(Relayed, &mut Reactor) + 'static,
    ) -> bool {
        let pair = [first, second];
        let is_fit = |connection: &ConnectionId| {
            let found = self.connections.get(connection.place());
            found.is_some_and(|found| found.link.connection == *connection && found.link.can_be_relayed())
        };
        if first == second || !pair.iter().all(is_fit) {
            return false;
        }
        let both = Rc::new(RefCell::new(Both { sides: Default::default(), on_end: Some(Box::new(on_end)) }));
        for (index, connection) in pair.into_iter().enumerate() {
            let (this, other) = (connection.place(), pair[1 - index]);
            let side = Side { index, this, other, both: both.clone() };
            let Some(Connection { handler, link }) = self.connections.get_mut(this) else { continue };
            link.lead(other.place(), bytes.max(1));
            let replaced = std::mem::replace(handler, Box::new(side));
            self.guarded(|_| drop(replaced));
        }
        for connection in pair {
            self.contain(|reactor, _| reactor.make_room(connection.place()));
            self.contain(|reactor, _| reactor.settle(connection.place()));
        }
        self.disturbed();
        true
    }

    /// Passes on what was received on a relayed connection, unless it is paused: then that waits.
    pub(super) fn feed_passage(&mut self, id: Id, lent: Lent) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        if link.paused || !link.inbox.is_empty() {
            link.inbox.keep(self.driver.bytes(lent), &mut self.shared.spare);
            link.unread = true;
        } else if let Some(bytes) = self.share(lent) {
            pass_on(&mut self.connections, &mut self.shared, id, lent.len, |out| out.splice(bytes));
            return self.settle_sink(id);
        } else {
            let bytes = self.driver.bytes(lent);
            let append = |out: &mut Payload| out.text().extend_from_slice(bytes);
            pass_on(&mut self.connections, &mut self.shared, id, lent.len, append);
        }
        self.driver.release(lent.buffer);
        self.settle_sink(id);
    }

    /// The same for bytes that were not received into a buffer of the pool, or came out of a filter.
    pub(super) fn feed_passage_plain(&mut self, id: Id, plain: &[u8]) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        if link.paused || !link.inbox.is_empty() {
            link.inbox.keep(plain, &mut self.shared.spare);
            link.unread = true;
        } else {
            let append = |out: &mut Payload| out.text().extend_from_slice(plain);
            pass_on(&mut self.connections, &mut self.shared, id, plain.len(), append);
        }
        self.settle_sink(id);
    }

    /// What is worth it is sent from where the kernel put it.
    fn share(&mut self, lent: Lent) -> Option<Bytes> {
        if lent.len >= WORTH_SHARING { self.driver.share(lent) } else { None }
    }

    /// Passes on what had to wait.
    pub(super) fn feed_passage_again(&mut self, id: Id) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        let mut inbox = std::mem::take(&mut link.inbox);
        let append = |out: &mut Payload| out.text().extend_from_slice(inbox.bytes());
        pass_on(&mut self.connections, &mut self.shared, id, inbox.len(), append);
        inbox.release(&mut self.shared.spare);
        self.settle_sink(id);
    }

    fn settle_sink(&mut self, id: Id) {
        let passage = self.connections.get(id).and_then(|connection| connection.link.passage.as_ref());
        if let Some(to) = passage.map(|passage| passage.to) {
            self.settle(to);
        }
    }

    /// Tells whoever passes on to `id` how much there is room for now.
    pub(super) fn make_room(&mut self, id: Id) {
        let Some(Connection { link, .. }) = self.connections.get(id) else { return };
        let Some(Passage { to: from, limit, .. }) = link.passage.as_deref() else { return };
        let (from, room) = (*from, link.passage_room(*limit));
        let source = self.connections.get_mut(from).and_then(|source| source.link.passage.as_deref_mut());
        let Some(passage) = source.filter(|passage| passage.to == id) else { return };
        let was_open = passage.is_open();
        passage.room = room;
        if !was_open && passage.is_open() {
            self.settle(from);
        }
    }

    fn passed(&self, id: Id) -> u64 {
        let passage = self.connections.get(id).and_then(|connection| connection.link.passage.as_ref());
        passage.map_or(0, |passage| passage.passed)
    }
}

/// Puts `len` bytes, which were received on `id`, behind the output of the connection that it leads to. They are no answers to that one's
/// input, so they do not keep it from reading.
fn pass_on(
    connections: &mut Table<Connection>,
    shared: &mut Shared,
    id: Id,
    len: usize,
    append: impl FnOnce(&mut Payload),
) {
    let passage = |connections: &Table<Connection>| {
        let passage = connections.get(id)?.link.passage.as_ref()?;
        Some((passage.to, passage.limit))
    };
    let Some((to, limit)) = passage(connections) else { return };
    let Some(Connection { link: sink, .. }) = connections.get_mut(to) else { return };
    let accepted = if sink.accepts_output() { len } else { 0 };
    if accepted > 0 {
        let ahead = sink.output_before();
        append(sink.writable_out(&mut shared.spare));
        sink.marks.add(ahead, accepted);
    }
    // Unless it hears of that anyway: somebody else has ended that output, and these bytes are lost.
    let is_lost = accepted < len && sink.phase == Phase::Open && !sink.has_failed_output();
    let room = sink.passage_room(limit);
    let Some(Connection { link: source, .. }) = connections.get_mut(id) else { return };
    if let Some(passage) = source.passage.as_mut() {
        passage.room = room;
        passage.passed += accepted as u64;
    }
    if is_lost {
        source.begin_cut(Cut::Handler, &mut shared.spare);
    }
}
