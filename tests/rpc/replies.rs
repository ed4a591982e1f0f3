//! How a server's replies come back: at once, late, out of order, not at all.

use super::support::*;
use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use trochus::Runtime;
use trochus::codec::{Int32, Matching, Protocol};
use trochus::reactor::Address;
use trochus::rpc::{Client, Missing, Reply, Server, ServerOptions, Service};

/// Numbers both ways, however they are matched.
trait Ints: Protocol<RequestCodec = Int32, ResponseCodec = Int32> + Sync {}
impl<P: Protocol<RequestCodec = Int32, ResponseCodec = Int32> + Sync> Ints for P {}

fn calls_find_their_responses<P: Ints>(
    runtime: &Runtime,
    protocol: P,
    service: impl Fn(i32, Reply<i32>) + Send + Sync + 'static,
) where
    P::Correlation: Matching,
{
    let server = Server::bind(runtime, anywhere(), protocol.clone(), service).unwrap();
    let client = Client::connect(runtime, server.local_addr(), protocol).unwrap();
    let calls: Vec<_> = (0..300).map(|n| client.call(n)).collect();
    for (n, call) in (0..).zip(calls) {
        assert_eq!(call.wait().unwrap(), n + 1);
    }
    client.close().unwrap();
}

#[test]
fn replies_at_once() {
    on_each_ground(|runtime| {
        calls_find_their_responses(runtime, Int32, |n, reply| reply.send(n + 1));
        calls_find_their_responses(runtime, Int32.by_id(), |n, reply| reply.send(n + 1));
    });
}

#[test]
fn replies_from_other_threads() {
    fn elsewhere(n: i32, reply: Reply<i32>) {
        thread::spawn(move || reply.send(n + 1));
    }
    on_each_ground(|runtime| {
        calls_find_their_responses(runtime, Int32, elsewhere);
        calls_find_their_responses(runtime, Int32.by_id(), elsewhere);
    });
}

#[test]
fn replies_at_once_and_late_ones_mix() {
    fn mixed(n: i32, reply: Reply<i32>) {
        if n % 3 == 0 {
            thread::spawn(move || reply.send(n + 1));
        } else {
            reply.send(n + 1);
        }
    }
    on_each_ground(|runtime| {
        calls_find_their_responses(runtime, Int32, mixed);
        calls_find_their_responses(runtime, Int32.by_id(), mixed);
    });
}

/// Keeps each reply until another request comes, and sends it during that one's call, before or after that one's own.
struct OneBehind {
    kept: Option<(i32, Reply<i32>)>,
}

impl<P: Ints> Service<P> for OneBehind {
    fn call(&mut self, n: i32, reply: Reply<i32>) {
        let Some((kept, its_reply)) = self.kept.take() else {
            self.kept = Some((n, reply));
            return;
        };
        match n % 3 {
            0 => {
                its_reply.send(kept + 1);
                reply.send(n + 1);
            }
            1 => {
                reply.send(n + 1);
                its_reply.send(kept + 1);
            }
            // And this one is kept in turn.
            _ => {
                its_reply.send(kept + 1);
                self.kept = Some((n, reply));
            }
        }
    }
}

#[test]
fn replies_during_the_call_of_another_request() {
    fn check<P: Ints>(runtime: &Runtime, protocol: P)
    where
        P::Correlation: Matching,
    {
        let make = |_: &Address| OneBehind { kept: None };
        let server =
            Server::bind_each(runtime, &ServerOptions::new(), anywhere(), protocol.clone(), make).unwrap();
        let client = Client::connect(runtime, server.local_addr(), protocol).unwrap();
        // Behind a number divisible by three, none is kept.
        let calls: Vec<_> = (0..=3000).map(|n| client.call(n)).collect();
        for (n, call) in (0..).zip(calls) {
            assert_eq!(call.wait().unwrap(), n + 1);
        }
    }
    on_each_ground(|runtime| {
        check(runtime, Int32);
        check(runtime, Int32.by_id());
    });
}

/// Three requests, answered last first: the responses as they come in.
fn answered_backwards<P: Ints>(runtime: &Runtime, protocol: P, with_id: bool) -> Vec<i32> {
    let (service, kept) = keeper();
    let server = Server::bind(runtime, anywhere(), protocol, service).unwrap();
    let mut peer = dial(server.local_addr());
    let wire = if with_id { vec![0, 9, 0, 0, 8, 1, 0, 7, 2] } else { vec![0, 1, 2] };
    write_ints(&mut peer, wire);
    let requests: Vec<_> = (0..3).map(|_| next(&kept)).collect();
    for (n, reply) in requests.into_iter().rev() {
        reply.send(10 + n);
    }
    read_ints(&mut peer, if with_id { 9 } else { 3 })
}

#[test]
fn correlation_decides_about_the_order() {
    on_each_backend(|runtime| {
        assert_eq!(answered_backwards(runtime, Int32, false), [10, 11, 12]);
        assert_eq!(answered_backwards(runtime, Int32.uncorrelated(), false), [12, 11, 10]);
        assert_eq!(answered_backwards(runtime, Int32.by_id(), true), [0, 7, 12, 0, 8, 11, 0, 9, 10]);
    });
}

#[test]
fn by_id_a_response_waits_for_no_other() {
    on_each_ground(|runtime| {
        let (service, kept) = keeper();
        let server = Server::bind(runtime, anywhere(), Int32.by_id(), service).unwrap();
        let client = Client::connect(runtime, server.local_addr(), Int32.by_id()).unwrap();
        let (first, second) = (client.call(1), client.call(2));
        let (one, two) = (next(&kept), next(&kept));
        two.1.send(20);
        assert_eq!(second.wait().unwrap(), 20);
        one.1.send(10);
        assert_eq!(first.wait().unwrap(), 10);
    });
}

#[test]
fn a_dropped_reply_closes_behind_the_ones_before() {
    on_each_backend(|runtime| {
        let drops_negative = |n: i32, reply: Reply<i32>| {
            if n >= 0 {
                reply.send(n);
            }
        };
        let server = Server::bind(runtime, anywhere(), Int32, drops_negative).unwrap();
        let mut peer = dial(server.local_addr());
        write_ints(&mut peer, [1, 2, -1, 3]);
        assert_eq!(ints(&rest_until_reset(&mut peer)), [1, 2]);
        // The ones before may come late.
        let (service, kept) = keeper();
        let server = Server::bind(runtime, anywhere(), Int32, service).unwrap();
        let mut peer = dial(server.local_addr());
        write_ints(&mut peer, [1, 2, 3, 4]);
        let [one, two, three, four] = std::array::from_fn(|_| next(&kept));
        four.1.send(4);
        drop(three);
        two.1.send(2);
        one.1.send(1);
        assert_eq!(ints(&rest_until_reset(&mut peer)), [1, 2]);
    });
}

#[test]
fn by_id_a_dropped_reply_leaves_the_others_theirs() {
    on_each_backend(|runtime| {
        let (service, kept) = keeper();
        let server = Server::bind(runtime, anywhere(), Int32.by_id(), service).unwrap();
        let mut peer = dial(server.local_addr());
        write_ints(&mut peer, [0, 1, 10, 0, 2, 20, 0, 3, 30]);
        let [one, two, three] = std::array::from_fn(|_| next(&kept));
        drop(two);
        one.1.send(11);
        three.1.send(31);
        assert_eq!(read_notice(&mut peer), (2, 1, 2), "the second one has no response: it was dropped");
        assert_eq!(read_ints(&mut peer, 6), [0, 1, 11, 0, 3, 31]);
        // And all goes on, unless that is not wanted.
        write_ints(&mut peer, [0, 4, 40]);
        next(&kept).1.send(41);
        assert_eq!(read_ints(&mut peer, 3), [0, 4, 41]);
        let metrics = server.metrics();
        assert_eq!((metrics.requests, metrics.responses, metrics.dropped, metrics.late), (4, 3, 1, 4));
        let (service, kept) = keeper();
        let server =
            Server::builder().notices(false).bind(runtime, anywhere(), Int32.by_id(), service).unwrap();
        let mut peer = dial(server.local_addr());
        write_ints(&mut peer, [0, 1, 10, 0, 2, 20, 0, 3, 30]);
        let [one, two, three] = std::array::from_fn(|_| next(&kept));
        drop(two);
        one.1.send(11);
        three.1.send(31);
        assert_eq!(ints(&rest_until_reset(&mut peer)), [0, 1, 11, 0, 3, 31]);
    });
}

#[test]
fn without_correlation_a_reply_may_be_dropped() {
    on_each_backend(|runtime| {
        let even_at_once = |n: i32, reply: Reply<i32>| match n % 4 {
            0 => reply.send(n),
            1 => drop(reply),
            2 => drop(thread::spawn(move || drop(reply))),
            _ => drop(thread::spawn(move || reply.send(n))),
        };
        let server = Server::bind(runtime, anywhere(), Int32.uncorrelated(), even_at_once).unwrap();
        let mut peer = dial(server.local_addr());
        write_ints(&mut peer, 0..100);
        end_output(&peer);
        let mut responses = rest_of_ints(&mut peer);
        responses.sort_unstable();
        assert_eq!(responses, (0..100).filter(|n| matches!(n % 4, 0 | 3)).collect::<Vec<_>>());
    });
}

/// Drops every odd reply, in place or elsewhere, and has something to say instead.
struct Substitutes;

impl<P: Ints> Service<P> for Substitutes {
    fn call(&mut self, n: i32, reply: Reply<i32>) {
        match n % 4 {
            0 => reply.send(n),
            1 => drop(reply),
            2 => drop(thread::spawn(move || reply.send(n))),
            _ => drop(thread::spawn(move || drop(reply))),
        }
    }

    fn substitute(&mut self, _missing: &Missing<'_>) -> Option<i32> {
        Some(-1)
    }
}

#[test]
fn a_substitute_answers_for_a_dropped_reply() {
    fn check<P: Ints>(runtime: &Runtime, protocol: P)
    where
        P::Correlation: Matching,
    {
        let server =
            Server::bind_each(runtime, &ServerOptions::new(), anywhere(), protocol.clone(), |_| Substitutes)
                .unwrap();
        let client = Client::connect(runtime, server.local_addr(), protocol).unwrap();
        let calls: Vec<_> = (0..200).map(|n| client.call(n)).collect();
        for (n, call) in (0..).zip(calls) {
            assert_eq!(call.wait().unwrap(), if n % 2 == 0 { n } else { -1 });
        }
        client.close().unwrap();
    }
    on_each_ground(|runtime| {
        check(runtime, Int32);
        check(runtime, Int32.by_id());
    });
}

#[test]
fn a_reply_may_come_after_the_connection_has_ended() {
    on_each_backend(|runtime| {
        let (service, kept) = keeper();
        let server = Server::bind(runtime, anywhere(), Int32, service).unwrap();
        let mut peer = dial(server.local_addr());
        write_ints(&mut peer, [1, 2]);
        let (one, two) = (next(&kept), next(&kept));
        reset(peer);
        eventually("the connection ends", || server.connections() == 0);
        one.1.send(1);
        drop(two);
        let client = Client::connect(runtime, server.local_addr(), Int32).unwrap();
        let call = client.call(3);
        let (n, reply) = next(&kept);
        reply.send(n * 2);
        assert_eq!(call.wait().unwrap(), 6);
    });
}

#[test]
fn a_panicking_service_closes_its_connection_only() {
    on_each_backend(|runtime| {
        let service = |n: i32, reply: Reply<i32>| {
            assert!(n >= 0, "on purpose");
            reply.send(n);
        };
        let server = Server::bind(runtime, anywhere(), Int32, service).unwrap();
        let client = Client::connect(runtime, server.local_addr(), Int32).unwrap();
        let mut peer = dial(server.local_addr());
        write_ints(&mut peer, [-1]);
        // A reset, for its output was cut off.
        assert!(!peer.read(&mut [0]).is_ok_and(|bytes| bytes > 0));
        assert_eq!(client.call(7).wait().unwrap(), 7);
        assert_eq!((server.metrics().panics, runtime.metrics().handler_panics), (1, 0));
    });
}

#[test]
fn each_connection_has_a_service_of_its_own() {
    struct Counts(i32, Arc<AtomicUsize>);
    impl Service<Int32> for Counts {
        fn call(&mut self, n: i32, reply: Reply<i32>) {
            self.0 += n;
            reply.send(self.0);
        }
    }
    impl Drop for Counts {
        fn drop(&mut self) {
            self.1.fetch_add(1, Ordering::SeqCst);
        }
    }
    on_each_ground(|runtime| {
        let dropped = Arc::new(AtomicUsize::new(0));
        let (peers, drops) = (Arc::new(Mutex::new(Vec::new())), dropped.clone());
        let seen = peers.clone();
        let make = move |peer: &Address| {
            seen.lock().unwrap().push(peer.to_string());
            Counts(0, drops.clone())
        };
        let server = Server::bind_each(runtime, &ServerOptions::new(), anywhere(), Int32, make).unwrap();
        let clients: Vec<_> =
            (0..4).map(|_| Client::connect(runtime, server.local_addr(), Int32).unwrap()).collect();
        for (n, client) in (1..).zip(&clients) {
            assert_eq!(client.call(n).wait().unwrap(), n);
            assert_eq!(client.call(n).wait().unwrap(), 2 * n);
        }
        assert_eq!(peers.lock().unwrap().len(), 4);
        drop(clients);
        eventually("the services are dropped", || dropped.load(Ordering::SeqCst) == 4);
        eventually("the connections end", || server.connections() == 0);
    });
}
