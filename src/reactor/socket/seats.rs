//! One server's connections, on all its reactors together: how many there may be, how many there are, and their end.

use super::address::Address;
use super::options::ListenOptions;
use super::peers::{Peer, Peers, TooMany};
use crate::metrics::Drained;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

/// What the sockets and connections of one server share.
pub(crate) struct Seats {
    most: usize,
    peers: Peers,
    taken: AtomicUsize,
    /// Sockets that still accept.
    listeners: AtomicUsize,
    /// Whoever gets a seat from now on is asked to finish at once.
    stopping: AtomicBool,
    /// The grace is over: whoever gets a seat from now on is cut off.
    cut: AtomicBool,
    left: AtomicUsize,
    cut_off: AtomicUsize,
    /// What is done once nobody is left.
    farewells: Mutex<Vec<Farewell>>,
}

type Farewell = Box<dyn FnOnce() + Send>;

/// A connection's place at its server.
#[derive(Debug)]
pub(crate) struct Seat {
    seats: Arc<Seats>,
    /// Who has it, where that matters.
    peer: Option<Peer>,
    /// Whose it is has been said.
    named: bool,
}

/// Why there is no seat.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::reactor) enum Refused {
    Full,
    /// Its peer has too many, or comes too often.
    Peer,
}

/// A listening socket's.
#[derive(Debug)]
pub(crate) struct Door(Arc<Seats>);

impl Seats {
    pub(crate) fn new(options: &ListenOptions) -> Arc<Self> {
        Arc::new(Seats {
            most: options.connections,
            peers: Peers::new(options.peers),
            taken: AtomicUsize::new(0),
            listeners: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            left: AtomicUsize::new(0),
            cut_off: AtomicUsize::new(0),
            farewells: Mutex::default(),
        })
    }

    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }

    /// Whether any of the server's sockets still accepts.
    pub(crate) fn are_open(&self) -> bool {
        self.listeners.load(Ordering::SeqCst) > 0
    }

    pub(in crate::reactor) fn take(
        self: &Arc<Self>,
        address: Option<&Address>,
        now: Instant,
    ) -> Result<Seat, Refused> {
        let peer = address.map(|address| self.peers.admit(address, now).map_err(|TooMany| Refused::Peer));
        let peer = peer.transpose()?.flatten();
        let taken = |taken| (taken < self.most).then_some(taken + 1);
        if self.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, taken).is_err() {
            peer.inspect(|peer| self.peers.leave(*peer));
            return Err(Refused::Full);
        }
        Ok(Seat { seats: self.clone(), peer, named: address.is_some() })
    }

    pub(in crate::reactor) fn open_door(self: &Arc<Self>) -> Door {
        self.listeners.fetch_add(1, Ordering::SeqCst);
        Door(self.clone())
    }

    /// From now on connections are asked to finish as they open.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    pub(in crate::reactor) fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }

    /// What became of the server's connections so far.
    pub(crate) fn drained(&self) -> Drained {
        let cut_off = self.cut_off.load(Ordering::SeqCst);
        Drained::new(self.left.load(Ordering::SeqCst).saturating_sub(cut_off) as u64, cut_off as u64)
    }

    /// Does this once the last socket is closed and the last connection has ended, at once if that is so.
    pub(crate) fn when_empty(&self, farewell: impl FnOnce() + Send + 'static) {
        self.farewells.lock().push(Box::new(farewell));
        self.say_farewell();
    }

    fn say_farewell(&self) {
        if self.are_open() || self.taken() > 0 {
            return;
        }
        // Outside the lock: what is done may do anything.
        let farewells = std::mem::take(&mut *self.farewells.lock());
        farewells.into_iter().for_each(|farewell| farewell());
    }
}

impl Seat {
    pub(in crate::reactor) fn is_of(&self, seats: &Arc<Seats>) -> bool {
        Arc::ptr_eq(&self.seats, seats)
    }

    /// Says whose it is, the first time that it is known. `false` if that one has too many.
    pub(in crate::reactor) fn name(&mut self, address: &Address, now: Instant) -> bool {
        if std::mem::replace(&mut self.named, true) {
            return true;
        }
        let admitted = self.seats.peers.admit(address, now);
        self.peer = admitted.as_ref().ok().copied().flatten();
        admitted.is_ok()
    }

    pub(in crate::reactor) fn is_stopping(&self) -> bool {
        self.seats.stopping.load(Ordering::Relaxed)
    }

    pub(in crate::reactor) fn is_cut(&self) -> bool {
        self.seats.cut.load(Ordering::Relaxed)
    }

    pub(in crate::reactor) fn count_cut_off(&self) {
        self.seats.cut_off.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(peer) = self.peer {
            self.seats.peers.leave(peer);
        }
        self.seats.left.fetch_add(1, Ordering::SeqCst);
        if self.seats.taken.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.seats.say_farewell();
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if self.0.listeners.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.say_farewell();
        }
    }
}

impl std::fmt::Debug for Seats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seats")
            .field("taken", &self.taken())
            .field("most", &self.most)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_farewell_waits_for_the_last_socket_and_the_last_connection() {
        let said = Arc::new(AtomicUsize::new(0));
        let seats = Seats::new(&ListenOptions::new().max_connections(2));
        let take = || seats.take(Some(&Address::Unix("x".into())), Instant::now());
        let say = |seats: &Seats| {
            let said = said.clone();
            seats.when_empty(move || _ = said.fetch_add(1, Ordering::SeqCst));
        };
        let (door, one, two) = (seats.open_door(), take().unwrap(), take().unwrap());
        assert!(take().is_err_and(|why| why == Refused::Full) && seats.are_open());
        say(&seats);
        drop(one);
        drop(door);
        two.count_cut_off();
        assert_eq!(said.load(Ordering::SeqCst), 0);
        drop(two);
        assert_eq!(said.load(Ordering::SeqCst), 1);
        assert_eq!((seats.drained().closed, seats.drained().cut_off), (1, 1));
        say(&seats);
        assert_eq!(said.load(Ordering::SeqCst), 2);
        let (door, seat) = (seats.open_door(), take().unwrap());
        say(&seats);
        drop(seat);
        assert_eq!(said.load(Ordering::SeqCst), 2);
        drop(door);
        assert_eq!(said.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn who_finds_no_seat_does_not_count_for_his_peer() {
        let seats = Seats::new(&ListenOptions::new().max_connections(1).max_connections_per_peer(1));
        let take = |last: u8| seats.take(Some(&Address::Tcp(([192, 0, 2, last], 1).into())), Instant::now());
        let one = take(1).unwrap();
        assert_eq!(take(1).err(), Some(Refused::Peer));
        assert_eq!(take(2).err(), Some(Refused::Full));
        drop(one);
        let two = take(2).expect("it has none");
        assert_eq!(seats.drained().closed, 1, "the refused ones were never there");
        drop(two);
        take(1).expect("it has left");
    }
}
