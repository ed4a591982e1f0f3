//! Streams of requests and their responses, between a client and a server in this process.

use crate::baseline_requests::{self, Bare};
use crate::load::{Check, Load};
use crate::options::Options;
use crate::outcome::{Ending, Outcome, Total};
use crate::preset::Preset;
use crate::report::{Progress, Report, Row, Unit};
use crate::rounds::{Sample, Slice, Subject, compare};
use crate::{Result, connections::PATIENCE};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Instant;
use trochus::codec::{RequestRef, Response, ResponseRef};
use trochus::net::{Address, ListenOptions, StreamOptions};
use trochus::rpc::{Caller, Client, ClientOptions, Reply, Requests, Server, ServerOptions, Unfinished};
use trochus::{Backend, Runtime};

/// Who makes the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drive {
    /// As many threads as reactors, with a producer of its own for each of the producers.
    Producers,
    /// A thread for each of the producers, with a lane of its own.
    Threads,
    /// The reactors: each response is followed by a new request.
    Reactor,
    /// A thread for each of the producers; those of a connection share its client.
    Shared,
}

impl Drive {
    fn name(self) -> &'static str {
        match self {
            Drive::Producers => "producers",
            Drive::Threads => "threads",
            Drive::Reactor => "reactor",
            Drive::Shared => "shared",
        }
    }
}

impl FromStr for Drive {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "producers" => Ok(Drive::Producers),
            "threads" => Ok(Drive::Threads),
            "reactor" => Ok(Drive::Reactor),
            "shared" => Ok(Drive::Shared),
            other => Err(format!("--drive is `producers`, `threads`, `reactor` or `shared`, not `{other}`")),
        }
    }
}

/// What an experiment is by default.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) connections: usize,
    pub(crate) producers: usize,
    pub(crate) drive: Drive,
    /// Requests that a producer makes before the next one's turn.
    pub(crate) burst: usize,
    /// Requests of a connection that leave in one turn of the reactor at most.
    pub(crate) batch: usize,
    /// Requests that a producer can be ahead.
    pub(crate) lane: usize,
    /// Bytes of output of a connection from which on no more is encoded.
    pub(crate) output_bytes: usize,
    /// Requests without a response on each connection when the reactors make them.
    pub(crate) outstanding: u64,
}

/// Little enough that what was encoded is still in the cache when the kernel copies it.
pub(crate) const OUTPUT_BYTES: usize = 256 << 10;

#[derive(Clone, Debug)]
pub(crate) struct Plan<L> {
    name: &'static str,
    load: L,
    /// Bytes of a message.
    size: usize,
    shape: Shape,
    client: ClientOptions,
}

impl<L: Load> Plan<L> {
    /// `shape`, as far as the command line does not say otherwise.
    pub(crate) fn new(
        name: &'static str,
        load: L,
        size: usize,
        shape: Shape,
        options: &Options,
    ) -> Result<Self> {
        let drive = options.drive.unwrap_or(shape.drive);
        let connections = options.connections.unwrap_or(shape.connections);
        let producers = match drive {
            Drive::Reactor => connections,
            Drive::Producers | Drive::Threads | Drive::Shared => {
                // Each connection has one at least.
                options.producers.unwrap_or(shape.producers).max(connections)
            }
        };
        if producers > L::MOST_PRODUCERS {
            let most = L::MOST_PRODUCERS;
            return Err(format!("{name} can tell {most} producers apart, but not {producers}").into());
        }
        let shape = Shape { connections, producers, drive, ..shape };
        let own = || ClientOptions::new().batch(shape.batch).lane(shape.lane);
        Ok(Plan { name, load, size, shape, client: options.preset.map_or_else(own, Preset::client) })
    }

    fn stream(&self) -> StreamOptions {
        StreamOptions::new().output_limits(self.shape.output_bytes, 64 << 20)
    }

    fn check(&self, connection: usize) -> Check<L> {
        let Shape { connections, producers, .. } = self.shape;
        Check::new(self.load.clone(), connection, connections, producers)
    }

    /// Threads that make requests, on that many reactors.
    fn threads(&self, reactors: usize) -> usize {
        match self.shape.drive {
            Drive::Reactor => 0,
            Drive::Producers => reactors,
            Drive::Threads | Drive::Shared => self.shape.producers,
        }
    }
}

pub(crate) fn run<L: Load>(
    options: &Options,
    plan: &Plan<L>,
    progress: &mut Progress,
    report: Report<'_>,
) -> Result<()> {
    let bare = Bare {
        load: plan.load.clone(),
        connections: plan.shape.connections,
        outstanding: plan.shape.outstanding,
        size: plan.size,
    };
    let compared = compare(options, |subject, slice| match subject {
        Subject::Trochus(backend) => measure(options, plan, backend, slice, progress),
        Subject::Baseline => baseline_requests::measure(options, &bare, slice, progress),
    })?;
    for compared in &compared {
        let mut row = Row::new(options, plan.name, plan.shape.connections, plan.size, compared.backend);
        row.drive = Some(plan.shape.drive.name());
        if plan.shape.drive != Drive::Reactor {
            (row.producers, row.threads) = (Some(plan.shape.producers), Some(plan.threads(options.reactors)));
        }
        report(row.compared(compared));
    }
    Ok(())
}

/// Sends for the time of the slice, behind its warm-up. The rate is that of the responses since then, all of them, until the last
/// one was there.
fn measure<L: Load>(
    options: &Options,
    plan: &Plan<L>,
    backend: Backend,
    slice: Slice,
    progress: &mut Progress,
) -> Result<Sample> {
    let runtime = options.runtime(backend, options.reactors, 0).build()?;
    let server = serve::<L>(&runtime, &plan.load, plan.stream())?;
    let (told, outcomes) = mpsc::channel();
    let stop = Arc::new(AtomicBool::new(false));
    let clients = connect(&runtime, server.local_addr(), plan, &stop, &told)?;
    // Of requests and of responses, which are equally long.
    let received = || runtime.metrics().received_bytes / 2;
    let mut pass_time = || {
        let (name, played) = (backend.to_string(), || received() / plan.size as u64);
        progress.wait(slice.warm_up, &name, Unit::Messages, played);
        let begun = (Instant::now(), received());
        progress.wait(slice.time, &name, Unit::Messages, played);
        stop.store(true, Ordering::Relaxed);
        begun
    };
    let connections = clients.len();
    // What the reactors make begins with the connections.
    let (begun, sent) = match plan.shape.drive {
        Drive::Reactor => (pass_time(), None),
        Drive::Producers | Drive::Threads | Drive::Shared => {
            let (begun, sent) = push(options, plan, &clients, &stop, pass_time)?;
            // Each connection ends behind its last response.
            drop(clients);
            (begun, Some(sent))
        }
    };
    let total = Total::wait(&outcomes, connections)?;
    if let Some(sent) = sent.filter(|sent| *sent != total.responses) {
        return Err(format!("{sent} requests, but {} responses", total.responses).into());
    }
    let all = received();
    runtime.shutdown(PATIENCE)?;
    Ok(total.sample(begun, all, plan.size))
}

pub(crate) fn serve<L: Load>(runtime: &Runtime, load: &L, stream: StreamOptions) -> Result<Server> {
    let options = ServerOptions::new().listen(ListenOptions::new().stream(stream));
    let service = |request: RequestRef<'_, L::Protocol>, reply: Reply<Response<L::Protocol>>| {
        reply.send(L::answer(request));
    };
    Ok(Server::bind_each(runtime, &options, "127.0.0.1:0", load.protocol(), move |_peer| service)?)
}

fn connect<L: Load>(
    runtime: &Runtime,
    server: &Address,
    plan: &Plan<L>,
    stop: &Arc<AtomicBool>,
    told: &Sender<Outcome>,
) -> Result<Vec<Client<L::Protocol>>> {
    let Shape { connections, drive, outstanding, .. } = plan.shape;
    let connect = |connection: usize| {
        let options = plan.client.clone().stream(plan.stream());
        let options = options.reactor(connection % runtime.reactors());
        let ending = Ending::new(connection, told.clone());
        let (check, load) = (plan.check(connection), &plan.load);
        if drive == Drive::Reactor {
            let caller = ClosedLoop {
                check,
                load: load.clone(),
                producer: connection as u32,
                outstanding,
                sent: 0,
                stop: stop.clone(),
                ending,
            };
            Client::connect_caller(runtime, &options, server, load.protocol(), caller)
        } else {
            Client::connect_caller(runtime, &options, server, load.protocol(), Open { check, ending })
        }
    };
    // All at once: the reactors may be busy with the first ones already, and each needs a few of their turns.
    thread::scope(|scope| {
        let connect = |connection| scope.spawn(move || connect(connection));
        let connecting: Vec<_> = (0..connections).map(connect).collect();
        let joined = connecting.into_iter().map(|thread| thread.join().expect("the thread does not panic"));
        Ok(joined.collect::<trochus::Result<_>>()?)
    })
}

/// Pushes until `pass_time` has said that it is enough. What it said, and how many requests there were.
fn push<L: Load, T>(
    options: &Options,
    plan: &Plan<L>,
    clients: &[Client<L::Protocol>],
    stop: &AtomicBool,
    pass_time: impl FnOnce() -> T,
) -> Result<(T, u64)> {
    let Shape { connections, producers, drive, .. } = plan.shape;
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    thread::scope(|scope| {
        let start_thread = |thread: usize| {
            let core = cores.get(thread % cores.len().max(1)).copied();
            scope.spawn(move || match drive {
                Drive::Shared => push_shared(plan, &clients[thread % connections], thread, stop),
                Drive::Threads => push_own(plan, clients, [thread].into_iter(), stop),
                Drive::Producers | Drive::Reactor => {
                    // On the core of the reactor that takes what they push, in whose cache it still is then.
                    core.map(core_affinity::set_for_current);
                    let here = |producer: &usize| producer % connections % options.reactors == thread;
                    push_own(plan, clients, (0..producers).filter(here), stop)
                }
            })
        };
        let threads: Vec<_> = (0..plan.threads(options.reactors)).map(start_thread).collect();
        let begun = pass_time();
        let sent = threads.into_iter().map(|thread| thread.join().expect("the thread does not panic"));
        Ok((begun, sent.sum::<Result<u64, String>>()?))
    })
}

/// Makes a burst of requests for each of its producers in turn.
fn push_own<L: Load>(
    plan: &Plan<L>,
    clients: &[Client<L::Protocol>],
    producers: impl Iterator<Item = usize>,
    stop: &AtomicBool,
) -> Result<u64, String> {
    let own = |producer: usize| (producer as u32, 0_u64, clients[producer % clients.len()].producer());
    let mut producers: Vec<_> = producers.map(own).collect();
    while !stop.load(Ordering::Relaxed) && !producers.is_empty() {
        for (producer, number, requests) in &mut producers {
            for _ in 0..plan.shape.burst {
                requests.push(plan.load.request(*producer, *number)).map_err(|error| error.to_string())?;
                *number += 1;
            }
        }
    }
    Ok(producers.iter().map(|(_, number, _)| number).sum())
}

fn push_shared<L: Load>(
    plan: &Plan<L>,
    client: &Client<L::Protocol>,
    producer: usize,
    stop: &AtomicBool,
) -> Result<u64, String> {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..LOOK_EVERY {
            client.push(plan.load.request(producer as u32, number)).map_err(|error| error.to_string())?;
            number += 1;
        }
    }
    Ok(number)
}

/// Requests between two looks at whether the time is up.
const LOOK_EVERY: usize = 64;

/// The callback of requests that others make.
struct Open<L> {
    check: Check<L>,
    ending: Ending,
}

impl<L: Load> Caller<L::Protocol> for Open<L> {
    #[inline]
    fn on_response(
        &mut self,
        _requests: &mut Requests<'_, L::Protocol>,
        response: ResponseRef<'_, L::Protocol>,
    ) {
        self.check.take(&response);
    }

    fn on_close(&mut self, end: &Result<(), Unfinished>) {
        self.ending.close(end, || self.check.verdict());
    }
}

/// Makes a request for each response.
struct ClosedLoop<L> {
    check: Check<L>,
    load: L,
    producer: u32,
    outstanding: u64,
    sent: u64,
    stop: Arc<AtomicBool>,
    ending: Ending,
}

impl<L: Load> ClosedLoop<L> {
    #[inline]
    fn request(&mut self, requests: &mut Requests<'_, L::Protocol>) {
        match requests.push(&self.load.request(self.producer, self.sent)) {
            Ok(()) => self.sent += 1,
            Err(error) => self.ending.tell(Err(error.to_string())),
        }
    }
}

impl<L: Load> Caller<L::Protocol> for ClosedLoop<L> {
    fn on_open(&mut self, requests: &mut Requests<'_, L::Protocol>) {
        (0..self.outstanding).for_each(|_| self.request(requests));
    }

    #[inline]
    fn on_response(
        &mut self,
        requests: &mut Requests<'_, L::Protocol>,
        response: ResponseRef<'_, L::Protocol>,
    ) {
        self.check.take(&response);
        if !self.stop.load(Ordering::Relaxed) {
            self.request(requests);
        } else if self.check.received() == self.sent {
            let verdict = self.check.verdict();
            self.ending.tell(verdict);
        }
    }

    fn on_close(&mut self, end: &Result<(), Unfinished>) {
        self.ending.close(end, || Err("it ended before the time was up".to_owned()));
    }
}
