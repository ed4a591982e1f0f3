//! Servers behind proxies that say for whom they speak.

use crate::accounts::{DEADLINE, INTENDED, wait_until};
use crate::ground::{Ground, Peer, Stage};
use crate::probe::{Ending, Event, log};
use crate::{Suite, suite};
use std::thread;
use std::time::Duration;
use trochus::Error;
use trochus::net::{Address, Handler, Incoming, Io, ListenOptions, ProxyProtocol, Server, StreamOptions};

pub(crate) fn suites() -> Vec<Suite> {
    vec![suite!(
        "proxied",
        Ground::has_sockets,
        [
            the_client_is_the_peer_wherever_the_header_is_cut,
            a_proxy_that_speaks_for_itself_is_the_peer,
            what_is_no_header_ends_the_connection,
            a_header_that_does_not_come_ends_the_connection,
            who_is_not_trusted_is_turned_away,
            others_may_speak_for_themselves,
            limits_are_those_of_the_client,
            the_server_decides_about_the_client,
            a_connection_without_its_header_outlives_the_listener,
            a_server_that_stops_waits_for_the_header,
            whom_to_trust_is_checked,
        ]
    )]
}

const CLIENT: &str = "192.0.2.7:4660";
const V1: &[u8] = b"PROXY TCP4 192.0.2.7 10.0.0.1 4660 80\r\n";
/// With a TLV behind the addresses.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f\xc0\0\x02\x07\x0a\0\0\x01\x12\x34\0\x50\x04\0\0";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// Trusts the peers that the ground's sockets have.
fn proxies() -> ProxyProtocol {
    ProxyProtocol::new().trust("127.0.0.0/8").trust("::1").trust("unix")
}

/// Says who its peer is, as the server saw it and as the connection does, and then what it is sent.
struct Says(Address);

impl Handler for Says {
    fn on_open(&mut self, io: &mut Io<'_>) {
        assert_eq!(io.handle().peer_addr(), io.peer_addr());
        let text = format!("{} {}|", self.0, io.peer_addr());
        io.write(text.as_bytes());
    }

    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        io.write(bytes);
        bytes.len()
    }
}

fn listen(stage: &Stage, options: ListenOptions) -> Server {
    stage.listen_with(&options, |incoming| Says(incoming.peer().clone()))
}

fn serve(stage: &Stage) -> Server {
    listen(stage, ListenOptions::new().proxy_protocol(proxies()))
}

/// What a connection is told that sends this, and then ends.
fn told(server: &Server, sent: &[u8], cut: usize) -> String {
    let peer = Peer::connect(server.local_addr());
    peer.send(&sent[..cut]);
    if cut > 0 {
        thread::sleep(Duration::from_micros(500));
    }
    peer.send(&sent[cut..]);
    peer.end_output();
    String::from_utf8(peer.receive_to_end()).unwrap()
}

fn the_client_is_the_peer_wherever_the_header_is_cut(ground: &Ground) {
    let stage = ground.stage();
    let server = serve(&stage);
    for header in [V1, V2] {
        let all = [header, b"body"].concat();
        for cut in 0..all.len() {
            assert_eq!(told(&server, &all, cut), format!("{CLIENT} {CLIENT}|body"), "cut at {cut}");
        }
        // With nothing behind it.
        assert_eq!(told(&server, header, 0), format!("{CLIENT} {CLIENT}|"));
    }
    let metrics = stage.finish([server]);
    assert_eq!((metrics.handshakes_failed, metrics.proxy_headers_refused), (0, 0));
}

fn a_proxy_that_speaks_for_itself_is_the_peer(ground: &Ground) {
    let stage = ground.stage();
    let server = serve(&stage);
    for header in [&b"PROXY UNKNOWN\r\n"[..], LOCAL] {
        let peer = Peer::connect(server.local_addr());
        let own = peer.0.local_addr().unwrap();
        peer.send(header);
        peer.send(b"body");
        peer.end_output();
        let text = String::from_utf8(peer.receive_to_end()).unwrap();
        let (said, body) = text.split_once('|').unwrap();
        assert_eq!(body, "body");
        if let Some(own) = own.as_socket() {
            assert_eq!(said, format!("{own} {own}"));
        } else {
            assert!(said.starts_with("unix:"), "{said}");
        }
    }
    stage.finish([server]);
}

fn what_is_no_header_ends_the_connection(ground: &Ground) {
    let stage = ground.stage();
    let server = serve(&stage);
    let long = [&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat();
    let wrong: [&[u8]; 4] =
        [b"GET / HTTP/1.1\r\n\r\n", &long, b"PROXY TCP4 nobody\r\n", b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c"];
    for bytes in wrong {
        let peer = Peer::connect(server.local_addr());
        peer.send(bytes);
        peer.sees_the_end();
    }
    // An end in the middle of it is one of those.
    let peer = Peer::connect(server.local_addr());
    peer.send(&V1[..20]);
    peer.end_output();
    peer.sees_the_end();
    let metrics = stage.finish([server]);
    assert_eq!((metrics.proxy_headers_refused, metrics.handshakes_failed), (4, 5));
    assert_eq!((metrics.connections_opened, metrics.connects_failed), (0, 0));
}

fn a_header_that_does_not_come_ends_the_connection(ground: &Ground) {
    let stage = ground.stage();
    let stream = StreamOptions::new().handshake_timeout(Duration::from_millis(40));
    let server = listen(&stage, ListenOptions::new().stream(stream).proxy_protocol(proxies()));
    for sent in [&b""[..], &V1[..10], &V2[..20]] {
        let peer = Peer::connect(server.local_addr());
        peer.send(sent);
        peer.sees_the_end();
    }
    let metrics = stage.finish([server]);
    assert_eq!((metrics.handshake_timeouts, metrics.connections_opened), (3, 0));
}

fn who_is_not_trusted_is_turned_away(ground: &Ground) {
    let stage = ground.stage();
    let server =
        listen(&stage, ListenOptions::new().proxy_protocol(ProxyProtocol::new().trust("192.0.2.0/24")));
    for _ in 0..3 {
        Peer::is_refused_at(server.local_addr());
    }
    wait_until("they are counted", || stage.metrics().proxy_headers_refused == 3);
    assert_eq!(stage.finish([server]).connections_opened, 0);
}

/// What looks like a header is data there.
fn others_may_speak_for_themselves(ground: &Ground) {
    let stage = ground.stage();
    let proxies = ProxyProtocol::new().trust("192.0.2.0/24").others_without();
    let server = listen(&stage, ListenOptions::new().proxy_protocol(proxies));
    let text = told(&server, V1, 0);
    let (said, body) = text.split_once('|').unwrap();
    assert!(!said.contains("192.0.2.7"), "{said}");
    assert_eq!(body.as_bytes(), V1);
    // The server may speak first.
    let peer = Peer::connect(server.local_addr());
    assert!(!peer.receive(3).is_empty());
    drop(peer);
    stage.finish([server]);
}

fn limits_are_those_of_the_client(ground: &Ground) {
    let stage = ground.stage();
    let options = ListenOptions::new().proxy_protocol(proxies()).max_connections_per_peer(2);
    let server = listen(&stage, options);
    let connect = |client: &str| {
        let peer = Peer::connect(server.local_addr());
        peer.send(format!("PROXY TCP4 {client} 10.0.0.1 1 80\r\n").as_bytes());
        peer
    };
    let is_served = |client: &str| {
        let peer = connect(client);
        let expected = format!("{client}:1 {client}:1|");
        assert_eq!(String::from_utf8(peer.receive(expected.len())).unwrap(), expected);
        peer
    };
    let kept: Vec<Peer> = (1..=4).map(|last| is_served(&format!("192.0.2.{}", last % 2))).collect();
    let one_more = is_served("192.0.2.9");
    connect("192.0.2.1").sees_the_end();
    let metrics = stage.metrics();
    assert_eq!((metrics.peers_over_limit, metrics.connections_refused), (1, 1));
    drop((kept, one_more));
    // Their places are given back.
    wait_until("they have gone", || server.connections() == 0);
    drop(is_served("192.0.2.1"));
    stage.finish([server]);
}

fn the_server_decides_about_the_client(ground: &Ground) {
    let stage = ground.stage();
    let options = ListenOptions::new().proxy_protocol(proxies());
    let server = stage.listen_with(&options, |incoming: &Incoming<'_>| {
        let Address::Tcp(client) = incoming.peer() else { panic!("{INTENDED}") };
        let ip = client.ip().to_string();
        assert!(ip != "192.0.2.66", "{INTENDED}");
        (ip == "192.0.2.7").then(|| Says(incoming.peer().clone()))
    });
    let connect = |ip: &str| {
        let peer = Peer::connect(server.local_addr());
        peer.send(format!("PROXY TCP4 {ip} 10.0.0.1 1 80\r\n").as_bytes());
        peer
    };
    connect("192.0.2.8").sees_the_end();
    connect("192.0.2.66").sees_the_end();
    assert_eq!(told(&server, V1, 3), format!("{CLIENT} {CLIENT}|"));
    let metrics = stage.finish_after_panics([server]);
    assert_eq!((metrics.connections_refused, metrics.handler_panics, metrics.connections_opened), (2, 1, 1));
}

fn a_connection_without_its_header_outlives_the_listener(ground: &Ground) {
    let stage = ground.stage();
    let server = serve(&stage);
    let peer = Peer::connect(server.local_addr());
    peer.send(&V1[..5]);
    wait_until("it is accepted", || server.connections() == 1);
    server.close();
    thread::sleep(Duration::from_millis(5));
    peer.send(&V1[5..]);
    let expected = format!("{CLIENT} {CLIENT}|");
    assert_eq!(peer.receive(expected.len()), expected.as_bytes());
    drop(peer);
    stage.finish([]);
}

fn a_server_that_stops_waits_for_the_header(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let options = ListenOptions::new().proxy_protocol(proxies());
    let server = stage.listen_with(&options, move |_| recorder.echo());
    let [one, other] = [0; 2].map(|_| Peer::connect(server.local_addr()));
    one.send(&V1[..5]);
    wait_until("both are accepted", || server.connections() == 2);
    let stopped = server.stop_async(Duration::from_millis(300));
    one.send(&V1[5..]);
    log.opened();
    assert!(matches!(log.next(), Event::Asked), "it is asked to end as soon as it is there");
    one.end_output();
    assert_eq!(log.closed(), Ending::Closed);
    // Who says nothing is cut off in the end.
    other.sees_the_end();
    stopped.wait_timeout(DEADLINE).unwrap().unwrap();
    stage.finish([server]);
}

fn whom_to_trust_is_checked(ground: &Ground) {
    let stage = ground.stage();
    for proxies in [ProxyProtocol::new(), ProxyProtocol::new().trust("10.0.0.0/40")] {
        let options = ListenOptions::new().proxy_protocol(proxies);
        let result = stage.runtime.listen_with(&options, ground.fresh_address(), |_| crate::probe::Echo);
        assert!(matches!(result, Err(Error::InvalidSetting(_))));
    }
    stage.finish([]);
}
