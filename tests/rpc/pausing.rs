//! Responses that wait because the application cannot take more.

use super::support::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;
use trochus::Runtime;
use trochus::codec::Int32;
use trochus::rpc::{Caller, Client, Requests, Server};

/// Takes so many at a time.
struct TakesSome {
    count: Arc<AtomicUsize>,
    at_a_time: usize,
    full: mpsc::Sender<usize>,
}

impl Caller<Int32> for TakesSome {
    fn on_response(&mut self, requests: &mut Requests<'_, Int32>, response: i32) {
        let count = self.count.fetch_add(1, Ordering::SeqCst);
        assert_eq!(response as usize, count);
        if (count + 1).is_multiple_of(self.at_a_time) {
            requests.pause_responses();
            requests.pause_responses();
            let _ = self.full.send(count + 1);
        }
    }
}

#[test]
fn a_caller_has_the_very_next_response_wait() {
    on_each_ground(|runtime| {
        let server = Server::bind(runtime, anywhere(), Int32, |n: i32, reply| reply.send(n)).unwrap();
        let (full, is_full) = mpsc::channel();
        let caller = TakesSome { count: Arc::default(), at_a_time: 100, full };
        let count = caller.count.clone();
        let client = Client::builder(Int32).caller(caller).connect(runtime, server.local_addr()).unwrap();
        client.push_all(0..1050).unwrap();
        for round in 1..=10 {
            assert_eq!(is_full.recv_timeout(PATIENCE).unwrap(), 100 * round);
            thread::sleep(Duration::from_millis(2));
            assert_eq!(count.load(Ordering::SeqCst), 100 * round);
            client.resume_responses();
        }
        client.close().unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 1050);
    });
}

/// Has each response wait, and wants it before it could.
struct Wavers {
    count: Arc<AtomicUsize>,
    client: Arc<OnceLock<Client<Int32>>>,
}

impl Caller<Int32> for Wavers {
    fn on_response(&mut self, requests: &mut Requests<'_, Int32>, _response: i32) {
        self.count.fetch_add(1, Ordering::SeqCst);
        if let Some(client) = self.client.get() {
            requests.pause_responses();
            client.resume_responses();
        }
    }
}

#[test]
fn who_wants_responses_again_before_they_wait_gets_them() {
    on_each_ground(|runtime| {
        let server = Server::bind(runtime, anywhere(), Int32, |n: i32, reply| reply.send(n)).unwrap();
        let wavers = Wavers { count: Arc::default(), client: Arc::default() };
        let (count, own) = (wavers.count.clone(), wavers.client.clone());
        let client = Client::builder(Int32).caller(wavers).connect(runtime, server.local_addr()).unwrap();
        own.set(client.clone()).unwrap();
        client.push_all(0..1050).unwrap();
        client.close().unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 1050);
    });
}

#[test]
fn a_paused_client_holds_its_server_back() {
    on_each_ground(|runtime| {
        // Small buffers: what is received in one turn behind a pause counts against the server's limit of input.
        let builder = Runtime::builder().backend(runtime.backend()).reactors(2).pool(16, 64 << 10);
        let runtime = &builder.build().unwrap();
        let served = Arc::new(AtomicUsize::new(0));
        let counter = served.clone();
        let service = move |n: &[u8], reply: trochus::rpc::Reply<bytes::Bytes>| {
            counter.fetch_add(1, Ordering::SeqCst);
            reply.send(bytes::Bytes::copy_from_slice(n));
        };
        let protocol = trochus::codec::LengthDelimited::new();
        let server = Server::bind(runtime, anywhere(), protocol, service).unwrap();
        let answered = Arc::new(AtomicUsize::new(0));
        let count = answered.clone();
        let client = Client::builder(protocol)
            .on_response(move |_| {
                count.fetch_add(1, Ordering::SeqCst);
            })
            .connect(runtime, server.local_addr())
            .unwrap();
        client.pause_responses();
        let item = bytes::Bytes::from(vec![7; 64 << 10]);
        let pushing = client.clone();
        // 256 MiB: more than the sockets, the limits of both sides and the lane hold.
        let pushing = thread::spawn(move || (0..4096).try_for_each(|_| pushing.push(item.clone())));
        let mut before = usize::MAX;
        eventually("the server takes no more", || {
            thread::sleep(Duration::from_millis(50));
            let now = served.load(Ordering::SeqCst);
            now > 0 && std::mem::replace(&mut before, now) == now
        });
        assert!(before < 2000, "{before} requests were served");
        assert!(answered.load(Ordering::SeqCst) < 100);
        client.resume_responses();
        pushing.join().unwrap().unwrap();
        client.close().unwrap();
        assert_eq!(answered.load(Ordering::SeqCst), 4096);
    });
}
