//! `latency`: requests that come when they come, whether or not those before them are answered.

use crate::experiment::Experiment;
use crate::latency::Latencies;
use crate::load::{Check, Load};
use crate::options::Options;
use crate::outcome::{Ending, Total};
use crate::pattern::Pattern;
use crate::preset::Preset;
use crate::report::{Progress, Report, Row, Unit};
use crate::requests::serve;
use crate::rounds::{Sample, Slice, Subject, compare};
use crate::{Result, baseline_rated, connections::PATIENCE, latency};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use trochus::codec::{FixedSize, Records};
use trochus::net::StreamOptions;
use trochus::rpc::{Caller, Client, ClientOptions, Requests, Unfinished};
use trochus::{Backend, Runtime};

pub(crate) const LATENCY: Experiment = Experiment {
    name: "latency",
    about: "64 bytes at a given rate (10 k, 100 k, 1 M a second) over 16 connections",
    run,
    client: None,
};

const CONNECTIONS: usize = 16;
const RATES: [u32; 3] = [10_000, 100_000, 1_000_000];

fn run(options: &Options, progress: &mut Progress, report: Report<'_>) -> Result<()> {
    let connections = options.connections.unwrap_or(CONNECTIONS);
    let load = Messages(Pattern::new());
    for rate in RATES {
        let compared = compare(options, |subject, slice| {
            // Late enough that all connections are there by then.
            let schedule = Schedule { start: Instant::now() + Duration::from_millis(20), rate, connections };
            match subject {
                Subject::Trochus(backend) => measure(options, backend, &load, schedule, slice, progress),
                Subject::Baseline => {
                    baseline_rated::measure(options, &load, schedule, Message::SIZE, slice, progress)
                }
            }
        })?;
        for compared in &compared {
            let mut row = Row::new(options, LATENCY.name, connections, Message::SIZE, compared.backend);
            row.target_per_s = Some(f64::from(rate));
            report(row.compared(compared));
        }
    }
    Ok(())
}

fn measure(
    options: &Options,
    backend: Backend,
    load: &Messages,
    schedule: Schedule,
    slice: Slice,
    progress: &mut Progress,
) -> Result<Sample> {
    let connections = schedule.connections;
    let runtime = options.runtime(backend, options.reactors, 0).build()?;
    let server = serve(&runtime, load, StreamOptions::new())?;
    let (told, outcomes) = mpsc::channel();
    let connect = |connection: usize| {
        let check = Check::new(load.clone(), connection, connections, connections);
        let ending = Ending::new(connection, told.clone());
        let caller = Timed { check, schedule, connection, ending };
        let options = options.preset.map_or_else(ClientOptions::new, Preset::client);
        let options = options.reactor(connection % runtime.reactors());
        Client::connect_caller(&runtime, &options, server.local_addr(), load.protocol(), caller)
    };
    let clients = (0..connections).map(connect).collect::<trochus::Result<Vec<_>>>()?;
    let stop = AtomicBool::new(false);
    let (sent, measured) = thread::scope(|scope| {
        let source = scope.spawn(|| {
            let mut producers: Vec<_> = clients.iter().map(Client::producer).collect();
            let push = |connection: usize, number| {
                let request = load.request(connection as u32, number);
                producers[connection].push(request).map_err(|error| error.to_string())
            };
            make_when_due(schedule, slice.warm_up, &stop, push, || Ok(()))
        });
        let measured = observe(&runtime, schedule, slice, &backend.to_string(), progress);
        stop.store(true, Ordering::Relaxed);
        (source.join().expect("the thread does not panic"), measured)
    });
    let (made, (latencies, time)) = (sent?, measured?);
    drop(clients);
    let total = Total::wait(&outcomes, connections)?;
    if total.responses != made.requests {
        return Err(format!("{} requests, but {} responses", made.requests, total.responses).into());
    }
    runtime.shutdown(PATIENCE)?;
    Ok(Sample { lateness: Some(made.lateness), ..latencies.sample(time, Message::SIZE) })
}

/// What was answered after the warm-up, and within which time.
fn observe(
    runtime: &Runtime,
    schedule: Schedule,
    slice: Slice,
    who: &str,
    progress: &mut Progress,
) -> Result<(Latencies, Duration)> {
    let answered = || runtime.metrics().received_bytes / (2 * Message::SIZE as u64);
    let until_start = schedule.start.saturating_duration_since(Instant::now());
    progress.wait(until_start + slice.warm_up, who, Unit::Messages, answered);
    latency::take(runtime)?;
    let start = Instant::now();
    progress.wait(slice.time, who, Unit::Messages, answered);
    Ok((latency::take(runtime)?, start.elapsed()))
}

/// When each request is due. They go to the connections in turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    pub(crate) start: Instant,
    /// A second.
    pub(crate) rate: u32,
    pub(crate) connections: usize,
}

impl Schedule {
    fn due(&self, index: u64) -> Instant {
        let (seconds, rest) = (index / u64::from(self.rate), index % u64::from(self.rate));
        self.start + Duration::new(seconds, (rest * 1_000_000_000 / u64::from(self.rate)) as u32)
    }

    /// Of the request with this number on that connection.
    pub(crate) fn due_on(&self, connection: usize, number: u64) -> Instant {
        self.due(number * self.connections as u64 + connection as u64)
    }

    /// Sleeps: to look at the clock instead would take a core from those who are measured.
    fn wait_for(&self, index: u64) {
        let left = self.due(index).saturating_duration_since(Instant::now());
        if !left.is_zero() {
            thread::sleep(left);
        }
    }
}

/// What a generator did.
pub(crate) struct Made {
    pub(crate) requests: u64,
    /// Since the warm-up: how long after it was due each request was made.
    pub(crate) lateness: Latencies,
}

/// Makes each request when it is due, or as soon after that as the thread gets to run: what was missed is made up for, and
/// its latency counts from when it was due. `flush` is called behind all that were due at a time.
pub(crate) fn make_when_due(
    schedule: Schedule,
    warm_up: Duration,
    stop: &AtomicBool,
    mut make: impl FnMut(usize, u64) -> Result<(), String>,
    mut flush: impl FnMut() -> Result<(), String>,
) -> Result<Made, String> {
    wake_up_promptly();
    let mut made = Made { requests: 0, lateness: Latencies::new() };
    let measured_from = schedule.start + warm_up;
    while !stop.load(Ordering::Relaxed) {
        schedule.wait_for(made.requests);
        let now = Instant::now();
        while schedule.due(made.requests) <= now {
            let (connection, number) =
                (made.requests as usize % schedule.connections, made.requests / schedule.connections as u64);
            make(connection, number)?;
            if now >= measured_from {
                made.lateness.record(now - schedule.due(made.requests));
            }
            made.requests += 1;
        }
        flush()?;
    }
    Ok(made)
}

/// Linux lets a sleeping thread oversleep by 50 µs unless asked not to.
fn wake_up_promptly() {
    #[cfg(target_os = "linux")]
    {
        // Where that fails, the lateness shows it.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    }
}

struct Timed {
    check: Check<Messages>,
    schedule: Schedule,
    connection: usize,
    ending: Ending,
}

impl Caller<Records<Message>> for Timed {
    fn on_response(&mut self, _requests: &mut Requests<'_, Records<Message>>, response: Message) {
        let due = self.schedule.due_on(self.connection, self.check.received());
        latency::record(due.elapsed());
        self.check.take(&response);
    }

    fn on_close(&mut self, end: &Result<(), Unfinished>) {
        self.ending.close(end, || self.check.verdict());
    }
}

/// 64 bytes that differ from one message to the next.
#[derive(Clone, Copy, Debug)]
struct Message {
    producer: u32,
    number: u64,
    content: [u8; 52],
}

impl FixedSize for Message {
    const SIZE: usize = 64;

    fn write(&self, out: &mut [u8]) {
        out[..4].copy_from_slice(&self.producer.to_be_bytes());
        out[4..12].copy_from_slice(&self.number.to_be_bytes());
        out[12..].copy_from_slice(&self.content);
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (producer, rest) = bytes.split_first_chunk()?;
        let (number, content) = rest.split_first_chunk()?;
        Some(Message {
            producer: u32::from_be_bytes(*producer),
            number: u64::from_be_bytes(*number),
            content: content.try_into().ok()?,
        })
    }
}

#[derive(Clone, Debug)]
struct Messages(Pattern);

impl Messages {
    fn content(&self, producer: u32, number: u64) -> [u8; 52] {
        let position = number.wrapping_mul(52).wrapping_add(u64::from(producer) * 977);
        self.0.bytes(position, 52).try_into().expect("the slice is as long as the array")
    }
}

impl Load for Messages {
    type Protocol = Records<Message>;

    fn protocol(&self) -> Records<Message> {
        Records::new()
    }

    fn request(&self, producer: u32, number: u64) -> Message {
        Message { producer, number, content: self.content(producer, number) }
    }

    fn answer(request: Message) -> Message {
        request
    }

    fn producer(response: &Message) -> u32 {
        response.producer
    }

    fn is_right(&self, producer: u32, number: u64, response: &Message) -> bool {
        response.producer == producer
            && response.number == number
            && response.content == self.content(producer, number)
    }
}
