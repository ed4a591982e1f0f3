//! A reactor in somebody else's loop, turned by hand or when an outer selector says so.

use crate::accounts::DEADLINE;
use crate::ground::{Ground, Peer, pattern};
use crate::probe::{Echo, Ending, Event, log};
use crate::{Suite, suite};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use trochus::Reactor;
use trochus::net::{Address, StreamOptions};

pub(crate) fn suites() -> Vec<Suite> {
    vec![suite!(
        "embedded",
        |_| true,
        [
            turns_serve_connections,
            turns_without_a_wait_serve_connections,
            the_descriptor_wakes_an_outer_selector,
            the_descriptor_needs_no_first_turn,
            a_turn_keeps_to_its_budget,
            turns_out_of_time_lose_nothing_and_say_that_there_is_more,
            an_outer_loop_sleeps_until_the_next_deadline,
            a_host_that_waits_in_calls_of_its_own_serves_everybody,
            a_wake_is_never_lost,
            timers_bound_a_turn,
            a_drain_by_turns_cuts_off_at_its_deadline,
            deferred_work_of_a_drain_is_not_forgotten,
            dropping_a_reactor_ends_its_connections,
            two_reactors_on_one_thread,
        ]
    )]
}

/// A client that plays ping-pong with messages of this size.
fn client(address: &Address, rounds: usize, len: usize) -> JoinHandle<()> {
    let address = address.clone();
    thread::spawn(move || {
        let peer = Peer::connect(&address);
        let message = pattern(len);
        for _ in 0..rounds {
            peer.send(&message);
            assert!(peer.receive(len) == message);
        }
    })
}

#[track_caller]
fn turn_until(reactor: &mut Reactor, timeout: Option<Duration>, mut done: impl FnMut(&mut Reactor) -> bool) {
    let start = Instant::now();
    while !done(reactor) {
        assert!(start.elapsed() < DEADLINE, "turned for {DEADLINE:?} in vain: {:?}", reactor.outstanding());
        reactor.turn(timeout).unwrap();
    }
}

/// Serves until all clients are done, and nothing is left.
fn serve(ground: &Ground, timeout: Option<Duration>) {
    let mut reactor = ground.reactor_builder().build().unwrap();
    assert_eq!(reactor.backend(), ground.backend);
    let listener = reactor.listen(ground.fresh_address(), |_| Echo).unwrap();
    let clients: Vec<_> = (0..4).map(|_| client(listener.local_addr(), 20, 70_000)).collect();
    turn_until(&mut reactor, timeout, |reactor| {
        reactor.metrics().connections_opened == 4 && reactor.connections() == 0
    });
    clients.into_iter().for_each(|client| client.join().unwrap());
    reactor.close_listener(&listener);
    turn_until(&mut reactor, timeout, |reactor| reactor.outstanding() == Default::default());
    let metrics = reactor.metrics();
    assert_eq!(metrics.connections_opened, metrics.connections_closed);
    assert_eq!(metrics.received_bytes, 4 * 20 * 70_000);
}

fn turns_serve_connections(ground: &Ground) {
    serve(ground, Some(Duration::from_millis(10)));
    // For as long as it takes: something always comes.
    serve(ground, None);
}

fn turns_without_a_wait_serve_connections(ground: &Ground) {
    serve(ground, Some(Duration::ZERO));
}

fn the_descriptor_wakes_an_outer_selector(ground: &Ground) {
    const CLIENTS: u64 = 8;
    const COMMANDS: u64 = 300;
    let mut reactor = ground.reactor_builder().build().unwrap();
    let listener = reactor.listen(ground.fresh_address(), |_| Echo).unwrap();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| client(listener.local_addr(), 30, 100_000)).collect();
    let (commands, handle) = (Arc::new(AtomicU64::new(0)), reactor.handle());
    clients.push(thread::spawn({
        let commands = commands.clone();
        move || {
            for number in 1..=COMMANDS {
                let counter = commands.clone();
                handle.run(move |_| _ = counter.fetch_add(1, Ordering::SeqCst)).unwrap();
                if number % 100 == 0 {
                    let ran = || commands.load(Ordering::SeqCst) == number;
                    crate::accounts::wait_until("commands have run", ran);
                }
            }
        }
    }));
    let mut poll = Poll::new().unwrap();
    let descriptor = reactor.as_raw_fd();
    poll.registry().register(&mut SourceFd(&descriptor), Token(0), Interest::READABLE).unwrap();
    let mut events = Events::with_capacity(4);
    let done = |reactor: &Reactor| {
        let metrics = reactor.metrics();
        commands.load(Ordering::SeqCst) == COMMANDS && metrics.connections_closed == CLIENTS
    };
    while !done(&reactor) {
        match poll.poll(&mut events, Some(DEADLINE)) {
            Ok(()) => assert!(!events.is_empty(), "the reactor had something to do, and nobody was told"),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::Interrupted),
        }
        reactor.turn(Some(Duration::ZERO)).unwrap();
    }
    clients.into_iter().for_each(|client| client.join().unwrap());
    poll.registry().deregister(&mut SourceFd(&descriptor)).unwrap();
    reactor.drain(DEADLINE).unwrap();
    assert_eq!(reactor.outstanding(), Default::default());
}

/// Waits for the descriptor; for `limit` at most, if that is sooner than a test has patience.
fn wait(poll: &mut Poll, limit: Option<Duration>) {
    let mut events = Events::with_capacity(4);
    match poll.poll(&mut events, Some(limit.unwrap_or(DEADLINE).min(DEADLINE))) {
        Ok(()) => {
            assert!(limit.is_some() || !events.is_empty(), "there is something to do, and nobody was told")
        }
        // The kernel has completed something.
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::Interrupted),
    }
}

/// Each thing that can be done to a reactor before its first turn, or between two.
fn the_descriptor_needs_no_first_turn(ground: &Ground) {
    for turns_before in [false, true] {
        let mut reactor = ground.reactor_builder().build().unwrap();
        let descriptor = reactor.as_raw_fd();
        let mut poll = Poll::new().unwrap();
        poll.registry().register(&mut SourceFd(&descriptor), Token(0), Interest::READABLE).unwrap();
        if turns_before {
            reactor.turn(Some(Duration::ZERO)).unwrap();
        }
        // A command of another thread.
        let (ran, handle) = (Arc::new(AtomicU64::new(0)), reactor.handle());
        let counter = ran.clone();
        handle.run(move |_| _ = counter.fetch_add(1, Ordering::SeqCst)).unwrap();
        while ran.load(Ordering::SeqCst) == 0 {
            wait(&mut poll, None);
            reactor.turn(Some(Duration::ZERO)).unwrap();
        }
        // A listener, and one who connects.
        let (log, recorder) = log();
        let echo = recorder.clone();
        let listener = reactor.listen(ground.fresh_address(), move |_| echo.echo()).unwrap();
        let peer = client(listener.local_addr(), 1, 10);
        while reactor.metrics().connections_closed == 0 {
            wait(&mut poll, None);
            reactor.turn(Some(Duration::ZERO)).unwrap();
        }
        peer.join().unwrap();
        // A connection that the reactor makes, and what is written to it between turns.
        let id = Arc::new(std::sync::Mutex::new(None));
        let told = id.clone();
        let probe = recorder.probe().open(move |io| *told.lock().unwrap() = Some(io.id()));
        reactor.connect(&StreamOptions::new(), &listener.local_addr().clone(), probe);
        while id.lock().unwrap().is_none() {
            wait(&mut poll, None);
            reactor.turn(Some(Duration::ZERO)).unwrap();
        }
        let received = reactor.metrics().received_bytes;
        let connection = id.lock().unwrap().unwrap();
        reactor.with_connection(connection, |io| io.write(b"there and back")).unwrap();
        while reactor.metrics().received_bytes < received + 28 {
            wait(&mut poll, None);
            reactor.turn(Some(Duration::ZERO)).unwrap();
        }
        reactor.close_listener(&listener);
        reactor.begin_drain(DEADLINE);
        while !reactor.is_drained() {
            wait(&mut poll, reactor.next_deadline().map(|due| due.saturating_duration_since(Instant::now())));
            reactor.turn(Some(Duration::ZERO)).unwrap();
        }
        drop(log);
        assert_eq!(reactor.outstanding(), Default::default());
    }
}

fn a_turn_keeps_to_its_budget(ground: &Ground) {
    const BUDGET: u64 = 40_000;
    const BUFFER: u64 = 16 << 10;
    let mut reactor = ground.reactor_builder().turn_budget(BUDGET as usize).build().unwrap();
    let (log, recorder) = log();
    let listener = reactor.listen(ground.fresh_address(), move |_| recorder.probe()).unwrap();
    let message = pattern(3 << 20);
    let greedy: Vec<_> = (0..3)
        .map(|_| {
            let (peer, message) = (Peer::connect(listener.local_addr()), message.clone());
            thread::spawn(move || peer.send(&message))
        })
        .collect();
    let (start, all) = (Instant::now(), 3 * message.len() as u64);
    let mut before = 0;
    while reactor.metrics().received_bytes < all {
        assert!(start.elapsed() < DEADLINE, "{} of {all}", reactor.metrics().received_bytes);
        reactor.turn(Some(Duration::from_millis(10))).unwrap();
        let received = reactor.metrics().received_bytes;
        assert!(received - before < BUDGET + BUFFER, "{} bytes in one turn", received - before);
        before = received;
    }
    greedy.into_iter().for_each(|greedy| greedy.join().unwrap());
    turn_until(&mut reactor, None, |reactor| reactor.connections() == 0);
    drop(log);
    reactor.drain(DEADLINE).unwrap();
    assert_eq!(reactor.outstanding(), Default::default());
    assert!(ground.reactor_builder().turn_budget(0).build().is_err());
}

/// With no time for anything but one of each kind: what is left is announced, or the outer loop would wait for it in vain.
fn turns_out_of_time_lose_nothing_and_say_that_there_is_more(ground: &Ground) {
    const CLIENTS: u64 = 4;
    const COMMANDS: u64 = 10;
    // Longer than anything else lasts.
    const TIMERS: u64 = 40;
    let mut reactor = ground.reactor_builder().turn_time(Duration::from_nanos(1)).build().unwrap();
    let mut poll = Poll::new().unwrap();
    let descriptor = reactor.as_raw_fd();
    poll.registry().register(&mut SourceFd(&descriptor), Token(0), Interest::READABLE).unwrap();
    let listener = reactor.listen(ground.fresh_address(), |_| Echo).unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let handle = reactor.handle();
    for number in 0..COMMANDS {
        let order = order.clone();
        handle.run(move |_| order.lock().unwrap().push(number)).unwrap();
    }
    let fired = Arc::new(AtomicU64::new(0));
    for _ in 0..TIMERS {
        let fired = fired.clone();
        reactor.after(Duration::from_millis(1), move |_| _ = fired.fetch_add(1, Ordering::SeqCst));
    }
    thread::sleep(Duration::from_millis(2));
    // All of them are due: the descriptor says so from the first turn on, and no deadline has to be asked for.
    reactor.turn(Some(Duration::ZERO)).unwrap();
    assert_eq!((order.lock().unwrap().len(), fired.load(Ordering::SeqCst)), (1, 1));
    while order.lock().unwrap().len() < COMMANDS as usize || fired.load(Ordering::SeqCst) < TIMERS {
        let before = (order.lock().unwrap().len(), fired.load(Ordering::SeqCst));
        wait(&mut poll, None);
        reactor.turn(Some(Duration::ZERO)).unwrap();
        let after = (order.lock().unwrap().len(), fired.load(Ordering::SeqCst));
        assert!(after.0 <= before.0 + 1 && after.1 <= before.1 + 1, "{before:?} and then {after:?}");
    }
    assert_eq!(*order.lock().unwrap(), (0..COMMANDS).collect::<Vec<_>>());
    let clients: Vec<_> = (0..CLIENTS).map(|_| client(listener.local_addr(), 10, 100_000)).collect();
    while reactor.metrics().connections_closed < CLIENTS {
        wait(&mut poll, None);
        reactor.turn(Some(Duration::ZERO)).unwrap();
    }
    clients.into_iter().for_each(|client| client.join().unwrap());
    reactor.drain(DEADLINE).unwrap();
    assert_eq!(reactor.outstanding(), Default::default());
    assert!(ground.reactor_builder().turn_time(Duration::ZERO).build().is_err());
}

fn an_outer_loop_sleeps_until_the_next_deadline(ground: &Ground) {
    let mut reactor = ground.reactor_builder().build().unwrap();
    assert_eq!(reactor.next_deadline(), None);
    let mut poll = Poll::new().unwrap();
    let descriptor = reactor.as_raw_fd();
    poll.registry().register(&mut SourceFd(&descriptor), Token(0), Interest::READABLE).unwrap();
    let (log, recorder) = log();
    let listener = reactor
        .listen(ground.fresh_address(), move |_| {
            recorder.probe().open(|io| io.set_timer(Duration::from_millis(15))).timer(|io| io.abort())
        })
        .unwrap();
    let peer = Peer::connect(listener.local_addr());
    let (start, ran) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let counter = ran.clone();
    reactor.after(Duration::from_millis(10), move |_| _ = counter.fetch_add(1, Ordering::SeqCst));
    assert!(reactor.next_deadline().is_some_and(|due| due >= start + Duration::from_millis(10)));
    let mut waits = 0;
    while ran.load(Ordering::SeqCst) == 0 || reactor.metrics().connections_closed == 0 {
        // Nothing but a deadline ends the last waits: without them this would take the test's whole patience.
        let due = reactor.next_deadline();
        wait(&mut poll, due.map(|due| due.saturating_duration_since(Instant::now())));
        reactor.turn(Some(Duration::ZERO)).unwrap();
        waits += 1;
        assert!(waits < 10_000 && start.elapsed() < DEADLINE / 2);
    }
    assert_eq!(log.closed(), Ending::Aborted);
    drop(peer);
    reactor.begin_drain(Duration::from_millis(5));
    assert!(reactor.next_deadline().is_none_or(|due| due > start));
    reactor.drain(Duration::ZERO).unwrap();
    assert_eq!(reactor.outstanding(), Default::default());
}

/// A host with the settings that are for it. What it waits in knows nothing of the reactor: a datagram socket with a time limit, and
/// then a selector that has its own socket beside the reactor. Where that is interrupted, the reactor has something to do.
fn a_host_that_waits_in_calls_of_its_own_serves_everybody(ground: &Ground) {
    const CLIENTS: u64 = 16;
    const PAUSE: Duration = Duration::from_millis(2);
    for own_selector in [false, true] {
        let mut reactor = ground.reactor_builder().embedded().build().unwrap();
        assert_eq!(reactor.backend(), ground.backend, "whoever names one gets it");
        let listener = reactor.listen(ground.fresh_address(), |_| Echo).unwrap();
        let clients: Vec<_> = (0..CLIENTS).map(|_| client(listener.local_addr(), 10, 20_000)).collect();
        let host = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (over, address) = (Arc::new(AtomicBool::new(false)), host.local_addr().unwrap());
        let sender = thread::spawn({
            let (over, socket) = (over.clone(), UdpSocket::bind("127.0.0.1:0").unwrap());
            move || {
                while !over.load(Ordering::SeqCst) {
                    socket.send_to(b"for the host", address).unwrap();
                    thread::sleep(5 * PAUSE);
                }
            }
        });
        host.set_read_timeout(Some(PAUSE)).unwrap();
        let mut poll = Poll::new().unwrap();
        let (own, descriptor) = (host.as_raw_fd(), reactor.as_raw_fd());
        if own_selector {
            host.set_nonblocking(true).unwrap();
            poll.registry().register(&mut SourceFd(&own), Token(1), Interest::READABLE).unwrap();
            poll.registry().register(&mut SourceFd(&descriptor), Token(0), Interest::READABLE).unwrap();
        }
        let (mut events, mut interrupted, mut heard, start) =
            (Events::with_capacity(4), 0, 0, Instant::now());
        while reactor.metrics().connections_closed < CLIENTS || heard == 0 {
            assert!(start.elapsed() < DEADLINE, "{:?}", reactor.outstanding());
            let waited = if own_selector { poll.poll(&mut events, Some(DEADLINE)) } else { Ok(()) };
            interrupted += u64::from(is_interrupted(&waited));
            let received = host.recv(&mut [0; 64]);
            interrupted += u64::from(is_interrupted(&received));
            heard += u64::from(received.is_ok());
            // An interruption says that there is something to do as well as the descriptor does.
            reactor.turn(Some(Duration::ZERO)).unwrap();
        }
        if ground.backend == trochus::Backend::Fallback {
            assert_eq!(interrupted, 0, "nothing is done behind the thread's back");
        }
        clients.into_iter().for_each(|client| client.join().unwrap());
        over.store(true, Ordering::SeqCst);
        sender.join().unwrap();
        assert_eq!(reactor.metrics().received_bytes, CLIENTS * 10 * 20_000);
        reactor.drain(DEADLINE).unwrap();
        assert_eq!(reactor.outstanding(), Default::default());
    }
}

/// Whether a call that may also have timed out was interrupted.
#[track_caller]
fn is_interrupted<T>(result: &std::io::Result<T>) -> bool {
    let kind = result.as_ref().err().map(std::io::Error::kind);
    assert!(matches!(
        kind,
        None | Some(ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
    ));
    kind == Some(ErrorKind::Interrupted)
}

fn a_wake_is_never_lost(ground: &Ground) {
    let mut reactor = ground.reactor_builder().build().unwrap();
    let handle = reactor.handle();
    // Before the first turn, between turns, and in the middle of one: the next wait ends at once.
    for _ in 0..3 {
        handle.wake();
        reactor.turn(None).unwrap();
    }
    let waking = handle.clone();
    handle.run(move |_| waking.wake()).unwrap();
    reactor.turn(None).unwrap();
    reactor.turn(None).unwrap();
    // From another thread, at whatever moment. Each wait is ended by the wake that belongs to it, or it would hang.
    const ROUNDS: u64 = 2_000;
    let (given, seen) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let waker = thread::spawn({
        let (given, seen) = (given.clone(), seen.clone());
        move || {
            for round in 1..=ROUNDS {
                given.store(round, Ordering::SeqCst);
                handle.wake();
                let start = Instant::now();
                while seen.load(Ordering::SeqCst) < round {
                    assert!(start.elapsed() < DEADLINE, "the wake of round {round} was lost");
                    thread::yield_now();
                }
            }
        }
    });
    while seen.load(Ordering::SeqCst) < ROUNDS {
        seen.store(given.load(Ordering::SeqCst), Ordering::SeqCst);
        if seen.load(Ordering::SeqCst) < ROUNDS {
            reactor.turn(None).unwrap();
        }
    }
    waker.join().unwrap();
}

fn timers_bound_a_turn(ground: &Ground) {
    let mut reactor = ground.reactor_builder().build().unwrap();
    let (log, recorder) = log();
    let listener = reactor
        .listen(ground.fresh_address(), move |_| {
            recorder.probe().open(|io| io.set_timer(Duration::from_millis(5))).timer(|io| io.abort())
        })
        .unwrap();
    let peer = Peer::connect(listener.local_addr());
    // Only the timer can end the wait, and with it the connection.
    turn_until(&mut reactor, None, |reactor| reactor.metrics().connections_closed == 1);
    assert_eq!(log.closed(), Ending::Aborted);
    drop(peer);
    reactor.drain(Duration::ZERO).unwrap();
    assert_eq!(reactor.outstanding(), Default::default());
}

fn a_drain_by_turns_cuts_off_at_its_deadline(ground: &Ground) {
    let mut reactor = ground.reactor_builder().build().unwrap();
    let (log, recorder) = log();
    let listener = reactor
        .listen(ground.fresh_address(), move |_| recorder.probe().shutdown(|_| {}).end(|_| {}))
        .unwrap();
    let peer = Peer::connect(listener.local_addr());
    turn_until(&mut reactor, None, |reactor| reactor.connections() == 1);
    assert!(!reactor.is_drained());
    reactor.begin_drain(Duration::from_millis(20));
    turn_until(&mut reactor, None, |reactor| reactor.is_drained());
    assert_eq!(log.closed(), Ending::Shutdown);
    peer.sees_the_end();
    assert_eq!(reactor.outstanding(), Default::default());
}

fn deferred_work_of_a_drain_is_not_forgotten(ground: &Ground) {
    let mut reactor = ground.reactor_builder().build().unwrap();
    let (log, recorder) = log();
    let listener = reactor
        .listen(ground.fresh_address(), move |_| {
            recorder.probe().shutdown(|io| {
                let handle = io.handle();
                io.defer(move |_| handle.close().unwrap());
            })
        })
        .unwrap();
    let peer = Peer::connect(listener.local_addr());
    turn_until(&mut reactor, None, |reactor| reactor.connections() == 1);
    let closer = thread::spawn(move || assert!(peer.receive_to_end().is_empty()));
    reactor.begin_drain(DEADLINE);
    turn_until(&mut reactor, None, |reactor| reactor.is_drained());
    assert_eq!(log.closed(), Ending::Closed);
    closer.join().unwrap();
}

fn dropping_a_reactor_ends_its_connections(ground: &Ground) {
    let mut reactor = ground.reactor_builder().build().unwrap();
    let (log, recorder) = log();
    let stubborn = recorder.clone();
    let listener = reactor
        .listen(ground.fresh_address(), move |_| stubborn.probe().shutdown(|_| {}).end(|_| {}))
        .unwrap();
    let target = listener.local_addr().clone();
    reactor.connect(&StreamOptions::new(), &target, recorder.probe().open(|io| io.write(&[1; 1 << 20])));
    turn_until(&mut reactor, None, |reactor| reactor.metrics().received_bytes > 1000);
    let handle = reactor.handle();
    drop(reactor);
    assert!(handle.run(|_| ()).is_err());
    let metrics = handle.metrics();
    assert_eq!((metrics.connections_opened, metrics.connections_closed), (2, 2));
    let closed = log.rest().into_iter().filter(|event| matches!(event, Event::Closed(_))).count();
    assert_eq!(closed, 2);
}

fn two_reactors_on_one_thread(ground: &Ground) {
    let (mut one, mut other) =
        (ground.reactor_builder().build().unwrap(), ground.reactor_builder().build().unwrap());
    let (log, recorder) = log();
    let listener = one.listen(ground.fresh_address(), |_| Echo).unwrap();
    let message = pattern(1 << 20);
    let sent = message.clone();
    let probe = recorder.probe().open(move |io| io.write(&sent));
    other.connect(&StreamOptions::new(), listener.local_addr(), probe);
    let start = Instant::now();
    while other.metrics().received_bytes < message.len() as u64 {
        assert!(start.elapsed() < DEADLINE);
        one.turn(Some(Duration::ZERO)).unwrap();
        other.turn(Some(Duration::ZERO)).unwrap();
    }
    log.opened();
    assert!(log.bytes(message.len()) == message);
    other.begin_drain(DEADLINE);
    while !other.is_drained() {
        assert!(start.elapsed() < DEADLINE);
        one.turn(Some(Duration::ZERO)).unwrap();
        other.turn(Some(Duration::ZERO)).unwrap();
    }
    one.drain(DEADLINE).unwrap();
    assert_eq!(one.outstanding(), Default::default());
    assert_eq!(other.outstanding(), Default::default());
}
