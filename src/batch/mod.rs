//! The n-buffer batcher: many threads hand over small items, one consumer gets large batches.
//!
//! Usable with nothing else of this crate: for logs, for database inserts, for anything that is cheaper by the
//! thousand.
//!
//! ```
//! use std::time::Duration;
//! use trochus::batch::Batcher;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (written, lines) = std::sync::mpsc::channel();
//! let log = Batcher::builder()
//!     .batch(1_000)
//!     .linger(Duration::from_millis(5))
//!     .spawn(move |entries: &mut Vec<String>| written.send(entries.join("\n")))?;
//!
//! log.push("from any thread".to_owned())?;
//! log.close()?; // returns when everything is written, or with the error and what was not
//! # assert_eq!(lines.recv()?, "from any thread");
//! # Ok(())
//! # }
//! ```
//!
//! # Two ways in
//!
//! - A [`Producer`] has a lane of its own: a push is a store and a release-store. One for each thread.
//! - [`Batcher::push`] works from any thread and costs a short lock.
//!
//! ```
//! # use trochus::batch::Batcher;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let sum = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
//! # let total = sum.clone();
//! let batcher = Batcher::builder().spawn(move |numbers: &mut Vec<u64>| {
//!     sum.fetch_add(numbers.drain(..).sum(), std::sync::atomic::Ordering::Relaxed);
//! })?;
//! std::thread::scope(|scope| {
//!     for _ in 0..4 {
//!         let mut producer = batcher.producer();
//!         scope.spawn(move || producer.push_all(1..=1_000));
//!     }
//! });
//! batcher.close()?;
//! # assert_eq!(total.load(std::sync::atomic::Ordering::Relaxed), 4 * 500_500);
//! # Ok(())
//! # }
//! ```
//!
//! # When a batch leaves
//!
//! When it is full, when the consumer is idle (the default: while it is busy with one batch, the next collects
//! behind it, which costs no latency), or, with [`linger`](BatcherBuilder::linger), when its first item has
//! waited that long. [`flush`](Batcher::flush) ends a wait.
//!
//! # Promises
//!
//! - Items of one producer (or one thread that pushes through the handle) stay in order. Across producers there
//!   is none.
//! - What was accepted is delivered, or comes back from [`close`](Batcher::close) with the consumer's error. What
//!   is not accepted comes back at once, in the [`PushError`]. [`sync`](Batcher::sync) says when it has been
//!   dealt with.
//! - A batch that fails for now can be [tried again](Written::Again); one that fails for good ends the batcher.
//! - When a lane is full, its producer waits: it spins for a moment, then parks. Lanes are bounded, in items and, where items
//!   are [weighed](BatcherBuilder::weigh), in bytes.
//! - What waits says so: on a thread that drives a reactor, and in the consumer's own closure, it returns an error at once
//!   where it would have to wait. `try_push`, `push_async`, `sync_async` and `close_async` never wait.
//! - Nothing is allocated for an item.
//!
//! # Consumers
//!
//! A thread of its own ([`BatcherBuilder::spawn`]), somebody's thread ([`Consumer::recv`]), or an event loop
//! ([`Consumer::drain`] and the notification of [`BatcherBuilder::build_with_notify`]).

mod builder;
mod consumer;
mod error;
mod handle;
mod lane;
mod outcome;
mod producer;
mod shared;
mod stats;
mod sync;
mod wait;
mod worker;

#[cfg(all(test, loom))]
mod loom_tests;

pub use builder::BatcherBuilder;
pub use consumer::Consumer;
pub use error::{CloseError, CloseErrorKind, PushError, SyncError};
pub use handle::Batcher;
pub use lane::run::Run;
pub use outcome::{Outcome, Written};
pub use producer::Producer;
pub use stats::Stats;
pub(crate) use wait::block::block_until;
pub use wait::end::{CloseAsync, SyncAsync};
pub use wait::push::PushAsync;

/// The barrier between [`Consumer::prepare_sleep`] and [`Consumer::is_ready`]: one for all the consumers of an
/// event loop. A system call of a microsecond or so on Linux, where it spares every push a fence.
pub fn sleep_barrier() {
    lane::barrier::heavy();
}

/// How many barriers this thread has passed.
#[cfg(all(test, not(loom)))]
pub(crate) fn barriers_passed() -> usize {
    lane::barrier::passed()
}
