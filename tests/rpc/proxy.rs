//! A service that forwards on the reactor of everything else.

use super::forward::Forward;
use super::support::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;
use trochus::codec::{Int32, Matching, Protocol};
use trochus::rpc::{Client, ClientOptions, Reply, Server, ServerOptions};
use trochus::{Backend, Runtime};

fn one_reactor(backend: Backend) -> Runtime {
    Runtime::builder().backend(backend).reactors(1).build().unwrap()
}

fn passes<P>(backend: Backend, protocol: P, requests: i32)
where
    P: Protocol<RequestCodec = Int32, ResponseCodec = Int32> + Sync,
    P::Correlation: Matching,
{
    let runtime = one_reactor(backend);
    let server = Server::bind(&runtime, anywhere(), protocol.clone(), |n: i32, reply: Reply<i32>| {
        reply.send(n + 1);
    })
    .unwrap();
    let options = ClientOptions::new().lane(256);
    let upstream = Client::builder(protocol.clone()).options(options);
    let upstream = upstream.connect(&runtime, server.local_addr()).unwrap();
    let options = ServerOptions::new().requests_in_progress(1000);
    let proxy = Server::bind_each(&runtime, &options, anywhere(), protocol.clone(), move |_peer| {
        Forward::new(upstream.clone())
    })
    .unwrap();
    let (sum, count) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicUsize::new(0)));
    let (total, answers) = (sum.clone(), count.clone());
    let client = Client::builder(protocol)
        .on_response(move |n: i32| {
            sum.fetch_add(n.into(), Ordering::SeqCst);
            count.fetch_add(1, Ordering::SeqCst);
        })
        .connect(&runtime, proxy.local_addr())
        .unwrap();
    client.producer().push_all(0..requests).unwrap();
    client.close().unwrap();
    assert_eq!(answers.load(Ordering::SeqCst), requests as usize);
    assert_eq!(total.load(Ordering::SeqCst), i64::from(requests) * i64::from(requests + 1) / 2);
}

/// A million takes its time without optimization.
const REQUESTS: i32 = if cfg!(debug_assertions) { 200_000 } else { 1_000_000 };

#[test]
fn a_proxy_passes_everything_on_one_reactor() {
    for backend in Backend::available() {
        watched(&backend.to_string(), move || passes(backend, Int32, REQUESTS));
        watched(&backend.to_string(), move || passes(backend, Int32.by_id(), REQUESTS / 4));
    }
}

#[test]
fn a_proxy_holds_back_whom_its_server_holds_back() {
    const IN_PROGRESS: usize = 500;
    const SENT: i32 = 200_000;
    for backend in Backend::available() {
        watched(&backend.to_string(), move || {
            let runtime = one_reactor(backend);
            let (service, kept) = keeper();
            let server = Server::bind(&runtime, anywhere(), Int32, service).unwrap();
            let options = ClientOptions::new().lane(64).calls_in_flight(100);
            let upstream = Client::builder(Int32).options(options);
            let upstream = upstream.connect(&runtime, server.local_addr()).unwrap();
            let options = ServerOptions::new().requests_in_progress(IN_PROGRESS);
            let taken = Arc::new(AtomicUsize::new(0));
            let counter = taken.clone();
            let proxy = Server::bind_each(&runtime, &options, anywhere(), Int32, move |_peer| {
                let (forward, counter) = (Forward::new(upstream.clone()), counter.clone());
                Counted { forward, counter }
            })
            .unwrap();
            let client = Client::connect(&runtime, proxy.local_addr(), Int32).unwrap();
            let mut producer = client.producer();
            let pushing = std::thread::spawn(move || producer.push_all(0..SENT).unwrap());
            let first: Vec<_> = (0..100).map(|_| next(&kept)).collect();
            eventually("the proxy is full", || taken.load(Ordering::SeqCst) == IN_PROGRESS);
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(taken.load(Ordering::SeqCst), IN_PROGRESS);
            assert!(kept.try_recv().is_err(), "more than the client may have in flight");
            first.into_iter().for_each(|(n, reply)| reply.send(n));
            for _ in 100..SENT {
                let (n, reply) = next(&kept);
                reply.send(n);
            }
            pushing.join().unwrap();
            client.close().unwrap();
        });
    }
}

struct Counted {
    forward: Forward<Int32>,
    counter: Arc<AtomicUsize>,
}

impl trochus::rpc::Service<Int32> for Counted {
    fn on_open(&mut self, connection: &trochus::rpc::Connection<i32>) {
        self.forward.on_open(connection);
    }

    fn call(&mut self, request: i32, reply: Reply<i32>) {
        self.counter.fetch_add(1, Ordering::SeqCst);
        self.forward.call(request, reply);
    }

    fn on_notify(&mut self) {
        self.forward.on_notify();
    }
}
