//! `pingpong`: one small message at a time, there and back.

use crate::baseline_pingpong;
use crate::experiment::Experiment;
use crate::message::{Messages, SEQUENCE_BYTES};
use crate::options::Options;
use crate::pattern::{Pattern, WINDOW};
use crate::report::{Progress, Report, Row, Unit};
use crate::rounds::{Sample, Slice, Subject, Summary, compare};
use crate::watch::Watch;
use crate::wire::{Hello, Mode};
use crate::{Result, connections, latency};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::time::Instant;
use trochus::net::{Address, CloseReason, Handler, Io};
use trochus::{Backend, Reactor, Runtime};

pub(crate) const PING_PONG: Experiment = Experiment {
    name: "pingpong",
    about: "64 bytes there and back, one at a time; 1, 16 and 128 connections",
    run,
    client: Some(client),
};

const SIZE: usize = 64;
const CONNECTIONS: &[usize] = &[1, 16, 128];

/// What to measure.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) connections: usize,
    pub(crate) size: usize,
    pub(crate) pattern: Pattern,
}

fn plans(options: &Options) -> Result<Vec<Plan>> {
    let size = options.size.unwrap_or(SIZE);
    if !(SEQUENCE_BYTES..=WINDOW).contains(&size) {
        return Err(
            format!("pingpong takes a --size of {SEQUENCE_BYTES} to {WINDOW} bytes, not {size}").into()
        );
    }
    let pattern = Pattern::new();
    let plan = |connections| Plan { connections, size, pattern: pattern.clone() };
    Ok(match options.connections {
        Some(connections) => vec![plan(connections)],
        None => CONNECTIONS.iter().copied().map(plan).collect(),
    })
}

fn run(options: &Options, progress: &mut Progress, report: Report<'_>) -> Result<()> {
    for plan in plans(options)? {
        let compared = compare(options, |subject, slice| match subject {
            Subject::Trochus(backend) => measure(options, &plan, backend, slice, progress),
            Subject::Baseline => baseline_pingpong::measure(options, &plan, slice, progress),
        })?;
        for compared in &compared {
            let row = Row::new(options, PING_PONG.name, plan.connections, plan.size, compared.backend);
            report(row.compared(compared));
        }
    }
    Ok(())
}

/// Client and server on different cores, as between two machines, so that it matters how they sleep and wake. On a
/// single reactor both share it.
fn measure(
    options: &Options,
    plan: &Plan,
    backend: Backend,
    slice: Slice,
    progress: &mut Progress,
) -> Result<Sample> {
    let for_clients = options.reactors / 2;
    let servers = options.runtime(backend, options.reactors - for_clients, for_clients).build()?;
    let apart = (for_clients > 0).then(|| options.runtime(backend, for_clients, 0).build()).transpose()?;
    let clients = apart.as_ref().unwrap_or(&servers);
    let watch = Arc::new(Watch::default());
    let server = connections::serve(&servers, "127.0.0.1:0", &plan.pattern, &watch)?;
    let ends = if apart.is_some() { 1 } else { 2 };
    let sample =
        play(clients, ends, server.local_addr(), plan, &watch, slice, &backend.to_string(), progress)?;
    if let Some(clients) = apart {
        clients.shutdown(connections::PATIENCE)?;
    }
    servers.shutdown(connections::PATIENCE)?;
    connections::check(&watch)?;
    Ok(sample)
}

fn client(options: &Options, server: &Address, progress: &mut Progress, report: Report<'_>) -> Result<()> {
    let slice = Slice { warm_up: options.time / 4, time: options.time };
    for plan in plans(options)? {
        for &backend in &options.backends {
            let runtime = options.runtime(backend, options.reactors, 0).build()?;
            let watch = Arc::new(Watch::default());
            let sample = play(&runtime, 1, server, &plan, &watch, slice, &backend.to_string(), progress)?;
            runtime.shutdown(connections::PATIENCE)?;
            let row = Row::new(options, PING_PONG.name, plan.connections, plan.size, backend);
            report(row.measured(&Summary::from(&sample)));
        }
    }
    Ok(())
}

/// The client's end of a measurement. The runtime serves so many `ends` of each connection.
#[expect(clippy::too_many_arguments, reason = "it is what a measurement consists of")]
fn play(
    runtime: &Runtime,
    ends: usize,
    server: &Address,
    plan: &Plan,
    watch: &Arc<Watch>,
    slice: Slice,
    name: &str,
    progress: &mut Progress,
) -> Result<Sample> {
    let (told, outcomes) = mpsc::channel();
    let counting = Arc::new(AtomicBool::new(false));
    let make = |connection| {
        let hello = Hello { mode: Mode::PingPong, connection, size: plan.size as u32 };
        let (pattern, watch, told) = (plan.pattern.clone(), watch.clone(), told.clone());
        let counting = counting.clone();
        move || Pinger::new(pattern, hello, watch, told, counting)
    };
    let played = || runtime.metrics().received_bytes / (plan.size * ends) as u64;
    let (handles, connecting) = connections::open_and_watch(runtime, server, plan.connections, make, played)?;
    progress.wait(slice.warm_up, name, Unit::Messages, played);
    latency::take(runtime)?;
    let start = Instant::now();
    counting.store(true, Ordering::Relaxed);
    progress.wait(slice.time, name, Unit::Messages, played);
    counting.store(false, Ordering::Relaxed);
    let (latencies, time) = (latency::take(runtime)?, start.elapsed());
    let counts: Vec<u64> = connections::finish(&handles, &outcomes)?;
    let mean = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
    Ok(Sample {
        connects_per_s: Some(connecting.per_s),
        slowest_connects_per_s: Some(connecting.slowest_per_s),
        messages_per_s_meanwhile: Some(connecting.played_per_s),
        slowest: counts.iter().min().map(|slowest| *slowest as f64 / mean).filter(|share| share.is_finite()),
        ..latencies.sample(time, plan.size)
    })
}

/// The client's end of a connection.
struct Pinger {
    hello: Hello,
    messages: Messages,
    sent_at: Instant,
    watch: Arc<Watch>,
    /// Told once, at the end.
    outcomes: Option<Sender<Result<u64, String>>>,
    stopping: bool,
    /// Whether this is the time that is measured, and what was played in it.
    counting: Arc<AtomicBool>,
    played: u64,
}

impl Pinger {
    fn new(
        pattern: Pattern,
        hello: Hello,
        watch: Arc<Watch>,
        outcomes: Sender<Result<u64, String>>,
        counting: Arc<AtomicBool>,
    ) -> Self {
        let messages = Messages::new(pattern, hello.size as usize);
        let sent_at = Instant::now();
        let outcomes = Some(outcomes);
        Pinger { hello, messages, sent_at, watch, outcomes, stopping: false, counting, played: 0 }
    }

    fn fail(&mut self, what: impl std::fmt::Display) {
        let failure = self.watch.fail(self.hello.connection, what);
        if let Some(outcomes) = self.outcomes.take() {
            // Whoever does not wait for it any more has given up with an error already.
            let _ = outcomes.send(Err(failure));
        }
    }
}

impl Handler for Pinger {
    fn on_open(&mut self, io: &mut Io<'_>) {
        io.write(&self.hello.encode());
        self.sent_at = Instant::now();
        io.write(self.messages.current());
    }

    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        let size = self.messages.size();
        if bytes.len() < size {
            io.expect(size);
            return 0;
        }
        // There is one message under way, so no other can lie behind it.
        if let Err(mismatch) = self.messages.take(&bytes[..size]) {
            self.fail(mismatch);
            io.abort();
            return bytes.len();
        }
        let now = Instant::now();
        latency::record(now - self.sent_at);
        self.played += u64::from(self.counting.load(Ordering::Relaxed));
        if self.stopping {
            io.close();
        } else {
            self.sent_at = now;
            io.write(self.messages.current());
        }
        size
    }

    /// The time is up.
    fn on_notify(&mut self, _io: &mut Io<'_>) {
        self.stopping = true;
    }

    fn on_end(&mut self, io: &mut Io<'_>) {
        self.fail("the server ended the connection");
        io.abort();
    }

    fn on_close(&mut self, reason: &CloseReason, _reactor: &mut Reactor) {
        if !reason.is_clean() && self.outcomes.is_some() {
            self.fail(reason);
        }
        if let Some(outcomes) = self.outcomes.take() {
            let _ = outcomes.send(Ok(self.played));
        }
    }
}
