//! What goes wrong with one request: who is told, and what it costs.

use super::support::*;
use bytes::Bytes;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Mutex, mpsc};
use std::thread;
use trochus::Runtime;
use trochus::codec::{DecodeError, Int32, LengthDelimited, Lines, Protocol};
use trochus::reactor::{Address, CloseReason};
use trochus::rpc::{Client, Connection, Fault, Missing, MissingCause, Reply, Server, ServerOptions, Service};

/// A service with words for everything, and somebody to tell.
struct Eloquent {
    tell: mpsc::Sender<String>,
    speaks: bool,
}

impl<P> Service<P> for Eloquent
where
    P: Protocol<RequestCodec = Lines, ResponseCodec = Lines>,
{
    fn call(&mut self, line: &str, reply: Reply<String>) {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let rest = rest.to_owned();
        match verb {
            "drop" => drop(reply),
            "drop-late" => drop(thread::spawn(move || drop(reply))),
            "panic" => panic!("on purpose"),
            "answer-and-panic" => {
                reply.send(rest);
                panic!("on purpose");
            }
            "long" => reply.send("x".repeat(100)),
            "long-late" => drop(thread::spawn(move || reply.send("x".repeat(100)))),
            "late" => drop(thread::spawn(move || reply.send(rest))),
            "last" => reply.send_and_close(rest),
            "last-late" => drop(thread::spawn(move || reply.send_and_close(rest))),
            _ => reply.send(line.to_owned()),
        }
    }

    fn substitute(&mut self, missing: &Missing<'_>) -> Option<String> {
        let why = match missing.cause {
            MissingCause::Dropped => "dropped",
            MissingCause::Panicked => "panicked",
            MissingCause::TimedOut => "timed out",
            MissingCause::NotEncodable(_) => "not encodable",
            _ => unreachable!(),
        };
        self.speaks.then(|| format!("-{} {why}", missing.request))
    }

    fn on_decode_error(&mut self, error: &DecodeError, peer: &Address) -> Option<String> {
        self.tell.send(format!("{peer}: {error}")).unwrap();
        self.speaks.then(|| "-ERR".to_owned())
    }

    fn on_close(&mut self, reason: &CloseReason, fault: Option<&Fault>) {
        let fault = fault.map_or("fine".to_owned(), ToString::to_string);
        let _ = self.tell.send(format!("{reason}, {fault}"));
    }
}

fn eloquent<P>(
    runtime: &Runtime,
    options: &ServerOptions,
    protocol: P,
    speaks: bool,
) -> (Server, mpsc::Receiver<String>)
where
    P: Protocol<RequestCodec = Lines, ResponseCodec = Lines> + Sync,
{
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let make = move |_: &Address| Eloquent { tell: tell.lock().unwrap().clone(), speaks };
    (options.bind_each(runtime, anywhere(), protocol, make).unwrap(), told)
}

fn lines() -> Lines {
    Lines::new().max_line_bytes(50)
}

fn ask(server: &Server, text: &str) -> TcpStream {
    let mut peer = dial(server.local_addr());
    peer.write_all(text.as_bytes()).unwrap();
    end_output(&peer);
    peer
}

/// What comes back until a reset.
fn talk_until_reset(server: &Server, text: &str) -> String {
    String::from_utf8(rest_until_reset(&mut ask(server, text))).unwrap()
}

/// What comes back until the end of the stream.
fn talk(server: &Server, text: &str) -> String {
    let mut peer = ask(server, text);
    let mut received = String::new();
    peer.read_to_string(&mut received).unwrap();
    received
}

#[test]
fn with_words_for_it_a_missing_response_costs_one_request() {
    on_each_backend(|runtime| {
        let (server, told) = eloquent(runtime, &ServerOptions::new(), lines(), true);
        let text = "one\ndrop\npanic\nlong\nlate two\ndrop-late\npanic\nlong-late\nlong\nanswer-and-panic three\nfour\n";
        let expected = "one\n-1 dropped\n-2 panicked\n-3 not encodable\ntwo\n-5 dropped\n-6 panicked\n-7 not encodable\n\
                        -8 not encodable\nthree\nfour\n";
        assert_eq!(talk(&server, text), expected);
        let end = told.recv_timeout(PATIENCE).unwrap();
        assert!(end.starts_with("closed by") && end.ends_with(", fine"), "{end}");
        let metrics = server.metrics();
        assert_eq!((metrics.requests, metrics.responses), (11, 11));
        assert_eq!((metrics.dropped, metrics.panics, metrics.encode_errors), (2, 3, 3));
    });
}

#[test]
fn without_words_an_in_order_connection_is_reset_behind_what_came_before() {
    on_each_backend(|runtime| {
        let (server, told) = eloquent(runtime, &ServerOptions::new(), lines(), false);
        for (culprit, why) in [
            ("drop", "request 2 of the connection has no response: the server's service dropped the reply"),
            ("panic", "request 2 of the connection has no response: the server's service panicked"),
            ("long", "request 2 of the connection has no response: "),
            ("drop-late", "request 2 of the connection has no response"),
            ("long-late", "request 2 of the connection has no response"),
        ] {
            assert_eq!(
                talk_until_reset(&server, &format!("late one\ntwo\n{culprit}\nlate three\nfour\n")),
                "one\ntwo\n",
                "{culprit}"
            );
            let reason = told.recv_timeout(PATIENCE).unwrap();
            assert!(reason.contains(why), "{culprit}: {reason}");
        }
    });
}

#[test]
fn who_wants_no_broken_state_ends_connections_with_words_or_without() {
    on_each_backend(|runtime| {
        let options = ServerOptions::new().failures_close_connections(true);
        let (server, _told) = eloquent(runtime, &options, lines(), true);
        assert_eq!(talk(&server, "one\npanic\ntwo\n"), "one\n-1 panicked\n");
        assert_eq!(talk(&server, "one\nanswer-and-panic two\nthree\n"), "one\ntwo\n");
        assert_eq!(talk(&server, "one\ndrop-late\ntwo\n").lines().next(), Some("one"));
        let server = options.bind(runtime, anywhere(), Int32.by_id(), |n: i32, reply: Reply<i32>| {
            assert!(n > 0, "on purpose");
            reply.send(n);
        });
        let server = server.unwrap();
        let mut peer = dial(server.local_addr());
        write_ints(&mut peer, [0, 1, 10, 0, 2, -1, 0, 3, 30]);
        assert_eq!(ints(&rest_until_reset(&mut peer)), [0, 1, 10]);
    });
}

#[test]
fn by_id_a_panic_or_a_response_that_cannot_be_encoded_costs_one_call() {
    on_each_ground(|runtime| {
        let protocol = LengthDelimited::new().max_frame_bytes(100).by_id();
        let service = |frame: &[u8], reply: Reply<Bytes>| match frame[0] {
            b'p' => panic!("on purpose"),
            b'l' => reply.send(Bytes::from(vec![0; 101])),
            b'L' => drop(thread::spawn(move || reply.send(Bytes::from(vec![0; 101])))),
            _ => reply.send(Bytes::copy_from_slice(frame)),
        };
        let server = Server::bind(runtime, anywhere(), protocol, service).unwrap();
        let client = Client::connect(runtime, server.local_addr(), protocol).unwrap();
        let calls: Vec<_> = [&b"a"[..], b"p", b"b", b"l", b"c", b"L", b"d"]
            .into_iter()
            .map(|frame| client.call(Bytes::from_static(frame)))
            .collect();
        let outcomes: Vec<_> = calls.into_iter().map(|call| call.wait()).collect();
        for (index, outcome) in outcomes.iter().enumerate() {
            match (index, outcome) {
                (1 | 3 | 5, Err(error)) => assert!(error.may_have_been_executed(), "{error}"),
                (0 | 2 | 4 | 6, Ok(_)) => {}
                _ => panic!("{index}: {outcome:?}"),
            }
        }
        client.close().unwrap();
        let metrics = server.metrics();
        assert_eq!((metrics.panics, metrics.encode_errors, metrics.responses), (1, 2, 4));
    });
}

#[test]
fn a_panicking_future_costs_one_call() {
    on_each_ground(|runtime| {
        async fn service(n: i32) -> i32 {
            if n % 2 == 0 {
                Yield(false).await;
            }
            assert!(n % 3 != 0, "on purpose");
            n
        }
        let server = Server::bind_async(runtime, anywhere(), Int32.by_id(), service).unwrap();
        let client = Client::connect(runtime, server.local_addr(), Int32.by_id()).unwrap();
        let calls: Vec<_> = (0..12).map(|n| client.call(n)).collect();
        for (n, call) in (0..).zip(calls) {
            assert_eq!(call.wait().ok(), (n % 3 != 0).then_some(n));
        }
        client.close().unwrap();
        assert_eq!(server.metrics().panics, 4);
    });
}

/// Pending once.
struct Yield(bool);

impl Future for Yield {
    type Output = ();

    fn poll(mut self: std::pin::Pin<&mut Self>, context: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return std::task::Poll::Ready(());
        }
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    }
}

#[test]
fn what_is_no_request_is_told_and_answered_in_the_protocols_own_words() {
    on_each_backend(|runtime| {
        let too_long = format!("one\nlate two\n{}\nthree\n", "y".repeat(60));
        let (server, told) = eloquent(runtime, &ServerOptions::new(), lines(), true);
        assert_eq!(talk(&server, &too_long), "one\ntwo\n-ERR\n");
        let said = told.recv_timeout(PATIENCE).unwrap();
        assert!(said.starts_with("127.0.0.1:") && said.contains("50"), "{said}");
        let end = told.recv_timeout(PATIENCE).unwrap();
        assert!(end.starts_with("closed by") && end.contains(", no request: "), "{end}");
        let (server, told) = eloquent(runtime, &ServerOptions::new(), lines(), false);
        assert_eq!(talk_until_reset(&server, &too_long), "one\ntwo\n");
        assert_eq!(told.iter().take(2).count(), 2);
        assert_eq!((server.metrics().decode_errors, server.metrics().requests), (1, 2));
    });
}

#[test]
fn a_response_can_be_the_last_one() {
    on_each_backend(|runtime| {
        let (server, told) = eloquent(runtime, &ServerOptions::new(), lines(), false);
        assert_eq!(talk(&server, "one\nlate two\nlast three\nfour\n"), "one\ntwo\nthree\n");
        let end = told.recv_timeout(PATIENCE).unwrap();
        assert!(end.starts_with("closed by") && end.ends_with(", fine"), "{end}");
        assert_eq!(server.metrics().requests, 3);
        // From elsewhere: what had been taken by then is answered.
        let mut peer = dial(server.local_addr());
        peer.write_all(b"one\nlast-late two\n").unwrap();
        let mut received = String::new();
        peer.read_to_string(&mut received).unwrap();
        assert_eq!(received, "one\ntwo\n");
    });
}

#[test]
fn a_service_hears_of_the_end_once() {
    struct Hears(mpsc::Sender<(bool, Connection<i32>)>, Option<Connection<i32>>);
    impl Service<Int32> for Hears {
        fn call(&mut self, _n: i32, _reply: Reply<i32>) {
            // Dropped: the connection ends.
        }
        fn on_open(&mut self, connection: &Connection<i32>) {
            self.1 = Some(connection.clone());
        }
        fn on_close(&mut self, reason: &CloseReason, fault: Option<&Fault>) {
            let at_fault = matches!(fault, Some(Fault::NoResponse { request: 0, .. }));
            let _ = self.0.send((at_fault && matches!(reason, CloseReason::Aborted), self.1.take().unwrap()));
        }
    }
    on_each_backend(|runtime| {
        let (tell, told) = mpsc::channel();
        let tell = Mutex::new(tell);
        let make = move |_: &Address| Hears(tell.lock().unwrap().clone(), None);
        let server = Server::builder().bind_each(runtime, anywhere(), Int32, make).unwrap();
        let mut peer = dial(server.local_addr());
        let local = peer.local_addr().unwrap();
        write_ints(&mut peer, [1]);
        assert!(rest_until_reset(&mut peer).is_empty());
        drop(peer);
        let (at_fault, connection) = told.recv_timeout(PATIENCE).unwrap();
        assert!(at_fault && connection.is_closed());
        assert_eq!(connection.peer(), &Address::Tcp(local));
        assert!(connection.push(1).is_err());
        assert!(told.try_recv().is_err());
    });
}

#[test]
fn a_request_that_was_cut_off_is_told() {
    on_each_backend(|runtime| {
        let (server, told) = eloquent(runtime, &ServerOptions::new(), lines(), true);
        assert_eq!(talk(&server, "one\nlate two\nthr"), "one\ntwo\n-ERR\n");
        let said = told.recv_timeout(PATIENCE).unwrap();
        assert!(said.starts_with("127.0.0.1:"), "{said}");
        assert!(told.recv_timeout(PATIENCE).unwrap().contains("no request: "));
        assert_eq!(server.metrics().decode_errors, 1);
        // The peer knows what it did not finish: no reason for a reset.
        let (server, _told) = eloquent(runtime, &ServerOptions::new(), lines(), false);
        assert_eq!(talk(&server, "one\nlate two\nthr"), "one\ntwo\n");
    });
}

/// Lines, of which the last may end with the stream.
#[derive(Clone, Copy, Debug)]
struct OpenEnded;

impl trochus::codec::Decode for OpenEnded {
    type Item<'a> = &'a str;
    type Owned = String;

    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<trochus::codec::Decoded<&'a str>, DecodeError> {
        trochus::codec::Decode::decode(&mut Lines::new(), input)
    }

    fn decode_eof<'a>(&mut self, input: &'a [u8]) -> Result<Option<&'a str>, DecodeError> {
        let text = std::str::from_utf8(input).map_err(DecodeError::custom)?;
        Ok((!text.is_empty()).then_some(text))
    }

    fn into_owned(item: &str) -> String {
        item.to_owned()
    }
}

impl trochus::codec::Encode<String> for OpenEnded {
    fn encode(&mut self, item: &String, out: &mut Vec<u8>) -> Result<(), trochus::codec::EncodeError> {
        trochus::codec::Encode::encode(&mut Lines::new(), item, out)
    }
}

#[test]
fn the_last_request_may_end_with_the_stream() {
    on_each_backend(|runtime| {
        let service = |line: &str, reply: Reply<String>| match line {
            "late" => drop(thread::spawn(move || reply.send("late".to_owned()))),
            _ => reply.send(line.to_owned()),
        };
        let server = Server::bind(runtime, anywhere(), OpenEnded, service).unwrap();
        assert_eq!(talk(&server, "one\nlate\nthree"), "one\nlate\nthree\n");
        assert_eq!(talk(&server, "one\nlate"), "one\nlate\n");
        assert_eq!(talk(&server, "one\n"), "one\n");
        let metrics = server.metrics();
        assert_eq!((metrics.requests, metrics.responses), (6, 6));
    });
}
