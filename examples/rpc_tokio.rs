//! A tokio program that awaits the calls of a trochus client: `cargo run --example rpc_tokio`.
//!
//! The client lives on a reactor of its own; tokio's tasks hand it requests and are woken with the responses.

use std::time::Duration;
use trochus::codec::{Int32, Protocol};
use trochus::rpc::{Client, Reply, Server};
use trochus::{Runtime, rpc::CallError};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = Runtime::builder().reactors(1).build()?;
    // Any server will do. This one answers even numbers at once and keeps odd ones waiting; by id, nobody waits for those.
    let service = |n: i32, reply: Reply<i32>| {
        if n % 2 == 0 {
            return reply.send(n * n);
        }
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            reply.send(n * n);
        });
    };
    let server = Server::bind(&runtime, "127.0.0.1:0", Int32.by_id(), service)?;
    let client = Client::connect(&runtime, server.local_addr(), Int32.by_id())?;

    let (even, odd) = tokio::join!(client.call(6), client.call(7));
    println!("6² = {}, 7² = {}", even?, odd?);

    let tasks: Vec<_> = (1..=100)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.call(n).await })
        })
        .collect();
    let mut sum = 0;
    for task in tasks {
        sum += task.await??;
    }
    println!("the sum of the first hundred squares is {sum}");

    // A deadline of its own, or tokio's; either way the response that comes too late is thrown away.
    match client.call(1).timeout(Duration::from_millis(1)).await {
        Err(CallError::TimedOut { .. }) => println!("too slow"),
        outcome => println!("in time after all: {}", outcome?),
    }
    // Closing blocks until everything is answered, which is not for tokio's own thread.
    tokio::task::spawn_blocking(move || client.close()).await??;
    Ok(())
}
