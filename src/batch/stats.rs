//! Counters that prove the batching.

use super::sync::{AtomicU64, Ordering};

/// What a batcher did so far. Items ÷ batches is the average batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Batches given to the consumer. One driven by a reactor: turns that found items.
    pub batches: u64,
    /// Items in those batches.
    pub items: u64,
    /// Times the consumer went to sleep.
    pub sleeps: u64,
    /// Times a push, a flush or the end woke it.
    pub wakes: u64,
    /// Times a batch was given to the closure again, see [`Written::Again`](super::Written::Again).
    pub retries: u64,
}

/// Written by the consumer alone, hence without atomic additions.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    batches: AtomicU64,
    items: AtomicU64,
    sleeps: AtomicU64,
    retries: AtomicU64,
}

impl Counters {
    pub(crate) fn batch(&self, items: usize) {
        add(&self.batches, 1);
        add(&self.items, items as u64);
    }

    pub(crate) fn sleep(&self) {
        add(&self.sleeps, 1);
    }

    pub(crate) fn retry(&self) {
        add(&self.retries, 1);
    }

    pub(crate) fn snapshot(&self, wakes: u64) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            batches: read(&self.batches),
            items: read(&self.items),
            sleeps: read(&self.sleeps),
            wakes,
            retries: read(&self.retries),
        }
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed) + count, Ordering::Relaxed);
}
