//! Clients and pools as services of `tower`.

use super::support::*;
use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;
use tower::{Service, ServiceBuilder, ServiceExt};
use trochus::codec::Int32;
use trochus::codec::Protocol;
use trochus::rpc::{CallError, Client, ClientOptions, ClientState, Pool, Reply, Server};

/// Knows whether it was woken.
#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Flag {
    fn is_ready<S: Service<i32, Error = CallError>>(self: &Arc<Self>, service: &mut S) -> bool {
        self.0.store(false, Ordering::SeqCst);
        match service.poll_ready(&mut Context::from_waker(&Waker::from(self.clone()))) {
            Poll::Ready(outcome) => outcome.map(|()| true).unwrap(),
            Poll::Pending => false,
        }
    }

    fn was_woken(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// With two places.
fn places_are_given_in_turn<S>(mut service: S, kept: &Kept)
where
    S: Service<i32, Response = i32, Error = CallError> + Clone,
    S::Future: Unpin,
{
    let flags: [Arc<Flag>; 4] = Default::default();
    let mut clones: Vec<S> = (0..3).map(|_| service.clone()).collect();
    assert!(
        flags[0].is_ready(&mut service) && flags[0].is_ready(&mut service),
        "asked twice, it has one place"
    );
    assert!(flags[1].is_ready(&mut clones[0]));
    assert!(!flags[2].is_ready(&mut clones[1]), "both places are taken, if not used yet");
    let mut first = service.call(1);
    let second = clones[0].call(2);
    let mut replies = [next(kept), next(kept)];
    replies.sort_by_key(|(n, _)| *n);
    assert!(!flags[2].is_ready(&mut clones[1]));
    assert!(!flags[3].is_ready(&mut clones[2]));
    // One is answered: whoever came first has the place, and nobody else.
    let [one, two] = replies;
    one.1.send(10);
    assert_eq!(block_on(&mut first).unwrap(), 10);
    assert!(flags[2].was_woken() && !flags[3].was_woken());
    assert!(!flags[3].is_ready(&mut clones[2]));
    // It goes on to the next one if it is not wanted.
    drop(clones.remove(1));
    assert!(flags[3].was_woken());
    assert!(flags[3].is_ready(&mut clones[1]));
    // A call that is given up gives its place back.
    assert!(!flags[0].is_ready(&mut service));
    drop(second);
    assert!(flags[0].was_woken() && flags[0].is_ready(&mut service));
    two.1.send(20);
    // Who does not ask is served, and those who do wait for that.
    let hasty = [service.call(3), service.call(4), clones[1].call(5)];
    assert!(!flags[0].is_ready(&mut service));
    let mut asked = HashMap::new();
    for (so_far, call) in hasty.into_iter().enumerate() {
        assert_eq!(flags[0].was_woken(), so_far == 2, "behind {so_far} answers");
        let n = 3 + so_far as i32;
        while !asked.contains_key(&n) {
            let (n, reply) = next(kept);
            asked.insert(n, reply);
        }
        asked.remove(&n).unwrap().send(10 * n);
        assert_eq!(block_on(call).unwrap(), 10 * n);
    }
    assert!(flags[0].is_ready(&mut service));
}

#[test]
fn whoever_is_ready_has_a_place() {
    on_each_ground(|runtime| {
        let (service, kept) = keeper();
        let server = Server::bind(runtime, anywhere(), Int32.by_id(), service).unwrap();
        let options = ClientOptions::new().calls_in_flight(2);
        let client = Client::builder(Int32.by_id()).options(options);
        let client = client.connect(runtime, server.local_addr()).unwrap();
        places_are_given_in_turn(client, &kept);
        let options = ClientOptions::new().calls_in_flight(1);
        let addresses = [server.local_addr(), server.local_addr()];
        let pool = Pool::builder(Int32.by_id()).options(options).connect_lazy(runtime, addresses).unwrap();
        eventually("both are connected", || {
            pool.members().all(|member| member.state == ClientState::Connected)
        });
        places_are_given_in_turn(pool, &kept);
    });
}

#[test]
fn timeouts_buffers_and_limits_work_on_a_real_server() {
    on_each_backend(|runtime| {
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counts, peak) = (now.clone(), most.clone());
        let serve = move |n: i32, reply: Reply<i32>| {
            peak.fetch_max(counts.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let counts = counts.clone();
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(1));
                counts.fetch_sub(1, Ordering::SeqCst);
                match n {
                    -1 => {
                        thread::sleep(Duration::from_millis(200));
                        drop(reply);
                    }
                    n => reply.send(n + 1),
                }
            });
        };
        let server = Server::bind(runtime, anywhere(), Int32.by_id(), serve).unwrap();
        let client = Client::connect(runtime, server.local_addr(), Int32.by_id()).unwrap();
        let pool = Pool::connect_lazy(runtime, [server.local_addr()], Int32.by_id()).unwrap();
        let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        tokio.block_on(async {
            let stack = ServiceBuilder::new().buffer(16).concurrency_limit(4).timeout(PATIENCE);
            let service = stack.service(client.clone());
            let calls: Vec<_> = (0..100).map(|n| tokio::spawn(service.clone().oneshot(n))).collect();
            for (n, call) in (0..).zip(calls) {
                assert_eq!(call.await.unwrap().unwrap(), n + 1);
            }
            assert!(most.load(Ordering::SeqCst) <= 4);
            let stack = ServiceBuilder::new().timeout(Duration::from_millis(20));
            let mut service = stack.service(pool.clone());
            assert_eq!(service.ready().await.unwrap().call(1).await.unwrap(), 2);
            let error = service.ready().await.unwrap().call(-1).await.unwrap_err();
            assert!(error.is::<tower::timeout::error::Elapsed>(), "{error}");
        });
        client.close().unwrap();
        pool.close().unwrap();
        let (mut client, mut pool) = (client, pool);
        let error = block_on(poll_fn(|context| client.poll_ready(context))).unwrap_err();
        assert!(matches!(error, CallError::NotSent(_)), "{error}");
        let error = block_on(poll_fn(|context| pool.poll_ready(context))).unwrap_err();
        assert!(matches!(error, CallError::NotSent(_)), "{error}");
    });
}
