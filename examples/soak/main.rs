//! Everything at once, for as long as you like: clients of all kinds, faults, restarts and hand-overs, and everything accounted for.
//!
//! `cargo run --release --example soak -- --help` tells what it does.

mod calls;
mod ground;
mod ledger;
mod measure;
mod options;
mod proxy;
mod report;
mod rough;
mod watchdog;
mod wire;

use ground::Ground;
use measure::Measure;
use options::Options;
use report::{Report, Row};
use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use watchdog::Watchdog;

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

fn main() -> ExitCode {
    let options = match Options::from_command_line() {
        Ok(Some(options)) => options,
        Ok(None) => {
            options::print_help();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("soak: {error}; `--help` tells what is possible");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Descriptors that are no idle connection's.
const OTHERS: u64 = 1000;

/// The share of the time that is spent before memory is looked at for the first time, and the longest. What is shorter does not
/// tell what pools and the allocator keep: with two cores that grows for half a minute, and then stays where it is.
const WARM_UP: (f64, Duration) = (1.0 / 3.0, Duration::from_secs(40));

/// Whether all of it held.
fn run(options: &Options) -> Result<bool> {
    let watchdog = Watchdog::start(options.seed);
    // Both ends of each connection are here.
    let idle = measure::most_descriptors().saturating_sub(OTHERS) / (2 * options.backends.len() as u64);
    let grounds = options
        .backends
        .iter()
        .map(|backend| Ok(Arc::new(Ground::new(*backend, options, idle as usize)?)))
        .collect::<Result<Vec<_>>>()?;
    let (share, longest) = WARM_UP;
    let warm_up = options.time.mul_f64(share).min(longest);
    let begin = Instant::now();
    let mut wrong = cycle("warming up", &grounds, options, warm_up, options.seed, &watchdog);
    let before = Measure::now();
    let time = options.time - warm_up;
    wrong.extend(cycle("running", &grounds, options, time, options.seed.wrapping_add(1), &watchdog));
    let after = Measure::now();
    eprintln!();
    wrong.extend(after.differs_from(&before, warm_up == longest));
    let told = grounds.iter().flat_map(|ground| ground.ledger.failures());
    let failures: Vec<String> = told.chain(wrong).collect();
    let report = Report {
        passed: failures.is_empty(),
        seed: options.seed,
        seconds: begin.elapsed().as_secs_f64(),
        memory_compared: warm_up == longest,
        before,
        after,
        backends: grounds.iter().map(|ground| Row::of(ground)).collect(),
        failures,
    };
    watchdog.phase("the end", options.patience);
    drop(grounds);
    if options.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", report::table(&report));
    }
    for failure in &report.failures {
        eprintln!("soak: {failure}");
    }
    if !report.passed {
        eprintln!("soak: failed; to do the same again: --seed {}", options.seed);
    }
    Ok(report.passed)
}

/// All grounds at the same time, for so long, until nothing is left of it. What is wrong then.
fn cycle(
    phase: &str,
    grounds: &[Arc<Ground>],
    options: &Options,
    time: Duration,
    seed: u64,
    watchdog: &Watchdog,
) -> Vec<String> {
    watchdog.phase(phase, time + options.patience);
    let begin = Instant::now();
    let mut wrong = Vec::new();
    thread::scope(|scope| {
        let running: Vec<_> =
            grounds.iter().map(|ground| (ground, scope.spawn(move || ground.run(seed, watchdog)))).collect();
        let mut next = Duration::ZERO;
        while begin.elapsed() < time && !running.iter().any(|(_, running)| running.is_finished()) {
            if begin.elapsed() >= next {
                report::progress(phase, begin.elapsed(), grounds);
                next += Duration::from_secs(1);
            }
            thread::sleep(Duration::from_millis(10));
        }
        grounds.iter().for_each(|ground| ground.stop());
        watchdog.phase(&format!("the end of {phase}"), options.patience);
        for (ground, running) in running {
            match running.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => wrong.push(format!("{}: {error}", ground.backend)),
                Err(_) => wrong.push(format!("{}: a panic", ground.backend)),
            }
        }
    });
    watchdog.phase(&format!("coming to rest behind {phase}"), options.patience);
    wrong.extend(grounds.iter().flat_map(|ground| ground.settle()));
    wrong
}
