//! A peer that resets the connection, in every state that a connection can be in.

use crate::accounts::wait_until;
use crate::ground::{Ground, Peer, pattern};
use crate::probe::{Ending, Event, Log, Probe, Recorder, log};
use crate::{Suite, suite};
use std::io::ErrorKind;
use trochus::net::StreamOptions;

pub(crate) fn suites() -> Vec<Suite> {
    vec![suite!(
        "resets",
        |_| true,
        [
            while_idle,
            while_output_is_pending,
            while_paused,
            while_flushing,
            while_lingering,
            while_half_closed
        ]
    )]
}

/// A server and a connected peer; `act` ends with the peer's reset and what the log must then tell.
fn reset(
    ground: &Ground,
    probe: impl Fn(&Recorder) -> Probe + Send + Sync + 'static,
    act: impl FnOnce(Peer, &Log),
) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let options = StreamOptions::new().output_limits(64 << 10, 64 << 20);
    let server = stage.listen_stream(options, move |_| probe(&recorder));
    act(Peer::connect(server.local_addr()), &log);
    stage.finish([server]);
}

/// TCP tells of the reset; on a Unix-domain socket it looks like an orderly end unless something is being sent.
#[track_caller]
fn assert_reset(ending: &Ending) {
    assert!(
        matches!(
            ending,
            Ending::Failed(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted)
        ),
        "{ending:?}"
    );
}

fn while_idle(ground: &Ground) {
    let tcp = ground.has_resets();
    reset(ground, Recorder::probe, |peer, log| {
        log.opened();
        peer.reset();
        let ending = log.closed();
        if tcp { assert_reset(&ending) } else { assert_eq!(ending, Ending::ByPeer) }
    });
}

fn while_output_is_pending(ground: &Ground) {
    reset(
        ground,
        |recorder| recorder.probe().open(|io| io.write(&pattern(32 << 20))),
        |peer, log| {
            peer.receive(1);
            peer.reset();
            assert_reset(&log.closed());
        },
    );
}

fn while_paused(ground: &Ground) {
    let tcp = ground.has_resets();
    reset(
        ground,
        |recorder| recorder.probe().open(|io| io.pause_reading()),
        |peer, log| {
            let handle = log.opened();
            peer.reset();
            if !tcp {
                // Ends are told behind the pause.
                handle.resume_reading().unwrap();
            }
            let ending = log.closed();
            if tcp { assert_reset(&ending) } else { assert_eq!(ending, Ending::ByPeer) }
        },
    );
}

fn while_flushing(ground: &Ground) {
    let probe = |recorder: &Recorder| {
        recorder.probe().open(|io| {
            io.write(&pattern(32 << 20));
            io.close();
        })
    };
    reset(ground, probe, |peer, log| {
        peer.receive(1);
        peer.reset();
        assert_reset(&log.closed());
    });
}

fn while_lingering(ground: &Ground) {
    let tcp = ground.has_resets();
    reset(
        ground,
        |recorder| recorder.probe().open(|io| io.close()),
        |peer, log| {
            assert!(peer.receive_to_end().is_empty());
            peer.reset();
            // A reset may mean that the peer dropped what it had not read, so it is told.
            let ending = log.closed();
            if tcp { assert_reset(&ending) } else { assert_eq!(ending, Ending::Closed) }
        },
    );
}

fn while_half_closed(ground: &Ground) {
    reset(
        ground,
        |recorder| recorder.probe().end(|_| {}),
        |peer, log| {
            let handle = log.opened();
            peer.end_output();
            assert!(matches!(log.next(), Event::Ended));
            peer.reset();
            wait_until("writing shows that nobody listens", || handle.write(b"anybody there?").is_err());
            assert_reset(&log.closed());
        },
    );
}
