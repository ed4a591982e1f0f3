//! Nothing breaks it: what greedy, slow, idle and hurried clients cost a server, against what docs/limits.md promises.
//!
//! `cargo run --release --example reliability -- --help` tells what it does.

mod churn;
mod clients;
mod deadlines;
mod greedy;
mod idle;
mod in_order;
mod load;
mod measure;
mod options;
mod report;
mod serve;
mod slowloris;

use options::{Options, Work};
use report::{Findings, Row};
use std::error::Error;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;
use trochus::Backend;

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// Measures one row on one backend for about so long.
type Measure = fn(Backend, Duration, &mut Findings) -> Result<()>;

/// All rows, as they are printed.
const ROWS: [(&str, Measure); 7] = [
    ("deadlines", deadlines::measure),
    ("greedy", greedy::measure),
    ("slowloris", slowloris::measure),
    ("in_order", in_order::measure),
    ("in_order_late", in_order::measure_late),
    ("idle", idle::measure),
    ("churn", churn::measure),
];

/// What a row may take longer than it is to measure, before it counts as a hang.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let work = match options::from_command_line() {
        Ok(work) => work,
        Err(error) => {
            eprintln!("reliability: {error}; `--help` tells what is possible");
            return ExitCode::from(2);
        }
    };
    let result = match work {
        Work::Help => {
            options::print_help();
            Ok(true)
        }
        Work::Load(job) => load::run(&job).map(|()| true),
        Work::Measure(options) => run(&options),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("reliability: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all bounds held.
fn run(options: &Options) -> Result<bool> {
    measure::raise_descriptors();
    let pairs: Vec<(&str, Backend)> = options
        .rows
        .iter()
        .flat_map(|row| options.backends.iter().map(|backend| (row.as_str(), *backend)))
        .collect();
    let (mut rows, mut held) = (Vec::new(), true);
    for (name, backend) in &pairs {
        eprintln!("{name} on {backend}");
        let row = match pairs.len() {
            1 => alone(name, *backend, options.time),
            // A process each: memory that one row gave back would be used again by the next, and not show.
            _ => apart(name, *backend, options.time),
        };
        let row = match row {
            Ok(row) => row,
            Err(error) => {
                eprintln!("reliability: {error}");
                held = false;
                continue;
            }
        };
        if !row.held {
            eprintln!("reliability: {name} on {backend}: a bound was not held");
            held = false;
        }
        if options.json {
            println!("{}", serde_json::to_string(&row)?);
        }
        rows.push(row);
    }
    if !options.json {
        print!("{}", report::table(&rows));
    }
    Ok(held)
}

/// In this process.
fn alone(name: &str, backend: Backend, time: Duration) -> Result<Row> {
    let (_, measure) = ROWS.iter().find(|(row, _)| *row == name).ok_or("there is no such row")?;
    let hang = 10 * time + PATIENCE;
    thread::spawn(move || {
        thread::sleep(hang);
        eprintln!("reliability: takes longer than {hang:?}");
        // Clients end with the pipes that end here.
        std::process::exit(1);
    });
    let mut findings = Findings::default();
    measure(backend, time, &mut findings)?;
    Ok(Row::new(name, backend, findings))
}

/// In a process of its own, which is this program once more.
fn apart(name: &str, backend: Backend, time: Duration) -> Result<Row> {
    let mut command = Command::new(std::env::current_exe()?);
    let (backend, time) = (backend.to_string(), time.as_secs_f64().to_string());
    command.args(["--row", name, "--backend", &backend, "--seconds", &time, "--json"]);
    let output = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).output()?;
    serde_json::from_slice(&output.stdout).map_err(|_| {
        let errors = String::from_utf8_lossy(&output.stderr);
        format!("{name} on {backend} could not be measured: {}", errors.trim()).into()
    })
}
