//! A streamed request and its response allocate nothing. In a program of its own, since it counts every allocation.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use trochus::codec::{Int32, Protocol};
use trochus::rpc::{Client, ClientOptions, Reply, Server};
use trochus::{Backend, Runtime};

#[path = "support/counting.rs"]
mod counting;

use counting::allocations;

const WARM_UP: usize = 1_000_000;
const MESSAGES: usize = 2_000_000;

/// Allocations during `MESSAGES` round trips behind the warm-up.
fn count<P>(backend: Backend, protocol: P) -> usize
where
    P: Protocol<RequestCodec = Int32, ResponseCodec = Int32> + Sync,
{
    let runtime = Runtime::builder().backend(backend).reactors(2).build().unwrap();
    let service = |n: i32, reply: Reply<i32>| reply.send(n);
    let server = Server::bind(&runtime, "127.0.0.1:0", protocol.clone(), service).unwrap();
    let answered = Arc::new(AtomicUsize::new(0));
    let counter = answered.clone();
    let callback = move |_: i32| {
        counter.fetch_add(1, Ordering::Release);
    };
    let options = ClientOptions::new();
    let client = Client::connect_with(&runtime, &options, server.local_addr(), protocol, callback).unwrap();
    let mut requests = client.producer();
    let mut stream = |messages: usize, total: usize| {
        // A lane this full makes the producer wait and park, which must be free as well.
        (0..messages).for_each(|n| requests.push(n as i32).unwrap());
        while answered.load(Ordering::Acquire) < total {
            thread::yield_now();
        }
    };
    stream(WARM_UP, WARM_UP);
    let before = allocations();
    assert!(before > 0, "the allocator counts");
    stream(MESSAGES, WARM_UP + MESSAGES);
    let allocations = allocations() - before;
    drop(requests);
    client.close().unwrap();
    allocations
}

#[test]
fn the_streamed_path_allocates_nothing() {
    for backend in Backend::available() {
        for (matching, allocations) in [
            ("in order", count(backend, Int32)),
            ("by id", count(backend, Int32.by_id())),
            ("uncorrelated", count(backend, Int32.uncorrelated())),
        ] {
            println!("{backend}, {matching}: {allocations} allocations for {MESSAGES} messages");
            // A buffer may reach its last size behind the warm-up, when a turn is larger than any before.
            assert!(
                allocations <= 200,
                "{backend}, {matching}: {allocations} allocations for {MESSAGES} messages"
            );
        }
    }
}
