//! Accepting: armed until an error or a cancellation.

mod common;

use common::{KINDS, Kind, error_number, harness, harness_with, listener, pair, unconnected};
use std::os::fd::AsRawFd;
use trochus_fallback::socket2::Socket;
use trochus_fallback::{Completion, Event, Settings};

const ACCEPT: u64 = 7;

fn accepted(completion: Completion<Vec<u8>>) -> Socket {
    assert_eq!(completion.token, ACCEPT);
    assert!(completion.more, "an accept stays armed");
    let Event::Accepted(Ok(socket)) = completion.event else { panic!("not a connection") };
    socket
}

#[test]
fn every_connection_is_one_completion_and_the_accept_stays_armed() {
    for kind in KINDS {
        let mut harness = harness(4);
        let (socket, address) = listener(kind, 16);
        let fd = harness.attach(socket);
        harness.proactor.accept(fd, ACCEPT);
        harness.assert_quiet();
        for _round in 0..3 {
            let clients: Vec<Socket> = (0..5).map(|_| unconnected(kind)).collect();
            clients.iter().for_each(|client| client.connect(&address).unwrap());
            for client in &clients {
                let completion = harness.next();
                let server = accepted(completion);
                client.send(b"x").unwrap();
                let mut byte = [std::mem::MaybeUninit::uninit(); 1];
                assert_eq!(server.recv(&mut byte).unwrap(), 1, "connections arrive in order");
            }
            harness.assert_quiet();
            assert_eq!(harness.proactor.pending(), 1);
        }
    }
}

#[test]
fn accepted_sockets_do_not_block_and_do_not_leak_into_children() {
    for kind in KINDS {
        let mut harness = harness(4);
        let (socket, address) = listener(kind, 16);
        let fd = harness.attach(socket);
        harness.proactor.accept(fd, ACCEPT);
        let client = unconnected(kind);
        client.connect(&address).unwrap();
        let completion = harness.next();
        let server = accepted(completion);
        assert!(server.nonblocking().unwrap());
        let flags = rustix::io::fcntl_getfd(&server).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }
}

#[test]
fn a_turn_accepts_no_more_than_its_bound_and_the_next_does_not_sleep() {
    let mut harness = harness_with(4, Settings::default().accepts_per_turn(2));
    let (socket, address) = listener(Kind::Tcp, 16);
    let fd = harness.attach(socket);
    harness.proactor.accept(fd, ACCEPT);
    let clients: Vec<Socket> = (0..5).map(|_| unconnected(Kind::Tcp)).collect();
    clients.iter().for_each(|client| client.connect(&address).unwrap());
    let mut counts = Vec::new();
    while counts.iter().sum::<usize>() < 5 {
        assert!(harness.proactor.has_work());
        counts.push(harness.turn().len());
    }
    assert_eq!(counts, [2, 2, 1]);
}

#[test]
fn cancel_disarms_and_a_later_accept_takes_what_queued_up() {
    for kind in KINDS {
        for armed_and_idle in [false, true] {
            let mut harness = harness(4);
            let (socket, address) = listener(kind, 16);
            let fd = harness.attach(socket);
            harness.proactor.accept(fd, ACCEPT);
            if armed_and_idle {
                harness.assert_quiet();
            }
            let client = unconnected(kind);
            client.connect(&address).unwrap();
            harness.proactor.cancel(fd, ACCEPT);
            let completion = harness.next();
            assert_eq!(completion.token, ACCEPT);
            assert_eq!(error_number(&completion), Some(libc::ECANCELED));
            harness.assert_settled();
            harness.proactor.accept(fd, ACCEPT);
            let completion = harness.next();
            drop(accepted(completion));
        }
    }
}

#[test]
fn a_socket_that_does_not_listen_ends_the_accept() {
    for kind in KINDS {
        let mut harness = harness(4);
        let (socket, _peer) = pair(kind);
        let fd = harness.attach(socket);
        harness.proactor.accept(fd, ACCEPT);
        let completion = harness.next();
        assert!(matches!(completion.event, Event::Accepted(Err(_))));
        assert_eq!(error_number(&completion), Some(libc::EINVAL));
        harness.assert_settled();
    }
}

#[test]
fn detaching_a_listener_leaves_the_callers_socket_open() {
    let mut harness = harness(4);
    let (socket, address) = listener(Kind::Tcp, 16);
    let socket = std::rc::Rc::new(socket);
    let fd = socket.as_raw_fd();
    harness.proactor.attach(std::rc::Rc::clone(&socket)).unwrap();
    harness.proactor.detach(fd);
    assert_eq!(std::rc::Rc::strong_count(&socket), 1);
    unconnected(Kind::Tcp).connect(&address).unwrap();
    harness.proactor.attach(socket).unwrap();
    harness.proactor.accept(fd, ACCEPT);
    let completion = harness.next();
    drop(accepted(completion));
}
