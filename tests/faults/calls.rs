//! Calls through the proxy: each is answered rightly or told rightly why not.

use crate::proxy::{Fate, Faults, Plan};
use crate::stage::{Stage, Sums, persistent, serve};
use crate::support::{PATIENCE, eventually, on_each_backend, plain};
use std::thread;
use std::time::Duration;
use trochus::Runtime;
use trochus::codec::{Int32, Matching, Protocol};
use trochus::rpc::ClientOptions;

/// For calls that will not be answered.
const SHORT: Duration = Duration::from_millis(150);

/// The first connection has this before it, and the others nothing.
fn first(plan: Plan) -> impl FnMut(u64) -> Plan + Send + 'static {
    move |number| if number == 0 { plan.clone() } else { Plan::default() }
}

fn forth(faults: Faults) -> Plan {
    Plan { forth: faults, back: Faults::default() }
}

fn back(faults: Faults) -> Plan {
    Plan { forth: Faults::default(), back: faults }
}

fn a_slow_network<P>(runtime: &Runtime, protocol: &P, plan: &Plan)
where
    P: Protocol<RequestCodec = Int32, ResponseCodec = Int32> + Sync,
    P::Correlation: Matching,
{
    let theirs = plan.clone();
    let stage = Stage::new(runtime, protocol.clone(), &ClientOptions::new(), move |_| theirs.clone());
    for n in 0..1000 {
        stage.push(10_000 + n);
    }
    let sums = stage.call(0..500, PATIENCE);
    assert_eq!(sums.answered, 500, "{plan:?}");
    let (sums, counts) = stage.finish(runtime);
    assert_eq!((sums.executed, counts.connections), (500, 1), "{plan:?}");
}

#[test]
fn a_slow_network_costs_time_and_nothing_else() {
    on_each_backend(|runtime| {
        let slow = Faults { delay: Duration::from_millis(10), ..Faults::default() };
        let throttled = Faults { rate: Some(200 << 10), ..Faults::default() };
        let single = Faults { chunk: Some(1), ..Faults::default() };
        let crumbs = Faults { chunk: Some(7), delay: Duration::from_millis(1), ..Faults::default() };
        let gathered = Faults { coalesce: Duration::from_millis(5), ..Faults::default() };
        for faults in [slow, throttled, single, crumbs, gathered] {
            for plan in [forth(faults.clone()), back(faults.clone()), Plan::both(faults)] {
                a_slow_network(runtime, &Int32, &plan);
                a_slow_network(runtime, &Int32.by_id(), &plan);
            }
        }
    });
}

/// Calls over a connection that ends in the middle, and then over another one.
fn an_end<P>(runtime: &Runtime, protocol: &P, plan: &Plan)
where
    P: Protocol<RequestCodec = Int32, ResponseCodec = Int32> + Sync,
    P::Correlation: Matching,
{
    let stage = Stage::new(runtime, protocol.clone(), &persistent(), first(plan.clone()));
    let sums = stage.call(0..200, PATIENCE);
    // What was in flight is lost, and nothing else can be.
    assert!(sums.lost > 0 && sums.answered + sums.lost == 200, "{plan:?}: {sums:?}");
    eventually("there is another connection", || stage.proxy.counts().connections == 2);
    let sums = stage.call(200..400, PATIENCE);
    assert_eq!(sums.answered, 200, "{plan:?}: {sums:?}");
    let (sums, counts) = stage.finish(runtime);
    assert_eq!((counts.connections, counts.resets + counts.cuts), (2, 1), "{plan:?}");
    assert!(sums.executed >= sums.answered);
}

#[test]
fn an_end_in_the_middle_is_told_of_every_call_in_flight() {
    on_each_backend(|runtime| {
        for fate in [Fate::Reset, Fate::Cut] {
            // At the end of a frame, and within one.
            for bytes in [4, 12, 13, 101, 403] {
                for plan in [forth(Faults::fated(bytes, fate)), back(Faults::fated(bytes, fate))] {
                    an_end(runtime, &Int32, &plan);
                    an_end(runtime, &Int32.by_id(), &plan);
                }
            }
        }
    });
}

#[test]
fn without_another_connection_what_comes_later_is_not_sent() {
    on_each_backend(|runtime| {
        for fate in [Fate::Reset, Fate::Cut] {
            let options = ClientOptions::new().calls_in_flight(10);
            let plan = back(Faults::fated(18, fate));
            let stage = Stage::new(runtime, Int32, &options, move |_| plan.clone());
            let sums = stage.call(0..100, PATIENCE);
            // Four answers fit, and with each of them another call may be sent.
            assert!(sums.answered <= 4 && (1..=10).contains(&sums.lost), "{sums:?}");
            assert_eq!(sums.answered + sums.lost + sums.not_sent, 100, "{sums:?}");
            eventually("the client ends", || stage.client.is_closed());
            let sums = stage.call(100..120, PATIENCE);
            assert_eq!(sums, Sums { not_sent: 20, ..Sums::default() });
            let (sums, _) = stage.finish(runtime);
            assert!(sums.executed <= sums.answered + sums.lost, "{sums:?}");
        }
    });
}

/// What a server promises about its ends holds through a network that tells no lies, wherever requests are cut.
#[test]
fn requests_that_were_cut_off_are_made_again_once() {
    on_each_backend(|runtime| {
        for bytes in [0, 4, 12, 13, 101, 403] {
            let options = persistent().peer_drains_cleanly(true);
            let plan = first(forth(Faults::fated(bytes, Fate::Cut)));
            let stage = Stage::new(runtime, Int32, &options, plan);
            let sums = stage.call(0..200, PATIENCE);
            assert_eq!(sums.answered, 200, "{bytes}: {sums:?}");
            let (sums, counts) = stage.finish(runtime);
            assert_eq!((sums.executed, counts.connections), (200, 2), "{bytes}");
        }
    });
}

#[test]
fn a_black_hole_executes_nothing_and_ends_at_the_deadline() {
    on_each_backend(|runtime| {
        let options = persistent().calls_in_flight(8).close_timeout(SHORT);
        let stage = Stage::new(runtime, Int32.by_id(), &options, |_| Plan::black_hole());
        let sums = stage.call(0..20, SHORT);
        // Where one has timed out, by id another one may be sent.
        assert!(sums.timed_out >= 8 && sums.timed_out + sums.timed_out_unsent == 20, "{sums:?}");
        let (sums, counts) = stage.finish(runtime);
        assert_eq!((sums.executed, counts.forth_passed, counts.holes), (0, 0, 2));
    });
}

fn a_stall<P>(runtime: &Runtime, protocol: &P, plan: &Plan)
where
    P: Protocol<RequestCodec = Int32, ResponseCodec = Int32> + Sync,
    P::Correlation: Matching,
{
    let stage = Stage::new(runtime, protocol.clone(), &persistent(), first(plan.clone()));
    let sums = stage.call(0..100, SHORT);
    assert!(sums.timed_out > 0 && sums.answered + sums.timed_out == 100, "{plan:?}: {sums:?}");
    // Nothing tells the client; only the end of the connection does.
    stage.proxy.reset_all();
    eventually("there is another connection", || stage.proxy.counts().connections == 2);
    let sums = stage.call(100..200, PATIENCE);
    assert_eq!(sums.answered, 100, "{plan:?}: {sums:?}");
    let (_, counts) = stage.finish(runtime);
    assert_eq!((counts.stalls, counts.connections), (1, 2), "{plan:?}");
}

#[test]
fn a_stall_in_one_direction_holds_up_calls_until_their_deadline() {
    on_each_backend(|runtime| {
        for bytes in [0, 13, 101] {
            for plan in [forth(Faults::fated(bytes, Fate::Stall)), back(Faults::fated(bytes, Fate::Stall))] {
                a_stall(runtime, &Int32, &plan);
                a_stall(runtime, &Int32.by_id(), &plan);
            }
        }
    });
}

/// Servers that take turns behind the proxy, and calls that go on meanwhile.
fn restarts<P>(runtime: &Runtime, protocol: &P, promised: bool, plan: &Plan)
where
    P: Protocol<RequestCodec = Int32, ResponseCodec = Int32> + Sync,
    P::Correlation: Matching,
{
    let (options, theirs) = (persistent().peer_drains_cleanly(promised), plan.clone());
    let mut stage = Stage::new(runtime, protocol.clone(), &options, move |_| theirs.clone());
    for round in 0..4 {
        let server = stage.server.take().unwrap();
        let next = serve(runtime, protocol.clone(), stage.ledger());
        let drained = thread::scope(|scope| {
            let stage = &stage;
            let calls = scope.spawn(move || stage.call(round * 500..round * 500 + 500, PATIENCE));
            eventually("some are taken", || server.metrics().requests > 100);
            stage.proxy.set_upstream(plain(next.local_addr()));
            let drained = server.stop(PATIENCE).unwrap();
            let sums = calls.join().unwrap();
            assert_eq!(sums.answered, 500, "{plan:?}: {sums:?}");
            drained
        });
        assert_eq!(drained.cut_off, 0);
        stage.server = Some(next);
    }
    let (sums, counts) = stage.finish(runtime);
    assert!(sums.executed == 4 * 500 && counts.connections >= 4, "{plan:?}: {sums:?}, {counts:?}");
}

#[test]
fn nothing_is_lost_over_restarts_behind_a_slow_network() {
    on_each_backend(|runtime| {
        let crumbs = Faults { chunk: Some(5), ..Faults::default() };
        let slow = Faults { delay: Duration::from_millis(3), ..Faults::default() };
        let throttled = Faults { rate: Some(100 << 10), ..Faults::default() };
        for faults in [crumbs, slow, throttled] {
            // By id the server says goodbye, and nobody has to promise anything.
            restarts(runtime, &Int32, true, &Plan::both(faults.clone()));
            restarts(runtime, &Int32.by_id(), false, &Plan::both(faults));
        }
    });
}

fn a_mixture<P>(runtime: &Runtime, protocol: &P, seed: u64) -> Sums
where
    P: Protocol<RequestCodec = Int32, ResponseCodec = Int32> + Sync,
    P::Correlation: Matching,
{
    const THREADS: i32 = 3;
    const ROUNDS: i32 = 12;
    let options = persistent().calls_in_flight(64).close_timeout(Duration::from_secs(1));
    let plan = move |number| Plan::random(seed, number, 2000);
    let stage = Stage::new(runtime, protocol.clone(), &options, plan);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let stage = &stage;
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed ^ thread as u64);
                for round in 0..ROUNDS {
                    let start = (thread * ROUNDS + round) * 200;
                    for n in 0..random.i32(0..50) {
                        stage.push(40_000 + start + n);
                    }
                    let sums = stage.call(start..start + random.i32(1..150), SHORT);
                    // A connection that is stalled, or swallows what it gets, is not noticed by itself.
                    if sums.answered == 0 {
                        stage.proxy.reset_all();
                    }
                }
            });
        }
    });
    let (sums, counts) = stage.finish(runtime);
    assert!(sums.answered > 0, "seed {seed}: {sums:?}, {counts:?}");
    sums
}

#[test]
fn seeded_mixtures_are_accounted_for() {
    on_each_backend(|runtime| {
        let mut sums = Vec::new();
        for seed in 1..6 {
            eprintln!("seed {seed}");
            sums.push(a_mixture(runtime, &Int32, seed));
            sums.push(a_mixture(runtime, &Int32.by_id(), seed));
        }
        // Something has gone wrong, or nothing was tested.
        assert!(sums.iter().any(|sums| sums.lost > 0) && sums.iter().any(|sums| sums.timed_out > 0));
    });
}
