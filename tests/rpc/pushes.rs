//! What a server sends unasked, at the client.

use super::support::*;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use trochus::Runtime;
use trochus::codec::{Int32, Protocol, Uncorrelated};
use trochus::reactor::Address;
use trochus::rpc::{Caller, Client, Connection, Reconnect, Reply, Requests, Server, ServerOptions, Service};

/// Gives its connection to the test, and answers.
struct Gives(mpsc::Sender<Connection<i32>>);

impl<P: Protocol<RequestCodec = Int32, ResponseCodec = Int32>> Service<P> for Gives {
    fn call(&mut self, n: i32, reply: Reply<i32>) {
        if n % 3 == 0 {
            thread::spawn(move || reply.send(n + 1));
        } else {
            reply.send(n + 1);
        }
    }

    fn on_open(&mut self, connection: &Connection<i32>) {
        connection.push(-1).unwrap();
        let _ = self.0.send(connection.clone());
    }
}

fn bind<P>(runtime: &Runtime, protocol: P) -> (Server, Receiver<Connection<i32>>)
where
    P: Protocol<RequestCodec = Int32, ResponseCodec = Int32> + Sync,
{
    let (give, given) = mpsc::channel();
    let give = Mutex::new(give);
    let make = move |_: &Address| Gives(give.lock().unwrap().clone());
    (ServerOptions::new().bind_each(runtime, anywhere(), protocol, make).unwrap(), given)
}

#[test]
fn by_id_pushes_come_in_their_order_and_are_nobodys_response() {
    on_each_ground(|runtime| {
        let (server, given) = bind(runtime, Int32.by_id());
        let (tell, told) = mpsc::channel();
        let responses = Arc::new(Mutex::new(Vec::new()));
        let theirs = responses.clone();
        let client = Client::builder(Int32.by_id())
            .on_response(move |n| theirs.lock().unwrap().push(n))
            .on_push(move |n| tell.send(n).unwrap())
            .reconnect(Reconnect::forever().first_delay(Duration::from_millis(1)))
            .connect(runtime, server.local_addr())
            .unwrap();
        let next = || told.recv_timeout(PATIENCE).unwrap();
        let connection = given.recv_timeout(PATIENCE).unwrap();
        assert_eq!(next(), -1, "a greeting, before anything was asked");
        let pushing = thread::spawn(move || {
            for n in 0..1000 {
                connection.push(-10 - n).unwrap();
            }
            connection
        });
        let calls: Vec<_> = (0..100).map(|n| client.call(n)).collect();
        client.push_all(1000..1100).unwrap();
        for (n, call) in (0..).zip(calls) {
            assert_eq!(call.wait().unwrap(), n + 1);
        }
        assert!((0..1000).all(|n| next() == -10 - n));
        let connection = pushing.join().unwrap();
        eventually("all is answered", || responses.lock().unwrap().len() == 100);
        // On the next connection as well.
        connection.close();
        let connection = given.recv_timeout(PATIENCE).unwrap();
        assert_eq!(next(), -1);
        // A client that pauses hears of it later.
        client.pause_responses();
        thread::sleep(Duration::from_millis(20));
        connection.push(-2).unwrap();
        assert!(told.recv_timeout(Duration::from_millis(30)).is_err());
        client.resume_responses();
        assert_eq!(next(), -2);
        client.close().unwrap();
        let mut responses = responses.lock().unwrap();
        responses.sort_unstable();
        assert_eq!(*responses, (1001..1101).collect::<Vec<_>>());
    });
}

#[test]
fn who_does_not_listen_is_not_disturbed() {
    on_each_ground(|runtime| {
        let (server, given) = bind(runtime, Int32.by_id());
        let client = Client::connect(runtime, server.local_addr(), Int32.by_id()).unwrap();
        let connection = given.recv_timeout(PATIENCE).unwrap();
        for n in 0..100 {
            connection.push(-n).unwrap();
            assert_eq!(client.call(n).wait().unwrap(), n + 1);
        }
        client.close().unwrap();
    });
}

/// Asks for what it is pushed, on the reactor.
struct Asks(mpsc::Sender<(bool, i32)>);

impl<P: Protocol<RequestCodec = Int32, ResponseCodec = Int32>> Caller<P> for Asks {
    fn on_response(&mut self, _requests: &mut Requests<'_, P>, n: i32) {
        let _ = self.0.send((false, n));
    }

    fn on_push(&mut self, requests: &mut Requests<'_, P>, n: i32) {
        let _ = self.0.send((true, n));
        requests.push(&(100 - n)).unwrap();
    }
}

#[test]
fn a_caller_may_answer_a_push_with_a_request() {
    on_each_ground(|runtime| {
        let (server, _given) = bind(runtime, Int32.by_id());
        let (tell, told) = mpsc::channel();
        let client = Client::builder(Int32.by_id()).caller(Asks(tell));
        let client = client.connect(runtime, server.local_addr()).unwrap();
        let next = || told.recv_timeout(PATIENCE).unwrap();
        assert_eq!([next(), next()], [(true, -1), (false, 102)]);
        client.close().unwrap();
        // Without correlation a push is as good as a response.
        let protocol = Int32.correlated::<Uncorrelated>();
        let (server, _given) = bind(runtime, protocol);
        let (tell, told) = mpsc::channel();
        let client = Client::builder(protocol).caller(Asks(tell));
        let client = client.connect(runtime, server.local_addr()).unwrap();
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), (false, -1));
        client.close().unwrap();
    });
}
