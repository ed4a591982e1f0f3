//! Two connections that are joined: what one peer says, the other hears, all of it or with a reset behind a part.

use crate::accounts::{DEADLINE, wait_until};
use crate::addresses::fill_backlog;
use crate::flow::write_until_stalled;
use crate::ground::{Ground, Peer, Stage, pattern};
use crate::probe::{Event, log};
use crate::{Suite, suite};
use socket2::Socket;
use std::io::{ErrorKind, Read, Write};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;
use trochus::Reactor;
use trochus::config::CAREFUL_BYTES;
use trochus::net::{
    Address, CloseReason, ConnectionId, Handle, Relay, RelayEnd, Relayed, Server, StreamOptions,
};

pub(crate) fn suites() -> Vec<Suite> {
    vec![
        suite!(
            "relay",
            |_| true,
            [
                both_ways_and_to_the_end,
                an_end_is_passed_on_and_answered,
                what_waits_is_bounded_in_each_direction,
                both_may_stall_and_go_on,
                who_is_relayed_and_stalls_leaves_buffers_for_others,
                who_moved_much_before_is_bounded_as_well,
                who_is_throttled_when_joined_is_bounded_as_well,
                an_upstream_that_is_not_there_is_passed_over,
                without_an_upstream_there_is_no_relay,
                a_relay_may_end_while_the_runtime_stops,
                a_relay_that_does_not_is_cut_off_on_both_sides,
                what_was_not_consumed_comes_first,
                an_end_that_came_before_is_passed_on,
                only_open_connections_are_joined,
                a_peer_that_takes_nothing_ends_both,
                an_end_by_somebody_else_is_no_end_of_the_stream,
            ]
        ),
        suite!("relay", Ground::has_sockets, [a_client_that_leaves_ends_the_attempts]),
        suite!("relay", Ground::has_resets, [a_reset_is_passed_on_behind_what_came_before]),
    ]
}

const MUCH: usize = 3 << 20;
const SHORT: Duration = Duration::from_millis(100);

/// A server that relays to a socket of the test's.
struct Scene {
    stage: Stage,
    server: Server,
    upstreams: Socket,
    ends: Receiver<RelayEnd>,
}

impl Scene {
    fn new(ground: &Ground, stage: Stage, bytes: usize) -> Self {
        Scene::with(ground, stage, StreamOptions::new(), bytes)
    }

    fn with(ground: &Ground, stage: Stage, options: StreamOptions, bytes: usize) -> Self {
        let (upstreams, address) = ground.listener(16);
        let (server, ends) = relay_to(&stage, vec![address], options, bytes);
        Scene { stage, server, upstreams, ends }
    }

    /// A client, and the upstream's end of its relay.
    fn pair(&self) -> (Peer, Peer) {
        let client = Peer::connect(self.server.local_addr());
        (client, Peer::over(self.upstreams.accept().unwrap().0))
    }

    #[track_caller]
    fn end(&self) -> RelayEnd {
        self.ends.recv_timeout(DEADLINE).unwrap()
    }

    fn finish(self) {
        self.stage.finish([self.server]);
        assert!(self.ends.try_recv().is_err(), "an end was told twice, or is nobody's");
    }
}

fn relay_to(
    stage: &Stage,
    upstreams: Vec<Address>,
    options: StreamOptions,
    bytes: usize,
) -> (Server, Receiver<RelayEnd>) {
    let (send, ends) = mpsc::channel();
    let server = stage.listen_stream(options.clone(), move |_| {
        let send = send.clone();
        let relay = Relay::to(upstreams.clone()).options(&options).bytes(bytes);
        // The test may have seen enough.
        relay.on_end(move |end| _ = send.send(end))
    });
    (server, ends)
}

/// Little fits into the kernel; less than this, and its window probes are what takes the time.
const LITTLE: usize = 256 << 10;

fn narrow() -> StreamOptions {
    StreamOptions::new().send_buffer(LITTLE).receive_buffer(LITTLE)
}

/// What a peer hears, and how that ends.
fn hear(peer: &Peer) -> (Vec<u8>, Option<ErrorKind>) {
    let mut bytes = Vec::new();
    let end = (&peer.0).read_to_end(&mut bytes);
    (bytes, end.err().map(|error| error.kind()))
}

/// A part was heard, and not taken for the whole where that can be told.
#[track_caller]
fn hears_a_part(ground: &Ground, peer: &Peer) -> Vec<u8> {
    let (bytes, end) = hear(peer);
    if ground.has_resets() {
        assert_eq!(end, Some(ErrorKind::ConnectionReset), "after {} bytes", bytes.len());
    }
    bytes
}

fn both_ways_and_to_the_end(ground: &Ground) {
    for (stage, bytes) in [(ground.stage(), 256 << 10), (ground.single(), 1000), (ground.single(), 1)] {
        let scene = Scene::new(ground, stage, bytes);
        let much = if bytes > 1 { MUCH } else { 3000 };
        let (question, answer) = (pattern(much), pattern(much + 17)[17..].to_vec());
        let (client, upstream) = scene.pair();
        thread::scope(|scope| {
            for (from, said) in [(&client, &question), (&upstream, &answer)] {
                scope.spawn(|| {
                    from.send(said);
                    from.end_output();
                });
            }
            let heard = scope.spawn(|| hear(&upstream));
            assert!(hear(&client) == (answer.clone(), None));
            assert!(heard.join().unwrap() == (question.clone(), None));
        });
        let end = scene.end();
        assert!(end.relayed.is_clean(), "{end}");
        assert_eq!((end.relayed.forth, end.relayed.back), (much as u64, much as u64), "{end}");
        assert!(end.upstream.is_some());
        scene.finish();
    }
}

fn an_end_is_passed_on_and_answered(ground: &Ground) {
    let scene = Scene::new(ground, ground.single(), 64 << 10);
    for client_first in [true, false] {
        let (client, upstream) = scene.pair();
        let (first, second) = if client_first { (&client, &upstream) } else { (&upstream, &client) };
        first.send(b"question");
        first.end_output();
        assert_eq!(second.receive_to_end(), b"question");
        // The other direction is open for as long as it likes.
        second.send(b"a part of ");
        assert_eq!(first.receive(10), b"a part of ");
        second.send(b"the answer");
        second.end_output();
        assert_eq!(first.receive_to_end(), b"the answer");
        assert!(scene.end().relayed.is_clean());
    }
    scene.finish();
}

fn outputs(stage: &Stage) -> usize {
    stage.runtime.gauges().unwrap().iter().map(|gauges| gauges.output_bytes + gauges.input_bytes).sum::<u64>()
        as usize
}

fn what_waits_is_bounded_in_each_direction(ground: &Ground) {
    const BYTES: usize = 64 << 10;
    // What is passed on is nobody's own output, whose limits are for answers.
    let scene = Scene::with(ground, ground.single(), narrow().output_limits(1 << 10, 2 << 10), BYTES);
    let (client, upstream) = scene.pair();
    let message = pattern(64 << 20);
    let mut written = Vec::new();
    for (at, from) in [&client, &upstream].into_iter().enumerate() {
        written.push(write_until_stalled(from, &message));
        assert!(written[at] < message.len(), "nobody reads, and all of it found room");
        let held = outputs(&scene.stage);
        assert!(held <= BYTES * (at + 1), "{held} bytes are held, {at}");
        assert_eq!(scene.stage.runtime.gauges().unwrap()[0].throttled, at as u64 + 1);
    }
    // Both are stalled, in both directions; one of them reads, and all goes on.
    client.end_output();
    upstream.end_output();
    thread::scope(|scope| {
        let heard = scope.spawn(|| hear(&upstream));
        assert!(hear(&client) == (message[..written[1]].to_vec(), None));
        assert!(heard.join().unwrap() == (message[..written[0]].to_vec(), None));
    });
    let end = scene.end();
    assert!(end.relayed.is_clean());
    assert_eq!((end.relayed.forth as usize, end.relayed.back as usize), (written[0], written[1]));
    scene.finish();
}

fn both_may_stall_and_go_on(ground: &Ground) {
    let scene = Scene::with(ground, ground.single(), narrow(), 16 << 10);
    let (client, upstream) = scene.pair();
    client.0.set_recv_buffer_size(LITTLE).unwrap();
    let message = pattern(8 << 20);
    thread::scope(|scope| {
        scope.spawn(|| {
            upstream.send(&message);
            upstream.end_output();
        });
        let mut heard = Vec::new();
        while heard.len() < message.len() {
            let some = (message.len() / 20).min(message.len() - heard.len());
            heard.extend(client.receive(some));
            thread::sleep(Duration::from_millis(2));
        }
        assert!(heard == message);
    });
    client.end_output();
    assert!(scene.end().relayed.is_clean());
    scene.finish();
}

/// Its own output keeps it from being read, also once it is relayed.
fn who_is_throttled_when_joined_is_bounded_as_well(ground: &Ground) {
    let stage = ground.single();
    let (log, recorder) = log();
    let server = stage.listen_stream(narrow().output_limits(1 << 10, 64 << 20), move |_| {
        recorder.probe().bytes(|_, _| 0).notify(|io| io.write(&pattern(4 << 20)))
    });
    let (first, first_handle) = (Peer::connect(server.local_addr()), log.opened());
    let (second, second_handle) = (Peer::connect(server.local_addr()), log.opened());
    first_handle.notify().unwrap();
    first.send(b"not consumed");
    let gauges = || stage.runtime.gauges().unwrap()[0];
    wait_until("it is throttled, and some is read ahead", || {
        gauges().throttled == 1 && gauges().input_bytes > 0
    });
    let end = join(&stage, first_handle.id(), second_handle.id()).unwrap();
    let message = pattern(16 << 20);
    assert!(write_until_stalled(&first, &message) < message.len(), "nobody reads, and all of it found room");
    let held = gauges().input_bytes;
    assert!(held <= 256 << 10, "{held} bytes are held");
    first.reset();
    assert!(!end.recv_timeout(DEADLINE).unwrap().is_clean());
    drop(second);
    stage.finish([server]);
}

/// Of a pool with few buffers, which are sent from where they lie.
fn who_is_relayed_and_stalls_leaves_buffers_for_others(ground: &Ground) {
    let stage = ground.stage_with(ground.runtime_builder().reactors(1).pool(4, 32 << 10));
    let scene = Scene::with(ground, stage, narrow(), 1 << 20);
    let echo = scene.stage.listen(|_| crate::probe::Echo);
    let message = pattern(64 << 20);
    let stalled: Vec<(Peer, Peer, usize)> = (0..3)
        .map(|_| {
            let (client, upstream) = scene.pair();
            let written = write_until_stalled(&upstream, &message);
            (client, upstream, written)
        })
        .collect();
    let other = Peer::connect(echo.local_addr());
    for _ in 0..20 {
        other.send(&message[..100_000]);
        assert!(other.receive(100_000) == message[..100_000]);
    }
    for (client, upstream, written) in stalled {
        upstream.end_output();
        client.end_output();
        assert!(client.receive_to_end() == message[..written]);
        assert!(scene.end().relayed.is_clean());
    }
    drop(other);
    echo.close();
    scene.finish();
}

/// Its receive stays armed, and would bring whatever comes.
fn who_moved_much_before_is_bounded_as_well(ground: &Ground) {
    let stage = ground.stage_with(ground.runtime_builder().reactors(1).pool(32, 256 << 10));
    let (log, recorder) = log();
    let server = stage.listen_stream(StreamOptions::new(), move |_| recorder.probe());
    let (fast, fast_handle) = (Peer::connect(server.local_addr()), log.opened());
    let (slow, slow_handle) = (Peer::connect(server.local_addr()), log.opened());
    let block = pattern(1 << 20);
    let much = (CAREFUL_BYTES + (2 << 20)) as u64;
    thread::scope(|scope| {
        scope.spawn(|| (0..much >> 20).for_each(|_| fast.send(&block)));
        wait_until("all of it is there", || stage.metrics().received_bytes == much);
    });
    let end = join(&stage, fast_handle.id(), slow_handle.id()).unwrap();
    let message = pattern(64 << 20);
    let written = write_until_stalled(&fast, &message);
    assert!(written < message.len(), "nobody reads, and all of it found room");
    // What was on its way when they were joined is beside the limit.
    let held = outputs(&stage);
    assert!(held <= (64 << 10) + (512 << 10), "{held} bytes are held");
    fast.end_output();
    slow.end_output();
    assert!(slow.receive_to_end() == message[..written]);
    assert!(end.recv_timeout(DEADLINE).unwrap().is_clean());
    drop(fast);
    stage.finish([server]);
}

fn an_upstream_that_is_not_there_is_passed_over(ground: &Ground) {
    let stage = ground.stage();
    let dead = ground.dead_address();
    let (upstreams, live) = ground.listener(16);
    let (server, ends) = relay_to(&stage, vec![dead, live.clone()], StreamOptions::new(), 64 << 10);
    let client = Peer::connect(server.local_addr());
    client.send(b"said before anybody was there");
    client.end_output();
    let upstream = Peer::over(upstreams.accept().unwrap().0);
    assert_eq!(upstream.receive_to_end(), b"said before anybody was there");
    drop(upstream);
    assert!(client.receive_to_end().is_empty());
    let end = ends.recv_timeout(DEADLINE).unwrap();
    assert_eq!(end.upstream, Some(live));
    assert!(end.relayed.is_clean() && end.to_string().contains("29 bytes forth, 0 back"), "{end}");
    stage.finish([server]);
}

fn without_an_upstream_there_is_no_relay(ground: &Ground) {
    let stage = ground.single();
    let dead = ground.dead_address();
    for upstreams in [vec![dead.clone()], vec![]] {
        let (server, ends) = relay_to(&stage, upstreams, StreamOptions::new(), 64 << 10);
        let client = Peer::connect(server.local_addr());
        // Refused while it connects, or behind it.
        client.sees_the_end();
        let end = ends.recv_timeout(DEADLINE).unwrap();
        assert!(matches!(end.relayed.second, CloseReason::ConnectFailed(_)), "{end}");
        assert!(matches!(end.relayed.first, CloseReason::Aborted), "{end}");
        assert!(end.upstream.is_none() && end.to_string().contains("no upstream"), "{end}");
        server.close();
    }
    stage.finish([]);
}

fn a_client_that_leaves_ends_the_attempts(ground: &Ground) {
    let stage = ground.single();
    let (_upstreams, address) = ground.listener(1);
    let waiting = fill_backlog(&address);
    let patient = StreamOptions::new().connect_timeout(10 * DEADLINE);
    let (server, ends) = relay_to(&stage, vec![address], patient, 64 << 10);
    let client = Peer::connect(server.local_addr());
    client.send(b"hello");
    let connecting = || stage.runtime.gauges().unwrap()[0].connecting;
    wait_until("it connects", || connecting() == 1);
    if ground.has_resets() {
        client.reset();
    } else {
        // A Unix-domain socket tells nothing in a pause; it may be aborted.
        drop(client);
        stage.runtime.run_on(0, |reactor| reactor.begin_drain(SHORT)).wait().unwrap();
    }
    let end = ends.recv_timeout(DEADLINE).unwrap();
    assert!(end.upstream.is_none() && !end.relayed.is_clean(), "{end}");
    if ground.has_resets() {
        wait_until("nobody connects any more", || connecting() == 0);
        stage.finish([server]);
    } else {
        drop(server);
        stage.shutdown(DEADLINE);
    }
    drop(waiting);
}

fn a_relay_may_end_while_the_runtime_stops(ground: &Ground) {
    let Scene { stage, server, upstreams, ends } = Scene::new(ground, ground.single(), 64 << 10);
    let client = Peer::connect(server.local_addr());
    let upstream = Peer::over(upstreams.accept().unwrap().0);
    upstream.send(b"a part ");
    assert_eq!(client.receive(7), b"a part ");
    stage.runtime.run_on(0, |reactor| reactor.begin_drain(DEADLINE)).wait().unwrap();
    upstream.send(b"and the rest");
    upstream.end_output();
    assert_eq!(client.receive_to_end(), b"and the rest");
    client.send(b"thanks");
    client.end_output();
    assert_eq!(upstream.receive_to_end(), b"thanks");
    assert!(ends.recv_timeout(DEADLINE).unwrap().relayed.is_clean());
    assert_eq!(stage.shutdown(DEADLINE).connections_cut_off, 0);
    drop(server);
}

fn a_relay_that_does_not_is_cut_off_on_both_sides(ground: &Ground) {
    let Scene { stage, server, upstreams, ends } = Scene::new(ground, ground.single(), 64 << 10);
    let client = Peer::connect(server.local_addr());
    let upstream = Peer::over(upstreams.accept().unwrap().0);
    upstream.send(b"a part ");
    assert_eq!(client.receive(7), b"a part ");
    // The second one is ended by the end of the first, if it does not come to that by itself.
    assert!(stage.shutdown(SHORT).connections_cut_off >= 1);
    hears_a_part(ground, &client);
    hears_a_part(ground, &upstream);
    assert!(!ends.recv_timeout(DEADLINE).unwrap().relayed.is_clean());
    drop(server);
}

/// Two connections of one reactor, each with a handler that the test watches, and their ids.
fn two(ground: &Ground) -> (Stage, Server, [(Peer, Handle); 2], crate::probe::Log) {
    let stage = ground.single();
    let (log, recorder) = log();
    let server = stage.listen(move |_| recorder.probe().bytes(|_, _| 0).end(|_| {}));
    let peers = [(); 2].map(|()| {
        let peer = Peer::connect(server.local_addr());
        (peer, log.opened())
    });
    (stage, server, peers, log)
}

/// Joins them; the end of it, once it has come.
fn join(stage: &Stage, first: ConnectionId, second: ConnectionId) -> Option<Receiver<Relayed>> {
    let (send, end) = mpsc::channel();
    let action = move |reactor: &mut Reactor| {
        reactor.relay(first, second, 64 << 10, move |relayed, _| send.send(relayed).unwrap())
    };
    stage.runtime.run_on(0, action).wait().unwrap().then_some(end)
}

fn what_was_not_consumed_comes_first(ground: &Ground) {
    let (stage, server, [(first, first_handle), (second, second_handle)], log) = two(ground);
    first.send(b"before, ");
    log.bytes(8);
    second_handle.pause_reading().unwrap();
    second.send(b"paused, ");
    second_handle.notify().unwrap();
    log.find(|event| matches!(event, Event::Notified).then_some(()));
    let end = join(&stage, first_handle.id(), second_handle.id()).unwrap();
    first.send(b"after");
    second.send(b"after");
    assert_eq!(second.receive(13), b"before, after");
    assert_eq!(first.receive(13), b"paused, after");
    // A handle still reaches them: a pause holds what arrives.
    first_handle.pause_reading().unwrap();
    stage.runtime.run_on(0, |_| ()).wait().unwrap();
    first.send(b"held");
    second.0.set_read_timeout(Some(Duration::from_millis(30))).unwrap();
    assert!((&second.0).read(&mut [0; 4]).is_err());
    second.0.set_read_timeout(Some(DEADLINE)).unwrap();
    first_handle.resume_reading().unwrap();
    assert_eq!(second.receive(4), b"held");
    // The handlers are gone, and hear of nothing.
    first.end_output();
    second.end_output();
    assert!(end.recv_timeout(DEADLINE).unwrap().is_clean());
    assert!(log.rest().iter().all(|event| !matches!(event, Event::Closed(_) | Event::Ended)));
    stage.finish([server]);
}

fn an_end_that_came_before_is_passed_on(ground: &Ground) {
    let (stage, server, [(first, first_handle), (second, second_handle)], log) = two(ground);
    first.send(b"all of it");
    first.end_output();
    log.find(|event| matches!(event, Event::Ended).then_some(()));
    let end = join(&stage, first_handle.id(), second_handle.id()).unwrap();
    assert_eq!(second.receive_to_end(), b"all of it");
    second.send(b"answer");
    drop(second);
    assert_eq!(first.receive_to_end(), b"answer");
    let end = end.recv_timeout(DEADLINE).unwrap();
    assert!(end.is_clean());
    assert_eq!((end.forth, end.back), (9, 6));
    stage.finish([server]);
}

fn only_open_connections_are_joined(ground: &Ground) {
    let (stage, server, [(first, first_handle), (second, second_handle)], log) = two(ground);
    let (one, other) = (first_handle.id(), second_handle.id());
    assert!(join(&stage, one, one).is_none(), "with itself");
    let end = join(&stage, one, other).unwrap();
    assert!(join(&stage, one, other).is_none(), "once more");
    first.send(b"still");
    assert_eq!(second.receive(5), b"still");
    let third = Peer::connect(server.local_addr());
    let third_handle = log.opened();
    assert!(join(&stage, third_handle.id(), other).is_none(), "with one that is taken");
    third.send(b"hello");
    log.bytes(5);
    drop((first, second));
    end.recv_timeout(DEADLINE).unwrap();
    assert!(join(&stage, third_handle.id(), one).is_none(), "with one that has gone");
    third_handle.shutdown_write().unwrap();
    assert!(third.receive_to_end().is_empty());
    let (fourth, fourth_handle) = (Peer::connect(server.local_addr()), log.opened());
    assert!(join(&stage, third_handle.id(), fourth_handle.id()).is_none(), "with one that has said all");
    // Nothing has happened to those that were refused.
    third.send(b" again");
    log.bytes(11);
    drop((third, fourth));
    stage.runtime.shutdown(DEADLINE).unwrap();
}

fn a_peer_that_takes_nothing_ends_both(ground: &Ground) {
    let options = narrow().write_stall_timeout(SHORT);
    let scene = Scene::with(ground, ground.single(), options, 64 << 10);
    let (client, upstream) = scene.pair();
    // More than finds room; its end is a reset.
    assert!((&upstream.0).write_all(&pattern(64 << 20)).is_err());
    let end = scene.end();
    assert!(matches!(end.relayed.first, CloseReason::WriteStalled { .. }), "{end}");
    hears_a_part(ground, &client);
    drop(upstream);
    scene.finish();
}

/// By a handle, which knows nothing of the relay: the other peer is not told that this was all.
fn an_end_by_somebody_else_is_no_end_of_the_stream(ground: &Ground) {
    for act in [Handle::close, Handle::abort, Handle::shutdown_write] {
        let (stage, server, [(first, first_handle), (second, second_handle)], _log) = two(ground);
        let end = join(&stage, first_handle.id(), second_handle.id()).unwrap();
        first.send(b"a part");
        assert_eq!(second.receive(6), b"a part");
        act(&first_handle).unwrap();
        stage.runtime.run_on(0, |_| ()).wait().unwrap();
        let _ = hear(&first);
        if first_handle.is_closed() {
            drop(first);
        } else {
            // What goes on behind the end of an output is not thrown away as if somebody had it.
            second.send(b"more");
        }
        hears_a_part(ground, &second);
        assert!(!end.recv_timeout(DEADLINE).unwrap().is_clean());
        stage.finish([server]);
    }
}

fn a_reset_is_passed_on_behind_what_came_before(ground: &Ground) {
    let scene = Scene::new(ground, ground.single(), 256 << 10);
    let mut expected = 0;
    for upstream_resets in [true, false] {
        let (client, upstream) = scene.pair();
        let (first, second) = if upstream_resets { (upstream, client) } else { (client, upstream) };
        let message = pattern(100_000);
        first.send(&message);
        expected += message.len() as u64;
        wait_until("all of it is there", || scene.stage.metrics().received_bytes == expected);
        first.reset();
        let heard = hears_a_part(ground, &second);
        assert!(heard == message, "{} bytes were heard", heard.len());
        let end = scene.end();
        assert!(!end.relayed.is_clean(), "{end}");
    }
    scene.finish();
}
