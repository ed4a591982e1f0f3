//! The usual life of a connection: bytes in, bytes out.

use crate::ground::{Ground, Peer, pattern};
use crate::probe::{Echo, Ending, Event, log};
use crate::{Suite, suite};
use bytes::Bytes;
use std::thread;
use trochus::net::StreamOptions;

pub(crate) fn suites() -> Vec<Suite> {
    vec![suite!(
        "stream",
        |_| true,
        [
            a_connection_is_opened_served_drained_and_closed,
            unconsumed_bytes_come_again_with_more_behind_them,
            what_is_left_over_at_the_end_is_told,
            a_handler_that_wants_more_is_not_called_with_less_when_it_reads_on,
            one_byte_messages_go_back_and_forth,
            a_frame_that_comes_byte_by_byte_is_seen_whole,
            a_large_message_arrives_whole,
            a_large_message_is_handed_over_whole,
            what_is_handed_over_keeps_its_place_among_writes,
            output_is_counted_until_the_kernel_takes_it,
            expected_bytes_are_not_shown_before_they_are_there,
            both_ends_can_be_ours,
        ]
    )]
}

fn a_connection_is_opened_served_drained_and_closed(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| recorder.echo());
    let peer = Peer::connect(server.local_addr());
    assert!(matches!(log.next(), Event::Opened(_)));
    assert_eq!(server.connections(), 1);
    peer.send(b"hello");
    assert!(matches!(log.next(), Event::Bytes(bytes) if bytes == b"hello"));
    assert_eq!(peer.receive(5), b"hello");
    assert!(matches!(log.next(), Event::Drained));
    peer.end_output();
    assert!(matches!(log.next(), Event::Ended));
    assert!(matches!(log.next(), Event::Closed(Ending::ByPeer)));
    assert!(peer.receive_to_end().is_empty());
    let metrics = stage.finish([server]);
    assert_eq!((metrics.connections_opened, metrics.received_bytes, metrics.sent_bytes), (1, 5, 5));
    assert!(log.rest().is_empty());
}

/// Frames of two bytes; what is left over at the end is sent back.
fn what_is_left_over_at_the_end_is_told(ground: &Ground) {
    let stage = ground.stage();
    let server = stage.listen(move |_| {
        let (_, recorder) = log();
        recorder
            .probe()
            .bytes(|io, bytes| {
                assert!(io.unconsumed().is_empty(), "it is shown them");
                bytes.len() / 2 * 2
            })
            .end(|io| {
                let rest = io.unconsumed().to_vec();
                io.write(&[&[rest.len() as u8], &rest[..]].concat());
                io.close();
            })
    });
    for (sent, left) in [(&b"aabbc"[..], &b"\x01c"[..]), (b"aabb", b"\x00"), (b"", b"\x00"), (b"c", b"\x01c")]
    {
        let peer = Peer::connect(server.local_addr());
        peer.send(sent);
        peer.end_output();
        assert_eq!(peer.receive_to_end(), left);
    }
    stage.finish([server]);
}

/// It pauses behind its first look, with a hint of what it needs to go on.
fn a_handler_that_wants_more_is_not_called_with_less_when_it_reads_on(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| {
        let mut paused = false;
        recorder.probe().bytes(move |io, bytes| {
            if !paused {
                let all = bytes.len() == 3;
                paused = all;
                if all {
                    io.pause_reading();
                }
                io.expect(if all { 4 } else { 3 });
                return usize::from(all);
            }
            bytes.len()
        })
    });
    let peer = Peer::connect(server.local_addr());
    let handle = log.opened();
    peer.send(b"1ab");
    while log.find(|event| if let Event::Bytes(bytes) = event { Some(bytes) } else { None }) != b"1ab" {}
    handle.resume_reading().unwrap();
    // Twice, for the first may be told before reading goes on.
    for _ in 0..2 {
        handle.notify().unwrap();
        let next = log.next();
        assert!(matches!(next, Event::Notified), "it was called with less: {next:?}");
    }
    peer.send(b"cd");
    let mut rest = Vec::new();
    while rest.len() < 4 {
        let Event::Bytes(bytes) = log.next() else { continue };
        assert!(!rest.is_empty() || bytes.len() >= 4, "it was called with less: {bytes:?}");
        rest.extend(bytes);
    }
    assert_eq!(rest, b"abcd");
    drop(peer);
    stage.finish([server]);
}

fn unconsumed_bytes_come_again_with_more_behind_them(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| recorder.probe().bytes(|_, bytes| bytes.len() / 4 * 4));
    let peer = Peer::connect(server.local_addr());
    log.opened();
    peer.send(b"abcdef");
    assert_eq!(log.bytes(6), b"abcdef");
    peer.send(b"g");
    assert_eq!(log.bytes(3), b"efg");
    peer.send(b"hi");
    let shown = log.bytes(4);
    assert!(shown.starts_with(b"efgh"), "{shown:?}");
    drop(peer);
    assert_eq!(log.closed(), Ending::ByPeer);
    stage.finish([server]);
}

fn one_byte_messages_go_back_and_forth(ground: &Ground) {
    let stage = ground.stage();
    let server = stage.listen(|_| Echo);
    let peer = Peer::connect(server.local_addr());
    for byte in 0..200 {
        peer.send(&[byte]);
        assert_eq!(peer.receive(1), [byte]);
    }
    drop(peer);
    let metrics = stage.finish([server]);
    assert_eq!((metrics.receives, metrics.sends), (200, 200));
}

fn a_frame_that_comes_byte_by_byte_is_seen_whole(ground: &Ground) {
    const FRAME: usize = 500;
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| {
        recorder.probe().bytes(|io, bytes| {
            let whole = bytes.len() / FRAME * FRAME;
            io.write(&bytes[..whole]);
            whole
        })
    });
    let peer = Peer::connect(server.local_addr());
    if ground.has_resets() {
        peer.0.set_tcp_nodelay(true).unwrap();
    }
    let frame = pattern(FRAME);
    frame.iter().for_each(|byte| peer.send(&[*byte]));
    assert_eq!(peer.receive(FRAME), frame);
    drop(peer);
    assert_eq!(log.closed(), Ending::ByPeer);
    stage.finish([server]);
}

/// Large enough to go through every queue many times; all of it where nothing is masked.
fn large(ground: &Ground) -> usize {
    if ground.is_plain() { 64 << 20 } else { 4 << 20 }
}

fn a_large_message_arrives_whole(ground: &Ground) {
    // The default pool, which is the one that is made for this.
    let stage = ground.stage_with(ground.runtime_builder().pool(64, 256 << 10));
    let server = stage.listen(|_| Echo);
    let message = Bytes::from(pattern(large(ground)));
    let peer = Peer::connect(server.local_addr());
    let sender = thread::spawn({
        let (peer, message) = (Peer::over(peer.0.try_clone().unwrap()), message.clone());
        move || {
            peer.send(&message);
            peer.end_output();
        }
    });
    let answer = peer.receive_to_end();
    sender.join().unwrap();
    assert!(answer == message, "{} bytes of {} came back, or others", answer.len(), message.len());
    drop(peer);
    stage.finish([server]);
}

fn a_large_message_is_handed_over_whole(ground: &Ground) {
    let stage = ground.stage();
    let message = Bytes::from(pattern(large(ground)));
    let given = message.clone();
    let (log, recorder) = log();
    let options = StreamOptions::new().output_limits(1 << 20, 128 << 20);
    let server = stage.listen_stream(options, move |_| {
        let given = given.clone();
        recorder.probe().open(move |io| {
            io.write_bytes(given.clone());
            io.close();
        })
    });
    let peer = Peer::connect(server.local_addr());
    let received = peer.receive_to_end();
    assert!(received == message, "{} bytes of {} arrived, or others", received.len(), message.len());
    drop(peer);
    assert_eq!(log.closed(), Ending::Closed);
    stage.finish([server]);
}

fn what_is_handed_over_keeps_its_place_among_writes(ground: &Ground) {
    const PIECES: usize = 700;
    let stage = ground.stage();
    let all = pattern(PIECES * 1999);
    let given = Bytes::from(all.clone());
    let server = stage.listen(move |_| {
        let given = given.clone();
        crate::probe::log().1.probe().open(move |io| {
            let mut from = 0;
            for piece in 0..PIECES {
                // Empty pieces and long ones, copied and handed over, in no simple rhythm.
                let len = piece * piece % 1999;
                let bytes = given.slice(from..from + len);
                from += len;
                if piece % 3 == 0 { io.write(&bytes) } else { io.write_bytes(bytes) }
            }
            io.write_bytes(given.slice(from..));
            io.close();
        })
    });
    let peer = Peer::connect(server.local_addr());
    let received = peer.receive_to_end();
    assert!(received == all, "{} bytes of {} arrived, or others", received.len(), all.len());
    drop(peer);
    stage.finish([server]);
}

fn output_is_counted_until_the_kernel_takes_it(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let options = StreamOptions::new().output_limits(1000, 4000);
    let server = stage.listen_stream(options, move |_| {
        recorder
            .probe()
            .open(|io| {
                assert_eq!((io.pending(), io.room()), (0, 1000));
                io.out().extend_from_slice(b"head");
                io.write_bytes(Bytes::from_static(b"body"));
                assert_eq!((io.pending(), io.room()), (8, 992));
                io.write(&[b'.'; 1500]);
                assert_eq!((io.pending(), io.room()), (1508, 0));
            })
            .drained(|io| {
                assert_eq!((io.pending(), io.room()), (0, 1000));
                io.close();
            })
    });
    let peer = Peer::connect(server.local_addr());
    let received = peer.receive_to_end();
    assert!(received.starts_with(b"headbody..."), "{received:?}");
    assert_eq!(received.len(), 1508);
    drop(peer);
    assert_eq!(log.closed(), Ending::Closed);
    stage.finish([server]);
}

fn expected_bytes_are_not_shown_before_they_are_there(ground: &Ground) {
    const FRAME: usize = 40_000;
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| {
        recorder.probe().bytes(|io, bytes| {
            let whole = bytes.len() / FRAME * FRAME;
            io.write(&bytes[..whole]);
            io.expect(FRAME);
            whole
        })
    });
    let peer = Peer::connect(server.local_addr());
    log.opened();
    let frames = pattern(3 * FRAME);
    peer.send(&frames[..10]);
    assert_eq!(log.bytes(10), &frames[..10]);
    frames[10..].chunks(7001).for_each(|chunk| peer.send(chunk));
    assert_eq!(peer.receive(frames.len()), frames);
    drop(peer);
    let shown = std::iter::from_fn(|| match log.next() {
        Event::Bytes(bytes) => Some(bytes.len()),
        Event::Drained => Some(FRAME),
        _ => None,
    });
    // A rest at the end of a buffer may be shown in place before it is kept.
    let calls: Vec<usize> = shown.collect();
    assert!(calls.iter().filter(|len| **len < FRAME).count() <= 3, "{calls:?}");
    stage.finish([server]);
}

fn both_ends_can_be_ours(ground: &Ground) {
    const ROUNDS: u32 = 100;
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(|_| Echo);
    let mut round = 0;
    let client = stage.runtime.connect(server.local_addr(), move || {
        recorder.probe().open(|io| io.write(&0u32.to_le_bytes())).bytes(move |io, bytes| {
            let Some(answer) = bytes.first_chunk() else { return 0 };
            assert_eq!(u32::from_le_bytes(*answer), round);
            round += 1;
            if round == ROUNDS {
                io.close()
            } else {
                io.write(&round.to_le_bytes())
            }
            4
        })
    });
    let client = client.unwrap();
    assert_eq!(log.closed(), Ending::Closed);
    assert!(client.is_closed());
    let metrics = stage.finish([server]);
    assert_eq!(metrics.connections_opened, 2);
    assert_eq!(metrics.received_bytes, u64::from(ROUNDS) * 8);
}
