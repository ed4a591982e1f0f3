//! Connecting: to whichever of several addresses answers, with options, and with a change of mind.

use crate::accounts::{DEADLINE, wait_until};
use crate::addresses::fill_backlog;
use crate::ground::{Ground, Peer};
use crate::probe::{Echo, Ending, Event, log};
use crate::{Suite, suite};
use std::io::ErrorKind;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use trochus::net::{Address, ListenOptions, StreamOptions};
use trochus::{Error, Reactor};

pub(crate) fn suites() -> Vec<Suite> {
    vec![
        suite!(
            "connecting",
            Ground::has_sockets,
            [
                an_address_that_does_not_answer_holds_up_nobody,
                when_none_answers_the_last_one_is_told,
                whoever_is_not_wanted_any_more_is_cancelled,
                an_attempt_is_cancelled,
                several_attempts_are_cancelled_together,
                of_several_addresses_a_handler_hears_once,
                the_reactors_connect_in_turn,
                a_reactor_that_drains_connects_no_more,
                a_drain_ends_several_attempts,
                settings_that_cannot_work_are_refused,
                without_waiting_on_a_reactors_thread,
                a_hook_sees_the_socket_first,
                a_connected_socket_is_taken_in,
                a_closed_socket_is_not_taken_in,
            ]
        ),
        suite!("connecting", Ground::is_tcp, [the_local_address_is_chosen, socket_options_are_set]),
    ]
}

fn patient() -> StreamOptions {
    StreamOptions::new().connect_timeout(Duration::MAX)
}

fn the_reactors_connect_in_turn(ground: &Ground) {
    let stage = ground.stage();
    let (listener, address) = ground.listener(8);
    let mut accepted = Vec::new();
    for _ in 0..3 * stage.runtime.reactors() {
        stage.runtime.connect(&address, || Echo).unwrap();
        accepted.push(listener.accept().unwrap());
    }
    for metrics in stage.runtime.metrics_by_reactor() {
        assert_eq!(metrics.connections_opened, 3);
    }
    drop(accepted);
    stage.finish([]);
}

fn an_address_that_does_not_answer_holds_up_nobody(ground: &Ground) {
    let stage = ground.stage();
    let (silent, nowhere) = ground.listener(0);
    let waiting = fill_backlog(&nowhere);
    let (log, recorder) = log();
    let server = stage.listen(|_| Echo);
    let addresses = [nowhere.clone(), server.local_addr().clone(), nowhere];
    let client =
        stage.runtime.connect_with(&patient(), addresses.as_slice(), move || recorder.probe()).unwrap();
    log.opened();
    client.write(b"hello").unwrap();
    assert_eq!(log.bytes(5), b"hello");
    client.close().unwrap();
    assert_eq!(log.closed(), Ending::Closed);
    drop((silent, waiting));
    // The one that was overtaken came to nothing; the third was never tried.
    assert_eq!(stage.finish([server]).connects_failed, 1);
}

fn when_none_answers_the_last_one_is_told(ground: &Ground) {
    let stage = ground.stage();
    let addresses: Vec<Address> = (0..3).map(|_| ground.listener(1).1).collect();
    let made = Arc::new(Mutex::new(false));
    let theirs = made.clone();
    let make = move || {
        *theirs.lock().unwrap() = true;
        Echo
    };
    let error = stage.runtime.connect(&addresses, make).unwrap_err();
    let Error::Connect { address, source, .. } = &error else { panic!("{error}") };
    assert_eq!(
        (address.as_str(), source.kind()),
        (addresses[2].to_string().as_str(), ErrorKind::ConnectionRefused)
    );
    assert!(!*made.lock().unwrap());
    addresses.iter().for_each(|address| {
        if let Address::Unix(path) = address {
            std::fs::remove_file(path).unwrap();
        }
    });
    assert_eq!(stage.finish([]).connects_failed, 3);
}

fn whoever_is_not_wanted_any_more_is_cancelled(ground: &Ground) {
    let stage = ground.stage();
    let (silent, nowhere) = ground.listener(0);
    let waiting = fill_backlog(&nowhere);
    let (log, recorder) = log();
    let mut connecting = stage.runtime.connect_async(&patient(), &nowhere, move || recorder.probe());
    for index in 0..stage.runtime.reactors() {
        // Behind it, the attempt has begun.
        on_reactor_of(&stage, index, |_| ());
    }
    assert!(connecting.try_take().is_none());
    drop(connecting);
    wait_until("it has ended", || stage.metrics().connects_failed == 1);
    assert!(log.rest().is_empty());
    // One that has not even begun is not begun.
    drop(stage.runtime.connect_async(&patient(), &nowhere, || Echo));
    drop((silent, waiting));
    stage.finish([]);
}

/// Does something on a reactor, and waits until it is done.
fn on_reactor_of<T: Send + 'static>(
    stage: &crate::ground::Stage,
    index: usize,
    action: impl FnOnce(&mut Reactor) -> T + Send + 'static,
) -> T {
    let (send, result) = mpsc::channel();
    stage.runtime.reactor(index).run(move |reactor| send.send(action(reactor)).unwrap()).unwrap();
    result.recv_timeout(DEADLINE).unwrap()
}

/// The same on the first one.
fn on_reactor<T: Send + 'static>(
    stage: &crate::ground::Stage,
    action: impl FnOnce(&mut Reactor) -> T + Send + 'static,
) -> T {
    on_reactor_of(stage, 0, action)
}

fn an_attempt_is_cancelled(ground: &Ground) {
    let stage = ground.stage();
    let (silent, nowhere) = ground.listener(0);
    let waiting = fill_backlog(&nowhere);
    let (log, recorder) = log();
    let dialing = on_reactor(&stage, move |reactor| reactor.connect(&patient(), &nowhere, recorder.probe()));
    assert!(log.rest().is_empty());
    dialing.cancel();
    assert_eq!(log.closed(), Ending::Aborted);
    drop((silent, waiting));
    assert_eq!(stage.finish([]).connects_failed, 1);
}

fn several_attempts_are_cancelled_together(ground: &Ground) {
    let stage = ground.stage();
    let (silent, nowhere) = ground.listener(0);
    let waiting = fill_backlog(&nowhere);
    let (log, recorder) = log();
    let addresses = vec![nowhere; 3];
    let dialing =
        on_reactor(&stage, move |reactor| reactor.connect_any(&patient(), &addresses, recorder.probe()));
    dialing.cancel();
    dialing.clone().cancel();
    assert_eq!(log.closed(), Ending::Aborted);
    drop((silent, waiting));
    stage.finish([]);
    assert!(log.rest().is_empty());
    // What has ended is not concerned any more.
    dialing.cancel();
}

fn of_several_addresses_a_handler_hears_once(ground: &Ground) {
    let stage = ground.stage();
    let server = stage.listen(|_| Echo);
    let (dead, (log, recorder)) = (ground.listener(1).1, log());
    let good = vec![dead.clone(), server.local_addr().clone(), server.local_addr().clone()];
    let probe = recorder.probe().open(|io| io.write(b"hello"));
    on_reactor(&stage, move |reactor| _ = reactor.connect_any(&patient(), &good, probe));
    let handle = log.opened();
    assert_eq!(log.bytes(5), b"hello");
    handle.close().unwrap();
    assert_eq!(log.closed(), Ending::Closed);
    let bad = vec![dead.clone(), dead.clone()];
    let probe = recorder.probe();
    on_reactor(&stage, move |reactor| _ = reactor.connect_any(&patient(), &bad, probe));
    assert_eq!(log.closed(), Ending::ConnectFailed(ErrorKind::ConnectionRefused));
    let probe = recorder.probe();
    on_reactor(&stage, move |reactor| _ = reactor.connect_any(&patient(), &[], probe));
    assert_eq!(log.closed(), Ending::ConnectFailed(ErrorKind::InvalidInput));
    if let Address::Unix(path) = dead {
        std::fs::remove_file(path).unwrap();
    }
    assert_eq!(stage.finish([server]).connects_failed, 3);
    assert!(log.rest().is_empty());
}

fn a_reactor_that_drains_connects_no_more(ground: &Ground) {
    let stage = ground.stage();
    let server = stage.listen(|_| Echo);
    let (address, (log, recorder)) = (server.local_addr().clone(), log());
    let (one, any) = (recorder.probe(), recorder.probe());
    on_reactor(&stage, move |reactor| {
        reactor.begin_drain(DEADLINE);
        reactor.connect(&patient(), &address, one);
        reactor.connect_any(&patient(), &[address.clone(), address], any);
        assert!(reactor.listen("127.0.0.1:0", |_| Echo).unwrap_err().to_string().contains("draining"));
    });
    for _ in 0..2 {
        assert_eq!(log.closed(), Ending::ConnectFailed(ErrorKind::Other));
    }
    stage.shutdown(DEADLINE);
    drop(server);
}

fn a_drain_ends_several_attempts(ground: &Ground) {
    let stage = ground.stage();
    let (silent, nowhere) = ground.listener(0);
    let waiting = fill_backlog(&nowhere);
    let (log, recorder) = log();
    let addresses = vec![nowhere.clone(); 3];
    let probe = recorder.probe();
    on_reactor(&stage, move |reactor| _ = reactor.connect_any(&patient(), &addresses, probe));
    let connecting = stage.runtime.connect_async_on(1, &patient(), &nowhere, || Echo);
    stage.shutdown(Duration::MAX);
    assert_eq!(log.closed(), Ending::Shutdown);
    assert!(connecting.wait().is_err() && log.rest().is_empty());
    drop((silent, waiting));
}

fn settings_that_cannot_work_are_refused(ground: &Ground) {
    let stage = ground.stage();
    let server = stage.listen(|_| Echo);
    let (log, recorder) = log();
    for options in [
        StreamOptions::new().output_limits(0, 1),
        StreamOptions::new().keepalive_count(0),
        StreamOptions::new().keepalive_interval(Duration::ZERO),
    ] {
        let (address, probe, theirs) = (server.local_addr().clone(), recorder.probe(), options.clone());
        on_reactor(&stage, move |reactor| _ = reactor.connect(&theirs, &address, probe));
        assert_eq!(log.closed(), Ending::ConnectFailed(ErrorKind::InvalidInput));
        let error = stage.runtime.connect_with(&options, server.local_addr(), || Echo).unwrap_err();
        assert!(matches!(error, Error::InvalidSetting(_)), "{error}");
    }
    stage.finish([server]);
}

fn without_waiting_on_a_reactors_thread(ground: &Ground) {
    let runtime = Arc::new(ground.runtime_builder().build().unwrap());
    let server = runtime.listen(ground.fresh_address(), |_| Echo).unwrap();
    let (address, (tell, told)) = (server.local_addr().clone(), mpsc::channel());
    let (theirs, fresh, (log, recorder)) = (runtime.clone(), ground.fresh_address(), log());
    let reactor = runtime.reactor(0).clone();
    drop(runtime);
    reactor
        .run(move |_| {
            let refused = [
                theirs.connect(&address, || Echo).err(),
                theirs.listen(&fresh, |_| Echo).err(),
                theirs.wait().err(),
                theirs.wait_for_interrupt().err(),
                trochus::net::wait_for_interrupt().err(),
                theirs.wait_for_signal().err(),
                trochus::net::wait_for_signal().err(),
                server.stop(Duration::MAX).err(),
                server.sockets().err(),
                trochus::Runtime::new().err(),
            ];
            let connecting = theirs.connect_async(&patient(), &address, move || recorder.probe());
            let listening = theirs.listen_async(&ListenOptions::new(), &fresh, |_| Echo);
            tell.send((refused, connecting, listening, server, theirs)).unwrap();
        })
        .unwrap();
    let (refused, connecting, listening, server, runtime) = told.recv_timeout(DEADLINE).unwrap();
    for error in refused {
        assert!(matches!(&error, Some(Error::OnReactorThread { .. })), "{error:?}");
    }
    let client = connecting.wait().unwrap();
    client.write(b"x").unwrap();
    assert_eq!(log.bytes_after_open(1), b"x");
    drop(Peer::connect(listening.wait().unwrap().local_addr()));
    assert!(server.is_accepting());
    client.close().unwrap();
    log.closed();
    // The last one goes on a reactor's thread, which cannot wait for itself, and ends all the same.
    let runtime = Arc::into_inner(runtime).unwrap();
    let ended = runtime.wait_async();
    let (reactor, dropped) = (runtime.reactor(0).clone(), Mutex::new(Some(runtime)));
    reactor.run(move |_| drop(dropped.lock().unwrap().take())).unwrap();
    drop((reactor, server));
    ended.wait().unwrap();
    // Its threads have nothing left but their end.
    wait_until("nothing is left of it", || {
        std::fs::read_dir("/proc/self/task").is_ok_and(no_reactors) || cfg!(not(target_os = "linux"))
    });
}

fn no_reactors(threads: std::fs::ReadDir) -> bool {
    threads.flatten().all(|thread| {
        let name = std::fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
        !name.starts_with("trochus-")
    })
}

fn a_hook_sees_the_socket_first(ground: &Ground) {
    let stage = ground.stage();
    let sized = StreamOptions::new().prepare(|socket| socket.set_send_buffer_size(32 << 10));
    let listen = ListenOptions::new().stream(sized.clone());
    let server = stage.listen_with(&listen, |_| Echo);
    let (log, recorder) = log();
    let (tell, told) = mpsc::channel();
    let make = move || {
        recorder.probe().open(move |io| tell.send(io.socket().unwrap().send_buffer_size().unwrap()).unwrap())
    };
    let client = stage.runtime.connect_with(&sized, server.local_addr(), make).unwrap();
    assert!(told.recv_timeout(DEADLINE).unwrap() <= 64 << 10);
    client.close().unwrap();
    log.closed();
    let refusing = StreamOptions::new().prepare(|_| Err(ErrorKind::PermissionDenied.into()));
    let error = stage.runtime.connect_with(&refusing, server.local_addr(), || Echo).unwrap_err();
    assert!(matches!(&error, Error::Connect { source, .. } if source.kind() == ErrorKind::PermissionDenied));
    let listen = ListenOptions::new().stream(refusing);
    let error = stage.runtime.listen_with(&listen, ground.fresh_address(), |_| Echo).unwrap_err();
    assert!(matches!(&error, Error::Listen { source, .. } if source.kind() == ErrorKind::PermissionDenied));
    stage.finish([server]);
}

fn a_connected_socket_is_taken_in(ground: &Ground) {
    let stage = ground.stage();
    let (listener, address) = ground.listener(8);
    for nonblocking in [false, true] {
        let own = Peer::connect(&address);
        let peer = Peer::over(listener.accept().unwrap().0);
        own.0.set_nonblocking(nonblocking).unwrap();
        let (log, recorder) = log();
        let probe = recorder.echo().open(|io| io.write(b"hello"));
        let handle =
            on_reactor(&stage, move |reactor| reactor.adopt(&StreamOptions::new(), own.0, probe)).unwrap();
        log.opened();
        assert_eq!(peer.receive(5), b"hello");
        std::thread::sleep(Duration::from_millis(5));
        peer.send(b"echo");
        assert_eq!(peer.receive(4), b"echo");
        handle.write(b"!").unwrap();
        assert_eq!(peer.receive(1), b"!");
        drop(peer);
        log.find(|event| matches!(event, Event::Closed(_)).then_some(()));
    }
    drop(listener);
    if let Address::Unix(path) = address {
        std::fs::remove_file(path).unwrap();
    }
    assert_eq!(stage.finish([]).connections_opened, 2);
}

fn a_closed_socket_is_not_taken_in(ground: &Ground) {
    let stage = ground.stage();
    let (listener, address) = ground.listener(8);
    let own = Peer::unconnected(&address);
    let listening = listener.try_clone().unwrap();
    let peer = Peer::connect(&address);
    let (unconnected, listening, draining) = on_reactor(&stage, move |reactor| {
        let options = StreamOptions::new();
        let unconnected = reactor.adopt(&options, own.0, Echo).err();
        let listening = reactor.adopt(&options, listening, Echo).err();
        reactor.begin_drain(DEADLINE);
        (unconnected.unwrap(), listening.unwrap(), reactor.adopt(&options, peer.0, Echo).unwrap_err())
    });
    assert!(matches!(unconnected, Error::System { .. }) && matches!(listening, Error::System { .. }));
    assert!(draining.to_string().contains("draining"), "{draining}");
    if let Address::Unix(path) = address {
        std::fs::remove_file(path).unwrap();
    }
    stage.shutdown(DEADLINE);
}

fn the_local_address_is_chosen(ground: &Ground) {
    let stage = ground.stage();
    let (listener, address) = ground.listener(8);
    let Address::Tcp(target) = address else { unreachable!("tcp") };
    let from = std::net::SocketAddr::new(target.ip(), 0);
    let options = StreamOptions::new().local_addr(from);
    let client = stage.runtime.connect_with(&options, target, || Echo).unwrap();
    let (_peer, seen) = listener.accept().unwrap();
    assert_eq!(seen.as_socket().unwrap().ip(), target.ip());
    client.abort().unwrap();
    let other = if target.is_ipv4() { "[::1]:0" } else { "127.0.0.1:0" };
    let options = StreamOptions::new().local_addr(other.parse().unwrap());
    let error = stage.runtime.connect_with(&options, target, || Echo).unwrap_err();
    assert!(error.to_string().contains("family"), "{error}");
    if target.is_ipv4() && cfg!(target_os = "linux") {
        let options = StreamOptions::new().local_addr("127.0.0.9:0".parse().unwrap());
        let client = stage.runtime.connect_with(&options, target, || Echo).unwrap();
        let (_peer, seen) = listener.accept().unwrap();
        assert_eq!(seen.as_socket().unwrap().ip(), "127.0.0.9".parse::<std::net::IpAddr>().unwrap());
        client.abort().unwrap();
    }
    stage.finish([]);
}

fn socket_options_are_set(ground: &Ground) {
    let stage = ground.stage();
    let options = StreamOptions::new()
        .keepalive(Duration::from_secs(70))
        .keepalive_interval(Duration::from_secs(7))
        .keepalive_count(3)
        .traffic_class(0x88)
        .unsent_lowat(100_000)
        .congestion("reno");
    let (tell, told) = mpsc::channel();
    let look = move |socket: socket2::SockRef<'_>, v4: bool| {
        let class = if v4 { socket.tos_v4().unwrap() } else { socket.tclass_v6().unwrap() };
        let keepalive = (socket.tcp_keepalive_interval().unwrap(), socket.tcp_keepalive_retries().unwrap());
        #[cfg(target_os = "linux")]
        let linux =
            (socket.tcp_notsent_lowat().unwrap(), socket.tcp_congestion().unwrap().starts_with(b"reno"));
        #[cfg(not(target_os = "linux"))]
        let linux = (100_000, true);
        tell.send((class, keepalive, linux)).unwrap();
    };
    let v4 = ground.transport == crate::ground::Transport::Tcp4;
    let (log, recorder) = log();
    let (accepted, connected, theirs) = (look.clone(), look, recorder.clone());
    let listen = ListenOptions::new().stream(options.clone());
    let server = stage.listen_with(&listen, move |_| {
        let look = accepted.clone();
        theirs.probe().open(move |io| look(io.socket().unwrap(), v4))
    });
    let make = move || recorder.probe().open(move |io| connected(io.socket().unwrap(), v4));
    let client = stage.runtime.connect_with(&options, server.local_addr(), make).unwrap();
    for _ in 0..2 {
        let seen = told.recv_timeout(DEADLINE).unwrap();
        assert_eq!(seen, (0x88, (Duration::from_secs(7), 3), (100_000, true)));
    }
    client.close().unwrap();
    log.closed();
    stage.finish([server]);
}
