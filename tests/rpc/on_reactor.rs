//! Calls that wait, on a reactor's own thread, where they would wait for what only that thread can do.

use super::support::*;
use std::future::Future;
use std::io::ErrorKind;
use std::sync::mpsc;
use std::time::Duration;
use trochus::batch::PushError;
use trochus::codec::Int32;
use trochus::rpc::{CallError, Client, ClientOptions, ClientState, Pool, Reply, Server};
use trochus::{Error, Runtime};

/// Does something on a reactor of a runtime, and waits for what it returns.
fn on_reactor<T: Send + 'static>(runtime: &Runtime, action: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, told) = mpsc::channel();
    runtime.reactor(0).run(move |_| drop(tell.send(action()))).unwrap();
    told.recv_timeout(PATIENCE).expect("it does not wait there")
}

#[test]
fn every_call_that_waits_is_an_error_there_and_names_another() {
    on_each_ground(|runtime| {
        let (service, kept) = keeper();
        let server = Server::bind(runtime, anywhere(), Int32, service).unwrap();
        let options = ClientOptions::new().reactor(0);
        let client = Client::connect_with(runtime, &options, server.local_addr(), Int32, drop).unwrap();

        let theirs = client.clone();
        let error = on_reactor(runtime, move || theirs.call(1).wait()).unwrap_err();
        assert!(matches!(error, CallError::OnReactorThread { .. }), "{error}");
        assert!(error.to_string().contains("await"), "{error}");
        assert_eq!(error.kind(), ErrorKind::Deadlock);

        let theirs = client.clone();
        let refused = on_reactor(runtime, move || theirs.send(2, |_| panic!("it was not accepted")));
        let refused = refused.unwrap_err();
        assert!(!refused.is_full() && refused.to_string().contains("try_send"), "{refused}");
        assert_eq!(refused.into_parts().0, 2);

        let theirs = client.clone();
        let refused = on_reactor(runtime, move || theirs.push(3)).unwrap_err();
        assert!(matches!(refused, PushError::WouldDeadlock(3)), "{refused}");
        assert!(refused.to_string().contains("push_async"), "{refused}");

        // What does not wait works there.
        let theirs = client.clone();
        on_reactor(runtime, move || theirs.try_push(4)).unwrap();
        let (n, reply) = next(&kept);
        reply.send(n);
        let (tell, told) = mpsc::channel();
        let theirs = client.clone();
        on_reactor(runtime, move || theirs.try_send(5, move |outcome| drop(tell.send(outcome)))).unwrap();
        let (n, reply) = next(&kept);
        assert_eq!(n, 5);
        reply.send(50);
        assert_eq!(told.recv_timeout(PATIENCE).unwrap().unwrap(), 50);

        let theirs = client.clone();
        let unfinished = on_reactor(runtime, move || theirs.close()).unwrap_err();
        assert_eq!(unfinished.kind(), ErrorKind::Deadlock);
        assert!(unfinished.to_string().contains("close_async"), "{unfinished}");
        assert!(client.is_closing());
        client.close().unwrap();
        // It has ended: there is nothing to wait for.
        on_reactor(runtime, move || client.close()).unwrap();
    });
}

#[test]
fn a_pool_does_not_wait_there_either() {
    on_each_ground(|runtime| {
        let (service, kept) = keeper();
        let server = Server::bind(runtime, anywhere(), Int32, service).unwrap();
        let options = ClientOptions::new().reactor(0);
        let pool = Pool::builder(Int32).options(options.clone());
        let pool = pool.connect_lazy(runtime, [server.local_addr()]).unwrap();
        eventually("it is connected", || pool.state() == ClientState::Connected);
        let (closed, nobody) = listen();
        drop(closed);
        let alone = Pool::builder(Int32).options(options).connect_lazy(runtime, [nobody]).unwrap();
        for pool in [&pool, &alone] {
            let theirs = pool.clone();
            let error = on_reactor(runtime, move || theirs.call(1).wait()).unwrap_err();
            assert!(matches!(error, CallError::OnReactorThread { .. }), "{error}");
        }
        drop(kept);
        for pool in [pool, alone] {
            let theirs = pool.clone();
            let error = on_reactor(runtime, move || theirs.close()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Deadlock);
            assert!(matches!(pool.try_call(2), Err(PushError::Closed(2))));
            let _ = pool.close();
            // Twice is as good.
            let _ = pool.close();
            assert_eq!(pool.state(), ClientState::Closed);
        }
    });
}

#[test]
fn connecting_there_does_not_wait() {
    on_each_ground(|runtime| {
        let server = Server::bind(runtime, anywhere(), Int32, |n: i32, reply| reply.send(n)).unwrap();
        let address = server.local_addr().clone();
        std::thread::scope(|scope| {
            let (tell, told) = mpsc::channel();
            // Scoped threads end before what they borrow; a reactor's action has to be told to.
            let inner = Runtime::builder().backend(runtime.backend()).reactors(1).build().unwrap();
            scope.spawn(move || {
                let mut reactor = trochus::Reactor::builder().build().unwrap();
                let handle = reactor.handle();
                handle
                    .run(move |_| {
                        let blocking = Client::connect(&inner, &address, Int32).map(drop);
                        let awaiting = Client::builder(Int32).connect_async(&inner, &address);
                        let lazy = Client::builder(Int32).connect_lazy(&inner, &address);
                        tell.send((blocking, awaiting, lazy, inner)).unwrap();
                    })
                    .unwrap();
                reactor.turn(Some(Duration::ZERO)).unwrap();
            });
            let (blocking, awaiting, lazy, _inner) = told.recv_timeout(PATIENCE).unwrap();
            let error = blocking.unwrap_err();
            assert!(matches!(error, Error::OnReactorThread { .. }), "{error}");
            assert!(error.to_string().contains("connect_async"), "{error}");
            for client in [block_on(awaiting).unwrap(), lazy.unwrap()] {
                assert_eq!(client.call(7).wait().unwrap(), 7);
                client.close().unwrap();
            }
        });
    });
}

#[test]
fn a_deadline_holds_while_the_reactor_does_something_else() {
    on_each_ground(|runtime| {
        let server = Server::bind(runtime, anywhere(), Int32, |n: i32, reply| reply.send(n)).unwrap();
        let options = ClientOptions::new().reactor(0).call_timeout(Duration::from_millis(20)).lane(1);
        let client = Client::connect_with(runtime, &options, server.local_addr(), Int32, drop).unwrap();
        let free = hold(runtime, 0);
        for call in [client.call(1), client.call(2).timeout(Duration::from_millis(1)), client.call(3)] {
            let error = call.wait().unwrap_err();
            assert!(matches!(error, CallError::TimedOut { sent: false }), "{error}");
        }
        // Neither does a callback's keep the one who waits for room.
        for n in 0..3 {
            client.send(n, drop).unwrap();
        }
        drop(free);
        assert_eq!(client.call(4).timeout(HOUR).wait().unwrap(), 4);
        client.close().unwrap();
    });
}

#[test]
fn a_future_whose_deadline_has_passed_knows_it_when_it_is_polled() {
    on_each_ground(|runtime| {
        let (service, _kept) = keeper();
        let server = Server::bind(runtime, anywhere(), Int32, service).unwrap();
        let options = ClientOptions::new().reactor(0);
        let client = Client::connect_with(runtime, &options, server.local_addr(), Int32, drop).unwrap();
        let free = hold(runtime, 0);
        let mut call = std::pin::pin!(client.call(1).timeout(Duration::from_millis(5)));
        std::thread::sleep(Duration::from_millis(10));
        let polled = call.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        assert!(matches!(polled, std::task::Poll::Ready(Err(CallError::TimedOut { .. }))), "{polled:?}");
        drop(free);
    });
}

#[test]
fn a_service_may_ask_another_server_on_its_own_reactor() {
    on_each_ground(|runtime| {
        let one = Runtime::builder().backend(runtime.backend()).reactors(1).build().unwrap();
        let server = Server::bind(&one, anywhere(), Int32, |n: i32, reply| reply.send(2 * n)).unwrap();
        let upstream = Client::connect(&one, server.local_addr(), Int32).unwrap();
        let service = move |n: i32, reply: Reply<i32>| {
            // This one would wait for ever: it is refused, and the other is used.
            assert!(upstream.call(n).wait().is_err());
            upstream.try_send(n, move |outcome| reply.send(outcome.unwrap())).unwrap();
        };
        let front = Server::bind(&one, anywhere(), Int32, service).unwrap();
        let client = Client::connect(runtime, front.local_addr(), Int32).unwrap();
        for n in 0..100 {
            assert_eq!(client.call(n).wait().unwrap(), 2 * n);
        }
    });
}
