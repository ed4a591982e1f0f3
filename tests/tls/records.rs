//! Records as they should be, may be, and must not be.

use crate::support::*;
use rustls::client::UnbufferedClientConnection;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use trochus::net::CloseReason;

/// The handshake's end, and everything since, is a client's that makes records one by one.
struct Raw {
    conn: UnbufferedClientConnection,
    sock: TcpStream,
    arrived: Vec<u8>,
    plain: Vec<u8>,
}

impl Raw {
    fn new(sock: TcpStream, versions: Versions) -> Self {
        let config = Arc::new(client_config(versions));
        let conn = UnbufferedClientConnection::new(config, localhost()).unwrap();
        let mut raw = Raw { conn, sock, arrived: Vec::new(), plain: Vec::new() };
        raw.go_on(&mut |_| true, |_| {});
        raw
    }

    /// Until there can be traffic and `done` says that it was enough; then `write` writes.
    fn go_on(&mut self, done: &mut dyn FnMut(&[u8]) -> bool, write: impl FnOnce(&mut Writer<'_, '_>)) {
        let mut out = Vec::new();
        loop {
            let UnbufferedStatus { discard, state } = self.conn.process_tls_records(&mut self.arrived);
            let mut reads = false;
            match state.unwrap() {
                ConnectionState::EncodeTlsData(mut data) => {
                    let mut room = vec![0; 20_000];
                    let len = data.encode(&mut room).unwrap();
                    out.extend_from_slice(&room[..len]);
                }
                ConnectionState::TransmitTlsData(data) => {
                    self.sock.write_all(&std::mem::take(&mut out)).unwrap();
                    data.done();
                }
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        self.plain.extend_from_slice(record.unwrap().payload);
                    }
                }
                ConnectionState::WriteTraffic(traffic) if done(&self.plain) => {
                    write(&mut Writer { traffic: Some(traffic), sock: &self.sock });
                    self.arrived.drain(..discard);
                    return;
                }
                ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) => reads = true,
                other => panic!("{other:?}"),
            }
            self.arrived.drain(..discard);
            if reads {
                let mut bytes = [0; 20_000];
                let len = self.sock.read(&mut bytes).unwrap();
                assert_ne!(len, 0, "the server has ended it");
                self.arrived.extend_from_slice(&bytes[..len]);
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.go_on(&mut |_| true, |writer| writer.write(bytes));
    }

    /// Announces a new key for what it sends from then on, and asks the server for the same.
    fn update_key(&mut self) {
        self.go_on(&mut |_| true, |writer| writer.traffic.take().unwrap().refresh_traffic_keys().unwrap());
    }

    fn receive(&mut self, len: usize) -> Vec<u8> {
        self.go_on(&mut |plain| plain.len() >= len, |_| {});
        self.plain.drain(..len).collect()
    }

    fn seal(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut sealed = vec![0; bytes.len() + 1_000];
        let mut len = 0;
        self.go_on(&mut |_| true, |writer| {
            len = writer.traffic.as_mut().unwrap().encrypt(bytes, &mut sealed).unwrap();
        });
        sealed.truncate(len);
        sealed
    }
}

struct Writer<'a, 'c> {
    traffic: Option<rustls::unbuffered::WriteTraffic<'c, rustls::client::ClientConnectionData>>,
    sock: &'a TcpStream,
}

impl Writer<'_, '_> {
    fn write(&mut self, bytes: &[u8]) {
        let mut sealed = vec![0; bytes.len() + bytes.len() / 100 + 1_000];
        let len = self.traffic.as_mut().unwrap().encrypt(bytes, &mut sealed).unwrap();
        self.sock.write_all(&sealed[..len]).unwrap();
    }
}

#[test]
fn keys_change_in_the_middle_of_much_in_both_directions() {
    on_each_backend(|runtime| {
        let (server, log) = serve(runtime, server());
        let mut raw = Raw::new(dial(&server), TLS13);
        let sent = pattern(6 << 20);
        for (n, piece) in sent.chunks(100_000).enumerate() {
            if n % 3 == 1 {
                // What is asked for, the server does in front of what it sends next.
                raw.update_key();
            }
            raw.write(piece);
            assert!(raw.receive(piece.len()) == piece, "piece {n}");
        }
        raw.sock.shutdown(Shutdown::Write).unwrap();
        let (received, seen) = log.rest();
        assert!(received == sent && matches!(seen, Seen::Closed(CloseReason::Truncated)), "{seen:?}");
    });
}

/// More than one key's announcement in a row is answered by one, so that nobody can make the server say more than it hears.
#[test]
fn who_changes_keys_all_the_time_does_not_make_the_server_grow() {
    on_each_backend(|runtime| {
        let (server, log) = serve(runtime, server());
        let mut raw = Raw::new(dial(&server), TLS13);
        log.opened();
        let before = runtime.metrics().sent_bytes;
        (0..20).for_each(|_| raw.update_key());
        raw.write(b"x");
        assert_eq!(raw.receive(1), b"x");
        let sent = runtime.metrics().sent_bytes - before;
        assert!(sent < 500, "{sent} bytes");
    });
}

#[test]
fn each_record_may_be_split_anywhere() {
    on_each_backend(|runtime| {
        let (server, log) = serve(runtime, server());
        for versions in [TLS13, TLS12] {
            let mut raw = Raw::new(dial(&server), versions);
            log.opened();
            let mut expected = Vec::new();
            for at in 1..60 {
                // The second ends in the same piece as the first one's rest.
                let sealed = [raw.seal(b"first"), raw.seal(b"second")].concat();
                let at = at.min(sealed.len() - 1);
                raw.sock.write_all(&sealed[..at]).unwrap();
                std::thread::sleep(std::time::Duration::from_micros(300));
                raw.sock.write_all(&sealed[at..]).unwrap();
                assert_eq!(raw.receive(11), b"firstsecond", "split at {at}");
                expected.extend_from_slice(b"firstsecond");
            }
            drop(raw);
            let (received, _) = log.rest();
            assert!(received == expected);
        }
    });
}

/// Records that mean nothing, of which a few are allowed around a handshake, are too many at some point.
#[test]
fn who_sends_what_means_nothing_is_given_up() {
    on_each_backend(|runtime| {
        let (server, log) = serve(runtime, server());
        let mut raw = Raw::new(dial(&server), TLS13);
        log.opened();
        raw.write(b"before");
        assert_eq!(raw.receive(6), b"before");
        raw.sock.write_all(&[0x14, 3, 3, 0, 1, 1].repeat(64)).unwrap();
        let (received, seen) = log.rest();
        assert_eq!(received, b"before");
        assert!(matches!(seen, Seen::Closed(CloseReason::Tls(_))), "{seen:?}");
    });
}

#[test]
fn what_was_tampered_with_ends_one_connection_with_an_alert() {
    on_each_backend(|runtime| {
        let (server, log) = serve(runtime, server());
        let mut other = connect(&server, client_config(ALL));
        echoes(&mut other, b"before");
        log.opened();
        assert!(matches!(log.next(), Seen::Bytes(_)));
        for versions in [TLS13, TLS12] {
            let mut raw = Raw::new(dial(&server), versions);
            log.opened();
            let mut sealed = [raw.seal(b"good"), raw.seal(b"tampered with"), raw.seal(b"good")].concat();
            let middle = sealed.len() / 2;
            sealed[middle] ^= 1;
            raw.sock.write_all(&sealed).unwrap();
            let (received, seen) = log.rest();
            assert_eq!(received, b"good", "what came before is delivered");
            assert!(matches!(seen, Seen::Closed(CloseReason::Tls(_))), "{seen:?}");
            let mut answer = Vec::new();
            let end = raw.sock.read_to_end(&mut answer);
            assert!(answer.len() > 7, "an alert, sealed: {answer:?}");
            assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
        echoes(&mut other, b"after");
    });
}
