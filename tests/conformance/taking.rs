//! One handler takes over a connection from another.

use crate::accounts::{DEADLINE, INTENDED, wait_until};
use crate::ground::{Ground, Peer, Stage, pattern};
use crate::probe::{Echo, Ending, Event, Log, Probe, Recorder, log};
use crate::{Suite, suite};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;
use trochus::Reactor;
use trochus::config::RELAY_BYTES;
use trochus::net::{CloseReason, Handle, Handler, Io, Polled, Relay, StreamOptions};

pub(crate) fn suites() -> Vec<Suite> {
    vec![suite!(
        "taking",
        |_| true,
        [
            the_new_one_sees_all_that_was_not_consumed,
            any_callback_may_hand_over,
            an_end_is_told_to_whoever_takes_over,
            an_end_behind_a_pause_is_told_to_whoever_takes_over,
            what_was_the_old_ones_is_gone,
            what_the_old_one_expected_is_forgotten,
            output_stays_and_is_told_of,
            who_takes_over_is_found_by_its_type,
            the_last_of_several_takes_over,
            what_panics_ends_what_it_should,
            what_is_closing_has_its_end_told_to_the_last,
            only_who_asks_is_polled,
            a_thousand_in_a_row_delay_nobody,
            a_long_chain_keeps_the_limits,
            a_relay_takes_over,
            a_relayed_connection_stays_relayed,
        ]
    )]
}

const SHORT: Duration = Duration::from_millis(50);

/// Does something on the stage's only reactor, and waits for it.
fn on_reactor<R: Send + 'static>(
    stage: &Stage,
    action: impl FnOnce(&mut Reactor) -> R + Send + 'static,
) -> R {
    let (send, result) = mpsc::channel();
    stage.runtime.reactor(0).run(move |reactor| _ = send.send(action(reactor))).unwrap();
    result.recv_timeout(DEADLINE).unwrap()
}

/// The old one consumes a header of two bytes, wherever it is cut, and the new one has what follows.
fn the_new_one_sees_all_that_was_not_consumed(ground: &Ground) {
    let stage = ground.stage();
    for body in [0, 1, 1000, 2 << 20] {
        for cut in [1, 2, 3] {
            let (told, recorder) = log();
            let server = stage.listen(move |_| {
                let new = recorder.clone();
                recorder.probe().bytes(move |io, bytes| {
                    if bytes.len() < 2 {
                        return 0;
                    }
                    assert_eq!(&bytes[..2], b"hd");
                    io.hand_over(new.echo());
                    2
                })
            });
            let peer = Peer::connect(server.local_addr());
            let sent = [&b"hd"[..], &pattern(body)].concat();
            thread::scope(|scope| {
                scope.spawn(|| {
                    peer.send(&sent[..cut.min(sent.len())]);
                    thread::sleep(Duration::from_millis(1));
                    peer.send(&sent[cut.min(sent.len())..]);
                    peer.end_output();
                });
                assert!(peer.receive_to_end() == sent[2..], "{body} bytes, cut at {cut}");
            });
            told.opened();
            told.opened();
            assert_eq!(told.closed(), Ending::ByPeer);
            server.close();
        }
    }
    stage.finish([]);
}

type Way = fn(Probe, Recorder) -> Probe;

/// In which callback the old one hands over.
const WAYS: [(&str, Way); 8] = [
    ("open", |old, new| old.open(move |io| io.hand_over(new.echo()))),
    ("bytes", |old, new| {
        old.bytes(move |io, _| {
            io.hand_over(new.echo());
            0
        })
    }),
    ("end", |old, new| old.end(move |io| io.hand_over(new.echo()))),
    ("drained", |old, new| old.open(|io| io.write(b"w")).drained(move |io| io.hand_over(new.echo()))),
    ("room", |old, new| old.open(|io| io.write(&[b'w'; 10])).room(move |io| io.hand_over(new.echo()))),
    ("notify", |old, new| old.notify(move |io| io.hand_over(new.echo()))),
    ("timer", |old, new| {
        old.open(|io| io.set_timer(Duration::from_millis(1))).timer(move |io| io.hand_over(new.echo()))
    }),
    ("shutdown", |old, new| old.shutdown(move |io| io.hand_over(new.echo()))),
];

fn any_callback_may_hand_over(ground: &Ground) {
    for (name, way) in WAYS {
        let stage = ground.single();
        let (old, recorder) = log();
        let (new, successor) = log();
        let options = StreamOptions::new().output_limits(8, 1 << 20).low_water(2);
        let server = stage.listen_stream(options, move |_| way(recorder.probe(), successor.clone()));
        let peer = Peer::connect(server.local_addr());
        let handle = old.opened();
        let stopping = match name {
            "bytes" => {
                peer.send(b"x");
                None
            }
            "end" => {
                peer.end_output();
                None
            }
            "notify" => {
                handle.notify().unwrap();
                None
            }
            "shutdown" => Some(server.stop_async(DEADLINE)),
            _ => None,
        };
        let handle = {
            let new_handle = new.opened();
            assert_eq!(new_handle.id(), handle.id());
            new_handle
        };
        match name {
            "end" => assert!(matches!(new.next(), Event::Ended), "it is told again"),
            "shutdown" => assert!(matches!(new.find(not_drained), Event::Asked), "it is asked again"),
            _ => {
                if name != "bytes" {
                    peer.send(b"x");
                }
                assert_eq!(new.bytes(1), b"x", "{name}");
                handle.notify().unwrap();
                assert!(matches!(new.find(not_drained), Event::Notified), "{name}");
                peer.end_output();
            }
        }
        drop(handle);
        let received = peer.receive_to_end();
        assert_eq!(
            received.last().copied(),
            if ["end", "shutdown"].contains(&name) { None } else { Some(b'x') }
        );
        drop(peer);
        new.closed();
        assert!(!old.rest().iter().any(|event| matches!(event, Event::Closed(_))), "{name}: it had gone");
        drop(stopping);
        stage.finish([server]);
    }
    from_outside(ground);
}

fn not_drained(event: Event) -> Option<Event> {
    (!matches!(event, Event::Drained | Event::Room)).then_some(event)
}

/// By its id, from elsewhere on the reactor.
fn from_outside(ground: &Ground) {
    let stage = ground.single();
    let (old, recorder) = log();
    let (new, successor) = log();
    let server = stage.listen(move |_| recorder.probe().bytes(|_, _| 0));
    let peer = Peer::connect(server.local_addr());
    let id = old.opened().id();
    peer.send(b"x");
    assert!(matches!(old.next(), Event::Bytes(_)));
    assert_eq!(
        on_reactor(&stage, move |reactor| reactor.with_connection(id, |io| io.hand_over(successor.echo()))),
        Some(())
    );
    assert_eq!(new.bytes_after_open(1), b"x");
    assert_eq!(peer.receive(1), b"x");
    drop(peer);
    assert_eq!(new.closed(), Ending::ByPeer);
    stage.finish([server]);
}

/// What the peer did not finish is shown to the new one, before the end is.
fn an_end_is_told_to_whoever_takes_over(ground: &Ground) {
    let stage = ground.stage();
    let (old, recorder) = log();
    let (new, successor) = log();
    let server = stage.listen(move |_| {
        let successor = successor.clone();
        recorder.probe().bytes(|_, _| 0).end(move |io| io.hand_over(successor.echo()))
    });
    for sent in [&b""[..], b"rest"] {
        let peer = Peer::connect(server.local_addr());
        peer.send(sent);
        peer.end_output();
        assert_eq!(peer.receive_to_end(), sent);
        old.find(|event| matches!(event, Event::Ended).then_some(()));
        new.opened();
        assert_eq!(new.bytes(sent.len()), sent);
        assert!(matches!(new.next(), Event::Ended));
        assert_eq!(new.closed(), Ending::ByPeer);
    }
    stage.finish([server]);
}

fn an_end_behind_a_pause_is_told_to_whoever_takes_over(ground: &Ground) {
    let stage = ground.stage();
    let (old, recorder) = log();
    let (new, successor) = log();
    let server = stage.listen(move |_| {
        let successor = successor.clone();
        recorder.probe().open(|io| io.pause_reading()).notify(move |io| io.hand_over(successor.echo()))
    });
    let peer = Peer::connect(server.local_addr());
    let handle = old.opened();
    peer.send(b"rest");
    peer.end_output();
    thread::sleep(SHORT);
    handle.notify().unwrap();
    assert_eq!(new.bytes_after_open(4), b"rest");
    assert!(matches!(new.find(not_drained), Event::Ended));
    assert_eq!(peer.receive_to_end(), b"rest");
    assert_eq!(new.closed(), Ending::ByPeer);
    assert!(old.rest().iter().all(|event| matches!(event, Event::Notified)));
    stage.finish([server]);
}

fn what_was_the_old_ones_is_gone(ground: &Ground) {
    let stage = ground.single();
    let (old, recorder) = log();
    let (new, successor) = log();
    let server = stage.listen(move |_| {
        let successor = successor.clone();
        recorder.probe().bytes(move |io, _| {
            io.set_timer(SHORT / 2);
            io.claim(1 << 20);
            io.expect(1000);
            io.pause_reading();
            io.hand_over(successor.echo());
            1
        })
    });
    let peer = Peer::connect(server.local_addr());
    old.opened();
    peer.send(b"1ab");
    assert_eq!(new.bytes_after_open(2), b"ab");
    assert_eq!(peer.receive(2), b"ab");
    thread::sleep(SHORT);
    peer.send(b"c");
    assert_eq!(new.bytes(1), b"c", "no timer comes before");
    assert_eq!(peer.receive(1), b"c");
    assert_eq!(stage.metrics().timers_fired, 0);
    assert!(stage.runtime.gauges().unwrap()[0].held_bytes < 1 << 20, "a claim is its own");
    drop(peer);
    assert_eq!(new.closed(), Ending::ByPeer);
    stage.finish([server]);
}

/// It waits for more than ever comes; the new one for four bytes, or for any.
fn what_the_old_one_expected_is_forgotten(ground: &Ground) {
    let stage = ground.stage();
    for at_once in [false, true] {
        for least in [0, 4] {
            let (old, recorder) = log();
            let (new, successor) = log();
            let server = stage.listen(move |_| {
                let next = {
                    let successor = successor.clone();
                    move |io: &mut Io<'_>| io.hand_over(successor.echo().open(move |io| io.expect(least)))
                };
                let later = next.clone();
                let old = recorder.probe().notify(move |io| later(io));
                old.bytes(move |io, _| {
                    io.expect(1000);
                    if at_once {
                        next(io);
                    }
                    0
                })
            });
            let peer = Peer::connect(server.local_addr());
            let handle = old.opened();
            peer.send(b"ab");
            assert!(matches!(old.next(), Event::Bytes(_)));
            if !at_once {
                handle.notify().unwrap();
            }
            new.opened();
            if least == 0 {
                assert_eq!(new.bytes(2), b"ab");
            }
            thread::sleep(Duration::from_millis(2));
            peer.send(b"cd");
            assert_eq!(peer.receive(4), b"abcd");
            let shown = new.find(|event| if let Event::Bytes(bytes) = event { Some(bytes) } else { None });
            assert!(shown.len() >= least, "it was called with less: {shown:?}");
            drop(peer);
            new.closed();
            drop(server);
        }
    }
    stage.finish([]);
}

/// What the old one wrote is sent, and the new one hears when all of it is.
fn output_stays_and_is_told_of(ground: &Ground) {
    let stage = ground.stage();
    let (new, successor) = log();
    let much = 4 << 20;
    let server = stage.listen(move |_| {
        let (_, recorder) = log();
        let successor = successor.clone();
        recorder.probe().open(move |io| {
            io.write(&pattern(much));
            io.hand_over(successor.probe());
        })
    });
    let peer = Peer::connect(server.local_addr());
    new.opened();
    assert!(peer.receive(much) == pattern(much));
    new.find(|event| matches!(event, Event::Drained).then_some(()));
    drop(peer);
    assert_eq!(new.closed(), Ending::ByPeer);
    stage.finish([server]);
}

struct Chat {
    said: usize,
}

impl Handler for Chat {
    fn on_bytes(&mut self, _io: &mut Io<'_>, bytes: &[u8]) -> usize {
        self.said += bytes.len();
        bytes.len()
    }
}

fn who_takes_over_is_found_by_its_type(ground: &Ground) {
    let stage = ground.single();
    let (sender, handles) = mpsc::channel::<Handle>();
    let server = stage.listen(move |_| {
        let (_, recorder) = log();
        let sender = sender.clone();
        recorder.probe().open(move |io| sender.send(io.handle()).unwrap())
    });
    let peer = Peer::connect(server.local_addr());
    let handle = handles.recv_timeout(DEADLINE).unwrap();
    let id = handle.id();
    let taken = on_reactor(&stage, move |reactor| {
        let taken = reactor.with_handler(id, |_: &mut Probe, io| io.hand_over(Chat { said: 0 }));
        let is_old = reactor.with_handler(id, |_: &mut Probe, _| ()).is_some();
        (taken, is_old, reactor.with_handler(id, |chat: &mut Chat, io| (chat.said, io.id() == id)))
    });
    assert_eq!(taken, (Some(()), false, Some((0, true))));
    handle.write(b"still yours").unwrap();
    assert_eq!(peer.receive(11), b"still yours");
    drop(peer);
    stage.finish([server]);
}

fn the_last_of_several_takes_over(ground: &Ground) {
    let stage = ground.stage();
    let (first, not_taken) = log();
    let (new, successor) = log();
    let server = stage.listen(move |_| {
        let (_, recorder) = log();
        let (not_taken, successor) = (not_taken.clone(), successor.clone());
        recorder.probe().bytes(move |io, _| {
            io.hand_over(not_taken.echo());
            io.hand_over(successor.echo());
            0
        })
    });
    let peer = Peer::connect(server.local_addr());
    peer.send(b"x");
    assert_eq!(new.bytes_after_open(1), b"x");
    assert_eq!(peer.receive(1), b"x");
    assert!(first.rest().is_empty());
    drop(peer);
    assert_eq!(new.closed(), Ending::ByPeer);
    stage.finish([server]);
}

/// Panics when it is dropped.
struct Brittle(Recorder);

impl Handler for Brittle {
    fn on_bytes(&mut self, io: &mut Io<'_>, _bytes: &[u8]) -> usize {
        io.hand_over(self.0.echo());
        0
    }
}

impl Drop for Brittle {
    fn drop(&mut self) {
        panic!("{INTENDED}");
    }
}

fn what_panics_ends_what_it_should(ground: &Ground) {
    let stage = ground.single();
    // One that is dropped concerns nobody.
    let (new, successor) = log();
    let server = stage.listen(move |_| Brittle(successor.clone()));
    let peer = Peer::connect(server.local_addr());
    peer.send(b"x");
    assert_eq!(new.bytes_after_open(1), b"x");
    assert_eq!(peer.receive(1), b"x");
    drop(peer);
    assert_eq!(new.closed(), Ending::ByPeer);
    drop(server);
    // One that has handed over is not the one that is told.
    let (old, recorder) = log();
    let (new, successor) = log();
    let server = stage.listen(move |_| {
        let successor = successor.clone();
        recorder.probe().bytes(move |io, _| {
            io.hand_over(successor.echo());
            panic!("{INTENDED}");
        })
    });
    let peer = Peer::connect(server.local_addr());
    peer.send(b"x");
    peer.sees_the_end();
    assert!(matches!(new.next(), Event::Closed(Ending::Panicked)), "and is not opened");
    assert!(!old.rest().iter().any(|event| matches!(event, Event::Closed(_))));
    drop(server);
    // One that takes over and panics at once.
    let (new, successor) = log();
    let server = stage.listen(move |_| {
        let (_, recorder) = log();
        let successor = successor.clone();
        recorder.probe().bytes(move |io, _| {
            io.hand_over(successor.probe().open(|_| panic!("{INTENDED}")));
            0
        })
    });
    let peer = Peer::connect(server.local_addr());
    peer.send(b"x");
    peer.sees_the_end();
    new.opened();
    assert!(matches!(new.next(), Event::Closed(Ending::Panicked)), "and is shown nothing");
    assert_eq!(stage.finish_after_panics([server]).handler_panics, 3);
}

type End = fn(&mut Io<'_>);

fn what_is_closing_has_its_end_told_to_the_last(ground: &Ground) {
    let stage = ground.stage();
    let ends: [(End, Ending); 3] = [
        (|io| io.close(), Ending::Closed),
        (|io| io.close_unfinished(), Ending::Aborted),
        (|io| io.abort(), Ending::Aborted),
    ];
    for (end, expected) in ends {
        for before in [true, false] {
            let (old, recorder) = log();
            let (new, successor) = log();
            let server = stage.listen(move |_| {
                let successor = successor.clone();
                recorder.probe().bytes(move |io, _| {
                    if before {
                        end(io);
                    }
                    io.hand_over(successor.echo());
                    if !before {
                        end(io);
                    }
                    0
                })
            });
            let peer = Peer::connect(server.local_addr());
            peer.send(b"x");
            peer.sees_the_end();
            drop(peer);
            assert!(matches!(new.next(), Event::Closed(ending) if ending == expected), "and nothing else");
            assert!(new.rest().is_empty());
            assert!(!old.rest().iter().any(|event| matches!(event, Event::Closed(_))));
            drop(server);
        }
    }
    stage.finish([]);
}

/// Counts how often it is polled. Hands over to another one, which asks for it or does not.
struct Polling {
    asks: bool,
    polls: Arc<AtomicUsize>,
    next: Option<Box<Polling>>,
}

impl Handler for Polling {
    fn on_open(&mut self, io: &mut Io<'_>) {
        if self.asks {
            io.poll_me();
        }
    }

    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        io.write(bytes);
        bytes.len()
    }

    fn polled(&mut self) -> Option<&mut dyn Polled> {
        Some(self)
    }
}

impl Polled for Polling {
    fn on_poll(&mut self, io: &mut Io<'_>) -> bool {
        if self.polls.fetch_add(1, Ordering::Relaxed) == 2
            && let Some(next) = self.next.take()
        {
            io.hand_over(*next);
        }
        true
    }

    fn prepare_sleep(&mut self) {}

    fn is_ready(&self) -> bool {
        false
    }
}

fn only_who_asks_is_polled(ground: &Ground) {
    for asks in [false, true] {
        let stage = ground.single();
        let polls = [0; 2].map(|_| Arc::new(AtomicUsize::new(0)));
        let [old, new] = polls.clone();
        let server = stage.listen(move |_| {
            let next = Polling { asks, polls: new.clone(), next: None };
            Polling { asks: true, polls: old.clone(), next: Some(Box::new(next)) }
        });
        let peer = Peer::connect(server.local_addr());
        peer.send(b"x");
        assert_eq!(peer.receive(1), b"x");
        let count = |which: usize| polls[which].load(Ordering::Relaxed);
        wait_until("the old one is polled", || count(0) == 3);
        if asks {
            wait_until("the new one is polled", || count(1) > 10);
        } else {
            thread::sleep(SHORT);
            assert_eq!(count(1), 0);
        }
        assert_eq!(count(0), 3, "it has gone");
        peer.send(b"x");
        assert_eq!(peer.receive(1), b"x");
        drop(peer);
        stage.finish([server]);
    }
}

/// Hands over to the next of its kind as soon as it can, until there is none.
struct Chain {
    left: usize,
    in_open: bool,
}

impl Chain {
    fn go_on(&self, io: &mut Io<'_>) {
        match self.left {
            0 => io.hand_over(Echo),
            left => io.hand_over(Chain { left: left - 1, in_open: self.in_open }),
        }
    }
}

impl Handler for Chain {
    fn on_open(&mut self, io: &mut Io<'_>) {
        if self.in_open {
            self.go_on(io);
        }
    }

    fn on_bytes(&mut self, io: &mut Io<'_>, _bytes: &[u8]) -> usize {
        self.go_on(io);
        0
    }
}

fn a_thousand_in_a_row_delay_nobody(ground: &Ground) {
    for in_open in [true, false] {
        let stage = ground.single();
        let server = stage.listen(move |_| Chain { left: 1000, in_open });
        let peers: Vec<Peer> = (0..4).map(|_| Peer::connect(server.local_addr())).collect();
        for peer in &peers {
            peer.send(&pattern(100_000));
        }
        for peer in &peers {
            assert!(peer.receive(100_000) == pattern(100_000));
        }
        drop(peers);
        stage.finish([server]);
    }
}

/// While it is handed on, nobody could consume what counts against the limit of input.
fn a_long_chain_keeps_the_limits(ground: &Ground) {
    let stage = ground.single();
    let server =
        stage.listen_stream(StreamOptions::new().input_limit(100), |_| Chain { left: 40, in_open: false });
    let peer = Peer::connect(server.local_addr());
    peer.send(&pattern(3000));
    assert!(peer.receive(3000) == pattern(3000));
    drop(peer);
    assert_eq!(stage.finish([server]).input_limits, 0);
}

/// The first bytes say that this is for somebody else, who gets all of it.
fn a_relay_takes_over(ground: &Ground) {
    let stage = ground.stage();
    let (upstreams, address) = ground.listener(16);
    let server = stage.listen(move |_| {
        let (_, recorder) = log();
        let address = address.clone();
        recorder.probe().bytes(move |io, bytes| {
            if bytes.len() >= 4 {
                io.hand_over(Relay::to([address.clone()]));
            }
            0
        })
    });
    let peer = Peer::connect(server.local_addr());
    peer.send(b"to ");
    thread::sleep(Duration::from_millis(2));
    peer.send(b"you");
    let upstream = Peer::over(upstreams.accept().unwrap().0);
    assert_eq!(upstream.receive(6), b"to you");
    upstream.send(&pattern(10_000));
    assert!(peer.receive(10_000) == pattern(10_000));
    peer.end_output();
    assert!(upstream.receive_to_end().is_empty());
    drop(upstream);
    assert!(peer.receive_to_end().is_empty());
    stage.finish([server]);
}

fn a_relayed_connection_stays_relayed(ground: &Ground) {
    let stage = ground.single();
    let (log, recorder): (Log, Recorder) = log();
    let server = stage.listen(move |_| recorder.probe());
    let peers = [0; 2].map(|_| Peer::connect(server.local_addr()));
    let [first, second] = [log.opened().id(), log.opened().id()];
    let (sender, ended) = mpsc::channel();
    on_reactor(&stage, move |reactor| {
        let on_end = move |relayed: trochus::net::Relayed, _: &mut Reactor| {
            sender
                .send(matches!(
                    (relayed.first, relayed.second),
                    (CloseReason::ByPeer, _) | (_, CloseReason::ByPeer)
                ))
                .unwrap();
        };
        assert!(reactor.relay(first, second, RELAY_BYTES, on_end));
        reactor.with_connection(first, |io| io.hand_over(Echo)).unwrap();
    });
    peers[0].send(b"through");
    assert_eq!(peers[1].receive(7), b"through");
    peers.iter().for_each(Peer::end_output);
    assert!(ended.recv_timeout(DEADLINE).unwrap());
    drop(peers);
    stage.finish([server]);
}
