//! Where to listen and whom to connect to, and what is said when that does not work.

use crate::ground::{Ground, Peer, Transport, fresh_path};
use crate::probe::{Echo, Ending, Event, log};
use crate::{Suite, suite};
use std::io::{self, ErrorKind};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;
use trochus::net::{Address, ListenOptions, StreamOptions};
use trochus::{Error, Runtime};

pub(crate) fn suites() -> Vec<Suite> {
    vec![
        suite!(
            "addresses",
            Ground::has_sockets,
            [
                an_address_in_use_is_refused,
                another_runtimes_address_is_refused,
                a_restart_finds_its_address_at_once,
                a_closed_server_refuses_and_its_connections_live_on,
                a_refused_connection_says_what_to_do,
                a_connection_that_nobody_accepts_times_out,
                of_several_addresses_the_first_that_answers_is_taken,
            ]
        ),
        suite!(
            "addresses",
            Ground::is_tcp,
            [port_zero_is_any_free_port, the_peers_address_is_known, an_address_of_nobody_is_refused]
        ),
        suite!(
            "addresses",
            |ground| ground.transport == Transport::Tcp6,
            [an_ipv6_server_serves_ipv4_too, an_ipv6_server_may_leave_ipv4_to_others]
        ),
        suite!(
            "addresses",
            Ground::is_unix,
            [
                a_stale_socket_file_is_replaced,
                a_socket_file_in_use_stays,
                a_file_that_is_no_socket_stays,
                the_socket_file_is_removed_in_the_end,
                a_directory_that_is_not_there_is_refused,
                a_full_backlog_is_waited_for,
            ]
        ),
    ]
}

/// What `listen` says about this address.
fn listen_error(runtime: &Runtime, address: &Address) -> (ErrorKind, String) {
    let error = runtime.listen(address, |_| Echo).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&address.to_string()), "{text}");
    match error {
        Error::Listen { source, .. } => (source.kind(), text),
        other => panic!("{other:?}"),
    }
}

fn an_address_in_use_is_refused(ground: &Ground) {
    let stage = ground.stage();
    let (listener, address) = ground.listener(1);
    let (kind, text) = listen_error(&stage.runtime, &address);
    assert_eq!(kind, ErrorKind::AddrInUse);
    assert!(text.contains("another socket listens there"), "{text}");
    drop(listener);
    // Now nobody uses it.
    let server = stage.runtime.listen(&address, |_| Echo).unwrap();
    drop(Peer::connect(server.local_addr()));
    stage.finish([server]);
}

fn another_runtimes_address_is_refused(ground: &Ground) {
    let (stage, other) = (ground.stage(), ground.stage());
    let server = stage.listen(|_| Echo);
    let address = server.local_addr().clone();
    assert_eq!(listen_error(&other.runtime, &address).0, ErrorKind::AddrInUse);
    assert_eq!(listen_error(&stage.runtime, &address).0, ErrorKind::AddrInUse);
    let single = ground.single();
    assert_eq!(listen_error(&single.runtime, &address).0, ErrorKind::AddrInUse);
    // Neither attempt took anything from the one that was there first.
    for _ in 0..8 {
        let peer = Peer::connect(&address);
        peer.send(b"served");
        assert_eq!(peer.receive(6), b"served");
    }
    single.finish([]);
    other.finish([]);
    stage.finish([server]);
}

fn a_restart_finds_its_address_at_once(ground: &Ground) {
    let mut address = ground.fresh_address();
    for _ in 0..3 {
        let stage = ground.stage();
        let server = stage.runtime.listen(&address, |_| Echo).unwrap();
        address = server.local_addr().clone();
        let peer = Peer::connect(&address);
        peer.send(b"x");
        assert_eq!(peer.receive(1), b"x");
        // The server ends first, so that on TCP its side of the connection lingers in TIME_WAIT.
        let stopping = std::thread::spawn(move || stage.shutdown(Duration::from_secs(20)));
        assert!(peer.receive_to_end().is_empty());
        drop(peer);
        stopping.join().unwrap();
    }
}

fn a_closed_server_refuses_and_its_connections_live_on(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| recorder.echo());
    let peer = Peer::connect(server.local_addr());
    log.opened();
    let address = server.local_addr().clone();
    server.close();
    crate::accounts::wait_until("nobody listens", || Peer::try_connect(&address).is_err());
    peer.send(b"still served");
    assert_eq!(peer.receive(12), b"still served");
    drop(peer);
    stage.finish([]);
}

fn connect_error(error: &Error) -> ErrorKind {
    match error {
        Error::Connect { source, .. } => source.kind(),
        other => panic!("{other:?}"),
    }
}

fn a_refused_connection_says_what_to_do(ground: &Ground) {
    let stage = ground.stage();
    let (listener, address) = ground.listener(1);
    drop(listener);
    let (log, recorder) = log();
    let error = stage.runtime.connect(&address, move || recorder.probe()).unwrap_err();
    assert_eq!(connect_error(&error), ErrorKind::ConnectionRefused);
    let text = error.to_string();
    assert!(text.contains(&address.to_string()) && text.contains("start the server"), "{text}");
    assert!(log.rest().is_empty(), "the handler was made for a connection that never was");
    if let Address::Unix(path) = &address {
        std::fs::remove_file(path).unwrap();
        let error = stage.runtime.connect(&address, || Echo).unwrap_err();
        assert_eq!(connect_error(&error), ErrorKind::NotFound);
    }
    let failed = stage.finish([]).connects_failed;
    assert_eq!(failed, if ground.is_tcp() { 1 } else { 2 });
}

fn a_connection_that_nobody_accepts_times_out(ground: &Ground) {
    let stage = ground.stage();
    let (listener, address) = ground.listener(0);
    let waiting = fill_backlog(&address);
    let options = StreamOptions::new().connect_timeout(Duration::from_millis(50));
    let error = stage.runtime.connect_with(&options, &address, || Echo).unwrap_err();
    assert_eq!(connect_error(&error), ErrorKind::TimedOut, "{error}");
    assert!(error.to_string().contains("nobody answered in time"), "{error}");
    drop((waiting, listener));
    assert_eq!(stage.finish([]).connects_failed, 1);
}

/// Connects until one is not answered.
pub(crate) fn fill_backlog(address: &Address) -> Vec<Peer> {
    let mut waiting = Vec::new();
    loop {
        let peer = Peer::unconnected(address);
        let target = crate::ground::to_sock_addr(address);
        let answered = match address {
            Address::Tcp(_) => peer.0.connect_timeout(&target, Duration::from_millis(100)).is_ok(),
            _ => {
                peer.0.set_nonblocking(true).unwrap();
                peer.0.connect(&target).is_ok()
            }
        };
        waiting.push(peer);
        if !answered {
            return waiting;
        }
        assert!(waiting.len() < 100, "the backlog has no end");
    }
}

/// Names with several addresses stand behind `localhost`; here they are given.
fn of_several_addresses_the_first_that_answers_is_taken(ground: &Ground) {
    struct Several(Vec<Address>);
    impl trochus::net::ToAddresses for Several {
        fn to_addresses(&self) -> trochus::Result<Vec<Address>> {
            Ok(self.0.clone())
        }
    }
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(|_| Echo);
    let (nobody, nowhere) = ground.listener(1);
    drop(nobody);
    let several = Several(vec![nowhere, server.local_addr().clone()]);
    let client = stage.runtime.connect(several, move || recorder.probe()).unwrap();
    log.opened();
    client.write(b"hello").unwrap();
    assert_eq!(log.bytes(5), b"hello");
    client.close().unwrap();
    assert_eq!(log.closed(), Ending::Closed);
    assert_eq!(stage.finish([server]).connects_failed, 1);
}

fn port_zero_is_any_free_port(ground: &Ground) {
    let stage = ground.stage();
    let servers: Vec<_> = (0..5).map(|_| stage.listen(|_| Echo)).collect();
    let mut ports: Vec<_> = servers.iter().map(|server| server.local_addr().port().unwrap()).collect();
    ports.sort_unstable();
    ports.dedup();
    assert!(ports.len() == 5 && !ports.contains(&0), "{ports:?}");
    stage.finish(servers);
}

fn the_peers_address_is_known(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |incoming| {
        let factory_peer = incoming.peer().clone();
        recorder.probe().open(move |io| {
            assert_eq!(*io.peer_addr(), factory_peer);
            let text = format!("{} {}", io.peer_addr(), io.local_addr().unwrap());
            io.write(text.as_bytes());
            io.close();
        })
    });
    let peer = Peer::connect(server.local_addr());
    let own = Address::Tcp(peer.0.local_addr().unwrap().as_socket().unwrap());
    let text = String::from_utf8(peer.receive_to_end()).unwrap();
    assert_eq!(text, format!("{own} {}", server.local_addr()));
    drop(peer);
    assert_eq!(log.closed(), Ending::Closed);
    stage.finish([server]);
}

fn an_address_of_nobody_is_refused(ground: &Ground) {
    let stage = ground.stage();
    // Set aside for documentation, so no machine has them.
    let nobody = if ground.transport == Transport::Tcp4 { "192.0.2.1:0" } else { "[2001:db8::1]:0" };
    let (kind, text) = listen_error(&stage.runtime, &Address::Tcp(nobody.parse().unwrap()));
    assert_eq!(kind, ErrorKind::AddrNotAvailable, "{text}");
    stage.finish([]);
}

fn an_ipv6_server_serves_ipv4_too(ground: &Ground) {
    let stage = ground.stage();
    let server = stage.runtime.listen("[::]:0", |_| Echo).unwrap();
    let port = server.local_addr().port().unwrap();
    for host in ["127.0.0.1", "[::1]"] {
        let peer = Peer::connect(&Address::Tcp(format!("{host}:{port}").parse().unwrap()));
        peer.send(b"hello");
        assert_eq!(peer.receive(5), b"hello");
    }
    stage.finish([server]);
}

fn an_ipv6_server_may_leave_ipv4_to_others(ground: &Ground) {
    let stage = ground.stage();
    let options = ListenOptions::new().only_v6(true);
    let server = stage.runtime.listen_with(&options, "[::]:0", |_| Echo).unwrap();
    let port = server.local_addr().port().unwrap();
    let v4 = Address::Tcp(format!("127.0.0.1:{port}").parse().unwrap());
    assert_eq!(Peer::try_connect(&v4).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    drop(Peer::connect(&Address::Tcp(format!("[::1]:{port}").parse().unwrap())));
    stage.finish([server]);
}

fn a_stale_socket_file_is_replaced(ground: &Ground) {
    let stage = ground.stage();
    let path = fresh_path();
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let server = stage.runtime.listen(path.as_path(), |_| Echo).unwrap();
    drop(UnixStream::connect(&path).unwrap());
    stage.finish([server]);
}

fn a_socket_file_in_use_stays(ground: &Ground) {
    let stage = ground.stage();
    let path = fresh_path();
    let owner = UnixListener::bind(&path).unwrap();
    let address = Address::Unix(path.clone());
    assert_eq!(listen_error(&stage.runtime, &address).0, ErrorKind::AddrInUse);
    // The attempt may have knocked, but the file still leads to its owner.
    let client = UnixStream::connect(&path).unwrap();
    owner.accept().unwrap();
    drop((client, owner));
    std::fs::remove_file(&path).unwrap();
    stage.finish([]);
}

fn a_file_that_is_no_socket_stays(ground: &Ground) {
    let stage = ground.stage();
    let path = fresh_path();
    std::fs::write(&path, "precious").unwrap();
    let (kind, text) = listen_error(&stage.runtime, &Address::Unix(path.clone()));
    assert_eq!(kind, ErrorKind::AddrInUse);
    assert!(text.contains("not a socket"), "{text}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    std::fs::remove_file(&path).unwrap();
    stage.finish([]);
}

fn the_socket_file_is_removed_in_the_end(ground: &Ground) {
    let stage = ground.stage();
    let (closed, stopped, dropped) = (fresh_path(), fresh_path(), fresh_path());
    let server = stage.runtime.listen(&closed, |_| Echo).unwrap();
    let serving = stage.runtime.listen(&stopped, |_| Echo).unwrap();
    assert!(closed.exists() && stopped.exists());
    server.close();
    crate::accounts::wait_until("the closed server's file is gone", || !closed.exists());
    assert!(stopped.exists());
    stage.shutdown(Duration::ZERO);
    assert!(!stopped.exists());
    drop(serving);
    let stage = ground.stage();
    stage.runtime.listen(&dropped, |_| Echo).unwrap().detach();
    drop(stage);
    assert!(!dropped.exists());
}

fn a_full_backlog_is_waited_for(ground: &Ground) {
    let stage = ground.stage();
    let (listener, address) = ground.listener(0);
    let mut waiting = fill_backlog(&address);
    // The last one is not even waiting.
    waiting.pop();
    let (log, recorder) = log();
    std::thread::scope(|scope| {
        let connecting = scope.spawn(|| stage.runtime.connect(&address, move || recorder.probe()));
        // Those who wait are accepted, and with them the newcomer.
        let accepted: Vec<_> = waiting.iter().map(|_| listener.accept().unwrap()).collect();
        let newcomer = Peer::over(listener.accept().unwrap().0);
        let client = connecting.join().unwrap().unwrap();
        client.write(b"at last").unwrap();
        client.close().unwrap();
        assert_eq!(newcomer.receive_to_end(), b"at last");
        drop(accepted);
    });
    assert_eq!(log.closed(), Ending::Closed);
    assert_eq!(stage.finish([]).connects_failed, 0);
}

fn a_directory_that_is_not_there_is_refused(ground: &Ground) {
    let stage = ground.stage();
    let path = fresh_path().join("no").join("such.sock");
    assert_eq!(listen_error(&stage.runtime, &Address::Unix(path)).0, ErrorKind::NotFound);
    let long = Address::Unix(format!("/tmp/{}", "x".repeat(200)).into());
    let connect = stage.runtime.connect(&long, || Echo).unwrap_err();
    assert_eq!(io::Error::from(connect).kind(), ErrorKind::InvalidInput);
    let (log, recorder) = log();
    stage
        .runtime
        .reactor(0)
        .run(move |reactor| _ = reactor.connect(&StreamOptions::new(), &long, recorder.probe()))
        .unwrap();
    assert!(matches!(log.next(), Event::Closed(Ending::ConnectFailed(ErrorKind::InvalidInput))));
    stage.finish([]);
}
