//! Who is tried, and in which order.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use trochus::Reactor;
use trochus::net::{Address, CloseReason, Handler, Io, StreamOptions};

struct Upstream {
    address: Address,
    /// It answered when it was asked last.
    answers: AtomicBool,
}

pub(crate) struct Upstreams {
    /// Replaced as a whole.
    list: Mutex<Arc<[Upstream]>>,
    next: AtomicUsize,
}

impl Upstreams {
    pub(crate) fn new(addresses: Vec<Address>) -> Self {
        let upstreams = Upstreams { list: Mutex::new(Arc::new([])), next: AtomicUsize::new(0) };
        upstreams.replace(addresses);
        upstreams
    }

    /// How many there are from now on. Whoever stays is as healthy as before.
    pub(crate) fn replace(&self, addresses: Vec<Address>) -> usize {
        let before = self.list();
        let answers = |address: &Address| {
            let known = before.iter().find(|upstream| upstream.address == *address);
            known.is_none_or(|upstream| upstream.answers.load(Relaxed))
        };
        let list: Arc<[Upstream]> = addresses
            .into_iter()
            .map(|address| Upstream { answers: AtomicBool::new(answers(&address)), address })
            .collect();
        let count = list.len();
        *self.list.lock().unwrap_or_else(PoisonError::into_inner) = list;
        count
    }

    fn list(&self) -> Arc<[Upstream]> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The one whose turn it is, then the others; those that did not answer last, for want of anybody else.
    pub(crate) fn order(&self) -> Vec<Address> {
        let list = self.list();
        let first = self.next.fetch_add(1, Relaxed);
        let in_turn = (0..list.len()).map(|at| &list[(first + at) % list.len()]);
        let (here, away): (Vec<_>, Vec<_>) = in_turn.partition(|upstream| upstream.answers.load(Relaxed));
        here.into_iter().chain(away).map(|upstream| upstream.address.clone()).collect()
    }

    /// What a relay found out: `first` was tried first, and `answered` had it.
    pub(crate) fn note(&self, first: Option<&Address>, answered: Option<&Address>) {
        if let Some(first) = first.filter(|first| answered.is_some_and(|answered| answered != *first)) {
            self.set(first, false);
        }
    }

    fn set(&self, address: &Address, answers: bool) {
        for upstream in self.list().iter().filter(|upstream| upstream.address == *address) {
            if upstream.answers.swap(answers, Relaxed) != answers {
                println!("{address} {}", if answers { "is there again" } else { "does not answer" });
            }
        }
    }
}

impl fmt::Display for Upstreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = self.list();
        let here = list.iter().filter(|upstream| upstream.answers.load(Relaxed)).count();
        write!(f, "{here} of {} upstreams answer", list.len())
    }
}

/// Asks each of them now, and again and again.
pub(crate) fn look_after(reactor: &mut Reactor, upstreams: Arc<Upstreams>, interval: Duration) {
    let options = StreamOptions::new().connect_timeout(interval.max(Duration::from_millis(100)));
    for upstream in upstreams.list().iter() {
        let look = Look { upstreams: upstreams.clone(), address: upstream.address.clone() };
        reactor.connect(&options, &upstream.address, look);
    }
    reactor.after(interval, move |reactor| look_after(reactor, upstreams, interval));
}

/// A connection that is only made to see whether it can be.
struct Look {
    upstreams: Arc<Upstreams>,
    address: Address,
}

impl Handler for Look {
    fn on_open(&mut self, io: &mut Io<'_>) {
        self.upstreams.set(&self.address, true);
        io.close();
    }

    fn on_bytes(&mut self, _io: &mut Io<'_>, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn on_close(&mut self, reason: &CloseReason, _reactor: &mut Reactor) {
        if matches!(reason, CloseReason::ConnectFailed(_)) {
            self.upstreams.set(&self.address, false);
        }
    }
}
