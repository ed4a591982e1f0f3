//! All limits of time against none, with the same clients in turn.

use crate::Result;
use crate::clients::Clients;
use crate::load::Kind;
use crate::measure::{median, possible};
use crate::report::{Findings, Unit};
use crate::serve::{all_deadlines, listen, no_deadlines, runtime};
use std::time::Duration;
use trochus::Backend;

const FEW: usize = 100;
const MANY: usize = 9000;
const ROUNDS: u32 = 7;
/// Of the rate without.
const LEAST: f64 = 0.97;

pub(crate) fn measure(backend: Backend, time: Duration, findings: &mut Findings) -> Result<()> {
    // Both servers' connections are there all the time; one's play.
    // Many take longer for a round trip each.
    for (count, slice) in [(FEW, time / 25), (possible(MANY, 2), time / 10)] {
        let runtime = runtime(backend)?;
        let with = listen(&runtime, &all_deadlines())?;
        let without = listen(&runtime, &no_deadlines())?;
        let mut clients = [
            Clients::start(Kind::Good, with.local_addr(), count)?,
            Clients::start(Kind::Good, without.local_addr(), count)?,
        ];
        let mut outcomes = [Vec::new(), Vec::new()];
        for round in 0..=ROUNDS as usize {
            // Who is first takes turns as well.
            for which in [round % 2, (round + 1) % 2] {
                let outcome = clients[which].go(slice)?;
                // The first round is to warm up.
                if round > 0 {
                    outcomes[which].push(outcome);
                }
            }
        }
        let [with, without] = outcomes;
        let rate = median(without.iter().map(|outcome| outcome.per_second));
        // Of each round, so that what changes in the course of time is in both.
        let ratio = with.iter().zip(&without).map(|(with, without)| with.per_second / without.per_second);
        findings.tell(&format!("{count} connections: rate without limits"), rate, Unit::PerSecond);
        findings.at_least(&format!("{count} connections: rate with all, to that"), median(ratio), LEAST);
        let metrics = runtime.metrics();
        findings.exactly(
            &format!("{count} connections: closed by a limit"),
            metrics.connections_over_limit,
            0,
        );
    }
    Ok(())
}
