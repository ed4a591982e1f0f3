//! In order there are no words for a request without a response: how the connection ends has to tell, and takes nothing away
//! that was answered before.

use super::support::*;
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use trochus::codec::{Int32, LengthDelimited, Protocol};
use trochus::reactor::StreamOptions;
use trochus::rpc::{Client, ClientOptions, Reconnect, Reply, Server};

/// A client that believes in clean ends, and connects again.
fn believer(runtime: &trochus::Runtime, server: &Server) -> Client<Int32> {
    let policy = Reconnect::forever().first_delay(Duration::from_millis(1));
    let options = ClientOptions::new().peer_drains_cleanly(true).reconnect(policy);
    Client::builder(Int32).options(options).connect(runtime, server.local_addr()).unwrap()
}

#[test]
fn what_may_have_run_is_never_sent_again() {
    on_each_ground(|runtime| {
        let runs = Arc::new(Mutex::new(HashMap::<i32, u32>::new()));
        let counts = runs.clone();
        let server = Server::bind(runtime, anywhere(), Int32, move |n: i32, reply: Reply<i32>| {
            *counts.lock().unwrap().entry(n).or_default() += 1;
            match n % 10 {
                3 => drop(reply),
                5 => drop(thread::spawn(move || drop(reply))),
                7 => panic!("on purpose"),
                _ if n % 4 == 0 => drop(thread::spawn(move || reply.send(10 * n))),
                _ => reply.send(10 * n),
            }
        });
        let server = server.unwrap();
        let client = believer(runtime, &server);
        for round in 0..20 {
            // One without a response, behind some that have one and before some that nobody saw.
            let numbers: Vec<i32> = (0..4).map(|n| 100 * round + 2 * n).collect();
            let culprit = 100 * round + [3, 5, 7][round as usize % 3];
            let before: Vec<_> = numbers.iter().map(|n| client.call(*n)).collect();
            let call = client.call(culprit);
            for (n, call) in numbers.iter().zip(before) {
                assert_eq!(call.wait().unwrap(), 10 * n, "it was answered before");
            }
            let error = call.wait().unwrap_err();
            assert!(error.may_have_been_executed(), "{error}");
            eventually("there is another connection", || {
                let call = client.call(100 * round + 9);
                call.wait().is_ok()
            });
        }
        let runs = runs.lock().unwrap();
        let again: Vec<_> = runs.iter().filter(|(n, times)| *n % 10 != 9 && **times > 1).collect();
        assert!(again.is_empty(), "{again:?}");
    });
}

#[test]
fn what_was_answered_before_survives_the_reset() {
    const BYTES: usize = 4 << 20;
    on_each_backend(|runtime| {
        let protocol = LengthDelimited::new().max_frame_bytes(BYTES);
        let server =
            Server::bind(runtime, anywhere(), protocol, |frame: &[u8], reply: Reply<bytes::Bytes>| {
                if frame == b"much" {
                    reply.send(vec![7; BYTES].into());
                }
            });
        let server = server.unwrap();
        // More than the sockets hold, and a peer that takes its time: it is still on its way when there is nothing left to say.
        let mut peer = dial(server.local_addr());
        socket2::SockRef::from(&peer).set_recv_buffer_size(16 << 10).unwrap();
        peer.write_all(b"\0\0\0\x04much\0\0\0\x04drop\0\0\0\x04much").unwrap();
        let (mut received, mut bytes) = (0, vec![0; 64 << 10]);
        let end = loop {
            match peer.read(&mut bytes) {
                Ok(0) => break None,
                Ok(read) => received += read,
                Err(error) => break Some(error.kind()),
            }
            if received < 1 << 20 {
                thread::sleep(Duration::from_millis(2));
            }
        };
        assert_eq!((received, end), (BYTES + 4, Some(ErrorKind::ConnectionReset)));
        // The same for a client that does not read at all for a while.
        let client = Client::connect(runtime, server.local_addr(), protocol).unwrap();
        client.pause_responses();
        let (much, none) = (client.call("much".into()), client.call("drop".into()));
        thread::sleep(Duration::from_millis(100));
        client.resume_responses();
        assert_eq!(much.wait().unwrap().len(), BYTES);
        assert!(none.wait().unwrap_err().may_have_been_executed());
    });
}

#[test]
fn who_does_not_take_what_came_before_is_not_waited_for() {
    const BYTES: usize = 64 << 10;
    on_each_backend(|runtime| {
        let protocol = LengthDelimited::new().max_frame_bytes(BYTES);
        let stream = StreamOptions::new().close_timeout(Duration::from_millis(50)).send_buffer(4 * BYTES);
        let listen = trochus::reactor::ListenOptions::new().stream(stream);
        let server = Server::builder().listen(listen);
        let server =
            server.bind(runtime, anywhere(), protocol, |frame: &[u8], reply: Reply<bytes::Bytes>| {
                if frame == b"much" {
                    reply.send(vec![7; BYTES].into());
                }
            });
        let server = server.unwrap();
        let peer = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        peer.set_recv_buffer_size(4 << 10).unwrap();
        peer.connect(&plain(server.local_addr()).into()).unwrap();
        (&peer).write_all(b"\0\0\0\x04much\0\0\0\x04drop").unwrap();
        eventually("it is taken", || server.metrics().requests == 2);
        eventually("it is cut off", || server.connections() == 0);
    });
}

#[test]
fn only_what_was_not_answered_ends_with_a_reset() {
    on_each_backend(|runtime| {
        // By id, where the client does not know the words for it.
        let server = Server::builder().notices(false);
        let server = server.bind(runtime, anywhere(), Int32.by_id(), |n: i32, reply: Reply<i32>| {
            if n > 0 {
                reply.send(n);
            }
        });
        let server = server.unwrap();
        let mut peer = dial(server.local_addr());
        write_ints(&mut peer, [0, 1, 10, 0, 2, -1, 0, 3, 30]);
        assert_eq!(ints(&rest_until_reset(&mut peer)), [0, 1, 10]);
        // A server that stops has answered what it took.
        let (service, kept) = keeper();
        let server = Server::bind(runtime, anywhere(), Int32, service).unwrap();
        let mut peer = dial(server.local_addr());
        write_ints(&mut peer, [1, 2]);
        let replies = [next(&kept), next(&kept)];
        let stopping = server.stop_async(HOUR);
        replies.into_iter().for_each(|(n, reply)| reply.send(n));
        assert_eq!(rest_of_ints(&mut peer), [1, 2]);
        drop(peer);
        block_on(stopping).unwrap();
    });
}
