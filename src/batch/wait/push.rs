//! Pushes that wait: a future, and the same future driven by a thread that parks.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use crossbeam_utils::Backoff;

use crate::batch::error::PushError;
use crate::batch::handle::Batcher;
use crate::batch::producer::Producer;
use crate::batch::shared::Shared;
use crate::batch::wait::block::block_until;

/// A push that waits for space without blocking the thread; from [`Producer::push_async`] and
/// [`Batcher::push_async`]. Any executor can drive it.
///
/// Cancelling it (dropping it before it completed) is safe: the item was then not pushed, and is dropped with
/// the future. To have it back instead, poll the future by reference and take the item with
/// [`into_item`](Self::into_item).
#[must_use = "a future does nothing until it is awaited"]
pub struct PushAsync<'a, T> {
    target: Target<'a, T>,
    item: Option<T>,
    /// The place in the lane's queue, while waiting.
    ticket: Option<u64>,
}

pub(crate) enum Target<'a, T> {
    Own(&'a mut Producer<T>),
    /// The handle and the shard, which stays the same whichever thread polls.
    Shared(&'a Batcher<T>, usize),
}

impl<'a, T> PushAsync<'a, T> {
    pub(crate) fn new(target: Target<'a, T>, item: T) -> Self {
        Self { target, item: Some(item), ticket: None }
    }

    /// The item, if it has not been pushed (or handed back in an error).
    #[must_use]
    pub fn into_item(mut self) -> Option<T> {
        self.item.take()
    }

    /// Pushes from a thread: looks again for a moment, then parks.
    pub(crate) fn wait(self) -> Result<(), PushError<T>> {
        self.wait_until(None)
    }

    /// As [`wait`](Self::wait), until then; without a deadline for ever. After it there is still no space.
    pub(crate) fn wait_until(mut self, deadline: Option<Instant>) -> Result<(), PushError<T>> {
        if self.target.shared().would_deadlock()
            && let Some(item) = self.item.take()
        {
            return Err(PushError::WouldDeadlock(item));
        }
        let backoff = Backoff::new();
        while !cfg!(loom) && !backoff.is_completed() {
            let Some(item) = self.item.take() else { unreachable!("the item left without a result") };
            match self.target.attempt(item) {
                Err(PushError::Full(item)) => self.item = Some(item),
                done => return done,
            }
            backoff.snooze();
        }
        let outcome = block_until(deadline, &mut self);
        outcome.unwrap_or_else(|| match self.item.take() {
            Some(item) => Err(PushError::Full(item)),
            None => Ok(()),
        })
    }
}

impl<T> Target<'_, T> {
    fn shared(&self) -> &Shared<T> {
        match self {
            Self::Own(producer) => producer.shared(),
            Self::Shared(batcher, _) => batcher.shared(),
        }
    }

    fn attempt(&mut self, item: T) -> Result<(), PushError<T>> {
        match self {
            Self::Own(producer) => producer.try_push(item),
            Self::Shared(batcher, shard) => batcher.try_push_to(*shard, item),
        }
    }
}

// The item is moved in and out, never pinned.
impl<T> Unpin for PushAsync<'_, T> {}

impl<T> Future for PushAsync<'_, T> {
    type Output = Result<(), PushError<T>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { target, item, ticket } = &mut *self;
        let (shared, lane) = match target {
            Target::Own(producer) => producer.parts(),
            Target::Shared(batcher, shard) => batcher.parts(*shard),
        };
        shared.poll_push(&lane, ticket, context, item, |item| target.attempt(item))
    }
}

impl<T> Drop for PushAsync<'_, T> {
    fn drop(&mut self) {
        if self.ticket.is_some() {
            let (shared, lane) = match &self.target {
                Target::Own(producer) => producer.parts(),
                Target::Shared(batcher, shard) => batcher.parts(*shard),
            };
            shared.stop_waiting(&lane, &mut self.ticket);
        }
    }
}

impl<T> fmt::Debug for PushAsync<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushAsync").field("waiting", &self.ticket.is_some()).finish_non_exhaustive()
    }
}
