//! What a server says beyond one response for one request, and how it stops.

use super::support::*;
use std::cell::Cell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::io::Read;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;
use trochus::Runtime;
use trochus::codec::{ByteLines, Int32, Protocol};
use trochus::reactor::{Address, ListenOptions, StreamOptions};
use trochus::rpc::{Client, Connection, Parts, PushRefused, Reply, Server, ServerOptions, Service};

/// Says hello, echoes, and gives its connection away.
struct Subscriber(mpsc::Sender<Connection<bytes::Bytes>>);

impl<P: Protocol<RequestCodec = ByteLines, ResponseCodec = ByteLines>> Service<P> for Subscriber {
    fn call(&mut self, line: &[u8], reply: Reply<bytes::Bytes>) {
        reply.send(bytes::Bytes::copy_from_slice(line));
    }

    fn on_open(&mut self, connection: &Connection<bytes::Bytes>) {
        connection.push("INFO".into()).unwrap();
        let _ = self.0.send(connection.clone());
    }
}

fn subscribers<P>(
    runtime: &Runtime,
    options: &ServerOptions,
    protocol: P,
) -> (Server, mpsc::Receiver<Connection<bytes::Bytes>>)
where
    P: Protocol<RequestCodec = ByteLines, ResponseCodec = ByteLines> + Sync,
{
    let (give, given) = mpsc::channel();
    let give = Mutex::new(give);
    let make = move |_: &Address| Subscriber(give.lock().unwrap().clone());
    (options.bind_each(runtime, anywhere(), protocol, make).unwrap(), given)
}

#[test]
fn a_server_pushes_what_nobody_asked_for() {
    fn check<P>(runtime: &Runtime, protocol: P)
    where
        P: Protocol<RequestCodec = ByteLines, ResponseCodec = ByteLines> + Sync,
    {
        let (server, given) = subscribers(runtime, &ServerOptions::new(), protocol);
        let mut peer = dial(server.local_addr());
        let connection = given.recv_timeout(PATIENCE).unwrap();
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let connection = connection.clone();
                thread::spawn(move || {
                    for n in 0..1000 {
                        connection.push(format!("{thread} {n}").into()).unwrap();
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        connection.close();
        let mut received = String::new();
        peer.read_to_string(&mut received).unwrap();
        let mut lines = received.lines();
        assert_eq!(lines.next(), Some("INFO"));
        let mut next: HashMap<&str, usize> = HashMap::new();
        for line in lines {
            let (thread, n) = line.split_once(' ').unwrap();
            let next = next.entry(thread).or_default();
            assert_eq!(n, next.to_string(), "of thread {thread}");
            *next += 1;
        }
        assert_eq!(next.values().sum::<usize>(), 4000);
        assert_eq!(server.metrics().pushed, 4001);
        drop(peer);
        eventually("it ends", || connection.is_closed());
        assert!(matches!(connection.push("x".into()), Err(PushRefused::Closed(_))));
    }
    on_each_backend(|runtime| {
        check(runtime, ByteLines::new());
        check(runtime, ByteLines::new().uncorrelated());
    });
}

#[test]
fn pushes_are_refused_when_the_peer_does_not_read() {
    on_each_backend(|runtime| {
        let stream = StreamOptions::new().send_buffer(16 << 10).output_limits(64 << 10, 1 << 20);
        let options =
            ServerOptions::new().listen(ListenOptions::new().stream(stream)).held_limits(64 << 10, 64 << 20);
        let (server, given) = subscribers(runtime, &options, ByteLines::new());
        let mut peer = dial(server.local_addr());
        let connection = given.recv_timeout(PATIENCE).unwrap();
        let line = bytes::Bytes::from(vec![b'x'; 10_000]);
        let mut pushed = 0;
        // It takes some: what the sockets hold, and then what the limits allow.
        eventually("it is refused", || match connection.push(line.clone()) {
            Ok(()) => {
                pushed += 1;
                assert!(pushed < 3000, "30 MB and no end");
                false
            }
            Err(refused) => matches!(refused, PushRefused::Full(_)),
        });
        // Everything that was accepted arrives, and then there is room again.
        let mut received = vec![0; 5 + pushed * 10_001];
        peer.read_exact(&mut received).unwrap();
        eventually("there is room", || connection.push(line.clone()).is_ok());
        peer.read_exact(&mut vec![0; 10_001]).unwrap();
    });
}

#[test]
fn one_request_may_have_many_responses() {
    on_each_backend(|runtime| {
        let (keep, kept) = mpsc::channel();
        let keep = Mutex::new(keep);
        let service = move |n: i32, reply: Reply<i32>| {
            if n == 0 {
                reply.send(0);
            } else {
                drop(keep.lock().unwrap().send(reply.in_parts()));
            }
        };
        let service = Arc::new(service);
        let its = service.clone();
        let server =
            Server::bind(runtime, anywhere(), Int32.by_id(), move |n: i32, reply: Reply<i32>| its(n, reply))
                .unwrap();
        let next_parts = || -> Parts<i32> { kept.recv_timeout(PATIENCE).unwrap() };
        let mut peer = dial(server.local_addr());
        write_ints(&mut peer, [0, 7, 1, 0, 8, 1, 0, 9, 0]);
        assert_eq!(read_ints(&mut peer, 3), [0, 9, 0]);
        let (seven, eight) = (next_parts(), next_parts());
        assert_eq!((seven.request_number(), eight.request_number()), (0, 1));
        for n in 0..3 {
            seven.push(10 + n).unwrap();
            assert_eq!(read_ints(&mut peer, 3), [0, 7, 10 + n]);
            eight.push(20 + n).unwrap();
            assert_eq!(read_ints(&mut peer, 3), [0, 8, 20 + n]);
        }
        seven.finish();
        // Without an end, it is one that was dropped.
        drop(eight);
        assert_eq!(read_notice(&mut peer), (2, 1, 8));
        drop(peer);
        // In order each waits for its turn.
        let server =
            Server::bind(runtime, anywhere(), Int32, move |n: i32, reply: Reply<i32>| service(n, reply))
                .unwrap();
        let mut peer = dial(server.local_addr());
        write_ints(&mut peer, [1, 0, 2, 0]);
        let (first, second) = (next_parts(), next_parts());
        first.push(10).unwrap();
        assert_eq!(read_ints(&mut peer, 1), [10], "whose turn it is need not wait for its end");
        second.push(20).unwrap();
        second.push(21).unwrap();
        second.finish();
        first.push(11).unwrap();
        first.finish();
        assert_eq!(read_ints(&mut peer, 5), [11, 0, 20, 21, 0]);
        end_output(&peer);
        assert!(rest_of_ints(&mut peer).is_empty());
    });
}

#[test]
fn a_service_knows_that_nobody_waits_any_more() {
    on_each_backend(|runtime| {
        let (service, kept) = keeper();
        let server = Server::bind(runtime, anywhere(), Int32, service).unwrap();
        let mut peer = dial(server.local_addr());
        write_ints(&mut peer, [1]);
        let (_, reply) = next(&kept);
        assert_eq!(reply.peer(), &Address::Tcp(peer.local_addr().unwrap()));
        assert!(reply.is_wanted());
        reset(peer);
        eventually("the service knows", || !reply.is_wanted());
        drop(server);
    });
}

#[test]
fn a_future_is_polled_once_for_any_number_of_wakes() {
    for backend in trochus::Backend::available() {
        watched(&backend.to_string(), move || {
            let runtime = Runtime::builder().backend(backend).reactors(1).build().unwrap();
            let polls = Arc::new(AtomicUsize::new(0));
            let (give, wakers) = mpsc::channel::<Waker>();
            let ((go_on, gate), (hold, held)) = (mpsc::channel::<()>(), mpsc::channel::<()>());
            let (count, shared) = (polls.clone(), Arc::new(Mutex::new((give, gate, hold))));
            let service = move |n: i32| {
                let (count, shared) = (count.clone(), shared.clone());
                async move {
                    if n == 1 {
                        // Holds the reactor up.
                        let shared = shared.lock().unwrap();
                        shared.2.send(()).unwrap();
                        shared.1.recv().unwrap();
                        return n;
                    }
                    poll_fn(|context| {
                        if count.fetch_add(1, Ordering::SeqCst) == 2 {
                            return Poll::Ready(());
                        }
                        shared.lock().unwrap().0.send(context.waker().clone()).unwrap();
                        Poll::Pending
                    })
                    .await;
                    n
                }
            };
            let server = Server::bind_async(&runtime, anywhere(), Int32.by_id(), service).unwrap();
            let mut peer = dial(server.local_addr());
            write_ints(&mut peer, [0, 0, 0]);
            let waker = wakers.recv_timeout(PATIENCE).unwrap();
            write_ints(&mut peer, [0, 1, 1]);
            held.recv_timeout(PATIENCE).unwrap();
            // However often, from wherever, while it cannot be polled.
            for _ in 0..10_000 {
                waker.wake_by_ref();
            }
            for waker in vec![waker.clone(); 100] {
                waker.wake();
            }
            go_on.send(()).unwrap();
            let again = wakers.recv_timeout(PATIENCE).unwrap();
            assert_eq!(read_ints(&mut peer, 3), [0, 1, 1]);
            assert_eq!(polls.load(Ordering::SeqCst), 2, "one at once, and one for all wakes");
            again.wake();
            assert_eq!(read_ints(&mut peer, 3), [0, 0, 0]);
            assert_eq!(polls.load(Ordering::SeqCst), 3);
            waker.wake();
            assert_eq!(polls.load(Ordering::SeqCst), 3, "it has ended");
        });
    }
}

#[test]
fn async_services_have_options_peers_state_and_other_executors() {
    on_each_backend(|runtime| {
        let make = |peer: &Address| {
            let (port, seen) = (i32::from(peer.port().unwrap()), Rc::new(Cell::new(0)));
            move |n: i32| {
                let seen = seen.clone();
                async move {
                    seen.set(seen.get() + n);
                    port + seen.get()
                }
            }
        };
        let options = ServerOptions::new().requests_in_progress(3);
        let server = options.bind_async_each(runtime, anywhere(), Int32, make).unwrap();
        let mut peer = dial(server.local_addr());
        let port = i32::from(peer.local_addr().unwrap().port());
        write_ints(&mut peer, [1, 2, 3]);
        assert_eq!(read_ints(&mut peer, 3), [port + 1, port + 3, port + 6]);
        // An executor: a thread for each task.
        let spawn = |task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            drop(thread::spawn(move || block_on(task)));
        };
        let server = options
            .bind_on(spawn, runtime, anywhere(), Int32, |n: i32| async move {
                thread::sleep(Duration::from_millis(1));
                n * 2
            })
            .unwrap();
        let client = Client::connect(runtime, server.local_addr(), Int32).unwrap();
        let calls: Vec<_> = (0..20).map(|n| client.call(n)).collect();
        for (n, call) in (0..).zip(calls) {
            assert_eq!(call.wait().unwrap(), 2 * n);
        }
        client.close().unwrap();
        assert!(server.metrics().late_latency.quantile(0.5).unwrap() >= Duration::from_millis(1));
    });
}

#[test]
fn a_server_that_is_stopped_answers_what_it_took() {
    on_each_backend(|runtime| {
        let (service, kept) = keeper();
        let server = Server::bind(runtime, anywhere(), Int32, service).unwrap();
        let other =
            Server::bind(runtime, anywhere(), Int32, |n: i32, reply: Reply<i32>| reply.send(n)).unwrap();
        let mut peer = dial(server.local_addr());
        write_ints(&mut peer, 0..5);
        let taken: Vec<_> = (0..5).map(|_| next(&kept)).collect();
        let mut stopping = server.stop_async(HOUR);
        eventually("it accepts no more", || !server.is_accepting());
        assert!(stopping.try_take().is_none(), "it waits for its requests");
        for (n, reply) in taken {
            reply.send(n);
        }
        assert_eq!(rest_of_ints(&mut peer), [0, 1, 2, 3, 4]);
        drop(peer);
        let drained = stopping.wait().unwrap();
        assert_eq!(drained.cut_off, 0);
        assert_eq!(server.connections(), 0);
        // Other servers are not concerned.
        let mut peer = dial(other.local_addr());
        write_ints(&mut peer, [7]);
        assert_eq!(read_ints(&mut peer, 1), [7]);
        drop(peer);
        other.stop(HOUR).unwrap();
    });
}
