//! Good clients: every call is verified.

use crate::Result;
use crate::ground::{Frames, Job, SOON, frames};
use crate::ledger::Kind;
use fastrand::Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use trochus::net::StreamOptions;
use trochus::rpc::{Client, ClientBuilder, ClientOptions, Reconnect};

/// How long a call may take through a network that may swallow it.
const SHORT: Duration = Duration::from_millis(300);

/// Responses of this many bytes at most, as a rule.
const RESPONSE: u32 = 2000;

fn builder() -> ClientBuilder<Frames> {
    let policy = Reconnect::forever().first_delay(Duration::from_millis(1));
    let stream = StreamOptions::new().close_timeout(Duration::from_secs(1));
    let options = ClientOptions::new().stream(stream).close_timeout(Duration::from_secs(2));
    Client::builder(frames()).options(options.reconnect(policy.longest_delay(Duration::from_millis(20))))
}

/// Some calls at once, and what becomes of them: how many were answered.
fn batch(job: &Job<'_>, client: &Client<Frames>, random: &mut Rng, timeout: Duration) -> usize {
    let ledger = &job.ground.ledger;
    let calls: Vec<_> = (0..random.usize(1..64))
        .map(|_| {
            let largest = if random.u32(0..50) == 0 { 60_000 } else { RESPONSE };
            let asked = ledger.ask(job.kind, random.u32(0..largest));
            let request = bytes::Bytes::copy_from_slice(&asked.to_bytes());
            (asked, client.call(request).timeout(timeout))
        })
        .collect();
    let mut answered = 0;
    for (asked, call) in calls {
        let outcome = call.wait();
        answered += usize::from(outcome.is_ok());
        ledger.settle(job.kind, asked, outcome.as_deref());
    }
    answered
}

/// Nothing stands between this one and servers that stop in good order: nothing may be lost.
pub(crate) fn good(job: &Job<'_>, random: &mut Rng) -> Result<()> {
    let client = builder().connect_lazy(&job.ground.clients, job.ground.calls)?;
    job.ground.ledger.began(job.kind);
    while job.ground.goes_on() {
        job.watched.doing("calling");
        batch(job, &client, random, SOON);
    }
    job.watched.doing("closing");
    client.close()?;
    let sums = job.ground.ledger.sums(job.kind);
    if sums.maybe + sums.not_sent > 0 {
        return Err(format!("{} calls were lost, {} not sent", sums.maybe, sums.not_sent).into());
    }
    Ok(())
}

/// Behind the proxy everything may be lost, if it is told.
pub(crate) fn proxied(job: &Job<'_>, random: &mut Rng) -> Result<()> {
    while job.ground.goes_on() {
        job.ground.ledger.began(job.kind);
        let client = builder().connect_lazy(&job.ground.clients, job.proxy.address().to_string())?;
        for _ in 0..random.usize(1..20) {
            job.watched.doing("calling");
            if batch(job, &client, random, SHORT) == 0 {
                // Who is stalled or in a black hole hears of it by nothing else.
                job.proxy.reset_all();
            }
            if !job.ground.goes_on() {
                break;
            }
        }
        job.watched.doing("closing");
        // How it ends was told by the calls.
        let _ = client.close();
    }
    Ok(())
}

/// Pushes; each is answered, or counted as not.
pub(crate) fn pushing(job: &Job<'_>, random: &mut Rng) -> Result<()> {
    while job.ground.goes_on() {
        let ledger = &job.ground.ledger;
        ledger.began(job.kind);
        let answered = Arc::new(AtomicU64::new(0));
        let theirs = answered.clone();
        let client = builder()
            .on_response(move |_: &[u8]| _ = theirs.fetch_add(1, SeqCst))
            .connect_lazy(&job.ground.clients, job.ground.calls)?;
        job.watched.doing("pushing");
        let mut pushed = 0;
        for _ in 0..random.usize(1..3000) {
            let asked = ledger.ask(job.kind, random.u32(0..200));
            client
                .push(bytes::Bytes::copy_from_slice(&asked.to_bytes()))
                .map_err(|_| "a push was refused")?;
            pushed += 1;
        }
        job.watched.doing("closing");
        let end = client.close();
        let (unanswered, unsent) =
            end.as_ref().map_or_else(|end| (end.unanswered(), end.unsent() as u64), |()| (0, 0));
        let answered = answered.load(SeqCst);
        ledger.answered(Kind::Pushing, answered);
        ledger.maybe(Kind::Pushing, unanswered + unsent);
        if answered + unanswered + unsent != pushed {
            return Err(format!("{pushed} were pushed, {answered} answered: {end:?}").into());
        }
    }
    Ok(())
}
