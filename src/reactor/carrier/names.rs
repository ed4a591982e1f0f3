//! Names within the process, at which streams in memory are accepted.
//!
//! All reactors of a server have the same name. Whoever connects is sent to its own reactor, if that is one of them, because two ends on
//! one reactor need no other thread; otherwise they have their turns.

use super::Wire;
use super::carried::Carrying;
use super::pair::{PairEnd, named_pair};
use crate::reactor::Reactor;
use crate::reactor::socket::listener::{Entrance, Listener};
use crate::reactor::table::Id;
use crate::reactor::threads::reactor_handle::ReactorHandle;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The next name for who wants any.
static NEXT: AtomicU64 = AtomicU64::new(1);

static NAMES: Mutex<BTreeMap<Arc<str>, Served>> = Mutex::new(BTreeMap::new());

/// Who is behind a name.
#[derive(Debug, Default)]
struct Served {
    /// How many have it; the last one to go takes it away.
    holders: usize,
    doors: Vec<Door>,
    next: usize,
}

/// A listener of a reactor.
#[derive(Clone, Debug)]
struct Door {
    reactor: ReactorHandle,
    listener: Id,
    queue: Arc<Queue>,
}

/// Streams on their way to a listener.
#[derive(Debug)]
struct Queue {
    most: usize,
    waiting: AtomicUsize,
}

impl Queue {
    /// One more, if there is room.
    fn join(&self) -> bool {
        let one_more = |waiting| (waiting < self.most).then_some(waiting + 1);
        self.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_ok()
    }
}

/// A name that is taken, for one listener.
#[derive(Debug)]
pub(in crate::reactor) struct Name {
    name: Arc<str>,
    queue: Arc<Queue>,
}

/// One of those that wait. Whatever becomes of it, it waits no more in the end.
struct Place(Arc<Queue>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Name {
    /// Takes a name, or another one's share of it. An empty one stands for one that nobody has.
    pub(in crate::reactor) fn take(wanted: &Arc<str>, joins: bool, backlog: u32) -> io::Result<Self> {
        let mut names = NAMES.lock();
        let mut name = wanted.clone();
        if name.is_empty() {
            // Not the one that somebody had last: its clients may still look for that.
            while name.is_empty() || names.contains_key(&name) {
                name = NEXT.fetch_add(1, Ordering::Relaxed).to_string().into();
            }
        } else if names.contains_key(&name) && !joins {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        names.entry(name.clone()).or_default().holders += 1;
        let queue = Arc::new(Queue { most: backlog.max(1) as usize, waiting: AtomicUsize::new(0) });
        Ok(Name { name, queue })
    }

    pub(in crate::reactor) fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn open(&self, reactor: ReactorHandle, listener: Id) {
        if let Some(served) = NAMES.lock().get_mut(&self.name) {
            served.doors.push(Door { reactor, listener, queue: self.queue.clone() });
        }
    }

    /// From now on nobody is sent here.
    fn close(&self) {
        if let Some(served) = NAMES.lock().get_mut(&self.name) {
            served.doors.retain(|door| !Arc::ptr_eq(&door.queue, &self.queue));
        }
    }

    fn is_waited_at(&self) -> bool {
        self.queue.waiting.load(Ordering::Acquire) > 0
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        self.close();
        let mut names = NAMES.lock();
        let Some(served) = names.get_mut(&self.name) else { return };
        served.holders -= 1;
        if served.holders == 0 {
            names.remove(&self.name);
        }
    }
}

/// One end for who wants to reach a name, and one to be sent there.
pub(in crate::reactor) fn knocking(name: &Arc<str>) -> (Wire, PairEnd) {
    let (ours, theirs) = named_pair(String::new().into(), name.clone());
    (Wire::Carried(Carrying::new(Box::new(ours))), theirs)
}

impl Reactor {
    /// Whoever connects to the name of this listener comes here from now on.
    pub(in crate::reactor) fn open_name(&mut self, id: Id) {
        let reactor = self.handle();
        if let Some(Listener { entrance: Entrance::Memory(name), .. }) = self.listeners.get(id) {
            name.open(reactor, id);
        }
    }

    /// Nobody comes any more; those who are on their way are still let in. Whether there are none.
    pub(in crate::reactor) fn close_name(&self, id: Id) -> bool {
        match self.listeners.get(id) {
            Some(Listener { entrance: Entrance::Memory(name), .. }) => {
                name.close();
                !name.is_waited_at()
            }
            _ => true,
        }
    }

    /// Sends the other end of what this connection has to whoever serves this name. What comes of that it hears soon.
    pub(in crate::reactor) fn knock(&mut self, id: Id, name: &Arc<str>, theirs: PairEnd) {
        let result = self.find_door(name).and_then(|(door, place)| self.send_to(&door, theirs, place));
        self.shared.soon.push(Box::new(move |reactor| reactor.connected(id, result)));
    }

    fn find_door(&self, name: &Arc<str>) -> io::Result<(Door, Place)> {
        let mut names = NAMES.lock();
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let served = names.get_mut(name).filter(|served| !served.doors.is_empty()).ok_or_else(refused)?;
        // The own one first, and then those whose turn it is.
        served.next = (served.next + 1) % served.doors.len();
        let (before, from) = served.doors.split_at(served.next);
        let own = served.doors.iter().filter(|door| door.reactor.is_of(&self.shared.mailbox));
        // Under the lock: behind a close, nobody comes any more.
        let door = own.chain(from).chain(before).find(|door| door.queue.join());
        let door = door.ok_or_else(|| io::Error::from(io::ErrorKind::WouldBlock))?;
        Ok((door.clone(), Place(door.queue.clone())))
    }

    fn send_to(&mut self, door: &Door, end: PairEnd, place: Place) -> io::Result<()> {
        let listener = door.listener;
        let arrive = move |reactor: &mut Reactor| {
            reactor.admit_stream(listener, end);
            drop(place);
            reactor.settle_listener(listener);
        };
        if door.reactor.is_of(&self.shared.mailbox) {
            self.shared.soon.push(Box::new(arrive));
            return Ok(());
        }
        door.reactor.run(arrive).map_err(|_| io::ErrorKind::ConnectionRefused.into())
    }
}
