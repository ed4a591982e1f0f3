//! Those who wait: for room, for a response, for the end.

use super::support::*;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;
use trochus::Runtime;
use trochus::codec::Int32;
use trochus::rpc::{CallError, Client, ClientOptions, Reconnect, Server};

/// Counts how often it was woken; one for each task.
#[derive(Default)]
struct Counts(AtomicUsize);

impl Wake for Counts {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll<F: Future + Unpin>(future: &mut F, counts: &Arc<Counts>) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(&Waker::from(counts.clone())))
}

/// A client with room for one call in flight and one in its lane, and its server's replies.
fn narrow(runtime: &Runtime) -> (Server, Client<Int32>, Kept) {
    let (service, kept) = keeper();
    let server = Server::bind(runtime, anywhere(), Int32, service).unwrap();
    let options = ClientOptions::new().lane(1).calls_in_flight(1);
    let client = Client::connect_with(runtime, &options, server.local_addr(), Int32, drop).unwrap();
    (server, client, kept)
}

#[test]
fn of_many_wakers_none_leaks_and_each_is_woken_once() {
    const CALLS: usize = 3000;
    on_each_ground(|runtime| {
        let (_server, client, kept) = narrow(runtime);
        let mut tasks: Vec<_> =
            (0..CALLS).map(|n| (client.call(n as i32), Arc::new(Counts::default()))).collect();
        for (call, counts) in &mut tasks {
            // More than once, as executors do.
            assert!(poll(call, counts).is_pending() && poll(call, counts).is_pending());
        }
        // Half of them are given up: their wakers go with them.
        let (dropped, mut left): (Vec<_>, Vec<_>) =
            tasks.into_iter().enumerate().partition(|(index, _)| index % 2 == 1);
        for (_, (call, counts)) in dropped {
            drop(call);
            assert_eq!(Arc::strong_count(&counts), 1);
            assert_eq!(counts.0.load(Ordering::SeqCst), 0);
        }
        for (index, (call, counts)) in &mut left {
            let (n, reply) = next(&kept);
            assert_eq!(n as usize, *index);
            reply.send(n);
            eventually("it is woken", || counts.0.load(Ordering::SeqCst) > 0);
            assert!(matches!(poll(call, counts), Poll::Ready(Ok(answer)) if answer == n));
        }
        for (_, (call, counts)) in left {
            drop(call);
            assert_eq!((counts.0.load(Ordering::SeqCst), Arc::strong_count(&counts)), (1, 1));
        }
    });
}

/// Asks the client when it is woken or dropped, which would wait for itself under a lock.
struct Asks(Client<Int32>, mpsc::Sender<bool>);

impl Wake for Asks {
    fn wake(self: Arc<Self>) {
        let room = self.0.try_push(0).is_ok();
        self.0.when_room(|| ());
        let _ = self.1.send(self.0.is_closed() || room);
    }
}

impl Drop for Asks {
    fn drop(&mut self) {
        let _ = self.0.state();
        let _ = self.0.try_push(0);
    }
}

#[test]
fn wakers_are_called_and_dropped_where_they_may_do_anything() {
    on_each_ground(|runtime| {
        let (_server, client, kept) = narrow(runtime);
        let (tell, told) = mpsc::channel();
        let waker = || Waker::from(Arc::new(Asks(client.clone(), tell.clone())));
        let mut calls: Vec<_> = (0..10).map(|n| client.call(n)).collect();
        let mut push = client.push_async(10);
        let mut ends = client.close_async();
        for _ in 0..3 {
            // Each time another waker takes the place of the one before.
            for call in &mut calls {
                assert!(Pin::new(call).poll(&mut Context::from_waker(&waker())).is_pending());
            }
            let _ = Pin::new(&mut push).poll(&mut Context::from_waker(&waker()));
            assert!(Pin::new(&mut ends).poll(&mut Context::from_waker(&waker())).is_pending());
        }
        drop(calls.split_off(5));
        let (n, reply) = next(&kept);
        reply.send(n);
        told.recv_timeout(PATIENCE).unwrap();
        client.abort();
        assert!(block_on(ends).is_err());
    });
}

#[test]
fn a_push_that_waits_can_be_taken_back() {
    on_each_ground(|runtime| {
        let (_server, client, kept) = narrow(runtime);
        let _in_flight = client.call(0);
        let (_, reply) = next(&kept);
        let queued: Vec<_> = (1..4).map(|n| client.call(n)).collect();
        let counts = Arc::new(Counts::default());
        let (mut dropped, mut taken, mut kept_waiting) =
            (client.push_async(10), client.push_async(11), client.push_async(12));
        for push in [&mut dropped, &mut taken, &mut kept_waiting] {
            assert!(poll(push, &counts).is_pending());
        }
        assert_eq!(client.try_push(13).unwrap_err().into_item(), 13);
        drop(dropped);
        assert_eq!(taken.into_request(), Some(11));
        let waiting = thread::spawn(move || block_on(kept_waiting).unwrap());
        reply.send(0);
        let mut seen = Vec::new();
        for _ in 0..4 {
            let (n, reply) = next(&kept);
            seen.push(n);
            reply.send(n);
        }
        assert_eq!(seen, [1, 2, 3, 12]);
        waiting.join().unwrap();
        queued.into_iter().for_each(|call| assert!(call.wait().is_ok()));
        client.close().unwrap();
    });
}

#[test]
fn whoever_waits_for_room_is_told_of_it_and_of_the_end() {
    on_each_ground(|runtime| {
        let (_server, client, kept) = narrow(runtime);
        let _call = client.call(0);
        let (_, in_flight) = next(&kept);
        let _calls: Vec<_> = (1..5).map(|n| client.call(n)).collect();
        let (tell, told) = mpsc::channel();
        let refused = client.try_send(9, |_| ()).unwrap_err();
        assert!(refused.is_full(), "{refused}");
        for n in 0..300 {
            let tell = tell.clone();
            client.when_room(move || {
                tell.send(n).unwrap();
                assert_ne!(n, 100, "on purpose");
            });
        }
        thread::sleep(Duration::from_millis(5));
        assert!(told.try_recv().is_err());
        in_flight.send(0);
        for _ in 1..5 {
            let (n, reply) = next(&kept);
            reply.send(n);
        }
        let order: Vec<i32> = (0..300).map(|_| told.recv_timeout(PATIENCE).unwrap()).collect();
        assert!(order.into_iter().eq(0..300));
        // What was handed back goes as it is.
        let (request, callback) = refused.into_parts();
        client.try_send(request, callback).unwrap();
        let (n, _never) = next(&kept);
        assert_eq!(n, 9);
        client.abort();
        assert!(client.close().is_err());
        client.when_room(move || tell.send(1000).unwrap());
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), 1000);
    });
}

#[test]
fn pushes_that_wait_get_their_request_back_when_the_client_ends() {
    on_each_ground(|runtime| {
        let (_server, client, kept) = narrow(runtime);
        let _call = client.call(0);
        let _in_flight = next(&kept);
        let _queued: Vec<_> = (1..5).map(|n| client.call(n)).collect();
        let threads: Vec<_> = (10..14)
            .map(|n| {
                let client = client.clone();
                thread::spawn(move || client.push(n).map_err(|refused| refused.into_item()))
            })
            .collect();
        let callback = client.clone();
        let (tell, told) = mpsc::channel();
        let sending = thread::spawn(move || callback.send(99, move |outcome| drop(tell.send(outcome))));
        thread::sleep(Duration::from_millis(5));
        client.abort();
        let end = client.close().unwrap_err();
        let refused = threads.into_iter().zip(10..).filter(|_| true);
        let refused = refused
            .filter_map(|(thread, n)| thread.join().unwrap().map_err(|item| assert_eq!(item, n)).err())
            .count();
        // Each was handed back, or is among those that were not sent.
        assert_eq!(refused + end.unsent(), 4, "{end}");
        assert_eq!(client.take_unsent().len(), end.unsent());
        sending.join().unwrap().unwrap();
        assert!(!told.recv_timeout(PATIENCE).unwrap().unwrap_err().may_have_been_executed());
    });
}

#[test]
fn without_a_connection_everybody_who_waits_for_room_hears_of_the_end() {
    on_each_ground(|runtime| {
        let (closed, nobody) = listen();
        drop(closed);
        let client = Client::builder(Int32)
            .options(ClientOptions::new().lane(1))
            .reconnect(Reconnect::forever().first_delay(HOUR));
        let client = client.connect_lazy(runtime, &nobody).unwrap();
        let _calls: Vec<_> = (0..10).map(|n| client.call(n)).collect();
        let (tell, told) = mpsc::channel();
        for n in 0..1000 {
            let tell = tell.clone();
            client.when_room(move || tell.send(n).unwrap());
        }
        client.abort();
        let order: Vec<i32> = (0..1000).map(|_| told.recv_timeout(PATIENCE).unwrap()).collect();
        assert!(order.into_iter().eq(0..1000));
    });
}

/// Says when it is dropped.
struct Request(Arc<AtomicUsize>);

impl AsRef<[u8]> for Request {
    fn as_ref(&self) -> &[u8] {
        b"request"
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn who_gives_up_waiting_takes_the_request_along() {
    on_each_ground(|runtime| {
        let (closed, nobody) = listen();
        drop(closed);
        let protocol = trochus::codec::LengthDelimited::new();
        let builder = Client::builder(protocol)
            .options(ClientOptions::new().lane(1))
            .call_timeout(Duration::from_millis(20));
        let builder = builder.reconnect(Reconnect::forever().first_delay(HOUR));
        let client = builder.connect_lazy(runtime, &nobody).unwrap();
        let dropped = Arc::<AtomicUsize>::default();
        let request = || bytes::Bytes::from_owner(Request(dropped.clone()));
        // They fill the lane, and the waiting room is in use.
        let _calls: Vec<_> = (0..10).map(|_| client.call(request())).collect();
        let before = dropped.load(Ordering::SeqCst);
        let (tell, told) = mpsc::channel();
        client.send(request(), move |outcome| tell.send(outcome).unwrap()).unwrap();
        let outcome = told.recv_timeout(PATIENCE).unwrap();
        assert!(matches!(outcome, Err(CallError::TimedOut { sent: false })), "{outcome:?}");
        assert_eq!(dropped.load(Ordering::SeqCst), before + 1);
        client.abort();
    });
}
