//! How connections end when both sides behave.

use crate::ground::{Ground, Peer, pattern};
use crate::probe::{Ending, Event, log};
use crate::{Suite, suite};
use std::io::{ErrorKind, Write};
use std::thread;
use std::time::Duration;
use trochus::net::StreamOptions;

pub(crate) fn suites() -> Vec<Suite> {
    vec![suite!(
        "endings",
        |_| true,
        [
            a_peer_that_half_closes_still_gets_all_output,
            output_after_the_peers_end_still_arrives,
            who_has_half_closed_still_hears_the_peer,
            closing_amid_input_still_delivers_all_output,
            closing_discards_what_the_peer_still_sends,
            writes_after_closing_go_nowhere,
            an_abort_is_at_once,
            an_abort_loses_what_was_not_sent,
            a_peer_that_does_not_finish_is_left,
            a_connection_can_be_closed_as_it_opens,
            clients_close_and_abort_too,
        ]
    )]
}

const MUCH: usize = 4 << 20;

fn a_peer_that_half_closes_still_gets_all_output(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| recorder.probe().open(|io| io.write(&pattern(MUCH))));
    let peer = Peer::connect(server.local_addr());
    peer.end_output();
    assert!(peer.receive_to_end() == pattern(MUCH));
    drop(peer);
    log.find(|event| matches!(event, Event::Ended).then_some(()));
    assert_eq!(log.closed(), Ending::ByPeer);
    stage.finish([server]);
}

fn output_after_the_peers_end_still_arrives(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| recorder.probe().end(|_| {}));
    let peer = Peer::connect(server.local_addr());
    let handle = log.opened();
    peer.end_output();
    assert!(matches!(log.next(), Event::Ended));
    let message = pattern(100_000);
    message.chunks(33_333).for_each(|chunk| handle.write(chunk).unwrap());
    assert!(peer.receive(message.len()) == message);
    handle.write(b"and on").unwrap();
    handle.shutdown_write().unwrap();
    assert_eq!(peer.receive_to_end(), b"and on");
    assert_eq!(log.closed(), Ending::ByPeer);
    drop(peer);
    stage.finish([server]);
}

fn who_has_half_closed_still_hears_the_peer(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| {
        recorder.probe().open(|io| {
            io.write(b"no more from here");
            io.shutdown_write();
            io.write(b"nor this");
        })
    });
    let peer = Peer::connect(server.local_addr());
    log.opened();
    assert_eq!(peer.receive_to_end(), b"no more from here");
    let message = pattern(300_000);
    peer.send(&message);
    assert!(log.bytes(message.len()) == message);
    peer.end_output();
    assert!(matches!(log.next(), Event::Ended));
    assert_eq!(log.closed(), Ending::Closed);
    drop(peer);
    stage.finish([server]);
}

/// Sends until nobody wants it any more. The peer's own kernel may hold a reset against it only when all was read.
fn keep_sending(peer: &Peer) -> thread::JoinHandle<()> {
    let socket = peer.0.try_clone().unwrap();
    thread::spawn(move || {
        for _ in 0..64 {
            if (&socket).write_all(&[7; 64 << 10]).is_err() {
                break;
            }
        }
    })
}

fn closing_amid_input_still_delivers_all_output(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| {
        recorder.probe().bytes(|io, _| {
            io.write(&pattern(MUCH));
            io.close();
            0
        })
    });
    let peer = Peer::connect(server.local_addr());
    let sender = keep_sending(&peer);
    let received = peer.receive_to_end();
    assert!(received == pattern(MUCH), "{} bytes of {MUCH} arrived, or others", received.len());
    sender.join().unwrap();
    drop(peer);
    assert_eq!(log.closed(), Ending::Closed);
    stage.finish([server]);
}

fn closing_discards_what_the_peer_still_sends(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| {
        recorder.probe().bytes(|io, bytes| {
            io.close();
            bytes.len()
        })
    });
    let peer = Peer::connect(server.local_addr());
    log.opened();
    peer.send(b"1");
    assert_eq!(log.bytes(1), b"1");
    keep_sending(&peer).join().unwrap();
    assert!(peer.receive_to_end().is_empty());
    drop(peer);
    assert!(matches!(log.next(), Event::Closed(Ending::Closed)), "input was delivered after the close");
    stage.finish([server]);
}

fn writes_after_closing_go_nowhere(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| {
        recorder.probe().open(|io| {
            io.write(b"last words");
            assert!(!io.is_closing());
            io.close();
            assert!(io.is_closing());
            io.write(b"and one more");
            io.out().extend_from_slice(b"or two");
            io.write_bytes(bytes::Bytes::from_static(b"or three"));
            assert_eq!(io.pending(), 10);
        })
    });
    let peer = Peer::connect(server.local_addr());
    assert_eq!(peer.receive_to_end(), b"last words");
    drop(peer);
    assert_eq!(log.closed(), Ending::Closed);
    stage.finish([server]);
}

fn an_abort_is_at_once(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| {
        recorder.probe().bytes(|io, bytes| {
            io.abort();
            bytes.len()
        })
    });
    let peer = Peer::connect(server.local_addr());
    peer.send(b"provocation");
    peer.sees_the_end();
    assert_eq!(log.closed(), Ending::Aborted);
    stage.finish([server]);
}

fn an_abort_loses_what_was_not_sent(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| recorder.probe().open(|io| io.write(&pattern(32 << 20))));
    let peer = Peer::connect(server.local_addr());
    let handle = log.opened();
    assert_eq!(peer.receive(10), &pattern(10)[..]);
    handle.abort().unwrap();
    assert_eq!(log.closed(), Ending::Aborted);
    let mut rest = Vec::new();
    match std::io::Read::read_to_end(&mut &peer.0, &mut rest) {
        Ok(_) => assert!(!ground.has_resets(), "TCP has a reset for this"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    assert!(rest.len() < (32 << 20) - 10, "nothing was lost");
    stage.finish([server]);
}

fn a_peer_that_does_not_finish_is_left(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let options = StreamOptions::new().close_timeout(Duration::from_millis(30));
    let server = stage.listen_stream(options, move |_| recorder.probe().open(|io| io.close()));
    let peer = Peer::connect(server.local_addr());
    assert!(peer.receive_to_end().is_empty());
    assert_eq!(log.closed(), Ending::CloseTimeout);
    assert_eq!(stage.finish([server]).connections_over_limit, 1);
    drop(peer);
}

fn a_connection_can_be_closed_as_it_opens(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| recorder.probe().open(|io| io.abort()));
    for _ in 0..20 {
        match Peer::try_connect(server.local_addr()) {
            Ok(peer) => peer.sees_the_end(),
            // Where the reset overtook the connect.
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
        assert_eq!(log.closed(), Ending::Aborted);
    }
    assert_eq!(stage.finish([server]).connections_opened, 20);
}

fn clients_close_and_abort_too(ground: &Ground) {
    let stage = ground.stage();
    let (listener, address) = ground.listener(8);
    let (log, recorder) = log();
    let client = |abort: bool| {
        let recorder = recorder.clone();
        let make = move || recorder.probe().open(move |io| if abort { io.abort() } else { io.close() });
        stage.runtime.connect(&address, make).unwrap();
        Peer::over(listener.accept().unwrap().0)
    };
    assert!(client(false).receive_to_end().is_empty());
    assert_eq!(log.closed(), Ending::Closed);
    client(true).sees_the_end();
    assert_eq!(log.closed(), Ending::Aborted);
    stage.finish([]);
}
