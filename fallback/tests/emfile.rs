//! Out of descriptors. A program of its own with one test, because the limit belongs to the process.

mod common;

use common::{KINDS, error_number, harness, listener, unconnected};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::os::fd::AsRawFd;
use trochus_fallback::Event;
use trochus_fallback::socket2::Socket;

#[test]
fn an_accept_without_descriptors_ends_and_finds_the_connections_when_armed_again() {
    for kind in KINDS {
        let mut harness = harness(4);
        let (socket, address) = listener(kind, 16);
        let fd = harness.attach(socket);
        harness.proactor.accept(fd, 1);
        harness.assert_quiet();
        let clients: Vec<Socket> = (0..3).map(|_| unconnected(kind)).collect();
        clients.iter().for_each(|client| client.connect(&address).unwrap());

        let limit = getrlimit(Resource::Nofile);
        let lowest_free = clients[0].try_clone().unwrap().as_raw_fd();
        let none_free = Rlimit { current: Some(lowest_free as u64), maximum: limit.maximum };
        setrlimit(Resource::Nofile, none_free).unwrap();
        let completion = harness.next();
        let in_time = harness.turn();
        harness.proactor.accept(fd, 2);
        let again = harness.next();
        setrlimit(Resource::Nofile, limit).unwrap();

        assert!(matches!(completion.event, Event::Accepted(Err(_))));
        assert_eq!((completion.token, error_number(&completion)), (1, Some(libc::EMFILE)));
        assert!(in_time.is_empty(), "one final completion, and no spinning");
        assert_eq!((again.token, error_number(&again)), (2, Some(libc::EMFILE)));
        harness.assert_settled();
        harness.proactor.accept(fd, 3);
        for _ in 0..3 {
            let completion = harness.next();
            assert_eq!((completion.token, completion.more), (3, true));
            assert!(matches!(completion.event, Event::Accepted(Ok(_))));
        }
        harness.assert_quiet();
    }
}
