//! A reactor's subscribers, and the three things to do about those who are behind.

use crate::options::Policy;
use crate::publisher::Gate;
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use trochus::Reactor;
use trochus::net::{CloseReason, ConnectionId, Handler, Io};

/// Bytes of a message: its number, and when it was due, both little endian.
pub(crate) const MESSAGE: usize = 16;

/// In the place of the number: so many messages were left out here.
pub(crate) const LEFT_OUT: u64 = 1 << 63;

/// Messages that belong to all subscribers. When the last reactor lets go of it, the publisher has room for more.
pub(crate) struct Batch {
    first: u64,
    end: u64,
    bytes: Bytes,
    gate: Arc<Gate>,
}

impl Batch {
    pub(crate) fn new(first: u64, end: u64, bytes: Bytes, gate: Arc<Gate>) -> Self {
        Batch { first, end, bytes, gate }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.gate.leave(self.bytes.len());
    }
}

/// What all reactors have in common.
pub(crate) struct Shared {
    policy: Policy,
    limit: usize,
    subscribed: AtomicUsize,
    closed: AtomicU64,
    behind: AtomicU64,
}

impl Shared {
    pub(crate) fn new(policy: Policy, limit: usize) -> Self {
        let (subscribed, closed, behind) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicU64::new(0));
        Shared { policy, limit, subscribed, closed, behind }
    }

    pub(crate) fn subscribed(&self) -> usize {
        self.subscribed.load(Ordering::Acquire)
    }

    /// Subscribers that were closed because they were behind.
    pub(crate) fn closed(&self) -> u64 {
        self.closed.load(Ordering::Relaxed)
    }

    /// How often a subscriber got behind.
    pub(crate) fn behind(&self) -> u64 {
        self.behind.load(Ordering::Relaxed)
    }
}

/// What one reactor has.
#[derive(Default)]
struct Feed {
    /// Shared with whoever goes through it while it changes.
    subscribers: Rc<Vec<ConnectionId>>,
    /// The newest message and its number.
    newest: Option<(u64, [u8; MESSAGE])>,
    /// With the policy *wait*: those whom the publisher waits for, and the batches that make it wait.
    behind: BTreeSet<ConnectionId>,
    kept: Vec<Arc<Batch>>,
}

thread_local! {
    /// A reactor is a thread. Never borrowed while a handler is called, who may come here as well.
    static FEED: RefCell<Feed> = RefCell::default();
}

/// To be called on each reactor.
pub(crate) fn open() {
    FEED.set(Feed::default());
}

/// Writes a batch to all subscribers of this reactor.
pub(crate) fn deliver(reactor: &mut Reactor, batch: &Arc<Batch>) {
    let subscribers = FEED.with_borrow_mut(|feed| {
        if let Some(newest) = batch.bytes.last_chunk() {
            feed.newest = Some((batch.end - 1, *newest));
        }
        feed.subscribers.clone()
    });
    for subscriber in subscribers.iter() {
        let waits = reactor
            .with_handler(*subscriber, |subscription: &mut Subscription, io| subscription.offer(io, batch));
        // Being offered so much may have been its end.
        if waits == Some(true) && reactor.with_connection(*subscriber, |_| ()).is_some() {
            FEED.with_borrow_mut(|feed| feed.behind.insert(*subscriber));
        }
    }
    FEED.with_borrow_mut(|feed| {
        if !feed.behind.is_empty() {
            feed.kept.push(batch.clone());
        }
    });
}

/// Closes whom the publisher waits for. Says who that was, and how much waited for each.
pub(crate) fn close_who_is_behind(reactor: &mut Reactor) -> Vec<(String, usize)> {
    let behind = FEED.with_borrow(|feed| feed.behind.clone());
    let close = |id| {
        reactor.with_handler(id, |subscription: &mut Subscription, io| {
            let was = (io.peer_addr().to_string(), io.pending());
            subscription.close(io);
            was
        })
    };
    behind.into_iter().filter_map(close).collect()
}

fn is_level(id: ConnectionId) {
    FEED.with_borrow_mut(|feed| {
        if feed.behind.remove(&id) && feed.behind.is_empty() {
            feed.kept.clear();
        }
    });
}

/// One subscriber's connection.
pub(crate) struct Subscription {
    shared: Arc<Shared>,
    id: Option<ConnectionId>,
    /// The number of the message that it gets next. Whoever comes late begins with what comes next.
    next: Option<u64>,
    /// With the policy *conflate*: it gets nothing until it has taken what waits.
    is_behind: bool,
}

impl Subscription {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Subscription { shared, id: None, next: None, is_behind: false }
    }

    /// Whether the publisher has to wait for this one.
    fn offer(&mut self, io: &mut Io<'_>, batch: &Batch) -> bool {
        self.next.get_or_insert(batch.first);
        if self.is_behind {
            return false;
        }
        io.write_bytes(batch.bytes.clone());
        self.next = Some(batch.end);
        if io.pending() <= self.shared.limit {
            return false;
        }
        match self.shared.policy {
            Policy::Wait => return true,
            Policy::Conflate => {
                self.is_behind = true;
                self.shared.behind.fetch_add(1, Ordering::Relaxed);
            }
            Policy::Disconnect => {
                eprintln!("broadcast: {} is behind by {} bytes: closed", io.peer_addr(), io.pending());
                self.close(io);
            }
        }
        false
    }

    /// With a reset: what it has not got is lost, and it is to know that.
    fn close(&mut self, io: &mut Io<'_>) {
        self.shared.closed.fetch_add(1, Ordering::Relaxed);
        io.abort();
    }
}

impl Handler for Subscription {
    fn on_open(&mut self, io: &mut Io<'_>) {
        self.id = Some(io.id());
        FEED.with_borrow_mut(|feed| Rc::make_mut(&mut feed.subscribers).push(io.id()));
        self.shared.subscribed.fetch_add(1, Ordering::Release);
    }

    /// Subscribers have nothing to say.
    fn on_bytes(&mut self, _io: &mut Io<'_>, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn on_room(&mut self, io: &mut Io<'_>) {
        is_level(io.id());
    }

    fn on_drained(&mut self, io: &mut Io<'_>) {
        if !std::mem::take(&mut self.is_behind) {
            return;
        }
        let newest = FEED.with_borrow(|feed| feed.newest);
        let (Some(next), Some((number, message))) = (self.next, newest) else { return };
        if number > next {
            io.write(&(LEFT_OUT | (number - next)).to_le_bytes());
            io.write(&0_u64.to_le_bytes());
        }
        if number >= next {
            io.write(&message);
            self.next = Some(number + 1);
        }
    }

    fn on_close(&mut self, _reason: &CloseReason, _reactor: &mut Reactor) {
        let Some(id) = self.id else { return };
        FEED.with_borrow_mut(|feed| Rc::make_mut(&mut feed.subscribers).retain(|other| *other != id));
        is_level(id);
    }
}
