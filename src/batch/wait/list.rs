//! Those who wait for space in a lane, threads and tasks alike.

use std::collections::VecDeque;
use std::task::Waker;

use crate::batch::sync::{AtomicUsize, Mutex, Ordering};

/// A queue of wakers; the first to come is the first to be woken.
#[derive(Debug)]
pub(crate) struct WaitList {
    /// How many wait, readable without the lock.
    length: AtomicUsize,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    next_ticket: u64,
    wakers: VecDeque<(u64, Waker)>,
}

impl WaitList {
    pub(crate) fn new() -> Self {
        Self { length: AtomicUsize::new(0), queue: Mutex::new(Queue::default()) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.length.load(Ordering::Acquire) == 0
    }

    /// Queues the waker under the ticket, or replaces it if it is queued already.
    pub(crate) fn register(&self, ticket: &mut Option<u64>, waker: &Waker) {
        // Cloning and dropping a waker may run anything, so neither happens with the lock held.
        let mut fresh = waker.clone();
        let mut queue = self.queue.lock();
        if let Some(queued) = ticket.and_then(|ticket| queue.position(ticket)) {
            std::mem::swap(&mut queue.wakers[queued].1, &mut fresh);
            drop(queue);
            return;
        }
        let new = queue.next_ticket;
        queue.next_ticket += 1;
        queue.wakers.push_back((new, fresh));
        self.length.store(queue.wakers.len(), Ordering::Release);
        *ticket = Some(new);
    }

    /// Leaves the queue. True if the ticket had been woken already: then the wake is the caller's to pass on.
    pub(crate) fn leave(&self, ticket: u64) -> bool {
        let mut queue = self.queue.lock();
        let Some(queued) = queue.position(ticket) else { return true };
        let waker = queue.wakers.remove(queued);
        self.length.store(queue.wakers.len(), Ordering::Release);
        drop(queue);
        drop(waker);
        false
    }

    pub(crate) fn wake_one(&self) {
        let mut queue = self.queue.lock();
        let first = queue.wakers.pop_front();
        self.length.store(queue.wakers.len(), Ordering::Release);
        drop(queue); // a waker may run anything
        if let Some((_, waker)) = first {
            waker.wake();
        }
    }

    pub(crate) fn wake_all(&self) {
        let mut queue = self.queue.lock();
        let all = std::mem::take(&mut queue.wakers);
        self.length.store(0, Ordering::Release);
        drop(queue);
        for (_, waker) in all {
            waker.wake();
        }
    }
}

impl Queue {
    /// Tickets are queued in ascending order.
    fn position(&self, ticket: u64) -> Option<usize> {
        self.wakers.binary_search_by_key(&ticket, |(queued, _)| *queued).ok()
    }
}
