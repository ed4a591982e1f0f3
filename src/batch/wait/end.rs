//! Those who wait until everything is dealt with: what was accepted so far, or whatever there is.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::block::block_until;
use crate::batch::error::{CloseError, SyncError};
use crate::batch::shared::Shared;
use crate::batch::sync::Arc;

/// Waits until everything that was accepted before is dealt with; from [`Batcher::sync_async`](crate::batch::Batcher::sync_async)
/// and [`Producer::sync_async`](crate::batch::Producer::sync_async). Any executor can drive it; dropping it ends the waiting
/// and nothing else.
#[must_use = "a future does nothing until it is awaited"]
pub struct SyncAsync<T> {
    shared: Arc<Shared<T>>,
    wanted: u64,
    ticket: Option<u64>,
}

/// Waits until a closed batcher has dealt with everything; from [`Batcher::close_async`](crate::batch::Batcher::close_async).
/// Any executor can drive it; dropping it ends the waiting and nothing else.
#[must_use = "a future does nothing until it is awaited"]
pub struct CloseAsync<T> {
    shared: Arc<Shared<T>>,
    ticket: Option<u64>,
}

impl<T> SyncAsync<T> {
    pub(crate) fn new(shared: Arc<Shared<T>>) -> Self {
        let wanted = shared.want_sync();
        Self { shared, wanted, ticket: None }
    }

    pub(crate) fn wait(self, limit: Option<Duration>) -> Result<(), SyncError> {
        if self.shared.would_deadlock() {
            // It may be there already, and then nobody has to wait.
            return match self.shared.poll_sync(self.wanted) {
                Poll::Ready(result) => result,
                Poll::Pending => Err(SyncError::WouldDeadlock),
            };
        }
        block_until(limit.and_then(in_future), self).unwrap_or(Err(SyncError::TimedOut))
    }
}

impl<T> CloseAsync<T> {
    pub(crate) fn new(shared: Arc<Shared<T>>) -> Self {
        shared.gate.stop(0);
        Self { shared, ticket: None }
    }

    /// Closes, from a thread.
    pub(crate) fn wait(shared: &Arc<Shared<T>>, limit: Option<Duration>) -> Result<(), CloseError<T>> {
        if shared.thread.is_current() {
            shared.gate.stop(0);
            return Ok(());
        }
        if crate::waiting::is_forbidden() {
            return match shared.poll_outcome() {
                Poll::Ready(result) => result,
                Poll::Pending => Err(CloseError::would_deadlock()),
            };
        }
        let closing = Self::new(Arc::clone(shared));
        let Some(result) = block_until(limit.and_then(in_future), closing) else {
            return Err(CloseError::timed_out());
        };
        shared.thread.join();
        result
    }
}

/// When that will be; `None` if no clock gets there.
fn in_future(limit: Duration) -> Option<Instant> {
    Instant::now().checked_add(limit)
}

impl<T> Future for SyncAsync<T> {
    type Output = Result<(), SyncError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { shared, wanted, ticket } = &mut *self;
        poll_queued(shared, ticket, context, || shared.poll_sync(*wanted))
    }
}

impl<T> Future for CloseAsync<T> {
    type Output = Result<(), CloseError<T>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { shared, ticket } = &mut *self;
        poll_queued(shared, ticket, context, || shared.poll_outcome())
    }
}

/// Looks, queues, and looks once more: what came in between has woken nobody.
fn poll_queued<T, R>(
    shared: &Shared<T>,
    ticket: &mut Option<u64>,
    context: &mut Context<'_>,
    look: impl Fn() -> Poll<R>,
) -> Poll<R> {
    let mut found = look();
    if found.is_pending() {
        shared.waiters.register(ticket, context.waker());
        found = look();
    }
    if found.is_ready()
        && let Some(ticket) = ticket.take()
    {
        shared.waiters.leave(ticket);
    }
    found
}

impl<T> Drop for SyncAsync<T> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.shared.waiters.leave(ticket);
        }
    }
}

impl<T> Drop for CloseAsync<T> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.shared.waiters.leave(ticket);
        }
    }
}

impl<T> fmt::Debug for SyncAsync<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncAsync").field("waiting", &self.ticket.is_some()).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for CloseAsync<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloseAsync").field("waiting", &self.ticket.is_some()).finish_non_exhaustive()
    }
}
