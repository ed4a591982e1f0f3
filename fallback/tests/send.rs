//! Sending: all of it, in order, and the payload comes back.

mod common;

use common::{Harness, KINDS, Kind, error_number, harness, pair, pattern, pattern_at};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::Duration;
use trochus_fallback::socket2::Socket;
use trochus_fallback::{Event, Settings};

const SEND: u64 = 21;
const RECEIVE: u64 = 22;

fn with_small_buffers(kind: Kind) -> (Socket, Socket) {
    let (here, there) = pair(kind);
    let bytes = match kind {
        // Below a loopback segment, TCP leaves the pace to its timers.
        Kind::Tcp => 32 * 1024,
        Kind::Unix => 4 * 1024,
    };
    for socket in [&here, &there] {
        socket.set_send_buffer_size(bytes).unwrap();
        socket.set_recv_buffer_size(bytes).unwrap();
    }
    (here, there)
}

/// Fills the socket's buffers until a send blocks; returns how many bytes went.
fn fill(harness: &mut Harness, fd: i32) -> usize {
    harness.proactor.send(fd, pattern(0, 16 << 20), SEND);
    harness.assert_quiet();
    harness.proactor.cancel(fd, SEND);
    let completion = harness.next();
    let Event::Sent(Ok(sent), payload) = completion.event else { panic!("no progress") };
    assert!(sent > 0 && sent < payload.len());
    harness.assert_settled();
    sent
}

#[test]
fn sixty_four_mebibytes_both_ways_through_small_socket_buffers() {
    const BYTES: usize = 64 << 20;
    for kind in KINDS {
        let (socket, mut peer) = with_small_buffers(kind);
        let mut reader = peer.try_clone().unwrap();
        let expected = pattern(0, BYTES);
        thread::scope(|scope| {
            scope.spawn(|| {
                peer.write_all(&expected).unwrap();
                peer.shutdown(Shutdown::Write).unwrap();
            });
            scope.spawn(|| {
                let (mut buffer, mut position) = (vec![0; 100_000], 0);
                while position < BYTES {
                    let count = reader.read(&mut buffer).unwrap();
                    assert_ne!(count, 0, "the stream ended at {position}");
                    assert!(buffer[..count] == expected[position..position + count], "at {position}");
                    position += count;
                }
            });
            send_and_receive(socket, &expected);
        });
    }
}

/// Sends `bytes` and receives the same, to the end of the stream.
fn send_and_receive(socket: Socket, bytes: &[u8]) {
    let mut harness = harness(16);
    let fd = harness.attach(socket);
    harness.proactor.send(fd, bytes.to_vec(), SEND);
    harness.proactor.receive(fd, RECEIVE);
    let (mut position, mut sent, mut ended) = (0, false, false);
    while !(sent && ended) {
        let completion = harness.next();
        if completion.token == SEND {
            let Event::Sent(Ok(count), payload) = completion.event else { panic!("the send failed") };
            assert_eq!((count, payload.len()), (bytes.len(), bytes.len()));
            sent = true;
        } else if let Some(part) = harness.bytes_of(completion) {
            assert!(part == bytes[position..position + part.len()], "at {position}");
            position += part.len();
        } else {
            ended = true;
        }
    }
    assert_eq!(position, bytes.len());
    harness.assert_settled();
}

#[test]
fn the_payload_that_comes_back_is_the_one_that_was_given() {
    for kind in KINDS {
        let mut harness = harness(4);
        let (socket, mut peer) = pair(kind);
        let fd = harness.attach(socket);
        let payload = b"hello".to_vec();
        let address = payload.as_ptr();
        harness.proactor.send(fd, payload, SEND);
        assert_eq!(harness.proactor.pending(), 1);
        let completion = harness.next();
        assert_eq!((completion.token, completion.more), (SEND, false));
        let Event::Sent(Ok(5), payload) = completion.event else { panic!("short") };
        assert_eq!(payload.as_ptr(), address);
        let mut bytes = [0; 5];
        peer.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
        harness.assert_settled();
    }
}

/// More parts than one turn sends: what is left keeps the next wait from sleeping, although nothing has completed.
#[test]
fn a_payload_of_very_many_parts_is_sent_without_a_rest() {
    for kind in KINDS {
        let settings = Settings::default();
        let mut harness = Harness::<Vec<Vec<u8>>>::new(4, settings);
        let (socket, mut peer) = pair(kind);
        let fd = harness.attach(socket);
        const PARTS: usize = 20_000;
        harness.proactor.send(fd, vec![vec![7]; PARTS], SEND);
        let reader = thread::spawn(move || {
            let mut bytes = vec![0; PARTS];
            peer.read_exact(&mut bytes).unwrap();
            bytes
        });
        assert!(matches!(harness.next().event, Event::Sent(Ok(PARTS), _)));
        assert_eq!(reader.join().unwrap(), [7; PARTS]);
        harness.assert_settled();
    }
}

#[test]
fn nothing_to_send_is_sent_at_once() {
    let mut harness = harness(4);
    let (socket, _peer) = pair(Kind::Tcp);
    let fd = harness.attach(socket);
    harness.proactor.send(fd, Vec::new(), SEND);
    assert!(matches!(harness.next().event, Event::Sent(Ok(0), _)));
    harness.assert_settled();
}

#[test]
fn a_payload_of_many_parts_arrives_in_order() {
    for kind in KINDS {
        let mut harness = Harness::<Vec<Vec<u8>>>::new(4, Settings::default());
        let (socket, mut peer) = with_small_buffers(kind);
        let fd = harness.attach(socket);
        let parts: Vec<Vec<u8>> = (0..1_000)
            .scan(0, |start, number| {
                let len = number * 7 % 400;
                *start += len;
                Some(pattern(*start - len, len))
            })
            .collect();
        let total = parts.iter().map(Vec::len).sum::<usize>();
        harness.proactor.send(fd, parts, SEND);
        let reader = thread::spawn(move || {
            let mut bytes = vec![0; total];
            peer.read_exact(&mut bytes).unwrap();
            bytes
        });
        let Event::Sent(Ok(sent), parts) = harness.next().event else { panic!("failed") };
        assert_eq!((sent, parts.len()), (total, 1_000));
        assert!(reader.join().unwrap() == pattern(0, total));
        harness.assert_settled();
    }
}

#[test]
fn a_turn_makes_no_more_send_calls_than_its_bound() {
    let settings = Settings::default().sends_per_turn(1);
    let mut harness = Harness::<Vec<Vec<u8>>>::new(4, settings);
    let (socket, mut peer) = pair(Kind::Tcp);
    let fd = harness.attach(socket);
    harness.proactor.send(fd, vec![vec![b'p']; 3 * trochus_fallback::MAX_SLICES], SEND);
    let mut received = 0;
    for _ in 0..3 {
        assert!(harness.turn().is_empty());
        assert!(harness.proactor.has_work());
        let mut bytes = [0; trochus_fallback::MAX_SLICES];
        peer.read_exact(&mut bytes).unwrap();
        received += bytes.len();
    }
    assert!(matches!(harness.next().event, Event::Sent(Ok(sent), _) if sent == received));
}

#[test]
fn a_send_that_blocks_goes_on_when_the_peer_reads() {
    for kind in KINDS {
        let mut harness = harness(4);
        let (socket, mut peer) = with_small_buffers(kind);
        let fd = harness.attach(socket);
        harness.proactor.send(fd, pattern(0, 1 << 20), SEND);
        harness.assert_quiet();
        assert_eq!(harness.proactor.pending(), 1);
        let reader = thread::spawn(move || {
            let mut bytes = vec![0; 1 << 20];
            peer.read_exact(&mut bytes).unwrap();
            bytes.iter().enumerate().all(|(position, byte)| *byte == pattern_at(position))
        });
        assert!(matches!(harness.next().event, Event::Sent(Ok(sent), _) if sent == 1 << 20));
        assert!(reader.join().unwrap());
        harness.assert_settled();
    }
}

#[test]
fn cancel_before_any_progress_hands_the_payload_back() {
    for kind in KINDS {
        for blocked in [false, true] {
            let mut harness = harness(4);
            let (socket, mut peer) = with_small_buffers(kind);
            let fd = harness.attach(socket);
            let filled = if blocked { fill(&mut harness, fd) } else { 0 };
            harness.proactor.send(fd, b"unsent".to_vec(), SEND);
            if blocked {
                harness.assert_quiet();
            }
            harness.proactor.cancel(fd, SEND);
            let completion = harness.next();
            assert_eq!(error_number(&completion), Some(libc::ECANCELED));
            let Event::Sent(Err(_), payload) = completion.event else { panic!("not a send") };
            assert_eq!(payload, b"unsent");
            harness.proactor.cancel(fd, SEND);
            harness.assert_settled();
            harness.proactor.detach(fd);
            let mut bytes = Vec::new();
            peer.read_to_end(&mut bytes).unwrap();
            assert!(bytes == pattern(0, filled), "the count of a cancelled send is what went out");
        }
    }
}

#[test]
fn an_error_after_progress_is_a_short_count_and_shows_when_the_rest_is_sent() {
    for kind in KINDS {
        let mut harness = harness(4);
        let (socket, peer) = with_small_buffers(kind);
        let fd = harness.attach(socket);
        harness.proactor.send(fd, pattern(0, 16 << 20), SEND);
        harness.assert_quiet();
        peer.set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        let completion = harness.next();
        assert!(!completion.more);
        let Event::Sent(Ok(sent), payload) = completion.event else { panic!("the count is lost") };
        assert!(sent > 0 && sent < payload.len());
        harness.proactor.send(fd, payload[sent..].to_vec(), SEND);
        let completion = harness.next();
        let number = error_number(&completion);
        assert!(matches!(number, Some(libc::EPIPE | libc::ECONNRESET)), "{number:?}");
        let Event::Sent(Err(_), rest) = completion.event else { panic!("not a send") };
        assert_eq!(rest.len(), payload.len() - sent);
        harness.assert_settled();
    }
}

#[test]
fn a_peer_that_does_not_read_does_not_hold_up_another() {
    for kind in KINDS {
        let mut harness = harness(4);
        let ((stuck, _stuck_peer), (fine, mut fine_peer)) = (with_small_buffers(kind), pair(kind));
        let (stuck, fine) = (harness.attach(stuck), harness.attach(fine));
        harness.proactor.send(stuck, pattern(0, 16 << 20), 1);
        for _ in 0..100 {
            harness.proactor.send(fine, b"through".to_vec(), 2);
            assert_eq!(harness.next().token, 2);
            let mut bytes = [0; 7];
            fine_peer.read_exact(&mut bytes).unwrap();
            assert_eq!(&bytes, b"through");
        }
        assert_eq!(harness.proactor.pending(), 1);
    }
}

#[test]
fn a_long_send_shows_its_progress_piece_by_piece() {
    const PIECE: usize = 100_000;
    for kind in KINDS {
        let mut harness = Harness::new(1, Settings::default().bytes_per_send(PIECE));
        let (socket, mut peer) = pair(kind);
        let fd = harness.attach(socket);
        let expected = pattern(0, 10 * PIECE + 1);
        let reader = thread::spawn(move || {
            let mut received = Vec::new();
            peer.read_to_end(&mut received).unwrap();
            received
        });
        let (mut rest, mut pieces) = (expected.clone(), 0);
        while !rest.is_empty() {
            harness.proactor.send(fd, rest, SEND);
            let Event::Sent(Ok(sent), payload) = harness.next().event else { panic!("failed") };
            // As long as a piece, unless it was the last one.
            assert!(sent >= PIECE || sent == payload.len(), "{sent}");
            rest = payload[sent..].to_vec();
            pieces += 1;
        }
        assert!(pieces > 1);
        harness.assert_settled();
        harness.proactor.detach(fd);
        drop(harness);
        assert!(reader.join().unwrap() == expected);
    }
}
