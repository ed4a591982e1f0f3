//! One suite for every backend: each behaviour runs on every ground, which is a backend (io_uring also with features
//! masked, as on older kernels) and a transport. After each test nothing may be left: no connection, operation, buffer,
//! timer or descriptor.
//!
//! A program of its own rather than libtest's harness: the grounds are known only at run time, and the process'
//! descriptors can be counted only while nothing else runs. It needs no file but itself, a writable `/tmp` and the
//! loopback interface, so that it can be the only program of a machine.

#[cfg(feature = "tracing")]
#[path = "../support/subscriber.rs"]
mod subscriber;

mod accounts;
mod addresses;
mod backends;
mod bridge;
mod churn;
mod connecting;
mod damage;
mod deadlines;
mod embedded;
mod endings;
mod failing;
mod files;
mod flow;
mod ground;
mod handles;
mod later;
mod limits;
mod memory;
mod names;
mod options;
mod panics;
mod pausing;
mod pool;
mod probe;
mod proxied;
mod reach;
mod relay;
mod resets;
#[cfg(target_os = "linux")]
mod seccomp;
mod servers;
mod shutdown;
mod sockets;
mod stopping;
mod stream;
mod taking;
mod truth;
mod writers;

use ground::Ground;
use libtest_mimic::{Arguments, Trial};
use std::process::ExitCode;

/// A behaviour, on one ground.
type Test = fn(&Ground);

/// The behaviours of one module, and the grounds on which they mean something.
struct Suite {
    name: &'static str,
    tests: &'static [(&'static str, Test)],
    applies: fn(&Ground) -> bool,
}

/// Names functions for a [`Suite`].
macro_rules! suite {
    ($name:literal, $applies:expr, [$($test:ident),* $(,)?]) => {
        crate::Suite { name: $name, tests: &[$((stringify!($test), $test as crate::Test)),*], applies: $applies }
    };
}
pub(crate) use suite;

fn main() -> ExitCode {
    if let Some(code) = backends::run_as_child() {
        return code;
    }
    let mut arguments = Arguments::from_args();
    // One at a time: each test counts the descriptors of the process.
    arguments.test_threads = Some(1);
    accounts::keep_quiet_about_intended_panics();
    accounts::start_watchdog();
    libtest_mimic::run(&arguments, trials()).exit_code()
}

fn trials() -> Vec<Trial> {
    let suites: Vec<Suite> = [
        stream::suites(),
        taking::suites(),
        stopping::suites(),
        flow::suites(),
        pausing::suites(),
        endings::suites(),
        resets::suites(),
        truth::suites(),
        handles::suites(),
        writers::suites(),
        reach::suites(),
        relay::suites(),
        files::suites(),
        proxied::suites(),
        later::suites(),
        addresses::suites(),
        options::suites(),
        limits::suites(),
        memory::suites(),
        names::suites(),
        panics::suites(),
        damage::suites(),
        deadlines::suites(),
        pool::suites(),
        shutdown::suites(),
        connecting::suites(),
        servers::suites(),
        sockets::suites(),
        failing::suites(),
        embedded::suites(),
        churn::suites(),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut trials = Vec::new();
    for ground in ground::all() {
        for suite in suites.iter().filter(|suite| (suite.applies)(&ground)) {
            for &(name, test) in suite.tests {
                let title = format!("{ground}::{}::{name}", suite.name);
                trials.push(trial(title, move || test(&ground)));
            }
        }
    }
    for &(name, test) in backends::TESTS {
        trials.push(trial(format!("backends::{name}"), test));
    }
    trials
}

fn trial(title: String, test: impl FnOnce() + Send + 'static) -> Trial {
    let shown = title.clone();
    Trial::test(title, move || {
        accounts::audited(&shown, test);
        Ok(())
    })
}
