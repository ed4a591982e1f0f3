//! As many bytes as the machine can move: `bulk` one way, `duplex` both ways.

use crate::baseline_stream;
use crate::experiment::Experiment;
use crate::options::Options;
use crate::pattern::Pattern;
use crate::report::{Progress, Report, Row, Unit};
use crate::rounds::{Sample, Slice, Subject, Summary, compare};
use crate::stream::{Outcome, StreamClient};
use crate::watch::Watch;
use crate::wire::{Hello, Mode};
use crate::{Result, connections};
use std::sync::{Arc, mpsc};
use std::time::Instant;
use trochus::net::Address;
use trochus::{Backend, Runtime};

pub(crate) const BULK: Experiment = Experiment {
    name: "bulk",
    about: "one way, with writes of 256 KiB",
    run: |options, progress, report| run(Mode::Bulk, options, progress, report),
    client: Some(|options, server, progress, report| client(Mode::Bulk, options, server, progress, report)),
};

pub(crate) const DUPLEX: Experiment = Experiment {
    name: "duplex",
    about: "both ways at once, with writes of 256 KiB",
    run: |options, progress, report| run(Mode::Duplex, options, progress, report),
    client: Some(|options, server, progress, report| client(Mode::Duplex, options, server, progress, report)),
};

const SIZE: usize = 256 << 10;

/// One: with two it measured the same over io_uring and less over the fallback, with four a tenth less over both, as more
/// socket memory takes turns in the cache.
const CONNECTIONS_PER_REACTOR: usize = 1;

/// What to measure.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) mode: Mode,
    pub(crate) connections: usize,
    pub(crate) size: usize,
    pub(crate) pattern: Pattern,
}

impl Plan {
    fn new(mode: Mode, options: &Options) -> Self {
        Plan {
            mode,
            connections: options.connections.unwrap_or(options.reactors * CONNECTIONS_PER_REACTOR),
            size: options.size.unwrap_or(SIZE),
            pattern: Pattern::new(),
        }
    }

    fn name(&self) -> &'static str {
        if self.mode == Mode::Bulk { BULK.name } else { DUPLEX.name }
    }
}

fn run(mode: Mode, options: &Options, progress: &mut Progress, report: Report<'_>) -> Result<()> {
    let plan = Plan::new(mode, options);
    let compared = compare(options, |subject, slice| match subject {
        Subject::Trochus(backend) => measure(options, &plan, backend, slice, progress),
        Subject::Baseline => baseline_stream::measure(options, &plan, slice, progress),
    })?;
    for compared in &compared {
        let row = Row::new(options, plan.name(), plan.connections, plan.size, compared.backend);
        report(row.compared(compared));
    }
    Ok(())
}

/// Both ends in this process: what the receiving ends found right within the slice.
fn measure(
    options: &Options,
    plan: &Plan,
    backend: Backend,
    slice: Slice,
    progress: &mut Progress,
) -> Result<Sample> {
    let runtime = options.runtime(backend, options.reactors, 0).build()?;
    let watch = Arc::new(Watch::default());
    let server = connections::serve(&runtime, "127.0.0.1:0", &plan.pattern, &watch)?;
    let streams = Streams::open(&runtime, server.local_addr(), plan, &watch)?;
    let name = backend.to_string();
    progress.wait(slice.warm_up, &name, Unit::Bytes, || watch.verified());
    let (start, before) = (Instant::now(), watch.verified());
    progress.wait(slice.time, &name, Unit::Bytes, || watch.verified());
    let (bytes, time) = (watch.verified() - before, start.elapsed());
    let outcomes = streams.finish()?;
    runtime.shutdown(connections::PATIENCE)?;
    connections::check(&watch)?;
    let local = outcomes.iter().map(|outcome| outcome.local).reduce(|a, b| Some(a? && b?)).flatten();
    Ok(Sample { bytes_per_s: Some(bytes as f64 / time.as_secs_f64()), local, ..Sample::default() })
}

/// The server is another process: what it confirmed, over the time until it did.
fn client(
    mode: Mode,
    options: &Options,
    server: &Address,
    progress: &mut Progress,
    report: Report<'_>,
) -> Result<()> {
    let plan = Plan::new(mode, options);
    for &backend in &options.backends {
        let runtime = options.runtime(backend, options.reactors, 0).build()?;
        let watch = Arc::new(Watch::default());
        let start = Instant::now();
        let streams = Streams::open(&runtime, server, &plan, &watch)?;
        progress.wait(options.time, &backend.to_string(), Unit::Bytes, || runtime.metrics().sent_bytes);
        let bytes: u64 = streams.finish()?.iter().map(|outcome| outcome.bytes).sum();
        let bytes_per_s = Some(bytes as f64 / start.elapsed().as_secs_f64());
        runtime.shutdown(connections::PATIENCE)?;
        let row = Row::new(options, plan.name(), plan.connections, plan.size, backend);
        report(row.measured(&Summary::from(&Sample { bytes_per_s, ..Sample::default() })));
    }
    Ok(())
}

/// A client's connections.
struct Streams {
    handles: Vec<trochus::net::Handle>,
    outcomes: mpsc::Receiver<std::result::Result<Outcome, String>>,
}

impl Streams {
    /// Connects from each reactor in turn.
    fn open(runtime: &Runtime, server: &Address, plan: &Plan, watch: &Arc<Watch>) -> Result<Self> {
        let (told, outcomes) = mpsc::channel();
        let handles = connections::open(runtime, server, plan.connections, |connection| {
            let hello = Hello { mode: plan.mode, connection, size: plan.size as u32 };
            let (pattern, watch, told) = (plan.pattern.clone(), watch.clone(), told.clone());
            move || StreamClient::new(pattern, hello, watch, told)
        })?;
        Ok(Streams { handles, outcomes })
    }

    /// Ends the streams; every byte must have arrived.
    fn finish(self) -> Result<Vec<Outcome>> {
        connections::finish(&self.handles, &self.outcomes)
    }
}
