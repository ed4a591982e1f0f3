//! Measurements that take turns, so that a machine that is faster at one time than at another is so for all of them.

use crate::Result;
use crate::options::Options;
use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};
use trochus::Backend;

/// What one measurement found.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) messages_per_s: Option<f64>,
    pub(crate) bytes_per_s: Option<f64>,
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    /// Processor time over time. Not the measurement's to fill in.
    pub(crate) cores: Option<f64>,
    /// Both ends of each connection were on one reactor.
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

/// A backend's median and the baseline's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compared {
    pub(crate) backend: Backend,
    pub(crate) trochus: Sample,
    pub(crate) baseline: Sample,
}

const LEAST_ROUNDS: u32 = 3;

/// Measures each backend and the baseline in turn, a slice at a time, and gives the medians.
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
        baselines.push(measure(Subject::Baseline, slice)?);
    }
    let baseline = median(&baselines);
    let compared = |(backend, samples): (&Backend, &Vec<Sample>)| Compared {
        backend: *backend,
        trochus: median(samples),
        baseline,
    };
    Ok(options.backends.iter().zip(&samples).map(compared).collect())
}

/// The same where there is nothing to compare with.
pub(crate) fn take_turns(
    options: &Options,
    mut measure: impl FnMut(Backend, Slice) -> Result<Sample>,
) -> Result<Vec<(Backend, Sample)>> {
    let (rounds, slice) = rounds(options);
    let mut samples = vec![Vec::new(); options.backends.len()];
    for _ in 0..rounds {
        for (backend, samples) in options.backends.iter().zip(&mut samples) {
            samples.push(with_cores(|| measure(*backend, slice))?);
        }
    }
    Ok(options.backends.iter().copied().zip(samples.iter().map(|samples| median(samples))).collect())
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

fn median(samples: &[Sample]) -> Sample {
    let of = |field: fn(&Sample) -> Option<f64>| {
        let mut values: Vec<f64> = samples.iter().filter_map(field).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    Sample {
        messages_per_s: of(|sample| sample.messages_per_s),
        bytes_per_s: of(|sample| sample.bytes_per_s),
        p50_us: of(|sample| sample.p50_us),
        p99_us: of(|sample| sample.p99_us),
        cores: of(|sample| sample.cores),
        // Only if it was so in each.
        local: samples.iter().map(|sample| sample.local).reduce(|a, b| Some(a? && b?)).flatten(),
    }
}
