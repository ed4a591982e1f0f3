//! Clients that do nothing, with all limits of time.

use crate::Result;
use crate::clients::Clients;
use crate::load::Kind;
use crate::measure::{possible, rate, resident, slices, until_connected};
use crate::report::{Findings, Unit};
use crate::serve::{all_deadlines, listen, runtime};
use std::time::Duration;
use trochus::Backend;

const IDLE: usize = 10_000;
const GOOD: usize = 100;
const ROUNDS: u32 = 5;
const LEAST: f64 = 0.95;
/// What one may cost.
const BYTES: u64 = 1024;

pub(crate) fn measure(backend: Backend, time: Duration, findings: &mut Findings) -> Result<()> {
    let count = possible(IDLE, 1);
    let runtime = runtime(backend)?;
    let server = listen(&runtime, &all_deadlines())?;
    // What all connections share has been used before it counts.
    let mut good = Clients::start(Kind::Good, server.local_addr(), GOOD)?;
    let slice = time / 3;
    slices(&mut good, 1, slice / 4)?;
    let mut without = slices(&mut good, ROUNDS, slice)?;
    let before = resident();
    let idle = Clients::start(Kind::Good, server.local_addr(), count)?;
    until_connected(&runtime, GOOD + count)?;
    if let (Some(before), Some(after)) = (before, resident()) {
        let each = after.saturating_sub(before) / count as u64;
        findings.bytes(&format!("resident for each of {count}"), each, BYTES);
    }
    let with = slices(&mut good, ROUNDS, slice)?;
    findings.exactly("still there", runtime.metrics().connections(), (GOOD + count) as u64);
    drop(idle);
    until_connected(&runtime, GOOD)?;
    without.extend(slices(&mut good, ROUNDS, slice)?);
    let alone = rate(&without);
    findings.tell("rate of 100 others without", alone, Unit::PerSecond);
    findings.at_least("rate with, to that", rate(&with) / alone, LEAST);
    Ok(())
}
