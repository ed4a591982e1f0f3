//! One reactor's part of the rooms.
//!
//! Whoever says something does so in a [`Batch`], which every reactor gets once. While a member is behind by more than the mark, its
//! reactor keeps the batches of its room, and a batch that nobody keeps any more tells its sender: who has too much under way is not
//! read meanwhile. So a burst goes as fast as the slowest reader takes it, nobody has more waiting than the mark and what the
//! senders have under way, and who does not get below the mark for a while is slow and not just behind.

use crate::member::Member;
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use trochus::Reactor;
use trochus::net::{ConnectionId, Io};
use trochus::reactor::ReactorHandle;

/// What is shorter is cheaper to copy than to share.
const WORTH_SHARING: usize = 2 << 10;

#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes that may wait for a member before the room waits for it.
    pub(crate) mark: usize,
    /// How long the room waits.
    pub(crate) patience: Duration,
}

/// Something that happens in a room.
pub(crate) struct Event {
    pub(crate) room: Arc<str>,
    pub(crate) change: Change,
    /// What the others in the room are shown.
    pub(crate) text: Bytes,
}

pub(crate) enum Change {
    Said,
    /// Entered with this name, or has it from now on.
    IsHere(Arc<str>),
    Left,
}

/// What one member did at a time, shared by all reactors.
pub(crate) struct Batch {
    who: ConnectionId,
    home: ReactorHandle,
    events: Vec<Event>,
}

impl Batch {
    fn bytes(&self) -> usize {
        self.events.iter().map(|event| event.text.len()).sum()
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let (who, bytes) = (self.who, self.bytes());
        // If that reactor has stopped, nobody waits for it.
        let _ = self.home.run(move |reactor| {
            reactor.with_handler(who, |member: &mut Member, io| member.taken(io, bytes));
        });
    }
}

#[derive(Default)]
struct Room {
    /// All members, on whichever reactor.
    names: BTreeMap<ConnectionId, Arc<str>>,
    /// Those of this reactor. Shared with whoever goes through it while it changes.
    here: Rc<Vec<ConnectionId>>,
    /// Those of them that are behind.
    behind: BTreeSet<ConnectionId>,
    /// Batches that keep their senders waiting until nobody is behind.
    kept: Vec<Arc<Batch>>,
}

struct Hall {
    index: usize,
    reactors: Arc<[ReactorHandle]>,
    limits: Limits,
    rooms: HashMap<Arc<str>, Room>,
}

thread_local! {
    /// A reactor is a thread. Never borrowed while a handler is called, who may come here as well.
    static HALL: RefCell<Option<Hall>> = const { RefCell::new(None) };
}

fn with<R>(act: impl FnOnce(&mut Hall) -> R) -> R {
    HALL.with_borrow_mut(|hall| act(hall.as_mut().expect("it was opened")))
}

/// To be called on each reactor, before anybody can connect.
pub(crate) fn open(index: usize, reactors: Arc<[ReactorHandle]>, limits: Limits) {
    HALL.set(Some(Hall { index, reactors, limits, rooms: HashMap::new() }));
}

impl Hall {
    /// Takes note of who is where.
    fn note(&mut self, who: ConnectionId, event: &Event, is_home: bool) {
        match &event.change {
            Change::Said => {}
            Change::IsHere(name) => {
                let room = self.rooms.entry(event.room.clone()).or_default();
                let is_new = room.names.insert(who, name.clone()).is_none();
                if is_home && is_new {
                    Rc::make_mut(&mut room.here).push(who);
                }
            }
            Change::Left => {
                let Some(room) = self.rooms.get_mut(&event.room) else { return };
                room.names.remove(&who);
                Rc::make_mut(&mut room.here).retain(|member| *member != who);
                room.is_level(who);
                if room.names.is_empty() {
                    self.rooms.remove(&event.room);
                }
            }
        }
    }
}

impl Room {
    /// A member is not behind, or no longer, or no longer here.
    fn is_level(&mut self, who: ConnectionId) {
        if self.behind.remove(&who) && self.behind.is_empty() {
            self.kept.clear();
        }
    }
}

/// Has the rooms hear of what a member did, from its handler. Gives the bytes that are under way from now on.
pub(crate) fn publish(io: &mut Io<'_>, events: Vec<Event>) -> usize {
    let who = io.id();
    let batch = with(|hall| {
        events.iter().for_each(|event| hall.note(who, event, true));
        let batch = Arc::new(Batch { who, home: hall.reactors[hall.index].clone(), events });
        let others = hall.reactors.iter().enumerate().filter(|(index, _)| *index != hall.index);
        for (_, reactor) in others {
            let batch = batch.clone();
            // One that has stopped has no members.
            let _ = reactor.run(move |reactor| {
                with(|hall| batch.events.iter().for_each(|event| hall.note(who, event, false)));
                deliver(reactor, &batch);
            });
        }
        batch
    });
    let bytes = batch.bytes();
    // With the reactor in hand the way to its other connections is open; this handler has to return first.
    io.defer(move |reactor| deliver(reactor, &batch));
    bytes
}

/// The same for a member whose connection has ended. Not at once: that it ended may be found while others are being written to.
pub(crate) fn publish_end(who: ConnectionId, event: Event) {
    let event = Arc::new(event);
    let reactors = with(|hall| hall.reactors.clone());
    for reactor in reactors.iter() {
        let event = event.clone();
        let _ = reactor.run(move |reactor| {
            with(|hall| hall.note(who, &event, false));
            show(reactor, who, &event);
        });
    }
}

fn deliver(reactor: &mut Reactor, batch: &Arc<Batch>) {
    for event in &batch.events {
        show(reactor, batch.who, event);
        with(|hall| {
            if let Some(room) = hall.rooms.get_mut(&event.room).filter(|room| !room.behind.is_empty()) {
                room.kept.push(batch.clone());
            }
        });
    }
}

/// Writes to all members of a room that are on this reactor, but not to `who`.
fn show(reactor: &mut Reactor, who: ConnectionId, event: &Event) {
    let found = with(|hall| Some((hall.rooms.get(&event.room)?.here.clone(), hall.limits)));
    let Some((here, limits)) = found.filter(|_| !event.text.is_empty()) else { return };
    for member in here.iter().filter(|member| **member != who) {
        let waiting = reactor.with_connection(*member, |io| {
            write(io, &event.text);
            io.pending()
        });
        // Of one that is gone, its leaving is on its way.
        if waiting.is_some_and(|waiting| waiting > limits.mark) && begin_to_wait(&event.room, *member) {
            reactor.with_connection(*member, |io| io.set_timer(limits.patience));
        }
    }
}

fn write(io: &mut Io<'_>, text: &Bytes) {
    if text.len() < WORTH_SHARING { io.write(text) } else { io.write_bytes(text.clone()) }
}

/// From now on the room waits for a member, unless it does already.
fn begin_to_wait(room: &Arc<str>, who: ConnectionId) -> bool {
    with(|hall| hall.rooms.get_mut(room).is_some_and(|room| room.behind.insert(who)))
}

/// A member has taken so much that the room need not wait for it.
pub(crate) fn has_room(room: &Arc<str>, who: ConnectionId) {
    with(|hall| hall.rooms.get_mut(room).into_iter().for_each(|room| room.is_level(who)));
}

/// Whether somebody else in a room has a name, as far as this reactor knows: two who take it at the same instant on two reactors
/// both get it.
pub(crate) fn is_taken(room: &str, name: &str, who: ConnectionId) -> bool {
    with(|hall| {
        let room = hall.rooms.get(room);
        room.is_some_and(|room| room.names.iter().any(|(member, of)| *member != who && **of == *name))
    })
}

pub(crate) fn names(room: &str) -> Vec<Arc<str>> {
    with(|hall| hall.rooms.get(room).map(|room| room.names.values().cloned().collect()).unwrap_or_default())
}
