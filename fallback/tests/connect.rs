//! Connecting: established or failed, at once or in the background.

mod common;

use common::{KINDS, Kind, error_number, harness, listener, unconnected, unix_address};
use std::time::Duration;
use trochus_fallback::Event;

const CONNECT: u64 = 1;
const SEND: u64 = 2;
const RECEIVE: u64 = 3;

#[test]
fn a_connection_is_established() {
    for kind in KINDS {
        // Whatever the selector says of a socket that is not connected yet must not count.
        for noticed_before in [false, true] {
            let mut harness = harness(4);
            let (listener, address) = listener(kind, 4);
            let fd = harness.attach(unconnected(kind));
            if noticed_before {
                harness.assert_quiet();
            }
            harness.proactor.connect(fd, &address, CONNECT);
            assert_eq!(harness.proactor.pending(), 1);
            let completion = harness.next();
            assert_eq!((completion.token, completion.more), (CONNECT, false));
            assert!(matches!(completion.event, Event::Connected(Ok(()))));
            harness.assert_settled();
            listener.accept().unwrap();
        }
    }
}

#[test]
fn a_unix_connection_completes_in_the_same_wait() {
    let mut harness = harness(4);
    let (_listener, address) = listener(Kind::Unix, 4);
    let fd = harness.attach(unconnected(Kind::Unix));
    harness.proactor.connect(fd, &address, CONNECT);
    assert_eq!(harness.wait(Some(Duration::ZERO)), 1);
}

#[test]
fn nobody_listens() {
    // Bound and not listening: nobody else gets the port meanwhile.
    let reserved = unconnected(Kind::Tcp);
    reserved.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    let tcp = reserved.local_addr().unwrap();
    for (kind, address) in [(Kind::Tcp, tcp), (Kind::Unix, unix_address())] {
        let mut harness = harness(4);
        let fd = harness.attach(unconnected(kind));
        harness.proactor.connect(fd, &address, CONNECT);
        let completion = harness.next();
        assert!(matches!(completion.event, Event::Connected(Err(_))));
        let number = error_number(&completion);
        assert!(matches!(number, Some(libc::ECONNREFUSED | libc::ENOENT)), "{number:?}");
        harness.assert_settled();
    }
}

#[test]
fn an_address_of_another_family_is_refused() {
    let mut harness = harness(4);
    let (_listener, address) = listener(Kind::Tcp, 1);
    let fd = harness.attach(unconnected(Kind::Unix));
    harness.proactor.connect(fd, &address, CONNECT);
    let completion = harness.next();
    assert!(error_number(&completion).is_some());
    harness.assert_settled();
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_unix_backlog_is_an_error() {
    let mut harness = harness(4);
    let (_listener, address) = listener(Kind::Unix, 0);
    let failed = (0..8).find_map(|_| {
        let fd = harness.attach(unconnected(Kind::Unix));
        harness.proactor.connect(fd, &address, CONNECT);
        let completion = harness.next();
        error_number(&completion)
    });
    assert_eq!(failed, Some(libc::EAGAIN));
    harness.assert_settled();
}

#[test]
fn cancel_before_the_connect_was_tried() {
    for kind in KINDS {
        let mut harness = harness(4);
        let (listener, address) = listener(kind, 4);
        let fd = harness.attach(unconnected(kind));
        harness.proactor.connect(fd, &address, CONNECT);
        harness.proactor.cancel(fd, CONNECT);
        let completion = harness.next();
        assert!(matches!(completion.event, Event::Connected(Err(_))));
        assert_eq!(error_number(&completion), Some(libc::ECANCELED));
        harness.assert_settled();
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "it was tried nevertheless");
    }
}

#[test]
fn cancel_after_it_completed_is_nothing() {
    for kind in KINDS {
        let mut harness = harness(4);
        let (_listener, address) = listener(kind, 4);
        let fd = harness.attach(unconnected(kind));
        harness.proactor.connect(fd, &address, CONNECT);
        assert!(matches!(harness.next().event, Event::Connected(Ok(()))));
        harness.proactor.cancel(fd, CONNECT);
        harness.assert_settled();
    }
}

/// Linux drops connection requests when a listener's queue is full, so that these connects stay in the
/// background.
#[cfg(target_os = "linux")]
#[test]
fn cancel_while_it_goes_on_in_the_background() {
    let mut harness = harness(4);
    let (_listener, address) = listener(Kind::Tcp, 0);
    let fds: Vec<_> = (0..4)
        .map(|_| {
            let fd = harness.attach(unconnected(Kind::Tcp));
            harness.proactor.connect(fd, &address, fd as u64);
            fd
        })
        .collect();
    let established = harness.next().token;
    harness.assert_quiet();
    assert_eq!(harness.proactor.pending(), 3);
    for fd in fds.iter().filter(|fd| **fd as u64 != established) {
        harness.proactor.cancel(*fd, *fd as u64);
        let completion = harness.next();
        assert_eq!(completion.token, *fd as u64);
        assert_eq!(error_number(&completion), Some(libc::ECANCELED));
        harness.proactor.detach(*fd);
    }
    harness.assert_settled();
}

#[test]
fn other_operations_wait_for_the_connection() {
    for kind in KINDS {
        let mut harness = harness(4);
        let (listener, address) = listener(kind, 4);
        let fd = harness.attach(unconnected(kind));
        harness.proactor.receive(fd, RECEIVE);
        harness.proactor.send(fd, b"ping".to_vec(), SEND);
        harness.proactor.connect(fd, &address, CONNECT);
        let completion = harness.next();
        assert_eq!(completion.token, CONNECT);
        let completion = harness.next();
        assert_eq!(completion.token, SEND);
        assert!(matches!(completion.event, Event::Sent(Ok(4), _)));
        let (peer, _) = listener.accept().unwrap();
        peer.send(b"pong").unwrap();
        assert_eq!(harness.gather(4), b"pong");
        drop(peer);
        // The peer closes with "ping" unread: Linux resets.
        let completion = harness.next();
        assert_eq!((completion.token, completion.more), (RECEIVE, false));
        harness.assert_settled();
    }
}

#[test]
fn a_cancelled_connect_sets_the_others_free() {
    let mut harness = harness(4);
    let (_listener, address) = listener(Kind::Unix, 4);
    let fd = harness.attach(unconnected(Kind::Unix));
    harness.proactor.send(fd, b"lost".to_vec(), SEND);
    harness.proactor.connect(fd, &address, CONNECT);
    harness.proactor.cancel(fd, CONNECT);
    assert_eq!(harness.next().token, CONNECT);
    let completion = harness.next();
    assert_eq!(completion.token, SEND);
    assert!(matches!(error_number(&completion), Some(libc::ENOTCONN | libc::EPIPE)));
    harness.assert_settled();
}

/// Where the connection is there as soon as it was asked for, as over Linux' loopback, nobody waits for the selector: it
/// may have thousands of others to tell of first.
#[cfg(target_os = "linux")]
#[test]
fn a_connection_over_loopback_completes_in_the_same_wait() {
    let mut harness = harness(4);
    let (_listener, address) = listener(Kind::Tcp, 4);
    let fd = harness.attach(unconnected(Kind::Tcp));
    harness.proactor.connect(fd, &address, CONNECT);
    assert_eq!(harness.wait(Some(Duration::ZERO)), 1);
    assert!(matches!(harness.next().event, Event::Connected(Ok(()))));
    harness.assert_settled();
}
