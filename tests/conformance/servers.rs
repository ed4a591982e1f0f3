//! A server's life apart from its runtime's: who is accepted and who is not, and what ends it.

use crate::accounts::{DEADLINE, wait_until};
use crate::ground::{Ground, Peer, fresh_path};
use crate::probe::{Echo, Ending, Event, log};
use crate::{Suite, suite};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::Duration;
use trochus::net::{Address, Incoming, ListenOptions};
use trochus::{Error, Runtime};

pub(crate) fn suites() -> Vec<Suite> {
    vec![
        suite!(
            "servers",
            |_| true,
            [
                a_dropped_server_accepts_no_more,
                a_detached_server_serves_on,
                a_stopped_server_ends_its_own_connections_only,
                what_does_not_finish_in_time_is_cut_off,
                a_grace_can_be_shortened,
                a_server_that_stops_is_awaited_without_a_thread,
                a_connection_may_be_refused,
                a_server_that_closes_resets_nobody,
                a_drain_resets_nobody,
                listening_does_not_wait,
                a_server_is_up_once_all_its_reactors_listen,
                gauges_say_what_there_is,
            ]
        ),
        suite!(
            "servers",
            Ground::has_sockets,
            [whoever_accepts_sees_the_socket, what_is_accepted_is_closed_on_exec]
        ),
        suite!("servers", Ground::is_tcp, [all_addresses_of_a_name_are_listened_on]),
        suite!("servers", |ground| ground.is_tcp() && ground.is_plain(), [an_ipv4_peer_has_its_own_address]),
        suite!("servers", Ground::is_unix, [a_mixed_list_of_addresses_is_listened_on, the_files_mode_is_set]),
    ]
}

fn nobody_listens(address: &Address) {
    wait_until("nobody listens", || Peer::try_connect(address).is_err());
}

pub(crate) fn is_served(peer: &Peer) {
    peer.send(b"served?");
    assert_eq!(peer.receive(7), b"served?");
}

fn a_dropped_server_accepts_no_more(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| recorder.echo());
    let peer = Peer::connect(server.local_addr());
    log.opened();
    let address = server.local_addr().clone();
    drop(server);
    nobody_listens(&address);
    is_served(&peer);
    drop(peer);
    stage.finish([]);
}

fn a_detached_server_serves_on(ground: &Ground) {
    let stage = ground.stage();
    let server = stage.listen(|_| Echo);
    let address = server.local_addr().clone();
    server.detach();
    // Had it been closed, this would be behind it.
    stage.listen(|_| Echo).close();
    for _ in 0..4 {
        is_served(&Peer::connect(&address));
    }
    stage.shutdown(DEADLINE);
    assert!(Peer::try_connect(&address).is_err());
}

fn a_stopped_server_ends_its_own_connections_only(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let stopped = stage.listen(move |_| recorder.echo());
    let other = stage.listen(|_| Echo);
    let peers: Vec<Peer> = (0..6).map(|_| Peer::connect(stopped.local_addr())).collect();
    peers.iter().for_each(|_| drop(log.opened()));
    let stranger = Peer::connect(other.local_addr());
    is_served(&stranger);
    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| stopped.stop(DEADLINE).unwrap());
        for peer in peers {
            assert!(peer.receive_to_end().is_empty());
        }
        let drained = stopping.join().unwrap();
        assert_eq!((drained.closed, drained.cut_off), (6, 0));
    });
    assert!(stopped.connections() == 0 && !stopped.is_accepting() && other.is_accepting());
    assert_eq!(log.rest().iter().filter(|event| matches!(event, Event::Asked)).count(), 6);
    assert!(Peer::try_connect(stopped.local_addr()).is_err());
    is_served(&stranger);
    is_served(&Peer::connect(other.local_addr()));
    drop(stranger);
    // Nothing is left to stop.
    let again = stopped.stop(Duration::MAX).unwrap();
    assert_eq!((again.closed, again.cut_off), (0, 0));
    stage.shutdown(DEADLINE);
}

fn what_does_not_finish_in_time_is_cut_off(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |incoming| {
        let stubborn = incoming.local_addr().is_ok();
        let probe = recorder.probe().end(|io| io.close());
        if stubborn { probe.shutdown(|_| {}) } else { probe }
    });
    let peers: Vec<Peer> = (0..4).map(|_| Peer::connect(server.local_addr())).collect();
    peers.iter().for_each(|_| drop(log.opened()));
    let mut peers = peers.into_iter();
    drop(peers.next());
    log.closed();
    wait_until("its seat is free", || server.connections() == 3);
    let drained = server.stop(Duration::from_millis(20)).unwrap();
    assert_eq!((drained.closed, drained.cut_off), (0, 3));
    assert_eq!(stage.metrics().connections_cut_off, 3);
    for _ in 0..3 {
        assert_eq!(log.closed(), Ending::Shutdown);
    }
    stage.finish([server]);
}

fn a_grace_can_be_shortened(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| recorder.probe().shutdown(|_| {}));
    let peer = Peer::connect(server.local_addr());
    log.opened();
    let long = server.stop_async(Duration::MAX);
    log.find(|event| matches!(event, Event::Asked).then_some(()));
    let short = server.stop(Duration::ZERO).unwrap();
    assert_eq!((short.closed, short.cut_off), (0, 1));
    let long = long.wait().unwrap();
    assert_eq!((long.closed, long.cut_off), (0, 1));
    drop(peer);
    stage.shutdown(DEADLINE);
}

fn a_server_that_stops_is_awaited_without_a_thread(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| recorder.echo());
    let peer = Peer::connect(server.local_addr());
    log.opened();
    let mut stopping = server.stop_async(DEADLINE);
    assert!(peer.receive_to_end().is_empty());
    assert!(stopping.try_take().is_none() || stopping.is_done());
    drop(peer);
    assert_eq!(stopping.wait().unwrap().closed, 1);
    stage.shutdown(DEADLINE);
}

fn a_connection_may_be_refused(ground: &Ground) {
    let stage = ground.stage();
    let count = AtomicUsize::new(0);
    let server =
        stage.listen(move |_| count.fetch_add(1, Ordering::SeqCst).is_multiple_of(2).then_some(Echo));
    for _ in 0..3 {
        let welcome = Peer::connect(server.local_addr());
        is_served(&welcome);
        // A Unix-domain socket knows no reset before something was written.
        Peer::is_refused_at(server.local_addr());
    }
    let results =
        stage.listen(|incoming: &Incoming<'_>| if false { Ok(Echo) } else { Err(incoming.peer().clone()) });
    Peer::is_refused_at(results.local_addr());
    wait_until("all are gone", || stage.metrics().connections_refused == 4);
    let metrics = stage.finish([server, results]);
    assert_eq!((metrics.connections_opened, metrics.connections_refused), (3, 4));
}

fn whoever_accepts_sees_the_socket(ground: &Ground) {
    let stage = ground.stage();
    let (tell, told) = mpsc::channel();
    let server = stage.listen(move |incoming| {
        let size = incoming
            .socket()
            .unwrap()
            .set_recv_buffer_size(64 << 10)
            .and_then(|()| incoming.socket().unwrap().recv_buffer_size());
        tell.send((incoming.peer().clone(), incoming.local_addr().unwrap(), size.unwrap())).unwrap();
        Echo
    });
    let peer = Peer::connect(server.local_addr());
    let (from, to, size) = told.recv_timeout(DEADLINE).unwrap();
    if let Some(own) = peer.0.local_addr().unwrap().as_socket() {
        assert_eq!(from, Address::Tcp(own));
    }
    assert_eq!(to, *server.local_addr());
    assert!((64 << 10..=256 << 10).contains(&size), "{size}");
    is_served(&peer);
    drop(peer);
    stage.finish([server]);
}

/// Whether the reactors are asleep or not is up to them; while they are kept busy, connections queue up in the kernel.
fn hold_reactors(runtime: &Runtime) -> mpsc::Sender<()> {
    let (release, released) = mpsc::channel::<()>();
    let released = std::sync::Arc::new(std::sync::Mutex::new(released));
    for index in 0..runtime.reactors() {
        let (released, (tell, told)) = (released.clone(), mpsc::channel());
        let hold = move |_: &mut trochus::Reactor| {
            tell.send(()).unwrap();
            // Until the sender is dropped.
            while released.lock().unwrap().recv().is_ok() {}
        };
        runtime.reactor(index).run(hold).unwrap();
        told.recv_timeout(DEADLINE).unwrap();
    }
    release
}

fn a_server_that_closes_resets_nobody(ground: &Ground) {
    for _ in 0..5 {
        let stage = ground.stage();
        let server = stage.listen(|_| Echo);
        // Before it closes, and before anybody was told of them.
        let release = hold_reactors(&stage.runtime);
        let peers: Vec<Peer> = (0..40).map(|_| Peer::connect(server.local_addr())).collect();
        peers.iter().for_each(|peer| peer.send(b"served?"));
        drop(server);
        drop(release);
        for peer in &peers {
            assert_eq!(peer.receive(7), b"served?");
        }
        drop(peers);
        let metrics = stage.finish([]);
        assert_eq!((metrics.connections_opened, metrics.connections_refused), (40, 0));
    }
}

/// Or a child would hold connections open that this process has closed.
fn what_is_accepted_is_closed_on_exec(ground: &Ground) {
    let stage = ground.stage();
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let server = stage.listen(move |incoming: &Incoming<'_>| {
        tell.lock().unwrap().send(rustix::io::fcntl_getfd(&*incoming.socket().unwrap()).unwrap()).unwrap();
        Echo
    });
    let peers: Vec<_> = (0..4).map(|_| Peer::connect(server.local_addr())).collect();
    for peer in &peers {
        is_served(peer);
        assert!(told.recv_timeout(DEADLINE).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    }
    drop(peers);
    stage.finish([server]);
}

fn a_drain_resets_nobody(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| recorder.probe().open(|io| io.write(b"goodbye")));
    let release = hold_reactors(&stage.runtime);
    let peers: Vec<Peer> = (0..40).map(|_| Peer::connect(server.local_addr())).collect();
    let stopping = stage.runtime.shutdown_async(DEADLINE);
    drop(release);
    for peer in peers {
        // Told as they opened that they should end.
        assert_eq!(peer.receive_to_end(), b"goodbye");
    }
    let drained = stopping.wait().unwrap();
    assert_eq!((drained.closed, drained.cut_off), (40, 0));
    assert_eq!(log.rest().iter().filter(|event| matches!(event, Event::Asked)).count(), 40);
    drop(server);
}

fn listening_does_not_wait(ground: &Ground) {
    let stage = ground.stage();
    let release = hold_reactors(&stage.runtime);
    let mut starting = stage.runtime.listen_async(&ListenOptions::new(), ground.fresh_address(), |_| Echo);
    let unwanted = stage.runtime.listen_async(&ListenOptions::new(), ground.fresh_address(), |_| Echo);
    assert!(starting.try_take().is_none());
    drop(unwanted);
    drop(release);
    let server = starting.wait().unwrap();
    is_served(&Peer::connect(server.local_addr()));
    // The unwanted one is gone as well.
    stage.finish([server]);
}

fn a_server_is_up_once_all_its_reactors_listen(ground: &Ground) {
    let stage = ground.stage();
    let (release, held) = mpsc::channel::<()>();
    let holding = stage.runtime.run_on(1, move |_| held.recv().is_err());
    let mut starting = stage.runtime.listen_async(&ListenOptions::new(), ground.fresh_address(), |_| Echo);
    stage.runtime.run_on(0, |_| ()).wait().unwrap();
    assert!(starting.try_take().is_none(), "one of two listens");
    drop(release);
    let server = starting.wait().unwrap();
    is_served(&Peer::connect(server.local_addr()));
    assert!(holding.wait().unwrap());
    stage.finish([server]);
}

fn all_addresses_of_a_name_are_listened_on(ground: &Ground) {
    let stage = ground.stage();
    let names: Vec<Address> =
        ["127.0.0.1:0", "[::1]:0", "127.0.0.1:0"].map(|text| Address::Tcp(text.parse().unwrap())).into();
    let server = stage.runtime.listen(names, |_| Echo).unwrap();
    let [v4, v6] = server.local_addrs() else { panic!("{:?}", server.local_addrs()) };
    assert_eq!((v4, v4.port()), (server.local_addr(), v6.port()));
    for address in [v4, v6] {
        is_served(&Peer::connect(address));
    }
    // One that this machine does not have is left out, unless it is the only one.
    let some = ["127.0.0.1:0", "192.0.2.1:0"].map(|text| Address::Tcp(text.parse().unwrap()));
    let partly = stage.runtime.listen(some.as_slice(), |_| Echo).unwrap();
    assert_eq!(partly.local_addrs().len(), 1);
    // One that is in use is not left out: half a server helps nobody.
    let half = [Address::Tcp("127.0.0.2:0".parse().unwrap()), v4.clone()];
    let error = stage.runtime.listen(half.as_slice(), |_| Echo).unwrap_err();
    assert!(matches!(&error, Error::Listen { address, .. } if *address == v4.to_string()), "{error}");
    stage.finish([server, partly]);
}

fn an_ipv4_peer_has_its_own_address(ground: &Ground) {
    let stage = ground.stage();
    let (tell, told) = mpsc::channel();
    let server = stage
        .runtime
        .listen("[::]:0", move |incoming| {
            tell.send((incoming.peer().clone(), incoming.local_addr().unwrap())).unwrap();
            Echo
        })
        .unwrap();
    let port = server.local_addr().port().unwrap();
    let v4 = Address::Tcp(format!("127.0.0.1:{port}").parse().unwrap());
    let peer = Peer::connect(&v4);
    let own = Address::Tcp(peer.0.local_addr().unwrap().as_socket().unwrap());
    assert_eq!(told.recv_timeout(DEADLINE).unwrap(), (own, v4));
    drop(peer);
    stage.finish([server]);
}

fn a_mixed_list_of_addresses_is_listened_on(ground: &Ground) {
    let stage = ground.stage();
    let mixed = [Address::Tcp("127.0.0.1:0".parse().unwrap()), Address::Unix(fresh_path())];
    for mixed in [mixed.to_vec(), mixed.iter().rev().cloned().collect()] {
        let server = stage.runtime.listen(&mixed, |_| Echo).unwrap();
        assert_eq!(server.local_addrs().len(), 2);
        for address in server.local_addrs() {
            for _ in 0..4 {
                is_served(&Peer::connect(address));
            }
        }
        assert_eq!(server.stop(DEADLINE).unwrap().cut_off, 0);
    }
    stage.finish([]);
}

fn the_files_mode_is_set(ground: &Ground) {
    use std::os::unix::fs::PermissionsExt;
    let stage = ground.stage();
    let path = fresh_path();
    let server = stage.runtime.listen_with(&ListenOptions::new().unix_mode(0o600), &path, |_| Echo).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    is_served(&Peer::connect(server.local_addr()));
    stage.finish([server]);
}

fn gauges_say_what_there_is(ground: &Ground) {
    let stage = ground.single();
    let (log, recorder) = log();
    let server = stage.listen(move |_| {
        recorder.probe().bytes(|io, bytes| {
            if bytes.starts_with(b"pause") {
                io.pause_reading();
                return 0;
            }
            io.write(&[7; 8 << 20]);
            bytes.len()
        })
    });
    let peers: Vec<Peer> = (0..3).map(|_| Peer::connect(server.local_addr())).collect();
    let handles: Vec<_> = peers.iter().map(|_| log.opened()).collect();
    peers[0].send(b"pause");
    peers[1].send(b"much");
    let gauges = || stage.runtime.gauges().unwrap()[0];
    wait_until("one is paused, one waits for its peer", || (gauges().paused, gauges().throttled) == (1, 1));
    let now = gauges();
    assert_eq!((now.connections, now.connecting, now.closing, now.listeners), (3, 0, 0, 1));
    assert_eq!((now.input_bytes, now.starved, now.outbox_bytes), (5, 0, 0));
    assert!((1 << 20..=8 << 20).contains(&now.output_bytes), "{now:?}");
    assert!(now.operations >= 2 || !ground.has_sockets(), "{now:?}");
    let text = trochus::Gauges::to_prometheus(&stage.runtime.gauges().unwrap());
    assert!(text.contains("trochus_reactor_paused{reactor=\"0\"} 1\n"), "{text}");
    // What a stalled peer's writers are refused shows.
    let refused = stage.metrics().writes_refused;
    let stalled = handles.iter().find(|handle| handle.pending() > 0).unwrap();
    while stalled.try_write(&[0; 1 << 20]).is_ok() {}
    assert!(stage.metrics().writes_refused > refused);
    wait_until("what was accepted waits", || gauges().outbox_bytes > 0);
    let by_reactor = trochus::Metrics::to_prometheus_by_reactor(&stage.runtime.metrics_by_reactor());
    assert!(by_reactor.contains("trochus_connections{reactor=\"0\"} 3\n"));
    let info = stage.runtime.reactor_info(0);
    assert_eq!((info.backend, info.core), (ground.backend, None));
    assert!(info.backend_reason.contains("asks for it"), "{info:?}");
    handles.iter().for_each(|handle| handle.abort().unwrap());
    drop(peers);
    stage.finish([server]);
}
