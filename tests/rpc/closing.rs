//! How clients end.

use super::support::*;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use trochus::codec::{Int32, Lines};
use trochus::rpc::{CallError, Client, ClientOptions, Reconnect, Server};

const SOON: Duration = Duration::from_millis(30);

fn short() -> ClientOptions {
    ClientOptions::new().close_timeout(SOON)
}

/// A server of the kind that takes the end of input for the end of the connection: it answers what has come after a while, unless
/// the input has ended by then.
fn impatient(
    mut stream: TcpStream,
    request: impl Fn(&mut BufReader<TcpStream>) -> Option<Vec<u8>> + Send + 'static,
) {
    thread::spawn(move || {
        let mut input = BufReader::new(stream.try_clone().unwrap());
        let (queue, queued) = mpsc::channel::<Vec<u8>>();
        let ended = thread::spawn(move || {
            while let Some(answer) = request(&mut input) {
                if queue.send(answer).is_err() {
                    return;
                }
            }
            // The end of input: whatever is not answered is dropped with the connection.
            drop(input.into_inner().shutdown(std::net::Shutdown::Both));
        });
        while let Ok(answer) = queued.recv() {
            thread::sleep(Duration::from_millis(1));
            if stream.write_all(&answer).is_err() {
                break;
            }
        }
        ended.join().unwrap();
    });
}

#[test]
fn a_server_that_takes_the_end_of_input_for_the_end_loses_no_answer() {
    on_each_ground(|runtime| {
        let (listener, address) = listen();
        let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counter = count.clone();
        let client = Client::builder(Int32)
            .on_response(move |_| {
                counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            })
            .connect(runtime, &address)
            .unwrap();
        impatient(accept(&listener), |input| {
            let mut number = [0; 4];
            input.read_exact(&mut number).ok().map(|()| number.to_vec())
        });
        client.producer().push_all(0..50).unwrap();
        let calls: Vec<_> = (50..70).map(|n| client.call(n)).collect();
        client.close().unwrap();
        for (call, n) in calls.into_iter().zip(50..) {
            assert_eq!(call.wait().unwrap(), n);
        }
        assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), 50);

        let client = Client::connect(runtime, &address, Lines::new()).unwrap();
        impatient(accept(&listener), |input| {
            let mut line = String::new();
            input.read_line(&mut line).ok().filter(|read| *read > 0).map(|_| line.into_bytes())
        });
        let calls: Vec<_> = (0..50).map(|n| client.call(format!("{{\"n\":{n}}}"))).collect();
        drop(client);
        for (call, n) in calls.into_iter().zip(0..) {
            assert_eq!(call.wait().unwrap(), format!("{{\"n\":{n}}}"));
        }
    });
}

#[test]
fn closing_a_silent_server_has_a_time_limit() {
    on_each_ground(|runtime| {
        let (listener, address) = listen();
        let client = Client::connect_with(runtime, &short(), &address, Int32, drop).unwrap();
        let mut peer = accept(&listener);
        client.push_all(0..3).unwrap();
        let call = client.call(3);
        read_ints(&mut peer, 4);
        let end = client.close().unwrap_err();
        assert_eq!((end.kind(), end.unanswered(), end.unsent()), (ErrorKind::TimedOut, 4, 0), "{end}");
        assert!(matches!(call.wait(), Err(CallError::Lost(cause)) if cause.kind() == ErrorKind::TimedOut));
        assert!(peer.read(&mut [0]).map_or_else(|_| true, |read| read == 0), "it is cut off");
        // The same for one that is awaited, and for one that nobody closes.
        let client = Client::connect_with(runtime, &short(), &address, Int32, drop).unwrap();
        let mut peer = accept(&listener);
        client.push(1).unwrap();
        assert_eq!(block_on(client.close_async()).unwrap_err().unanswered(), 1);
        read_ints(&mut peer, 1);
        let client = Client::connect_with(runtime, &short(), &address, Int32, drop).unwrap();
        let mut peer = accept(&listener);
        client.push(2).unwrap();
        drop(client);
        assert_eq!(read_ints(&mut peer, 1), [2]);
        assert!(peer.read(&mut [0]).map_or_else(|_| true, |read| read == 0), "it is cut off");
    });
}

#[test]
fn a_server_that_ignores_the_end_cannot_hold_an_uncorrelated_client() {
    use trochus::codec::Protocol;
    on_each_ground(|runtime| {
        let (listener, address) = listen();
        let client =
            Client::builder(Int32.uncorrelated()).options(short()).connect(runtime, &address).unwrap();
        let mut peer = accept(&listener);
        client.push(1).unwrap();
        assert_eq!(client.close().unwrap_err().kind(), ErrorKind::TimedOut);
        // There, the end of the output is all that tells the server.
        assert_eq!(read_ints(&mut peer, 1), [1]);
    });
}

#[test]
fn closing_does_not_wait_for_the_server_to_close() {
    on_each_ground(|runtime| {
        let (client, mut peer) = client_of_plain_server(runtime);
        let call = client.call(1);
        let requests = read_ints(&mut peer, 1);
        write_ints(&mut peer, requests);
        let started = Instant::now();
        client.close().unwrap();
        assert!(started.elapsed() < trochus::config::CLOSE_TIMEOUT, "{:?}", started.elapsed());
        assert_eq!(call.wait().unwrap(), 1);
        assert!(rest_of_ints(&mut peer).is_empty());
    });
}

#[test]
fn an_aborted_client_ends_at_once_and_says_what_was_lost() {
    on_each_ground(|runtime| {
        let (listener, address) = listen();
        let options = ClientOptions::new().calls_in_flight(1).reconnect(Reconnect::forever());
        let client = Client::connect_with(runtime, &options, address, Int32, drop).unwrap();
        let mut peer = accept(&listener);
        let (sent, queued) = (client.call(1), client.call(2));
        client.push(3).unwrap();
        read_ints(&mut peer, 1);
        client.abort();
        let end = client.close().unwrap_err();
        assert_eq!(
            (end.kind(), end.unanswered(), end.unsent()),
            (ErrorKind::ConnectionAborted, 1, 1),
            "{end}"
        );
        assert_eq!(client.take_unsent(), [3]);
        assert!(sent.wait().unwrap_err().may_have_been_executed());
        assert!(!queued.wait().unwrap_err().may_have_been_executed());
        assert!(peer.read(&mut [0]).map_or_else(|_| true, |read| read == 0));
        // Twice, and after the end, it changes nothing.
        client.abort();
        assert_eq!(client.close().unwrap_err().kind(), ErrorKind::ConnectionAborted);
    });
}

#[test]
fn closing_is_awaited_by_many() {
    on_each_ground(|runtime| {
        let (service, kept) = keeper();
        let server = Server::bind(runtime, anywhere(), Int32, service).unwrap();
        let client = Client::connect(runtime, server.local_addr(), Int32).unwrap();
        let call = client.call(1);
        let (_, reply) = next(&kept);
        drop(client.close_async());
        let closings: Vec<_> = (0..10).map(|_| client.close_async()).collect();
        let closing = thread::spawn(move || block_on_all(closings));
        let blocking = client.clone();
        let blocking = thread::spawn(move || blocking.close());
        reply.send(5);
        assert!(closing.join().unwrap().into_iter().all(|end| end.is_ok()));
        blocking.join().unwrap().unwrap();
        assert_eq!(call.wait().unwrap(), 5);
    });
}

#[test]
fn any_time_limit_will_do() {
    on_each_ground(|runtime| {
        let server = Server::bind(runtime, anywhere(), Int32, |n: i32, reply| reply.send(n)).unwrap();
        for limit in [Duration::MAX, Duration::ZERO] {
            let policy = Reconnect::new().first_delay(limit).longest_delay(limit);
            let options = ClientOptions::new().close_timeout(limit).reconnect(policy).linger(limit);
            let options = options.call_timeout(Duration::MAX);
            let client = Client::connect_with(runtime, &options, server.local_addr(), Int32, drop).unwrap();
            assert_eq!(client.call(1).wait().unwrap(), 1);
            assert!(client.close().is_ok() || limit.is_zero());
        }
        let error = Client::builder(Int32).options(ClientOptions::new().reactor(99));
        let error = error.connect(runtime, server.local_addr()).unwrap_err();
        assert!(error.to_string().contains("no reactor 99"), "{error}");
    });
}

/// Whoever closes waits for the last responses; the reactor sleeps until they come.
#[test]
fn a_client_that_closes_does_not_keep_its_reactor_busy() {
    on_each_ground(|runtime| {
        let (service, kept) = keeper();
        let server = Server::bind(runtime, anywhere(), Int32, service).unwrap();
        let options = ClientOptions::new().linger(Duration::from_millis(1)).calls_in_flight(1);
        let client = Client::builder(Int32).options(options).connect(runtime, server.local_addr()).unwrap();
        let calls = [client.call(1), client.call(2)];
        let (first, reply) = next(&kept);
        let closing = client.clone();
        let closing = thread::spawn(move || closing.close());
        thread::sleep(Duration::from_millis(50));
        let before = runtime.metrics().turns;
        thread::sleep(Duration::from_millis(200));
        let turns = runtime.metrics().turns - before;
        assert!(turns < 500, "{turns} turns with nothing to do");
        reply.send(first);
        let (second, reply) = next(&kept);
        reply.send(second);
        assert_eq!(calls.map(|call| call.wait().unwrap()), [1, 2]);
        closing.join().unwrap().unwrap();
    });
}
