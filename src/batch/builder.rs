//! The batcher's limits and how to start one.

use std::io;
use std::marker::PhantomData;
use std::time::Duration;

use super::consumer::Consumer;
use super::handle::Batcher;
use super::lane::weight::{Scale, Weigh};
use super::outcome::Outcome;
use super::shared::Shared;
use super::sync::Arc;
use super::wait::gate::Notify;
use super::worker;
use crate::config;

const DEFAULT_BATCH: usize = 1_024;
const DEFAULT_BUFFERS: usize = 3;
/// A lane takes at most this much memory unless told otherwise: a producer's share of the cache.
const DEFAULT_LANE_BYTES: usize = 64 * 1024;
/// Counters that wrap around stay comparable up to here, on 32-bit machines too.
const MAX_LANE: usize = 1 << (usize::BITS - 2);
/// Any deadline must fit the clock.
const MAX_LINGER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Nobody waits for longer before a batch is tried again.
const MAX_FIRST_PAUSE: Duration = Duration::from_secs(60 * 60);

/// Limits of one batcher, checked against each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) batch: usize,
    pub(crate) linger: Option<Duration>,
    /// Items a lane holds, a power of two.
    pub(crate) lane: usize,
    pub(crate) retries: Retries,
}

/// How a batch that could not be written is tried again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retries {
    pub(crate) most: u32,
    pub(crate) first_pause: Duration,
}

/// Sets up a [`Batcher`]; from [`Batcher::builder`].
#[must_use = "a builder does nothing until `spawn` or `build`"]
pub struct BatcherBuilder<T> {
    batch: usize,
    buffers: usize,
    linger: Option<Duration>,
    lane: Option<usize>,
    lane_bytes: Option<usize>,
    weigh: Option<Weigh<T>>,
    retries: Retries,
    _items: PhantomData<fn(T)>,
}

impl<T> BatcherBuilder<T> {
    pub(crate) fn new() -> Self {
        Self {
            batch: DEFAULT_BATCH,
            buffers: DEFAULT_BUFFERS,
            linger: None,
            lane: None,
            lane_bytes: None,
            weigh: None,
            retries: Retries { most: config::BATCH_RETRIES, first_pause: config::FIRST_BATCH_RETRY_PAUSE },
            _items: PhantomData,
        }
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

    /// How many bytes one producer may be ahead of the consumer: as many as its items weigh, see [`weigh`](Self::weigh). When an
    /// item does not fit, its push waits, as in a lane that has too many of them; an item that weighs more than this passes
    /// alone. A batch that lingers leaves once it weighs as much. Default: [`config::LANE_BYTES`] where items are weighed.
    ///
    /// Together with what the consumer is dealing with, a batcher's items keep at most about twice this for each producer.
    pub fn lane_bytes(mut self, bytes: usize) -> Self {
        self.lane_bytes = Some(bytes);
        self
    }

    /// How many bytes an item keeps alive, with what it owns. Without, each weighs `size_of::<T>()`, which costs nothing; with, a
    /// push calls this once, on the pushing thread. It should be cheap, and say the same of the same item each time.
    ///
    /// ```
    /// # use trochus::batch::Batcher;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let log = Batcher::builder()
    ///     .lane(65_536)
    ///     .weigh(|line: &String| size_of::<String>() + line.capacity())
    ///     .lane_bytes(1 << 20) // a producer is never more than a mebibyte ahead, however long lines are
    ///     .spawn(|lines: &mut Vec<String>| println!("{}", lines.len()))?;
    /// # log.close()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn weigh(mut self, weigh: impl Fn(&T) -> usize + Send + Sync + 'static) -> Self {
        self.weigh = Some(std::sync::Arc::new(weigh));
        self
    }

    /// How often a batch that the closure answered with [`Written::Again`](super::Written::Again) is given to it again, and how long
    /// after the first time. Each further pause is twice as long, up to a second (or `first_pause`, if that is longer; an hour
    /// at most). Behind the last one the batcher fails. Default: 10 times, from 10 ms.
    ///
    /// Pauses are not cut short: [`close`](Batcher::close) waits for them, [`close_timeout`](Batcher::close_timeout) need not.
    pub fn retries(mut self, most: u32, first_pause: Duration) -> Self {
        self.retries = Retries { most, first_pause: first_pause.min(MAX_FIRST_PAUSE) };
        self
    }

    fn options(&self) -> Options {
        let affordable = (DEFAULT_LANE_BYTES / size_of::<T>().max(1)).max(64);
        let wanted = self.batch.saturating_mul(self.buffers - 1).min(affordable);
        let mut lane = self.lane.unwrap_or(wanted).clamp(1, MAX_LANE).next_power_of_two();
        if let (Some(bytes), None) = (self.lane_bytes, &self.weigh) {
            let fit = (bytes / size_of::<T>().max(1)).max(1);
            lane = lane.min(1 << fit.ilog2());
        }
        Options { batch: self.batch, linger: self.linger, lane, retries: self.retries }
    }
}

impl<T: Send + 'static> BatcherBuilder<T> {
    /// Starts a thread that calls `write` with each batch, until the batcher is closed or nobody is left who
    /// could push.
    ///
    /// `write` may take the items out of the vector or leave them there; after a success what is left is
    /// dropped. It returns `()`, a `Result<(), E>`, or a `Result` of [`Written`](super::Written), by which it can ask for the batch
    /// again. When it fails or panics, the thread ends, pushes are refused, and [`Batcher::close`] returns the error
    /// with the items left in the vector and everything accepted behind them.
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
        let lane_bytes = self.lane_bytes.unwrap_or(config::LANE_BYTES);
        let scale = self.weigh.as_ref().map(|weigh| Scale { weigh: Weigh::clone(weigh), lane_bytes });
        let shared = Arc::new(Shared::new(self.options(), scale, notify));
        (Batcher::new(Arc::clone(&shared)), Consumer::new(shared))
    }
}

impl<T> std::fmt::Debug for BatcherBuilder<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatcherBuilder").field("options", &self.options()).finish()
    }
}
