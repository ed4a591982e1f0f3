//! Calls: who waits for them, and how.

use super::support::*;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use trochus::codec::{Int32, Protocol};
use trochus::rpc::{CallError, Client, ClientOptions, Reply, Server};

fn double(n: i32, reply: Reply<i32>) {
    reply.send(2 * n);
}

#[test]
fn a_call_is_awaited_on_any_executor() {
    on_each_ground(|runtime| {
        let server = Server::bind(runtime, anywhere(), Int32, double).unwrap();
        let client = Client::connect(runtime, server.local_addr(), Int32).unwrap();
        assert_eq!(client.call(1).wait().unwrap(), 2);
        assert_eq!(block_on(client.call(2)).unwrap(), 4);
        let all = block_on_all((0..1000).map(|n| client.call(n)));
        assert!(all.into_iter().zip(0..).all(|(answer, n)| answer.unwrap() == 2 * n));
    });
}

#[test]
fn a_call_is_awaited_on_tokio() {
    on_each_ground(|runtime| {
        let server = Server::bind(runtime, anywhere(), Int32.by_id(), double).unwrap();
        let client = Client::connect(runtime, server.local_addr(), Int32.by_id()).unwrap();
        let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        tokio.block_on(async {
            assert_eq!(client.call(1).await.unwrap(), 2);
            let tasks: Vec<_> = (0..100)
                .map(|n| {
                    let client = client.clone();
                    tokio::spawn(async move { client.call(n).await })
                })
                .collect();
            for (task, n) in tasks.into_iter().zip(0..) {
                assert_eq!(task.await.unwrap().unwrap(), 2 * n);
            }
            let (a, b) = tokio::join!(client.call(3), client.call(4));
            assert_eq!((a.unwrap(), b.unwrap()), (6, 8));
            let in_time = tokio::time::timeout(PATIENCE, client.call(5)).await;
            assert_eq!(in_time.unwrap().unwrap(), 10);
        });
    });
}

#[test]
fn tokio_cancels_a_call_by_dropping_it() {
    on_each_ground(|runtime| {
        let (service, kept) = keeper();
        let server = Server::bind(runtime, anywhere(), Int32, service).unwrap();
        let client = Client::connect(runtime, server.local_addr(), Int32).unwrap();
        let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        tokio.block_on(async {
            let call = client.call(1);
            let (n, late) = next(&kept);
            let given_up = tokio::time::timeout(Duration::from_millis(5), call).await;
            assert!(given_up.is_err());
            let call = client.call(2);
            late.send(100 * n);
            let (n, reply) = next(&kept);
            reply.send(1000 * n);
            assert_eq!(call.await.unwrap(), 2000);
        });
    });
}

#[test]
fn calls_of_many_threads_share_a_client() {
    on_each_ground(|runtime| {
        let server = Server::bind(runtime, anywhere(), Int32, double).unwrap();
        let client = Client::connect(runtime, server.local_addr(), Int32).unwrap();
        thread::scope(|scope| {
            for thread in 0..8 {
                let client = client.clone();
                scope.spawn(move || {
                    for n in thread * 1000..thread * 1000 + 200 {
                        assert_eq!(client.call(n).wait().unwrap(), 2 * n);
                    }
                });
            }
        });
        client.close().unwrap();
    });
}

#[test]
fn calls_wait_for_room() {
    const CALLS: i32 = 10_000; // more than a thread's lane holds
    on_each_ground(|runtime| {
        let (service, kept) = keeper();
        let server = Server::bind(runtime, anywhere(), Int32, service).unwrap();
        let options = ClientOptions::new().calls_in_flight(64);
        let client = Client::connect_with(runtime, &options, server.local_addr(), Int32, drop).unwrap();
        let mut calls: Vec<_> = (0..CALLS).map(|n| client.call(n)).collect();
        let waited_for = calls.split_off(CALLS as usize / 2);
        let answering = thread::spawn(move || {
            for _ in 0..CALLS {
                let (n, reply) = next(&kept);
                reply.send(n + 1);
            }
        });
        let polled = thread::spawn(move || block_on_all(calls));
        let half = CALLS / 2;
        let waited_for = waited_for.into_iter().map(|call| call.wait().unwrap()).collect::<Vec<_>>();
        assert_eq!(waited_for, (half + 1..=CALLS).collect::<Vec<_>>());
        let polled: Vec<_> = polled.join().unwrap().into_iter().map(Result::unwrap).collect();
        assert_eq!(polled, (1..=half).collect::<Vec<_>>());
        answering.join().unwrap();
    });
}

#[test]
fn no_more_calls_are_in_flight_than_allowed() {
    on_each_ground(|runtime| {
        let (service, kept) = keeper();
        let server = Server::bind(runtime, anywhere(), Int32.by_id(), service).unwrap();
        let options = ClientOptions::new().calls_in_flight(3);
        let client =
            Client::connect_with(runtime, &options, server.local_addr(), Int32.by_id(), drop).unwrap();
        let calls: Vec<_> = (0..50).map(|n| client.call(n)).collect();
        let mut open = Vec::new();
        for answered in 0..50 {
            let left = 50 - answered;
            while open.len() < left.min(3) {
                open.push(next(&kept));
            }
            assert!(kept.try_recv().is_err());
            let (n, reply) = open.swap_remove(answered % open.len());
            reply.send(n);
        }
        for (call, n) in calls.into_iter().zip(0..) {
            assert_eq!(call.wait().unwrap(), n);
        }
    });
}

#[test]
fn a_callback_gets_what_comes_of_a_request() {
    on_each_ground(|runtime| {
        let server = Server::bind(runtime, anywhere(), Int32, double).unwrap();
        let client = Client::connect(runtime, server.local_addr(), Int32).unwrap();
        let (tell, told) = mpsc::channel();
        for n in 0..100 {
            let tell = tell.clone();
            client
                .send(n, move |result| {
                    let _ = tell.send(result.unwrap());
                    // One of them is broken; the others do not notice.
                    assert_ne!(n, 50, "on purpose");
                })
                .unwrap();
        }
        let answers: Vec<i32> = (0..100).map(|_| told.recv_timeout(PATIENCE).unwrap()).collect();
        assert_eq!(answers, (0..100).map(|n| 2 * n).collect::<Vec<_>>());
        client.close().unwrap();
        let (tell, told) = mpsc::channel();
        client.send(1, move |result| drop(tell.send(result))).unwrap();
        let error = told.recv_timeout(PATIENCE).unwrap().unwrap_err();
        assert!(matches!(error, CallError::NotSent(_)) && !error.may_have_been_executed(), "{error}");
    });
}

#[test]
fn callbacks_that_panic_when_the_connection_is_lost_keep_nobody_from_learning() {
    on_each_ground(|runtime| {
        let (client, peer) = client_of_plain_server(runtime);
        let outcomes = Arc::new(Mutex::new(0));
        for _ in 0..10 {
            let outcomes = outcomes.clone();
            client
                .send(1, move |result| {
                    assert!(result.is_err());
                    *outcomes.lock().unwrap() += 1;
                    panic!("on purpose");
                })
                .unwrap();
        }
        let call = client.call(2);
        reset(peer);
        assert!(call.wait().is_err());
        assert!(client.close().is_err());
        eventually("every callback was called", || *outcomes.lock().unwrap() == 10);
    });
}

#[test]
fn a_closed_client_sends_nothing() {
    on_each_ground(|runtime| {
        let server = Server::bind(runtime, anywhere(), Int32, double).unwrap();
        let client = Client::connect(runtime, server.local_addr(), Int32).unwrap();
        let call = client.call(1);
        client.close().unwrap();
        assert!(client.is_closed());
        assert_eq!(call.wait().unwrap(), 2);
        let error = client.call(2).wait().unwrap_err();
        assert!(matches!(error, CallError::NotSent(_)), "{error}");
        assert!(block_on(client.call(3)).is_err());
        assert!(client.push(4).is_err());
        client.close().unwrap();
        assert!(client.take_unsent().is_empty());
    });
}

#[test]
fn a_dropped_client_lets_its_calls_come_back() {
    on_each_ground(|runtime| {
        let (service, kept) = keeper();
        let server = Server::bind(runtime, anywhere(), Int32, service).unwrap();
        let client = Client::connect(runtime, server.local_addr(), Int32).unwrap();
        let call = client.call(1);
        let (_, reply) = next(&kept);
        drop(client);
        reply.send(5);
        assert_eq!(call.wait().unwrap(), 5);
        eventually("the connection ends", || server.connections() == 0);
    });
}
