//! Many connections that come and go as they like.

use crate::ground::{Ground, Peer, pattern};
use crate::probe::Echo;
use crate::{Suite, suite};
use fastrand::Rng;
use std::io::{Read, Write};
use std::thread;
use std::time::Duration;
use trochus::net::StreamOptions;

pub(crate) fn suites() -> Vec<Suite> {
    vec![suite!("churn", |_| true, [a_thousand_connections_come_and_go, our_clients_come_and_go])]
}

const THREADS: u64 = 4;

/// What one connection does. The seed decides; whoever waits for its answer gets it.
fn visit(peer: Peer, rng: &mut Rng, message: &[u8]) {
    let message = &message[..rng.usize(1..message.len())];
    let socket = &peer.0;
    match rng.u8(0..7) {
        0 => {}
        1 => peer.reset(),
        2 => {
            // Leaves in the middle of it.
            let _ = (&mut &*socket).write_all(message);
        }
        3 => {
            let _ = (&mut &*socket).write_all(message);
            peer.reset();
        }
        4 => {
            peer.send(message);
            let mut some = vec![0; rng.usize(1..=message.len())];
            (&mut &*socket).read_exact(&mut some).unwrap();
            assert!(some == message[..some.len()]);
        }
        5 => {
            peer.send(message);
            assert!(peer.receive(message.len()) == message);
        }
        _ => {
            peer.send(message);
            peer.end_output();
            assert!(peer.receive_to_end() == message);
        }
    }
}

fn a_thousand_connections_come_and_go(ground: &Ground) {
    const EACH: u64 = 250;
    let stage = ground.stage();
    let options = StreamOptions::new().close_timeout(Duration::from_millis(200));
    let server = stage.listen_stream(options, |_| Echo);
    let message = pattern(20_000);
    thread::scope(|scope| {
        for index in 0..THREADS {
            let (server, message) = (&server, &message);
            scope.spawn(move || {
                let mut rng = Rng::with_seed(index);
                // A few that stay open meanwhile, so that slots are not reused in order.
                let mut open = Vec::new();
                for _ in 0..EACH {
                    open.push(Peer::connect(server.local_addr()));
                    if open.len() > 8 || rng.bool() {
                        visit(open.swap_remove(rng.usize(..open.len())), &mut rng, message);
                    }
                }
                open.into_iter().for_each(|peer| visit(peer, &mut rng, message));
            });
        }
    });
    let metrics = stage.finish([server]);
    // One that was reset before it was accepted may never have been seen.
    assert!((700..=THREADS * EACH).contains(&metrics.connections_opened), "{metrics:?}");
}

/// The same from this side: connections that are made, written to from outside, and closed or aborted.
fn our_clients_come_and_go(ground: &Ground) {
    const EACH: u64 = 40;
    let stage = ground.stage();
    let server = stage.listen(|_| Echo);
    let message = pattern(20_000);
    thread::scope(|scope| {
        for index in 0..THREADS {
            let (stage, server, message) = (&stage, &server, &message);
            scope.spawn(move || {
                let mut rng = Rng::with_seed(index);
                for _ in 0..EACH {
                    let (log, recorder) = crate::probe::log();
                    let client =
                        stage.runtime.connect(server.local_addr(), move || recorder.probe()).unwrap();
                    log.opened();
                    let part = &message[..rng.usize(1..message.len())];
                    client.write(part).unwrap();
                    if rng.bool() {
                        assert!(log.bytes(part.len()) == part);
                    }
                    if rng.bool() {
                        client.close().unwrap()
                    } else {
                        client.abort().unwrap()
                    }
                    log.closed();
                }
            });
        }
    });
    let metrics = stage.finish([server]);
    // The server may never have seen one that was aborted at once.
    assert!((THREADS * EACH..=2 * THREADS * EACH).contains(&metrics.connections_opened), "{metrics:?}");
    assert_eq!(metrics.connects_failed, 0);
}
