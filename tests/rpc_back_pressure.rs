//! Request-response whose output limits are reached, on both sides and all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc;
use std::time::Duration;
use trochus::codec::Int32;
use trochus::net::{ListenOptions, StreamOptions};
use trochus::rpc::{Client, ClientOptions, Reply, Server, ServerOptions};
use trochus::{Backend, Runtime};

const PATIENCE: Duration = Duration::from_secs(60);

/// Pushes all requests and closes behind them; each must be answered, in order.
fn stream_through(backend: Backend, count: i32, client_stream: StreamOptions, server_stream: StreamOptions) {
    let runtime = Runtime::builder().reactors(2).backend(backend).build().unwrap();
    let options = ServerOptions::new().listen(ListenOptions::new().stream(server_stream));
    let server = Server::bind_each(&runtime, &options, "127.0.0.1:0", Int32, |_peer| {
        |n: i32, reply: Reply<i32>| reply.send(n)
    })
    .unwrap();
    let next = Arc::new(AtomicI32::new(0));
    let due = next.clone();
    let options = ClientOptions::new().stream(client_stream);
    let client = Client::connect_with(&runtime, &options, server.local_addr(), Int32, move |response| {
        // What is wrong stays wrong: from then on none is the one that is due.
        let _ = due.compare_exchange(response, response + 1, Ordering::Relaxed, Ordering::Relaxed);
    })
    .unwrap();
    let (done, finished) = mpsc::channel();
    let sender = std::thread::spawn(move || {
        let mut requests = client.producer();
        requests.push_all(0..count).unwrap();
        drop(requests);
        done.send(client.close().map_err(|unfinished| unfinished.to_string())).unwrap();
    });
    let end = finished.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        panic!("{backend}: stuck after {} responses", next.load(Ordering::Relaxed));
    });
    assert_eq!((end, next.load(Ordering::Relaxed)), (Ok(()), count), "{backend}");
    sender.join().unwrap();
}

fn limits(soft: usize) -> StreamOptions {
    StreamOptions::new().output_limits(soft, 1 << 20)
}

#[test]
fn what_did_not_fit_is_still_answered_behind_the_end_of_the_requests() {
    for backend in Backend::available() {
        // A whole number of responses fits, and in the other case it does not.
        stream_through(backend, 1_000_000, StreamOptions::new(), limits(4096));
        stream_through(backend, 1_000_000, StreamOptions::new(), limits(4095));
    }
}

/// With the kernel's own buffers so small, and requests going out faster than they are answered, either side could wait
/// for the other to read.
#[test]
fn a_client_with_too_much_to_send_still_reads_responses() {
    let small = |soft| limits(soft).send_buffer(4096).receive_buffer(4096);
    for backend in Backend::available() {
        stream_through(backend, 50_000, small(4096), small(4096));
        stream_through(backend, 50_000, small(1), small(1));
    }
}
