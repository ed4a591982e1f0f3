//! Request-response over one connection of TCP loopback, on each backend: a stream of int32 requests, and a single call.
//!
//! Client and server are on one reactor, so that what is measured is the work and not where the scheduler puts threads; the
//! requests come from the benchmark's own thread.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;
use trochus::codec::Int32;
use trochus::rpc::{Client, ClientOptions, Reply, Server};
use trochus::{Backend, Runtime};

/// Requests of a stream; the last one's response ends the round.
const STREAM: i32 = 100_000;

struct Echo {
    _runtime: Runtime,
    client: Client<Int32>,
    rounds: Receiver<()>,
}

impl Echo {
    fn new(backend: Backend) -> Self {
        let runtime = Runtime::builder().reactors(1).backend(backend).build().unwrap();
        let serve = |n: i32, reply: Reply<i32>| reply.send(n);
        let server = Server::bind(&runtime, "127.0.0.1:0", Int32, serve).unwrap();
        let (told, rounds) = mpsc::channel();
        let mut due = 0;
        let options = ClientOptions::new();
        let callback = move |response| {
            assert_eq!(response, due);
            due += 1;
            if due == STREAM {
                due = 0;
                told.send(()).unwrap();
            }
        };
        let client = Client::connect_with(&runtime, &options, server.local_addr(), Int32, callback).unwrap();
        Echo { _runtime: runtime, client, rounds }
    }
}

/// A producer pushes all requests, and waits for the last response.
fn streamed(c: &mut Criterion) {
    for backend in Backend::available() {
        let mut group = c.benchmark_group(format!("{backend}/rpc"));
        let echo = Echo::new(backend);
        let mut requests = echo.client.producer();
        group.throughput(Throughput::Elements(STREAM as u64));
        group.bench_function("streamed-int32", |b| {
            b.iter(|| {
                requests.push_all(0..STREAM).unwrap();
                echo.rounds.recv().unwrap();
            });
        });
        group.finish();
    }
}

/// A thread calls and waits, one call at a time; and a batch of them, of which each is waited for.
fn called(c: &mut Criterion) {
    const TOGETHER: i32 = 256;
    for backend in Backend::available() {
        let mut group = c.benchmark_group(format!("{backend}/rpc"));
        let Echo { client, _runtime, .. } = Echo::new(backend);
        group.bench_function("one-call", |b| {
            b.iter(|| assert_eq!(client.call(black_box(7)).wait().unwrap(), 7));
        });
        group.throughput(Throughput::Elements(TOGETHER as u64));
        group.bench_function("calls-together", |b| {
            b.iter(|| {
                let calls: Vec<_> = (0..TOGETHER).map(|n| client.call(n)).collect();
                for (n, call) in (0..).zip(calls) {
                    assert_eq!(call.wait().unwrap(), n);
                }
            });
        });
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20);
    targets = streamed, called
}
criterion_main!(benches);
