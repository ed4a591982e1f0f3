//! Async functions as services.

use super::support::*;
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;
use trochus::Runtime;
use trochus::codec::{Int32, Matching, Protocol};
use trochus::rpc::{CallError, Client, Server};

fn check_sums<P, F>(runtime: &Runtime, protocol: P, service: impl Fn(i32) -> F + Send + Sync + 'static)
where
    P: Protocol<RequestCodec = Int32, ResponseCodec = Int32> + Sync,
    P::Correlation: Matching,
    F: Future<Output = i32> + 'static,
{
    let server = Server::bind_async(runtime, anywhere(), protocol.clone(), service).unwrap();
    let client = Client::connect(runtime, server.local_addr(), protocol).unwrap();
    let calls: Vec<_> = (0..500).map(|n| client.call(n)).collect();
    for (call, n) in calls.into_iter().zip(0..) {
        assert_eq!(call.wait().unwrap(), n + 1);
    }
    client.close().unwrap();
}

/// Pending so many times, and woken at once each time.
async fn yields(times: i32) {
    let mut left = times;
    poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(());
        }
        left -= 1;
        // Twice, which must not poll twice as often as there is to do.
        context.waker().wake_by_ref();
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[test]
fn futures_that_are_ready_sooner_or_later() {
    async fn ready(n: i32) -> i32 {
        n + 1
    }
    async fn later(n: i32) -> i32 {
        let not_send = Rc::new(Cell::new(n));
        yields(n % 5).await;
        not_send.get() + 1
    }
    on_each_ground(|runtime| {
        check_sums(runtime, Int32, ready);
        check_sums(runtime, Int32.by_id(), ready);
        check_sums(runtime, Int32, later);
        check_sums(runtime, Int32.by_id(), later);
    });
}

/// Becomes what another thread says.
struct Promise(Arc<Mutex<(Option<i32>, Option<Waker>)>>);

impl Future for Promise {
    type Output = i32;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<i32> {
        let mut state = self.0.lock().unwrap();
        if let Some(value) = state.0.take() {
            return Poll::Ready(value);
        }
        state.1 = Some(context.waker().clone());
        Poll::Pending
    }
}

#[test]
fn futures_that_are_woken_by_another_thread() {
    fn elsewhere(n: i32) -> Promise {
        let state = Arc::new(Mutex::new((None, None::<Waker>)));
        let theirs = state.clone();
        thread::spawn(move || {
            let mut state = theirs.lock().unwrap();
            state.0 = Some(n + 1);
            if let Some(waker) = state.1.take() {
                waker.wake();
            }
        });
        Promise(state)
    }
    on_each_ground(|runtime| {
        check_sums(runtime, Int32, elsewhere);
        check_sums(runtime, Int32.by_id(), elsewhere);
    });
}

#[test]
fn futures_that_are_ready_out_of_order() {
    type Promises = (Sender<(i32, Arc<Mutex<(Option<i32>, Option<Waker>)>>)>, usize);
    on_each_backend(|runtime| {
        let (tell, told) = mpsc::channel();
        let promises: Arc<Mutex<Promises>> = Arc::new(Mutex::new((tell, 0)));
        let service = move |n: i32| {
            let state = Arc::new(Mutex::new((None, None)));
            promises.lock().unwrap().0.send((n, state.clone())).unwrap();
            Promise(state)
        };
        let server = Server::bind_async(runtime, anywhere(), Int32, service).unwrap();
        let mut peer = dial(server.local_addr());
        write_ints(&mut peer, 0..10);
        end_output(&peer);
        let mut open: Vec<_> = (0..10).map(|_| told.recv_timeout(PATIENCE).unwrap()).collect();
        while let Some((n, state)) = open.pop() {
            let mut state = state.lock().unwrap();
            state.0 = Some(10 * n);
            if let Some(waker) = state.1.take() {
                waker.wake();
            }
        }
        assert_eq!(rest_of_ints(&mut peer), (0..10).map(|n| 10 * n).collect::<Vec<_>>());
    });
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn futures_end_with_their_connection() {
    on_each_backend(|runtime| {
        let dropped = Arc::new(AtomicUsize::new(0));
        let (count, (started, starts)) = (dropped.clone(), mpsc::channel());
        let wakers = Arc::new(Mutex::new(Vec::new()));
        let (kept_wakers, started) = (wakers.clone(), Mutex::new(started));
        let service = move |n: i32| {
            let (guard, wakers) = (Counted(count.clone()), kept_wakers.clone());
            started.lock().unwrap().send(n).unwrap();
            async move {
                let _guard = guard;
                poll_fn(|context| {
                    wakers.lock().unwrap().push(context.waker().clone());
                    Poll::<i32>::Pending
                })
                .await
            }
        };
        let server = Server::bind_async(runtime, anywhere(), Int32.by_id(), service).unwrap();
        let mut peer = dial(server.local_addr());
        write_ints(&mut peer, (0..10).flat_map(|n| [0, n, n]));
        wait_for(&starts, 10);
        assert_eq!(dropped.load(Ordering::SeqCst), 0);
        reset(peer);
        eventually("the futures are dropped", || dropped.load(Ordering::SeqCst) == 10);
        // To wake one of them is harmless.
        wakers.lock().unwrap().drain(..).for_each(Waker::wake);
        eventually("the connection has ended", || server.connections() == 0);
    });
}

#[test]
fn a_future_whose_request_took_too_long_is_dropped() {
    on_each_ground(|runtime| {
        let dropped = Arc::new(AtomicUsize::new(0));
        let count = dropped.clone();
        let service = move |n: i32| {
            let guard = Counted(count.clone());
            async move {
                let _guard = guard;
                if n < 0 { std::future::pending().await } else { n }
            }
        };
        let server = Server::builder().request_timeout(Duration::from_millis(20));
        let server = server.bind_async(runtime, anywhere(), Int32.by_id(), service).unwrap();
        let client = Client::connect(runtime, server.local_addr(), Int32.by_id()).unwrap();
        let error = client.call(-1).wait().unwrap_err();
        assert!(matches!(error, CallError::Lost(_)), "{error}");
        eventually("it is dropped", || dropped.load(Ordering::SeqCst) == 1);
        // On the same connection.
        assert_eq!(client.call(7).wait().unwrap(), 7);
        assert_eq!(server.metrics().requests, 2);
        client.close().unwrap();
    });
}

fn wait_for(starts: &Receiver<i32>, count: i32) {
    for n in 0..count {
        assert_eq!(starts.recv_timeout(PATIENCE).unwrap(), n);
    }
}
