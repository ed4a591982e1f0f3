//! What peers see of a server that stops, where its handlers leave that to the library: never a part that looks like the whole.

use crate::accounts::{DEADLINE, wait_until};
use crate::ground::{Ground, Peer, pattern};
use crate::probe::{Echo, Ending, log};
use crate::{Suite, suite};
use std::io::{ErrorKind, Read, Write};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;
use trochus::Reactor;
use trochus::config::QUIET_TIMEOUT;
use trochus::net::{CloseReason, Handle, Handler, Io, StreamOptions};

pub(crate) fn suites() -> Vec<Suite> {
    vec![
        suite!(
            "stopping",
            |_| true,
            [
                at_rest_it_is_a_close,
                output_that_waits_arrives_and_is_not_the_whole,
                input_that_is_not_consumed_is_not_the_whole,
                what_others_may_write_to_is_not_the_whole,
                a_close_that_is_not_finished_delivers_what_was_written,
                a_close_that_is_not_finished_takes_nothing_away,
                a_close_that_is_not_finished_waits_for_no_peer_for_ever,
                a_peer_that_says_nothing_more_is_not_waited_for,
                a_server_that_stops_does_not_wait_for_one_either,
                who_is_let_in_while_the_server_stops_is_not_waited_for_either,
            ]
        ),
        suite!(
            "stopping",
            Ground::is_tcp,
            [what_comes_behind_the_close_is_not_swallowed, what_is_not_confirmed_holds_up_nobody]
        ),
    ]
}

const MUCH: usize = 8 << 20;

/// A handler that leaves to the library what it does when it is to stop.
struct Plain {
    open: fn(&mut Io<'_>),
    consumes: bool,
    tell: Sender<Told>,
}

enum Told {
    Open(Option<Handle>),
    Bytes,
    Closed(CloseReason),
}

impl Handler for Plain {
    fn on_open(&mut self, io: &mut Io<'_>) {
        (self.open)(io);
        let _ = self.tell.send(Told::Open(None));
    }

    fn on_bytes(&mut self, _io: &mut Io<'_>, bytes: &[u8]) -> usize {
        let _ = self.tell.send(Told::Bytes);
        if self.consumes { bytes.len() } else { 0 }
    }

    fn on_notify(&mut self, io: &mut Io<'_>) {
        let _ = self.tell.send(Told::Open(Some(io.handle())));
    }

    fn on_close(&mut self, reason: &CloseReason, _reactor: &mut Reactor) {
        let _ = self.tell.send(Told::Closed(reason.clone()));
    }
}

fn plain(open: fn(&mut Io<'_>), consumes: bool) -> (impl Fn() -> Plain + Send + Sync, Receiver<Told>) {
    let (tell, told) = mpsc::channel();
    (move || Plain { open, consumes, tell: tell.clone() }, told)
}

#[track_caller]
fn hears<T>(told: &Receiver<Told>, wanted: impl Fn(Told) -> Option<T>) -> T {
    loop {
        if let Some(found) = wanted(told.recv_timeout(DEADLINE).unwrap()) {
            return found;
        }
    }
}

fn closed(told: &Receiver<Told>) -> CloseReason {
    hears(told, |told| if let Told::Closed(reason) = told { Some(reason) } else { None })
}

fn opened(told: &Receiver<Told>) {
    hears(told, |told| matches!(told, Told::Open(_)).then_some(()));
}

/// What arrives, behind which there is a reset where the transport has such a thing.
#[track_caller]
fn is_told_of_more(ground: &Ground, peer: &Peer) -> Vec<u8> {
    let mut bytes = Vec::new();
    let end = (&peer.0).read_to_end(&mut bytes).map_err(|error| error.kind());
    let expected = if ground.has_resets() { Err(ErrorKind::ConnectionReset) } else { Ok(bytes.len()) };
    assert_eq!(end, expected, "behind {} bytes", bytes.len());
    bytes
}

fn narrow() -> StreamOptions {
    StreamOptions::new().send_buffer(64 << 10)
}

fn at_rest_it_is_a_close(ground: &Ground) {
    let stage = ground.stage();
    let server = stage.listen(|_| Echo);
    let peers: Vec<Peer> = (0..5).map(|_| Peer::connect(server.local_addr())).collect();
    for peer in &peers {
        peer.send(b"a request");
        assert_eq!(peer.receive(9), b"a request");
    }
    let stopping = thread::spawn(move || stage.shutdown(DEADLINE));
    peers.iter().for_each(|peer| assert!(peer.receive_to_end().is_empty()));
    drop(peers);
    assert_eq!(stopping.join().unwrap().connections_cut_off, 0);
}

fn output_that_waits_arrives_and_is_not_the_whole(ground: &Ground) {
    let stage = ground.single();
    let (handler, told) = plain(|io| io.write(&pattern(MUCH)), true);
    let server = stage.listen_stream(narrow(), move |_| handler());
    let peer = Peer::connect(server.local_addr());
    opened(&told);
    let stopping = thread::spawn(move || stage.shutdown(DEADLINE));
    assert!(is_told_of_more(ground, &peer) == pattern(MUCH));
    assert!(matches!(closed(&told), CloseReason::Shutdown));
    assert_eq!(stopping.join().unwrap().connections_cut_off, 0);
    drop(server);
}

fn input_that_is_not_consumed_is_not_the_whole(ground: &Ground) {
    let stage = ground.single();
    let (handler, told) = plain(|io| io.write(b"greeting"), false);
    let server = stage.listen(move |_| handler());
    let peer = Peer::connect(server.local_addr());
    peer.send(b"half of a request");
    assert_eq!(peer.receive(8), b"greeting");
    hears(&told, |told| matches!(told, Told::Bytes).then_some(()));
    let stopping = thread::spawn(move || stage.shutdown(DEADLINE));
    assert!(is_told_of_more(ground, &peer).is_empty());
    assert!(matches!(closed(&told), CloseReason::Shutdown));
    stopping.join().unwrap();
    drop(server);
}

fn what_others_may_write_to_is_not_the_whole(ground: &Ground) {
    let stage = ground.single();
    let (handler, told) = plain(|io| _ = io.handle().notify(), true);
    let server = stage.listen(move |_| handler());
    let peer = Peer::connect(server.local_addr());
    let handle = hears(&told, |told| if let Told::Open(handle) = told { handle } else { None });
    handle.write(b"the first of many parts").unwrap();
    assert_eq!(peer.receive(23), b"the first of many parts");
    // All of it was sent, and nothing is pending.
    let stopping = thread::spawn(move || stage.shutdown(DEADLINE));
    assert!(is_told_of_more(ground, &peer).is_empty());
    assert!(matches!(closed(&told), CloseReason::Shutdown));
    stopping.join().unwrap();
    drop((server, handle));
}

/// An upload that is thrown away must not look as if somebody had it.
fn what_comes_behind_the_close_is_not_swallowed(ground: &Ground) {
    let stage = ground.single();
    let (handler, told) = plain(|_| {}, true);
    let server = stage.listen(move |_| handler());
    let peer = Peer::connect(server.local_addr());
    opened(&told);
    let reactor = stage.runtime.reactor(0).clone();
    reactor.run(|reactor| reactor.begin_drain(DEADLINE)).unwrap();
    // The end of its output shows that it has closed.
    assert!(peer.receive_to_end().is_empty());
    while (&peer.0).write_all(&[1; 1000]).is_ok() {
        thread::sleep(Duration::from_millis(1));
    }
    assert!(matches!(closed(&told), CloseReason::Shutdown));
    stage.shutdown(DEADLINE);
    drop(server);
}

/// The kernel has all of it, and the peer takes nothing for longer than it takes to be silent: the reactor goes on, and so does the
/// end of it.
fn what_is_not_confirmed_holds_up_nobody(ground: &Ground) {
    let stage = ground.single();
    let (handler, told) = plain(|io| io.write(&pattern(1 << 20)), false);
    let server = stage.listen_stream(StreamOptions::new().send_buffer(4 << 20), move |_| handler());
    let peer = Peer::prepared(server.local_addr(), |socket| socket.set_recv_buffer_size(64 << 10).unwrap());
    peer.send(b"unconsumed");
    hears(&told, |told| matches!(told, Told::Bytes).then_some(()));
    stage.runtime.run_on(0, |reactor| reactor.begin_drain(4 * QUIET_TIMEOUT)).wait().unwrap();
    thread::sleep(2 * QUIET_TIMEOUT);
    stage.runtime.run_on(0, |reactor| reactor.connections()).wait().unwrap();
    assert_eq!(stage.shutdown(DEADLINE).connections_cut_off, 1);
    assert!(matches!(closed(&told), CloseReason::Shutdown));
    drop((peer, server));
}

fn a_close_that_is_not_finished_delivers_what_was_written(ground: &Ground) {
    let stage = ground.single();
    for much in [1, MUCH] {
        let (log, recorder) = log();
        let server = stage.listen_stream(narrow(), move |_| {
            recorder.probe().open(move |io| {
                io.write(&pattern(much));
                io.close_unfinished();
                io.write(b"too late");
            })
        });
        let peer = Peer::connect(server.local_addr());
        let heard = is_told_of_more(ground, &peer);
        assert!(heard == pattern(much), "{} bytes of {much}", heard.len());
        assert_eq!(log.closed(), Ending::Aborted);
        server.close();
    }
    // Nothing to say: at once, also where the peer has ended its side.
    let (log, recorder) = log();
    let server = stage.listen(move |_| recorder.probe().end(|io| io.close_unfinished()));
    let peer = Peer::connect(server.local_addr());
    peer.send(b"all");
    peer.end_output();
    assert!(is_told_of_more(ground, &peer).is_empty());
    assert_eq!(log.closed(), Ending::Aborted);
    stage.finish([server]);
}

/// The kernel has all of it, and the peer's has not.
fn a_close_that_is_not_finished_takes_nothing_away(ground: &Ground) {
    const SOME: usize = 1 << 20;
    let stage = ground.single();
    let (log, recorder) = log();
    let server = stage.listen_stream(StreamOptions::new().send_buffer(4 << 20), move |_| {
        recorder.probe().open(|io| {
            io.write(&pattern(SOME));
            io.close_unfinished();
        })
    });
    let peer = Peer::prepared(server.local_addr(), |socket| socket.set_recv_buffer_size(64 << 10).unwrap());
    log.opened();
    if ground.is_tcp() {
        wait_until("the kernel has all of it", || {
            let gauges = stage.runtime.gauges().unwrap()[0];
            gauges.closing == 0 || gauges.output_bytes == 0
        });
    }
    assert!(is_told_of_more(ground, &peer) == pattern(SOME));
    assert_eq!(log.closed(), Ending::Aborted);
    stage.finish([server]);
}

fn a_close_that_is_not_finished_waits_for_no_peer_for_ever(ground: &Ground) {
    let stage = ground.single();
    let (log, recorder) = log();
    let options =
        narrow().flush_timeout(Duration::from_millis(100)).close_timeout(Duration::from_millis(100));
    let server = stage.listen_stream(options, move |_| {
        recorder.probe().open(|io| {
            io.write(&pattern(MUCH));
            io.close_unfinished();
        })
    });
    let peer = Peer::prepared(server.local_addr(), |socket| socket.set_recv_buffer_size(16 << 10).unwrap());
    assert_eq!(log.closed(), Ending::FlushTimeout);
    drop(peer);
    stage.finish([server]);
}

/// Its close may take as long as it likes, but not where everything was said and confirmed and the peer is silent.
fn a_peer_that_says_nothing_more_is_not_waited_for(ground: &Ground) {
    let stage = ground.single();
    let (handler, told) = plain(|io| io.write(b"hello"), true);
    let server = stage.listen_stream(StreamOptions::new().close_timeout(10 * DEADLINE), move |_| handler());
    let peers: Vec<Peer> = (0..3).map(|_| Peer::connect(server.local_addr())).collect();
    peers.iter().for_each(|peer| assert_eq!(peer.receive(5), b"hello"));
    let metrics = stage.shutdown(2 * DEADLINE);
    assert_eq!(metrics.connections_cut_off, 0);
    for peer in &peers {
        assert!(matches!(closed(&told), CloseReason::CloseTimeout { timeout: QUIET_TIMEOUT }));
        assert!(peer.receive_to_end().is_empty());
    }
    drop(server);
}

fn a_server_that_stops_does_not_wait_for_one_either(ground: &Ground) {
    let stage = ground.single();
    let (handler, told) = plain(|_| {}, true);
    let server = stage.listen_stream(StreamOptions::new().close_timeout(10 * DEADLINE), move |_| handler());
    let peer = Peer::connect(server.local_addr());
    opened(&told);
    let drained = server.stop(2 * DEADLINE).unwrap();
    assert_eq!((drained.closed, drained.cut_off), (1, 0));
    assert!(matches!(closed(&told), CloseReason::CloseTimeout { timeout: QUIET_TIMEOUT }));
    assert!(peer.receive_to_end().is_empty());
    // What closes by its handler's choice, with nobody stopping, has all of its time.
    let timeout = 3 * QUIET_TIMEOUT;
    let (handler, told) = plain(|io| io.close(), true);
    let server = stage.listen_stream(StreamOptions::new().close_timeout(timeout), move |_| handler());
    let waiting = Peer::connect(server.local_addr());
    let reason = closed(&told);
    assert!(matches!(reason, CloseReason::CloseTimeout { timeout: told } if told == timeout), "{reason}");
    wait_until("nothing is left", || stage.metrics().connections() == 0);
    drop((peer, waiting));
    stage.finish([server]);
}

/// Accepted by a reactor that hears of the stop last, where one accepts for all.
fn who_is_let_in_while_the_server_stops_is_not_waited_for_either(ground: &Ground) {
    let stage = ground.stage();
    let (handler, told) = plain(|_| {}, true);
    let server = stage.listen_stream(StreamOptions::new().close_timeout(10 * DEADLINE), move |_| handler());
    let (go_on, held_up) = mpsc::channel::<()>();
    stage.runtime.reactor(0).run(move |_| _ = held_up.recv_timeout(DEADLINE)).unwrap();
    let peers: Vec<Peer> = (0..6).map(|_| Peer::connect(server.local_addr())).collect();
    let stopping = server.stop_async(DEADLINE);
    stage.runtime.run_on(1, |_| ()).wait().unwrap();
    go_on.send(()).unwrap();
    let drained = stopping.wait().unwrap();
    assert_eq!((drained.closed, drained.cut_off), (6, 0));
    for _ in &peers {
        assert!(matches!(closed(&told), CloseReason::CloseTimeout { timeout: QUIET_TIMEOUT }));
    }
    drop(peers);
    stage.finish([server]);
}
