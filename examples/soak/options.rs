//! The command line.

use crate::Result;
use lexopt::Arg::{Long, Short, Value};
use lexopt::{Parser, ValueExt};
use std::time::Duration;
use trochus::Backend;

#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) time: Duration,
    pub(crate) seed: u64,
    pub(crate) backends: Vec<Backend>,
    /// Connections of each backend that do nothing.
    pub(crate) idle: usize,
    /// What anything may take longer than it should.
    pub(crate) patience: Duration,
    pub(crate) json: bool,
}

impl Options {
    /// Reads the command line; `None` if it asks for help.
    pub(crate) fn from_command_line() -> Result<Option<Self>> {
        let mut options = Options {
            time: Duration::from_secs(120),
            seed: fastrand::u64(..1 << 32),
            backends: Backend::available(),
            idle: 2000,
            patience: Duration::from_secs(60),
            json: false,
        };
        let mut parser = Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Long("minutes") => options.time = time("minutes", 60.0, parser.value()?.parse()?)?,
                Long("seed") => options.seed = parser.value()?.parse()?,
                Long("backend") => {
                    let name = parser.value()?.string()?;
                    options.backends = if name == "all" { Backend::available() } else { vec![name.parse()?] };
                }
                Long("idle") => options.idle = parser.value()?.parse()?,
                Long("patience") => options.patience = time("patience", 1.0, parser.value()?.parse()?)?,
                Long("json") => options.json = true,
                Long("help") | Short('h') => return Ok(None),
                Long(_) | Short(_) | Value(_) => return Err(argument.unexpected().into()),
            }
        }
        if options.backends.contains(&Backend::Auto) {
            return Err("--backend is io_uring, fallback or all".into());
        }
        Ok(Some(options))
    }
}

fn time(what: &str, seconds: f64, value: f64) -> Result<Duration> {
    match Duration::try_from_secs_f64(value * seconds) {
        Ok(time) if time > Duration::ZERO && time < Duration::from_secs(1 << 24) => Ok(time),
        _ => Err(format!("--{what} must be more than 0, not {value}").into()),
    }
}

pub(crate) fn print_help() {
    println!(
        "\
Servers under clients of all kinds: good ones whose every call is verified, slow, greedy, malformed, half-open and
vanishing ones, thousands that do nothing, and good ones behind a proxy that delays, cuts, resets and stalls; while
servers are stopped and started again, and hand over their sockets. Every call has to be answered rightly or told
rightly why not, and in the end everything has to be as it was: connections, buffers, timers, descriptors, memory.
Exit status 0 only if all of it held.

soak [OPTIONS]

  --minutes M      how long, fractions allowed (2); memory is compared if it is at least one
  --seed S         decides what the clients, the proxy and the conductor do; a failure names its own (random)
  --backend NAME   io_uring, fallback or all, which share the machine (all)
  --idle N         connections that do nothing, for each backend, as far as descriptors allow (2000)
  --patience S     seconds that anything may take longer than it should, before it counts as a hang (60)
  --json           one line with what was counted, instead of the table
  --help           this"
    );
}
