//! Runtimes that stop while there is something to do.

use super::support::*;
use std::io::Read;
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use trochus::codec::{Int32, Protocol};
use trochus::rpc::{CallError, Client, ClientOptions, Reconnect, Server};
use trochus::{Backend, Runtime};

fn one_reactor(backend: Backend) -> Runtime {
    Runtime::builder().backend(backend).reactors(1).build().unwrap()
}

#[test]
fn a_client_without_work_does_not_hold_a_shutdown_up() {
    on_each_ground(|runtime| {
        let server = Server::bind(runtime, anywhere(), Int32, |n: i32, reply| reply.send(n)).unwrap();
        let clients = one_reactor(runtime.backend());
        let client = Client::connect(&clients, server.local_addr(), Int32).unwrap();
        let mut producer = client.producer();
        producer.push(1).unwrap();
        assert_eq!(client.call(1).wait().unwrap(), 1);
        clients.shutdown(HOUR).unwrap();
        client.close().unwrap();
        assert!(producer.push(2).is_err());
        assert!(matches!(client.call(2).wait(), Err(CallError::NotSent(_))));
    });
}

#[test]
fn a_shutdown_lets_calls_come_back() {
    on_each_ground(|runtime| {
        let (service, kept) = keeper();
        let server = Server::bind(runtime, anywhere(), Int32, service).unwrap();
        let clients = one_reactor(runtime.backend());
        let options = ClientOptions::new().calls_in_flight(2);
        let client = Client::connect_with(&clients, &options, server.local_addr(), Int32, drop).unwrap();
        let calls: Vec<_> = (0..5).map(|n| client.call(n)).collect();
        client.push_all(100..110).unwrap();
        let stopping = thread::spawn(move || clients.shutdown(HOUR));
        eventually("it stops", || client.is_closing());
        for _ in 0..15 {
            let (n, reply) = next(&kept);
            reply.send(n);
        }
        for (call, n) in calls.into_iter().zip(0..) {
            assert_eq!(call.wait().unwrap(), n);
        }
        stopping.join().unwrap().unwrap();
        client.close().unwrap();
    });
}

#[test]
fn every_call_ends_with_its_runtime() {
    on_each_ground(|runtime| {
        let (service, _kept) = keeper();
        let server = Server::bind(runtime, anywhere(), Int32, service).unwrap();
        let clients = one_reactor(runtime.backend());
        let options = ClientOptions::new().calls_in_flight(2);
        let client = Client::connect_with(&clients, &options, server.local_addr(), Int32, drop).unwrap();
        // Sent, queued, and without room in the queue; with a deadline that nobody minds any more.
        let calls: Vec<_> = (0..6000).map(|n| client.call(n).timeout(HOUR)).collect();
        let (tell, told) = mpsc::channel();
        let waiting = client.call(0);
        let waiting = thread::spawn(move || block_on(waiting));
        client.push_all(0..10).unwrap();
        clients.shutdown(Duration::from_millis(20)).unwrap();
        let outcomes: Vec<_> = calls.into_iter().map(|call| call.wait().unwrap_err()).collect();
        let executed = outcomes.iter().filter(|error| error.may_have_been_executed()).count();
        assert!(executed <= 2, "{executed} may have been executed");
        assert!(waiting.join().unwrap().is_err());
        client.send(1, move |result| drop(tell.send(result))).unwrap();
        assert!(told.recv_timeout(PATIENCE).unwrap().is_err());
        let end = client.close().unwrap_err();
        assert_eq!(end.unsent(), client.take_unsent().len(), "{end}");
    });
}

#[test]
fn a_client_between_connections_ends_with_its_runtime() {
    on_each_ground(|runtime| {
        let clients = one_reactor(runtime.backend());
        let (listener, address) = listen();
        let policy = Reconnect::new().first_delay(HOUR).longest_delay(HOUR).attempts(10);
        let options = ClientOptions::new().reconnect(policy);
        let client = Client::connect_with(&clients, &options, address, Int32, drop).unwrap();
        let mut peer = accept(&listener);
        let lost = client.call(1);
        client.push_all(0..3).unwrap();
        read_ints(&mut peer, 4);
        reset(peer);
        assert!(lost.wait().unwrap_err().may_have_been_executed());
        let queued = client.call(2);
        client.push_all(3..5).unwrap();
        clients.shutdown(HOUR).unwrap();
        assert!(!queued.wait().unwrap_err().may_have_been_executed());
        let end = client.close().unwrap_err();
        assert_eq!((end.unanswered(), end.unsent()), (3, 2), "{end}");
        assert_eq!(client.take_unsent(), [3, 4]);
    });
}

#[test]
fn a_server_answers_what_it_accepted_before_it_stops() {
    on_each_ground(|runtime| {
        let servers = one_reactor(runtime.backend());
        let (service, kept) = keeper();
        let server = Server::bind(&servers, anywhere(), Int32, service).unwrap();
        let client = Client::connect(runtime, server.local_addr(), Int32).unwrap();
        let calls: Vec<_> = (0..100).map(|n| client.call(n)).collect();
        let accepted: Vec<_> = (0..100).map(|_| next(&kept)).collect();
        let (begin, begun) = mpsc::channel();
        let stopping = thread::spawn(move || {
            begin.send(()).unwrap();
            servers.shutdown(HOUR)
        });
        begun.recv().unwrap();
        for (n, reply) in accepted {
            thread::yield_now();
            reply.send(n + 1);
        }
        for (call, n) in calls.into_iter().zip(0..) {
            assert_eq!(call.wait().unwrap(), n + 1);
        }
        stopping.join().unwrap().unwrap();
        eventually("the client notices", || client.is_closed());
        assert_eq!(client.close().unwrap_err().unanswered(), 0);
    });
}

#[test]
fn a_closed_server_serves_the_connections_it_has() {
    on_each_ground(|runtime| {
        let server = Server::bind(runtime, anywhere(), Int32, |n: i32, reply| reply.send(n)).unwrap();
        let address = server.local_addr().clone();
        let client = Client::connect(runtime, &address, Int32).unwrap();
        assert_eq!(client.call(1).wait().unwrap(), 1);
        server.close();
        eventually("it accepts no more", || Client::connect(runtime, &address, Int32).is_err());
        assert_eq!(client.call(2).wait().unwrap(), 2);
        client.close().unwrap();
    });
}

#[test]
fn both_ends_stop_with_one_runtime() {
    for backend in Backend::available() {
        watched(&backend.to_string(), move || {
            let runtime = runtime(backend);
            let server = Server::bind(&runtime, anywhere(), Int32, |n: i32, reply| reply.send(n)).unwrap();
            let client = Client::connect(&runtime, server.local_addr(), Int32).unwrap();
            let calls: Vec<_> = (0..1000).map(|n| client.call(n)).collect();
            runtime.shutdown(HOUR).unwrap();
            for (call, n) in calls.into_iter().zip(0..) {
                match call.wait() {
                    Ok(answer) => assert_eq!(answer, n),
                    Err(error) => assert!(matches!(error, CallError::Lost(_) | CallError::NotSent(_))),
                }
            }
        });
    }
}

#[test]
fn by_id_a_server_that_stops_says_what_it_took() {
    on_each_backend(|runtime| {
        let servers = one_reactor(runtime.backend());
        let (service, kept) = keeper();
        let server = Server::bind(&servers, anywhere(), Int32.by_id(), service).unwrap();
        let mut peer = dial(server.local_addr());
        write_ints(&mut peer, [0, 7, 70, 0, 8, 80]);
        let (seven, eight) = (next(&kept), next(&kept));
        let stopping = thread::spawn(move || servers.shutdown(HOUR));
        eventually("it stops", || TcpStream::connect(plain(server.local_addr())).is_err());
        // Too late: not taken, and not counted.
        write_ints(&mut peer, [0, 9, 90]);
        eight.1.send(81);
        seven.1.send(71);
        let mut received = Vec::new();
        peer.read_to_end(&mut received).unwrap();
        let (responses, goodbye) = received.split_at(24);
        assert_eq!(ints(responses), [0, 8, 81, 0, 7, 71]);
        assert_eq!(goodbye, [255, 255, 255, 255, 255, 255, 255, 254, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        drop(peer);
        stopping.join().unwrap().unwrap();
    });
}
