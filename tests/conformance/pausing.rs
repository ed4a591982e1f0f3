//! Connections whose handler has paused reading: what still arrives, and what is still noticed.

use crate::accounts::wait_until;
use crate::flow::write_until_stalled;
use crate::ground::{Ground, Peer, Stage, pattern};
use crate::probe::{Ending, Event, Log, Recorder, log};
use crate::{Suite, suite};
use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use trochus::config::READ_AHEAD_BYTES;
use trochus::net::{Handle, Server, StreamOptions};

pub(crate) fn suites() -> Vec<Suite> {
    vec![
        suite!(
            "pausing",
            |_| true,
            [
                a_little_is_read_ahead,
                a_frame_limit_is_no_limit_of_what_was_read_ahead,
                a_frame_limit_is_no_limit_of_what_waits_for_output,
                the_end_is_told_behind_the_pause,
                the_end_behind_what_is_read_ahead_is_no_reset,
                a_connection_can_be_closed_in_a_pause,
                who_pauses_often_is_read_one_buffer_at_a_time,
            ]
        ),
        suite!(
            "pausing",
            Ground::is_tcp,
            [a_reset_is_told_at_once, a_reset_behind_the_read_ahead_is_told_at_once]
        ),
    ]
}

/// A receive buffer of the tests' pools.
const BUFFER: usize = 16 << 10;

/// A peer with little memory in the kernel at either end, so that it feels the pause soon.
fn narrow(stage: &Stage, recorder: Recorder) -> (Server, Peer) {
    let options = StreamOptions::new().receive_buffer(16 << 10);
    let server = stage.listen_stream(options, move |_| recorder.probe().open(|io| io.pause_reading()));
    let peer = Peer::prepared(server.local_addr(), |socket| socket.set_send_buffer_size(16 << 10).unwrap());
    (server, peer)
}

/// Writes as much as finds room, which is not all of it. How much that was.
#[track_caller]
fn fill(peer: &Peer, bytes: &[u8]) -> usize {
    let written = write_until_stalled(peer, bytes);
    assert!(written < bytes.len(), "nobody reads, and still all of it found room");
    written
}

fn held(stage: &Stage) -> usize {
    stage.runtime.gauges().unwrap().iter().map(|gauges| gauges.input_bytes as usize).sum()
}

fn a_little_is_read_ahead(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let (server, peer) = narrow(&stage, recorder);
    let handle = log.opened();
    let message = pattern(8 << 20);
    let written = fill(&peer, &message);
    assert_eq!(stage.metrics().received_bytes as usize, READ_AHEAD_BYTES);
    assert_eq!(held(&stage), READ_AHEAD_BYTES);
    assert!(log.rest().is_empty(), "and the handler is shown nothing");
    handle.resume_reading().unwrap();
    assert!(log.bytes(written) == message[..written]);
    assert_eq!(held(&stage), 0);
    drop(peer);
    assert_eq!(log.closed(), Ending::ByPeer);
    stage.finish([server]);
}

const FRAME: usize = 10_000;
const LIMIT: usize = 3 * BUFFER / 2;

/// Takes bytes until it has had so many, then single frames with a pause behind each. Tells how many bytes that were.
fn one_frame_at_a_time(recorder: &Recorder, at_once: usize, taken: Arc<AtomicUsize>) -> crate::probe::Probe {
    let probe = recorder.probe().bytes(move |io, bytes| {
        let before = taken.load(Ordering::Relaxed);
        let consumed = match before < at_once {
            true => bytes.len().min(at_once - before),
            false if bytes.len() < FRAME => return 0,
            false => FRAME,
        };
        if before + consumed >= at_once {
            io.pause_reading();
            io.set_timer(Duration::from_micros(200));
        }
        taken.store(before + consumed, Ordering::Relaxed);
        consumed
    });
    probe.timer(|io| io.resume_reading())
}

/// First so many bytes at once that the receive stays armed, then pauses: all of what arrives until they take effect is kept.
fn a_frame_limit_is_no_limit_of_what_was_read_ahead(ground: &Ground) {
    const AT_ONCE: usize = 10 << 20;
    const FRAMES: usize = 100;
    let stage = ground.stage();
    let (log, recorder) = log();
    let taken = Arc::<AtomicUsize>::default();
    let counted = taken.clone();
    let options = StreamOptions::new().input_limit(LIMIT);
    let server =
        stage.listen_stream(options, move |_| one_frame_at_a_time(&recorder, AT_ONCE, counted.clone()));
    let peer = Peer::connect(server.local_addr());
    let message = pattern(AT_ONCE + FRAMES * FRAME);
    let sender = {
        let (peer, message) = (Peer::over(peer.0.try_clone().unwrap()), message.clone());
        thread::spawn(move || {
            peer.send(&message);
            peer.end_output();
        })
    };
    // What a call was shown and did not consume, the next one is shown again.
    let (mut seen, mut frames) = (0, 0);
    let ending = log.find(|event| match event {
        Event::Bytes(bytes) => {
            let shown = &message[seen..seen + bytes.len()];
            assert!(bytes == shown, "other bytes than those behind {seen}");
            seen += match seen < AT_ONCE {
                true => bytes.len().min(AT_ONCE - seen),
                false if bytes.len() < FRAME => 0,
                false => FRAME,
            };
            frames += usize::from(seen > AT_ONCE);
            None
        }
        Event::Closed(ending) => Some(ending),
        _ => None,
    });
    assert_eq!((ending, seen), (Ending::ByPeer, message.len()));
    assert_eq!(taken.load(Ordering::Relaxed), message.len());
    assert!(frames >= FRAMES);
    sender.join().unwrap();
    drop(peer);
    stage.finish([server]);
}

/// A handler that takes no more while its output waits, and does not say so: that it is not asked is why it is there.
fn a_frame_limit_is_no_limit_of_what_waits_for_output(ground: &Ground) {
    let stage = ground.stage();
    let options =
        StreamOptions::new().input_limit(LIMIT).output_limits(BUFFER, 64 << 20).send_buffer(16 << 10);
    let (log, recorder) = log();
    let server = stage.listen_stream(options, move |_| {
        recorder.probe().bytes(|io, bytes| {
            let mut consumed = 0;
            while io.room() > 0 && consumed < bytes.len() {
                let some = FRAME.min(bytes.len() - consumed);
                // Each is answered with twice as much.
                io.write(&bytes[consumed..consumed + some]);
                io.write(&bytes[consumed..consumed + some]);
                consumed += some;
            }
            consumed
        })
    });
    let peer = Peer::connect(server.local_addr());
    log.opened();
    let total = 4 << 20;
    let sender = {
        let peer = Peer::over(peer.0.try_clone().unwrap());
        thread::spawn(move || {
            peer.send(&pattern(total));
            peer.end_output();
        })
    };
    thread::sleep(Duration::from_millis(20));
    assert_eq!(peer.receive_to_end().len(), 2 * total);
    sender.join().unwrap();
    assert_eq!(log.closed(), Ending::ByPeer);
    assert!(stage.metrics().reads_paused > 0);
    drop(peer);
    stage.finish([server]);
}

fn the_end_is_told_behind_the_pause(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let (server, peer) = narrow(&stage, recorder);
    let handle = log.opened();
    peer.send(b"the last");
    peer.end_output();
    wait_until("it is there", || held(&stage) == 8);
    thread::sleep(Duration::from_millis(5));
    assert!(log.rest().is_empty());
    handle.resume_reading().unwrap();
    assert_eq!(log.bytes(8), b"the last");
    ends_in_good_order(stage, &log, server, peer);
}

#[track_caller]
fn ends_in_good_order(stage: Stage, log: &Log, server: Server, peer: Peer) {
    assert!(matches!(log.next(), Event::Ended));
    assert_eq!(log.closed(), Ending::ByPeer);
    drop(peer);
    stage.finish([server]);
}

fn the_end_behind_what_is_read_ahead_is_no_reset(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let (server, peer) = narrow(&stage, recorder);
    let handle = log.opened();
    let message = pattern(8 << 20);
    let written = fill(&peer, &message);
    peer.end_output();
    thread::sleep(Duration::from_millis(5));
    // Whatever it has noticed, it waits for more of it.
    handle.pause_reading().unwrap();
    thread::sleep(Duration::from_millis(5));
    assert!(log.rest().is_empty());
    handle.resume_reading().unwrap();
    assert!(log.bytes(written) == message[..written]);
    ends_in_good_order(stage, &log, server, peer);
}

type Close = fn(&Handle);

fn a_connection_can_be_closed_in_a_pause(ground: &Ground) {
    let ways: [(Close, Ending, bool); 4] = [
        (|handle| handle.close().unwrap(), Ending::Closed, false),
        (|handle| handle.close().unwrap(), Ending::Closed, true),
        (|handle| handle.abort().unwrap(), Ending::Aborted, false),
        (|handle| handle.abort().unwrap(), Ending::Aborted, true),
    ];
    for (close, expected, ends) in ways {
        let stage = ground.stage();
        let (log, recorder) = log();
        let (server, peer) = narrow(&stage, recorder);
        let handle = log.opened();
        fill(&peer, &pattern(8 << 20));
        if ends {
            peer.end_output();
            thread::sleep(Duration::from_millis(5));
        }
        close(&handle);
        if expected == Ending::Closed {
            assert!(peer.receive_to_end().is_empty());
        }
        drop(peer);
        assert_eq!(log.closed(), expected);
        stage.finish([server]);
    }
}

/// No matter how much the kernel has: while pauses are likely, one buffer at most is on its way when one begins.
fn who_pauses_often_is_read_one_buffer_at_a_time(ground: &Ground) {
    const PAUSES: usize = 30;
    const AT_ONCE: usize = 10 << 20;
    const STRETCH: usize = 400_000;
    let stage = ground.stage();
    let (log, recorder) = log();
    let pauses = Arc::<AtomicUsize>::default();
    let counted = pauses.clone();
    let server = stage.listen(move |_| {
        let pauses = counted.clone();
        let mut left = AT_ONCE;
        recorder.probe().bytes(move |io, bytes| {
            left = left.saturating_sub(bytes.len());
            if left == 0 {
                io.pause_reading();
                left = STRETCH;
                pauses.fetch_add(1, Ordering::Relaxed);
            }
            bytes.len()
        })
    });
    let peer = Peer::connect(server.local_addr());
    let handle = log.opened();
    let sender = {
        let peer = Peer::over(peer.0.try_clone().unwrap());
        thread::spawn(move || {
            let bytes = pattern(1 << 20);
            while (&peer.0).write_all(&bytes).is_ok() {}
        })
    };
    wait_until("it pauses", || pauses.load(Ordering::Relaxed) > 0);
    let settled = || {
        let mut before = usize::MAX;
        wait_until("all that was on its way has arrived", || {
            thread::sleep(Duration::from_millis(2));
            let now = stage.metrics().received_bytes as usize;
            std::mem::replace(&mut before, now) == now
        });
        held(&stage)
    };
    for pause in 0..PAUSES {
        wait_until("it has read ahead", || held(&stage) >= READ_AHEAD_BYTES);
        let held = settled();
        assert!(held <= READ_AHEAD_BYTES + BUFFER || pause == 0, "{held} bytes are held in pause {pause}");
        let before = pauses.load(Ordering::Relaxed);
        handle.resume_reading().unwrap();
        wait_until("it pauses again", || pauses.load(Ordering::Relaxed) > before);
    }
    handle.abort().unwrap();
    sender.join().unwrap();
    drop(peer);
    stage.finish([server]);
}

#[track_caller]
fn assert_reset(ending: &Ending) {
    assert!(matches!(ending, Ending::Failed(ErrorKind::ConnectionReset)), "{ending:?}");
}

fn a_reset_is_told_at_once(ground: &Ground) {
    for sent in [0, 100] {
        let stage = ground.stage();
        let (log, recorder) = log();
        let (server, peer) = narrow(&stage, recorder);
        log.opened();
        peer.send(&pattern(sent));
        wait_until("it is there", || held(&stage) == sent);
        peer.reset();
        assert_reset(&log.closed());
        stage.finish([server]);
    }
}

fn a_reset_behind_the_read_ahead_is_told_at_once(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let (server, peer) = narrow(&stage, recorder);
    let handle = log.opened();
    let message = pattern(8 << 20);
    fill(&peer, &message);
    // Once more, behind something that was sent: while that was on its way, the send would have told.
    handle.write(b"sent meanwhile").unwrap();
    assert_eq!(peer.receive(14), b"sent meanwhile");
    wait_until("it is sent", || handle.pending() == 0);
    assert!(matches!(log.next(), Event::Drained));
    peer.reset();
    assert_reset(&log.closed());
    stage.finish([server]);
}
