//! A server that is told to stop, and another one that takes its place, under many callers.

use super::support::*;
use std::env;
use std::future::Future;
use std::io::{BufRead, BufReader};
use std::pin::Pin;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;
use trochus::codec::{Int32, Matching, Protocol};
use trochus::rpc::{CallError, Client, ClientOptions, Reconnect, Reply, Server};
use trochus::{Backend, Runtime};

const CALLERS: i32 = 1000;
const RESTARTS: usize = 3;

/// What tells the child that it is one: where to listen, whether with ids, and on which backend.
const CHILD: &str = "TROCHUS_TEST_SERVER";

/// Not a test by itself: the server of the tests below, in a process of its own.
#[test]
fn a_server_in_a_process_of_its_own() {
    let Ok(how) = env::var(CHILD) else { return };
    let mut how = how.split(' ');
    let (address, ids, backend) = (how.next().unwrap(), how.next().unwrap(), how.next().unwrap());
    let runtime = Runtime::builder().backend(backend.parse().unwrap()).reactors(2).build().unwrap();
    let serve = |n: i32, reply: Reply<i32>| {
        if n % 7 == 0 {
            // Later, and from elsewhere.
            thread::spawn(move || reply.send(n + 1));
        } else {
            reply.send(n + 1);
        }
    };
    let server = match ids {
        "by_id" => Server::bind(&runtime, address, Int32.by_id(), serve),
        _ => Server::bind(&runtime, address, Int32, serve),
    };
    // Dropped, it would accept no more.
    let server = server.unwrap();
    println!("\nlistening on {}", server.local_addr());
    runtime.run_until_interrupted().unwrap();
    println!("\nstopped");
}

struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
    address: String,
}

impl Process {
    fn start(address: &str, ids: &str, backend: Backend) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "restart::a_server_in_a_process_of_its_own", "--nocapture"])
            .env(CHILD, format!("{address} {ids} {backend}"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let address = line_that_begins(&mut output, "listening on ");
        Process { child, output, address }
    }

    /// SIGTERM, and until it is gone.
    fn stop(mut self) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        line_that_begins(&mut self.output, "stopped");
        assert!(self.child.wait().unwrap().success());
    }
}

fn line_that_begins(output: &mut BufReader<ChildStdout>, start: &str) -> String {
    loop {
        let mut line = String::new();
        assert!(output.read_line(&mut line).unwrap() > 0, "the server ended");
        if let Some(rest) = line.trim().strip_prefix(start) {
            return rest.to_owned();
        }
    }
}

fn nothing_is_lost_over_restarts<P>(runtime: &Runtime, protocol: P, ids: &str)
where
    P: Protocol<RequestCodec = Int32, ResponseCodec = Int32> + Sync,
    P::Correlation: Matching,
{
    let mut server = Process::start(anywhere(), ids, runtime.backend());
    let address = server.address.clone();
    let options = ClientOptions::new().peer_drains_cleanly(true).reconnect(Reconnect::forever());
    let client = Client::builder(protocol).options(options).connect(runtime, &address).unwrap();
    let (stops, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let calling = {
        let (stops, answered) = (stops.clone(), answered.clone());
        thread::spawn(move || {
            let loops = (0..CALLERS).map(|caller| {
                let (client, stops, answered) = (client.clone(), stops.clone(), answered.clone());
                let calls = async move {
                    let (mut n, mut lost) = (caller, Vec::<CallError>::new());
                    while !stops.load(Ordering::SeqCst) {
                        match client.call(n).await {
                            Ok(answer) => assert_eq!(answer, n + 1),
                            Err(error) => lost.push(error),
                        }
                        answered.fetch_add(1, Ordering::SeqCst);
                        n = (n + CALLERS) % 1_000_000;
                    }
                    lost
                };
                Box::pin(calls) as Pin<Box<dyn Future<Output = Vec<CallError>>>>
            });
            let lost: Vec<CallError> = block_on_all(loops).into_iter().flatten().collect();
            client.close().unwrap();
            lost
        })
    };
    for _ in 0..RESTARTS {
        let so_far = answered.load(Ordering::SeqCst);
        eventually("calls are answered", || answered.load(Ordering::SeqCst) > so_far + 5000);
        server.stop();
        thread::sleep(Duration::from_millis(20));
        server = Process::start(&address, ids, runtime.backend());
    }
    let so_far = answered.load(Ordering::SeqCst);
    eventually("calls are answered", || answered.load(Ordering::SeqCst) > so_far + 5000);
    stops.store(true, Ordering::SeqCst);
    let lost = calling.join().unwrap();
    assert!(lost.is_empty(), "{} of {}: {:?}", lost.len(), answered.load(Ordering::SeqCst), lost[0]);
    server.stop();
}

#[test]
fn no_call_is_lost_over_graceful_restarts() {
    on_each_backend(|runtime| {
        nothing_is_lost_over_restarts(runtime, Int32.by_id(), "by_id");
        nothing_is_lost_over_restarts(runtime, Int32, "in_order");
    });
}

#[test]
fn without_the_promise_a_clean_end_proves_nothing() {
    on_each_ground(|runtime| {
        for promised in [false, true] {
            let (listener, address) = listen();
            let options = ClientOptions::new().peer_drains_cleanly(promised);
            let client = Client::connect_with(runtime, &options, address, Int32, drop).unwrap();
            let mut peer = accept(&listener);
            let calls: Vec<_> = (0..3).map(|n| client.call(n)).collect();
            read_ints(&mut peer, 3);
            write_ints(&mut peer, [0]);
            end_output(&peer);
            let outcomes: Vec<_> = calls.into_iter().map(|call| call.wait()).collect();
            assert!(outcomes[0].is_ok());
            for outcome in &outcomes[1..] {
                let error = outcome.as_ref().unwrap_err();
                assert_eq!(error.may_have_been_executed(), !promised, "{error}");
            }
        }
    });
}

#[test]
fn neither_does_an_end_within_a_response_nor_a_reset() {
    use std::io::Write;
    on_each_ground(|runtime| {
        for (answered, resets) in [(false, false), (true, false), (false, true), (true, true)] {
            let (listener, address) = listen();
            let options = ClientOptions::new().peer_drains_cleanly(true);
            let client = Client::connect_with(runtime, &options, address, Int32, drop).unwrap();
            let mut peer = accept(&listener);
            let (first, second) = (client.call(1), client.call(2));
            read_ints(&mut peer, 2);
            if answered {
                write_ints(&mut peer, [1]);
                first.wait().unwrap();
            }
            if resets {
                reset(peer);
            } else {
                // Fewer bytes than the client said that it has use for.
                peer.write_all(&[0, 0]).unwrap();
                end_output(&peer);
            }
            let error = second.wait().unwrap_err();
            assert!(error.may_have_been_executed(), "{error}");
        }
    });
}

#[test]
fn what_the_server_did_not_take_is_sent_again_in_its_order() {
    on_each_ground(|runtime| {
        let (listener, address) = listen();
        let policy = Reconnect::new().first_delay(Duration::from_millis(1));
        let options = ClientOptions::new().calls_in_flight(4).reconnect(policy).resend_bytes(12);
        let options = options.peer_drains_cleanly(true);
        let client = Client::connect_with(runtime, &options, address, Int32, drop).unwrap();
        let mut peer = accept(&listener);
        let mut calls: Vec<_> = (0..6).map(|n| client.call(n)).collect();
        read_ints(&mut peer, 4);
        write_ints(&mut peer, [0]);
        assert_eq!(calls.remove(0).wait().unwrap(), 0);
        // 1 and 2 are kept, 3 was more than may be kept, 4 is kept again because 0 was answered.
        assert_eq!(read_ints(&mut peer, 1), [4]);
        drop(calls.remove(1)); // 2: nobody waits for it any more
        end_output(&peer);
        let mut next = accept(&listener);
        assert_eq!(read_ints(&mut next, 3), [1, 4, 5]);
        write_ints(&mut next, [10, 40, 50]);
        let outcomes: Vec<_> = calls.into_iter().map(|call| call.wait()).collect();
        assert!(matches!(outcomes[1], Err(CallError::NotSent(_))), "{:?}", outcomes[1]);
        let answers: Vec<_> = outcomes.into_iter().flatten().collect();
        assert_eq!(answers, [10, 40, 50]);
        client.close().unwrap();
    });
}

#[test]
fn pushes_that_a_server_did_not_take_before_it_stopped_are_not_forgotten() {
    use std::io::Write;
    on_each_ground(|runtime| {
        let policy = Reconnect::new().first_delay(Duration::from_millis(1));
        let options = ClientOptions::new().reconnect(policy).peer_drains_cleanly(true);
        // In order, by the server's promise.
        let (listener, address) = listen();
        let client = Client::connect_with(runtime, &options, address, Int32, drop).unwrap();
        let mut peer = accept(&listener);
        client.push_all(0..5).unwrap();
        read_ints(&mut peer, 5);
        write_ints(&mut peer, [0, 1]);
        end_output(&peer);
        let _next = accept(&listener);
        let end = client.close().unwrap_err();
        assert_eq!((end.unanswered(), end.unsent()), (3, 0), "{end}");
        // By id, by a goodbye.
        let (listener, address) = listen();
        let client = Client::builder(Int32.by_id()).reconnect(policy).connect(runtime, address).unwrap();
        let mut peer = accept(&listener);
        client.push_all(0..5).unwrap();
        let requests = read_ints(&mut peer, 3 * 5);
        write_ints(&mut peer, requests[..3 * 2].iter().copied());
        let goodbye = [(u64::MAX - 1).to_be_bytes().as_slice(), &[1, 0], &2u64.to_be_bytes()].concat();
        peer.write_all(&goodbye).unwrap();
        end_output(&peer);
        let _next = accept(&listener);
        let end = client.close().unwrap_err();
        assert_eq!((end.unanswered(), end.unsent()), (3, 0), "{end}");
    });
}
