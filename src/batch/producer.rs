//! The fast way in: a lane of one's own.

use std::cell::Cell;
use std::marker::PhantomData;

use super::error::{PushError, SyncError};
use super::lane::Room;
use super::lane::ring::{Growth, Lane, Writer};
use super::shared::Shared;
use super::sync::{Arc, Ordering, fence};
use super::wait::end::SyncAsync;
use super::wait::push::{PushAsync, Target};

/// A producer with a lane of its own, from [`Batcher::producer`](super::Batcher::producer). One for each thread:
/// it is `Send`, not `Sync`.
///
/// A push is a store and a release-store, without a lock or an atomic read-modify-write; and without a fence where the system
/// offers one that the consumer pays for when it falls asleep (Linux). Items of one
/// producer reach the consumer in their order; among producers there is none. When it is dropped, its items are
/// still delivered.
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
    writer: Writer<T>,
    _not_sync: PhantomData<Cell<()>>,
}

impl<T> Producer<T> {
    pub(crate) fn new(shared: Arc<Shared<T>>) -> Self {
        shared.add_sender();
        let writer = shared.register();
        Self { shared, writer, _not_sync: PhantomData }
    }

    /// Hands over an item. When the lane is full, waits until half of it is free: spins for a moment, then
    /// parks.
    ///
    /// # Errors
    /// [`Closed`](PushError::Closed) or [`Failed`](PushError::Failed), with the item; and
    /// [`WouldDeadlock`](PushError::WouldDeadlock) if it would have to wait on a reactor's own thread or in the consumer's closure:
    /// there use [`try_push`](Self::try_push) or [`push_async`](Self::push_async).
    #[inline]
    pub fn push(&mut self, item: T) -> Result<(), PushError<T>> {
        match self.shared.try_write(&mut self.writer, item) {
            Ok(false) => Ok(()),
            Ok(true) => self.attend(),
            Err(item) => self.push_slow(item),
        }
    }

    /// Hands over an item if there is space now.
    ///
    /// # Errors
    /// As [`push`](Self::push), and [`Full`](PushError::Full).
    #[inline]
    pub fn try_push(&mut self, item: T) -> Result<(), PushError<T>> {
        match self.shared.try_write(&mut self.writer, item) {
            Ok(false) => Ok(()),
            Ok(true) => self.attend(),
            Err(item) => self.make_room_and_push(item),
        }
    }

    /// Hands over all items in their order, waiting as [`push`](Self::push) does.
    ///
    /// # Errors
    /// As [`push`](Self::push), with the first item that was not accepted; those behind it are still in the
    /// iterator (pass it by reference to keep them).
    pub fn push_all(&mut self, items: impl IntoIterator<Item = T>) -> Result<(), PushError<T>> {
        items.into_iter().try_for_each(|item| self.push(item))
    }

    /// Hands over an item, waiting without blocking the thread. On any executor; see [`PushAsync`] for what
    /// cancelling does.
    pub fn push_async(&mut self, item: T) -> PushAsync<'_, T> {
        PushAsync::new(Target::Own(self), item)
    }

    /// Lets what was pushed leave now, even if the batcher lingers. Does not wait for it.
    pub fn flush(&mut self) {
        self.shared.flush();
    }

    /// As [`Batcher::sync`](super::Batcher::sync).
    ///
    /// # Errors
    /// As there.
    pub fn sync(&mut self) -> Result<(), SyncError> {
        self.sync_async().wait(None)
    }

    /// As [`Batcher::sync_async`](super::Batcher::sync_async).
    pub fn sync_async(&mut self) -> SyncAsync<T> {
        SyncAsync::new(Arc::clone(&self.shared))
    }

    pub(crate) fn shared(&self) -> &Shared<T> {
        &self.shared
    }

    pub(crate) fn parts(&self) -> (Arc<Shared<T>>, Arc<Lane<T>>) {
        (Arc::clone(&self.shared), Arc::clone(self.writer.lane()))
    }

    #[cold]
    #[inline(never)]
    fn attend(&mut self) -> Result<(), PushError<T>> {
        let pushed = self.shared.attend(&mut self.writer);
        self.shared.announce(pushed)
    }

    #[cold]
    #[inline(never)]
    fn make_room_and_push(&mut self, item: T) -> Result<(), PushError<T>> {
        if self.shared.is_stopped() {
            return Err(self.shared.refuse(item));
        }
        let weight = self.shared.weigh(&item);
        loop {
            match self.writer.make_room(weight) {
                Room::Ready => {
                    let pushed = self.shared.try_push(&mut self.writer, item);
                    return self.shared.announce(pushed);
                }
                Room::Full => return Err(PushError::Full(item)),
                Room::Grow(slots) => self.writer.grow(&mut Growth::new(slots)),
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn push_slow(&mut self, item: T) -> Result<(), PushError<T>> {
        match self.make_room_and_push(item) {
            Err(PushError::Full(item)) => PushAsync::new(Target::Own(self), item).wait(),
            done => done,
        }
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        self.writer.end();
        fence(Ordering::SeqCst); // before looking whether the consumer sleeps
        self.shared.gate.wake(); // it has a lane to give back
        self.shared.remove_sender();
    }
}

impl<T> std::fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").field("waiting_items", &self.writer.lane().len()).finish_non_exhaustive()
    }
}
