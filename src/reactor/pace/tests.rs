//! When things happen, over the simulated driver, which has a time of its own.

use crate::batch;
use crate::config::{BusyPoll, POLLED_OUTPUT_BYTES};
use crate::driver::Driver;
use crate::driver::simulated::{Peer, Simulated, Whims, World};
use crate::reactor::Polled;
use crate::reactor::{Address, CloseReason, Handler, Io, Outstanding, Reactor, StreamOptions};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

fn reactor() -> (Reactor, Rc<RefCell<World>>) {
    let world = Rc::<RefCell<World>>::default();
    let driver = Driver::Simulated(Box::new(Simulated::new(1, world.clone(), 8, 100)));
    (Reactor::builder().busy_poll(BusyPoll::Off).build_over(driver), world)
}

/// Connects to a peer that never sends anything.
fn connect(reactor: &mut Reactor, world: &Rc<RefCell<World>>, handler: impl Handler) {
    world.borrow_mut().answering.push_back(Peer { echoes: true, ..Peer::default() });
    reactor.connect(&StreamOptions::new(), &Address::Tcp(([127, 0, 0, 1], 9).into()), handler);
}

fn step_until(reactor: &mut Reactor, mut done: impl FnMut(&mut Reactor) -> bool) {
    for _ in 0..100_000 {
        if done(reactor) {
            return;
        }
        reactor.step(Some(Duration::from_millis(1))).unwrap();
    }
    panic!("stuck: {reactor:?} {:?}", reactor.outstanding());
}

/// What happened to handlers, in order.
type Log = Rc<RefCell<Vec<(&'static str, usize)>>>;

struct Probe {
    number: usize,
    log: Log,
    stubborn: bool,
}

impl Handler for Probe {
    fn on_open(&mut self, _io: &mut Io<'_>) {
        self.log.borrow_mut().push(("open", self.number));
    }

    fn on_bytes(&mut self, _io: &mut Io<'_>, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn on_timer(&mut self, _io: &mut Io<'_>) {
        self.log.borrow_mut().push(("timer", self.number));
    }

    fn on_shutdown(&mut self, io: &mut Io<'_>) {
        if !self.stubborn {
            io.close();
        }
    }

    fn on_close(&mut self, _reason: &CloseReason, _reactor: &mut Reactor) {
        self.log.borrow_mut().push(("close", self.number));
    }
}

/// A deadline that is put off, again and again, is looked at once, and kept to.
#[test]
fn a_timer_that_is_put_off_costs_no_more_than_one() {
    let (mut reactor, world) = reactor();
    let log = Log::default();
    connect(&mut reactor, &world, Probe { number: 0, log: log.clone(), stubborn: false });
    step_until(&mut reactor, |_| !log.borrow().is_empty());
    let id = reactor.connections.ids()[0];
    let connection = reactor.connections.get(id).unwrap().link.connection;
    let set = |reactor: &mut Reactor, after: Option<u64>| {
        reactor.shared.now = reactor.driver.now();
        let set = |io: &mut Io<'_>| match after {
            Some(after) => io.set_timer(Duration::from_millis(after)),
            None => io.clear_timer(),
        };
        reactor.with_connection(connection, set).unwrap();
    };
    let start = reactor.driver.now();
    let at = |after: u64| Some(start + Duration::from_millis(after));
    set(&mut reactor, Some(100));
    for later in 101..200 {
        set(&mut reactor, Some(later));
        assert_eq!(reactor.next_deadline(), at(100), "nothing was moved");
    }
    set(&mut reactor, Some(50));
    assert_eq!(reactor.next_deadline(), at(50));
    set(&mut reactor, None);
    set(&mut reactor, Some(300));
    let fired = |log: &Log| log.borrow().iter().filter(|(what, _)| *what == "timer").count();
    step_until(&mut reactor, |reactor| reactor.driver.now() >= start + Duration::from_millis(299));
    assert_eq!(fired(&log), 0);
    assert_eq!(reactor.next_deadline(), at(300));
    step_until(&mut reactor, |_| fired(&log) == 1);
    let late = reactor.driver.now().duration_since(start);
    assert!(late >= Duration::from_millis(300) && late < Duration::from_millis(400), "{late:?}");
    assert_eq!((reactor.next_deadline(), reactor.metrics().timers_fired), (None, 1));
    // One that was taken back does not fire, and one of a connection that has gone is not kept.
    set(&mut reactor, Some(10));
    set(&mut reactor, None);
    let until = reactor.driver.now() + Duration::from_millis(50);
    step_until(&mut reactor, |reactor| reactor.driver.now() >= until);
    assert_eq!((fired(&log), reactor.next_deadline()), (1, None));
    set(&mut reactor, Some(1_000_000));
    reactor.drain(Duration::from_secs(3600)).unwrap();
    assert_eq!(reactor.outstanding(), Outstanding::default());
}

/// Whichever comes first.
#[test]
fn of_two_drains_the_shorter_one_counts() {
    let (long, short) = (Duration::from_secs(3600), Duration::from_millis(10));
    for graces in [[long, short], [short, long]] {
        let (mut reactor, world) = reactor();
        let log = Log::default();
        connect(&mut reactor, &world, Probe { number: 0, log: log.clone(), stubborn: true });
        step_until(&mut reactor, |_| log.borrow().len() == 1);
        let begun = reactor.driver.now();
        graces.iter().for_each(|grace| reactor.begin_drain(*grace));
        step_until(&mut reactor, |reactor| reactor.is_drained());
        let lasted = reactor.driver.now() - begun;
        assert!(lasted >= short && lasted < Duration::from_secs(60), "{lasted:?}");
    }
}

#[test]
fn a_drain_does_not_wait_for_connects_in_progress() {
    let (world, log) = (Rc::<RefCell<World>>::default(), Log::default());
    world.borrow_mut().silent = true;
    let driver = Simulated::new(1, world, 8, 100).with(Whims::PROMPT);
    let builder = Reactor::builder().busy_poll(BusyPoll::Off);
    let mut reactor = builder.build_over(Driver::Simulated(Box::new(driver)));
    let options = StreamOptions::new().connect_timeout(Duration::MAX);
    let probe = Probe { number: 0, log: log.clone(), stubborn: true };
    reactor.connect(&options, &Address::Tcp(([127, 0, 0, 1], 9).into()), probe);
    (0..10).for_each(|_| reactor.step(Some(Duration::from_millis(1))).unwrap());
    assert!(log.borrow().is_empty(), "nobody answers");
    let begun = reactor.driver.now();
    reactor.drain(Duration::from_secs(3600)).unwrap();
    assert_eq!(*log.borrow(), [("close", 0)]);
    assert!(reactor.driver.now() - begun < Duration::from_secs(60));
}

/// A reactor that has cut off everything looks again only for those who came later.
#[test]
fn who_comes_behind_the_cut_is_cut_off_as_well() {
    let (mut reactor, world) = reactor();
    let log = Log::default();
    connect(&mut reactor, &world, Probe { number: 0, log: log.clone(), stubborn: true });
    step_until(&mut reactor, |_| log.borrow().len() == 1);
    reactor.begin_drain(Duration::from_millis(10));
    connect(&mut reactor, &world, Probe { number: 1, log: log.clone(), stubborn: true });
    step_until(&mut reactor, |_| log.borrow().contains(&("close", 0)));
    connect(&mut reactor, &world, Probe { number: 2, log: log.clone(), stubborn: true });
    step_until(&mut reactor, |reactor| reactor.is_drained());
    for number in 0..3 {
        assert!(log.borrow().contains(&("close", number)), "{:?}", log.borrow());
    }
    assert_eq!(reactor.outstanding(), Outstanding::default());
}

/// Takes everything, and notes how much there was of it.
struct Taker {
    number: usize,
    taken: Rc<RefCell<Vec<Vec<u8>>>>,
}

impl Handler for Taker {
    fn on_bytes(&mut self, _io: &mut Io<'_>, bytes: &[u8]) -> usize {
        self.taken.borrow_mut()[self.number].extend_from_slice(bytes);
        bytes.len()
    }
}

/// Peers that send as much as they can, over a pool with room for a lot of it.
fn greedy(count: usize, slice: usize, whole: usize) {
    const BUFFER: usize = 100;
    let world = Rc::<RefCell<World>>::default();
    let driver = Driver::Simulated(Box::new(Simulated::new(7, world.clone(), 64, BUFFER)));
    let mut reactor = Reactor::builder().busy_poll(BusyPoll::Off).turn_budget(whole).build_over(driver);
    reactor.budget.slice = slice.min(whole);
    let taken = Rc::new(RefCell::new(vec![Vec::new(); count]));
    let sent: Vec<Vec<u8>> =
        (0..count).map(|number| (0..5_000).map(|at| (at * 7 + number) as u8).collect()).collect();
    for (number, sends) in sent.iter().enumerate() {
        while reactor.metrics().connections_opened <= number as u64 {
            world
                .borrow_mut()
                .answering
                .push_back(Peer { sends: sends.iter().copied().collect(), ..Peer::default() });
            let failed = reactor.metrics().connects_failed;
            let taker = Taker { number, taken: taken.clone() };
            reactor.connect(&StreamOptions::new(), &Address::Tcp(([127, 0, 0, 1], 9).into()), taker);
            step_until(&mut reactor, |reactor| {
                let metrics = reactor.metrics();
                metrics.connections_opened > number as u64 || metrics.connects_failed > failed
            });
        }
    }
    let mut most = 0;
    while *taken.borrow() != sent {
        let before: Vec<usize> = taken.borrow().iter().map(Vec::len).collect();
        reactor.step(Some(Duration::from_millis(1))).unwrap();
        let grown: Vec<usize> =
            taken.borrow().iter().zip(before).map(|(taken, before)| taken.len() - before).collect();
        assert!(grown.iter().all(|grown| *grown < slice + BUFFER), "{grown:?}");
        let all = grown.iter().sum::<usize>();
        assert!(all < whole + BUFFER, "{grown:?}");
        most = most.max(all);
        for (taken, sent) in taken.borrow().iter().zip(&sent) {
            assert!(sent.starts_with(taken), "in order, whatever had to wait");
        }
    }
    assert!(most >= slice.min(whole), "some turn was full: {most}");
    reactor.drain(Duration::from_secs(3600)).unwrap();
    assert_eq!(reactor.outstanding(), Outstanding::default());
}

#[test]
fn no_connection_takes_more_than_its_slice_of_a_turn() {
    greedy(3, 150, 10_000);
    greedy(1, 1, 10_000);
}

#[test]
fn no_turn_takes_more_than_its_budget() {
    greedy(4, 400, 120);
    greedy(4, 100, 1);
}

/// What polled handlers do when they are asked, and how often they were.
#[derive(Default)]
struct Asked {
    polls: Vec<usize>,
    /// Handlers that have something to do.
    busy: Vec<usize>,
    /// How much they write each time.
    bytes: usize,
    /// How many barriers had been passed when they were to prepare.
    prepared: Vec<(usize, usize)>,
    looked: Vec<(usize, usize)>,
}

struct Asks {
    number: usize,
    asked: Rc<RefCell<Asked>>,
}

impl Handler for Asks {
    fn on_open(&mut self, io: &mut Io<'_>) {
        io.poll_me();
    }

    fn on_bytes(&mut self, _io: &mut Io<'_>, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn polled(&mut self) -> Option<&mut dyn Polled> {
        Some(self)
    }
}

impl Polled for Asks {
    fn on_poll(&mut self, io: &mut Io<'_>) -> bool {
        let mut asked = self.asked.borrow_mut();
        asked.polls.push(self.number);
        let busy = asked.busy.contains(&self.number);
        if busy {
            io.write(&vec![0; asked.bytes]);
        }
        busy
    }

    fn prepare_sleep(&mut self) {
        self.asked.borrow_mut().prepared.push((self.number, batch::barriers_passed()));
    }

    fn is_ready(&self) -> bool {
        let mut asked = self.asked.borrow_mut();
        asked.looked.push((self.number, batch::barriers_passed()));
        asked.busy.contains(&self.number)
    }
}

fn polled(count: usize) -> (Reactor, Rc<RefCell<World>>, Rc<RefCell<Asked>>) {
    let (mut reactor, world) = reactor();
    let asked = Rc::<RefCell<Asked>>::default();
    for number in 0..count {
        // Some attempts fail.
        while reactor.metrics().connections_opened <= number as u64 {
            connect(&mut reactor, &world, Asks { number, asked: asked.clone() });
            let failed = reactor.metrics().connects_failed;
            step_until(&mut reactor, |reactor| {
                let metrics = reactor.metrics();
                metrics.connections_opened > number as u64 || metrics.connects_failed > failed
            });
        }
    }
    (reactor, world, asked)
}

#[test]
fn polled_handlers_begin_where_the_last_turn_ended() {
    let (mut reactor, _world, asked) = polled(5);
    asked.borrow_mut().busy = (0..5).collect();
    asked.borrow_mut().bytes = POLLED_OUTPUT_BYTES;
    // They may have been let go of while the last of them connected.
    for id in reactor.connections.ids() {
        reactor.call(id, |_, io| io.poll_me());
    }
    asked.borrow_mut().polls.clear();
    // Nothing is sent between the turns, so each has enough for one.
    (0..10).for_each(|_| reactor.poll_handlers());
    let polls = asked.borrow().polls.clone();
    assert_eq!(polls.len(), 10);
    for number in 0..5 {
        assert_eq!(polls.iter().filter(|polled| **polled == number).count(), 2, "{polls:?}");
    }
    assert_eq!(polls[..5], polls[5..]);
}

#[test]
fn idle_handlers_are_let_go_of_while_others_are_busy() {
    let (mut reactor, _world, asked) = polled(100);
    asked.borrow_mut().busy = vec![7];
    for id in reactor.connections.ids() {
        reactor.call(id, |_, io| io.poll_me());
    }
    asked.borrow_mut().polls.clear();
    (0..2_000).for_each(|_| reactor.poll_handlers());
    let idle = asked.borrow().polls.iter().filter(|polled| **polled != 7).count();
    assert!(idle <= 99 * 20, "{idle} questions to handlers that have nothing to do");
    assert!(asked.borrow().polls.iter().filter(|polled| **polled == 7).count() > 1_900);
    assert!(reactor.pollers.are_active() && !reactor.pollers.found_nothing());
    asked.borrow_mut().busy.clear();
    (0..10).for_each(|_| reactor.poll_handlers());
    assert!(!reactor.pollers.are_active() && !reactor.pollers.found_nothing());
    assert!(reactor.retire_pollers());
}

/// Whoever pushes must see that the handler sleeps, or be seen by it: between the two phases lies a barrier.
#[test]
fn a_barrier_lies_between_the_preparation_and_the_last_look() {
    let (mut reactor, _world, asked) = polled(3);
    step_until(&mut reactor, |_| asked.borrow().looked.iter().any(|(number, _)| *number == 2));
    for round in 0..3 {
        for id in reactor.connections.ids() {
            reactor.call(id, |_, io| io.poll_me());
        }
        let before = asked.borrow().looked.len();
        step_until(&mut reactor, |_| asked.borrow().looked.len() >= before + 3);
        let asked = asked.borrow();
        assert_eq!(asked.prepared.len(), asked.looked.len(), "in round {round}");
        for ((prepared, at_first), (looked, at_last)) in asked.prepared.iter().zip(&asked.looked) {
            assert!(prepared == looked && at_first < at_last, "{:?} {:?}", asked.prepared, asked.looked);
        }
    }
    // And one handler that is ready keeps the reactor awake.
    asked.borrow_mut().busy = vec![1];
    for id in reactor.connections.ids() {
        reactor.call(id, |_, io| io.poll_me());
    }
    reactor.poll_handlers();
    assert!(!reactor.retire_pollers());
    assert!(reactor.pollers.are_active());
}
