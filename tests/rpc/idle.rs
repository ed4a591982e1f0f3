//! Who has nothing to do, or nothing that can be done now, sleeps.

use super::support::*;
use std::thread;
use std::time::Duration;
use trochus::Runtime;
use trochus::codec::Int32;
use trochus::config::BusyPoll;
use trochus::reactor::StreamOptions;
use trochus::rpc::{Client, ClientOptions, Server};

/// The reactors sleep: they turn far less often than they would if they looked for work all the time.
fn assert_asleep(runtime: &Runtime) {
    let rest = || thread::sleep(Duration::from_millis(50));
    // Whatever led here comes to rest first.
    eventually("the reactors sleep", || {
        let before = runtime.metrics().turns;
        rest();
        runtime.metrics().turns - before < 50
    });
}

fn on_quiet_reactors(test: impl Fn(&Runtime) + Clone + Send + 'static) {
    for backend in trochus::Backend::available() {
        let test = test.clone();
        watched(&backend.to_string(), move || {
            let builder = Runtime::builder().backend(backend).reactors(1).busy_poll(BusyPoll::Off);
            test(&builder.build().unwrap());
        });
    }
}

#[test]
fn a_client_whose_server_does_not_read_sleeps() {
    on_quiet_reactors(|runtime| {
        let (listener, address) = listen();
        let stream = StreamOptions::new().send_buffer(16 << 10).output_limits(16 << 10, 1 << 20);
        let options = ClientOptions::new().lane(1024).stream(stream);
        let client = Client::connect_with(runtime, &options, address, Int32, drop).unwrap();
        let mut peer = accept(&listener);
        let (mut pushed, mut refusals) = (0, 0);
        while refusals < 50 {
            match client.try_push(pushed) {
                Ok(()) => (pushed, refusals) = (pushed + 1, 0),
                Err(_) => {
                    refusals += 1;
                    thread::sleep(Duration::from_millis(1));
                }
            }
        }
        assert_asleep(runtime);
        // And it wakes up again.
        let closing = client.clone();
        let closing = thread::spawn(move || closing.close());
        let requests = read_ints(&mut peer, pushed as usize);
        assert_eq!(requests, (0..pushed).collect::<Vec<_>>());
        write_ints(&mut peer, requests);
        closing.join().unwrap().unwrap();
    });
}

#[test]
fn a_client_with_as_many_calls_in_flight_as_allowed_sleeps() {
    on_quiet_reactors(|runtime| {
        let (service, kept) = keeper();
        let server = Server::bind(runtime, anywhere(), Int32, service).unwrap();
        let options = ClientOptions::new().calls_in_flight(1);
        let client = Client::connect_with(runtime, &options, server.local_addr(), Int32, drop).unwrap();
        let calls: Vec<_> = (0..3).map(|n| client.call(n)).collect();
        let (_, reply) = next(&kept);
        assert_asleep(runtime);
        reply.send(0);
        for n in 1..3 {
            let (request, reply) = next(&kept);
            assert_eq!(request, n);
            reply.send(n);
        }
        for (call, n) in calls.into_iter().zip(0..) {
            assert_eq!(call.wait().unwrap(), n);
        }
    });
}

#[test]
fn requests_that_linger_let_the_reactor_sleep() {
    on_quiet_reactors(|runtime| {
        let server = Server::bind(runtime, anywhere(), Int32, |n: i32, reply| reply.send(n)).unwrap();
        let options = ClientOptions::new().linger(HOUR);
        let client = Client::connect_with(runtime, &options, server.local_addr(), Int32, drop).unwrap();
        client.flush();
        assert_asleep(runtime);
        let mut producer = client.producer();
        producer.push(1).unwrap();
        client.push(2).unwrap();
        drop(client.producer());
        assert_asleep(runtime);
        drop(producer);
        assert_asleep(runtime);
        client.flush();
        client.close().unwrap();
    });
}

#[test]
fn a_flush_of_nothing_wakes_nobody_for_long() {
    on_quiet_reactors(|runtime| {
        let server = Server::bind(runtime, anywhere(), Int32, |n: i32, reply| reply.send(n)).unwrap();
        let options = ClientOptions::new().linger(Duration::from_millis(1));
        let client = Client::connect_with(runtime, &options, server.local_addr(), Int32, drop).unwrap();
        for _ in 0..3 {
            client.push(1).unwrap();
            assert_asleep(runtime);
            client.flush();
            assert_asleep(runtime);
        }
        client.close().unwrap();
    });
}
