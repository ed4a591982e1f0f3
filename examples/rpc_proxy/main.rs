//! A proxy: a server whose service forwards each request to another server, and its response back. Everything runs on one
//! reactor, so nothing in it may wait.
//!
//! `cargo run --release --example rpc_proxy`

mod forward;

use forward::Forward;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use trochus::Runtime;
use trochus::codec::Int32;
use trochus::rpc::{Client, Reply, Server, ServerOptions};

const REQUESTS: i32 = 1_000_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = Runtime::builder().reactors(1).build()?;
    let server = Server::bind(&runtime, "127.0.0.1:0", Int32, |n: i32, reply: Reply<i32>| reply.send(n + 1))?;
    let upstream = Client::connect(&runtime, server.local_addr(), Int32)?;
    // This is how much may wait in the proxy, of each connection.
    let options = ServerOptions::new().requests_in_progress(1024);
    let proxy = Server::bind_each(&runtime, &options, "127.0.0.1:0", Int32, move |_peer| {
        Forward::new(upstream.clone())
    })?;

    let sum = Arc::new(AtomicU64::new(0));
    let total = sum.clone();
    let client = Client::builder(Int32)
        .on_response(move |n: i32| {
            sum.fetch_add(n.unsigned_abs().into(), Ordering::Relaxed);
        })
        .connect(&runtime, proxy.local_addr())?;
    let started = Instant::now();
    client.producer().push_all(0..REQUESTS)?;
    client.close()?;
    assert_eq!(total.load(Ordering::Relaxed), u64::from(REQUESTS.unsigned_abs()) * 1_000_001 / 2);
    println!("{REQUESTS} requests there and back through the proxy in {:.2?}", started.elapsed());
    Ok(())
}
