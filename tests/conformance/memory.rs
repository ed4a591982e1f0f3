//! What all connections hold together: whoever holds much gives way, and the others go on.

use crate::accounts::{DEADLINE, wait_until};
use crate::ground::{Ground, Peer, Stage, pattern};
use crate::probe::{Ending, Event, Log, Recorder, log};
use crate::{Suite, suite};
use std::sync::mpsc;
use trochus::net::{Handle, Server, StreamOptions};

pub(crate) fn suites() -> Vec<Suite> {
    vec![suite!(
        "memory",
        |_| true,
        [
            the_largest_goes_and_the_others_are_served,
            who_holds_the_most_is_found_on_other_reactors,
            who_holds_much_is_not_read_until_there_is_plenty,
            who_is_not_read_hears_of_what_other_reactors_gave_back,
            as_many_go_as_hold_too_much,
            what_others_wrote_keeps_nobody_from_being_read,
            newcomers_are_refused_and_then_the_largest_goes,
            what_a_handler_claims_counts,
        ]
    )]
}

const LIMIT: usize = 8 << 20;

/// What fits between the two ends, at most.
const KERNEL: usize = 1 << 20;

fn stage(ground: &Ground, reactors: usize) -> Stage {
    ground.stage_with(ground.runtime_builder().reactors(reactors).memory_budget(LIMIT))
}

/// Each connection has as much to say as it is told by its first eight bytes, and echoes whatever comes behind them.
fn listen(stage: &Stage, recorder: Recorder) -> Server {
    let options = StreamOptions::new().send_buffer(64 << 10).output_limits(usize::MAX / 2, usize::MAX);
    stage.listen_stream(options, move |_| {
        let mut told = false;
        recorder.probe().bytes(move |io, bytes| match bytes.first_chunk() {
            Some(first) if !told => {
                told = true;
                io.write(&pattern(usize::from_le_bytes(*first)));
                io.write(&bytes[first.len()..]);
                bytes.len()
            }
            None if !told => 0,
            _ => {
                io.write(bytes);
                bytes.len()
            }
        })
    })
}

fn ask(server: &Server, log: &Log, bytes: usize) -> (Peer, Handle) {
    let peer = Peer::connect(server.local_addr());
    let handle = log.opened();
    peer.send(&bytes.to_le_bytes());
    (peer, handle)
}

fn is_served(peer: &Peer) {
    peer.send(b"served?");
    assert_eq!(peer.receive(7), b"served?");
}

/// The connections that were closed for what they held, until nobody holds too much.
fn closed(stage: &Stage, log: &Log, at_least: usize) -> Vec<usize> {
    let closed = (0..at_least).map(|_| match log.closed() {
        Ending::MemoryBudget { held } => held,
        other => panic!("{other:?}"),
    });
    let closed = closed.collect();
    wait_until("nobody holds too much", || stage.runtime.memory_budget().held <= LIMIT);
    closed
}

fn the_largest_goes_and_the_others_are_served(ground: &Ground) {
    let stage = stage(ground, 1);
    let (log, recorder) = log();
    let server = listen(&stage, recorder);
    let (good, _) = ask(&server, &log, 0);
    is_served(&good);
    let last = (Peer::connect(server.local_addr()), log.opened());
    let small = ask(&server, &log, 2 * KERNEL);
    let large = ask(&server, &log, 6 << 20);
    wait_until("both hold something", || stage.runtime.memory_budget().held > 4 << 20);
    last.0.send(&(3_usize << 20).to_le_bytes());
    let held = closed(&stage, &log, 1);
    assert!(held[0] > 4 << 20, "it was the largest: {held:?}");
    is_served(&good);
    for (peer, bytes) in [(&small.0, 2 * KERNEL), (&last.0, 3 << 20)] {
        assert!(peer.receive(bytes) == pattern(bytes));
    }
    wait_until("nothing is held", || stage.runtime.memory_budget().held == 0);
    assert_eq!(stage.runtime.memory_budget().limit, LIMIT);
    drop((good, small, large, last));
    let metrics = stage.finish([server]);
    assert_eq!((metrics.memory_closed, metrics.connections_over_limit), (1, 1));
}

/// It sleeps, and has nothing to do but to hold what its peers do not take.
fn who_holds_the_most_is_found_on_other_reactors(ground: &Ground) {
    let stage = stage(ground, 2);
    let (log, recorder) = log();
    let (tell, told) = mpsc::channel();
    let options = StreamOptions::new().send_buffer(64 << 10).output_limits(usize::MAX / 2, usize::MAX);
    let server = stage.listen_stream(options, move |_| {
        let tell = tell.clone();
        recorder
            .probe()
            .open(move |_| tell.send(std::thread::current().name().map(str::to_owned)).unwrap())
            .notify(|io| io.write(&pattern(3 << 20)))
    });
    let mut peers = [Vec::new(), Vec::new()];
    while peers.iter().any(|peers| peers.len() < 2) {
        let peer = Peer::connect(server.local_addr());
        let handle = log.opened();
        let thread = told.recv_timeout(DEADLINE).unwrap();
        peers[usize::from(thread.as_deref() == Some("trochus-1"))].push((peer, handle));
    }
    let say = |of: usize, index: usize, held: usize| {
        peers[of][index].1.notify().unwrap();
        wait_until("it is held", || stage.runtime.memory_budget().held > held);
    };
    say(0, 0, 1 << 20);
    say(0, 1, 3 << 20);
    // One too many, on the reactor that holds the least.
    peers[1][0].1.notify().unwrap();
    closed(&stage, &log, 1);
    let message = pattern(3 << 20);
    assert!(peers[1][0].0.receive(message.len()) == message, "it was one of the other reactor's");
    drop(peers);
    assert_eq!(stage.finish([server]).memory_closed, 1);
}

fn who_holds_much_is_not_read_until_there_is_plenty(ground: &Ground) {
    let stage = stage(ground, 1);
    let (log, recorder) = log();
    let server = listen(&stage, recorder);
    let second = ask(&server, &log, KERNEL + (256 << 10));
    wait_until("it holds something", || stage.runtime.memory_budget().held > 64 << 10);
    let first = ask(&server, &log, 13 << 19);
    wait_until("memory is short", || stage.runtime.memory_budget().held > LIMIT / 8 * 6);
    let gauges = || stage.runtime.gauges().unwrap()[0];
    // Looked at when anything happens to it.
    second.1.notify().unwrap();
    wait_until("it is not read", || gauges().throttled >= 1);
    second.0.send(b"not yet");
    let received = first.0.receive(13 << 19);
    assert!(received == pattern(13 << 19));
    // Its own output has not become less: it is read because there is plenty.
    log.find(|event| matches!(event, Event::Bytes(bytes) if bytes == b"not yet").then_some(()));
    assert_eq!(gauges().throttled, 0);
    drop((first, second));
    assert_eq!(stage.finish([server]).memory_closed, 0);
}

/// Its own reactor sleeps when there is plenty again.
fn who_is_not_read_hears_of_what_other_reactors_gave_back(ground: &Ground) {
    let stage = stage(ground, 2);
    let (log, recorder) = log();
    let (tell, told) = mpsc::channel();
    let options = StreamOptions::new().send_buffer(64 << 10).output_limits(usize::MAX / 2, usize::MAX);
    let server = stage.listen_stream(options, move |_| {
        let tell = tell.clone();
        recorder
            .probe()
            .open(move |_| tell.send(std::thread::current().name().map(str::to_owned)).unwrap())
            .bytes(|io, bytes| {
                io.write(&pattern(usize::from(bytes[0]) << 18));
                bytes.len()
            })
    });
    let mut peers = [None, None];
    while peers.iter().any(Option::is_none) {
        let peer = Peer::connect(server.local_addr());
        log.opened();
        let thread = told.recv_timeout(DEADLINE).unwrap();
        peers[usize::from(thread.as_deref() == Some("trochus-1"))] = Some(peer);
    }
    let [Some(holds), Some(waits)] = peers else { unreachable!() };
    holds.send(&[26]);
    wait_until("memory is short", || stage.runtime.memory_budget().held > LIMIT / 8 * 6 - KERNEL);
    waits.send(&[4]);
    wait_until("both hold something", || stage.runtime.memory_budget().held > LIMIT / 8 * 6);
    wait_until("it is not read", || {
        // Looked at when anything happens to it.
        waits.send(&[0]);
        stage.runtime.gauges().unwrap()[1].throttled == 1
    });
    let seen = log.rest();
    waits.send(&[9]);
    drop(seen);
    assert!(holds.receive(26 << 18) == pattern(26 << 18));
    log.find(|event| matches!(event, Event::Bytes(bytes) if bytes.contains(&9)).then_some(()));
    drop((holds, waits));
    assert_eq!(stage.finish([server]).memory_closed, 0);
}

/// None of them holds much, and all of it comes in one turn.
fn as_many_go_as_hold_too_much(ground: &Ground) {
    const EACH: usize = 1 << 20;
    let stage = stage(ground, 1);
    let (log, recorder) = log();
    let server = stage.listen(move |_| recorder.probe().notify(|io| io.claim(EACH)));
    let peers: Vec<Peer> = (0..20).map(|_| Peer::connect(server.local_addr())).collect();
    let handles: Vec<Handle> = peers.iter().map(|_| log.opened()).collect();
    let all = move |reactor: &mut trochus::Reactor| {
        for handle in &handles {
            reactor.with_connection(handle.id(), |io| io.claim(EACH));
        }
        reactor.metrics().memory_closed
    };
    assert_eq!(stage.runtime.run_on(0, all).wait().unwrap(), 0, "it is looked at when the turn is over");
    stage.runtime.run_on(0, |_| ()).wait().unwrap();
    assert_eq!(stage.metrics().memory_closed, 12);
    assert_eq!(stage.runtime.memory_budget().held, LIMIT);
    drop(peers);
    stage.finish([server]);
}

/// Two who wait for each other to read would wait for ever.
fn what_others_wrote_keeps_nobody_from_being_read(ground: &Ground) {
    let stage = stage(ground, 1);
    let (log, recorder) = log();
    let options = StreamOptions::new().send_buffer(64 << 10);
    let server = stage.listen_stream(options, move |_| recorder.probe());
    let peer = Peer::connect(server.local_addr());
    let handle = log.opened();
    handle.write(&pattern(13 << 19)).unwrap();
    wait_until("memory is short", || stage.runtime.memory_budget().held > LIMIT / 8 * 6 - KERNEL);
    let other = Peer::connect(server.local_addr());
    log.opened().write(&pattern(KERNEL)).unwrap();
    wait_until("memory is short", || stage.runtime.memory_budget().held > LIMIT / 8 * 6);
    for _ in 0..3 {
        peer.send(b"read");
        assert_eq!(log.bytes(4), b"read");
    }
    drop((peer, other));
    stage.finish([server]);
}

fn newcomers_are_refused_and_then_the_largest_goes(ground: &Ground) {
    let stage = stage(ground, 1);
    let (log, recorder) = log();
    let server = listen(&stage, recorder);
    let large = ask(&server, &log, LIMIT);
    wait_until("memory is scarce", || stage.runtime.memory_budget().held > LIMIT / 8 * 7);
    Peer::is_refused_at(server.local_addr());
    assert_eq!(stage.metrics().memory_refused, 1);
    wait_until("the one that holds the most has gone", || {
        Peer::is_refused_at(server.local_addr());
        stage.metrics().memory_closed == 1
    });
    assert!(matches!(log.closed(), Ending::MemoryBudget { .. }));
    wait_until("nothing is held", || stage.runtime.memory_budget().held == 0);
    let (good, _) = ask(&server, &log, 0);
    is_served(&good);
    drop((large, good));
    stage.finish([server]);
}

fn what_a_handler_claims_counts(ground: &Ground) {
    let stage = stage(ground, 1);
    let (log, recorder) = log();
    let server = stage.listen(move |_| {
        recorder.probe().bytes(|io, bytes| {
            io.claim(usize::from(bytes[0]) << 20);
            bytes.len()
        })
    });
    let (one, _) = (Peer::connect(server.local_addr()), log.opened());
    let (other, _) = (Peer::connect(server.local_addr()), log.opened());
    let held = || stage.runtime.memory_budget().held;
    one.send(&[3]);
    wait_until("it is claimed", || held() == 3 << 20);
    one.send(&[2]);
    wait_until("some is given back", || held() == 2 << 20);
    other.send(&[5]);
    wait_until("both are claimed", || held() == 7 << 20);
    one.send(&[4]);
    assert_eq!(log.closed(), Ending::MemoryBudget { held: 5 << 20 });
    wait_until("only one is left", || held() == 4 << 20);
    drop((one, other));
    wait_until("nothing is held", || held() == 0);
    stage.finish([server]);
}
