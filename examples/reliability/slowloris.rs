//! Clients that never come to the end of a message.

use crate::clients::Clients;
use crate::load::Kind;
use crate::measure::{possible, rate, slices, until};
use crate::report::{Findings, Unit};
use crate::serve::{listen, runtime};
use crate::{PATIENCE, Result};
use std::time::Duration;
use trochus::Backend;
use trochus::net::{ListenOptions, StreamOptions};

const SLOW: usize = 5000;
const GOOD: usize = 100;
const ROUNDS: u32 = 5;
const LIMIT: Duration = Duration::from_secs(5);
const LEAST: f64 = 0.9;

pub(crate) fn measure(backend: Backend, time: Duration, findings: &mut Findings) -> Result<()> {
    let count = possible(SLOW, 1);
    let runtime = runtime(backend)?;
    let options = ListenOptions::new().stream(StreamOptions::new().message_timeout(LIMIT));
    let server = listen(&runtime, &options)?;
    let mut good = Clients::start(Kind::Good, server.local_addr(), GOOD)?;
    // Less than the limit, so that they are there all the time.
    let slice = (time / 3).min(LIMIT / 2);
    slices(&mut good, 1, slice / 4)?;
    let mut without = slices(&mut good, ROUNDS, slice)?;
    let mut slow = Clients::start(Kind::Slow, server.local_addr(), count)?;
    slow.begin()?;
    let with = slices(&mut good, ROUNDS, slice)?;
    let there = runtime.metrics().connections();
    let closed = || runtime.metrics().message_timeouts;
    until(PATIENCE / 2, || closed() >= count as u64 && runtime.metrics().connections() == GOOD as u64);
    without.extend(slices(&mut good, ROUNDS, slice)?);
    findings.exactly("slow ones there meanwhile", there - GOOD as u64, count as u64);
    findings.exactly("closed for the limit of a message", closed(), count as u64);
    findings.exactly("connections left", runtime.metrics().connections(), GOOD as u64);
    let alone = rate(&without);
    findings.tell("rate of good ones without", alone, Unit::PerSecond);
    findings.at_least("rate with, to that", rate(&with) / alone, LEAST);
    Ok(())
}
