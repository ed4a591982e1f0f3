//! Several servers behind one pool: who is asked, who is asked instead, and when nobody is there.

use super::support::*;
use std::collections::HashMap;
use std::future::Future;
use std::io::Write;
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use trochus::Runtime;
use trochus::codec::{Int32, Matching, Protocol};
use trochus::rpc::{
    CallError, ClientOptions, ClientState, Pick, Pool, PoolBuilder, Reconnect, Reply, Server,
};

const SOON: Duration = Duration::from_millis(1);

/// How often each number was asked for, at which of the servers.
type Asked = Arc<Mutex<HashMap<i32, Vec<usize>>>>;

fn serve<P>(runtime: &Runtime, protocol: P, address: &str, index: usize, asked: &Asked) -> Server
where
    P: Protocol<RequestCodec = Int32, ResponseCodec = Int32> + Sync,
{
    let asked = asked.clone();
    let service = move |n: i32, reply: Reply<i32>| {
        asked.lock().unwrap().entry(n).or_default().push(index);
        if n % 5 == 0 {
            thread::spawn(move || reply.send(n + 1));
        } else {
            reply.send(n + 1);
        }
    };
    Server::bind(runtime, address, protocol, service).unwrap()
}

fn address(server: &Server) -> String {
    server.local_addr().to_string()
}

fn builder<P: Protocol>(protocol: P) -> PoolBuilder<P> {
    let policy = Reconnect::forever().first_delay(SOON).longest_delay(Duration::from_millis(20));
    Pool::builder(protocol).reconnect(policy)
}

fn connected<P: Protocol>(pool: &Pool<P>) -> usize {
    pool.members().filter(|member| member.state == ClientState::Connected).count()
}

/// How often each server was asked for numbers from `first` on.
fn shares(asked: &Asked, first: i32) -> [usize; 3] {
    let mut shares = [0; 3];
    for (_, at) in asked.lock().unwrap().iter().filter(|(n, _)| **n >= first) {
        at.iter().for_each(|index| shares[*index] += 1);
    }
    shares
}

#[test]
fn those_that_are_connected_are_asked_in_turn() {
    on_each_ground(|runtime| {
        let asked = Asked::default();
        let mut servers: Vec<_> =
            (0..3).map(|index| Some(serve(runtime, Int32, anywhere(), index, &asked))).collect();
        let addresses: Vec<_> = servers.iter().flatten().map(address).collect();
        let pool = builder(Int32).connect_lazy(runtime, &addresses).unwrap();
        eventually("all are connected", || connected(&pool) == 3);
        for n in 0..300 {
            assert_eq!(pool.call(n).wait().unwrap(), n + 1);
        }
        assert_eq!(shares(&asked, 0), [100; 3]);
        // Without one of them the others share its part.
        servers[1].take().unwrap().stop(Duration::ZERO).unwrap();
        eventually("it is gone", || connected(&pool) == 2);
        for n in 1000..1300 {
            assert_eq!(pool.call(n).wait().unwrap(), n + 1);
        }
        assert_eq!(shares(&asked, 1000), [150, 0, 150]);
        // And when it is back, all three.
        servers[1] = Some(serve(runtime, Int32, &addresses[1], 1, &asked));
        eventually("it is back", || connected(&pool) == 3);
        for n in 2000..2300 {
            assert_eq!(pool.call(n).wait().unwrap(), n + 1);
        }
        assert_eq!(shares(&asked, 2000), [100; 3]);
        pool.close().unwrap();
        assert_eq!(pool.state(), ClientState::Closed);
    });
}

#[test]
fn what_one_server_did_not_get_another_one_does() {
    on_each_ground(|runtime| {
        let asked = Asked::default();
        let server = serve(runtime, Int32, anywhere(), 1, &asked);
        let (listener, silent) = listen();
        let policy = Reconnect::forever().first_delay(HOUR).longest_delay(HOUR);
        let options = ClientOptions::new().calls_in_flight(1).reconnect(policy);
        let pool = Pool::builder(Int32).options(options);
        let pool = pool.connect_lazy(runtime, [silent, address(&server)]).unwrap();
        let mut peer = accept(&listener);
        eventually("both are connected", || connected(&pool) == 2);
        let calls: Vec<_> = (0..20).map(|n| pool.call(n)).collect();
        let sent = read_ints(&mut peer, 1)[0];
        assert_eq!(pool.members().map(|member| member.calls).collect::<Vec<_>>(), [10, 10]);
        reset(peer);
        for (n, call) in (0..).zip(calls) {
            match if n % 2 == 0 { call.wait() } else { block_on(call) } {
                Ok(answer) => assert_eq!(answer, n + 1),
                Err(error) => assert!(n == sent && error.may_have_been_executed(), "{n}: {error}"),
            }
        }
        assert_eq!(asked.lock().unwrap().len(), 19);
        assert_eq!(pool.members().map(|member| member.calls).sum::<usize>(), 0);
    });
}

/// Many callers, and servers that come and go: what became of the calls, and how often each was executed.
fn over_restarts<P>(runtime: &Runtime, protocol: P, grace: Duration) -> (Vec<CallError>, Asked)
where
    P: Protocol<RequestCodec = Int32, ResponseCodec = Int32> + Sync,
    P::Correlation: Matching,
{
    let asked = Asked::default();
    let mut servers: Vec<_> =
        (0..3).map(|index| Some(serve(runtime, protocol.clone(), anywhere(), index, &asked))).collect();
    let addresses: Vec<_> = servers.iter().flatten().map(address).collect();
    let pool = builder(protocol.clone()).connect_lazy(runtime, &addresses).unwrap();
    eventually("all are connected", || connected(&pool) == 3);
    let (stops, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let calling = {
        let (pool, stops, answered) = (pool.clone(), stops.clone(), answered.clone());
        thread::spawn(move || {
            let loops = (0..50).map(|caller| {
                let (pool, stops, answered) = (pool.clone(), stops.clone(), answered.clone());
                let calls = async move {
                    let (mut n, mut failed) = (caller * 1_000_000, Vec::new());
                    while !stops.load(Ordering::SeqCst) {
                        match pool.call(n).await {
                            Ok(answer) => assert_eq!(answer, n + 1),
                            Err(error) => failed.push(error),
                        }
                        answered.fetch_add(1, Ordering::SeqCst);
                        n += 1;
                    }
                    failed
                };
                Box::pin(calls) as Pin<Box<dyn Future<Output = Vec<CallError>>>>
            });
            block_on_all(loops).into_iter().flatten().collect()
        })
    };
    let more = |count| {
        let so_far = answered.load(Ordering::SeqCst);
        eventually("calls are answered", || answered.load(Ordering::SeqCst) > so_far + count);
    };
    for index in [1, 0, 2, 1] {
        more(500);
        servers[index].take().unwrap().stop(grace).unwrap();
        more(500);
        servers[index] = Some(serve(runtime, protocol.clone(), &addresses[index], index, &asked));
        eventually("it is back", || connected(&pool) == 3);
    }
    more(500);
    stops.store(true, Ordering::SeqCst);
    let failed = calling.join().unwrap();
    pool.close().unwrap();
    (failed, asked)
}

#[test]
fn a_server_that_is_killed_costs_only_what_it_had() {
    on_each_ground(|runtime| {
        let (failed, asked) = over_restarts(runtime, Int32, Duration::ZERO);
        // Four times, at most one call of each caller.
        assert!(failed.len() <= 4 * 50, "{}", failed.len());
        assert!(failed.iter().all(|error| matches!(error, CallError::Lost(_))), "{failed:?}");
        assert!(asked.lock().unwrap().values().all(|at| at.len() == 1), "each was executed once at most");
    });
}

#[test]
fn servers_that_stop_in_good_order_cost_nothing() {
    on_each_ground(|runtime| {
        let (failed, asked) = over_restarts(runtime, Int32.by_id(), PATIENCE);
        assert!(failed.is_empty(), "{failed:?}");
        assert!(asked.lock().unwrap().values().all(|at| at.len() == 1));
    });
}

#[test]
fn as_long_as_nobody_is_there_calls_wait() {
    on_each_ground(|runtime| {
        let nobody: Vec<_> = (0..2).map(|_| listen()).map(|(_closed, address)| address).collect();
        let pool = builder(Int32).connect_lazy(runtime, &nobody).unwrap();
        let timed_out = pool.call(1).timeout(Duration::from_millis(20));
        assert!(matches!(block_on(timed_out), Err(CallError::TimedOut { sent: false })));
        let timed_out = pool.call(2).timeout(Duration::from_millis(20));
        assert!(matches!(timed_out.wait(), Err(CallError::TimedOut { sent: false })));
        assert!(pool.try_call(3).unwrap_err().is_full());
        assert_ne!(pool.state(), ClientState::Connected);
        drop(pool.call(4));
        let waiting = [pool.call(5), pool.call(6).timeout(HOUR)];
        // What a call waits with survives a round of attempts in vain.
        thread::sleep(Duration::from_millis(50));
        let asked = Asked::default();
        let server = serve(runtime, Int32, &nobody[1], 1, &asked);
        assert_eq!(waiting.map(|call| call.wait().unwrap()), [6, 7]);
        assert_eq!(pool.try_call(7).unwrap().wait().unwrap(), 8);
        let mut numbers: Vec<_> = asked.lock().unwrap().keys().copied().collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [5, 6, 7], "nobody waited for the others any more");
        drop(server);
        // Whoever closes has those that wait told.
        let pool = builder(Int32).connect_lazy(runtime, &nobody[..1]).unwrap();
        let waiting = pool.call(8);
        let closing = pool.clone();
        let closing = thread::spawn(move || {
            thread::sleep(Duration::from_millis(10));
            closing.close()
        });
        assert!(matches!(block_on(waiting), Err(CallError::NotSent(_))));
        closing.join().unwrap().unwrap();
        let error = pool.call(9).wait().unwrap_err();
        assert!(error.to_string().contains("the pool is closed"), "{error}");
        assert!(!pool.try_call(9).unwrap_err().is_full());
    });
}

#[test]
fn who_was_told_to_give_up_says_so() {
    on_each_ground(|runtime| {
        let nobody: Vec<_> = (0..2).map(|_| listen()).map(|(_closed, address)| address).collect();
        let policy = Reconnect::new().first_delay(SOON).attempts(2);
        let pool = Pool::builder(Int32).reconnect(policy).connect_lazy(runtime, &nobody).unwrap();
        let error = pool.call(1).wait().unwrap_err();
        assert!(
            matches!(&error, CallError::NotSent(cause) if cause.to_string().contains("given up")),
            "{error}"
        );
        // The call hears of it before the last client has ended.
        eventually("all have ended", || pool.state() == ClientState::Closed);
        assert!(Pool::connect_lazy(runtime, [""; 0], Int32).is_err());
    });
}

/// Accepts as long as the test lasts, and has its way with each connection.
fn hostile(way: impl Fn(std::net::TcpStream) + Send + 'static) -> (String, Arc<AtomicUsize>) {
    let (listener, address) = listen();
    let accepted = Arc::new(AtomicUsize::new(0));
    let counts = accepted.clone();
    let accept_all = move |listener: TcpListener| {
        for stream in listener.incoming().flatten() {
            counts.fetch_add(1, Ordering::SeqCst);
            way(stream);
        }
    };
    thread::spawn(move || accept_all(listener));
    (address, accepted)
}

#[test]
fn a_hostile_server_costs_no_more_than_what_it_was_given() {
    on_each_ground(|runtime| {
        let asked = Asked::default();
        let servers: Vec<_> = (0..2).map(|index| serve(runtime, Int32, anywhere(), index, &asked)).collect();
        for kind in ["resets", "ends", "talks", "is silent"] {
            let kept = Mutex::new(Vec::new());
            let (bad, accepted) = hostile(move |mut stream| match kind {
                "resets" => reset(stream),
                "ends" => drop(stream),
                "talks" => drop(stream.write_all(&[0x55; 4096])),
                _ => kept.lock().unwrap().push(stream),
            });
            let addresses = [bad, address(&servers[0]), address(&servers[1])];
            let options = ClientOptions::new().reconnect(Reconnect::forever().first_delay(SOON));
            // Whoever waits for the silent one waits for so long.
            let (rounds, timeout) =
                if kind == "is silent" { (4, Duration::from_secs(1)) } else { (40, HOUR) };
            let pool = Pool::builder(Int32).options(options).call_timeout(timeout);
            let pool = pool.pick(Pick::LeastLoaded).connect_lazy(runtime, &addresses).unwrap();
            eventually("the good ones are connected", || connected(&pool) >= 2);
            eventually("the bad one was met", || accepted.load(Ordering::SeqCst) > 0);
            let mut failed = 0;
            for n in 0..rounds {
                let calls: Vec<_> = (0..10).map(|k| pool.call(10 * n + k)).collect();
                for error in calls.into_iter().filter_map(|call| call.wait().err()) {
                    let timed_out = matches!(error, CallError::TimedOut { .. });
                    assert!(error.may_have_been_executed() || timed_out, "{kind}: {error}");
                    failed += 1;
                }
            }
            // Of ten calls at a time, the bad one gets four at the most, and those only while it is connected.
            let met = accepted.load(Ordering::SeqCst);
            let most = if kind == "is silent" { 4 * rounds } else { 4 * rounds.min(met as i32) };
            assert!(failed <= most, "{kind}: {failed}, met {met} times");
            assert!(connected(&pool) >= 2);
            pool.abort();
        }
        drop(servers);
    });
}
