//! What stands between a connection's socket and its stream, such as TLS or a header in front of everything.
//!
//! A filter is neither a stream nor a handler. What is received passes it once on its way to the inbox, what was written once on
//! its way to a send, and what it has to say by itself goes the same way. Until it has come to terms with the peer, the
//! connection is [`Phase::Handshaking`], and its handler is not called.
//!
//! A connection without one has a null pointer and pays a branch for it. Filters stand in a row: one that has done what it is there
//! for goes, and what follows is the next one's, or passes.

mod link;

use super::connection::{Connection, Phase};
use super::dispatch;
use super::handler::CloseReason;
use crate::buf::Payload;
use crate::config::HANDSHAKES;
use crate::driver::{Kind, Lent};
use crate::reactor::Reactor;
use crate::reactor::pace::timers::deadline;
use crate::reactor::socket::address::Address;
use crate::reactor::table::Id;
#[cfg(any(feature = "tls", feature = "tls-ring"))]
use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;

/// Output that is sealed at once: what is sealed of it is one send. What is longer waits as it is, so that no more than this is held
/// twice.
const SEAL_BYTES: usize = 480 << 10;

/// Pieces of output that are shorter are gathered, so that they do not become as many records.
const WORTH_SEALING: usize = 64 << 10;

/// Memory that a filter which has nothing to say may keep for what it has to.
const MOST_SAID: usize = 1 << 10;

/// One connection's.
pub(crate) trait Filter {
    /// Called first, and once.
    fn begin(&mut self, through: &mut Through<'_>) -> Result<State, CloseReason>;

    /// Takes all of what was received. What it is left of the memory is of no interest to anybody. Of an error, `through` has what the
    /// peer is to hear of it, and what came before it in good order.
    fn receive(&mut self, bytes: &mut [u8], through: &mut Through<'_>) -> Result<State, CloseReason>;

    /// Puts `plain`, as it is to be sent, behind what is in `into`. Not before it was [`State::Open`].
    fn seal(&mut self, plain: &[u8], into: &mut Vec<u8>) -> Result<(), CloseReason>;

    /// The last that it says: nothing is sealed behind it.
    fn end_output(&mut self, into: &mut Vec<u8>);

    /// Bytes of input that it holds until the rest has come.
    fn held_input(&self) -> usize;

    /// What a handler may know of it.
    #[cfg(any(feature = "tls", feature = "tls-ring"))]
    fn info(&self) -> Option<&dyn Any> {
        None
    }
}

/// Where a filter puts what comes out of it.
#[cfg_attr(not(test), allow(dead_code, reason = "not every configuration has every filter"))]
pub(crate) struct Through<'a> {
    /// What the handler is to be shown.
    pub(crate) plain: &'a mut Vec<u8>,
    /// What the peer is to be sent.
    pub(crate) said: &'a mut Vec<u8>,
    /// Whom the handler takes for its peer.
    pub(crate) peer: &'a mut Address,
}

/// How far a filter has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(test), allow(dead_code, reason = "not every configuration has every filter"))]
pub(crate) enum State {
    /// It talks with the peer, and nothing passes yet.
    Handshaking,
    Open,
    /// The peer has ended its output, and said so to the filter.
    Ended,
    /// It has done what it is there for, with so many of the bytes that it was given: the others are not for it.
    Gone(usize),
}

/// Makes a filter for each connection.
pub(crate) trait MakeFilter: fmt::Debug + Send + Sync {
    fn make(&self, peer: &Address) -> Result<Box<dyn Filter>, CloseReason>;
}

/// Those that the options of a connection ask for, from the socket on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filters {
    /// What is in front of everything, and goes.
    pub(crate) header: Option<Arc<dyn MakeFilter>>,
    pub(crate) cipher: Option<Arc<dyn MakeFilter>>,
}

impl Filters {
    pub(crate) fn are_none(&self) -> bool {
        self.header.is_none() && self.cipher.is_none()
    }

    fn make(&self, peer: &Address) -> Result<Option<Box<Filtered>>, CloseReason> {
        let made = |make: &Option<Arc<dyn MakeFilter>>| make.as_ref().map(|make| make.make(peer)).transpose();
        Ok(match (made(&self.header)?, made(&self.cipher)?) {
            (Some(header), cipher) => Some(Filtered::new(header, cipher)),
            (None, Some(cipher)) => Some(Filtered::new(cipher, None)),
            (None, None) => None,
        })
    }
}

/// The filters of one connection, and what is on its way through them.
pub(in crate::reactor) struct Filtered {
    filter: Box<dyn Filter>,
    behind: Option<Box<dyn Filter>>,
    /// What it wants to say, sealed as it is to be sent.
    said: Vec<u8>,
    /// Output that is being sealed, a part at a time.
    sealing: Payload,
    /// Of the bytes in flight, those that stand for what other threads wrote.
    foreign: usize,
    /// The peer ended its output and said so.
    ended: bool,
    /// The socket's end came without that.
    truncated: bool,
    farewell: bool,
    /// It takes nothing any more.
    broken: bool,
    /// A header has said whose connection it is, and something else follows.
    names: bool,
    /// Among the handshakes of the reactor, while it is one of those.
    place: Option<Place>,
}

/// The handshakes of a reactor with connections that it accepted.
pub(in crate::reactor) struct Handshakes {
    most: usize,
    /// One for each, and one more.
    going_on: Rc<()>,
    /// Those that are to begin, in order.
    waiting: VecDeque<Id>,
}

/// Of a handshake that goes on.
struct Place(#[expect(dead_code, reason = "it is counted")] Rc<()>);

impl Handshakes {
    pub(in crate::reactor) fn new(most: Option<usize>) -> Self {
        let most = most.unwrap_or(HANDSHAKES);
        Handshakes { most, going_on: Rc::new(()), waiting: VecDeque::new() }
    }

    /// Whether one of them waits, and there is a place.
    pub(in crate::reactor) fn may_begin(&self) -> bool {
        !self.waiting.is_empty() && Rc::strong_count(&self.going_on) <= self.most
    }

    fn take_place(&self) -> Option<Place> {
        (Rc::strong_count(&self.going_on) <= self.most).then(|| Place(self.going_on.clone()))
    }
}

impl Filtered {
    fn new(filter: Box<dyn Filter>, behind: Option<Box<dyn Filter>>) -> Box<Self> {
        let (said, sealing, foreign) = (Vec::new(), Payload::default(), 0);
        let (ended, truncated, farewell, broken, names) = (false, false, false, false, false);
        let place = None;
        Box::new(Filtered {
            filter,
            behind,
            said,
            sealing,
            foreign,
            ended,
            truncated,
            farewell,
            broken,
            names,
            place,
        })
    }

    fn begin(&mut self, plain: &mut Vec<u8>, peer: &mut Address) -> Result<State, CloseReason> {
        let state = self.filter.begin(&mut Through { plain, said: &mut self.said, peer })?;
        self.pass_on(state, &mut [], plain, peer)
    }

    fn receive(
        &mut self,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
        peer: &mut Address,
    ) -> Result<State, CloseReason> {
        let state = self.filter.receive(bytes, &mut Through { plain, said: &mut self.said, peer })?;
        self.pass_on(state, bytes, plain, peer)
    }

    /// Behind a filter that goes comes the next one, or nothing.
    fn pass_on(
        &mut self,
        state: State,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
        peer: &mut Address,
    ) -> Result<State, CloseReason> {
        let State::Gone(used) = state else { return Ok(state) };
        let rest = &mut bytes[used..];
        let Some(next) = self.behind.take() else {
            plain.extend_from_slice(rest);
            return Ok(state);
        };
        self.filter = next;
        self.names = true;
        match self.begin(plain, peer)? {
            State::Handshaking | State::Open if !rest.is_empty() => self.receive(rest, plain, peer),
            state => Ok(state),
        }
    }

    /// Output that is being sealed, as it was written.
    pub(super) fn sealing(&self) -> usize {
        self.sealing.len()
    }

    /// Output that waits here.
    fn pending(&self) -> usize {
        self.said.len() + self.sealing.len()
    }

    fn drop_output(&mut self) {
        self.sealing = Payload::default();
        self.said = Vec::new();
        self.foreign = 0;
    }
}

impl Reactor {
    /// The connection is there. If it is to have filters, these talk first; else its handler hears of it.
    pub(in crate::reactor) fn established(&mut self, id: Id) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        if link.phase > Phase::Connecting {
            // What carries it has panicked.
            return self.settle(id);
        }
        if link.options.filters.are_none() {
            link.phase = Phase::Open;
            return self.let_in(id);
        }
        link.phase = Phase::Handshaking;
        link.phase_deadline = Some(deadline(self.shared.now, link.options.handshake_timeout));
        // How many connections this side makes is its own affair. Whoever comes later stands behind those who wait.
        let needs_place = link.seat.is_some();
        let may_have_one = needs_place && self.handshakes.waiting.is_empty();
        let place = if may_have_one { self.handshakes.take_place() } else { None };
        if needs_place && place.is_none() {
            self.shared.counters.handshakes_delayed.add(1);
            self.handshakes.waiting.push_back(id);
            return self.settle(id);
        }
        let outer = self.settling.replace(id);
        self.begin_handshake(id, place);
        self.settling = outer;
    }

    /// Begins those for which there is a place now.
    pub(in crate::reactor) fn begin_handshakes(&mut self) {
        while let Some(&id) = self.handshakes.waiting.front() {
            let link = self.connections.get(id).map(|connection| &connection.link);
            if link.is_some_and(|link| link.phase == Phase::Handshaking) {
                let Some(place) = self.handshakes.take_place() else { return };
                self.contain(|reactor, about| {
                    *about = Some(id.token(Kind::Receive));
                    reactor.begin_handshake(id, Some(place));
                });
            }
            self.handshakes.waiting.pop_front();
        }
    }

    fn begin_handshake(&mut self, id: Id, place: Option<Place>) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        match link.options.filters.make(&link.peer) {
            Ok(Some(mut filter)) => {
                let mut plain = Vec::new();
                let outcome = filter.begin(&mut plain, &mut link.peer);
                filter.place = place;
                link.filter = Some(filter);
                link.last_progress = self.shared.now;
                self.filtered(id, outcome, plain);
                self.settle(id);
            }
            Ok(None) => self.let_in(id),
            Err(reason) => self.change(id, |link| link.fail(reason)),
        }
    }

    fn let_in(&mut self, id: Id) {
        match self.connections.get(id).and_then(|connection| connection.link.race.clone()) {
            Some(race) => self.open_first(id, &race),
            None => self.opened(id),
        }
    }

    /// Has what was received pass the filter, and gives the buffer back.
    pub(super) fn feed_filter(&mut self, id: Id, lent: Lent) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        let mut plain = self.shared.spare.take();
        let bytes = self.driver.bytes(lent);
        let outcome = catch_unwind(AssertUnwindSafe(|| link.pass_filter(bytes, &mut plain)));
        // In any case, or the pool would be short of one for ever.
        self.driver.release(lent.buffer);
        match outcome {
            Ok(outcome) => self.filtered(id, outcome, plain),
            Err(panic) => resume_unwind(panic),
        }
    }

    /// The same for what something else than a socket has brought, which is not ours to be changed.
    pub(super) fn feed_filter_carried(&mut self, id: Id, bytes: &[u8]) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        let (mut copy, mut plain) = (self.shared.spare.take_for(bytes.len()), self.shared.spare.take());
        copy.extend_from_slice(bytes);
        let outcome = link.pass_filter(&mut copy, &mut plain);
        self.shared.spare.give(copy);
        self.filtered(id, outcome, plain);
    }

    /// Does what follows from what came out of the filter.
    fn filtered(&mut self, id: Id, outcome: Result<State, CloseReason>, plain: Vec<u8>) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        let names = link.filter.as_mut().is_some_and(|filter| std::mem::take(&mut filter.names));
        if names && !self.name_client(id) {
            return;
        }
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        link.filtered = link.filter.as_ref().map_or(0, |filter| filter.pending());
        let passes = !matches!(outcome, Ok(State::Handshaking) | Err(_));
        if link.phase == Phase::Handshaking && passes {
            // What came with the last of it is shown behind `on_open`.
            link.inbox.keep(&plain, &mut self.shared.spare);
            link.unread = !plain.is_empty();
            (link.phase, link.phase_deadline) = (Phase::Open, None);
            if let Some(filter) = &mut link.filter {
                filter.place = None;
            }
            link.note_state(outcome);
            self.let_in(id);
            if let Some(Connection { link, .. }) = self.connections.get_mut(id) {
                link.since.heard |= !plain.is_empty();
            }
        } else {
            link.since.heard |= !plain.is_empty();
            self.deliver(id, &plain);
            if let Some(Connection { link, .. }) = self.connections.get_mut(id) {
                link.note_state(outcome);
            }
        }
        self.shared.spare.give(plain);
    }

    /// One send of what there is to be said, in its turn.
    pub(super) fn flush_filter(&mut self, id: Id) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        match link.seal(&mut self.shared.spare) {
            Ok(None) => {}
            Ok(Some(payload)) => self.send(id, payload),
            Err(reason) => self.change(id, |link| link.fail(reason)),
        }
    }

    fn deliver(&mut self, id: Id, plain: &[u8]) {
        let Some(Connection { handler, link }) = self.connections.get_mut(id) else { return };
        if plain.is_empty() {
            return;
        }
        if link.phase == Phase::Open && link.passage.is_some() {
            return self.feed_passage_plain(id, plain);
        }
        dispatch::take_in(handler, link, &mut self.shared, plain);
    }
}
