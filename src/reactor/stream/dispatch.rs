//! Completions find their connections, and connections' handlers are called.

use super::connection::{Connection, Link, Phase};
use super::files::FileRead;
use super::handler::{CloseReason, Handler};
use super::io::Io;
use super::reading::Reading;
use super::succession::{take_over, take_over_with};
use crate::buf::{Inbox, Offered, Payload};
use crate::config::CAREFUL_STEP;
use crate::driver::{self, Completion, Event, Kind, Lent, Op, Received};
use crate::reactor::carrier::Wire;
use crate::reactor::carrier::output::Output;
use crate::reactor::pace::budget::Work;
use crate::reactor::table::Id;
use crate::reactor::{Reactor, Shared};
use std::io;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

impl Reactor {
    pub(in crate::reactor) fn handle_completions(&mut self) {
        let mut completions = std::mem::take(&mut self.completions);
        let mut rest = completions.drain(..);
        let timed = self.budget.is_timed();
        while !self.contain(|reactor, about| {
            for completion in rest.by_ref() {
                *about = Some(completion.token);
                if timed && !reactor.may_go_on(Work::Completions) {
                    // From here on all of them wait, so what is about one connection stays in order.
                    reactor.budget.postponed.push(completion);
                } else {
                    reactor.handle_completion(completion);
                }
            }
        }) {}
        drop(rest);
        // What had to wait comes first in the next turn.
        std::mem::swap(&mut completions, &mut self.budget.postponed);
        self.completions = completions;
        self.run_deferred();
    }

    #[inline(always)]
    fn handle_completion(&mut self, completion: Completion) {
        let Completion { token, event, more } = completion;
        let id = Id::from(token);
        match event {
            Event::Received(result) if self.budget.is_short() && self.has_had_its_share(id) => {
                let event = Event::Received(result);
                self.budget.postponed.push(Completion { token, event, more });
            }
            Event::Accepted(result) => self.accepted(id, result, more),
            Event::Connected(result) => self.connected(id, result),
            Event::Received(result) => self.received(id, result, more),
            Event::Sent(result, Some(payload)) => self.sent(id, result, payload),
            Event::Sent(result, None) => self.sent_but_held(id, result),
            Event::Released(payload) => self.released(id, payload),
            Event::Read(result, memory) => self.file_was_read(id, result, memory),
            Event::NotCancelled => self.cancel_again(id, token.kind()),
        }
    }

    /// Whether a connection has to wait for the next turn with what it received. If it has, then so has all that follows: its
    /// bytes stay in order.
    fn has_had_its_share(&self, id: Id) -> bool {
        let link = self.connections.get(id).map(|connection| &connection.link);
        link.is_some_and(|link| self.budget.is_used_up(&link.fed))
    }

    fn received(&mut self, id: Id, result: io::Result<Received>, more: bool) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else {
            if let Ok(Received::Data(lent)) = result {
                self.driver.release(lent.buffer);
            }
            return;
        };
        if !more {
            link.reading = Reading::Idle;
            if let Ok(Received::Data(lent)) = &result {
                link.careful = link.careful.saturating_sub(lent.len.max(CAREFUL_STEP));
            }
        }
        match result {
            Ok(Received::Data(lent)) => self.feed(id, lent),
            Ok(Received::End) => link.socket_ended(),
            Err(error) if driver::is_out_of_buffers(&error) => {
                self.shared.counters.pool_parks.add(1);
                link.reading = Reading::Starved;
                self.starved[self.driver.group(id.token(Kind::Receive)) as usize].push_back(id);
            }
            // Cancelled by `settle`, or to be armed again by it.
            Err(error) if driver::is_cancelled(&error) || is_transient(&error) => {}
            Err(error) => {
                link.reading = Reading::Ended;
                link.fail(CloseReason::Failed(error));
            }
        }
        self.settle(id);
    }

    fn cancel_again(&mut self, id: Id, kind: Kind) {
        let (descriptor, waits) = match (kind, self.connections.get(id), self.listeners.get(id)) {
            (Kind::Accept, _, Some(listener)) => {
                (listener.entrance.descriptor(), listener.cancelled && listener.armed)
            }
            (Kind::Accept, ..) | (_, None, _) => return,
            (_, Some(Connection { link, .. }), _) => {
                let waits = match kind {
                    Kind::Receive => link.reading == Reading::Cancelling,
                    Kind::Send => link.send_cancelled && link.sending > 0,
                    Kind::Read => link.file_read == FileRead::Cancelled,
                    _ => link.connect_cancelled && link.connecting,
                };
                (link.descriptor(), waits)
            }
        };
        if waits {
            self.driver.cancel(id.token(kind), descriptor);
            self.unsubmitted = true;
        }
    }

    /// Shows received bytes to the handler, and gives the buffer back.
    fn feed(&mut self, id: Id, lent: Lent) {
        let Some(Connection { handler, link }) = self.connections.get_mut(id) else { return };
        self.budget.charge(&mut link.fed, lent.len);
        note_received(link, &self.shared, lent.len);
        if link.filter.is_some() {
            return self.feed_filter(id, lent);
        }
        link.since.heard = true;
        if link.phase == Phase::Open && link.passage.is_some() {
            return self.feed_passage(id, lent);
        }
        take_in(handler, link, &mut self.shared, self.driver.bytes(lent));
        self.driver.release(lent.buffer);
    }

    /// The same for bytes that something else than a socket has brought.
    pub(in crate::reactor) fn feed_carried(&mut self, id: Id, bytes: &[u8]) {
        let Some(Connection { handler, link }) = self.connections.get_mut(id) else { return };
        self.budget.charge_carried(&mut link.fed, bytes.len());
        note_received(link, &self.shared, bytes.len());
        if link.filter.is_some() {
            return self.feed_filter_carried(id, bytes);
        }
        link.since.heard = true;
        if link.phase == Phase::Open && link.passage.is_some() {
            return self.feed_passage_plain(id, bytes);
        }
        take_in(handler, link, &mut self.shared, bytes);
    }

    /// Shows the handler once more what it left when it was paused.
    pub(in crate::reactor) fn feed_again(&mut self, id: Id) {
        let Some(Connection { handler, link }) = self.connections.get_mut(id) else { return };
        if link.passage.is_some() {
            return self.feed_passage_again(id);
        }
        let mut inbox = std::mem::take(&mut link.inbox);
        let offered = inbox.len();
        inbox.offer_again(&mut self.shared, |shared, bytes| show(handler, link, shared, bytes));
        put_back(link, inbox, offered, &mut self.shared);
    }

    /// What became of a send whose payload the kernel still reads: what follows from it waits for that.
    fn sent_but_held(&mut self, id: Id, result: io::Result<usize>) {
        if let Some(Connection { link, .. }) = self.connections.get_mut(id) {
            link.sent = Some(result);
        }
    }

    fn released(&mut self, id: Id, payload: Payload) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        if let Some(result) = link.sent.take() {
            self.sent(id, result, payload);
        }
    }

    pub(in crate::reactor) fn sent(&mut self, id: Id, result: io::Result<usize>, mut payload: Payload) {
        let counters = &self.shared.counters;
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        link.sending = 0;
        match result {
            Ok(sent) => {
                counters.sends.add(1);
                counters.sent_bytes.add(sent as u64);
                if sent > 0 {
                    link.last_progress = self.shared.now;
                }
                payload.advance(sent);
                link.note_sent(sent, payload.len());
                let more = !payload.is_empty() || link.has_sendable() || link.filtered > 0;
                link.since.taken(sent, more);
                if payload.is_empty() || link.phase == Phase::Dead {
                    self.shared.spare.give_payload(payload);
                } else {
                    counters.short_sends.add(1);
                    self.send(id, payload);
                }
            }
            Err(error)
                if is_transient(&error) && link.phase < Phase::Dead && link.wire.socket().is_some() =>
            {
                self.send(id, payload);
            }
            Err(error) => link.fail_output(error),
        }
        self.tell_room(id);
        self.tell_drained(id);
        self.settle(id);
        self.make_room(id);
    }

    fn tell_room(&mut self, id: Id) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        let is_low = link.files.is_none() && link.pending_output() <= link.options.limits.low_water();
        if link.above_low_water && is_low {
            link.above_low_water = false;
            if link.accepts_output() {
                self.call(id, |handler, io| handler.on_room(io));
            }
        }
    }

    fn tell_drained(&mut self, id: Id) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        if link.undrained && !link.has_output() {
            link.undrained = false;
            if link.phase == Phase::Open {
                self.call(id, |handler, io| handler.on_drained(io));
            }
        }
    }

    /// Hands a payload to the driver. The caller has made sure that none is in flight.
    pub(in crate::reactor) fn send(&mut self, id: Id, payload: Payload) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        debug_assert_eq!(link.sending, 0, "one send at a time");
        let sending = payload.len();
        let Wire::Socket(socket) = &link.wire else {
            link.sending = sending;
            let output = Output::new(link.connection, payload);
            self.tell_carrier(id, |carrier, io| carrier.send(io, output));
            // It may have panicked.
            return self.settle(id);
        };
        self.driver.submit(id.token(Kind::Send), Op::Send { socket: socket.as_raw_fd(), payload });
        // Here and elsewhere, only once the driver has it: nothing completes what it did not take.
        link.sending = sending;
        self.unsubmitted = true;
    }

    pub(in crate::reactor) fn handler_timer(&mut self, id: Id) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        link.handler_timer = None;
        // It may have been put off since, or taken back.
        if link.handler_deadline.is_some_and(|deadline| deadline <= self.shared.now) {
            link.handler_deadline = None;
            self.shared.counters.timers_fired.add(1);
            if link.phase == Phase::Open {
                self.call(id, |handler, io| handler.on_timer(io));
            }
        }
        self.settle(id);
    }

    /// Changes a connection's state from outside its handler.
    pub(in crate::reactor) fn change(&mut self, id: Id, change: impl FnOnce(&mut Link)) {
        if let Some(Connection { link, .. }) = self.connections.get_mut(id) {
            change(link);
            self.settle(id);
        }
    }

    /// Calls the handler; a panic ends the connection and nothing else.
    pub(in crate::reactor) fn call(&mut self, id: Id, call: impl FnOnce(&mut dyn Handler, &mut Io<'_>)) {
        let Some(Connection { handler, link }) = self.connections.get_mut(id) else { return };
        let mut io = Io { link, shared: &mut self.shared };
        if catch_unwind(AssertUnwindSafe(|| call(&mut **handler, &mut io))).is_err() {
            panicked(link, &self.shared);
        }
        check_output(link);
        if self.shared.succession.is_due() {
            take_over(handler, link, &mut self.shared);
        }
    }
}

#[inline]
fn note_received(link: &mut Link, shared: &Shared, bytes: usize) {
    shared.counters.receives.add(1);
    shared.counters.received_bytes.add(bytes as u64);
    link.last_input = shared.now;
}

/// Shows what has arrived to the handler, or keeps it for later.
#[inline(always)]
pub(super) fn take_in(handler: &mut Box<dyn Handler>, link: &mut Link, shared: &mut Shared, bytes: &[u8]) {
    match link.phase {
        Phase::Open if link.wants_input() => {
            let mut inbox = std::mem::take(&mut link.inbox);
            let offered = inbox.len() + bytes.len();
            inbox.offer(bytes, shared, |shared, bytes| show(handler, link, shared, bytes));
            put_back(link, inbox, offered, shared);
        }
        Phase::Open => {
            link.inbox.keep(bytes, &mut shared.spare);
            link.unread = true;
        }
        // Nobody wants them any more.
        Phase::Connecting | Phase::Handshaking | Phase::Flushing | Phase::Lingering | Phase::Dead => {
            link.input_lost();
        }
    }
}

/// Offers bytes to a handler, with the hint and the stop that [`Inbox`] wants to know of.
fn show(handler: &mut Box<dyn Handler>, link: &mut Link, shared: &mut Shared, bytes: &[u8]) -> Offered {
    let mut consumed = show_to(&mut **handler, link, shared, bytes);
    if shared.succession.is_due() {
        consumed += take_over_with(handler, link, shared, &bytes[consumed..]);
    }
    Offered { consumed, wanted: link.wanted, stop: link.phase != Phase::Open || link.paused }
}

/// How many of them it consumed.
#[inline]
pub(super) fn show_to(
    handler: &mut dyn Handler,
    link: &mut Link,
    shared: &mut Shared,
    bytes: &[u8],
) -> usize {
    link.wanted = 0;
    let mut io = Io { link, shared };
    let consumed = catch_unwind(AssertUnwindSafe(|| {
        let consumed = handler.on_bytes(&mut io, bytes);
        assert!(consumed <= bytes.len(), "on_bytes consumed {consumed} of {} bytes", bytes.len());
        consumed
    }));
    let consumed = consumed.unwrap_or_else(|_| {
        panicked(link, shared);
        bytes.len()
    });
    check_output(link);
    consumed
}

fn put_back(link: &mut Link, mut inbox: Inbox, offered: usize, shared: &mut Shared) {
    if link.phase > Phase::Open {
        inbox.release(&mut shared.spare);
    }
    let (pending, limit) = (inbox.len(), link.options.limits.input);
    link.inbox = inbox;
    if pending < offered {
        link.since.consumed();
    }
    link.unread = link.paused && pending > 0;
    if pending > limit && !link.is_held_back() {
        link.fail(CloseReason::InputLimit { pending, limit });
    }
}

/// Looks, behind each call, whether the handler has left alone what was written before: what is missing would be found when it
/// is sent, where it would concern everybody.
#[inline]
pub(super) fn check_output(link: &mut Link) {
    if !link.has_intact_output() {
        link.fail(CloseReason::OutputDamaged);
    }
}

pub(in crate::reactor) fn panicked(link: &mut Link, shared: &Shared) {
    shared.counters.handler_panics.add(1);
    crate::log::handler_panicked(&link.peer);
    link.fail(CloseReason::Panicked);
}

pub(super) fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}
