//! Clients that connect anew.

use super::support::*;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use trochus::Runtime;
use trochus::codec::Int32;
use trochus::rpc::{CallError, Caller, Client, ClientOptions, Reconnect, Requests, Server, Unfinished};

fn options(attempts: u32) -> ClientOptions {
    let delay = Duration::from_millis(2);
    ClientOptions::new().calls_in_flight(2).reconnect(Reconnect {
        first_delay: delay,
        longest_delay: 5 * delay,
        attempts,
    })
}

fn connect(runtime: &Runtime, attempts: u32) -> (Client<Int32>, TcpListener, TcpStream) {
    let (listener, address) = listen();
    let client = Client::connect_with(runtime, &options(attempts), address, Int32, drop).unwrap();
    let peer = accept(&listener);
    (client, listener, peer)
}

#[test]
fn calls_in_flight_fail_and_queued_ones_are_sent() {
    on_each_backend(|runtime| {
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
    on_each_backend(|runtime| {
        let first = trochus::Runtime::builder().backend(runtime.backend()).reactors(1).build().unwrap();
        let (service, kept) = keeper();
        let server = Server::bind(&first, "127.0.0.1:0", Int32, service).unwrap();
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
    on_each_backend(|runtime| {
        let (client, listener, mut peer) = connect(runtime, 1000);
        client.batcher().push_all(0..5).unwrap();
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
    on_each_backend(|runtime| {
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
    on_each_backend(|runtime| {
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
    on_each_backend(|runtime| {
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
