//! Calls with several responses. Here a negative number is the last one.

use super::support::*;
use bytes::Bytes;
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;
use trochus::Runtime;
use trochus::codec::{Int32, LengthDelimited, Matching, Protocol};
use trochus::rpc::{
    CallError, Client, ClientOptions, Parts, PushRefused, Reconnect, Reply, ResponseParts, Server,
};

fn is_last(n: &i32) -> bool {
    *n < 0
}

/// Counts down from what is asked for to -1, at once or on another thread by turns; an odd number has one response only.
fn counts_down(n: i32, reply: Reply<i32>) {
    let count = move |parts: Parts<i32>| {
        (0..n).rev().for_each(|n| parts.push(n).unwrap());
        parts.push(-1).unwrap();
        parts.finish();
    };
    match n % 4 {
        0 => count(reply.in_parts()),
        2 => drop(thread::spawn(move || count(reply.in_parts()))),
        _ => reply.send(n),
    }
}

fn all(mut parts: ResponseParts<i32, i32>) -> Vec<i32> {
    std::iter::from_fn(|| parts.wait_next()).map(Result::unwrap).collect()
}

fn countdown(n: i32) -> Vec<i32> {
    (-1..n).rev().collect()
}

#[test]
fn they_come_in_their_order_among_other_calls() {
    fn check<P>(runtime: &Runtime, protocol: P)
    where
        P: Protocol<RequestCodec = Int32, ResponseCodec = Int32, Correlation: Matching> + Sync,
    {
        let server = Server::bind(runtime, anywhere(), protocol.clone(), counts_down).unwrap();
        let client = Client::connect(runtime, server.local_addr(), protocol).unwrap();
        thread::scope(|scope| {
            for thread in 0..4 {
                let client = &client;
                scope.spawn(move || {
                    for round in 0..50 {
                        let n = 2 * ((thread + round) % 20);
                        let parts = [client.call_in_parts(n, is_last), client.call_in_parts(n + 2, is_last)];
                        let odd = client.call(n + 1);
                        let [first, mut second] = parts;
                        let seen = block_on(async {
                            let mut seen = Vec::new();
                            while let Some(response) = second.next().await {
                                seen.push(response.unwrap());
                            }
                            assert!(second.next().await.is_none(), "and again");
                            seen
                        });
                        assert_eq!(seen, countdown(n + 2));
                        assert_eq!(odd.wait().unwrap(), n + 1);
                        assert_eq!(all(first), countdown(n));
                    }
                });
            }
        });
        client.close().unwrap();
    }
    on_each_ground(|runtime| {
        check(runtime, Int32);
        check(runtime, Int32.by_id());
    });
}

/// Whether it is wanted or not.
fn offer(parts: &Parts<i32>, n: i32) {
    assert!(matches!(parts.push(n), Ok(()) | Err(PushRefused::Closed(_))));
}

#[test]
fn those_that_nobody_wants_do_not_come_to_others() {
    fn check<P>(runtime: &Runtime, protocol: P)
    where
        P: Protocol<RequestCodec = Int32, ResponseCodec = Int32, Correlation: Matching> + Sync,
    {
        let (keep, kept) = mpsc::channel();
        let keep = Mutex::new(keep);
        let service = move |n: i32, reply: Reply<i32>| match n {
            0 => keep.lock().unwrap().send(reply.in_parts()).unwrap(),
            n => reply.send(n),
        };
        let server = Server::bind(runtime, anywhere(), protocol.clone(), service).unwrap();
        let client = Client::connect(runtime, server.local_addr(), protocol).unwrap();
        let dropped = client.call_in_parts(0, is_last);
        let mut begun = client.call_in_parts(0, is_last);
        let late = client.call_in_parts(0, is_last).timeout(Duration::from_millis(50));
        let others = [client.call(1), client.call(2)];
        let parts: Vec<Parts<i32>> = (0..3).map(|_| kept.recv_timeout(PATIENCE).unwrap()).collect();
        drop(dropped);
        for n in 10..20 {
            parts.iter().for_each(|parts| offer(parts, n));
        }
        let mut parts = parts.into_iter();
        let first = parts.next().unwrap();
        offer(&first, -1);
        first.finish();
        assert_eq!(begun.wait_next().unwrap().unwrap(), 10);
        drop(begun);
        // Behind those that are there: in order there are none, because the ones before it are not over.
        let mut late = late;
        let error = std::iter::from_fn(|| late.wait_next()).find_map(Result::err).unwrap();
        assert!(matches!(error, CallError::TimedOut { sent: true }), "{error}");
        for parts in parts {
            offer(&parts, -1);
            parts.finish();
        }
        assert_eq!(others.map(|call| call.wait().unwrap()), [1, 2]);
        client.close().unwrap();
    }
    on_each_ground(|runtime| {
        check(runtime, Int32);
        check(runtime, Int32.by_id());
    });
}

#[test]
fn what_was_begun_is_not_made_again() {
    on_each_ground(|runtime| {
        let (listener, address) = listen();
        let policy = Reconnect::new().first_delay(Duration::from_millis(1));
        let options = ClientOptions::new().reconnect(policy).peer_drains_cleanly(true);
        let client = Client::connect_with(runtime, &options, address, Int32, drop).unwrap();
        let mut peer = accept(&listener);
        let mut begun = client.call_in_parts(1, is_last);
        let not_taken = client.call_in_parts(2, is_last);
        read_ints(&mut peer, 2);
        write_ints(&mut peer, [7, 8]);
        end_output(&peer);
        let mut next = accept(&listener);
        assert_eq!(read_ints(&mut next, 1), [2]);
        assert_eq!(begun.wait_next().unwrap().unwrap(), 7);
        assert_eq!(begun.wait_next().unwrap().unwrap(), 8);
        let error = begun.wait_next().unwrap().unwrap_err();
        assert!(matches!(error, CallError::Lost(_)), "{error}");
        assert!(begun.wait_next().is_none());
        write_ints(&mut next, [9, -1]);
        assert_eq!(all(not_taken), [9, -1]);
        client.close().unwrap();
    });
}

#[test]
fn what_was_begun_makes_room_for_others_to_be_made_again() {
    on_each_ground(|runtime| {
        let (listener, address) = listen();
        let policy = Reconnect::new().first_delay(Duration::from_millis(1));
        // Of one request at a time.
        let options = ClientOptions::new().reconnect(policy).peer_drains_cleanly(true).resend_bytes(4);
        let client = Client::connect_with(runtime, &options, address, Int32, drop).unwrap();
        let mut peer = accept(&listener);
        let mut begun = client.call_in_parts(1, is_last);
        read_ints(&mut peer, 1);
        write_ints(&mut peer, [7]);
        assert_eq!(begun.wait_next().unwrap().unwrap(), 7);
        let not_taken = client.call(2);
        read_ints(&mut peer, 1);
        end_output(&peer);
        let mut next = accept(&listener);
        assert_eq!(read_ints(&mut next, 1), [2]);
        write_ints(&mut next, [20]);
        assert_eq!(not_taken.wait().unwrap(), 20);
    });
}

#[test]
fn they_are_waited_for_when_the_client_closes() {
    on_each_ground(|runtime| {
        let (client, mut peer) = client_of_plain_server(runtime);
        let parts = client.call_in_parts(1, is_last);
        read_ints(&mut peer, 1);
        write_ints(&mut peer, [5]);
        let closing = client.close_async();
        write_ints(&mut peer, [4, 3, -9]);
        block_on(closing).unwrap();
        assert_eq!(all(parts), [5, 4, 3, -9]);
    });
}

fn frames() -> LengthDelimited {
    LengthDelimited::new()
}

/// A client of few bytes, and the server's end of a call in parts: each response is 10 000 bytes, the last one none.
fn slow_reader<P>(
    runtime: &Runtime,
    protocol: P,
) -> (Server, Client<P>, ResponseParts<Bytes, Bytes>, Parts<Bytes>)
where
    P: Protocol<RequestCodec = LengthDelimited, ResponseCodec = LengthDelimited, Correlation: Matching>
        + Sync,
{
    let (keep, kept) = mpsc::channel();
    let keep = Mutex::new(keep);
    let service = move |request: &[u8], reply: Reply<Bytes>| match request {
        b"parts" => keep.lock().unwrap().send(reply.in_parts()).unwrap(),
        other => reply.send(Bytes::copy_from_slice(other)),
    };
    let server = Server::builder().held_limits(64 << 10, 64 << 20).bind(
        runtime,
        anywhere(),
        protocol.clone(),
        service,
    );
    let server = server.unwrap();
    let options = ClientOptions::new().parts_bytes(50_000);
    let client =
        Client::connect_with(runtime, &options, server.local_addr(), protocol, |_: &[u8]| ()).unwrap();
    let parts = client.call_in_parts("parts".into(), |part| part.is_empty());
    (server, client, parts, kept.recv_timeout(PATIENCE).unwrap())
}

/// Pushes until the client does not read any more: how many were taken.
fn fill(parts: &Parts<Bytes>) -> usize {
    let part = Bytes::from(vec![b'x'; 10_000]);
    let mut pushed = 0;
    eventually("the client stops reading", || match parts.push(part.clone()) {
        Ok(()) => {
            pushed += 1;
            assert!(pushed < 5000, "50 MB and no end");
            false
        }
        Err(PushRefused::Full(_)) => true,
        Err(refused) => panic!("{refused}"),
    });
    pushed
}

#[test]
fn the_server_waits_for_whoever_is_slow() {
    on_each_ground(|runtime| {
        let (_server, client, mut parts, its) = slow_reader(runtime, frames().by_id());
        let pushed = fill(&its);
        // Everything that was accepted arrives, and then there is room again.
        for _ in 0..pushed {
            assert_eq!(parts.wait_next().unwrap().unwrap().len(), 10_000);
        }
        eventually("there is room", || its.push("more".into()).is_ok());
        eventually("there is room", || its.push(Bytes::new()).is_ok());
        its.finish();
        assert_eq!(parts.wait_next().unwrap().unwrap(), "more");
        assert!(parts.wait_next().unwrap().unwrap().is_empty());
        assert!(parts.wait_next().is_none());
        assert_eq!(client.call("other".into()).wait().unwrap(), "other");
        client.close().unwrap();
    });
}

#[test]
fn who_is_slow_and_goes_away_holds_nobody_up() {
    on_each_ground(|runtime| {
        // By id, what still comes is nobody's.
        let (_server, client, parts, its) = slow_reader(runtime, frames().by_id());
        fill(&its);
        let other = client.call("other".into());
        drop(parts);
        assert_eq!(other.wait().unwrap(), "other");
        drop(its);
        client.close().unwrap();
        // In order, it has to be heard out.
        let (_server, client, parts, its) = slow_reader(runtime, frames());
        fill(&its);
        let other = client.call("other".into());
        drop(parts);
        eventually("there is room", || its.push(Bytes::new()).is_ok());
        its.finish();
        assert_eq!(other.wait().unwrap(), "other");
        client.close().unwrap();
    });
}

#[test]
fn a_deadline_comes_behind_what_is_there() {
    on_each_ground(|runtime| {
        let (client, mut peer) = client_of_plain_server(runtime);
        let mut parts = client.call_in_parts(1, is_last);
        read_ints(&mut peer, 1);
        write_ints(&mut peer, [3, 2]);
        assert_eq!(parts.wait_next().unwrap().unwrap(), 3);
        // The other one came with it.
        (0..runtime.reactors()).for_each(|index| drop(hold(runtime, index)));
        let mut parts = parts.timeout(Duration::ZERO);
        assert_eq!(parts.wait_next().unwrap().unwrap(), 2);
        let error = parts.wait_next().unwrap().unwrap_err();
        assert!(matches!(error, CallError::TimedOut { sent: true }), "{error}");
        assert!(parts.wait_next().is_none());
        // In order the rest is heard out.
        let other = client.call(4);
        read_ints(&mut peer, 1);
        write_ints(&mut peer, [1, -1, 40]);
        assert_eq!(other.wait().unwrap(), 40);
        client.close().unwrap();
    });
}

#[test]
fn on_a_reactors_thread_nobody_waits() {
    on_each_ground(|runtime| {
        let (listener, address) = listen();
        let options = ClientOptions::new().parts_bytes(0);
        let client = Client::connect_with(runtime, &options, address, Int32, drop).unwrap();
        let mut peer = accept(&listener);
        let mut parts = client.call_in_parts(1, is_last);
        read_ints(&mut peer, 1);
        let (tell, told) = mpsc::channel();
        let go = move |_: &mut trochus::Reactor| {
            let error = parts.wait_next();
            tell.send((error, parts)).unwrap();
        };
        runtime.reactor(0).run(go).unwrap();
        let (error, parts) = told.recv_timeout(PATIENCE).unwrap();
        // It is given up, and what comes is not kept, as long as it lives.
        let other = client.call(2);
        read_ints(&mut peer, 1);
        write_ints(&mut peer, [9, 8, -1, 20]);
        assert_eq!(other.wait().unwrap(), 20);
        client.close().unwrap();
        assert!(matches!(error, Some(Err(CallError::OnReactorThread { sent: true }))), "{error:?}");
        assert!(all(parts).is_empty(), "it is given up");
    });
}

#[test]
fn a_function_that_panics_ends_the_client() {
    on_each_ground(|runtime| {
        let (client, mut peer) = client_of_plain_server(runtime);
        let mut parts = client.call_in_parts(1, |_| panic!("as a test"));
        let other = client.call(2);
        read_ints(&mut peer, 2);
        write_ints(&mut peer, [1, 2]);
        assert!(matches!(parts.wait_next(), Some(Err(CallError::Lost(_)))));
        assert!(parts.wait_next().is_none());
        assert!(matches!(other.wait(), Err(CallError::Lost(_))));
        eventually("it ends", || client.is_closed());
        assert_eq!(client.close().unwrap_err().unanswered(), 2);
    });
}

/// However fast the one who takes them is.
#[test]
fn taking_against_coming_stops_nobody() {
    on_each_ground(|runtime| {
        let (listener, address) = listen();
        let options = ClientOptions::new().parts_bytes(0);
        let client = Client::connect_with(runtime, &options, address, Int32, drop).unwrap();
        let mut peer = accept(&listener);
        for round in 0..300 {
            let mut parts = client.call_in_parts(1, is_last);
            let other = client.call(2);
            read_ints(&mut peer, 2);
            // Whoever goes away in the middle, too.
            let taken = if round % 2 == 0 { 100 } else { round as usize % 50 };
            let taker = thread::spawn(move || {
                (0..taken).map_while(|_| parts.wait_next()).map(Result::unwrap).collect::<Vec<_>>()
            });
            write_ints(&mut peer, countdown(30).into_iter().chain([round]));
            assert_eq!(other.wait().unwrap(), round);
            assert_eq!(taker.join().unwrap(), countdown(30)[..taken.min(31)]);
        }
        client.close().unwrap();
    });
}

#[test]
fn a_call_that_is_over_holds_nobody_up() {
    on_each_ground(|runtime| {
        // Its time is over, and what came can still be taken.
        let (_server, client, parts, its) = slow_reader(runtime, frames().by_id());
        fill(&its);
        let other = client.call("other".into());
        let mut parts = parts.timeout(Duration::from_millis(1));
        assert_eq!(other.wait().unwrap(), "other");
        let mut seen = Vec::new();
        while let Some(part) = parts.wait_next() {
            seen.push(part);
        }
        assert!(matches!(seen.pop(), Some(Err(CallError::TimedOut { sent: true }))));
        assert!((5..20).contains(&seen.len()), "{}", seen.len());
        drop(its);
        client.close().unwrap();
        // Its connection is lost, and there is another one.
        let (listener, address) = listen();
        let policy = Reconnect::new().first_delay(Duration::from_millis(1));
        let options = ClientOptions::new().reconnect(policy).parts_bytes(0);
        let client = Client::connect_with(runtime, &options, address, Int32, drop).unwrap();
        let mut peer = accept(&listener);
        let mut parts = client.call_in_parts(1, is_last);
        read_ints(&mut peer, 1);
        write_ints(&mut peer, [3]);
        // It has come once the next one is not read any more: no room is left for it.
        assert_eq!(parts.wait_next().unwrap().unwrap(), 3);
        write_ints(&mut peer, [2]);
        (0..runtime.reactors()).for_each(|index| drop(hold(runtime, index)));
        reset(peer);
        let mut peer = accept(&listener);
        let other = client.call(4);
        while read_ints(&mut peer, 1) != [4] {}
        write_ints(&mut peer, [40]);
        assert_eq!(other.wait().unwrap(), 40);
        let last = std::iter::from_fn(|| parts.wait_next()).last();
        assert!(matches!(last, Some(Err(CallError::Lost(_)))));
    });
}

#[test]
fn by_id_a_server_may_refuse_to_go_on() {
    on_each_ground(|runtime| {
        let service = |n: i32, reply: Reply<i32>| {
            let parts = reply.in_parts();
            parts.push(n).unwrap();
            parts.push(n).unwrap();
        };
        let server = Server::bind(runtime, anywhere(), Int32.by_id(), service).unwrap();
        let client = Client::connect(runtime, server.local_addr(), Int32.by_id()).unwrap();
        let mut parts = client.call_in_parts(6, is_last);
        assert_eq!(parts.wait_next().unwrap().unwrap(), 6);
        assert_eq!(parts.wait_next().unwrap().unwrap(), 6);
        let error = parts.wait_next().unwrap().unwrap_err();
        assert!(matches!(error, CallError::Lost(_)), "{error}");
        client.close().unwrap();
    });
}

#[test]
fn by_id_those_that_are_given_up_make_room_for_others() {
    on_each_ground(|runtime| {
        let (service, kept) = keeper();
        let server = Server::bind(runtime, anywhere(), Int32.by_id(), service).unwrap();
        let options = ClientOptions::new().calls_in_flight(1);
        let client =
            Client::connect_with(runtime, &options, server.local_addr(), Int32.by_id(), drop).unwrap();
        let dropped = client.call_in_parts(1, is_last);
        let parts = next(&kept).1.in_parts();
        let other = client.call(2);
        drop(dropped);
        next(&kept).1.send(20);
        assert_eq!(other.wait().unwrap(), 20);
        offer(&parts, 3);
        parts.finish();
        client.close().unwrap();
    });
}

#[test]
fn pushes_among_them_have_responses_of_their_own() {
    on_each_ground(|runtime| {
        let server = Server::bind(runtime, anywhere(), Int32, counts_down).unwrap();
        let (say, said) = mpsc::channel();
        let callback = move |n| say.send(n).unwrap();
        let options = ClientOptions::new();
        let client = Client::connect_with(runtime, &options, server.local_addr(), Int32, callback).unwrap();
        let calls: Vec<_> = (0..50)
            .map(|n| {
                client.push(4 * n + 1).unwrap();
                client.push(4 * n + 3).unwrap();
                client.call_in_parts(2 * n, is_last)
            })
            .collect();
        for (n, parts) in (0..).zip(calls) {
            assert_eq!(all(parts), countdown(2 * n));
        }
        client.close().unwrap();
        assert_eq!(said.try_iter().collect::<Vec<_>>(), (0..100).map(|n| 2 * n + 1).collect::<Vec<_>>());
    });
}

#[test]
fn of_a_client_that_is_closed_none_comes() {
    on_each_ground(|runtime| {
        let (client, _peer) = client_of_plain_server(runtime);
        client.close().unwrap();
        let mut parts = client.call_in_parts(1, is_last).timeout(Duration::MAX);
        assert!(matches!(parts.wait_next(), Some(Err(CallError::NotSent(_)))));
        assert!(parts.wait_next().is_none());
    });
}

#[test]
fn a_client_that_closes_says_what_was_begun_and_lost() {
    on_each_ground(|runtime| {
        let (listener, address) = listen();
        let options = ClientOptions::new().peer_drains_cleanly(true);
        let client = Client::connect_with(runtime, &options, address, Int32, drop).unwrap();
        let mut peer = accept(&listener);
        let mut parts = client.call_in_parts(1, is_last);
        read_ints(&mut peer, 1);
        write_ints(&mut peer, [3]);
        assert_eq!(parts.wait_next().unwrap().unwrap(), 3);
        let closing = client.close_async();
        end_output(&peer);
        assert_eq!(block_on(closing).unwrap_err().unanswered(), 1);
        assert!(matches!(parts.wait_next(), Some(Err(CallError::Lost(_)))));
    });
}

#[cfg(feature = "stream")]
#[test]
fn they_are_a_stream() {
    fn collect<S: futures_core::Stream + Unpin>(mut stream: S) -> Vec<S::Item> {
        let mut items = Vec::new();
        block_on(std::future::poll_fn(|context| {
            while let Some(item) = std::task::ready!(std::pin::Pin::new(&mut stream).poll_next(context)) {
                items.push(item);
            }
            std::task::Poll::Ready(())
        }));
        items
    }
    on_each_ground(|runtime| {
        let server = Server::bind(runtime, anywhere(), Int32, counts_down).unwrap();
        let client = Client::connect(runtime, server.local_addr(), Int32).unwrap();
        let seen = collect(client.call_in_parts(6, is_last));
        assert_eq!(seen.into_iter().map(Result::unwrap).collect::<Vec<_>>(), countdown(6));
    });
}
