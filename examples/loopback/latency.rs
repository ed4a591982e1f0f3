//! How long round trips took, collected on each reactor's thread.

use crate::rounds::Sample;
use crate::{Result, connections::PATIENCE};
use hdrhistogram::Histogram;
use std::cell::RefCell;
use std::sync::mpsc;
use std::time::Duration;
use trochus::Runtime;

/// Two significant digits keep it small enough to stay in the cache.
const DIGITS: u8 = 2;
const LONGEST: Duration = Duration::from_secs(10);

/// Times in nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct Latencies(Histogram<u32>);

thread_local! {
    static HERE: RefCell<Latencies> = RefCell::new(Latencies::new());
}

impl Latencies {
    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST.as_nanos() as u64, DIGITS);
        Latencies(histogram.expect("the bounds are valid"))
    }

    pub(crate) fn record(&mut self, time: Duration) {
        self.0.saturating_record(time.as_nanos() as u64);
    }

    pub(crate) fn merge(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    /// What `time` of round trips of two messages of `size` bytes each amounts to.
    pub(crate) fn sample(&self, time: Duration, size: usize) -> Sample {
        let rate = self.0.len() as f64 / time.as_secs_f64();
        let quantile = |q| Some(self.0.value_at_quantile(q) as f64 / 1e3).filter(|_| !self.0.is_empty());
        Sample {
            messages_per_s: Some(rate),
            bytes_per_s: Some(rate * 2.0 * size as f64),
            p50_us: quantile(0.50),
            p99_us: quantile(0.99),
            ..Sample::default()
        }
    }
}

/// Records a round trip on this reactor.
pub(crate) fn record(time: Duration) {
    HERE.with_borrow_mut(|latencies| latencies.record(time));
}

/// Takes what all reactors have recorded since the last time.
pub(crate) fn take(runtime: &Runtime) -> Result<Latencies> {
    let (send, taken) = mpsc::channel();
    for reactor in 0..runtime.reactors() {
        let send = send.clone();
        runtime.reactor(reactor).run(move |_| {
            let latencies = HERE.with_borrow_mut(|latencies| std::mem::replace(latencies, Latencies::new()));
            // Whoever asked waits for it.
            let _ = send.send(latencies);
        })?;
    }
    let mut sum = Latencies::new();
    for _ in 0..runtime.reactors() {
        sum.merge(&taken.recv_timeout(PATIENCE)?);
    }
    Ok(sum)
}
