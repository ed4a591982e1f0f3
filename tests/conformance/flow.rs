//! Back-pressure: who reads slowly, or not at all, and what that does to the other side.

use crate::accounts::wait_until;
use crate::ground::{Ground, Peer, pattern};
use crate::probe::{Echo, Ending, Event, log};
use crate::{Suite, suite};
use std::io::{ErrorKind, Write};
use std::thread;
use std::time::Duration;
use trochus::net::StreamOptions;

pub(crate) fn suites() -> Vec<Suite> {
    vec![suite!(
        "flow",
        |_| true,
        [
            a_paused_connection_is_not_read,
            pausing_amid_bytes_keeps_the_rest,
            the_end_waits_behind_bytes_that_were_not_consumed,
            the_end_is_told_though_output_has_ended_before,
            a_peer_that_never_reads_is_stalled,
            a_handler_hears_of_room_before_its_output_runs_dry,
            what_other_threads_write_does_not_pause_reading,
            what_other_threads_wrote_counts_no_more_once_it_is_sent,
            reading_goes_on_at_half_the_limit,
            what_was_left_for_want_of_room_is_shown_again,
            too_much_output_closes_and_names_the_limit,
            too_much_unconsumed_input_closes_and_names_the_limit,
            a_pool_smaller_than_the_traffic_serves_everybody,
            a_single_buffer_serves_everybody,
        ]
    )]
}

/// Writes until the socket takes no more for a while. How much that was.
pub(crate) fn write_until_stalled(peer: &Peer, bytes: &[u8]) -> usize {
    peer.0.set_nonblocking(true).unwrap();
    let (mut written, mut refused) = (0, 0);
    while refused < 100 && written < bytes.len() {
        match (&peer.0).write(&bytes[written..]) {
            Ok(n) => (written, refused) = (written + n, 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                refused += 1;
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
    }
    peer.0.set_nonblocking(false).unwrap();
    written
}

fn a_paused_connection_is_not_read(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| recorder.probe().open(|io| io.pause_reading()));
    let peer = Peer::connect(server.local_addr());
    let handle = log.opened();
    let message = pattern(64 << 20);
    let written = write_until_stalled(&peer, &message);
    assert!(written < message.len(), "nobody reads, and still all of it found room");
    assert!(stage.metrics().received_bytes <= trochus::config::READ_AHEAD_BYTES as u64);
    handle.resume_reading().unwrap();
    assert!(log.bytes(written) == message[..written]);
    handle.pause_reading().unwrap();
    drop(peer);
    // Unless the end came before the pause.
    let _ = handle.resume_reading();
    assert_eq!(log.closed(), Ending::ByPeer);
    stage.finish([server]);
}

fn pausing_amid_bytes_keeps_the_rest(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| {
        recorder.probe().bytes(|io, bytes| {
            io.write(&bytes[..1]);
            io.pause_reading();
            1
        })
    });
    let peer = Peer::connect(server.local_addr());
    let handle = log.opened();
    let message = pattern(100);
    peer.send(&message);
    peer.end_output();
    for expected in &message {
        assert_eq!(peer.receive(1), [*expected]);
        handle.resume_reading().unwrap();
    }
    assert_eq!(log.closed(), Ending::ByPeer);
    drop(peer);
    stage.finish([server]);
}

fn the_end_waits_behind_bytes_that_were_not_consumed(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| {
        let mut calls = 0;
        recorder.probe().open(|io| io.pause_reading()).bytes(move |io, bytes| {
            calls += 1;
            if calls < 3 {
                io.pause_reading();
                return 0;
            }
            bytes.len()
        })
    });
    let peer = Peer::connect(server.local_addr());
    let handle = log.opened();
    peer.send(b"all of it");
    peer.end_output();
    for _ in 0..3 {
        handle.resume_reading().unwrap();
        assert!(matches!(log.next(), Event::Bytes(bytes) if bytes == b"all of it"));
    }
    assert!(matches!(log.next(), Event::Ended));
    assert_eq!(log.closed(), Ending::ByPeer);
    drop(peer);
    stage.finish([server]);
}

fn the_end_is_told_though_output_has_ended_before(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| {
        let mut calls = 0;
        let probe = recorder.probe().open(|io| {
            io.shutdown_write();
            io.pause_reading();
        });
        probe.bytes(move |io, bytes| {
            calls += 1;
            if calls == 1 {
                io.pause_reading();
                return 0;
            }
            bytes.len()
        })
    });
    let peer = Peer::connect(server.local_addr());
    let handle = log.opened();
    assert!(peer.receive_to_end().is_empty());
    peer.send(b"late");
    peer.end_output();
    for _ in 0..2 {
        handle.resume_reading().unwrap();
        assert!(matches!(log.next(), Event::Bytes(bytes) if bytes == b"late"));
    }
    assert!(matches!(log.next(), Event::Ended));
    assert_eq!(log.closed(), Ending::Closed);
    drop(peer);
    stage.finish([server]);
}

/// Small buffers in the kernel too, so that little fits between the two.
fn narrow() -> StreamOptions {
    StreamOptions::new().send_buffer(16 << 10).receive_buffer(16 << 10).output_limits(64 << 10, 64 << 20)
}

fn a_peer_that_never_reads_is_stalled(ground: &Ground) {
    let stage = ground.stage();
    let server = stage.listen_stream(narrow(), |_| Echo);
    let peer = Peer::prepared(server.local_addr(), |socket| {
        socket.set_recv_buffer_size(16 << 10).unwrap();
        socket.set_send_buffer_size(16 << 10).unwrap();
    });
    let message = pattern(32 << 20);
    let written = write_until_stalled(&peer, &message);
    assert!(written < 4 << 20, "the soft limit is 64 KiB, and yet {written} bytes found room");
    wait_until("reading pauses", || stage.metrics().reads_paused >= 1);
    peer.end_output();
    assert!(peer.receive_to_end() == message[..written], "all of it comes back once the peer reads");
    drop(peer);
    stage.finish([server]);
}

fn a_handler_hears_of_room_before_its_output_runs_dry(ground: &Ground) {
    const MARK: usize = 20_000;
    let stage = ground.stage();
    let (log, recorder) = log();
    let options = narrow().output_limits(64 << 10, 64 << 20).low_water(MARK);
    let server = stage.listen_stream(options, move |_| {
        let mut left = 40;
        let room = move |io: &mut trochus::net::Io<'_>| {
            assert!(io.pending() <= MARK, "{} bytes are left", io.pending());
            if left > 0 {
                left -= 1;
                io.write(&pattern(50_000));
            }
        };
        recorder
            .probe()
            .open(|io| io.write(&pattern(MARK)))
            .notify(|io| io.write(&pattern(MARK + 1)))
            .room(room)
    });
    let peer = Peer::connect(server.local_addr());
    let handle = log.opened();
    // No more than the mark was ever waiting.
    assert_eq!(peer.receive(MARK).len(), MARK);
    assert!(matches!(log.next(), Event::Drained));
    handle.notify().unwrap();
    assert_eq!(peer.receive(MARK + 1 + 40 * 50_000).len(), MARK + 1 + 40 * 50_000);
    drop(peer);
    let mut rooms = 0;
    log.find(|event| {
        rooms += u32::from(matches!(event, Event::Room));
        matches!(event, Event::Closed(_)).then_some(())
    });
    assert_eq!(rooms, 41, "once each time that it had been above");
    stage.finish([server]);
}

/// A peer that reads nothing, over little memory in the kernel.
fn narrow_peer(address: &trochus::net::Address) -> Peer {
    Peer::prepared(address, |socket| socket.set_recv_buffer_size(16 << 10).unwrap())
}

fn what_other_threads_write_does_not_pause_reading(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen_stream(narrow(), move |_| recorder.probe());
    let peer = narrow_peer(server.local_addr());
    let handle = log.opened();
    (0..4).for_each(|_| handle.write(&pattern(1 << 20)).unwrap());
    wait_until("it is the reactor's", || {
        handle.write(&[]).is_ok() && stage.metrics().sends + stage.metrics().commands > 1
    });
    peer.send(b"heard all the same");
    assert_eq!(log.bytes(18), b"heard all the same");
    assert_eq!(stage.metrics().reads_paused, 0);
    drop(peer);
    log.closed();
    stage.finish([server]);
}

/// First the one, then the other: were the first still counted, the second would never pause reading.
fn what_other_threads_wrote_counts_no_more_once_it_is_sent(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen_stream(narrow(), move |_| recorder.echo());
    let peer = narrow_peer(server.local_addr());
    peer.0.set_send_buffer_size(16 << 10).unwrap();
    let handle = log.opened();
    handle.write(&pattern(8 << 20)).unwrap();
    assert!(peer.receive(8 << 20) == pattern(8 << 20));
    let written = write_until_stalled(&peer, &pattern(32 << 20));
    assert!(written < 4 << 20, "the soft limit is 64 KiB, and yet {written} bytes found room");
    assert!(stage.metrics().reads_paused >= 1);
    peer.end_output();
    assert!(peer.receive_to_end() == pattern(32 << 20)[..written]);
    drop(peer);
    stage.finish([server]);
}

/// A pause for each half of the limit that the peer takes, not for each send.
fn reading_goes_on_at_half_the_limit(ground: &Ground) {
    const SOFT: usize = 256 << 10;
    let stage = ground.stage();
    let (log, recorder) = log();
    let options = StreamOptions::new().send_buffer(16 << 10).output_limits(SOFT, 64 << 20);
    let server = stage.listen_stream(options, move |_| recorder.echo());
    let peer = narrow_peer(server.local_addr());
    log.opened();
    let total = 16 << 20;
    let sender = {
        let peer = Peer::over(peer.0.try_clone().unwrap());
        thread::spawn(move || peer.send(&pattern(total)))
    };
    assert!(peer.receive(total) == pattern(total));
    sender.join().unwrap();
    let paused = stage.metrics().reads_paused as usize;
    assert!(paused <= total / (SOFT / 2), "reading paused {paused} times");
    drop(peer);
    stage.finish([server]);
}

/// Though nothing comes behind it.
fn what_was_left_for_want_of_room_is_shown_again(ground: &Ground) {
    const MESSAGE: usize = 80_000;
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen_stream(StreamOptions::new().output_limits(64 << 10, 64 << 20), move |_| {
        recorder.probe().bytes(|io, bytes| {
            let mut taken = 0;
            while io.room() > 0 && taken < bytes.len() {
                let chunk = &bytes[taken..bytes.len().min(taken + 10_000)];
                io.write(chunk);
                taken += chunk.len();
            }
            taken
        })
    });
    let peer = Peer::connect(server.local_addr());
    for round in 0..20 {
        peer.send(&pattern(MESSAGE));
        assert!(peer.receive(MESSAGE) == pattern(MESSAGE), "in round {round}");
    }
    drop(peer);
    assert_eq!(log.closed(), Ending::ByPeer);
    stage.finish([server]);
}

fn too_much_output_closes_and_names_the_limit(ground: &Ground) {
    const LIMIT: usize = 300_000;
    let stage = ground.stage();
    let (log, recorder) = log();
    let options = StreamOptions::new().output_limits(LIMIT, LIMIT).send_buffer(16 << 10);
    let server = stage.listen_stream(options, move |_| {
        recorder.probe().notify(|io| {
            io.write(&[1; 50_000]);
            let _ = io.handle().notify();
        })
    });
    let peer = Peer::connect(server.local_addr());
    let handle = log.opened();
    handle.notify().unwrap();
    let Ending::OutputLimit { pending, limit: LIMIT, text } = log.closed() else {
        panic!("closed for another reason")
    };
    assert!(pending > LIMIT && text.contains("300000"), "{text}");
    assert!(handle.is_closed());
    drop(peer);
    assert_eq!(stage.finish([server]).connections_over_limit, 1);
}

fn too_much_unconsumed_input_closes_and_names_the_limit(ground: &Ground) {
    const LIMIT: usize = 20_000;
    let stage = ground.stage();
    let (log, recorder) = log();
    let options = StreamOptions::new().input_limit(LIMIT);
    let server = stage.listen_stream(options, move |_| recorder.probe().bytes(|_, _| 0));
    let peer = Peer::connect(server.local_addr());
    peer.send(&[1; LIMIT]);
    wait_until("all of it has arrived", || stage.metrics().received_bytes == LIMIT as u64);
    assert_eq!(server.connections(), 1, "what is within the limit is fine");
    peer.send(&[1]);
    assert_eq!(
        log.closed(),
        Ending::InputLimit {
            pending: LIMIT + 1,
            limit: LIMIT,
            text: "the handler left 20001 bytes of input unconsumed; the limit is 20000".to_owned()
        }
    );
    peer.sees_the_end();
    assert_eq!(stage.finish([server]).connections_over_limit, 1);
}

fn a_pool_smaller_than_the_traffic_serves_everybody(ground: &Ground) {
    everybody_is_served(ground, 2, 64);
}

fn a_single_buffer_serves_everybody(ground: &Ground) {
    everybody_is_served(ground, 1, 16);
}

fn everybody_is_served(ground: &Ground, buffers: u16, connections: usize) {
    let stage = ground.stage_with(ground.runtime_builder().reactors(1).pool(buffers, 512));
    let server = stage.listen(|_| Echo);
    let message = pattern(8_000);
    let peers: Vec<Peer> = (0..connections).map(|_| Peer::connect(server.local_addr())).collect();
    peers.iter().for_each(|peer| peer.send(&message));
    peers.iter().for_each(|peer| assert!(peer.receive(message.len()) == message));
    drop(peers);
    stage.finish([server]);
}
