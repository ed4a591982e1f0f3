//! The receive pool, and what a backend has in its hands between the kernel and a handler.

use crate::ground::{Ground, Peer, pattern};
use crate::probe::{Echo, log};
use crate::{Suite, suite};
use std::os::fd::AsFd;
use std::thread;

pub(crate) fn suites() -> Vec<Suite> {
    vec![
        suite!(
            "pool",
            |_| true,
            [
                the_most_buffers_that_a_pool_can_have,
                small_and_large_messages_by_turns,
                everybody_is_ready_at_once,
                a_queue_that_is_much_too_short,
                a_reactor_knows_why_it_has_its_backend,
            ]
        ),
        suite!("pool", Ground::has_sockets, [sockets_do_not_outlive_an_exec]),
    ]
}

fn the_most_buffers_that_a_pool_can_have(ground: &Ground) {
    let stage = ground.stage_with(ground.runtime_builder().reactors(1).pool(32_768, 4096));
    let server = stage.listen(|_| Echo);
    let message = pattern(100_000);
    let peers: Vec<Peer> = (0..64).map(|_| Peer::connect(server.local_addr())).collect();
    for _ in 0..3 {
        thread::scope(|scope| {
            for peer in &peers {
                scope.spawn(|| peer.send(&message));
                scope.spawn(|| assert!(peer.receive(message.len()) == message));
            }
        });
    }
    drop(peers);
    stage.finish([server]);
}

/// Connections go from small buffers to large ones and back, each at another time.
fn small_and_large_messages_by_turns(ground: &Ground) {
    let stage =
        ground.stage_with(ground.runtime_builder().reactors(1).pool(16, 16 << 10).small_pool(32, 256));
    let server = stage.listen(|_| Echo);
    let (small, large) = (pattern(100), pattern(300_000));
    thread::scope(|scope| {
        for client in 0..8 {
            let (server, small, large) = (&server, &small, &large);
            scope.spawn(move || {
                let peer = Peer::connect(server.local_addr());
                for round in 0..100 {
                    let message = if (round + client) % 40 == 0 { large } else { small };
                    thread::scope(|scope| {
                        scope.spawn(|| peer.send(message));
                        assert!(peer.receive(message.len()) == *message);
                    });
                }
            });
        }
    });
    stage.finish([server]);
}

/// Many more connections than there are buffers of either size, and all of them have something to say at once.
fn everybody_is_ready_at_once(ground: &Ground) {
    let stage = ground.stage_with(ground.runtime_builder().reactors(1).pool(4, 16 << 10).small_pool(8, 256));
    let server = stage.listen(|_| Echo);
    let peers: Vec<Peer> = (0..200).map(|_| Peer::connect(server.local_addr())).collect();
    let messages = [pattern(10), pattern(256), pattern(5_000)];
    for message in &messages {
        peers.iter().for_each(|peer| peer.send(message));
        peers.iter().for_each(|peer| assert!(peer.receive(message.len()) == *message));
    }
    drop(peers);
    stage.finish([server]);
}

fn a_queue_that_is_much_too_short(ground: &Ground) {
    let stage = ground.stage_with(ground.runtime_builder().reactors(1).ring_entries(2, 4));
    let server = stage.listen(|_| Echo);
    let message = pattern(1_000);
    let peers: Vec<Peer> = (0..100).map(|_| Peer::connect(server.local_addr())).collect();
    for _ in 0..5 {
        peers.iter().for_each(|peer| peer.send(&message));
        peers.iter().for_each(|peer| assert!(peer.receive(message.len()) == message));
    }
    drop(peers);
    stage.finish([server]);
}

/// A program that the process starts does not get its connections.
fn sockets_do_not_outlive_an_exec(ground: &Ground) {
    let stage = ground.single();
    let (log, recorder) = log();
    let server = stage.listen(move |_| {
        recorder.probe().open(|io| {
            let flags = rustix::io::fcntl_getfd(io.socket().unwrap().as_fd()).unwrap();
            io.write(&[u8::from(flags.contains(rustix::io::FdFlags::CLOEXEC))]);
        })
    });
    for _ in 0..3 {
        let peer = Peer::connect(server.local_addr());
        assert_eq!(peer.receive(1), [1], "the accepted socket is inherited");
    }
    drop(log);
    stage.finish([server]);
}

fn a_reactor_knows_why_it_has_its_backend(ground: &Ground) {
    let reactor = ground.reactor_builder().build().unwrap();
    assert_eq!(reactor.backend(), ground.backend);
    assert_eq!(reactor.backend_reason(), "the builder asks for it");
    let stage = ground.stage();
    for index in 0..stage.runtime.reactors() {
        let info = stage.runtime.reactor_info(index);
        assert_eq!((info.backend, &info.backend_reason[..]), (ground.backend, "the builder asks for it"));
    }
    stage.finish([]);
}
