//! Handshakes, and those that come to nothing.

use crate::support::*;
use rustls::HandshakeKind;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};
use trochus::net::{Address, CloseReason, ListenOptions, StreamOptions};
use trochus::tls::{self, Version};

const ALERT: u8 = 21;

#[test]
fn who_says_nothing_or_too_little_is_cut_off_in_time() {
    on_each_backend(|runtime| {
        let timeout = Duration::from_millis(200);
        let stream = StreamOptions::new().handshake_timeout(timeout);
        let (server, log) = serve_with(runtime, server(), stream);
        for says in [&b""[..], b"\x16\x03\x01"] {
            let mut peer = dial(&server);
            let began = Instant::now();
            peer.write_all(says).unwrap();
            assert_eq!(peer.read(&mut [0; 16]).unwrap_err().kind(), ErrorKind::ConnectionReset);
            assert!(began.elapsed() >= timeout);
            assert!(matches!(log.next(), Seen::Closed(CloseReason::HandshakeTimeout { .. })));
        }
        // However often a byte comes.
        let mut peer = dial(&server);
        let began = Instant::now();
        let hello = client_hello();
        let sent = hello.iter().take_while(|byte| {
            std::thread::sleep(Duration::from_millis(5));
            peer.write_all(&[**byte]).is_ok() && began.elapsed() < PATIENCE
        });
        assert!(sent.count() < hello.len(), "it was cut off in the middle");
        assert!(matches!(log.next(), Seen::Closed(CloseReason::HandshakeTimeout { .. })));
        let metrics = runtime.metrics();
        assert_eq!((metrics.handshake_timeouts, metrics.handshakes_failed), (3, 3));
        assert_eq!((metrics.connections_opened, metrics.connects_failed), (0, 0));
    });
}

/// Who waits for a place is served once there is one, in time or not at all.
#[test]
fn handshakes_that_go_on_at_a_time_are_bounded() {
    for backend in trochus::Backend::available() {
        let runtime = trochus::Runtime::builder().backend(backend).reactors(1).handshakes(2).build().unwrap();
        let stream = StreamOptions::new().handshake_timeout(Duration::from_millis(500));
        let (server, log) = serve_with(&runtime, server(), stream);
        // Both places are taken by peers that say nothing more, until their time is over.
        let mut idle: Vec<_> = (0..2).map(|_| dial(&server)).collect();
        eventually("both have begun", || runtime.gauges().unwrap()[0].handshaking == 2);
        std::thread::sleep(Duration::from_millis(200));
        let began = Instant::now();
        let mut client = connect(&server, client_config(ALL));
        echoes(&mut client, b"hello");
        assert!(began.elapsed() > Duration::from_millis(150), "{:?}", began.elapsed());
        assert!(idle.iter_mut().all(|peer| peer.read(&mut [0]).is_err()));
        (0..2)
            .for_each(|_| assert!(matches!(log.next(), Seen::Closed(CloseReason::HandshakeTimeout { .. }))));
        log.opened();
        let metrics = runtime.metrics();
        assert_eq!((metrics.handshakes_delayed, metrics.handshakes_failed), (1, 2));
        // Places come back, however a handshake ends.
        let mut open = Vec::new();
        for _ in 0..3 {
            open.push(connect(&server, client_config(ALL)));
            echoes(open.last_mut().unwrap(), b"hello");
        }
        for _ in 0..5 {
            let mut peer = dial(&server);
            peer.write_all(b"garbage, garbage").unwrap();
            assert!(peer.read_to_end(&mut Vec::new()).is_err());
            echoes(&mut connect(&server, client_config(ALL)), b"hello");
        }
        assert_eq!(runtime.metrics().handshakes_delayed, 1);
    }
    assert!(trochus::Runtime::builder().handshakes(0).build().is_err());
}

fn client_hello() -> Vec<u8> {
    let mut hello = Vec::new();
    let config = Arc::new(client_config(ALL));
    rustls::ClientConnection::new(config, localhost()).unwrap().write_tls(&mut hello).unwrap();
    hello
}

#[test]
fn who_speaks_no_tls_gets_an_alert_and_others_are_served() {
    on_each_backend(|runtime| {
        let (server, log) = serve(runtime, server());
        let mut other = connect(&server, client_config(ALL));
        echoes(&mut other, b"before");
        log.opened();
        assert!(matches!(log.next(), Seen::Bytes(_)));
        let garbage = fastrand::Rng::with_seed(7).sample_bytes(3_000);
        for says in [&b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], &garbage] {
            let mut peer = dial(&server);
            peer.write_all(says).unwrap();
            let mut answer = Vec::new();
            let end = peer.read_to_end(&mut answer);
            assert_eq!(answer.first(), Some(&ALERT), "{answer:?}");
            assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
            let Seen::Closed(CloseReason::Tls(error)) = log.next() else { panic!("not told") };
            assert!(error.to_string().contains("no TLS"), "{error}");
        }
        echoes(&mut other, b"after");
        assert_eq!(runtime.metrics().handshakes_failed, 2);
    });
}

trait Sample {
    fn sample_bytes(&mut self, len: usize) -> Vec<u8>;
}

impl Sample for fastrand::Rng {
    fn sample_bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.u8(..)).collect()
    }
}

#[test]
fn who_goes_in_the_middle_of_a_handshake_is_forgotten() {
    on_each_backend(|runtime| {
        let (server, log) = serve(runtime, server());
        let mut peer = dial(&server);
        peer.write_all(&client_hello()[..100]).unwrap();
        drop(peer);
        assert!(matches!(log.next(), Seen::Closed(CloseReason::Truncated | CloseReason::Failed(_))));
        eventually("nobody is left", || server.connections() == 0);
    });
}

/// Passes on what the client sends in pieces of so many bytes, with the first so much longer, and everything that comes back.
#[test]
fn handshakes_and_records_may_be_split_anywhere() {
    on_each_backend(|runtime| {
        let (server, _log) = serve(runtime, server());
        for versions in [TLS13, TLS12] {
            let config = Arc::new(client_config(versions));
            let len = client_hello().len() + 200;
            let splits = (1..len).step_by(if versions == TLS13 { 3 } else { 11 });
            for split in splits.map(|at| (at, usize::MAX)).chain([(1, 1), (2, 3), (5, 5)]) {
                let mut conn = rustls::ClientConnection::new(config.clone(), localhost()).unwrap();
                let mut peer = dial(&server);
                conn.writer().write_all(b"hello").unwrap();
                let (mut sent, mut echoed) = (0, Vec::new());
                while echoed.len() < 5 {
                    let mut out = Vec::new();
                    while conn.wants_write() {
                        conn.write_tls(&mut out).unwrap();
                    }
                    while !out.is_empty() {
                        let now = if sent < split.0 { split.0 - sent } else { split.1 };
                        let rest = out.split_off(now.min(out.len()));
                        peer.write_all(&out).unwrap();
                        sent += out.len();
                        out = rest;
                        if !out.is_empty() && split.1 == usize::MAX {
                            std::thread::sleep(Duration::from_micros(500));
                        }
                    }
                    assert!(conn.read_tls(&mut peer).unwrap() > 0);
                    let state = conn.process_new_packets().unwrap();
                    let mut more = vec![0; state.plaintext_bytes_to_read()];
                    conn.reader().read_exact(&mut more).unwrap();
                    echoed.extend(more);
                }
                assert_eq!(echoed, b"hello", "split at {split:?}");
            }
        }
    });
}

#[test]
fn protocols_are_agreed_on_or_the_connection_is_refused() {
    on_each_backend(|runtime| {
        let (server, log) = serve(runtime, server().alpn(["h2", "http/1.1"]));
        for (offers, agreed) in
            [(&["http/1.1", "h2"][..], Some(&b"h2"[..])), (&["http/1.1"], Some(b"http/1.1")), (&[], None)]
        {
            let mut config = client_config(ALL);
            config.alpn_protocols = offers.iter().map(|offer| offer.as_bytes().to_vec()).collect();
            let mut client = connect(&server, config);
            echoes(&mut client, b"x");
            assert_eq!((log.opened().alpn(), client.conn.alpn_protocol()), (agreed, agreed));
            drop(client);
            log.closed();
        }
        let mut config = client_config(ALL);
        config.alpn_protocols = vec![b"gopher".to_vec()];
        assert!(connect(&server, config).write_all(b"x").is_err());
        let CloseReason::Tls(error) = log.closed() else { panic!("not refused") };
        assert!(error.is_disagreement(), "{error}");
    });
}

#[test]
fn versions_can_be_chosen() {
    on_each_backend(|runtime| {
        for (version, versions, others) in [(Version::Tls12, TLS12, TLS13), (Version::Tls13, TLS13, TLS12)] {
            let (server, log) = serve(runtime, server().versions([version]).unwrap());
            let mut client = connect(&server, client_config(ALL));
            echoes(&mut client, b"x");
            assert_eq!(log.opened().version(), version);
            assert_eq!(client.conn.protocol_version(), Some(versions[0].version));
            drop(client);
            log.closed();
            assert!(connect(&server, client_config(others)).write_all(b"x").is_err());
            assert!(matches!(log.closed(), CloseReason::Tls(error) if error.is_disagreement()));
        }
        assert!(server().versions([]).is_err());
    });
}

/// Whichever reactor gives a ticket, and whichever is shown it.
#[test]
fn sessions_are_resumed_on_all_reactors() {
    on_each_backend(|runtime| {
        for versions in [TLS13, TLS12] {
            let (server, log) = serve(runtime, server());
            let config = Arc::new(client_config(versions));
            for n in 0..10 {
                let mut client = connect_with(&server, &config, "localhost");
                echoes(&mut client, b"hello");
                let resumed = client.conn.handshake_kind() == Some(HandshakeKind::Resumed);
                assert_eq!((resumed, log.opened().is_resumed()), (n > 0, n > 0), "connection {n}");
                drop(client);
                log.closed();
            }
        }
    });
}

#[test]
fn a_client_of_ours_resumes_and_says_so() {
    on_each_backend(|runtime| {
        for resumes in [true, false] {
            let (server, served) = serve(runtime, server());
            let tls = client().resumption(resumes);
            for n in 0..3 {
                let (log, recorder) = log();
                let options = StreamOptions::new().tls(tls.clone());
                let address = server.local_addr().clone();
                let handle = runtime.connect_with(&options, address, || Echo(recorder)).unwrap();
                let info = log.opened();
                assert_eq!(info.is_resumed(), resumes && n > 0);
                assert_eq!(served.opened().server_name(), Some("localhost"), "also if it is resumed");
                // What comes back is echoed once more, and so on; tickets come with it.
                handle.write(b"x").unwrap();
                assert!(matches!(log.next(), Seen::Bytes(_)));
                handle.close().unwrap();
                log.closed();
                served.closed();
            }
        }
    });
}

#[test]
fn a_server_that_does_not_answer_in_time_fails_the_connect() {
    on_each_backend(|runtime| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let stream = StreamOptions::new().tls(client()).handshake_timeout(Duration::from_millis(100));
        let (log, recorder) = log();
        let error = runtime.connect_with(&stream, address, || Echo(recorder)).unwrap_err();
        assert!(error.to_string().contains("handshake"), "{error}");
        assert!(log.is_silent(), "nobody was made for it");
        assert_eq!(runtime.metrics().connects_failed, 1);
    });
}

#[test]
fn tls_of_the_other_side_is_refused_where_it_is_set() {
    let options = ListenOptions::new().stream(StreamOptions::new().tls(client()));
    let runtime = trochus::Runtime::builder().reactors(1).build().unwrap();
    assert!(runtime.listen_with(&options, "127.0.0.1:0", |_| Echo(log().1)).is_err());
    assert!(tls::Server::of([]).is_err());
}

/// A ticket stands for what was asked of a client when it was given, not for what another server asks.
#[test]
fn a_ticket_of_a_server_that_asks_for_less_is_not_enough() {
    on_each_backend(|runtime| {
        let public = server();
        let private = public.clone().require_client_certificates(roots()).unwrap();
        let (public, _) = serve(runtime, public);
        let (private, refused) = serve(runtime, private);
        for versions in [TLS12, TLS13] {
            let config = Arc::new(client_config(versions));
            // The second one has a ticket.
            for _ in 0..2 {
                echoes(&mut connect_with(&public, &config, "localhost"), b"x");
            }
            let mut client = connect_with(&private, &config, "localhost");
            let outcome = client.write_all(b"x").and_then(|()| client.read_exact(&mut [0]));
            assert!(outcome.is_err(), "it came in without a certificate");
            assert!(matches!(refused.closed(), CloseReason::Tls(_)));
        }
    });
}

/// Each record of a message may hold next to nothing: what is kept is bounded as it came, and not as it would be.
#[test]
fn a_message_in_very_many_records_is_given_up() {
    on_each_backend(|runtime| {
        let (server, log) = serve(runtime, server());
        let mut peer = dial(&server);
        // The beginning of a client hello of 65 000 bytes, one byte a record.
        let message = [&[1, 0, 0xfd, 0xe8][..], &[0; 64_000]].concat();
        let records: Vec<u8> = message.iter().flat_map(|byte| [22, 3, 1, 0, 1, *byte]).collect();
        // It may be cut off in the middle.
        let _ = peer.write_all(&records);
        assert!(matches!(log.closed(), CloseReason::Tls(_)));
        let mut answer = Vec::new();
        let _ = peer.read_to_end(&mut answer);
        eventually("nothing of it is held", || runtime.memory_budget().held == 0);
        assert_eq!(runtime.metrics().handshakes_failed, 1);
    });
}

/// Behind a place that is taken others wait, those of one process for each other as well.
#[test]
fn streams_in_memory_shake_hands_in_turn() {
    for backend in trochus::Backend::available() {
        let runtime = trochus::Runtime::builder().backend(backend).reactors(1).handshakes(2).build().unwrap();
        let options = ListenOptions::new().tls(server());
        let (seen, recorder) = log();
        let server = runtime.listen_with(&options, "memory:", move |_| Echo(recorder.clone())).unwrap();
        let options = StreamOptions::new().tls(client());
        let (told, recorder) = log();
        let pending: Vec<_> = (0..50)
            .map(|_| {
                let recorder = recorder.clone();
                runtime.connect_async(&options, server.local_addr(), || Echo(recorder))
            })
            .collect();
        for connected in pending {
            connected.wait().unwrap().close().unwrap();
        }
        for _ in 0..50 {
            told.closed();
            seen.closed();
        }
        let metrics = runtime.metrics();
        assert_eq!((metrics.handshakes_failed, metrics.handshake_timeouts), (0, 0));
        assert!(metrics.handshakes_delayed > 0);
    }
}
