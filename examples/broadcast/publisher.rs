//! Makes messages at a rate and hands them to the reactors.

use crate::Failure;
use crate::feed::{self, Batch, MESSAGE};
use crate::options::{Options, Policy};
use bytes::{BufMut, BytesMut};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use trochus::Runtime;

/// What is late is made up for at twice the rate, so that a pause of the publisher is no burst for the subscribers, who would be
/// taken for slow.
const CATCH_UP: f64 = 2.0;

/// A pause counts for no more than this.
const LONGEST_STEP: Duration = Duration::from_millis(10);

/// How often somebody who waits looks whether all is over.
const LOOK: Duration = Duration::from_millis(50);

/// Bytes of batches that some reactor still has to deal with.
#[derive(Default)]
pub(crate) struct Gate {
    under_way: Mutex<usize>,
    less: Condvar,
}

impl Gate {
    fn enter(&self, bytes: usize) {
        *self.under_way.lock().unwrap_or_else(PoisonError::into_inner) += bytes;
    }

    pub(crate) fn leave(&self, bytes: usize) {
        *self.under_way.lock().unwrap_or_else(PoisonError::into_inner) -= bytes;
        self.less.notify_one();
    }

    /// Whether no more than `limit` is under way, now or within `time`.
    fn wait(&self, limit: usize, time: Duration) -> bool {
        let under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.less.wait_timeout_while(under_way, time, |bytes| *bytes > limit);
        *waited.unwrap_or_else(PoisonError::into_inner).0 <= limit
    }
}

pub(crate) struct Publisher<'a> {
    options: &'a Options,
    runtime: &'a Runtime,
    is_over: &'a AtomicBool,
    /// What the times in messages count from.
    epoch: Instant,
    gate: Arc<Gate>,
    published: AtomicU64,
    waited_us: AtomicU64,
}

impl<'a> Publisher<'a> {
    pub(crate) fn new(
        options: &'a Options,
        runtime: &'a Runtime,
        is_over: &'a AtomicBool,
        epoch: Instant,
    ) -> Self {
        let (published, waited_us) = (AtomicU64::new(0), AtomicU64::new(0));
        Publisher { options, runtime, is_over, epoch, gate: Arc::default(), published, waited_us }
    }

    pub(crate) fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    pub(crate) fn waited(&self) -> Duration {
        Duration::from_micros(self.waited_us.load(Ordering::Relaxed))
    }

    /// Until it is over, or for so long. Gives how many messages there were.
    pub(crate) fn run(&self, time: Option<Duration>) -> Result<u64, Failure> {
        let started = Instant::now();
        let end = time.map(|time| started + time);
        let rate = self.options.rate;
        let mut looked = started;
        while !self.is_over(end) {
            let now = Instant::now();
            let made = self.published();
            let due = (((now - started).as_secs_f64() * rate) as u64).saturating_sub(made);
            let most = (rate * CATCH_UP * (now - looked).min(LONGEST_STEP).as_secs_f64()) as u64 + 1;
            let count = due.min(most);
            looked = now;
            if count > 0 {
                self.wait_for_room(end)?;
                if self.is_over(end) {
                    break;
                }
                self.publish(made, count, started)?;
            }
            let next_due = started + Duration::from_secs_f64((made + count + 1) as f64 / rate);
            let next = next_due.max(now + self.options.linger);
            thread::sleep(end.map_or(next, |end| next.min(end)).saturating_duration_since(Instant::now()));
        }
        Ok(self.published())
    }

    fn is_over(&self, end: Option<Instant>) -> bool {
        self.is_over.load(Ordering::Relaxed) || end.is_some_and(|end| Instant::now() >= end)
    }

    /// One piece of memory for all subscribers, and one command for each reactor.
    fn publish(&self, first: u64, count: u64, started: Instant) -> Result<(), Failure> {
        let mut bytes = BytesMut::with_capacity(count as usize * MESSAGE);
        let start = (started - self.epoch).as_nanos() as u64;
        for number in first..first + count {
            let due = start + ((number + 1) as f64 * 1e9 / self.options.rate) as u64;
            bytes.put_u64_le(number);
            bytes.put_u64_le(due);
        }
        let bytes = bytes.freeze();
        self.gate.enter(bytes.len());
        let batch = Arc::new(Batch::new(first, first + count, bytes, self.gate.clone()));
        for index in 0..self.runtime.reactors() {
            let batch = batch.clone();
            self.runtime.reactor(index).run(move |reactor| feed::deliver(reactor, &batch))?;
        }
        self.published.store(first + count, Ordering::Relaxed);
        Ok(())
    }

    /// Reactors that are behind are waited for in any case, or what they still have to do would grow without end. With the policy
    /// *wait* they keep a batch for as long as one of their subscribers is behind.
    fn wait_for_room(&self, end: Option<Instant>) -> Result<(), Failure> {
        let began = Instant::now();
        let mut patience = began + self.options.wait;
        while !self.gate.wait(self.options.limit, LOOK.min(self.options.wait)) && !self.is_over(end) {
            if self.options.policy == Policy::Wait && Instant::now() >= patience {
                self.close_who_is_behind()?;
                patience = Instant::now() + self.options.wait;
            }
        }
        self.waited_us.fetch_add(began.elapsed().as_micros() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn close_who_is_behind(&self) -> Result<(), Failure> {
        for index in 0..self.runtime.reactors() {
            for (peer, bytes) in self.runtime.run_on(index, feed::close_who_is_behind).wait()? {
                let wait = self.options.wait;
                eprintln!(
                    "broadcast: {peer} kept everybody waiting for {wait:?}, with {bytes} bytes: closed"
                );
            }
        }
        Ok(())
    }
}
