//! The command line.

use crate::experiment::{EXPERIMENTS, Experiment};
use crate::preset::Preset;
use crate::requests::Drive;
use crate::wire::MAX_SIZE;
use crate::{Result, report};
use lexopt::Arg::{Long, Short, Value};
use lexopt::{Parser, ValueExt};
use std::time::Duration;
use trochus::net::RuntimeBuilder;
use trochus::{Backend, BusyPoll, Runtime};

#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) role: Role,
    /// The ones to compare; [`Backend::Auto`] only until it is known which that is.
    pub(crate) backends: Vec<Backend>,
    pub(crate) experiments: Vec<&'static Experiment>,
    /// Of each measurement, its slices together.
    pub(crate) time: Duration,
    pub(crate) reactors: usize,
    /// What was asked for; each experiment has defaults of its own.
    pub(crate) connections: Option<usize>,
    pub(crate) size: Option<usize>,
    pub(crate) producers: Option<usize>,
    pub(crate) drive: Option<Drive>,
    /// Instead of what the experiments choose for themselves.
    pub(crate) preset: Option<Preset>,
    /// Where there is no preset. Unless given, as the plain loops do, which sleep when there is nothing to do; the library's own
    /// default is adaptive.
    busy_poll: Option<BusyPoll>,
    pub(crate) json: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Role {
    Both,
    Server { listen: String },
    Client { connect: String },
}

/// With `--busy-poll`: longer than any pause of these experiments.
const BUSY: BusyPoll = BusyPoll::For(Duration::from_millis(1));

impl Options {
    /// Reads the command line; `None` if it asks for help.
    pub(crate) fn from_command_line() -> Result<Option<Self>> {
        let mut options = Options {
            role: Role::Both,
            backends: vec![Backend::Auto],
            experiments: Vec::new(),
            time: Duration::from_secs(3),
            reactors: std::thread::available_parallelism()?.get(),
            connections: None,
            size: None,
            producers: None,
            drive: None,
            preset: None,
            busy_poll: None,
            json: false,
        };
        let (mut role, mut listen, mut connect) = (None, None, None);
        let mut parser = Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Long("backend") => options.backends = backends(&parser.value()?.string()?)?,
                Long("experiment") => options.experiments.push(experiment(&parser.value()?.string()?)?),
                Long("seconds") => options.time = seconds(parser.value()?.parse()?)?,
                Long("reactors") => options.reactors = at_least_one("reactors", parser.value()?.parse()?)?,
                Long("connections") => {
                    options.connections = Some(at_least_one("connections", parser.value()?.parse()?)?);
                }
                Long("size") => options.size = Some(size(parser.value()?.parse()?)?),
                Long("producers") => {
                    options.producers = Some(at_least_one("producers", parser.value()?.parse()?)?);
                }
                Long("drive") => options.drive = Some(parser.value()?.string()?.parse()?),
                Long("preset") => options.preset = Some(parser.value()?.string()?.parse()?),
                Long("busy-poll") => options.busy_poll = Some(busy_poll(parser.optional_value())?),
                Long("json") => options.json = true,
                Long("role") => role = Some(parser.value()?.string()?),
                Long("listen") => listen = Some(parser.value()?.string()?),
                Long("connect") => connect = Some(parser.value()?.string()?),
                Long("help") | Short('h') => return Ok(None),
                Long(_) | Short(_) | Value(_) => return Err(argument.unexpected().into()),
            }
        }
        options.role = match (role.as_deref(), listen, connect) {
            (None, None, None) => Role::Both,
            (Some("server"), Some(listen), None) => Role::Server { listen },
            (Some("client"), None, Some(connect)) => Role::Client { connect },
            _ => return Err("it is `--role server --listen ADDR` or `--role client --connect ADDR`".into()),
        };
        if options.preset.is_some() && options.busy_poll.is_some() {
            return Err("--preset says already whether reactors look for work: leave out --busy-poll".into());
        }
        if options.experiments.is_empty() {
            options.experiments = EXPERIMENTS.iter().collect();
        }
        Ok(Some(options))
    }

    /// Finds out which backend `auto` is.
    pub(crate) fn resolve_backends(&mut self) -> Result<()> {
        for backend in &mut self.backends {
            if *backend == Backend::Auto {
                *backend = Runtime::builder().reactors(1).build()?.backend();
            }
        }
        Ok(())
    }

    /// For the reactors on the cores from `first_core` on.
    pub(crate) fn runtime(&self, backend: Backend, reactors: usize, first_core: usize) -> RuntimeBuilder {
        let builder = match self.preset {
            Some(preset) => preset.runtime(),
            None => Runtime::builder().pin(true).busy_poll(self.busy_poll.unwrap_or(BusyPoll::Off)),
        };
        builder.reactors(reactors).first_core(first_core).backend(backend)
    }

    /// The reactors look for work instead of sleeping, so the plain loops do as well.
    pub(crate) fn polls_busily(&self) -> bool {
        matches!(self.busy_poll, Some(BusyPoll::For(_))) || self.preset.is_some_and(Preset::polls_busily)
    }

    /// What the reactors do before they sleep, if it is not the preset's own choice.
    pub(crate) fn busy_poll_name(&self) -> Option<&'static str> {
        self.preset.is_none().then_some(match self.busy_poll {
            None | Some(BusyPoll::Off) => "off",
            Some(BusyPoll::Adaptive) => "adaptive",
            Some(BusyPoll::For(_)) => "on",
        })
    }
}

fn backends(name: &str) -> Result<Vec<Backend>> {
    Ok(if name == "all" { Backend::available() } else { vec![name.parse()?] })
}

fn experiment(name: &str) -> Result<&'static Experiment> {
    let known = || EXPERIMENTS.iter().map(|experiment| experiment.name).collect::<Vec<_>>().join(", ");
    EXPERIMENTS
        .iter()
        .find(|experiment| experiment.name == name)
        .ok_or_else(|| format!("there is no experiment `{name}`, but {}", known()).into())
}

fn seconds(seconds: f64) -> Result<Duration> {
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if time >= Duration::from_millis(10) => Ok(time),
        _ => Err(format!("--seconds must be at least 0.01, not {seconds}").into()),
    }
}

fn at_least_one(what: &str, number: usize) -> Result<usize> {
    if number == 0 { Err(format!("--{what} must be at least 1").into()) } else { Ok(number) }
}

fn size(bytes: usize) -> Result<usize> {
    let most = MAX_SIZE as usize;
    if (1..=most).contains(&bytes) {
        Ok(bytes)
    } else {
        Err(format!("--size must be 1 to {most} bytes, not {bytes}").into())
    }
}

fn busy_poll(value: Option<std::ffi::OsString>) -> Result<BusyPoll> {
    match value.as_deref().map(|value| value.to_string_lossy().into_owned()).as_deref() {
        None | Some("on") => Ok(BUSY),
        Some("adaptive") => Ok(BusyPoll::Adaptive),
        Some("off") => Ok(BusyPoll::Off),
        Some(other) => Err(format!("--busy-poll is `on`, `adaptive` or `off`, not `{other}`").into()),
    }
}

pub(crate) fn print_help() {
    println!(
        "\
Moves real bytes over TCP loopback, checks each of them at the far end, and compares the rate with that of plain
socket loops that do the same in the same run: the same messages, encoded, decoded and checked by the same code, and
polling where the reactors poll. Gbit/s is one way, but for duplex, which has both together; spread is that of the
rounds, of which the median is told; p99.9 is of all rounds together; late is how late a request was made that was
due at a given time.

loopback [OPTIONS]

  --backend NAME           auto, io_uring, fallback or all (auto)
  --experiment NAME        which to run; may be repeated (all)
  --seconds S              time of each measurement (3)
  --reactors N             reactors, each on a core of its own (one a core)
  --connections N          connections (an experiment's own)
  --size BYTES             bytes of a write, or of a message, of bulk, duplex and pingpong (an experiment's own)
  --producers N            who makes requests, of echo4, echo4-shared, echo276 and json (an experiment's own)
  --drive WHO              makes them: producers (each with a lane of its own, all on one pinned thread for each reactor),
                           threads (each with a lane and a thread of its own), reactor (where the responses come in)
                           or shared (a thread each, through a client they share)
  --busy-poll[=MODE]       reactors look for work before they sleep: on, adaptive (the library's default) or
                           off (unless given, as the plain sockets' loops do)
  --preset NAME            the library's settings of that name instead of the experiments' own: throughput, balanced
                           or latency
  --json                   one JSON object a line instead of the table
  --role server --listen ADDR    serves clients until SIGINT or SIGTERM
  --role client --connect ADDR   runs the experiments against such a server
  --help                   this

Experiments:
{experiments}",
        experiments = report::experiments(),
    );
}
