//! Lanes for code that holds no producer: a few of them behind tiny locks, each thread bound to one.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crossbeam_utils::CachePadded;

use super::Room;
use super::ring::{Growth, Lane, Writer};
use super::spin::{SpinGuard, SpinLock};
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
        let written = match &mut *writer {
            Some(writer) => shared.try_write(writer, item),
            None => Err(item),
        };
        match written {
            Ok(false) => Ok(()),
            Ok(true) => Self::attend(writer, shared),
            Err(item) => {
                drop(writer);
                self.make_room_and_push(shard, shared, item)
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn attend(mut writer: SpinGuard<'_, Option<Writer<T>>>, shared: &Shared<T>) -> Result<(), PushError<T>> {
        let pushed = writer.as_mut().map_or(Ok(false), |writer| shared.attend(writer));
        drop(writer);
        shared.announce(pushed)
    }

    /// Makes a lane or enlarges it, if that is what is missing. What is allocated, dropped or the application's happens
    /// while the lock is not held; so another thread may have been here in between.
    #[cold]
    #[inline(never)]
    fn make_room_and_push(&self, shard: usize, shared: &Shared<T>, item: T) -> Result<(), PushError<T>> {
        if shared.is_stopped() {
            return Err(shared.refuse(item));
        }
        let weight = shared.weigh(&item);
        let mut growth: Option<Growth<T>> = None;
        loop {
            self.ensure_lane(shard, shared);
            let mut guard = self.shard(shard).lock();
            let Some(writer) = &mut *guard else { unreachable!("a lane that was made stays") };
            match writer.make_room(weight) {
                Room::Ready => {
                    let pushed = shared.try_push(writer, item);
                    drop(guard);
                    return shared.announce(pushed);
                }
                Room::Full => return Err(PushError::Full(item)),
                Room::Grow(slots) => match &mut growth {
                    Some(growth) if growth.has(slots) => writer.grow(growth),
                    _ => {
                        drop(guard);
                        growth = Some(Growth::new(slots));
                    }
                },
            }
        }
    }

    /// The shard's lane, for those who wait for space without holding the lock.
    pub(crate) fn lane(&self, shard: usize, shared: &Shared<T>) -> Arc<Lane<T>> {
        self.ensure_lane(shard, shared);
        match &*self.shard(shard).lock() {
            Some(writer) => Arc::clone(writer.lane()),
            None => unreachable!("a lane that was made stays"),
        }
    }

    fn ensure_lane(&self, shard: usize, shared: &Shared<T>) {
        if self.shard(shard).lock().is_some() {
            return;
        }
        let mut made = Some(shared.register());
        let mut writer = self.shard(shard).lock();
        if writer.is_none() {
            *writer = made.take();
        }
        drop(writer);
        drop(made); // another thread was faster; the consumer gives up a lane that has ended
    }

    #[inline(always)]
    fn shard(&self, shard: usize) -> &Shard<T> {
        &self.shards[shard & (self.shards.len() - 1)]
    }
}

fn shard_count() -> usize {
    if cfg!(loom) {
        return 1; // for threads to meet
    }
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
