//! One publisher, many subscribers: what it costs to write the same to all of them, and what becomes of those who do not read.
//!
//! `cargo run --release --example broadcast -- --rate 1000000 --subscribers 50 --slow 2 --policy disconnect`
//!
//! A publisher makes numbered messages at a rate. Those of a linger time are one piece of memory, handed to each reactor by one
//! command; there it is written to each subscriber without a copy (`feed.rs`). The subscribers are connections of the same process
//! over loopback, which check the numbers and how late each sixteenth message is, counted from when it was due; the slow ones are
//! sockets that nobody reads.

mod feed;
mod options;
mod publisher;
mod report;
mod subscriber;

use feed::Shared;
use options::Options;
use publisher::Publisher;
use report::{Report, thread_time};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use subscriber::{Audience, Subscriber};
use trochus::net::{ListenOptions, Server, StreamOptions};
use trochus::{Backend, Runtime, config};

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How long it may take until everybody is connected, and until everybody has got the last message.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the kernel holds for a subscriber is seen by nobody, so it is not to be much.
const SEND_BUFFER: usize = 256 << 10;

fn main() -> ExitCode {
    let result = Options::from_command_line().and_then(|options| match options {
        None => Ok(()),
        Some(options) if options.listen.is_some() => serve(&options),
        Some(options) => compare(&options),
    });
    if let Err(error) = result {
        eprintln!("broadcast: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn start(
    options: &Options,
    backend: Backend,
    listen: &str,
) -> Result<(Runtime, Server, Arc<Shared>), Failure> {
    let runtime = Runtime::builder().backend(backend).reactors(options.reactors).build()?;
    for index in 0..runtime.reactors() {
        runtime.run_on(index, |_| feed::open()).wait()?;
    }
    let stream = StreamOptions::new()
        .output_limits(
            options.limit.max(config::OUTPUT_SOFT_BYTES),
            // Far beyond what the policy acts on.
            options.limit.saturating_mul(4).max(config::OUTPUT_HARD_BYTES),
        )
        // Here nobody waits any more for who was behind.
        .low_water(options.limit / 2)
        .send_buffer(options.limit.min(SEND_BUFFER));
    let shared = Arc::new(Shared::new(options.policy, options.limit));
    let theirs = shared.clone();
    let server = runtime.listen_with(&ListenOptions::new().stream(stream), listen, move |_peer| {
        feed::Subscription::new(theirs.clone())
    })?;
    Ok((runtime, server, shared))
}

/// For subscribers from elsewhere.
fn serve(options: &Options) -> Result<(), Failure> {
    let listen = options.listen.as_deref().unwrap_or_default();
    let (runtime, server, _) = start(options, options.backends[0], listen)?;
    println!("listening on {} via {}", server.local_addr(), runtime.backend());
    let is_over = AtomicBool::new(false);
    let publisher = Publisher::new(options, &runtime, &is_over, Instant::now());
    let published = thread::scope(|scope| {
        let publishing = scope.spawn(|| publisher.run(options.seconds));
        if options.seconds.is_none() {
            let interrupted = runtime.wait_for_interrupt();
            is_over.store(true, Ordering::Relaxed);
            interrupted?;
        }
        publishing.join().map_err(|_| "the publisher panicked")?
    })?;
    let drained = runtime.shutdown(config::DRAIN_TIMEOUT)?;
    println!(
        "{published} messages; {} subscribers got all, {} were cut off",
        drained.closed, drained.cut_off
    );
    Ok(())
}

/// With subscribers of its own, on each backend that was asked for.
fn compare(options: &Options) -> Result<(), Failure> {
    if !options.json {
        println!("{}", report::HEAD);
    }
    for backend in &options.backends {
        let report = measure(options, *backend)?;
        println!("{}", if options.json { report.to_json(options) } else { report.to_row(options) });
    }
    Ok(())
}

fn measure(options: &Options, backend: Backend) -> Result<Report, Failure> {
    let (runtime, server, shared) = start(options, backend, "127.0.0.1:0")?;
    let epoch = Instant::now();
    let audience = Arc::new(Audience::new(options.subscribers - options.slow));
    // Beside the publisher and its reactors, so that these are judged and not the subscribers.
    let theirs = Runtime::builder().backend(backend).reactors(1).build()?;
    for index in 0..audience.len() {
        let audience = audience.clone();
        theirs.connect(server.local_addr(), move || Subscriber::new(index, audience, epoch))?;
    }
    let address = server.local_addr().to_string();
    let dead: Vec<TcpStream> =
        (0..options.slow).map(|_| TcpStream::connect(&address)).collect::<Result<_, _>>()?;
    wait_until("everybody is connected", || shared.subscribed() == options.subscribers)?;

    let is_over = AtomicBool::new(false);
    let publisher = Publisher::new(options, &runtime, &is_over, epoch);
    let reactors_time = || -> Result<Duration, Failure> {
        let times = (0..runtime.reactors()).map(|index| runtime.run_on(index, |_| thread_time()).wait());
        Ok(times.sum::<Result<Duration, _>>()?)
    };
    let (started, process_before, before) = (Instant::now(), report::process_time(), reactors_time()?);
    let time = options.time();
    let (published, publisher_time) = thread::scope(|scope| {
        let publishing = scope.spawn(|| (publisher.run(Some(time)), thread_time()));
        let mut live = report::Live::new(started);
        while !publishing.is_finished() {
            thread::sleep(Duration::from_millis(10));
            if time > Duration::from_secs(2) && live.is_due() {
                live.tell(publisher.published(), audience.delivered(), &shared);
            }
        }
        publishing.join().map_err(|_| "the publisher panicked")
    })?;
    let published = published?;
    let elapsed = started.elapsed();
    let cpu = report::process_time() - process_before;
    let server_cpu = reactors_time()? - before + publisher_time;
    let rss = report::resident_bytes();

    wait_until("everybody has got the last message", || audience.has_reached(published))?;
    let (behind, closed) = (shared.behind(), shared.closed());
    let waited = publisher.waited();
    drop(dead);
    runtime.shutdown(config::DRAIN_TIMEOUT)?;
    theirs.shutdown(config::DRAIN_TIMEOUT)?;
    Ok(Report {
        backend,
        published,
        elapsed,
        cpu,
        server_cpu,
        rss,
        closed,
        behind,
        waited,
        heard: audience.heard(),
    })
}

fn wait_until(what: &str, condition: impl Fn() -> bool) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        if Instant::now() > deadline {
            return Err(format!("it takes more than {PATIENCE:?} until {what}").into());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
