//! The batcher's limits and how to start one.

use std::io;
use std::marker::PhantomData;
use std::time::Duration;

use super::consumer::Consumer;
use super::handle::Batcher;
use super::outcome::Outcome;
use super::shared::Shared;
use super::sync::Arc;
use super::wait::gate::Notify;
use super::worker;

const DEFAULT_BATCH: usize = 1_024;
const DEFAULT_BUFFERS: usize = 3;
/// A lane takes at most this much memory unless told otherwise: a producer's share of the cache.
const DEFAULT_LANE_BYTES: usize = 64 * 1024;
/// Counters that wrap around stay comparable up to here, on 32-bit machines too.
const MAX_LANE: usize = 1 << (usize::BITS - 2);
/// Any deadline must fit the clock.
const MAX_LINGER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Limits of one batcher, checked against each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) batch: usize,
    pub(crate) linger: Option<Duration>,
    /// Items a lane holds, a power of two.
    pub(crate) lane: usize,
}

/// Sets up a [`Batcher`]; from [`Batcher::builder`].
#[must_use = "a builder does nothing until `spawn` or `build`"]
pub struct BatcherBuilder<T> {
    batch: usize,
    buffers: usize,
    linger: Option<Duration>,
    lane: Option<usize>,
    _items: PhantomData<fn(T)>,
}

impl<T> BatcherBuilder<T> {
    pub(crate) fn new() -> Self {
        Self { batch: DEFAULT_BATCH, buffers: DEFAULT_BUFFERS, linger: None, lane: None, _items: PhantomData }
    }

    /// The largest batch, in items; at least 1. Default: 1024.
    pub fn batch(mut self, items: usize) -> Self {
        self.batch = items.max(1);
        self
    }

    /// How many batches there may be at a time, the one with the consumer included; at least 2. Default: 3.
    /// The others are what a lane can hold, see [`lane`](Self::lane).
    pub fn buffers(mut self, buffers: usize) -> Self {
        self.buffers = buffers.max(2);
        self
    }

    /// How long the first item of a batch may wait for more. The clock starts with that item. Default: not at
    /// all, a batch leaves as soon as the consumer is idle, and grows while it is busy.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = (!linger.is_zero()).then_some(linger.min(MAX_LINGER));
        self
    }

    /// How many items one producer may be ahead of the consumer, rounded up to a power of two. When its lane is
    /// full, a push waits. Default: `batch` × (`buffers` − 1), but no more than 64 KiB of items (and at least
    /// 64 items of any size). A lane starts with 64 slots and grows only while its producer outruns the
    /// consumer.
    pub fn lane(mut self, items: usize) -> Self {
        self.lane = Some(items);
        self
    }

    fn options(&self) -> Options {
        let affordable = (DEFAULT_LANE_BYTES / size_of::<T>().max(1)).max(64);
        let wanted = self.batch.saturating_mul(self.buffers - 1).min(affordable);
        let lane = self.lane.unwrap_or(wanted).clamp(1, MAX_LANE).next_power_of_two();
        Options { batch: self.batch, linger: self.linger, lane }
    }
}

impl<T: Send + 'static> BatcherBuilder<T> {
    /// Starts a thread that calls `write` with each batch, until the batcher is closed or nobody is left who
    /// could push.
    ///
    /// `write` may take the items out of the vector or leave them there; after a success what is left is
    /// dropped. It returns `()` or a `Result<(), E>`. When it fails or panics, the thread ends, pushes are
    /// refused, and [`Batcher::close`] returns the error with the items left in the vector and everything
    /// accepted behind them.
    ///
    /// # Errors
    /// When the operating system refuses another thread.
    pub fn spawn<F, R>(self, write: F) -> io::Result<Batcher<T>>
    where
        F: FnMut(&mut Vec<T>) -> R + Send + 'static,
        R: Outcome,
    {
        let (batcher, consumer) = self.build();
        worker::start(consumer, write)?;
        Ok(batcher)
    }

    /// A batcher and its consumer, which somebody's own thread drives: with [`Consumer::recv`] when it has
    /// nothing else to do.
    #[must_use = "a batcher without its consumer refuses every item"]
    pub fn build(self) -> (Batcher<T>, Consumer<T>) {
        self.assemble(None)
    }

    /// As [`build`](Self::build), for an event loop: `notify` is called, by a pushing thread, when there is
    /// something to do for a consumer that announced its sleep with [`Consumer::prepare_sleep`]; once for each
    /// such sleep.
    #[must_use = "a batcher without its consumer refuses every item"]
    pub fn build_with_notify(self, notify: Notify) -> (Batcher<T>, Consumer<T>) {
        self.assemble(Some(notify))
    }

    fn assemble(self, notify: Option<Notify>) -> (Batcher<T>, Consumer<T>) {
        let shared = Arc::new(Shared::new(self.options(), notify));
        (Batcher::new(Arc::clone(&shared)), Consumer::new(shared))
    }
}

impl<T> std::fmt::Debug for BatcherBuilder<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatcherBuilder").field("options", &self.options()).finish()
    }
}
