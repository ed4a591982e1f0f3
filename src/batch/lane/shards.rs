//! Lanes for code that holds no producer: a few of them behind tiny locks, each thread bound to one.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crossbeam_utils::CachePadded;

use super::ring::{Lane, Writer};
use super::spin::SpinLock;
use crate::batch::error::PushError;
use crate::batch::shared::Shared;
use crate::batch::sync::Arc;

/// More than processors, because a thread that is descheduled may hold one.
const SHARDS_PER_PROCESSOR: usize = 4;
/// Each is one more lane for the consumer to look at, once it has been used.
const MAX_SHARDS: usize = 64;

pub(crate) struct Shards<T> {
    /// A power of two of them. The lane is made by the first push that comes there.
    shards: Box<[CachePadded<Shard<T>>]>,
}

type Shard<T> = SpinLock<Option<Writer<T>>>;

impl<T> Shards<T> {
    pub(crate) fn new() -> Self {
        Self { shards: (0..shard_count()).map(|_| CachePadded::default()).collect() }
    }

    #[inline(always)]
    pub(crate) fn try_push(&self, shard: usize, shared: &Shared<T>, item: T) -> Result<(), PushError<T>> {
        let mut writer = self.shard(shard).lock();
        match &mut *writer {
            Some(writer) => shared.try_push(writer, item),
            None => shared.try_push(writer.insert(shared.register()), item),
        }
    }

    /// The shard's lane, for those who wait for space without holding the lock.
    pub(crate) fn lane(&self, shard: usize, shared: &Shared<T>) -> Arc<Lane<T>> {
        let mut writer = self.shard(shard).lock();
        Arc::clone(writer.get_or_insert_with(|| shared.register()).lane())
    }

    #[inline(always)]
    fn shard(&self, shard: usize) -> &Shard<T> {
        &self.shards[shard & (self.shards.len() - 1)]
    }
}

fn shard_count() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        (processors.next_power_of_two() * SHARDS_PER_PROCESSOR).min(MAX_SHARDS)
    })
}

/// The shard of the calling thread (modulo how many there are). A thread keeps it: that is what keeps its items
/// in order. Threads are numbered as they come, so that neighbours use different ones.
#[inline(always)]
pub(crate) fn own_shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    const UNNUMBERED: usize = usize::MAX;
    thread_local! {
        static NUMBER: Cell<usize> = const { Cell::new(UNNUMBERED) };
    }
    NUMBER.with(|number| {
        if number.get() == UNNUMBERED {
            number.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        number.get()
    })
}
