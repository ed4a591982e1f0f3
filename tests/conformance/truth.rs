//! What an end looks like to the peer, and what the handler is told about it: a part is never taken for the whole.

use crate::accounts::{INTENDED, wait_until};
use crate::ground::{Ground, Peer, pattern};
use crate::probe::{Ending, Event, Log, Probe, Recorder, log};
use crate::{Suite, suite};
use std::io::{ErrorKind, Read};
use std::time::Duration;
use trochus::net::{Handle, StreamOptions};

pub(crate) fn suites() -> Vec<Suite> {
    vec![
        suite!(
            "truth",
            |_| true,
            [
                output_that_was_cut_off_ends_with_a_reset,
                a_peer_that_takes_nothing_stalls_its_connection,
                a_peer_that_never_finishes_is_told_from_one_that_does,
                who_ended_it_is_told,
                a_single_answer_may_exceed_the_limit,
                output_in_one_go_with_the_close_is_bounded_too,
                two_ends_that_write_much_get_all_of_it,
                on_close_can_connect_again,
            ]
        ),
        suite!("truth", Ground::is_unix, [input_that_is_there_survives_a_failing_send]),
    ]
}

const MUCH: usize = 8 << 20;
const SHORT: Duration = Duration::from_millis(100);

/// Little fits between the two ends.
fn narrow() -> StreamOptions {
    StreamOptions::new().send_buffer(16 << 10)
}

fn narrow_peer(address: &trochus::net::Address) -> Peer {
    Peer::prepared(address, |socket| socket.set_recv_buffer_size(16 << 10).unwrap())
}

/// All that the peer can read, and how that ends.
fn read_all(peer: &Peer) -> (Vec<u8>, Option<ErrorKind>) {
    let mut bytes = Vec::new();
    let end = (&peer.0).read_to_end(&mut bytes);
    (bytes, end.err().map(|error| error.kind()))
}

/// A peer that gets a part only, whatever the reason, sees a reset behind it; a Unix-domain socket knows none.
#[track_caller]
fn cut_off(
    ground: &Ground,
    options: StreamOptions,
    probe: impl Fn(Probe) -> Probe + Send + Sync + 'static,
    provoke: impl FnOnce(&Peer, &Handle),
) -> Ending {
    let stage = ground.single();
    let (log, recorder) = log();
    let server = stage.listen_stream(options, move |_| probe(recorder.probe()));
    let peer = narrow_peer(server.local_addr());
    let handle = log.opened();
    peer.receive(1);
    provoke(&peer, &handle);
    let ending = log.closed();
    let (bytes, end) = read_all(&peer);
    assert!(bytes.len() < MUCH - 1, "all of it arrived after {ending:?}");
    if ground.has_resets() {
        assert_eq!(end, Some(ErrorKind::ConnectionReset), "after {ending:?}");
    }
    drop(peer);
    stage.finish_after_panics([server]);
    ending
}

fn output_that_was_cut_off_ends_with_a_reset(ground: &Ground) {
    let much = |probe: Probe| probe.open(|io| io.write(&pattern(MUCH)));
    let notify = |_: &Peer, handle: &Handle| handle.notify().unwrap();
    let fails = move |probe| much(probe).notify(|_| panic!("{INTENDED}"));
    assert_eq!(cut_off(ground, narrow(), fails, notify), Ending::Panicked);
    let aborts = move |probe| much(probe).notify(|io| io.abort());
    assert_eq!(cut_off(ground, narrow(), aborts, notify), Ending::Aborted);
    let more = move |probe| much(probe).notify(|io| io.write(&pattern(MUCH)));
    let ending = cut_off(ground, narrow().output_limits(1 << 10, 1 << 20), more, notify);
    assert!(matches!(ending, Ending::OutputLimit { limit: 0x100000, .. }), "{ending:?}");
    let greedy = move |probe: Probe| much(probe).bytes(|_, _| 0);
    let send = |peer: &Peer, _: &Handle| peer.send(&[1; 2_000]);
    let options = narrow().input_limit(1_000).throttle_reading(false);
    let ending = cut_off(ground, options, greedy, send);
    assert!(matches!(ending, Ending::InputLimit { .. }), "{ending:?}");
    let closes = move |probe| much(probe).notify(|io| io.close());
    assert_eq!(cut_off(ground, narrow().flush_timeout(SHORT), closes, notify), Ending::FlushTimeout);
    let options = narrow().write_stall_timeout(SHORT);
    let ending = cut_off(ground, options, much, |_, _| {});
    let Ending::WriteStalled { text } = ending else { panic!("{ending:?}") };
    assert!(text.contains("100ms"), "{text}");
}

/// Neither has a handler that panics with nothing to say said all.
fn a_peer_that_takes_nothing_stalls_its_connection(ground: &Ground) {
    let stage = ground.single();
    let (log, recorder) = log();
    let options = narrow().write_stall_timeout(SHORT);
    let server = stage.listen_stream(options, move |_| recorder.probe().open(|io| io.write(b"a little")));
    let idle = Peer::connect(server.local_addr());
    log.opened();
    assert_eq!(idle.receive(8), b"a little");
    // Nothing is waiting for it, so it may take its time.
    std::thread::sleep(SHORT * 3);
    assert!(log.rest().iter().all(|event| matches!(event, Event::Drained)));
    idle.send(b"still there");
    assert_eq!(log.bytes(11), b"still there");
    drop(idle);
    assert_eq!(log.closed(), Ending::ByPeer);
    assert_eq!(stage.finish([server]).connections_over_limit, 0);
}

fn a_peer_that_never_finishes_is_told_from_one_that_does(ground: &Ground) {
    let stage = ground.single();
    let (log, recorder) = log();
    let options = StreamOptions::new().close_timeout(SHORT);
    let server = stage.listen_stream(options, move |_| {
        recorder.probe().open(|io| {
            io.write(b"all there is");
            io.close();
        })
    });
    let peer = Peer::connect(server.local_addr());
    assert_eq!(log.closed(), Ending::CloseTimeout);
    // It can still read all of it, and an orderly end: nothing was lost.
    assert_eq!(peer.receive_to_end(), b"all there is");
    let peer = Peer::connect(server.local_addr());
    assert_eq!(peer.receive_to_end(), b"all there is");
    drop(peer);
    assert_eq!(log.closed(), Ending::Closed);
    stage.finish([server]);
}

fn who_ended_it_is_told(ground: &Ground) {
    let ending = |probe: fn(Probe) -> Probe, act: fn(&Peer, &Log)| {
        let stage = ground.single();
        let (log, recorder) = log();
        let server = stage.listen(move |_| probe(recorder.probe()));
        let peer = Peer::connect(server.local_addr());
        act(&peer, &log);
        drop(peer);
        let ending = log.closed();
        stage.finish([server]);
        ending
    };
    let end = |peer: &Peer, _: &Log| {
        peer.end_output();
        assert_eq!(peer.receive_to_end(), b"");
    };
    assert_eq!(ending(|probe| probe, end), Ending::ByPeer);
    assert_eq!(ending(|probe| probe.end(|io| io.shutdown_write()), end), Ending::ByPeer);
    let see = |peer: &Peer, _: &Log| assert_eq!(peer.receive_to_end(), b"");
    assert_eq!(ending(|probe| probe.open(|io| io.close()), see), Ending::Closed);
    assert_eq!(ending(|probe| probe.open(|io| io.shutdown_write()), see), Ending::Closed);
}

fn a_single_answer_may_exceed_the_limit(ground: &Ground) {
    let stage = ground.single();
    let (log, recorder) = log();
    let options = StreamOptions::new().output_limits(1 << 10, 64 << 10);
    let server = stage.listen_stream(options, move |_| {
        recorder.probe().bytes(|io, bytes| {
            io.write(&pattern(MUCH));
            bytes.len()
        })
    });
    let peer = Peer::connect(server.local_addr());
    for _ in 0..2 {
        peer.send(b"?");
        assert!(peer.receive(MUCH) == pattern(MUCH));
        log.find(|event| matches!(event, Event::Drained).then_some(()));
    }
    drop(peer);
    assert_eq!(log.closed(), Ending::ByPeer);
    stage.finish([server]);
}

fn output_in_one_go_with_the_close_is_bounded_too(ground: &Ground) {
    let writes = |probe: Probe| {
        probe.open(|io| io.write(&pattern(MUCH))).notify(|io| {
            io.write(&pattern(MUCH));
            io.close();
        })
    };
    let options = narrow().output_limits(1 << 10, MUCH + 1);
    let ending = cut_off(ground, options, writes, |_, handle| handle.notify().unwrap());
    assert!(matches!(ending, Ending::OutputLimit { .. }), "{ending:?}");
}

/// Each writes more than fits in between and reads only when it may: somebody has to read all the same.
fn two_ends_that_write_much_get_all_of_it(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let options = narrow().receive_buffer(16 << 10).output_limits(64 << 10, 64 << 20).throttle_reading(false);
    let writes = |recorder: &Recorder| {
        let mut left = MUCH;
        recorder.probe().open(|io| io.write(&pattern(MUCH))).bytes(move |io, bytes| {
            left -= bytes.len();
            if left == 0 {
                io.shutdown_write();
            }
            bytes.len()
        })
    };
    let client = recorder.clone();
    let server = stage.listen_stream(options.clone(), move |_| writes(&recorder));
    stage.runtime.connect_with(&options, server.local_addr(), move || writes(&client)).unwrap();
    for _ in 0..2 {
        let ending = log.closed();
        assert!(matches!(ending, Ending::Closed | Ending::ByPeer), "{ending:?}");
    }
    stage.finish([server]);
}

fn on_close_can_connect_again(ground: &Ground) {
    let stage = ground.single();
    let (log, recorder) = log();
    let server = stage.listen(|_| crate::probe::Echo);
    let address = server.local_addr().clone();
    let (again, target) = (recorder.clone(), address.clone());
    let first = move || {
        recorder.probe().open(|io| io.abort()).close(move |reactor| {
            let next = again.probe().open(|io| io.write(b"once more"));
            reactor.connect(&StreamOptions::new(), &target, next);
        })
    };
    stage.runtime.connect(&address, first).unwrap();
    assert_eq!(log.closed(), Ending::Aborted);
    let handle = log.opened();
    assert_eq!(log.bytes(9), b"once more");
    handle.close().unwrap();
    assert_eq!(log.closed(), Ending::Closed);
    stage.finish([server]);
}

/// The peer answers and goes; what this side still sends fails, and the answer is there all the same.
fn input_that_is_there_survives_a_failing_send(ground: &Ground) {
    let stage = ground.single();
    let (log, recorder) = log();
    let server = stage.listen(move |_| {
        recorder.probe().open(|io| io.pause_reading()).notify(|io| {
            io.write(b"nobody reads this");
            io.resume_reading();
        })
    });
    for _ in 0..10 {
        let peer = Peer::connect(server.local_addr());
        let handle = log.opened();
        // More than is read ahead: the end must not be told before the send fails.
        let answer = pattern(trochus::config::READ_AHEAD_BYTES + 50_000);
        peer.send(&answer);
        drop(peer);
        handle.notify().unwrap();
        assert!(matches!(log.next(), Event::Notified));
        assert!(log.bytes(answer.len()) == answer);
        // There is no telling whether that was all of it.
        let end = log.next();
        assert!(matches!(&end, Event::Closed(Ending::Failed(ErrorKind::BrokenPipe))), "{end:?}");
        wait_until("the handle knows", || handle.is_closed());
    }
    stage.finish([server]);
}
