//! Receiving: in place, in order, to the end, within the pool.

mod common;

use common::{Harness, KINDS, Kind, error_number, harness, harness_with, pair, pattern};
use std::io::Write;
use std::net::Shutdown;
use std::thread;
use std::time::Duration;
use trochus_fallback::{Event, Settings};

const RECEIVE: u64 = 11;

#[test]
fn a_peer_that_writes_byte_by_byte() {
    for kind in KINDS {
        // Where the two keep step, each turn's every receive is of one byte.
        let mut harness = harness(32);
        let (socket, mut peer) = pair(kind);
        let fd = harness.attach(socket);
        harness.proactor.receive(fd, RECEIVE);
        let sent = pattern(0, 5_000);
        let bytes = sent.clone();
        let writer = thread::spawn(move || {
            bytes.iter().for_each(|byte| peer.write_all(&[*byte]).unwrap());
        });
        assert_eq!(harness.gather(sent.len()), sent);
        writer.join().unwrap();
        assert_eq!(harness.next().token, RECEIVE);
        harness.assert_settled();
    }
}

#[test]
fn a_half_close_delivers_what_was_sent_before_and_leaves_the_other_half() {
    for kind in KINDS {
        for armed_before in [false, true] {
            let mut harness = harness_with(8, Settings::default().buffer_bytes(1_000));
            let (socket, mut peer) = pair(kind);
            let fd = harness.attach(socket);
            if armed_before {
                harness.proactor.receive(fd, RECEIVE);
            }
            harness.assert_quiet();
            let sent = pattern(0, 50_500);
            peer.write_all(&sent).unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
            if !armed_before {
                harness.assert_quiet();
                harness.proactor.receive(fd, RECEIVE);
            }
            assert_eq!(harness.gather(sent.len()), sent);
            let completion = harness.next();
            assert_eq!(harness.bytes_of(completion), None);
            harness.assert_settled();
            // The end stays the end.
            harness.proactor.receive(fd, RECEIVE);
            let completion = harness.next();
            assert_eq!(harness.bytes_of(completion), None);
            harness.proactor.send(fd, b"answer".to_vec(), 1);
            assert!(matches!(harness.next().event, Event::Sent(Ok(6), _)));
            let mut answer = [0; 6];
            std::io::Read::read_exact(&mut peer, &mut answer).unwrap();
            assert_eq!(&answer, b"answer");
            harness.assert_settled();
        }
    }
}

/// The end arrives in the same event as the last bytes, before it, and after those were read.
#[test]
fn the_end_is_noticed_whenever_it_comes() {
    for kind in KINDS {
        for rounds in 0..3 {
            let mut harness = harness(4);
            let (socket, mut peer) = pair(kind);
            let fd = harness.attach(socket);
            harness.proactor.receive(fd, RECEIVE);
            for _ in 0..rounds {
                peer.write_all(b"short").unwrap();
                assert_eq!(harness.gather(5), b"short");
                harness.assert_quiet();
            }
            if rounds == 1 {
                peer.write_all(b"last").unwrap();
            }
            drop(peer);
            if rounds == 1 {
                assert_eq!(harness.gather(4), b"last");
            }
            let completion = harness.next();
            assert_eq!(harness.bytes_of(completion), None);
            harness.assert_settled();
        }
    }
}

#[test]
fn what_is_received_once_is_no_more_than_was_asked_for() {
    for kind in KINDS {
        let mut harness = harness_with(4, Settings::default().buffer_bytes(1_000));
        let (socket, mut peer) = pair(kind);
        let fd = harness.attach(socket);
        let sent = pattern(0, 3_000);
        peer.write_all(&sent).unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        let mut received = Vec::new();
        for (most, expected) in [(10, 10), (0, 1), (2_000, 1_000), (1_000, 1_000), (1_000, 989), (1, 0)] {
            harness.proactor.receive_once(fd, most, RECEIVE);
            let completion = harness.next();
            assert!(!completion.more);
            let Event::Received(Ok(part)) = completion.event else { panic!("a receive failed") };
            assert_eq!(part.len, expected, "{most} were asked for");
            if let Some(buffer) = part.buffer {
                received.extend_from_slice(harness.proactor.bytes(buffer, part.len));
                harness.proactor.release(buffer);
            }
            harness.assert_settled();
        }
        assert_eq!(received, sent);
    }
}

#[test]
fn a_watch_tells_of_a_reset_and_of_nothing_else() {
    // It was there before the watch, or comes meanwhile.
    for watched_before in [false, true] {
        let mut harness = harness(4);
        let (socket, mut peer) = pair(Kind::Tcp);
        let fd = harness.attach(socket);
        harness.proactor.receive_once(fd, 3, RECEIVE);
        peer.write_all(b"before").unwrap();
        let completion = harness.next();
        assert!(matches!(&completion.event, Event::Received(Ok(part)) if part.len == 3));
        let Event::Received(Ok(part)) = completion.event else { unreachable!() };
        harness.proactor.release(part.buffer.unwrap());
        if watched_before {
            harness.proactor.watch(fd, RECEIVE);
            peer.write_all(b"more").unwrap();
            harness.assert_quiet();
        }
        peer.set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        if !watched_before {
            harness.assert_quiet();
            harness.proactor.watch(fd, RECEIVE);
        }
        assert_eq!(error_number(&harness.next()), Some(libc::ECONNRESET));
        harness.assert_settled();
    }
}

#[test]
fn a_watch_does_not_take_an_end_for_a_reset_and_can_be_cancelled() {
    for kind in KINDS {
        let mut harness = harness(4);
        let (socket, mut peer) = pair(kind);
        let fd = harness.attach(socket);
        harness.proactor.watch(fd, RECEIVE);
        peer.write_all(b"unread").unwrap();
        drop(peer);
        harness.assert_quiet();
        harness.proactor.cancel(fd, RECEIVE);
        assert_eq!(error_number(&harness.next()), Some(libc::ECANCELED));
        harness.proactor.receive(fd, RECEIVE);
        assert_eq!(harness.gather(6), b"unread");
        let completion = harness.next();
        assert_eq!(harness.bytes_of(completion), None);
        harness.assert_settled();
    }
}

#[test]
fn a_reset_is_an_error() {
    let mut harness = harness(4);
    let (socket, mut peer) = pair(Kind::Tcp);
    let fd = harness.attach(socket);
    harness.proactor.receive(fd, RECEIVE);
    peer.write_all(b"before").unwrap();
    assert_eq!(harness.gather(6), b"before");
    peer.set_linger(Some(Duration::ZERO)).unwrap();
    drop(peer);
    let completion = harness.next();
    assert!(matches!(completion.event, Event::Received(Err(_))));
    assert_eq!(error_number(&completion), Some(libc::ECONNRESET));
    harness.assert_settled();
}

#[test]
fn a_pool_of_one_buffer_carries_everything() {
    for kind in KINDS {
        let mut harness = harness_with(1, Settings::default().buffer_bytes(700));
        let (socket, mut peer) = pair(kind);
        let fd = harness.attach(socket);
        let sent = pattern(0, 300_000);
        let bytes = sent.clone();
        let writer = thread::spawn(move || {
            peer.write_all(&bytes).unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
            peer
        });
        harness.proactor.receive(fd, RECEIVE);
        let (mut received, mut exhausted) = (Vec::new(), 0);
        loop {
            let completion = harness.next();
            if completion.more && exhausted < 10 {
                // Its buffer is still on loan in the next wait.
                while harness.wait(Some(Duration::from_millis(1))) == 0 {}
            }
            if matches!(&completion.event, Event::Received(Err(_))) {
                assert_eq!(error_number(&completion), Some(libc::ENOBUFS));
                exhausted += 1;
                harness.proactor.receive(fd, RECEIVE);
                continue;
            }
            match harness.bytes_of(completion) {
                Some(bytes) => received.extend(bytes),
                None => break,
            }
        }
        assert_eq!(received, sent);
        assert!(exhausted > 0, "the pool never ran out, so nothing was tested");
        writer.join().unwrap();
        harness.assert_settled();
    }
}

#[test]
fn without_a_free_buffer_the_receive_ends_and_goes_on_when_armed_again() {
    for kind in KINDS {
        let mut harness = harness_with(2, Settings::default().buffer_bytes(4));
        let (socket, mut peer) = pair(kind);
        let fd = harness.attach(socket);
        harness.proactor.receive(fd, RECEIVE);
        peer.write_all(b"aaaabbbbcccc").unwrap();
        let held: Vec<_> = (0..2)
            .map(|_| match harness.next().event {
                Event::Received(Ok(received)) => received,
                other => panic!("{other:?}"),
            })
            .collect();
        let completion = harness.next();
        assert_eq!(error_number(&completion), Some(libc::ENOBUFS));
        assert_eq!((harness.proactor.free_buffers(), harness.proactor.pending()), (0, 0));
        harness.assert_quiet();
        // Armed too early, it ends the same way, and does not spin.
        harness.proactor.receive(fd, RECEIVE);
        let completion = harness.next();
        assert_eq!(error_number(&completion), Some(libc::ENOBUFS));
        harness.assert_quiet();
        let texts: Vec<_> = held
            .iter()
            .map(|received| harness.proactor.bytes(received.buffer.unwrap(), received.len).to_vec())
            .collect();
        assert_eq!(texts, [b"aaaa", b"bbbb"]);
        for received in held {
            harness.proactor.release(received.buffer.unwrap());
        }
        harness.proactor.receive(fd, RECEIVE);
        assert_eq!(harness.gather(4), b"cccc");
    }
}

#[test]
fn an_exhausted_pool_does_not_disturb_a_receive_that_has_nothing_to_read() {
    for kind in KINDS {
        let mut harness = harness_with(1, Settings::default().buffer_bytes(64));
        let ((idle, _idle_peer), (busy, mut busy_peer)) = (pair(kind), pair(kind));
        let (idle, busy) = (harness.attach(idle), harness.attach(busy));
        harness.proactor.receive(idle, 1);
        harness.proactor.receive(busy, 2);
        harness.assert_quiet();
        busy_peer.write_all(b"x").unwrap();
        let completion = harness.next();
        assert_eq!((completion.token, completion.more), (2, true));
        assert_eq!(harness.proactor.free_buffers(), 0);
        for completion in harness.turn() {
            assert_eq!(completion.token, 2, "the idle receive was ended");
        }
    }
}

#[test]
fn cancel_in_every_state() {
    for kind in KINDS {
        let mut harness = harness(4);
        let (socket, mut peer) = pair(kind);
        let fd = harness.attach(socket);
        let cancelled = |harness: &mut Harness, token| {
            harness.proactor.cancel(fd, token);
            let completion = harness.next();
            assert_eq!(completion.token, token);
            assert!(matches!(completion.event, Event::Received(Err(_))));
            assert_eq!(error_number(&completion), Some(libc::ECANCELED));
            harness.assert_settled();
        };
        // Not tried yet.
        harness.proactor.receive(fd, 1);
        cancelled(&mut harness, 1);
        // Waiting for readiness.
        harness.proactor.receive(fd, 2);
        harness.assert_quiet();
        cancelled(&mut harness, 2);
        // Ready, not tried yet.
        harness.proactor.receive(fd, 3);
        harness.assert_quiet();
        peer.write_all(b"kept").unwrap();
        cancelled(&mut harness, 3);
        // Not pending any more, never pending, pending elsewhere, nowhere.
        harness.proactor.cancel(fd, 3);
        harness.proactor.cancel(fd, 99);
        harness.proactor.cancel(fd + 1, 4);
        harness.proactor.cancel(-1, 4);
        harness.assert_settled();
        // In the middle of a stream; nothing is lost.
        harness.proactor.receive(fd, 4);
        assert_eq!(harness.gather(4), b"kept");
        cancelled(&mut harness, 4);
        peer.write_all(b"more").unwrap();
        harness.assert_settled();
        harness.proactor.receive(fd, 5);
        assert_eq!(harness.gather(4), b"more");
        // At the end, which completed it.
        drop(peer);
        let completion = harness.next();
        assert_eq!(harness.bytes_of(completion), None);
        harness.proactor.cancel(fd, 5);
        harness.assert_settled();
    }
}

#[test]
fn a_cancel_and_a_new_receive_in_one_go() {
    for kind in KINDS {
        let mut harness = harness(4);
        let (socket, mut peer) = pair(kind);
        let fd = harness.attach(socket);
        harness.proactor.receive(fd, 1);
        peer.write_all(b"bytes").unwrap();
        harness.proactor.cancel(fd, 1);
        harness.proactor.receive(fd, 2);
        let completion = harness.next();
        assert_eq!((completion.token, error_number(&completion)), (1, Some(libc::ECANCELED)));
        let completion = harness.next();
        assert_eq!(completion.token, 2);
        assert_eq!(harness.bytes_of(completion).unwrap(), b"bytes");
    }
}

#[test]
fn what_is_not_armed_is_not_read() {
    for kind in KINDS {
        let mut harness = harness(4);
        let (socket, mut peer) = pair(kind);
        let unread = socket.try_clone().unwrap();
        let fd = harness.attach(socket);
        peer.write_all(b"left").unwrap();
        harness.assert_settled();
        let mut bytes = [std::mem::MaybeUninit::uninit(); 8];
        assert_eq!(unread.peek(&mut bytes).unwrap(), 4);
        harness.proactor.receive(fd, RECEIVE);
        assert_eq!(harness.gather(4), b"left");
    }
}

#[test]
fn a_greedy_peer_does_not_starve_another() {
    for kind in KINDS {
        let settings = Settings::default().buffer_bytes(16).receives_per_turn(3);
        let mut harness = harness_with(64, settings);
        let ((greedy, mut greedy_peer), (modest, mut modest_peer)) = (pair(kind), pair(kind));
        let (greedy, modest) = (harness.attach(greedy), harness.attach(modest));
        harness.proactor.receive(greedy, 1);
        harness.proactor.receive(modest, 2);
        harness.assert_quiet();
        greedy_peer.write_all(&pattern(0, 4_000)).unwrap();
        modest_peer.write_all(b"m").unwrap();
        let mut received = Vec::new();
        for turn in 0.. {
            let completions = harness.turn();
            let tokens: Vec<u64> = completions.iter().map(|completion| completion.token).collect();
            let of_greedy = tokens.iter().filter(|token| **token == 1).count();
            assert!(of_greedy <= 3, "{of_greedy} receives in one turn");
            assert_eq!(tokens.contains(&2), turn == 0, "the modest peer is served in the first turn");
            for completion in completions {
                let token = completion.token;
                let bytes = harness.bytes_of(completion).unwrap();
                if token == 1 {
                    received.extend(bytes);
                }
            }
            if received.len() == 4_000 {
                break;
            }
            assert!(harness.proactor.has_work(), "the next wait would sleep on {} bytes", received.len());
        }
        assert_eq!(received, pattern(0, 4_000));
        harness.assert_quiet();
    }
}

/// Urgent data splits a read in two although more is there: a short read that proves nothing.
#[test]
fn urgent_data_does_not_hide_what_follows_it() {
    let mut harness = harness(4);
    let (socket, mut peer) = pair(Kind::Tcp);
    let fd = harness.attach(socket);
    harness.proactor.receive(fd, RECEIVE);
    harness.assert_quiet();
    for _ in 0..3 {
        peer.write_all(b"before").unwrap();
        peer.send_out_of_band(b"!").unwrap();
        peer.write_all(b"after").unwrap();
        assert_eq!(harness.gather(11), b"beforeafter");
        harness.assert_quiet();
    }
}

/// So do descriptors sent along.
#[test]
fn descriptors_sent_along_do_not_hide_what_follows_them() {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::io::IoSlice;
    use std::mem::MaybeUninit;
    use std::os::fd::AsFd;

    let mut harness = harness(4);
    let (socket, peer) = pair(Kind::Unix);
    let fd = harness.attach(socket);
    harness.proactor.receive(fd, RECEIVE);
    harness.assert_quiet();
    for part in [b"one", b"two", b"six"] {
        let descriptors = [peer.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
        sendmsg(&peer, &[IoSlice::new(part)], &mut ancillary, SendFlags::empty()).unwrap();
    }
    assert_eq!(harness.gather(9), b"onetwosix");
    harness.assert_quiet();
}

/// More sockets are ready than one turn hears of: they get their turn in the next ones, and nobody twice before all had one.
#[test]
fn those_of_whom_a_turn_does_not_hear_come_next() {
    for kind in KINDS {
        let mut harness: Harness = Harness::new(64, Settings::default().events_per_turn(4));
        let pairs: Vec<_> = (0..20).map(|_| pair(kind)).collect();
        let mut peers = Vec::new();
        for (token, (socket, peer)) in (0..).zip(pairs) {
            let fd = harness.attach(socket);
            harness.proactor.receive(fd, token);
            peers.push(peer);
        }
        harness.assert_quiet();
        peers.iter_mut().for_each(|peer| peer.write_all(b"x").unwrap());
        let mut seen = Vec::new();
        for _ in 0..5 {
            for completion in harness.turn() {
                seen.push(completion.token);
                harness.bytes_of(completion);
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..20).collect::<Vec<_>>());
    }
}

/// One that has much to send does not take the buffers of those behind it in the same turn.
#[test]
fn a_greedy_peer_takes_no_more_than_its_share_of_the_pool() {
    const BUFFERS: u16 = 16;
    for kind in KINDS {
        let settings = Settings::default().buffer_bytes(8).receives_per_turn(BUFFERS.into());
        let mut harness = harness_with(BUFFERS, settings);
        let sockets: Vec<_> = (0..BUFFERS).map(|_| pair(kind)).collect();
        let mut peers = Vec::new();
        for (number, (socket, mut peer)) in sockets.into_iter().enumerate() {
            peer.write_all(&pattern(0, if number < 2 { 1_000 } else { 8 })).unwrap();
            let fd = harness.attach(socket);
            harness.proactor.receive(fd, number as u64);
            peers.push(peer);
        }
        // Nobody runs out, and nobody goes without.
        let mut served: Vec<u64> = Vec::new();
        for completion in harness.turn() {
            served.push(completion.token);
            assert_eq!(harness.bytes_of(completion).expect("it has not ended").len(), 8);
        }
        served.sort_unstable();
        assert_eq!(served, (0..u64::from(BUFFERS)).collect::<Vec<_>>());
        // Once the others have nothing more, the two share all there is.
        let most = (0..3).map(|_| {
            let completions = harness.turn();
            let count = completions.len();
            completions.into_iter().for_each(|completion| drop(harness.bytes_of(completion)));
            count
        });
        assert_eq!(most.max(), Some(BUFFERS.into()));
    }
}
