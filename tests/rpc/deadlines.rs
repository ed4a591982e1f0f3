//! Calls with deadlines, and calls that are given up.

use super::support::*;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::mpsc;
use std::task::{Context, Waker};
use std::time::Duration;
use trochus::Runtime;
use trochus::codec::{ById, Correlated, Int32, Matching, Protocol};
use trochus::rpc::{Call, CallError, Client, ClientOptions, Server};

const SOON: Duration = Duration::from_millis(20);

fn late_response_is_nobodys<P>(runtime: &Runtime, protocol: P)
where
    P: Protocol<RequestCodec = Int32, ResponseCodec = Int32> + Sync,
    P::Correlation: Matching,
{
    let (service, kept) = keeper();
    let server = Server::bind(runtime, anywhere(), protocol.clone(), service).unwrap();
    let client = Client::connect(runtime, server.local_addr(), protocol).unwrap();
    let late = client.call(1).timeout(SOON);
    let (_, late_reply) = next(&kept);
    let error = late.wait().unwrap_err();
    assert!(matches!(error, CallError::TimedOut { sent: true }), "{error}");
    assert!(error.may_have_been_executed());
    let call = client.call(2).timeout(HOUR);
    let (_, reply) = next(&kept);
    late_reply.send(111);
    reply.send(222);
    assert_eq!(call.wait().unwrap(), 222);
    // The same for one that is dropped.
    let dropped = client.call(3);
    let (_, dropped_reply) = next(&kept);
    drop(dropped);
    let call = client.call(4);
    let (_, reply) = next(&kept);
    dropped_reply.send(333);
    reply.send(444);
    assert_eq!(block_on(call).unwrap(), 444);
    client.close().unwrap();
}

#[test]
fn a_late_response_is_thrown_away() {
    on_each_ground(|runtime| {
        late_response_is_nobodys(runtime, Int32);
        late_response_is_nobodys(runtime, Int32.by_id());
    });
}

/// A client that has one call in flight, which keeps others from being sent.
#[allow(clippy::type_complexity)]
fn busy_client(runtime: &Runtime) -> (Client<Int32>, Kept, Call<i32, i32>, trochus::rpc::Reply<i32>) {
    let (service, kept) = keeper();
    let server = Server::bind(runtime, anywhere(), Int32, service).unwrap();
    let options = ClientOptions::new().calls_in_flight(1);
    let client = Client::connect_with(runtime, &options, server.local_addr(), Int32, drop).unwrap();
    let call = client.call(1);
    let (_, reply) = next(&kept);
    (client, kept, call, reply)
}

#[test]
fn what_times_out_or_is_dropped_before_it_is_sent_is_never_sent() {
    on_each_ground(|runtime| {
        let (client, kept, first, reply) = busy_client(runtime);
        let dropped = client.call(2);
        let error = client.call(3).timeout(SOON).wait().unwrap_err();
        assert!(matches!(error, CallError::TimedOut { sent: false }), "{error}");
        assert!(!error.may_have_been_executed());
        let error = block_on(client.call(4).timeout(SOON)).unwrap_err();
        assert!(matches!(error, CallError::TimedOut { sent: false }), "{error}");
        drop(dropped);
        let last = client.call(5);
        reply.send(10);
        assert_eq!(first.wait().unwrap(), 10);
        let (n, reply) = next(&kept);
        assert_eq!(n, 5);
        reply.send(50);
        assert_eq!(last.wait().unwrap(), 50);
    });
}

#[test]
fn a_deadline_holds_for_a_call_that_finds_no_room() {
    on_each_ground(|runtime| {
        let (client, _kept, _first, _reply) = busy_client(runtime);
        // More than the lane holds.
        let queued: Vec<_> = (0..5000).map(|n| client.call(n)).collect();
        for error in [client.call(0).timeout(SOON).wait(), block_on(client.call(0).timeout(SOON))] {
            assert!(matches!(error, Err(CallError::TimedOut { sent: false })));
        }
        drop(queued);
    });
}

#[test]
fn deadlines_expire_in_their_own_order() {
    on_each_ground(|runtime| {
        let (service, _kept) = keeper();
        let server = Server::bind(runtime, anywhere(), Int32, service).unwrap();
        let client = Client::connect(runtime, server.local_addr(), Int32).unwrap();
        let endless = client.call(0).timeout(Duration::MAX);
        let hour = client.call(1).timeout(HOUR);
        let mut calls: Vec<_> = (0..100)
            .map(|n| client.call(n).timeout(Duration::from_millis((u64::from(n.unsigned_abs()) * 37) % 60)))
            .collect();
        // Taken back: its time must not be another's.
        drop(calls.swap_remove(50));
        for call in calls {
            assert!(matches!(call.wait(), Err(CallError::TimedOut { .. })));
        }
        // A deadline can be set anew.
        assert!(matches!(hour.timeout(SOON).wait(), Err(CallError::TimedOut { sent: true })));
        drop(endless);
    });
}

/// A server that keeps its replies, and a client by id with one call in flight.
fn one_call_at_a_time(runtime: &Runtime) -> (Server, Client<Correlated<Int32, ById>>, Kept) {
    let (service, kept) = keeper();
    let server = Server::bind(runtime, anywhere(), Int32.by_id(), service).unwrap();
    let options = ClientOptions::new().calls_in_flight(1);
    let client = Client::connect_with(runtime, &options, server.local_addr(), Int32.by_id(), drop).unwrap();
    (server, client, kept)
}

#[test]
fn by_id_a_call_that_is_given_up_makes_room_for_another() {
    on_each_ground(|runtime| {
        let (_server, client, kept) = one_call_at_a_time(runtime);
        let dropped = client.call(1);
        let _unanswered = next(&kept);
        let waiting = client.call(2).timeout(HOUR);
        let mut replies = vec![_unanswered];
        drop(dropped);
        replies.push(next(&kept));
        assert_eq!(replies[1].0, 2);
        drop(waiting);
        let short = client.call(3).timeout(SOON);
        replies.push(next(&kept));
        let last = client.call(4);
        assert!(matches!(short.wait(), Err(CallError::TimedOut { sent: true })));
        let (n, reply) = next(&kept);
        reply.send(n * 10);
        assert_eq!(last.wait().unwrap(), 40);
    });
}

#[test]
fn closing_does_not_wait_for_calls_that_were_given_up() {
    on_each_ground(|runtime| {
        for gives_up_later in [false, true] {
            let (service, kept) = keeper();
            let server = Server::bind(runtime, anywhere(), Int32, service).unwrap();
            let client = Client::connect(runtime, server.local_addr(), Int32).unwrap();
            let call = client.call(1);
            let _unanswered = next(&kept);
            let closing = client.clone();
            if gives_up_later {
                let closing = std::thread::spawn(move || closing.close());
                eventually("it closes", || client.is_closing());
                drop(call);
                closing.join().unwrap().unwrap();
            } else {
                drop(call);
                closing.close().unwrap();
            }
        }
    });
}

#[test]
fn an_earlier_deadline_does_not_wait_for_a_later_one() {
    on_each_ground(|runtime| {
        let (service, kept) = keeper();
        let server = Server::bind(runtime, anywhere(), Int32.by_id(), service).unwrap();
        let client = Client::connect(runtime, server.local_addr(), Int32.by_id()).unwrap();
        let mut late = pin!(client.call(1).timeout(HOUR));
        let looks = |call: Pin<&mut Call<i32, i32>>| call.poll(&mut Context::from_waker(Waker::noop()));
        assert!(looks(late.as_mut()).is_pending());
        // Only the reactor knows of its deadline: no thread waits for it.
        for n in 2..5 {
            let early = block_on(client.call(n).timeout(SOON));
            assert!(matches!(early, Err(CallError::TimedOut { .. })), "{early:?}");
        }
        assert!(looks(late.as_mut()).is_pending());
        let (_, reply) = next(&kept);
        reply.send(11);
        assert_eq!(block_on(late).unwrap(), 11);
    });
}

#[test]
fn by_id_a_call_that_timed_out_makes_room_for_another() {
    on_each_ground(|runtime| {
        let (_server, client, kept) = one_call_at_a_time(runtime);
        let mut replies = Vec::new();
        for n in 0..3 {
            let mut call = pin!(client.call(n).timeout(SOON));
            // It has been sent, and the next one waits for its place.
            replies.push(next(&kept));
            let waiting = client.call(10 + n);
            assert!(matches!(block_on(call.as_mut()), Err(CallError::TimedOut { sent: true })));
            let (request, reply) = next(&kept);
            assert_eq!(request, 10 + n);
            reply.send(request);
            assert_eq!(waiting.wait().unwrap(), request);
        }
    });
}

#[test]
fn a_response_that_came_in_time_counts_however_late_it_is_looked_at() {
    on_each_ground(|runtime| {
        let (service, kept) = keeper();
        let server = Server::bind(runtime, anywhere(), Int32, service).unwrap();
        let client = Client::connect(runtime, server.local_addr(), Int32).unwrap();
        let (first, second) = (client.call(1), client.call(2));
        for _ in 0..2 {
            let (n, reply) = next(&kept);
            reply.send(n);
        }
        // Behind the other one.
        assert_eq!(second.wait().unwrap(), 2);
        assert_eq!(block_on(first.timeout(Duration::ZERO)).unwrap(), 1);
    });
}

#[test]
fn a_send_waits_for_room_no_longer_than_its_call_may_take() {
    on_each_ground(|runtime| {
        let (listener, address) = listen();
        let options = ClientOptions::new().reactor(0).call_timeout(SOON);
        let client = Client::connect_with(runtime, &options, address, Int32, drop).unwrap();
        let _peer = accept(&listener);
        let held = hold(runtime, 0);
        while client.try_push(0).is_ok() {}
        let (say, said) = mpsc::channel();
        client.send(1, move |outcome| say.send(outcome).unwrap()).unwrap();
        let outcome = said.recv_timeout(PATIENCE).unwrap();
        assert!(matches!(outcome, Err(CallError::TimedOut { sent: false })), "{outcome:?}");
        client.abort();
        drop(held);
    });
}

#[test]
fn deadlines_of_calls_that_are_over_leave_no_timers() {
    on_each_ground(|runtime| {
        let timers = || runtime.gauges().unwrap().iter().map(|gauges| gauges.timers).sum::<u64>();
        let server = Server::bind(runtime, anywhere(), Int32, |n: i32, reply| reply.send(n)).unwrap();
        let client = Client::connect(runtime, server.local_addr(), Int32).unwrap();
        for n in 0..50 {
            // Each ends before the one that the timer is set for.
            let call = client.call(n).timeout(HOUR - n as u32 * Duration::from_secs(1));
            assert_eq!(call.wait().unwrap(), n);
        }
        eventually("one timer is left", || timers() < 10);
        client.close().unwrap();
        drop(client);
        drop(server);
        eventually("none is left", || timers() == 0);
    });
}
