//! Measurements that take turns, so that a machine that is faster at one time than at another is so for all of them.

use crate::Result;
use crate::latency::{Latencies, Quantiles};
use crate::options::Options;
use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};
use trochus::Backend;

/// What one slice of a measurement found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) messages_per_s: Option<f64>,
    /// One way where there are messages, whose answers are as long; of both ways together where both are streams.
    pub(crate) bytes_per_s: Option<f64>,
    pub(crate) latencies: Option<Latencies>,
    /// How long after it was due each request was made.
    pub(crate) lateness: Option<Latencies>,
    /// How connecting went, one after the other, while those that were there already played.
    pub(crate) connects_per_s: Option<f64>,
    pub(crate) slowest_connects_per_s: Option<f64>,
    pub(crate) messages_per_s_meanwhile: Option<f64>,
    /// What the slowest connection played, over what they played on average.
    pub(crate) slowest: Option<f64>,
    /// Processor time over time. Not the measurement's to fill in.
    pub(crate) cores: Option<f64>,
    /// Both ends of each connection were on one reactor.
    pub(crate) local: Option<bool>,
}

/// What all slices of a measurement found: medians of the rates, and quantiles of all round trips together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Summary {
    pub(crate) messages_per_s: Option<f64>,
    pub(crate) bytes_per_s: Option<f64>,
    /// The fastest slice's rate less the slowest's, over the median.
    pub(crate) spread: Option<f64>,
    pub(crate) latency: Option<Quantiles>,
    pub(crate) lateness: Option<Quantiles>,
    /// How connecting went, one after the other, while those that were there already played.
    pub(crate) connects_per_s: Option<f64>,
    pub(crate) slowest_connects_per_s: Option<f64>,
    pub(crate) messages_per_s_meanwhile: Option<f64>,
    /// What the slowest connection played, over what they played on average.
    pub(crate) slowest: Option<f64>,
    pub(crate) cores: Option<f64>,
    pub(crate) local: Option<bool>,
}

/// How long a slice of a measurement takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice {
    pub(crate) warm_up: Duration,
    pub(crate) time: Duration,
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Trochus(Backend),
    /// Plain sockets.
    Baseline,
}

/// What was found of a backend, and of the baseline.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compared {
    pub(crate) backend: Backend,
    pub(crate) trochus: Summary,
    pub(crate) baseline: Summary,
}

const LEAST_ROUNDS: u32 = 3;

/// Measures each backend and the baseline in turn, a slice at a time.
pub(crate) fn compare(
    options: &Options,
    mut measure: impl FnMut(Subject, Slice) -> Result<Sample>,
) -> Result<Vec<Compared>> {
    let (rounds, slice) = rounds(options);
    let mut samples = vec![Vec::new(); options.backends.len()];
    let mut baselines = Vec::new();
    for _ in 0..rounds {
        for (backend, samples) in options.backends.iter().zip(&mut samples) {
            samples.push(with_cores(|| measure(Subject::Trochus(*backend), slice))?);
        }
        baselines.push(with_cores(|| measure(Subject::Baseline, slice))?);
    }
    let baseline = summary(&baselines);
    let compared = |(backend, samples): (&Backend, &Vec<Sample>)| Compared {
        backend: *backend,
        trochus: summary(samples),
        baseline,
    };
    Ok(options.backends.iter().zip(&samples).map(compared).collect())
}

/// Adds how many cores the process kept busy meanwhile.
fn with_cores(measure: impl FnOnce() -> Result<Sample>) -> Result<Sample> {
    let used = || {
        let used = clock_gettime(ClockId::ProcessCPUTime);
        Duration::try_from(used).map_err(|_| "the process has used less than no time")
    };
    let (start, before) = (Instant::now(), used()?);
    let sample = measure()?;
    let cores = (used()? - before).as_secs_f64() / start.elapsed().as_secs_f64();
    Ok(Sample { cores: Some(cores), ..sample })
}

/// How many slices, and how long each of them is.
fn rounds(options: &Options) -> (u32, Slice) {
    let rounds = LEAST_ROUNDS.max(options.time.as_secs() as u32) | 1;
    let time = options.time / rounds;
    (rounds, Slice { warm_up: time / 4, time })
}

/// What a sample of one slice alone is worth.
impl From<&Sample> for Summary {
    fn from(sample: &Sample) -> Self {
        summary(std::slice::from_ref(sample))
    }
}

fn summary(samples: &[Sample]) -> Summary {
    let sorted = |field: fn(&Sample) -> Option<f64>| {
        let mut values: Vec<f64> = samples.iter().filter_map(field).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let median = |field| {
        let values = sorted(field);
        values.get(values.len() / 2).copied()
    };
    let rates = sorted(|sample| sample.messages_per_s.or(sample.bytes_per_s));
    Summary {
        messages_per_s: median(|sample| sample.messages_per_s),
        bytes_per_s: median(|sample| sample.bytes_per_s),
        spread: rates.last().map(|most| (most - rates[0]) / rates[rates.len() / 2]),
        latency: Latencies::all(samples.iter().filter_map(|sample| sample.latencies.as_ref())),
        lateness: Latencies::all(samples.iter().filter_map(|sample| sample.lateness.as_ref())),
        cores: median(|sample| sample.cores),
        connects_per_s: median(|sample| sample.connects_per_s),
        slowest_connects_per_s: median(|sample| sample.slowest_connects_per_s),
        messages_per_s_meanwhile: median(|sample| sample.messages_per_s_meanwhile),
        slowest: median(|sample| sample.slowest),
        // Only if it was so in each.
        local: samples.iter().map(|sample| sample.local).reduce(|a, b| Some(a? && b?)).flatten(),
    }
}
