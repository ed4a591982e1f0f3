//! Clients that write requests and never read what comes back.

use crate::Result;
use crate::clients::Clients;
use crate::load::Kind;
use crate::measure::{as_before, p99_us, rate, resident, slices, until, until_connected, watching};
use crate::report::{Findings, Unit};
use crate::serve::{FRAME, listen};
use std::error::Error;
use std::thread;
use std::time::Duration;
use trochus::config::{
    POOL_BUFFER_BYTES, POOL_BUFFERS, SMALL_BUFFER_BYTES, SMALL_BUFFERS, SPARE_BYTES, TURN_BYTES,
};
use trochus::net::{ListenOptions, StreamOptions};
use trochus::{Backend, Runtime};

const GREEDY: usize = 1000;
const GOOD: usize = 100;
const ROUNDS: u32 = 5;
/// Of the rate without the greedy ones, and of the slowest in a hundred.
const LEAST: f64 = 0.9;
const SLOWEST: f64 = 2.0;
/// What the allocator may keep beside what is asked of it.
const ALLOCATOR: usize = 64 << 20;

/// The system's buffers of a connection. Unless they are set, they grow to megabytes each, and a thousand of them to what the
/// system allows for all sockets of the machine, which makes everybody slow and is not what this is about.
const SYSTEM: usize = 128 << 10;

/// How long it may take until the greedy ones can write no more, and until memory is back.
const FULL: Duration = Duration::from_secs(5);
const BACK: Duration = Duration::from_secs(5);

pub(crate) fn measure(backend: Backend, time: Duration, findings: &mut Findings) -> Result<()> {
    // As it is by default, and as many reactors as cores.
    let runtime = Runtime::builder().backend(backend).build()?;
    let stream = StreamOptions::new().receive_buffer(SYSTEM).send_buffer(SYSTEM);
    let server = listen(&runtime, &ListenOptions::new().stream(stream))?;
    let mut good = Clients::start(Kind::Good, server.local_addr(), GOOD)?;
    let slice = time / 3;
    slices(&mut good, 1, slice / 4)?;
    let mut without = slices(&mut good, ROUNDS, slice)?;
    let before = resident();
    let (measured, peak) = watching(&runtime, || {
        let mut greedy = Clients::start(Kind::Greedy, server.local_addr(), GREEDY)?;
        greedy.begin()?;
        let filling = good.go(slice / 2)?;
        is_full(&runtime);
        let there = runtime.metrics().connections();
        Ok::<_, Box<dyn Error + Send + Sync>>((filling, slices(&mut good, ROUNDS, slice)?, there))
    });
    let (filling, with, there) = measured?;
    let held = are_gone(&runtime)?;
    if let Some(before) = before {
        until(BACK, || resident().is_some_and(|now| now <= as_before(before)));
    }
    let after = resident();
    without.extend(slices(&mut good, ROUNDS, slice)?);
    let (again, second) = watching(&runtime, || {
        let mut greedy = Clients::start(Kind::Greedy, server.local_addr(), GREEDY)?;
        greedy.begin()?;
        is_full(&runtime);
        Ok::<_, Box<dyn Error + Send + Sync>>(())
    });
    again?;
    let limit = runtime.memory_budget().limit;
    let turn = TURN_BYTES * runtime.reactors();
    findings.bytes("held at most", peak.held.max(second.held), (limit + turn) as u64);
    findings.exactly("held in the end", held + are_gone(&runtime)?, 0);
    if let (Some(before), Some(after)) = (before, after) {
        let large = usize::from(POOL_BUFFERS) * POOL_BUFFER_BYTES;
        let small = usize::from(SMALL_BUFFERS) * SMALL_BUFFER_BYTES;
        let beside = (large + small + SPARE_BYTES) * runtime.reactors() + ALLOCATOR;
        for (name, peak) in [("", peak), (", the second time", second)] {
            let grown = peak.resident.saturating_sub(before);
            findings.bytes(&format!("resident above the start{name}"), grown, (limit + turn + beside) as u64);
        }
        findings.bytes("resident in the end", after, as_before(before));
    }
    let metrics = runtime.metrics();
    findings.tell("greedy ones that were kept", there as f64 - GOOD as f64, Unit::Number);
    findings.tell("closed for the budget, both times", metrics.memory_closed as f64, Unit::Number);
    findings.tell("requests of greedy ones", metrics.received_bytes as f64 / FRAME as f64, Unit::Number);
    let alone = rate(&without);
    findings.tell("rate of good ones without", alone, Unit::PerSecond);
    findings.at_least("rate with, to that", rate(&with) / alone, LEAST);
    findings.tell("the same while they write, to that", filling.per_second / alone, Unit::Ratio);
    let slowest = p99_us(&without);
    findings.tell("p99 of good ones without", slowest, Unit::Microseconds);
    findings.times_at_most("p99 with, to that", p99_us(&with) / slowest, SLOWEST);
    Ok(())
}

/// Waits until nothing is left of them. What is held then.
fn are_gone(runtime: &Runtime) -> Result<u64> {
    until_connected(runtime, GOOD)?;
    until(BACK, || runtime.memory_budget().held == 0);
    Ok(runtime.memory_budget().held as u64)
}

/// Waits until no more comes.
fn is_full(runtime: &Runtime) {
    let mut received = 0;
    until(FULL, || {
        thread::sleep(Duration::from_millis(200));
        let before = std::mem::replace(&mut received, runtime.metrics().received_bytes);
        before == received
    });
}
