//! Peers that are slow, and limits that hold.

use super::support::*;
use bytes::Bytes;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use trochus::codec::{Int32, LengthDelimited};
use trochus::reactor::{Address, ListenOptions, StreamOptions};
use trochus::rpc::{Client, ClientOptions, Reply, Server, ServerOptions};

#[test]
fn a_slow_server_makes_producers_wait() {
    const REQUESTS: usize = 3_000_000;
    on_each_ground(|runtime| {
        let (listener, address) = listen();
        let stream = StreamOptions::new().send_buffer(64 << 10).output_limits(64 << 10, 1 << 20);
        let options = ClientOptions::new().lane(1024).stream(stream);
        let client = Client::connect_with(runtime, &options, address, Int32, drop).unwrap();
        let mut peer = accept(&listener);
        let pushed = Arc::new(AtomicUsize::new(0));
        let (count, mut producer) = (pushed.clone(), client.producer());
        let pushing = thread::spawn(move || {
            for n in 0..REQUESTS {
                producer.push(n as i32).unwrap();
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        // It comes to a halt long before the end.
        let mut last = usize::MAX;
        eventually("the producer waits", || {
            thread::sleep(std::time::Duration::from_millis(100));
            std::mem::replace(&mut last, pushed.load(Ordering::SeqCst)) == last
        });
        assert!((1024..REQUESTS).contains(&last), "{last}");
        let mut received = 0;
        while received < REQUESTS {
            let numbers = read_ints(&mut peer, (REQUESTS - received).min(10_000));
            assert!(numbers.iter().zip(received..).all(|(a, b)| *a as usize == b));
            received += numbers.len();
            write_ints(&mut peer, numbers);
        }
        pushing.join().unwrap();
        client.close().unwrap();
    });
}

/// Frames of 16 KiB, with limits of output that a few of them reach.
fn small_limits() -> StreamOptions {
    StreamOptions::new().output_limits(64 << 10, 256 << 10)
}

#[test]
fn large_requests_do_not_exceed_the_limit_of_output() {
    on_each_ground(|runtime| {
        let service = |frame: &[u8], reply: Reply<Bytes>| reply.send(Bytes::copy_from_slice(&frame[..4]));
        let server = Server::bind(runtime, anywhere(), LengthDelimited::new(), service).unwrap();
        let options = ClientOptions::new().stream(small_limits());
        let count = Arc::new(AtomicUsize::new(0));
        let counter = count.clone();
        let callback = move |_: &[u8]| {
            counter.fetch_add(1, Ordering::SeqCst);
        };
        let protocol = LengthDelimited::new();
        let client =
            Client::connect_with(runtime, &options, server.local_addr(), protocol, callback).unwrap();
        let frame = |n: u32| Bytes::from([&n.to_be_bytes()[..], &[0; 16 << 10]].concat());
        let mut producer = client.producer();
        producer.push_all((0..500).map(frame)).unwrap();
        let calls: Vec<_> = (0..500).map(|n| client.call(frame(n))).collect();
        for (call, n) in calls.into_iter().zip(0_u32..) {
            assert_eq!(call.wait().unwrap(), n.to_be_bytes()[..]);
        }
        drop(producer);
        client.close().unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 500);
    });
}

#[test]
fn many_late_replies_at_once_do_not_exceed_the_limit_of_output() {
    on_each_backend(|runtime| {
        let (keep, kept) = mpsc::channel();
        let keep = std::sync::Mutex::new(keep);
        let service = move |_: &[u8], reply: Reply<Bytes>| drop(keep.lock().unwrap().send(reply));
        let options = ServerOptions::new().listen(ListenOptions::new().stream(small_limits()));
        let service = Arc::new(service);
        let make = move |_: &Address| {
            let service = service.clone();
            move |frame: &[u8], reply: Reply<Bytes>| service(frame, reply)
        };
        let protocol = LengthDelimited::new();
        let server = Server::bind_each(runtime, &options, anywhere(), protocol, make).unwrap();
        let mut peer = dial(server.local_addr());
        for _ in 0..1000 {
            peer.write_all(b"\0\0\0\x01x").unwrap();
        }
        let replies: Vec<Reply<Bytes>> = (0..1000).map(|_| kept.recv_timeout(PATIENCE).unwrap()).collect();
        let response = Bytes::from(vec![7; 16 << 10]);
        for reply in replies.into_iter().rev() {
            reply.send(response.clone());
        }
        end_output(&peer);
        let mut received = Vec::new();
        peer.read_to_end(&mut received).unwrap();
        assert_eq!(received.len(), 1000 * (4 + response.len()));
    });
}

#[test]
fn a_client_that_reads_late_gets_everything() {
    // Responses of the requests' size, so that the limit is met exactly, and far more than sockets hold.
    const BYTES: usize = 24 << 20;
    on_each_backend(|runtime| {
        let server = Server::bind(runtime, anywhere(), Int32, |n: i32, reply| reply.send(n)).unwrap();
        let mut peer = dial(server.local_addr());
        let mut writing = peer.try_clone().unwrap();
        let (begin, begun) = mpsc::channel();
        let writing = thread::spawn(move || {
            for chunk in 0..BYTES / (1 << 20) {
                if chunk == 12 {
                    begin.send(()).unwrap();
                }
                writing.write_all(&vec![chunk as u8; 1 << 20]).unwrap();
            }
            end_output(&writing);
        });
        // The writer may be stopped before it comes so far; then it waits for this side.
        let _ = begun.recv_timeout(std::time::Duration::from_millis(300));
        let mut received = Vec::new();
        peer.read_to_end(&mut received).unwrap();
        assert_eq!(received.len(), BYTES);
        assert!(received.chunks(1 << 20).zip(0_u8..).all(|(chunk, n)| chunk.iter().all(|byte| *byte == n)));
        writing.join().unwrap();
    });
}

#[test]
fn requests_in_progress_are_limited() {
    for limit in [1, 4, 7] {
        on_each_backend(move |runtime| {
            let (service, kept) = keeper();
            let service = Arc::new(service);
            let make = move |_: &Address| {
                let service = service.clone();
                move |n: i32, reply: Reply<i32>| service(n, reply)
            };
            let options = ServerOptions::new().requests_in_progress(limit);
            let server = Server::bind_each(runtime, &options, anywhere(), Int32, make).unwrap();
            let mut peer = dial(server.local_addr());
            write_ints(&mut peer, 0..100);
            end_output(&peer);
            let mut open = Vec::new();
            let mut answered = 0;
            while answered < 100 {
                // Reading goes on once half of them are answered, at the latest.
                while open.len() < limit.div_ceil(2).min(100 - answered) {
                    open.push(next(&kept));
                }
                open.extend(kept.try_iter());
                assert!(open.len() <= limit, "{} in progress", open.len());
                let (n, reply): (i32, _) = open.remove(0);
                reply.send(n * 2);
                answered += 1;
            }
            assert_eq!(rest_of_ints(&mut peer), (0..100).map(|n| 2 * n).collect::<Vec<_>>());
        });
    }
}

#[test]
fn many_clients_share_a_server() {
    on_each_ground(|runtime| {
        let server = Server::bind(runtime, anywhere(), Int32, |n: i32, reply| reply.send(n + 1)).unwrap();
        let clients: Vec<_> =
            (0..50).map(|_| Client::connect(runtime, server.local_addr(), Int32).unwrap()).collect();
        eventually("all are accepted", || server.connections() == 50);
        for round in 0..20 {
            let calls: Vec<_> =
                clients.iter().zip(0..).map(|(client, n)| client.call(100 * round + n)).collect();
            for (call, n) in calls.into_iter().zip(0..) {
                assert_eq!(call.wait().unwrap(), 100 * round + n + 1);
            }
        }
        clients.iter().for_each(|client| client.close().unwrap());
        eventually("all leave", || server.connections() == 0);
    });
}

#[test]
fn lanes_that_weigh_their_requests_hold_so_many_bytes() {
    on_each_ground(|runtime| {
        let (listener, address) = listen();
        let options = ClientOptions::new().lane_bytes(100_000);
        let client = Client::builder(LengthDelimited::new())
            .options(options.stream(StreamOptions::new().output_limits(16 << 10, 1 << 20)))
            .weigh(|request: &bytes::Bytes| request.len())
            .connect(runtime, address)
            .unwrap();
        let _peer = accept(&listener);
        let request = bytes::Bytes::from(vec![1; 10_000]);
        for pushes_through_client in [true, false] {
            let mut producer = client.producer();
            let (mut pushed, mut refusals) = (0, 0);
            while refusals < 50 {
                let outcome = match pushes_through_client {
                    true => client.try_push(request.clone()),
                    false => producer.try_push(request.clone()),
                };
                match outcome {
                    Ok(()) => (pushed, refusals) = (pushed + 1, 0),
                    Err(refused) => {
                        assert!(refused.is_full());
                        refusals += 1;
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            }
            // A lane, what the reactor took out of it, and what the sockets took: by number it would be 8192.
            assert!((10..2000).contains(&pushed), "{pushed}");
        }
        client.abort();
        assert!(client.close().is_err());
    });
}
