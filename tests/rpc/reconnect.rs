//! Clients that connect anew.

use super::support::*;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use trochus::Runtime;
use trochus::codec::Int32;
use trochus::reactor::{Lookup, ToAddresses};
use trochus::rpc::{
    CallError, Caller, Client, ClientOptions, ClientState, Reconnect, Requests, Server, Unfinished,
};

fn options(attempts: u32) -> ClientOptions {
    let delay = Duration::from_millis(2);
    let policy = Reconnect::new().first_delay(delay).longest_delay(5 * delay).attempts(attempts);
    ClientOptions::new().calls_in_flight(2).reconnect(policy)
}

fn connect(runtime: &Runtime, attempts: u32) -> (Client<Int32>, TcpListener, TcpStream) {
    let (listener, address) = listen();
    let client = Client::connect_with(runtime, &options(attempts), address, Int32, drop).unwrap();
    let peer = accept(&listener);
    (client, listener, peer)
}

#[test]
fn calls_in_flight_fail_and_queued_ones_are_sent() {
    on_each_ground(|runtime| {
        let (client, listener, mut peer) = connect(runtime, 1000);
        let mut calls: Vec<_> = (0..6).map(|n| client.call(n)).collect();
        assert_eq!(read_ints(&mut peer, 2), [0, 1]);
        reset(peer);
        let mut peer = accept(&listener);
        for call in calls.drain(..2) {
            let error = call.wait().unwrap_err();
            assert!(matches!(error, CallError::Lost(_)), "{error}");
        }
        for (call, n) in calls.into_iter().zip(2..) {
            assert_eq!(read_ints(&mut peer, 1), [n]);
            write_ints(&mut peer, [10 * n]);
            assert_eq!(call.wait().unwrap(), 10 * n);
        }
        // What calls lost, each has told its caller.
        client.close().unwrap();
    });
}

#[test]
fn a_restarted_server_is_found_again() {
    on_each_ground(|runtime| {
        let first = trochus::Runtime::builder().backend(runtime.backend()).reactors(1).build().unwrap();
        let (service, kept) = keeper();
        let server = Server::bind(&first, anywhere(), Int32, service).unwrap();
        let address = server.local_addr().clone();
        let client = Client::connect_with(runtime, &options(1000), &address, Int32, drop).unwrap();
        let in_flight = client.call(1);
        let (_, reply) = next(&kept);
        first.shutdown(Duration::ZERO).unwrap();
        assert!(in_flight.wait().unwrap_err().may_have_been_executed());
        drop(reply);
        let queued = client.call(2);
        let second = trochus::Runtime::builder().backend(runtime.backend()).reactors(1).build().unwrap();
        let _server = Server::bind(&second, &address, Int32, |n: i32, reply| reply.send(n + 1)).unwrap();
        assert_eq!(queued.wait().unwrap(), 3);
        assert_eq!(client.call(3).wait().unwrap(), 4);
        client.close().unwrap();
    });
}

#[test]
fn pushed_requests_that_a_lost_connection_had_are_not_forgotten() {
    on_each_ground(|runtime| {
        let (client, listener, mut peer) = connect(runtime, 1000);
        client.push_all(0..5).unwrap();
        read_ints(&mut peer, 5);
        write_ints(&mut peer, [0, 1]);
        end_output(&peer);
        let mut next_peer = accept(&listener);
        client.push(5).unwrap();
        let requests = read_ints(&mut next_peer, 1);
        write_ints(&mut next_peer, requests);
        let end = client.close().unwrap_err();
        assert_eq!((end.unanswered(), end.unsent()), (3, 0), "{end}");
    });
}

#[test]
fn it_gives_up_after_its_attempts() {
    on_each_ground(|runtime| {
        let (client, listener, mut peer) = connect(runtime, 3);
        let mut calls: Vec<_> = (0..4).map(|n| client.call(n)).collect();
        read_ints(&mut peer, 2);
        drop(listener);
        client.push(7).unwrap();
        reset(peer);
        let not_sent = calls.split_off(2);
        assert!(calls.into_iter().all(|call| call.wait().unwrap_err().may_have_been_executed()));
        for call in not_sent {
            let error = call.wait().unwrap_err();
            assert!(matches!(error, CallError::NotSent(_)), "{error}");
        }
        assert!(client.close().is_err());
        assert!(client.is_closed());
        assert!(client.call(9).wait().is_err());
    });
}

#[test]
fn closing_while_there_is_no_connection_ends_with_the_last_attempt() {
    on_each_ground(|runtime| {
        let (client, listener, peer) = connect(runtime, 5);
        drop(listener);
        reset(peer);
        // Accepted or not: the end may have come already.
        let _ = client.push(1);
        assert!(client.close().is_err());
    });
}

/// Makes one request each time it is connected.
struct Greets {
    opened: Arc<AtomicUsize>,
    ends: Arc<Mutex<Vec<Result<(), Unfinished>>>>,
}

impl Caller<Int32> for Greets {
    fn on_open(&mut self, requests: &mut Requests<'_, Int32>) {
        let count = self.opened.fetch_add(1, Ordering::SeqCst);
        assert_eq!(requests.in_flight(), 0);
        requests.push(&(count as i32)).unwrap();
    }

    fn on_response(&mut self, _requests: &mut Requests<'_, Int32>, _response: i32) {}

    fn on_close(&mut self, end: &Result<(), Unfinished>) {
        self.ends.lock().unwrap().push(end.clone());
    }
}

#[test]
fn a_caller_is_told_of_each_connection_and_of_one_end() {
    on_each_ground(|runtime| {
        let (opened, ends) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (listener, address) = listen();
        let caller = Greets { opened: opened.clone(), ends: ends.clone() };
        let client = Client::connect_caller(runtime, &options(1000), address, Int32, caller).unwrap();
        for n in 0..3 {
            let mut peer = accept(&listener);
            assert_eq!(read_ints(&mut peer, 1), [n]);
            reset(peer);
        }
        let mut peer = accept(&listener);
        assert_eq!(read_ints(&mut peer, 1), [3]);
        write_ints(&mut peer, [3]);
        let end = client.close().unwrap_err();
        assert_eq!(end.unanswered(), 3);
        assert_eq!(opened.load(Ordering::SeqCst), 4);
        assert_eq!(ends.lock().unwrap().len(), 1);
    });
}

/// A client that comes back quickly, and gives up after so many attempts in vain.
fn persistent(attempts: u32) -> ClientOptions {
    let policy = Reconnect::new().first_delay(Duration::from_millis(1)).attempts(attempts);
    ClientOptions::new().reconnect(policy.longest_delay(Duration::from_millis(200)))
}

#[test]
fn a_connection_that_worked_resets_the_attempts() {
    on_each_ground(|runtime| {
        let (listener, address) = listen();
        let client = Client::connect_with(runtime, &persistent(2), address, Int32, drop).unwrap();
        for n in 0..6 {
            let mut peer = accept(&listener);
            let call = client.call(n);
            assert_eq!(read_ints(&mut peer, 1), [n]);
            write_ints(&mut peer, [n]);
            assert_eq!(call.wait().unwrap(), n);
            reset(peer);
        }
    });
}

#[test]
fn a_server_that_accepts_and_closes_does_not() {
    on_each_ground(|runtime| {
        let (listener, address) = listen();
        let policy = Reconnect::new().first_delay(Duration::from_millis(1)).attempts(5);
        let options = ClientOptions::new().reconnect(policy.longest_delay(HOUR));
        let client = Client::connect_with(runtime, &options, address, Int32, drop).unwrap();
        let call = client.call(1);
        let mut times = Vec::new();
        for _ in 0..6 {
            let peer = accept(&listener);
            times.push(std::time::Instant::now());
            reset(peer);
        }
        let call = call.wait();
        assert!(call.is_err(), "{call:?}");
        eventually("it gives up", || client.is_closed());
        assert!(client.close().is_err());
        // Between half of the pause and all of it: 1, 2, 4, 8 and 16 ms.
        let pauses: Duration = times[5] - times[0];
        assert!(pauses >= Duration::from_micros(15_500), "{pauses:?}");
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "it goes on");
    });
}

#[test]
fn the_addresses_come_in_turn() {
    on_each_ground(|runtime| {
        let (first, first_address) = listen();
        let (second, second_address) = listen();
        let addresses = vec![first_address, second_address];
        let client = Client::connect_with(runtime, &persistent(3), addresses, Int32, drop).unwrap();
        let peer = accept(&first);
        drop(first);
        reset(peer);
        let mut peer = accept(&second);
        let call = client.call(1);
        let requests = read_ints(&mut peer, 1);
        write_ints(&mut peer, requests);
        assert_eq!(call.wait().unwrap(), 1);
        // One round goes through all of them: the first one still refuses.
        reset(peer);
        let mut peer = accept(&second);
        let call = client.call(2);
        let requests = read_ints(&mut peer, 1);
        write_ints(&mut peer, requests);
        assert_eq!(call.wait().unwrap(), 2);
        client.close().unwrap();
    });
}

#[test]
fn a_name_that_moved_is_found_where_it_is_now() {
    on_each_ground(|runtime| {
        let (first, first_address) = listen();
        let (second, second_address) = listen();
        let current = Arc::new(Mutex::new(first_address));
        let name = current.clone();
        let lookup = Lookup::by(move || name.lock().unwrap().to_addresses());
        let client = Client::connect_with(runtime, &persistent(3), lookup, Int32, drop).unwrap();
        let peer = accept(&first);
        *current.lock().unwrap() = second_address;
        reset(peer);
        let mut peer = accept(&second);
        // A directory that fails for a while: what was found before is better than nothing.
        *current.lock().unwrap() = "nonsense".to_owned();
        let call = client.call(1);
        let requests = read_ints(&mut peer, 1);
        write_ints(&mut peer, requests);
        assert_eq!(call.wait().unwrap(), 1);
        reset(peer);
        let mut peer = accept(&second);
        let call = client.call(2);
        read_ints(&mut peer, 1);
        write_ints(&mut peer, [2]);
        assert_eq!(call.wait().unwrap(), 2);
        client.close().unwrap();
    });
}

#[test]
fn a_client_without_a_connection_ends_when_it_is_closed() {
    on_each_ground(|runtime| {
        let policy = Reconnect::forever().first_delay(HOUR).longest_delay(HOUR);
        for closes in [true, false] {
            let (listener, address) = listen();
            let told = Arc::new(Mutex::new(Vec::new()));
            let caller = Greets { opened: Arc::default(), ends: told.clone() };
            let options = ClientOptions::new().reconnect(policy).close_timeout(HOUR);
            let client = Client::connect_caller(runtime, &options, address, Int32, caller).unwrap();
            let mut peer = accept(&listener);
            assert_eq!(read_ints(&mut peer, 1), [0]);
            write_ints(&mut peer, [0]);
            assert_eq!(client.state(), ClientState::Connected);
            end_output(&peer);
            eventually("it notices", || client.state() == ClientState::Reconnecting);
            drop(client.call(7)); // nobody waits for that one
            if closes {
                // Nothing is lost, so nothing is wrong.
                client.close().unwrap();
                assert_eq!(client.state(), ClientState::Closed);
            } else {
                drop(client);
            }
            eventually("it ends", || told.lock().unwrap().len() == 1);
            assert!(told.lock().unwrap()[0].is_ok());
        }
        // With something to send it keeps trying, for a while.
        let (listener, address) = listen();
        let options = ClientOptions::new().reconnect(policy).close_timeout(Duration::from_millis(20));
        let client = Client::connect_with(runtime, &options, address, Int32, drop).unwrap();
        reset(accept(&listener));
        eventually("it notices", || client.state() == ClientState::Reconnecting);
        client.push_all(0..3).unwrap();
        let call = client.call(3);
        let end = client.close().unwrap_err();
        assert_eq!((end.kind(), end.unsent(), end.unanswered()), (ErrorKind::TimedOut, 3, 0), "{end}");
        assert_eq!(client.take_unsent(), [0, 1, 2]);
        assert!(!call.wait().unwrap_err().may_have_been_executed());
        // And at once, if it is aborted.
        let (listener, address) = listen();
        let options = ClientOptions::new().reconnect(policy).close_timeout(HOUR);
        let client = Client::connect_with(runtime, &options, address, Int32, drop).unwrap();
        reset(accept(&listener));
        eventually("it notices", || client.state() == ClientState::Reconnecting);
        client.push(1).unwrap();
        client.abort();
        assert_eq!(client.close().unwrap_err().unsent(), 1);
    });
}

#[test]
fn what_was_accepted_is_sent_by_a_client_that_was_closed_without_a_connection() {
    on_each_ground(|runtime| {
        let (listener, address) = listen();
        let policy = Reconnect::forever().first_delay(Duration::from_millis(20));
        let options = ClientOptions::new().reconnect(policy);
        let client = Client::connect_with(runtime, &options, address, Int32, drop).unwrap();
        reset(accept(&listener));
        eventually("it notices", || client.state() == ClientState::Reconnecting);
        client.push_all(0..3).unwrap();
        let closing = client.close_async();
        drop(client);
        let mut peer = accept(&listener);
        let requests = read_ints(&mut peer, 3);
        assert_eq!(requests, [0, 1, 2]);
        write_ints(&mut peer, requests);
        block_on(closing).unwrap();
    });
}

#[test]
fn a_lazy_client_is_used_before_it_is_connected() {
    on_each_ground(|runtime| {
        let (listener, address) = listen();
        drop(listener);
        let client = Client::builder(Int32)
            .reconnect(Reconnect::forever().first_delay(Duration::from_millis(1)))
            .connect_lazy(runtime, &address)
            .unwrap();
        assert_ne!(client.state(), ClientState::Connected);
        let call = client.call(1);
        let error = client.call(2).timeout(Duration::from_millis(5)).wait().unwrap_err();
        assert!(matches!(error, CallError::TimedOut { sent: false }), "{error}");
        let server = Server::bind(runtime, &address, Int32, |n: i32, reply| reply.send(n + 1)).unwrap();
        assert_eq!(call.wait().unwrap(), 2);
        assert_eq!(client.state(), ClientState::Connected);
        client.close().unwrap();
        drop(server);
        // Without a policy it tries a few times.
        let (listener, address) = listen();
        drop(listener);
        let policy = Reconnect::new().first_delay(Duration::ZERO).attempts(2);
        let client = Client::builder(Int32).reconnect(policy).connect_lazy(runtime, address).unwrap();
        let error = client.call(1).wait().unwrap_err();
        assert!(
            matches!(&error, CallError::NotSent(cause) if cause.kind() == ErrorKind::ConnectionRefused),
            "{error}"
        );
        assert_eq!(client.close().unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_first_connection_that_fails_is_told_as_what_it_is() {
    on_each_ground(|runtime| {
        let (listener, address) = listen();
        drop(listener);
        let told = Arc::new(Mutex::new(Vec::new()));
        let caller = Greets { opened: Arc::default(), ends: told.clone() };
        let error = Client::connect_caller(runtime, &options(5), &address, Int32, caller).unwrap_err();
        assert!(matches!(error, trochus::Error::Connect { .. }), "{error}");
        eventually("the caller is told", || told.lock().unwrap().len() == 1);
        let end = told.lock().unwrap().remove(0).unwrap_err();
        assert_eq!(end.kind(), ErrorKind::ConnectionRefused, "{end}");
        let error = block_on(Client::builder(Int32).connect_async(runtime, "nonsense")).unwrap_err();
        assert!(matches!(error, trochus::Error::Address { .. }), "{error}");
    });
}

#[test]
fn requests_that_linger_are_not_forgotten_over_a_reconnect() {
    on_each_ground(|runtime| {
        let (listener, address) = listen();
        let options = persistent(1000).linger(Duration::from_millis(100));
        let client = Client::connect_with(runtime, &options, address, Int32, drop).unwrap();
        let peer = accept(&listener);
        client.producer().push(1).unwrap();
        client.push(2).unwrap();
        std::thread::sleep(Duration::from_millis(10));
        reset(peer);
        let mut peer = accept(&listener);
        let mut requests = read_ints(&mut peer, 2);
        requests.sort_unstable();
        assert_eq!(requests, [1, 2]);
    });
}

#[test]
fn the_first_of_several_losses_is_the_one_that_is_told() {
    on_each_ground(|runtime| {
        let (listener, address) = listen();
        let client = Client::connect_with(runtime, &persistent(1000), address, Int32, drop).unwrap();
        let mut peer = accept(&listener);
        client.push(1).unwrap();
        read_ints(&mut peer, 1);
        end_output(&peer);
        let mut next = accept(&listener);
        client.push(2).unwrap();
        read_ints(&mut next, 1);
        reset(next);
        let _last = accept(&listener);
        let end = client.close().unwrap_err();
        assert_eq!(end.unanswered(), 2, "{end}");
        assert_eq!(end.kind(), ErrorKind::UnexpectedEof, "{end}");
    });
}
