//! What is built on streams, over TLS: typed requests, relays.

use crate::support::*;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use trochus::codec::{Int32, Protocol};
use trochus::net::{Address, ListenOptions, StreamOptions};
use trochus::rpc::{Client, ClientOptions, Reply, Server};

#[test]
fn requests_are_answered() {
    on_each_backend(|runtime| {
        let listen = ListenOptions::new().tls(server());
        let service = |n: i32, reply: Reply<i32>| reply.send(n + 1);
        let server = Server::builder().listen(listen).bind(runtime, "127.0.0.1:0", Int32, service).unwrap();
        let options = ClientOptions::new().stream(StreamOptions::new().tls(client()));
        let address = server.local_addr().clone();
        let client = Client::builder(Int32).options(options).connect(runtime, address).unwrap();
        let calls: Vec<_> = (0..10_000).map(|n| client.call(n)).collect();
        for (call, n) in calls.into_iter().zip(0..) {
            assert_eq!(call.wait().unwrap(), n + 1);
        }
        client.close().unwrap();
        assert_eq!(server.stop(PATIENCE).unwrap().cut_off, 0);
    });
}

/// A server that stops in the middle of requests answers those that it took, says goodbye, and the rest go elsewhere: here, nowhere.
#[test]
fn no_answer_is_lost_when_a_server_stops() {
    on_each_backend(|runtime| {
        let listen = ListenOptions::new().tls(server());
        let service = |n: i32, reply: Reply<i32>| reply.send(n + 1);
        let server =
            Server::builder().listen(listen).bind(runtime, "127.0.0.1:0", Int32.by_id(), service).unwrap();
        let options = ClientOptions::new().stream(StreamOptions::new().tls(client()));
        let address = server.local_addr().clone();
        let client = Client::builder(Int32.by_id()).options(options).connect(runtime, address).unwrap();
        let calls: Vec<_> = (0..10_000).map(|n| client.call(n)).collect();
        assert_eq!(server.stop(PATIENCE).unwrap().cut_off, 0);
        for (call, n) in calls.into_iter().zip(0..) {
            match call.wait() {
                Ok(answer) => assert_eq!(answer, n + 1),
                Err(error) => assert!(!error.may_have_been_executed(), "{error}"),
            }
        }
    });
}

#[test]
fn a_relay_has_tls_on_one_side_and_none_on_the_other() {
    on_each_backend(|runtime| {
        const LEN: usize = 5 << 20;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let upstream = Address::Tcp(listener.local_addr().unwrap());
        let behind = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            stream.write_all(&received).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            received.len()
        });
        let options = ListenOptions::new().tls(server());
        let relay = move |_: &trochus::net::Incoming<'_>| trochus::net::Relay::to(vec![upstream.clone()]);
        let server = runtime.listen_with(&options, "127.0.0.1:0", relay).unwrap();
        let mut client = connect(&server, client_config(ALL));
        client.write_all(&pattern(LEN)).unwrap();
        end_output(&mut client);
        assert!(receive_to_end(&mut client) == pattern(LEN));
        assert_eq!(behind.join().unwrap(), LEN);
    });
}

/// Who is cut short on the one side is not made whole on the other.
#[test]
fn a_relay_makes_no_end_of_a_truncation() {
    on_each_backend(|runtime| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let upstream = Address::Tcp(listener.local_addr().unwrap());
        let behind = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut received = Vec::new();
            (stream.read_to_end(&mut received).is_err(), received)
        });
        let options = ListenOptions::new().tls(server());
        let relay = move |_: &trochus::net::Incoming<'_>| trochus::net::Relay::to(vec![upstream.clone()]);
        let server = runtime.listen_with(&options, "127.0.0.1:0", relay).unwrap();
        let mut client = connect(&server, client_config(ALL));
        client.write_all(b"a part").unwrap();
        client.sock.shutdown(Shutdown::Write).unwrap();
        assert_eq!(behind.join().unwrap(), (true, b"a part".to_vec()));
    });
}
