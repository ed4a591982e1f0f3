//! Stopping a runtime, in every state that its connections can be in.

use crate::accounts::{DEADLINE, open_descriptors, wait_until};
use crate::addresses::fill_backlog;
use crate::ground::{Ground, Peer, pattern};
use crate::probe::{Echo, Ending, Event, log};
use crate::{Suite, suite};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;
use trochus::Error;
use trochus::net::{Handle, StreamOptions};

pub(crate) fn suites() -> Vec<Suite> {
    vec![
        suite!(
            "shutdown",
            |_| true,
            [
                with_nothing_to_do,
                of_idle_connections_closes_them,
                delivers_pending_output,
                lets_requests_in_progress_finish,
                cuts_off_whoever_does_not_close,
                cuts_off_at_once_without_grace,
                cuts_off_whoever_does_not_read,
                cuts_off_a_peer_that_does_not_finish,
                of_paused_connections_closes_them,
                of_many_connections_under_load,
                by_dropping_the_runtime,
                by_dropping_the_runtime_on_one_of_its_reactors,
                refuses_work_from_then_on,
            ]
        ),
        suite!("shutdown", Ground::has_sockets, [ends_a_connection_attempt]),
    ]
}

const MUCH: usize = 8 << 20;
const SHORT: Duration = Duration::from_millis(30);

fn with_nothing_to_do(ground: &Ground) {
    ground.stage().shutdown(Duration::ZERO);
    let stage = ground.stage();
    stage.listen(|_| Echo).detach();
    stage.shutdown(DEADLINE);
}

fn of_idle_connections_closes_them(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| recorder.probe());
    let peers: Vec<Peer> = (0..20).map(|_| Peer::connect(server.local_addr())).collect();
    peers.iter().for_each(|_| drop(log.opened()));
    let stopping = thread::spawn(move || stage.shutdown(DEADLINE));
    peers.iter().for_each(|peer| assert!(peer.receive_to_end().is_empty()));
    drop(peers);
    assert_eq!(stopping.join().unwrap().connections_opened, 20);
    let (mut asked, mut closed) = (0, 0);
    for event in log.rest() {
        match event {
            Event::Asked => asked += 1,
            Event::Closed(Ending::Closed) => closed += 1,
            Event::Ended => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((asked, closed), (20, 20));
}

fn delivers_pending_output(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| recorder.probe().open(|io| io.write(&pattern(MUCH))));
    let peer = Peer::connect(server.local_addr());
    log.opened();
    let stopping = thread::spawn(move || stage.shutdown(DEADLINE));
    assert!(peer.receive_to_end() == pattern(MUCH));
    drop(peer);
    assert_eq!(log.closed(), Ending::Closed);
    stopping.join().unwrap();
}

fn lets_requests_in_progress_finish(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| {
        let ask = |io: &mut trochus::net::Io<'_>| io.write(b"one moment;");
        recorder.probe().shutdown(ask).notify(|io| {
            io.write(b"done");
            io.close();
        })
    });
    let peer = Peer::connect(server.local_addr());
    let handle = log.opened();
    let stopping = thread::spawn(move || stage.shutdown(DEADLINE));
    assert_eq!(peer.receive(11), b"one moment;");
    handle.notify().unwrap();
    assert_eq!(peer.receive_to_end(), b"done");
    drop(peer);
    assert_eq!(log.closed(), Ending::Closed);
    stopping.join().unwrap();
}

fn cuts_off_whoever_does_not_close(ground: &Ground) {
    cut_off(ground, SHORT);
}

fn cuts_off_at_once_without_grace(ground: &Ground) {
    cut_off(ground, Duration::ZERO);
}

fn cut_off(ground: &Ground, grace: Duration) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| recorder.probe().shutdown(|_| {}).end(|_| {}));
    let peers: Vec<Peer> = (0..5).map(|_| Peer::connect(server.local_addr())).collect();
    peers.iter().for_each(|_| drop(log.opened()));
    stage.shutdown(grace);
    peers.iter().for_each(Peer::sees_the_end);
    (0..5).for_each(|_| assert_eq!(log.closed(), Ending::Shutdown));
}

fn cuts_off_whoever_does_not_read(ground: &Ground) {
    for closing in [false, true] {
        let stage = ground.stage();
        let (log, recorder) = log();
        let server = stage.listen(move |_| {
            recorder.probe().open(move |io| {
                io.write(&pattern(MUCH * 4));
                if closing {
                    io.close();
                }
            })
        });
        let peer = Peer::connect(server.local_addr());
        // The first send is in flight.
        peer.receive(1);
        stage.shutdown(SHORT);
        assert_eq!(log.closed(), Ending::Shutdown);
        drop(peer);
    }
}

fn cuts_off_a_peer_that_does_not_finish(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| recorder.probe().open(|io| io.close()));
    let peer = Peer::connect(server.local_addr());
    assert!(peer.receive_to_end().is_empty());
    stage.shutdown(SHORT);
    // All output had been sent before.
    assert_eq!(log.closed(), Ending::Shutdown);
    drop(peer);
}

fn ends_a_connection_attempt(ground: &Ground) {
    let stage = ground.stage();
    let (listener, address) = ground.listener(0);
    let waiting = fill_backlog(&address);
    let (log, recorder) = log();
    let target = address.clone();
    let (begun, has_begun) = mpsc::channel();
    let connect = move |reactor: &mut trochus::Reactor| {
        reactor.connect(&StreamOptions::new(), &target, recorder.probe());
        begun.send(()).unwrap();
    };
    stage.runtime.reactor(0).run(connect).unwrap();
    has_begun.recv().unwrap();
    let metrics = stage.shutdown(SHORT);
    assert_eq!(log.closed(), Ending::Shutdown);
    assert_eq!((metrics.connections_opened, metrics.connects_failed), (0, 1));
    drop((waiting, listener));
}

fn of_paused_connections_closes_them(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| {
        recorder.probe().bytes(|io, _| {
            io.pause_reading();
            0
        })
    });
    let peer = Peer::connect(server.local_addr());
    peer.send(b"unread");
    assert_eq!(log.bytes_after_open(6), b"unread");
    peer.send(b"and more");
    let stopping = thread::spawn(move || stage.shutdown(DEADLINE));
    assert!(peer.receive_to_end().is_empty());
    drop(peer);
    assert_eq!(log.closed(), Ending::Closed);
    stopping.join().unwrap();
}

fn of_many_connections_under_load(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| recorder.echo());
    let clients: Vec<_> = (0..10u8)
        .map(|byte| {
            let peer = Peer::connect(server.local_addr());
            thread::spawn(move || {
                use std::io::{Read, Write};
                let mut answer = [0; 5000];
                // Until the server stops; until then every answer is right.
                while (&peer.0).write_all(&[byte; 5000]).is_ok() {
                    match (&peer.0).read_exact(&mut answer) {
                        Ok(()) => assert_eq!(answer, [byte; 5000]),
                        Err(_) => break,
                    }
                }
            })
        })
        .collect();
    let (mut opened, mut received) = (0, 0);
    while opened < 10 || received < 100 {
        match log.next() {
            Event::Opened(_) => opened += 1,
            Event::Bytes(_) => received += 1,
            _ => {}
        }
    }
    let metrics = stage.shutdown(DEADLINE);
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert_eq!(metrics.connections_opened, 10);
    drop(server);
}

fn by_dropping_the_runtime(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(move |_| recorder.echo());
    let peer = Peer::connect(server.local_addr());
    let handle = log.opened();
    let dropping = thread::spawn(move || drop(stage));
    assert!(peer.receive_to_end().is_empty());
    drop(peer);
    dropping.join().unwrap();
    assert_eq!(log.closed(), Ending::Closed);
    assert!(handle.is_closed());
}

fn by_dropping_the_runtime_on_one_of_its_reactors(ground: &Ground) {
    let before = open_descriptors();
    let runtime = Arc::new(ground.runtime_builder().build().unwrap());
    let (log, recorder) = log();
    let server = runtime.listen(ground.fresh_address(), move |_| recorder.echo()).unwrap();
    let peer = Peer::connect(server.local_addr());
    let handle = log.opened();
    let (reactor, theirs) = (runtime.reactor(0).clone(), runtime.clone());
    let (tell, told) = mpsc::channel();
    reactor
        .run(move |_| {
            while Arc::strong_count(&theirs) > 1 {
                thread::yield_now();
            }
            drop(theirs);
            tell.send(()).unwrap();
        })
        .unwrap();
    drop(runtime);
    // It does not wait for itself, so nobody waits for the end.
    told.recv_timeout(DEADLINE).unwrap();
    assert!(peer.receive_to_end().is_empty());
    drop((peer, server));
    assert_eq!(log.closed(), Ending::Closed);
    assert!(handle.is_closed());
    drop((handle, reactor));
    wait_until("the reactors have ended", || open_descriptors() == before);
}

fn refuses_work_from_then_on(ground: &Ground) {
    let stage = ground.stage();
    let (log, recorder) = log();
    let server = stage.listen(|_| Echo);
    let client: Handle = stage.runtime.connect(server.local_addr(), move || recorder.probe()).unwrap();
    let reactor = stage.runtime.reactor(0).clone();
    stage.shutdown(SHORT);
    assert!(matches!(reactor.run(|_| ()), Err(Error::Stopped)));
    reactor.wake();
    assert!(client.is_closed() && client.write(b"x").is_err());
    // It is as wanted.
    assert!(client.close().is_ok());
    log.closed();
    // Closing what has closed with its runtime is fine.
    server.close();
}
