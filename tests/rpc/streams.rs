//! Requests that are pushed: producers, the shared way in, lingering, and callers on the reactor.

use super::support::*;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use trochus::Runtime;
use trochus::codec::{Int32, Protocol};
use trochus::reactor::StreamOptions;
use trochus::rpc::{Caller, Client, ClientOptions, Reply, Requests, Server, Unfinished};

fn echo(n: i32, reply: Reply<i32>) {
    reply.send(n);
}

/// Four producers and four threads that share the client; the numbers of each must come back in their order.
fn stream_from_many_threads<P>(runtime: &Runtime, protocol: P)
where
    P: Protocol<RequestCodec = Int32, ResponseCodec = Int32> + Sync,
{
    const EACH: i32 = 20_000;
    const SPACE: i32 = 1_000_000;
    let server = Server::bind(runtime, anywhere(), protocol.clone(), echo).unwrap();
    let seen = Arc::new(Mutex::new([0_i32; 8]));
    let counts = seen.clone();
    let callback = move |n: i32| {
        let mut counts = counts.lock().unwrap();
        let count = &mut counts[(n / SPACE) as usize];
        assert_eq!(n % SPACE, *count);
        *count += 1;
    };
    let client =
        Client::connect_with(runtime, &ClientOptions::new(), server.local_addr(), protocol, callback)
            .unwrap();
    thread::scope(|scope| {
        for thread in 0..4 {
            let mut producer = client.producer();
            scope.spawn(move || {
                let start = thread * SPACE;
                for n in start..start + EACH / 2 {
                    producer.push(n).unwrap();
                }
                producer.push_all(start + EACH / 2..start + EACH).unwrap();
                producer.flush();
            });
        }
        for thread in 4..8 {
            let client = client.clone();
            scope.spawn(move || {
                let start = thread * SPACE;
                for n in start..start + EACH / 2 {
                    client.push(n).unwrap();
                }
                client.push_all(start + EACH / 2..start + EACH).unwrap();
            });
        }
    });
    client.close().unwrap();
    eventually("everything comes back", || *seen.lock().unwrap() == [EACH; 8]);
}

#[test]
fn producers_and_pushes_keep_their_order() {
    on_each_ground(|runtime| {
        stream_from_many_threads(runtime, Int32);
        stream_from_many_threads(runtime, Int32.by_id());
    });
}

#[test]
fn without_correlation_a_stream_needs_no_answers() {
    on_each_ground(|runtime| {
        let sum = Arc::new(AtomicI64::new(0));
        let total = sum.clone();
        let service = move |n: i32, reply: Reply<i32>| {
            sum.fetch_add(i64::from(n), Ordering::SeqCst);
            drop(reply);
        };
        let server = Server::bind(runtime, anywhere(), Int32.uncorrelated(), service).unwrap();
        let client = Client::connect(runtime, server.local_addr(), Int32.uncorrelated()).unwrap();
        client.push_all(0..50_000).unwrap();
        client.close().unwrap();
        assert_eq!(total.load(Ordering::SeqCst), 49_999 * 25_000);
    });
}

#[test]
fn calls_and_streams_mix() {
    on_each_ground(|runtime| {
        let server = Server::bind(runtime, anywhere(), Int32, echo).unwrap();
        let streamed = Arc::new(AtomicUsize::new(0));
        let count = streamed.clone();
        let callback = move |n: i32| {
            assert!(n < 0);
            count.fetch_add(1, Ordering::SeqCst);
        };
        let options = ClientOptions::new();
        let client = Client::connect_with(runtime, &options, server.local_addr(), Int32, callback).unwrap();
        thread::scope(|scope| {
            let mut producer = client.producer();
            scope.spawn(move || (1..=10_000).for_each(|n| producer.push(-n).unwrap()));
            for n in 0..500 {
                assert_eq!(client.call(n).wait().unwrap(), n);
            }
        });
        client.close().unwrap();
        assert_eq!(streamed.load(Ordering::SeqCst), 10_000);
    });
}

/// A client whose requests linger, and how many responses it has.
fn lingering(runtime: &Runtime, linger: Duration) -> (Server, Client<Int32>, Arc<AtomicUsize>) {
    let server = Server::bind(runtime, anywhere(), Int32, echo).unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    let options = ClientOptions::new().linger(linger).batch(10);
    let callback = move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
    };
    let client = Client::connect_with(runtime, &options, server.local_addr(), Int32, callback).unwrap();
    (server, client, count)
}

/// Nine requests from each of four threads: more than a batch, though no lane holds one.
fn push_from_four_lanes(client: &Client<Int32>) {
    let mut producers: Vec<_> = (0..4).map(|_| client.producer()).collect();
    for n in 0..9 {
        producers.iter_mut().for_each(|producer| producer.push(n).unwrap());
    }
}

#[test]
fn requests_linger_until_they_are_flushed() {
    on_each_ground(|runtime| {
        let (_server, client, count) = lingering(runtime, HOUR);
        client.flush(); // nothing to flush
        for total in [36, 72, 108] {
            push_from_four_lanes(&client);
            client.flush();
            eventually("they arrive", || count.load(Ordering::SeqCst) == total);
        }
        client.push(1).unwrap();
        // Closing is as good.
        client.close().unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 109);
    });
}

#[test]
fn requests_linger_until_their_time_is_over() {
    on_each_ground(|runtime| {
        let (_server, client, count) = lingering(runtime, Duration::from_millis(3));
        for total in [36, 72, 108] {
            push_from_four_lanes(&client);
            eventually("they arrive", || count.load(Ordering::SeqCst) == total);
            // Alone, and behind a rest, it is announced all the same.
            client.push(1).unwrap();
            eventually("it arrives", || count.load(Ordering::SeqCst) == total + 1);
            count.fetch_sub(1, Ordering::SeqCst);
        }
    });
}

#[test]
fn requests_linger_until_a_batch_is_full() {
    on_each_ground(|runtime| {
        let (_server, client, count) = lingering(runtime, HOUR);
        let mut producer = client.producer();
        for total in [10, 20, 30] {
            producer.push_all(0..10).unwrap();
            eventually("the batch arrives", || count.load(Ordering::SeqCst) == total);
        }
        // Calls do not linger.
        assert_eq!(client.call(5).wait().unwrap(), 5);
    });
}

/// Counts down from `left`, `window` requests at a time, all on the reactor.
struct CountsDown {
    left: i32,
    window: i32,
    answered: Arc<AtomicUsize>,
    end: Arc<Mutex<Option<Result<(), Unfinished>>>>,
}

impl Caller<Int32> for CountsDown {
    fn on_open(&mut self, requests: &mut Requests<'_, Int32>) {
        for _ in 0..self.window {
            self.left -= 1;
            requests.push(&self.left).unwrap();
        }
        assert_eq!(requests.in_flight(), self.window as u64);
        assert!(requests.room() > 0);
    }

    fn on_response(&mut self, requests: &mut Requests<'_, Int32>, _response: i32) {
        self.answered.fetch_add(1, Ordering::SeqCst);
        // Refused once the client is closed.
        if self.left > 0 && requests.push(&(self.left - 1)).is_ok() {
            self.left -= 1;
        }
    }

    fn on_close(&mut self, end: &Result<(), Unfinished>) {
        *self.end.lock().unwrap() = Some(end.clone());
    }
}

#[test]
fn a_caller_makes_requests_on_the_reactor() {
    on_each_ground(|runtime| {
        // The second one is closed in the middle.
        for (left, goal) in [(10_000, 10_000), (i32::MAX, 1000)] {
            let server = Server::bind(runtime, anywhere(), Int32, echo).unwrap();
            let (answered, end) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(None)));
            let caller = CountsDown { left, window: 100, answered: answered.clone(), end: end.clone() };
            let options = ClientOptions::new();
            let client =
                Client::connect_caller(runtime, &options, server.local_addr(), Int32, caller).unwrap();
            eventually("enough is answered", || answered.load(Ordering::SeqCst) >= goal);
            client.close().unwrap();
            assert!(matches!(*end.lock().unwrap(), Some(Ok(()))));
        }
    });
}

#[test]
fn a_producer_has_its_turn_though_others_fill_the_output() {
    on_each_ground(|runtime| {
        let (listener, address) = listen();
        let stream = StreamOptions::new().output_limits(1 << 10, 1 << 20);
        let options = ClientOptions::new().reactor(0).stream(stream);
        let client = Client::connect_with(runtime, &options, address, Int32, drop).unwrap();
        let mut peer = accept(&listener);
        let held = hold(runtime, 0);
        let mut others = 0;
        while client.try_push(others).is_ok() {
            others += 1;
        }
        let mut producer = client.producer();
        producer.push(-1).unwrap();
        drop(producer);
        drop(held);
        // The soft limit of the output is 256 of them, and they take turns.
        assert!(others > 4_000, "{others}");
        let mut seen = read_ints(&mut peer, others as usize + 1);
        let at = seen.iter().position(|n| *n == -1).unwrap();
        assert!(at <= 1_000, "behind {at} others");
        seen.remove(at);
        assert!(seen.is_sorted());
        client.abort();
    });
}
