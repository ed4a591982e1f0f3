//! The order of what one thread asks for.

use super::support::*;
use std::sync::{Arc, Mutex};
use std::thread;
use trochus::codec::{Int32, Protocol};
use trochus::reactor::StreamOptions;
use trochus::rpc::{Client, ClientOptions, Reply, Server};

/// A server that notes what comes, and a client with little room.
fn noting<P>(runtime: &trochus::Runtime, protocol: P, options: ClientOptions) -> (Server, Client<P>, Noted)
where
    P: Protocol<RequestCodec = Int32, ResponseCodec = Int32> + Sync,
{
    let noted = Noted::default();
    let notes = noted.clone();
    let service = move |n: i32, reply: Reply<i32>| {
        notes.lock().unwrap().push(n);
        reply.send(n);
    };
    let server = Server::bind(runtime, anywhere(), protocol.clone(), service).unwrap();
    let client = Client::builder(protocol).options(options).connect(runtime, server.local_addr()).unwrap();
    (server, client, noted)
}

type Noted = Arc<Mutex<Vec<i32>>>;

#[test]
fn calls_and_pushes_of_one_thread_go_out_in_its_order() {
    on_each_ground(|runtime| {
        for lane in [1, 64, 8192] {
            let options = ClientOptions::new().lane(lane).calls_in_flight(7);
            let (_server, client, noted) = noting(runtime, Int32, options);
            let mut calls = Vec::new();
            for n in 0..6000 {
                match n % 5 {
                    0 => client.push(n).unwrap(),
                    1 => client.send(n, |outcome| assert!(outcome.is_ok())).unwrap(),
                    2 => block_on(client.push_async(n)).unwrap(),
                    _ => calls.push((n, client.call(n))),
                }
            }
            for (n, call) in calls {
                assert_eq!(call.wait().unwrap(), n);
            }
            client.close().unwrap();
            assert!(noted.lock().unwrap().iter().copied().eq(0..6000), "lane {lane}");
        }
    });
}

#[test]
fn each_of_many_threads_keeps_its_order_though_there_is_no_room() {
    const EACH: i32 = 3000;
    on_each_ground(|runtime| {
        let stream = StreamOptions::new().output_limits(4096, 1 << 20);
        let options = ClientOptions::new().lane(2).calls_in_flight(50).stream(stream);
        let (_server, client, noted) = noting(runtime, Int32.by_id(), options);
        thread::scope(|scope| {
            for thread in 0..6 {
                let client = client.clone();
                scope.spawn(move || {
                    let mut calls = Vec::new();
                    for n in thread * EACH..(thread + 1) * EACH {
                        if n % 3 == 0 {
                            client.push(n).unwrap();
                        } else {
                            calls.push(client.call(n));
                        }
                    }
                    calls.into_iter().for_each(|call| assert!(call.wait().is_ok()));
                });
            }
        });
        client.close().unwrap();
        let noted = noted.lock().unwrap();
        assert_eq!(noted.len(), 6 * EACH as usize);
        for thread in 0..6 {
            let of_thread: Vec<_> = noted.iter().copied().filter(|n| n / EACH == thread).collect();
            assert!(of_thread.is_sorted(), "thread {thread}");
        }
    });
}

#[test]
fn a_call_that_found_no_room_is_on_its_way_though_nobody_awaits_it() {
    on_each_ground(|runtime| {
        let (service, kept) = keeper();
        let server = Server::bind(runtime, anywhere(), Int32, service).unwrap();
        let options = ClientOptions::new().lane(1).calls_in_flight(1);
        let client = Client::connect_with(runtime, &options, server.local_addr(), Int32, drop).unwrap();
        let calls: Vec<_> = (0..100).map(|n| client.call(n)).collect();
        for n in 0..100 {
            let (request, reply) = next(&kept);
            assert_eq!(request, n);
            reply.send(n);
        }
        for (call, n) in calls.into_iter().zip(0..) {
            assert_eq!(call.wait().unwrap(), n);
        }
    });
}

#[test]
fn many_callers_do_not_starve_a_producer() {
    on_each_ground(|runtime| {
        let stream = StreamOptions::new().output_limits(1024, 1 << 20);
        let options = ClientOptions::new().stream(stream);
        let (_server, client, noted) = noting(runtime, Int32, options);
        let calling = client.clone();
        let calling = thread::spawn(move || {
            // As soon as some are answered there are others.
            let mut open: std::collections::VecDeque<_> = (0..5000).map(|n| calling.call(n)).collect();
            for n in 5000..60_000 {
                open.pop_front().unwrap().wait().unwrap();
                open.push_back(calling.call(n));
            }
            open.into_iter().for_each(|call| assert!(call.wait().is_ok()));
        });
        let mut producer = client.producer();
        producer.push_all((0..2000).map(|n| -1 - n)).unwrap();
        drop(producer);
        calling.join().unwrap();
        client.close().unwrap();
        let noted = noted.lock().unwrap();
        let last = noted.iter().rposition(|n| *n < 0).unwrap();
        assert!(last < 50_000, "the last pushed request was number {last} of {}", noted.len());
    });
}

#[test]
fn who_was_admitted_behind_a_full_lane_is_answered_though_the_client_closes() {
    on_each_ground(|runtime| {
        let options = ClientOptions::new().lane(8).batch(8);
        let server =
            Server::bind(runtime, anywhere(), Int32, |n: i32, reply: Reply<i32>| reply.send(n)).unwrap();
        for behind in 1..12 {
            let client = Client::connect_with(runtime, &options, server.local_addr(), Int32, drop).unwrap();
            assert_eq!(client.call(0).wait().unwrap(), 0);
            let release: Vec<_> = (0..runtime.reactors()).map(|index| hold(runtime, index)).collect();
            let calls: Vec<_> = (0..8 + behind).map(|n| client.call(n)).collect();
            client.stop_accepting();
            drop(release);
            for (n, call) in (0..).zip(calls) {
                assert_eq!(call.wait().unwrap(), n, "{behind} behind the lane");
            }
            client.close().unwrap();
        }
    });
}
