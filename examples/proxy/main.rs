//! A proxy for anything over TCP or Unix-domain sockets: several upstreams, of which those that answer take turns.
//!
//! `cargo run --release --example proxy -- --upstream 127.0.0.1:7000 --upstream 127.0.0.1:7001`, and `nc localhost 8000`. With
//! `--upstreams FILE` they are read from a file, one in each line, and once more whenever SIGHUP comes (`kill -HUP PID`). SIGINT and
//! SIGTERM end it: what is going on has its time to finish (`--grace`).
//!
//! `upstreams.rs` says who is tried, and looks whether they are there. All that is relayed is `trochus::net::Relay`.

mod upstreams;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use trochus::net::{
    Address, ListenOptions, Relay, RelayEnd, Signal, StreamOptions, ToAddresses, keep_signals,
};
use trochus::{Backend, Reactor, Runtime, config};
use upstreams::Upstreams;

type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Options {
    listen: String,
    upstreams: Vec<Address>,
    file: Option<String>,
    backend: Backend,
    reactors: Option<usize>,
    /// How often it is looked whether the upstreams are there.
    health: Duration,
    /// How often it says how it goes; never if nothing.
    stats: Option<Duration>,
    grace: Duration,
    verbose: bool,
}

fn main() -> ExitCode {
    let result = options().and_then(|options| options.map_or(Ok(()), |options| serve(&options)));
    if let Err(error) = result {
        eprintln!("proxy: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// What has been relayed so far.
#[derive(Default)]
struct Totals {
    relays: AtomicU64,
    unclean: AtomicU64,
    without_upstream: AtomicU64,
    forth: AtomicU64,
    back: AtomicU64,
}

impl Totals {
    fn add(&self, end: &RelayEnd) {
        self.relays.fetch_add(1, Relaxed);
        self.unclean.fetch_add(u64::from(!end.relayed.is_clean()), Relaxed);
        self.without_upstream.fetch_add(u64::from(end.upstream.is_none()), Relaxed);
        self.forth.fetch_add(end.relayed.forth, Relaxed);
        self.back.fetch_add(end.relayed.back, Relaxed);
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} relays have ended, {} of them not in good order, {} without an upstream; {} bytes forth, {} back",
            self.relays.load(Relaxed),
            self.unclean.load(Relaxed),
            self.without_upstream.load(Relaxed),
            self.forth.load(Relaxed),
            self.back.load(Relaxed),
        )
    }
}

fn serve(options: &Options) -> Result<(), Failure> {
    // Whoever reads that it listens may send one.
    keep_signals()?;
    let mut builder = Runtime::builder().backend(options.backend);
    if let Some(reactors) = options.reactors {
        builder = builder.reactors(reactors);
    }
    let runtime = builder.build()?;
    let upstreams = Arc::new(Upstreams::new(upstreams(options)?));
    let totals = Arc::new(Totals::default());
    // An upstream that does not answer is passed over sooner than the defaults say.
    let to_upstream = StreamOptions::new().connect_timeout(Duration::from_secs(3));
    let (theirs, counted, verbose) = (upstreams.clone(), totals.clone(), options.verbose);
    let server = runtime.listen_with(&ListenOptions::new(), options.listen.as_str(), move |_client| {
        let (order, upstreams, totals) = (theirs.order(), theirs.clone(), counted.clone());
        let first = order.first().cloned();
        Relay::to(order).options(&to_upstream).on_end(move |end| {
            // Who was to be the first and was not has not answered.
            upstreams.note(first.as_ref(), end.upstream.as_ref());
            totals.add(&end);
            if verbose {
                println!("{end}");
            }
        })
    })?;
    println!("listening on {} via {}", server.local_addr(), runtime.backend());
    let (theirs, health) = (upstreams.clone(), options.health);
    runtime.reactor(0).run(move |reactor| upstreams::look_after(reactor, theirs, health))?;
    if let Some(interval) = options.stats {
        let (totals, upstreams) = (totals.clone(), upstreams.clone());
        runtime.reactor(0).run(move |reactor| say_how_it_goes(reactor, totals, upstreams, interval))?;
    }
    while runtime.wait_for_signal()? == Signal::Reload {
        // A file that cannot be read changes nothing.
        match self::upstreams(options) {
            Ok(read) => println!("{} upstreams from now on", upstreams.replace(read)),
            Err(error) => eprintln!("proxy: the upstreams stay as they are: {error}"),
        }
    }
    let drained = runtime.shutdown(options.grace)?;
    println!("{totals}; {} connections were cut off", drained.cut_off);
    Ok(())
}

/// Those of the command line, and those of the file as it is now.
fn upstreams(options: &Options) -> Result<Vec<Address>, Failure> {
    let mut all = options.upstreams.clone();
    if let Some(file) = &options.file {
        let text = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            all.extend(line.to_addresses()?);
        }
    }
    if all.is_empty() {
        return Err("there is no upstream: `--upstream ADDR` names one".into());
    }
    Ok(all)
}

/// One line now and then, of the reactor that it runs on: what waits there shows who is slow.
fn say_how_it_goes(
    reactor: &mut Reactor,
    totals: Arc<Totals>,
    upstreams: Arc<Upstreams>,
    interval: Duration,
) {
    reactor.after(interval, move |reactor| {
        let gauges = reactor.gauges();
        println!(
            "{totals}; {upstreams}; reactor 0: {} connections, {} of them wait for their peers to read, {} bytes wait",
            gauges.connections, gauges.throttled, gauges.output_bytes,
        );
        say_how_it_goes(reactor, totals, upstreams, interval);
    });
}

/// `None` if only help was asked for.
fn options() -> Result<Option<Options>, Failure> {
    use lexopt::prelude::{Long, ValueExt};
    let mut options = Options {
        listen: "[::]:8000".to_owned(),
        upstreams: Vec::new(),
        file: None,
        backend: Backend::Auto,
        reactors: None,
        health: Duration::from_secs(1),
        stats: None,
        grace: config::DRAIN_TIMEOUT,
        verbose: false,
    };
    let mut arguments = lexopt::Parser::from_env();
    let seconds = |arguments: &mut lexopt::Parser| -> Result<Duration, Failure> {
        Ok(Duration::from_secs_f64(arguments.value()?.parse::<f64>()?.clamp(0.01, 1e6)))
    };
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("listen") => options.listen = arguments.value()?.string()?,
            Long("upstream") => options.upstreams.extend(arguments.value()?.string()?.to_addresses()?),
            Long("upstreams") => options.file = Some(arguments.value()?.string()?),
            Long("backend") => options.backend = arguments.value()?.string()?.parse()?,
            Long("reactors") => options.reactors = Some(arguments.value()?.parse()?),
            Long("health") => options.health = seconds(&mut arguments)?,
            Long("stats") => options.stats = Some(seconds(&mut arguments)?),
            Long("grace") => options.grace = seconds(&mut arguments)?,
            Long("verbose") => options.verbose = true,
            Long("help") => {
                println!(
                    "\
proxy [OPTIONS]

  --listen ADDR       host:port or unix:/path ([::]:8000)
  --upstream ADDR     where to relay to; several take turns
  --upstreams FILE    the same, one in each line; SIGHUP has it read once more
  --backend NAME      auto, io_uring or fallback (auto)
  --reactors N        threads that serve (one a core)
  --health SECONDS    how often it is looked whether upstreams are there (1)
  --stats SECONDS     a line about how it goes, so often (never)
  --grace SECONDS     what is going on has so long to finish when it ends (5)
  --verbose           a line for each relay that has ended"
                );
                return Ok(None);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Some(options))
}
