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

    /// What `time` of round trips of messages of `size` bytes amounts to.
    pub(crate) fn sample(self, time: Duration, size: usize) -> Sample {
        let rate = self.0.len() as f64 / time.as_secs_f64();
        Sample {
            messages_per_s: Some(rate),
            bytes_per_s: Some(rate * size as f64),
            latencies: Some(self),
            ..Sample::default()
        }
    }

    /// The quantiles of all of these together, so that a bad slice shows; `None` if there is nothing in them.
    pub(crate) fn all<'a>(of: impl Iterator<Item = &'a Latencies>) -> Option<Quantiles> {
        let mut sum = Latencies::new();
        of.for_each(|latencies| sum.merge(latencies));
        let us = |time: u64| time as f64 / 1e3;
        (!sum.0.is_empty()).then(|| Quantiles {
            p50_us: us(sum.0.value_at_quantile(0.50)),
            p99_us: us(sum.0.value_at_quantile(0.99)),
            p999_us: us(sum.0.value_at_quantile(0.999)),
            max_us: us(sum.0.max()),
        })
    }
}

/// In microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quantiles {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
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
