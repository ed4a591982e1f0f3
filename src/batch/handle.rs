//! The handle that everybody shares.

use std::time::{Duration, Instant};

use super::builder::BatcherBuilder;
use super::error::{CloseError, PushError, SyncError};
use super::lane::ring::Lane;
use super::lane::shards::{Shards, own_shard};
use super::producer::Producer;
use super::shared::Shared;
use super::stats::Stats;
use super::sync::Arc;
use super::wait::end::{CloseAsync, SyncAsync};
use super::wait::gate::STOPPED;
use super::wait::push::{PushAsync, Target};

/// Collects small items from many threads into large batches for one consumer. Cheap to clone.
///
/// When the last handle and the last [`Producer`] are gone, the consumer gets what is left and ends, as after
/// [`close`](Self::close); only nobody waits for it, or learns of its failure.
pub struct Batcher<T> {
    shared: Arc<Shared<T>>,
    shards: Arc<Shards<T>>,
}

impl<T> Batcher<T> {
    /// Sets up a batcher.
    pub fn builder() -> BatcherBuilder<T> {
        BatcherBuilder::new()
    }

    pub(crate) fn new(shared: Arc<Shared<T>>) -> Self {
        Self { shared, shards: Arc::new(Shards::new()) }
    }

    /// A producer with a lane of its own: the fast way in, one for each thread.
    #[must_use]
    pub fn producer(&self) -> Producer<T> {
        Producer::new(Arc::clone(&self.shared))
    }

    /// Hands over an item, from any thread. When there is no space, waits: spins for a moment, then parks.
    ///
    /// Costs a short lock, which a [`Producer`] does not need. Items of one thread stay in order. Those of a
    /// task that moves between threads may not: let it hold a producer.
    ///
    /// # Errors
    /// [`Closed`](PushError::Closed) or [`Failed`](PushError::Failed), with the item; and
    /// [`WouldDeadlock`](PushError::WouldDeadlock) if it would have to wait on a reactor's own thread or in the consumer's closure:
    /// there use [`try_push`](Self::try_push) or [`push_async`](Self::push_async).
    #[inline]
    pub fn push(&self, item: T) -> Result<(), PushError<T>> {
        match self.try_push(item) {
            Err(PushError::Full(item)) => self.push_slow(item),
            done => done,
        }
    }

    /// Hands over an item if there is space now.
    ///
    /// # Errors
    /// As [`push`](Self::push), and [`Full`](PushError::Full).
    #[inline]
    pub fn try_push(&self, item: T) -> Result<(), PushError<T>> {
        self.try_push_to(own_shard(), item)
    }

    /// Hands over all items in their order, waiting as [`push`](Self::push) does.
    ///
    /// # Errors
    /// As [`push`](Self::push), with the first item that was not accepted; those behind it are still in the
    /// iterator (pass it by reference to keep them).
    pub fn push_all(&self, items: impl IntoIterator<Item = T>) -> Result<(), PushError<T>> {
        items.into_iter().try_for_each(|item| self.push(item))
    }

    /// Hands over an item, waiting without blocking the thread. On any executor; see [`PushAsync`] for what
    /// cancelling does.
    pub fn push_async(&self, item: T) -> PushAsync<'_, T> {
        PushAsync::new(Target::Shared(self, own_shard()), item)
    }

    /// Lets what was pushed leave now, even if the batcher lingers. Does not wait for it.
    pub fn flush(&self) {
        self.shared.flush();
    }

    /// Waits until everything that was accepted before this call is dealt with: returned from the consumer's closure with success,
    /// for one that has a thread of its own; otherwise, until the consumer came back behind it. So a producer learns that
    /// its items are on the disk, and those of everybody who told it of theirs, without closing anything.
    ///
    /// Ends a linger, as [`flush`](Self::flush) does. Many may wait at a time; those who asked while a batch is being
    /// written wait for the same one. Returns when the batcher is closed and drained as well.
    ///
    /// ```
    /// # use trochus::batch::Batcher;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (written, file) = std::sync::mpsc::channel();
    /// let log = Batcher::builder().spawn(move |entries: &mut Vec<&str>| written.send(entries.concat()))?;
    /// log.push("paid")?;
    /// log.sync()?; // safe, whatever happens now
    /// assert_eq!(file.try_recv()?, "paid");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Failed`](SyncError::Failed): the consumer failed before. [`WouldDeadlock`](SyncError::WouldDeadlock) on a reactor's own thread
    /// and in the consumer's closure: there use [`sync_async`](Self::sync_async).
    pub fn sync(&self) -> Result<(), SyncError> {
        self.sync_async().wait(None)
    }

    /// As [`sync`](Self::sync), but not for longer than that. No limit is too large.
    ///
    /// # Errors
    /// As `sync`, and [`TimedOut`](SyncError::TimedOut).
    pub fn sync_timeout(&self, limit: Duration) -> Result<(), SyncError> {
        self.sync_async().wait(Some(limit))
    }

    /// As [`sync`](Self::sync), waiting without blocking the thread. What was accepted before this call counts, whenever the
    /// future is polled.
    pub fn sync_async(&self) -> SyncAsync<T> {
        SyncAsync::new(Arc::clone(&self.shared))
    }

    /// Accepts no more items, and waits until the consumer has dealt with every item accepted before, and its
    /// thread has ended. May be called again, from any handle.
    ///
    /// From the closure of a spawned consumer it cannot wait: there it is [`stop_accepting`](Self::stop_accepting).
    /// With a consumer that is driven by hand it waits for that one to come back and find the end; never call
    /// it on the thread that drives it.
    ///
    /// # Errors
    /// The consumer failed: its error, and the items not delivered (for the first caller). On a reactor's own thread, where it
    /// would have to wait, nothing is done: there use [`close_async`](Self::close_async).
    pub fn close(&self) -> Result<(), CloseError<T>> {
        CloseAsync::wait(&self.shared, None)
    }

    /// As [`close`](Self::close), but does not wait for longer than that. Then the batcher is still closing, and this may be
    /// called again. No limit is too large.
    ///
    /// # Errors
    /// As `close`, and [`CloseErrorKind::TimedOut`](super::CloseErrorKind::TimedOut).
    pub fn close_timeout(&self, limit: Duration) -> Result<(), CloseError<T>> {
        CloseAsync::wait(&self.shared, Some(limit))
    }

    /// As [`close`](Self::close), waiting without blocking the thread: nothing is accepted from this call on, whenever the future is
    /// polled. Does not wait for the consumer's thread, which has nothing left to do then.
    pub fn close_async(&self) -> CloseAsync<T> {
        CloseAsync::new(Arc::clone(&self.shared))
    }

    /// Accepts no more items, and does not wait. Items accepted before are still delivered.
    pub fn stop_accepting(&self) {
        self.shared.gate.stop(0);
    }

    /// Whether pushes are refused.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.gate.state() & STOPPED != 0
    }

    /// What was done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.counters.snapshot(self.shared.gate.wakes())
    }

    #[inline(always)]
    pub(crate) fn try_push_to(&self, shard: usize, item: T) -> Result<(), PushError<T>> {
        self.shards.try_push(shard, &self.shared, item)
    }

    pub(crate) fn shared(&self) -> &Shared<T> {
        &self.shared
    }

    pub(crate) fn parts(&self, shard: usize) -> (Arc<Shared<T>>, Arc<Lane<T>>) {
        (Arc::clone(&self.shared), self.shards.lane(shard, &self.shared))
    }

    /// As [`push`](Self::push), but [`Full`](PushError::Full) if there is no space until then.
    pub(crate) fn push_until(&self, item: T, deadline: Option<Instant>) -> Result<(), PushError<T>> {
        self.push_async(item).wait_until(deadline)
    }

    #[cold]
    fn push_slow(&self, item: T) -> Result<(), PushError<T>> {
        self.push_async(item).wait()
    }
}

impl<T> Clone for Batcher<T> {
    fn clone(&self) -> Self {
        self.shared.add_sender();
        Self { shared: Arc::clone(&self.shared), shards: Arc::clone(&self.shards) }
    }
}

impl<T> Drop for Batcher<T> {
    fn drop(&mut self) {
        self.shared.remove_sender();
    }
}

impl<T> std::fmt::Debug for Batcher<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batcher").field("shared", &self.shared).field("stats", &self.stats()).finish()
    }
}
