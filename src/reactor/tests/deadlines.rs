//! What an open connection waits for, and for how long.

use super::*;
use crate::config::{DRAIN_TIMEOUT, MESSAGE_STEP, MESSAGE_TIMEOUT};

const SECOND: Duration = Duration::from_secs(1);

/// Writes so much, consumes as it is told, and ends its connection when it is asked to, or keeps it open.
struct Waits {
    writes: usize,
    consume: fn(&[u8]) -> usize,
    close: bool,
    stays: bool,
    /// How often it pauses for a while in the place of consuming.
    pauses: usize,
    fate: Rc<RefCell<Fate>>,
}

impl Default for Waits {
    fn default() -> Self {
        Waits { writes: 0, consume: <[u8]>::len, close: false, stays: true, pauses: 0, fate: Rc::default() }
    }
}

impl Handler for Waits {
    fn on_open(&mut self, io: &mut Io<'_>) {
        self.fate.borrow_mut().opened += 1;
        io.write(&vec![7; self.writes]);
        if self.close {
            io.close();
        }
    }

    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        if let Some(left) = self.pauses.checked_sub(1) {
            self.pauses = left;
            io.pause_reading();
            io.set_timer(40 * SECOND);
            return 0;
        }
        (self.consume)(bytes)
    }

    fn on_timer(&mut self, io: &mut Io<'_>) {
        io.resume_reading();
    }

    fn on_end(&mut self, _io: &mut Io<'_>) {
        // There is more to say.
    }

    fn on_shutdown(&mut self, io: &mut Io<'_>) {
        self.fate.borrow_mut().ended += 1;
        if !self.stays {
            io.close();
        }
    }

    fn on_close(&mut self, reason: &CloseReason, _reactor: &mut Reactor) {
        self.fate.borrow_mut().closed.push(format!("{reason:?}"));
    }
}

/// What became of a connection to a peer that sends everything back as it takes it, how long that took, and what was counted.
struct Life {
    fate: Fate,
    took: Duration,
    peer: Peer,
    metrics: crate::Metrics,
}

impl Life {
    #[track_caller]
    fn ended(&self, reason: &str, after: Duration) {
        assert!(self.fate.closed.len() == 1 && self.fate.closed[0].starts_with(reason), "{:?}", self.fate);
        // It was opened a little before it was looked at.
        let in_time = self.took + SECOND / 20 >= after && self.took < after + 5 * SECOND;
        assert!(in_time, "{reason} after {:?}, not {after:?}", self.took);
        assert_eq!(self.metrics.connections_over_limit, u64::from(reason != "Shutdown"));
    }
}

/// Connects, and waits for the end of the connection, which is closed from here after `longest`.
fn live(
    seed: u64,
    options: &StreamOptions,
    takes: Takes,
    longest: Duration,
    handler: impl Fn() -> Waits,
) -> Life {
    live_changing(seed, options, longest, handler, |_| takes)
}

/// The same with a peer that changes with the age of the connection.
fn live_changing(
    seed: u64,
    options: &StreamOptions,
    longest: Duration,
    handler: impl Fn() -> Waits,
    takes: impl Fn(Duration) -> Takes,
) -> Life {
    let (mut reactor, world) = reactor(seed, &mut Rng::with_seed(seed));
    let fate = Rc::<RefCell<Fate>>::default();
    step_until(&mut reactor, |reactor| {
        if reactor.connections() == 0 {
            // The attempt to connect was interrupted.
            let peer = Peer { echoes: true, takes: takes(Duration::ZERO), ..Peer::default() };
            world.borrow_mut().answering.push_back(peer);
            reactor.connect(options, &somewhere(), Waits { fate: fate.clone(), ..handler() });
        }
        fate.borrow().opened == 1
    });
    fate.borrow_mut().closed.clear();
    let opened = reactor.driver.now();
    while reactor.connections() > 0 {
        let age = reactor.driver.now() - opened;
        world.borrow_mut().peers.values_mut().for_each(|peer| peer.takes = takes(age));
        if age > longest {
            reactor.begin_drain(Duration::ZERO);
        }
        reactor.step(Some(SECOND)).unwrap();
    }
    let took = reactor.driver.now() - opened;
    check_the_end(&mut reactor, &world);
    let peer = world.borrow_mut().gone.pop().unwrap();
    Life { fate: fate.take(), took, peer, metrics: reactor.metrics() }
}

fn none(_: &[u8]) -> usize {
    0
}

/// A byte comes each second, and none is consumed.
#[test]
fn a_message_is_as_old_as_its_first_byte() {
    for_each_seed(20, |seed| {
        let waits = || Waits { writes: 200, consume: none, ..Waits::default() };
        let options = StreamOptions::new();
        let life = live(seed, &options, Takes::ByteEach(SECOND), 300 * SECOND, waits);
        life.ended("MessageTimeout", MESSAGE_TIMEOUT);
        assert_eq!(life.metrics.message_timeouts, 1);
        assert!(life.peer.received.len() < 100, "it went on");
        let life =
            live(seed, &options.message_timeout(Duration::MAX), Takes::ByteEach(SECOND), 300 * SECOND, waits);
        life.ended("Shutdown", 300 * SECOND);
    });
}

/// Each message takes half of the time that it may, and there are twenty.
#[test]
fn each_message_has_its_own_time() {
    for_each_seed(20, |seed| {
        let waits = || Waits { writes: 200, consume: |bytes| bytes.len() / 10 * 10, ..Waits::default() };
        let options = StreamOptions::new().message_timeout(20 * SECOND);
        let life = live(seed, &options, Takes::ByteEach(SECOND), 250 * SECOND, waits);
        life.ended("Shutdown", 250 * SECOND);
        assert_eq!(life.peer.received.len(), 200);
    });
}

/// What the handler does not take while it pauses, the peer does not owe.
#[test]
fn a_pause_counts_for_no_message() {
    for_each_seed(20, |seed| {
        let pauses = || Waits { writes: 10, consume: none, pauses: 100, ..Waits::default() };
        let options = StreamOptions::new().message_timeout(20 * SECOND).idle_timeout(30 * SECOND);
        live(seed, &options, Takes::Everything, 200 * SECOND, pauses).ended("Shutdown", 200 * SECOND);
        let pauses_once = || Waits { pauses: 1, ..pauses() };
        let life = live(seed, &options, Takes::Everything, 200 * SECOND, pauses_once);
        life.ended("MessageTimeout", 60 * SECOND);
    });
}

/// Of a message that is long, so much comes each time that it has its time.
#[test]
fn a_long_message_has_as_long_as_it_goes_on() {
    let (mut reactor, world) = prompt_reactor(4, 4096);
    let fate = Rc::<RefCell<Fate>>::default();
    world.borrow_mut().answering.push_back(Peer { echoes: true, ..Peer::default() });
    let waits = Waits { consume: none, fate: fate.clone(), ..Waits::default() };
    reactor.connect(&StreamOptions::new(), &somewhere(), waits);
    step_until(&mut reactor, |_| fate.borrow().opened == 1);
    let opened = reactor.driver.now();
    let mut comes = |bytes: usize, times: usize| {
        for _ in 0..times {
            world.borrow_mut().peers.values_mut().for_each(|peer| peer.sends.extend(vec![7; bytes]));
            let next = reactor.driver.now() + MESSAGE_TIMEOUT / 2;
            while reactor.driver.now() < next {
                reactor.step(Some(SECOND)).unwrap();
            }
        }
        fate.borrow().closed.clone()
    };
    assert_eq!(comes(MESSAGE_STEP, 20), Vec::<String>::new());
    let closed = comes(MESSAGE_STEP / 4, 3);
    assert!(closed.len() == 1 && closed[0].starts_with("MessageTimeout"), "{closed:?}");
    assert!(reactor.driver.now() - opened >= 11 * MESSAGE_TIMEOUT);
    reactor.drain(Duration::ZERO).unwrap();
}

/// Behind the peer's end there is no rest that could come, but there may be an answer.
#[test]
fn who_has_ended_his_output_owes_nothing() {
    let (mut reactor, world) = prompt_reactor(4, 4096);
    let fate = Rc::<RefCell<Fate>>::default();
    // It ends its stream behind this.
    let peer = Peer { sends: [7; 3].into(), takes: Takes::ByteEach(SECOND), ..Peer::default() };
    world.borrow_mut().answering.push_back(peer);
    let answers =
        Waits { writes: 300, consume: |bytes| bytes.len() - 1, fate: fate.clone(), ..Waits::default() };
    reactor.connect(&StreamOptions::new(), &somewhere(), answers);
    step_until(&mut reactor, |_| fate.borrow().opened == 1);
    let opened = reactor.driver.now();
    while reactor.driver.now() < opened + 290 * SECOND {
        reactor.step(Some(SECOND)).unwrap();
    }
    assert_eq!(fate.borrow().closed, Vec::<String>::new());
    reactor.drain(Duration::ZERO).unwrap();
}

/// It is closed in good order: the peer missed nothing.
#[test]
fn a_peer_that_says_nothing_has_so_much_time() {
    for_each_seed(20, |seed| {
        let options = StreamOptions::new().opening_timeout(10 * SECOND);
        let leaves = || Waits { stays: false, ..Waits::default() };
        let life = live(seed, &options, Takes::Everything, 100 * SECOND, leaves);
        life.ended("OpeningTimeout", 10 * SECOND);
        assert!(life.peer.saw_end && life.metrics.opening_timeouts == 1);
        // It says one word, late.
        let speaks = || Waits { writes: 1, ..Waits::default() };
        let life = live(seed, &options, Takes::ByteEach(9 * SECOND), 100 * SECOND, speaks);
        life.ended("Shutdown", 100 * SECOND);
    });
}

#[test]
fn who_is_idle_is_closed_in_good_order_and_who_moves_is_not() {
    for_each_seed(20, |seed| {
        let options = StreamOptions::new().idle_timeout(10 * SECOND);
        let speaks = || Waits { writes: 5, stays: false, ..Waits::default() };
        let life = live(seed, &options, Takes::ByteEach(8 * SECOND), 100 * SECOND, speaks);
        life.ended("IdleTimeout", 50 * SECOND);
        assert!(life.peer.saw_end && life.metrics.idle_timeouts == 1 && life.peer.received.len() == 5);
        // The handler knows whether something is in progress; but not for ever.
        let stays = || Waits { writes: 5, stays: true, ..Waits::default() };
        let life = live(seed, &options, Takes::ByteEach(8 * SECOND), 100 * SECOND, stays);
        life.ended("IdleTimeout", 50 * SECOND + DRAIN_TIMEOUT);
        assert!(!life.peer.saw_end && life.fate.ended == 1 && life.metrics.lifetimes_over == 0);
        // What waits for a peer that takes nothing is lost, and it is not told that this was all.
        let life = live(seed, &options, Takes::Nothing, 100 * SECOND, speaks);
        life.ended("IdleTimeout", 10 * SECOND);
        assert!(!life.peer.saw_end);
    });
}

#[test]
fn a_peer_has_to_take_what_waits_for_it_at_some_rate() {
    for_each_seed(20, |seed| {
        let writes = || Waits { writes: 200, ..Waits::default() };
        let options = StreamOptions::new().write_rate(10, 20 * SECOND);
        let life = live(seed, &options, Takes::ByteEach(4 * SECOND), 1000 * SECOND, writes);
        life.ended("WriteTooSlow", 20 * SECOND);
        assert_eq!(life.metrics.slow_readers, 1);
        let life = live(seed, &options, Takes::ByteEach(SECOND), 300 * SECOND, writes);
        life.ended("Shutdown", 300 * SECOND);
        assert_eq!(life.peer.received.len(), 200);
        // Little, but all that there is.
        let few = || Waits { writes: 3, ..Waits::default() };
        let life = live(seed, &options, Takes::ByteEach(4 * SECOND), 100 * SECOND, few);
        life.ended("Shutdown", 100 * SECOND);
        // Behind a close as well.
        let closes = || Waits { writes: 200, close: true, ..Waits::default() };
        let life = live(seed, &options, Takes::ByteEach(4 * SECOND), 1000 * SECOND, closes);
        life.ended("WriteTooSlow", 20 * SECOND);
        let life = live(seed, &options, Takes::ByteEach(SECOND), 1000 * SECOND, closes);
        assert_eq!((&life.fate.closed[..], life.peer.received.len()), (&["Closed".to_owned()][..], 200));
    });
}

/// Each period counts, not the average.
#[test]
fn a_peer_that_becomes_slow_is_reset_then() {
    for_each_seed(20, |seed| {
        let writes = || Waits { writes: 300, ..Waits::default() };
        let options = StreamOptions::new().write_rate(10, 20 * SECOND);
        let takes = |age| Takes::ByteEach(if age < 50 * SECOND { SECOND / 2 } else { 4 * SECOND });
        let life = live_changing(seed, &options, 1000 * SECOND, writes, takes);
        life.ended("WriteTooSlow", 79 * SECOND);
    });
}

/// One timer for all of them is set for what comes first.
#[test]
fn a_short_limit_is_not_late_because_of_a_long_one() {
    for_each_seed(20, |seed| {
        let waits = || Waits { writes: 1, consume: none, ..Waits::default() };
        let options = StreamOptions::new().idle_timeout(50 * SECOND).message_timeout(10 * SECOND);
        let life = live(seed, &options, Takes::ByteEach(5 * SECOND), 1000 * SECOND, waits);
        life.ended("MessageTimeout", 15 * SECOND);
    });
}

/// It is asked, and has a while.
#[test]
fn who_is_old_is_asked_to_end_and_then_cut_off() {
    for_each_seed(20, |seed| {
        let options = StreamOptions::new().lifetime(100 * SECOND);
        let speaks = || Waits { writes: 500, stays: true, ..Waits::default() };
        let life = live(seed, &options, Takes::ByteEach(SECOND), 1000 * SECOND, speaks);
        life.ended("LifetimeOver", 100 * SECOND + DRAIN_TIMEOUT);
        assert_eq!(life.fate.ended, 1, "it was asked once");
        assert_eq!((life.metrics.lifetimes_over, life.metrics.lifetimes_exceeded), (1, 1));
        // It ends in good order, but for a peer that takes its time.
        let closes = || Waits { stays: false, ..speaks() };
        let life = live(seed, &options, Takes::Everything, 1000 * SECOND, closes);
        assert!(life.fate.closed[0].starts_with("Close") && life.peer.saw_end, "{:?}", life.fate);
        assert_eq!((life.metrics.lifetimes_over, life.metrics.lifetimes_exceeded), (1, 0));
        let life = live(seed, &options, Takes::ByteEach(SECOND), 1000 * SECOND, closes);
        life.ended("LifetimeOver", 100 * SECOND + DRAIN_TIMEOUT);
    });
}

#[test]
fn all_limits_cost_one_timer_and_none_costs_none() {
    let all = StreamOptions::new().opening_timeout(SECOND).idle_timeout(2 * SECOND).write_rate(1, SECOND);
    for (options, writes, timers) in [(StreamOptions::new(), 0, 0), (all, 10, 1)] {
        let (mut reactor, world) = prompt_reactor(4, 4096);
        world.borrow_mut().answering.push_back(Peer { echoes: true, ..Peer::default() });
        reactor.connect(&options, &somewhere(), Waits { writes, ..Waits::default() });
        (0..20).for_each(|_| reactor.step(Some(Duration::ZERO)).unwrap());
        assert_eq!((reactor.gauges().connections, reactor.gauges().timers), (1, timers));
        reactor.drain(Duration::ZERO).unwrap();
    }
}

#[test]
fn no_time_at_all_is_refused() {
    let none = StreamOptions::new;
    for options in [
        none().opening_timeout(Duration::ZERO),
        none().message_timeout(Duration::ZERO),
        none().idle_timeout(Duration::ZERO),
        none().write_stall_timeout(Duration::ZERO),
        none().write_rate(1, Duration::ZERO),
    ] {
        assert!(options.check().unwrap_err().to_string().contains("longer than nothing"));
    }
    assert!(ListenOptions::new().lifetime(Duration::ZERO).check().is_err());
}
