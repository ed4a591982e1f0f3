//! What servers and clients keep counts in the budget of their runtime.

use super::support::*;
use bytes::Bytes;
use std::io::{Read, Write};
use std::sync::{Mutex, mpsc};
use trochus::codec::{Int32, LengthDelimited, Pair, Protocol};
use trochus::rpc::{Client, ClientOptions, Reconnect, Reply, Server};

#[test]
fn held_responses_count() {
    const ANSWERS: usize = 5;
    on_each_backend(|runtime| {
        let (keep, kept) = mpsc::channel();
        let keep = Mutex::new(keep);
        let service = move |n: i32, reply: Reply<Bytes>| match n {
            0 => drop(keep.lock().unwrap().send(reply)),
            _ => reply.send(Bytes::from(vec![7; 100_000])),
        };
        let frames = Pair::new(Int32, LengthDelimited::new());
        let server = Server::bind(runtime, anywhere(), frames, service).unwrap();
        let mut peer = dial(server.local_addr());
        write_ints(&mut peer, 0..=ANSWERS as i32);
        let first = kept.recv_timeout(PATIENCE).unwrap();
        let held = || runtime.memory_budget().held;
        eventually("they are held", || held() >= ANSWERS * 100_000);
        first.send(Bytes::new());
        peer.read_exact(&mut vec![0; 4 + ANSWERS * 100_004]).unwrap();
        eventually("nothing is held", || held() == 0);
    });
}

#[test]
fn kept_requests_count() {
    const CALLS: usize = 5;
    on_each_ground(|runtime| {
        let (listener, address) = listen();
        let options = ClientOptions::new().reconnect(Reconnect::new());
        let codec = LengthDelimited::new().by_id();
        let client = Client::connect_with(runtime, &options, address, codec, |_: &[u8]| {}).unwrap();
        let mut peer = accept(&listener);
        let request = Bytes::from(vec![7; 10_000]);
        let calls: Vec<_> = (0..CALLS).map(|_| client.call(request.clone())).collect();
        let mut received = vec![0; CALLS * (8 + 4 + request.len())];
        peer.read_exact(&mut received).unwrap();
        let held = || runtime.memory_budget().held;
        eventually("they are kept", || held() >= CALLS * 10_000);
        peer.write_all(&received).unwrap();
        for call in calls {
            assert_eq!(call.wait().unwrap().len(), request.len());
        }
        eventually("nothing is kept", || held() == 0);
        client.close().unwrap();
    });
}
