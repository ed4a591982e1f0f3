//! Streams of requests: output limits that are reached on both sides and all the time, and the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc;
use std::time::Duration;
use trochus::codec::Int32;
use trochus::net::{ListenOptions, StreamOptions};
use trochus::rpc::{Caller, Client, ClientOptions, Reply, Requests, Server, ServerOptions, Unfinished};
use trochus::{Backend, Runtime};

const PATIENCE: Duration = Duration::from_secs(30);

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

/// Tells when the connection has ended, and how.
struct TellsEnd(mpsc::Sender<Result<(), String>>);

impl Caller<Int32> for TellsEnd {
    fn on_response(&mut self, _requests: &mut Requests<'_, Int32>, _response: i32) {}

    fn on_close(&mut self, end: &Result<(), Unfinished>) {
        self.0.send(end.clone().map_err(|unfinished| unfinished.to_string())).unwrap();
    }
}

/// Keeps its reactor awake.
struct Restless;

impl Caller<Int32> for Restless {
    fn on_open(&mut self, requests: &mut Requests<'_, Int32>) {
        requests.push(&0).unwrap();
    }

    fn on_response(&mut self, requests: &mut Requests<'_, Int32>, response: i32) {
        requests.push(&response).unwrap();
    }
}

/// The queues of a client end one after the other, and the reactor may look between them.
#[test]
fn a_client_that_is_dropped_ends_whenever_the_reactor_looks() {
    for backend in Backend::available() {
        let runtime = Runtime::builder().reactors(1).backend(backend).build().unwrap();
        let server =
            Server::bind(&runtime, "127.0.0.1:0", Int32, |n, reply: Reply<i32>| reply.send(n)).unwrap();
        let (told, ends) = mpsc::channel();
        let options = ClientOptions::new();
        let restless = Client::connect_caller(&runtime, &options, server.local_addr(), Int32, Restless);
        for round in 0..500 {
            let caller = TellsEnd(told.clone());
            let client =
                Client::connect_caller(&runtime, &options, server.local_addr(), Int32, caller).unwrap();
            client.push(round).unwrap();
            // With a pause between the ends that differs each time.
            client.stop_accepting();
            (0..round * 20).for_each(|_| std::hint::spin_loop());
            drop(client);
            let end = ends.recv_timeout(PATIENCE);
            assert_eq!(end, Ok(Ok(())), "{backend}, round {round}");
        }
        drop(restless);
    }
}

/// The reactor is awake because of another client when the lingering one has something to send.
#[test]
fn a_request_that_lingers_leaves_in_time_while_the_reactor_is_busy() {
    for backend in Backend::available() {
        let runtime = Runtime::builder().reactors(1).backend(backend).build().unwrap();
        let server =
            Server::bind(&runtime, "127.0.0.1:0", Int32, |n, reply: Reply<i32>| reply.send(n)).unwrap();
        let (told, responses) = mpsc::channel();
        let options = ClientOptions::new().linger(Duration::from_micros(200));
        let lingering = Client::connect_with(&runtime, &options, server.local_addr(), Int32, move |n| {
            told.send(n).unwrap();
        })
        .unwrap();
        let busy = Client::connect(&runtime, server.local_addr(), Int32).unwrap();
        for round in 0..500 {
            assert_eq!(busy.call(round).wait().unwrap(), round);
            lingering.push(round).unwrap();
            assert_eq!(responses.recv_timeout(PATIENCE), Ok(round), "{backend}");
        }
    }
}
