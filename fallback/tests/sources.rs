//! Attaching and detaching, and what a caller may get wrong.

mod common;

use common::{Harness, KINDS, Kind, error_number, harness, pair, pattern};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use trochus_fallback::socket2::Socket;
use trochus_fallback::{Event, Proactor, Settings};

#[test]
fn a_socket_is_attached_once() {
    let mut harness = harness(1);
    let (socket, _peer) = pair(Kind::Tcp);
    let socket = Rc::new(socket);
    harness.proactor.attach(Rc::clone(&socket)).unwrap();
    let error = harness.proactor.attach(Rc::clone(&socket)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
    harness.proactor.detach(socket.as_raw_fd());
    harness.proactor.detach(socket.as_raw_fd());
    harness.proactor.attach(socket).unwrap();
}

#[test]
fn attaching_makes_a_socket_non_blocking_and_detaching_the_last_owner_closes_it() {
    for kind in KINDS {
        let mut harness = harness(1);
        let (socket, mut peer) = pair(kind);
        assert!(!socket.nonblocking().unwrap());
        let twin = socket.try_clone().unwrap();
        let fd = harness.attach(socket);
        assert!(twin.nonblocking().unwrap());
        drop(twin);
        harness.proactor.detach(fd);
        assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0);
    }
}

#[test]
fn operations_on_a_descriptor_that_is_not_attached_fail() {
    let mut harness = harness(1);
    let (socket, _peer) = pair(Kind::Tcp);
    let address = socket.local_addr().unwrap();
    for fd in [socket.as_raw_fd(), -1, RawFd::MAX] {
        harness.proactor.accept(fd, 1);
        harness.proactor.connect(fd, &address, 2);
        harness.proactor.receive(fd, 3);
        harness.proactor.send(fd, b"back".to_vec(), 4);
        assert!(harness.proactor.has_work());
        assert_eq!(harness.proactor.pending(), 4);
        for token in 1..=4 {
            let completion = harness.next();
            assert_eq!((completion.token, error_number(&completion)), (token, Some(libc::EBADF)));
            if let Event::Sent(_, payload) = completion.event {
                assert_eq!(payload, b"back");
            }
        }
        harness.assert_settled();
    }
}

#[test]
fn many_sources_are_all_served() {
    const SOURCES: usize = 150;
    for kind in KINDS {
        let settings = Settings::default().buffer_bytes(256).receives_per_turn(1);
        let mut harness = Harness::<Vec<u8>>::new(SOURCES as u16, settings);
        let mut peers: Vec<(RawFd, Socket)> = Vec::new();
        for _ in 0..SOURCES {
            let (socket, peer) = pair(kind);
            let fd = harness.attach(socket);
            harness.proactor.receive(fd, fd as u64);
            peers.push((fd, peer));
        }
        for round in 0..5 {
            for (fd, peer) in &mut peers {
                peer.write_all(&pattern(round + *fd as usize, 100)).unwrap();
            }
            // An echo of each, each in its own pace.
            let mut sent = 0;
            while sent < SOURCES {
                let completion = harness.next();
                match completion.event {
                    Event::Sent(Ok(100), _) => sent += 1,
                    Event::Received(Ok(_)) => {
                        let fd = completion.token as RawFd;
                        let bytes = harness.bytes_of(completion).unwrap();
                        harness.proactor.send(fd, bytes, u64::MAX);
                    }
                    other => panic!("{other:?}"),
                }
            }
            for (fd, peer) in &mut peers {
                let mut bytes = [0; 100];
                peer.read_exact(&mut bytes).unwrap();
                assert_eq!(bytes.to_vec(), pattern(round + *fd as usize, 100));
            }
        }
        assert_eq!(harness.proactor.pending(), SOURCES);
        assert_eq!(harness.proactor.free_buffers(), SOURCES);
    }
}

/// Two of a kind at once, a buffer given back twice, a socket detached too early: caught at once in debug
/// builds, and without harm in others.
mod misuse {
    use super::*;

    fn armed() -> (Harness, RawFd, Socket) {
        let mut harness = harness(1);
        let (socket, peer) = pair(Kind::Tcp);
        let fd = harness.attach(socket);
        harness.proactor.receive(fd, 1);
        (harness, fd, peer)
    }

    #[test]
    #[cfg_attr(debug_assertions, should_panic(expected = "pending on descriptor"))]
    fn a_second_receive() {
        let (mut harness, fd, mut peer) = armed();
        harness.proactor.receive(fd, 2);
        let completion = harness.next();
        assert_eq!((completion.token, error_number(&completion)), (2, Some(libc::EBUSY)));
        peer.write_all(b"first").unwrap();
        assert_eq!(harness.gather(5), b"first");
    }

    #[test]
    #[cfg_attr(debug_assertions, should_panic(expected = "a send is pending"))]
    fn a_second_send() {
        let (mut harness, fd, _peer) = armed();
        harness.proactor.send(fd, b"first".to_vec(), 2);
        harness.proactor.send(fd, b"second".to_vec(), 3);
        let completion = harness.next();
        assert_eq!((completion.token, error_number(&completion)), (3, Some(libc::EBUSY)));
        let Event::Sent(_, payload) = completion.event else { panic!("not a send") };
        assert_eq!(payload, b"second");
        assert!(matches!(harness.next().event, Event::Sent(Ok(5), _)));
    }

    #[test]
    #[cfg_attr(debug_assertions, should_panic(expected = "not on loan"))]
    fn a_second_release() {
        let (mut harness, _fd, mut peer) = armed();
        peer.write_all(b"x").unwrap();
        let Event::Received(Ok(received)) = harness.next().event else { panic!("not a receive") };
        harness.proactor.release(received.buffer.unwrap());
        harness.proactor.release(received.buffer.unwrap());
        assert_eq!(harness.proactor.free_buffers(), 1);
    }

    #[test]
    #[cfg_attr(debug_assertions, should_panic(expected = "operations pending"))]
    fn a_detach_with_an_operation_pending() {
        let (mut harness, fd, _peer) = armed();
        harness.proactor.detach(fd);
        harness.assert_settled();
    }
}

#[test]
fn a_setting_of_zero_is_refused() {
    let error = Proactor::<Vec<u8>>::new(Settings::default().buffers(0)).unwrap_err();
    assert_eq!(error.to_string(), "buffers is 0; it must be at least 1");
}
