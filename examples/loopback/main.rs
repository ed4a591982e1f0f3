//! Moves real bytes over TCP loopback, checks each of them at the far end, and compares with plain sockets.
//!
//! `cargo run --release --example loopback -- --help` tells what else it can do.

mod bandwidth;
mod baseline_pingpong;
mod baseline_rated;
mod baseline_requests;
mod baseline_stream;
mod connections;
mod descriptors;
mod echo;
mod experiment;
mod json;
mod latency;
mod load;
mod message;
mod open_loop;
mod options;
mod outcome;
mod pattern;
mod pingpong;
mod preset;
mod report;
mod requests;
mod roles;
mod rounds;
mod session;
mod stream;
mod watch;
mod wire;

use options::{Options, Role};
use report::{Progress, Row};
use std::error::Error;
use std::process::ExitCode;

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

fn main() -> ExitCode {
    let options = match Options::from_command_line() {
        Ok(Some(options)) => options,
        Ok(None) => {
            options::print_help();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("loopback: {error}; `--help` tells what is possible");
            return ExitCode::from(2);
        }
    };
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loopback: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut options: Options) -> Result<()> {
    descriptors::allow(&options)?;
    options.resolve_backends()?;
    let mut rows = Vec::new();
    let mut report = |row: Row| {
        if options.json {
            println!("{}", row.to_json());
        }
        rows.push(row);
    };
    match &options.role {
        Role::Server { listen } => return roles::serve(&options, listen),
        Role::Client { connect } => roles::client(&options, connect, &mut report)?,
        Role::Both => {
            for experiment in &options.experiments {
                (experiment.run)(&options, &mut Progress::new(experiment.name), &mut report)?;
            }
        }
    }
    if !options.json {
        let settings = match (options.preset, options.busy_poll_name()) {
            (Some(preset), _) => format!("preset {}", preset.name()),
            (None, busy_poll) => format!("busy polling {}", busy_poll.unwrap_or_default()),
        };
        println!("{} reactors, {settings}\n", options.reactors);
        print!("{}", report::table(&rows));
        print!("{}", report::connecting(&rows));
        let picture = report::picture(&rows);
        if !picture.is_empty() {
            print!("\nAs fast as plain sockets are:\n{picture}");
        }
    }
    Ok(())
}
