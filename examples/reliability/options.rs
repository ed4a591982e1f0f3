//! The command line.

use crate::load::{Job, Kind};
use crate::{ROWS, Result};
use lexopt::Arg::{Long, Short, Value};
use lexopt::{Parser, ValueExt};
use std::time::Duration;
use trochus::Backend;

#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) rows: Vec<String>,
    pub(crate) backends: Vec<Backend>,
    pub(crate) time: Duration,
    pub(crate) json: bool,
}

/// What the process is there for.
pub(crate) enum Work {
    Help,
    Measure(Options),
    /// To be the clients of another one.
    Load(Job),
}

pub(crate) fn from_command_line() -> Result<Work> {
    let mut options = Options {
        rows: Vec::new(),
        backends: Backend::available(),
        time: Duration::from_secs(5),
        json: false,
    };
    let mut parser = Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("row") => {
                let name = parser.value()?.string()?;
                if !ROWS.iter().any(|(row, _)| *row == name) {
                    return Err(format!("there is no row `{name}`").into());
                }
                options.rows.push(name);
            }
            Long("backend") => {
                let name = parser.value()?.string()?;
                options.backends = if name == "all" { Backend::available() } else { vec![name.parse()?] };
            }
            Long("seconds") => options.time = time(parser.value()?.parse()?)?,
            Long("json") => options.json = true,
            // For this program itself.
            Long("load") => {
                let kind: Kind = parser.value()?.parse()?;
                let (target, count) = (parser.value()?.parse()?, parser.value()?.parse()?);
                return Ok(Work::Load(Job { kind, target, count }));
            }
            Long("help") | Short('h') => return Ok(Work::Help),
            Long(_) | Short(_) | Value(_) => return Err(argument.unexpected().into()),
        }
    }
    if options.backends.contains(&Backend::Auto) {
        return Err("--backend is io_uring, fallback or all".into());
    }
    if options.rows.is_empty() {
        options.rows = ROWS.iter().map(|(name, _)| (*name).to_owned()).collect();
    }
    Ok(Work::Measure(options))
}

fn time(seconds: f64) -> Result<Duration> {
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if time > Duration::ZERO && time < Duration::from_secs(3600) => Ok(time),
        _ => Err(format!("--seconds must be more than 0 and less than 3600, not {seconds}").into()),
    }
}

pub(crate) fn print_help() {
    println!(
        "\
What clients that are not as they should be cost a server and its other clients, on loopback. Each row says what was
measured, its limit, and whether that was held. Bounds in bytes and numbers that have to add up decide over the exit
status: 0 only if all were held. Ratios of rates are told, and decide over nothing.

reliability [OPTIONS]

  --row NAME       one of the rows below; may be repeated (all)
  --backend NAME   io_uring, fallback or all, one after the other (all)
  --seconds S      how long to measure, for each row and backend, fractions allowed (5)
  --json           one line for each row and backend, instead of the table
  --help           this

  deadlines        all limits of time against none: rates over 100 connections, and over 9000
  greedy           1000 clients that write and never read, among 100 good ones: memory, rates
  slowloris        5000 clients that send a byte a second of a message that never ends, among 100 good ones
  in_order         65 000 responses of 1 MiB behind a request that is not answered: memory
  in_order_late    512 of them that another thread sends once all requests have been taken
  idle             10 000 clients that do nothing, beside 100 that do: memory of each, rates
  churn            connections for one request each, against a bare loop of blocking sockets"
    );
}
