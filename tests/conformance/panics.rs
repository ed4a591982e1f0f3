//! A handler that panics ends its own connection and harms nobody else.

use crate::accounts::INTENDED;
use crate::ground::{Ground, Peer};
use crate::probe::{Echo, Ending, Event, Log, Probe, Recorder, log};
use crate::{Suite, suite};
use std::sync::atomic::{AtomicBool, Ordering};
use trochus::net::{Address, CloseReason, Handler, Io, StreamOptions};
use trochus::{Metrics, Reactor};

pub(crate) fn suites() -> Vec<Suite> {
    vec![suite!(
        "panics",
        |_| true,
        [
            in_on_open,
            in_on_bytes,
            in_on_end,
            in_on_drained,
            in_on_notify,
            in_on_timer,
            in_on_close,
            in_on_shutdown,
            in_the_factory,
            in_the_factory_of_a_client,
            of_a_client_that_cannot_even_begin,
            by_consuming_more_than_there_was,
        ]
    )]
}

fn fail<T>() -> T {
    panic!("{INTENDED}")
}

/// The first connection gets `probe`, and ends as `expected`; the second is an innocent on the same reactor, served before and
/// after, as are those who come then.
#[track_caller]
pub(crate) fn costs_one_connection(
    ground: &Ground,
    expected: Ending,
    probe: impl Fn(Probe) -> Probe + Send + Sync + 'static,
    provoke: impl FnOnce(&Peer, &Log),
) -> Metrics {
    let stage = ground.single();
    let (log, recorder) = log();
    let (innocents, innocent) = crate::probe::log();
    let first = AtomicBool::new(true);
    let server = stage.listen(move |_| match first.swap(false, Ordering::Relaxed) {
        true => probe(recorder.probe()),
        false => innocent.echo(),
    });
    let victim = Peer::connect(server.local_addr());
    let bystander = Peer::connect(server.local_addr());
    bystander.send(b"before");
    assert_eq!(bystander.receive(6), b"before");
    provoke(&victim, &log);
    victim.sees_the_end();
    assert_eq!(log.closed(), expected);
    bystander.send(b"after");
    assert_eq!(bystander.receive(5), b"after");
    let newcomer = Peer::connect(server.local_addr());
    newcomer.send(b"new");
    assert_eq!(newcomer.receive(3), b"new");
    drop((victim, bystander, newcomer));
    (0..2).for_each(|_| assert_eq!(innocents.closed(), Ending::ByPeer));
    stage.finish_after_panics([server])
}

#[track_caller]
fn panics(
    ground: &Ground,
    probe: impl Fn(Probe) -> Probe + Send + Sync + 'static,
    provoke: impl FnOnce(&Peer, &Log),
) {
    assert_eq!(costs_one_connection(ground, Ending::Panicked, probe, provoke).handler_panics, 1);
}

fn in_on_open(ground: &Ground) {
    panics(ground, |probe| probe.open(|_| fail()), |_, _| {});
}

fn in_on_bytes(ground: &Ground) {
    let probe = |probe: Probe| {
        probe.bytes(|io, _| {
            io.write(b"never sent");
            fail()
        })
    };
    panics(ground, probe, |victim, _| victim.send(b"x"));
}

fn in_on_end(ground: &Ground) {
    panics(ground, |probe| probe.end(|_| fail()), |victim, _| victim.end_output());
}

fn in_on_drained(ground: &Ground) {
    panics(
        ground,
        |probe| probe.open(|io| io.write(b"x")).drained(|_| fail()),
        |victim, _| assert_eq!(victim.receive(1), b"x"),
    );
}

fn in_on_notify(ground: &Ground) {
    panics(ground, |probe| probe.notify(|_| fail()), |_, log| log.opened().notify().unwrap());
}

fn in_on_timer(ground: &Ground) {
    let probe = |probe: Probe| probe.open(|io| io.set_timer(std::time::Duration::from_millis(1)));
    panics(ground, move |p| probe(p).timer(|_| fail()), |_, _| {});
}

fn by_consuming_more_than_there_was(ground: &Ground) {
    let stage = ground.single();
    let (log, recorder) = log();
    let server = stage.listen(move |_| recorder.probe().bytes(|_, bytes| bytes.len() + INTENDED.len()));
    let peer = Peer::connect(server.local_addr());
    peer.send(b"x");
    peer.sees_the_end();
    assert_eq!(log.closed(), Ending::Panicked);
    assert_eq!(stage.finish_after_panics([server]).handler_panics, 1);
}

fn in_on_close(ground: &Ground) {
    let stage = ground.single();
    let (log, recorder) = log();
    let server = stage.listen(move |_| recorder.probe().close(|_| fail()));
    for _ in 0..3 {
        drop(Peer::connect(server.local_addr()));
        assert_eq!(log.closed(), Ending::ByPeer, "the connection had ended before");
    }
    assert_eq!(stage.finish_after_panics([server]).handler_panics, 3);
}

fn in_on_shutdown(ground: &Ground) {
    let stage = ground.single();
    let (log, recorder) = log();
    let first = AtomicBool::new(true);
    let server = stage.listen(move |_| match first.swap(false, Ordering::Relaxed) {
        true => recorder.probe().shutdown(|_| fail()),
        false => recorder.probe(),
    });
    let peers = [Peer::connect(server.local_addr()), Peer::connect(server.local_addr())];
    peers.iter().for_each(|_| drop(log.opened()));
    let stopping = std::thread::spawn(move || stage.shutdown(crate::accounts::DEADLINE));
    peers.iter().for_each(Peer::sees_the_end);
    drop(peers);
    assert_eq!(stopping.join().unwrap().handler_panics, 1);
    let endings: Vec<Event> = log.rest();
    let ended =
        |wanted| endings.iter().any(|event| matches!(event, Event::Closed(ending) if *ending == wanted));
    assert!(ended(Ending::Panicked) && ended(Ending::Closed), "{endings:?}");
}

/// On one reactor and on two: with two, a Unix-domain server's handlers are made where connections are handed to.
fn in_the_factory(ground: &Ground) {
    for stage in [ground.single(), ground.stage()] {
        let first = AtomicBool::new(true);
        let server = stage.listen(move |_| {
            if first.swap(false, Ordering::Relaxed) {
                fail::<()>();
            }
            Echo
        });
        Peer::is_refused_at(server.local_addr());
        for _ in 0..6 {
            let peer = Peer::connect(server.local_addr());
            peer.send(b"served");
            assert_eq!(peer.receive(6), b"served");
        }
        assert_eq!(stage.finish_after_panics([server]).handler_panics, 1);
    }
}

fn in_the_factory_of_a_client(ground: &Ground) {
    let stage = ground.single();
    // Its connection is cut off; the server may not even see it.
    let server = stage.listen(|_| Echo);
    assert!(stage.runtime.connect(server.local_addr(), fail::<Echo>).is_err());
    let client = stage.runtime.connect(server.local_addr(), || Echo).unwrap();
    client.close().unwrap();
    assert_eq!(stage.finish_after_panics([server]).handler_panics, 1);
}

/// Tells its maker by panicking.
struct Fragile(Recorder);

impl Handler for Fragile {
    fn on_bytes(&mut self, _io: &mut Io<'_>, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn on_close(&mut self, reason: &CloseReason, reactor: &mut Reactor) {
        self.0.probe().on_close(reason, reactor);
        fail()
    }
}

fn of_a_client_that_cannot_even_begin(ground: &Ground) {
    let stage = ground.single();
    let (log, recorder) = log();
    let server = stage.listen(|_| Echo);
    let bystander = Peer::connect(server.local_addr());
    let impossible = Address::Unix(format!("/tmp/{}", "x".repeat(200)).into());
    let connect = move |reactor: &mut trochus::Reactor| {
        reactor.connect(&StreamOptions::new(), &impossible, Fragile(recorder));
    };
    stage.runtime.reactor(0).run(connect).unwrap();
    assert!(matches!(log.closed(), Ending::ConnectFailed(_)));
    bystander.send(b"after");
    assert_eq!(bystander.receive(5), b"after");
    drop(bystander);
    assert_eq!(stage.finish_after_panics([server]).handler_panics, 1);
}
