//! What a handler puts off: timers, and work for the reactor.

use crate::accounts::DEADLINE;
use crate::ground::{Ground, Peer};
use crate::probe::{Echo, Ending, Event, log};
use crate::{Suite, suite};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use trochus::net::{Handle, StreamOptions};

pub(crate) fn suites() -> Vec<Suite> {
    vec![suite!(
        "later",
        |_| true,
        [
            a_timer_fires_once_and_can_be_set_again,
            a_timer_that_was_taken_back_does_not_fire,
            a_later_deadline_replaces_an_earlier_one,
            what_is_cancelled_is_not_done_and_the_others_are,
            a_closed_connections_timer_does_not_fire,
            a_timer_closes_an_idle_connection,
            a_timer_set_while_timers_fire_waits_for_the_next_turn,
            the_longest_times_mean_never,
            deferred_work_connects_elsewhere,
            deferred_work_may_defer_more,
        ]
    )]
}

const SOON: Duration = Duration::from_millis(2);
const NEVER: Duration = Duration::from_secs(3600);

fn a_timer_fires_once_and_can_be_set_again(ground: &Ground) {
    let stage = ground.single();
    let (log, recorder) = log();
    let server = stage.listen(move |_| {
        let mut left = 5;
        recorder.probe().open(|io| io.set_timer(SOON)).timer(move |io| {
            left -= 1;
            if left == 0 { io.close() } else { io.set_timer(SOON) }
        })
    });
    let peer = Peer::connect(server.local_addr());
    log.opened();
    for _ in 0..5 {
        assert!(matches!(log.next(), Event::Timer));
    }
    assert!(peer.receive_to_end().is_empty());
    drop(peer);
    assert!(matches!(log.next(), Event::Closed(Ending::Closed)));
    assert_eq!(stage.finish([server]).timers_fired, 5);
}

fn a_timer_that_was_taken_back_does_not_fire(ground: &Ground) {
    let stage = ground.single();
    let (log, recorder) = log();
    let server = stage.listen(move |_| {
        recorder.probe().open(|io| {
            io.set_timer(SOON);
            io.clear_timer();
        })
    });
    let peer = Peer::connect(server.local_addr());
    log.opened();
    // Were it still set, it would fire now; the opposite of a deadline, so no slowness can make this fail.
    std::thread::sleep(SOON * 10);
    peer.send(b"still there");
    assert_eq!(log.bytes(11), b"still there");
    drop(peer);
    assert_eq!(log.closed(), Ending::ByPeer);
    assert_eq!(stage.finish([server]).timers_fired, 0);
}

fn a_later_deadline_replaces_an_earlier_one(ground: &Ground) {
    let stage = ground.single();
    let (log, recorder) = log();
    let server = stage.listen(move |_| {
        recorder.probe().open(|io| io.set_timer(SOON)).timer(|io| io.set_timer(NEVER)).bytes(|io, bytes| {
            io.set_timer(SOON);
            bytes.len()
        })
    });
    let peer = Peer::connect(server.local_addr());
    log.opened();
    for _ in 0..5 {
        assert!(matches!(log.next(), Event::Timer));
        peer.send(b"x");
        assert_eq!(log.bytes(1), b"x");
    }
    assert!(matches!(log.next(), Event::Timer));
    drop(peer);
    assert_eq!(log.closed(), Ending::ByPeer);
    assert_eq!(stage.finish([server]).timers_fired, 6);
}

fn a_closed_connections_timer_does_not_fire(ground: &Ground) {
    let stage = ground.single();
    let (log, recorder) = log();
    let server = stage.listen(move |_| {
        recorder.probe().open(|io| {
            io.set_timer(SOON);
            io.close();
            io.set_timer(SOON);
        })
    });
    let peer = Peer::connect(server.local_addr());
    std::thread::sleep(SOON * 5);
    drop(peer);
    assert_eq!(log.closed(), Ending::Closed);
    assert_eq!(stage.finish([server]).timers_fired, 0);
}

fn a_timer_closes_an_idle_connection(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| recorder.probe().open(|io| io.set_timer(SOON)).timer(|io| io.close()));
    let peers: Vec<Peer> = (0..50).map(|_| Peer::connect(server.local_addr())).collect();
    peers.iter().for_each(|peer| assert!(peer.receive_to_end().is_empty()));
    drop(peers);
    (0..50).for_each(|_| assert_eq!(log.closed(), Ending::Closed));
    stage.finish([server]);
}

fn a_timer_set_while_timers_fire_waits_for_the_next_turn(ground: &Ground) {
    let stage = ground.single();
    let first = std::sync::atomic::AtomicBool::new(true);
    let (log, recorder) = log();
    let server = stage.listen(move |_| match first.swap(false, std::sync::atomic::Ordering::Relaxed) {
        true => {
            recorder.probe().open(|io| io.set_timer(Duration::ZERO)).timer(|io| io.set_timer(Duration::ZERO))
        }
        false => recorder.echo(),
    });
    let restless = Peer::connect(server.local_addr());
    log.opened();
    let other = Peer::connect(server.local_addr());
    other.send(b"served all the same");
    assert_eq!(other.receive(19), b"served all the same");
    drop((restless, other));
    stage.finish([server]);
}

fn what_is_cancelled_is_not_done_and_the_others_are(ground: &Ground) {
    let stage = ground.single();
    let (tell, told) = mpsc::channel();
    let another = tell.clone();
    stage
        .runtime
        .reactor(0)
        .run(move |reactor| {
            let tell = |what: &'static str| {
                let tell = another.clone();
                move |_: &mut trochus::Reactor| tell.send(what).unwrap()
            };
            let delay = Duration::from_millis(20);
            let done = reactor.after(delay, tell("done"));
            let never = reactor.after(Duration::MAX, tell("never"));
            let cancelled = reactor.after(delay, tell("cancelled"));
            assert!(reactor.cancel_after(cancelled) && reactor.cancel_after(never));
            // One that has just been set is never taken for one that is over.
            let last = reactor.after(delay, tell("done"));
            assert!(!reactor.cancel_after(cancelled) && cancelled != last && done != last);
            let end = tell("end");
            reactor.after(2 * delay, move |reactor| {
                assert!(!reactor.cancel_after(done), "it was done");
                end(reactor);
            });
        })
        .unwrap();
    drop(tell);
    for expected in ["done", "done", "end"] {
        assert_eq!(told.recv_timeout(DEADLINE), Ok(expected));
    }
    // With what was to be done those are gone who could tell.
    assert_eq!(told.recv_timeout(DEADLINE), Err(mpsc::RecvTimeoutError::Disconnected));
    assert_eq!(stage.shutdown(Duration::MAX).timers_fired, 3);
}

fn the_longest_times_mean_never(ground: &Ground) {
    let stage = ground.single();
    let (log, recorder) = log();
    let options = StreamOptions::new().close_timeout(Duration::MAX).connect_timeout(Duration::MAX);
    let client = recorder.clone();
    let server = stage.listen_stream(options.clone(), move |_| {
        recorder.probe().open(|io| io.set_timer(Duration::MAX)).bytes(|io, bytes| {
            io.write(bytes);
            io.close();
            bytes.len()
        })
    });
    stage.runtime.reactor(0).run(|reactor| _ = reactor.after(Duration::MAX, |_| panic!("never"))).unwrap();
    let peer = Peer::connect(server.local_addr());
    log.opened();
    peer.send(b"x");
    assert_eq!(peer.receive_to_end(), b"x");
    drop(peer);
    assert_eq!(log.closed(), Ending::Closed);
    let address = server.local_addr().clone();
    stage.runtime.connect_with(&options, &address, move || client.probe().open(|io| io.close())).unwrap();
    let mut endings = [log.closed(), log.closed()];
    endings.sort_by_key(|ending| *ending == Ending::Closed);
    assert_eq!(endings, [Ending::ByPeer, Ending::Closed]);
    assert_eq!(stage.shutdown(Duration::MAX).timers_fired, 0);
}

/// A proxy: what comes in at the front goes to the back, and its answer comes out at the front.
fn deferred_work_connects_elsewhere(ground: &Ground) {
    let stage = ground.stage();
    let back = stage.listen(|_| Echo);
    let target = Arc::new(back.local_addr().clone());
    let front = stage.listen(move |_| {
        let target = target.clone();
        let (_, recorder) = log();
        recorder.clone().probe().bytes(move |io, bytes| {
            let (target, recorder, request, client) =
                (target.clone(), recorder.clone(), bytes.to_vec(), io.handle());
            io.defer(move |reactor| {
                let upstream =
                    recorder.probe().open(move |io| io.write(&request)).bytes(move |io, answer| {
                        client.try_write(answer).unwrap();
                        io.close();
                        answer.len()
                    });
                reactor.connect(&StreamOptions::new(), &target, upstream);
            });
            bytes.len()
        })
    });
    let peer = Peer::connect(front.local_addr());
    for round in [&b"first"[..], b"second", b"third"] {
        peer.send(round);
        assert_eq!(peer.receive(round.len()), round);
    }
    drop(peer);
    let metrics = stage.finish([front, back]);
    assert_eq!(metrics.connections_opened, 7);
}

fn deferred_work_may_defer_more(ground: &Ground) {
    fn count_down(reactor: &mut trochus::Reactor, left: u32, done: Handle) {
        // A command of its own each time, and a connection that cannot be, whose handler hears of that at once.
        if left == 0 {
            return done.close().unwrap();
        }
        let handle = reactor.handle();
        handle.run(move |reactor| count_down(reactor, left - 1, done)).unwrap();
    }
    let stage = ground.single();
    let (log, recorder) = log();
    let server = stage.listen(move |_| {
        recorder.probe().open(|io| {
            let done = io.handle();
            io.defer(move |reactor| count_down(reactor, 100, done));
        })
    });
    let peer = Peer::connect(server.local_addr());
    assert!(peer.receive_to_end().is_empty());
    drop(peer);
    assert_eq!(log.closed(), Ending::Closed);
    stage.finish([server]);
}
