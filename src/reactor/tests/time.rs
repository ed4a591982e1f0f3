//! How long a turn goes on, when it has a limit of time.

use super::*;
use crate::reactor::stream::connection::Phase;
use crate::reactor::table::Id;

const MS: Duration = Duration::from_millis(1);

/// What was done, in order.
type Log = Rc<RefCell<Vec<(&'static str, usize)>>>;

/// Each thing that is done takes so long.
#[derive(Clone)]
struct Clock {
    world: Shared,
    each: Duration,
    log: Log,
}

impl Clock {
    fn note(&self, what: &'static str, number: usize) {
        self.world.borrow_mut().taken += self.each;
        self.log.borrow_mut().push((what, number));
    }

    fn take(&self) -> Vec<(&'static str, usize)> {
        std::mem::take(&mut self.log.borrow_mut())
    }
}

thread_local! {
    /// Of the stage of this thread's test, for commands, which have to be `Send`.
    static CLOCK: RefCell<Option<Clock>> = const { RefCell::new(None) };
}

fn note(what: &'static str, number: usize) {
    CLOCK.with_borrow(|clock| clock.as_ref().expect("there is a stage").note(what, number));
}

struct Slow {
    number: usize,
    clock: Clock,
    received: Rc<RefCell<Vec<Vec<u8>>>>,
    polls: usize,
}

impl Handler for Slow {
    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        self.clock.note("bytes", self.number);
        self.received.borrow_mut()[self.number].extend_from_slice(bytes);
        if self.polls > 0 {
            io.poll_me();
        }
        bytes.len()
    }

    fn on_timer(&mut self, _io: &mut Io<'_>) {
        self.clock.note("timer", self.number);
    }

    fn polled(&mut self) -> Option<&mut dyn Polled> {
        Some(self)
    }
}

impl Polled for Slow {
    fn on_poll(&mut self, _io: &mut Io<'_>) -> bool {
        if self.polls > 0 {
            self.polls -= 1;
            self.clock.note("poll", self.number);
        }
        self.polls > 0
    }

    fn prepare_sleep(&mut self) {}

    fn is_ready(&self) -> bool {
        self.polls > 0
    }
}

struct Stage {
    reactor: Reactor,
    world: Shared,
    clock: Clock,
    received: Rc<RefCell<Vec<Vec<u8>>>>,
}

/// A reactor whose turns go on for `time`, over a kernel that does everything at once.
fn stage(time: Duration, each: Duration) -> Stage {
    let world = Shared::default();
    let driver = Simulated::new(0, world.clone(), 64, 10).with(Whims::PROMPT);
    let builder = Reactor::builder().busy_poll(BusyPoll::Off).turn_time(time);
    let reactor = builder.build_over(Driver::Simulated(Box::new(driver)));
    let clock = Clock { world: world.clone(), each, log: Log::default() };
    CLOCK.set(Some(clock.clone()));
    Stage { reactor, world, clock, received: Rc::default() }
}

impl Stage {
    /// Connects to peers that echo, until all are open.
    fn connect(&mut self, count: usize, polls: usize) -> Vec<Id> {
        for number in 0..count {
            self.world.borrow_mut().answering.push_back(Peer { number, echoes: true, ..Peer::default() });
            self.received.borrow_mut().push(Vec::new());
            let (clock, received) = (self.clock.clone(), self.received.clone());
            let handler = Slow { number, clock, received, polls };
            // Receives that stay armed.
            let options = StreamOptions::new().reading(1000, 0).close_timeout(MS);
            self.reactor.connect(&options, &somewhere(), handler);
        }
        step_until(&mut self.reactor, |reactor| reactor.metrics().connections_opened == count as u64);
        step_until(&mut self.reactor, |reactor| reactor.completions.is_empty());
        let mut ids = self.reactor.connections.ids();
        ids.sort_by_key(|id| {
            self.reactor.connections.get(*id).map(|connection| connection.link.descriptor())
        });
        ids
    }

    fn every_peer_sends(&mut self, bytes: &[u8]) {
        self.world.borrow_mut().peers.values_mut().for_each(|peer| peer.sends.extend(bytes));
    }

    /// A turn that does not wait; what it did.
    fn step(&mut self) -> Vec<(&'static str, usize)> {
        self.reactor.step(Some(Duration::ZERO)).unwrap();
        self.clock.take()
    }

    fn end(mut self) {
        check_the_end(&mut self.reactor, &self.world);
    }
}

/// Three of them fit in the time: the third one begins within it, and behind that it is over, not only later.
#[test]
fn a_turn_ends_when_its_time_is_over_and_the_rest_comes_in_order() {
    let mut stage = stage(3 * MS, MS);
    stage.connect(4, 0);
    let sent: Vec<u8> = (0..50).collect();
    stage.every_peer_sends(&sent);
    // Five buffers each.
    let mut turns = Vec::new();
    while stage.received.borrow().iter().any(|received| received.len() < sent.len()) {
        let done = stage.step();
        assert!(turns.len() < 100 && done.iter().all(|(what, _)| *what == "bytes"));
        let waits = stage.received.borrow().iter().any(|received| received.len() < sent.len());
        assert_eq!(stage.reactor.has_ready_work(), waits, "whoever looks sees that there is more");
        turns.push(done.len());
    }
    assert_eq!(turns, [3, 3, 3, 3, 3, 3, 2]);
    assert!(stage.received.borrow().iter().all(|received| *received == sent));
    stage.end();
}

/// One turn goes on with what is there at once, but not for longer than it may.
#[test]
fn further_rounds_of_a_turn_are_of_the_same_time() {
    fn again(reactor: &mut Reactor) {
        note("round", 0);
        reactor.handle().run(again).unwrap();
    }
    for (each, rounds) in [(Duration::ZERO, 1 + EAGER_ROUNDS), (MS, 3), (MS * 3 / 2, 2), (10 * MS, 1)] {
        let mut stage = stage(3 * MS, each);
        stage.reactor.handle().run(again).unwrap();
        let before = stage.reactor.metrics().turns;
        stage.reactor.turn(Some(Duration::ZERO)).unwrap();
        assert_eq!(stage.reactor.metrics().turns - before, rounds as u64, "of {each:?} each");
        assert_eq!(stage.clock.take().len(), rounds);
        assert!(stage.reactor.shared.mailbox.has_mail());
    }
}

/// What is deferred may defer something in its turn, behind what was there before.
#[test]
fn deferred_work_is_done_in_order_and_without_end_only_as_long_as_there_is_time() {
    fn again(reactor: &mut Reactor, number: usize) {
        note("deferred", number);
        reactor.shared.deferred.push(Box::new(move |reactor| again(reactor, number + 2)));
    }
    let mut stage = stage(3 * MS, MS);
    for number in 0..2 {
        stage.reactor.shared.deferred.push(Box::new(move |reactor| again(reactor, number)));
    }
    let done: Vec<usize> = (0..4).flat_map(|_| stage.step()).map(|(_, number)| number).collect();
    assert_eq!(done, (0..12).collect::<Vec<_>>());
    stage.reactor.shared.deferred.clear();
    stage.end();
}

/// However long each of them takes: none of it waits for the others to have an end.
#[test]
fn of_each_kind_of_work_one_is_done_in_every_turn() {
    const EACH: usize = 4;
    let mut stage = stage(MS, 10 * MS);
    let ids = stage.connect(EACH, EACH);
    stage.every_peer_sends(&[1]);
    let handle = stage.reactor.handle();
    let now = stage.reactor.driver.now();
    for number in 0..EACH {
        let clock = stage.clock.clone();
        stage.reactor.shared.deferred.push(Box::new(move |_| clock.note("deferred", number)));
        let clock = stage.clock.clone();
        stage.reactor.after(MS * (number as u32 + 1), move |_| clock.note("after", number));
    }
    for (number, id) in ids.iter().enumerate() {
        stage.reactor.connections.get_mut(*id).unwrap().link.handler_deadline = Some(now + MS * 10);
        stage.reactor.settle(*id);
        handle.run(move |_| note("command", number)).unwrap();
    }
    stage.world.borrow_mut().taken += 20 * MS;
    let mut done: Vec<Vec<(&str, usize)>> = Vec::new();
    while done.last().is_none_or(|done| !done.is_empty()) {
        done.push(stage.step());
        assert!(done.len() < 50, "{done:?}");
        if !done.last().unwrap().is_empty() {
            let kinds: std::collections::BTreeSet<&str> =
                done.last().unwrap().iter().map(|(what, _)| *what).collect();
            assert_eq!(kinds.len(), done.last().unwrap().len(), "one of each: {done:?}");
        }
    }
    for (what, expected) in [("bytes", EACH), ("command", EACH), ("deferred", EACH), ("after", EACH)] {
        let turns: Vec<Option<usize>> = done
            .iter()
            .take(expected)
            .map(|turn| turn.iter().find(|(kind, _)| *kind == what).map(|(_, number)| *number))
            .collect();
        assert_eq!(turns, (0..expected).map(Some).collect::<Vec<_>>(), "{what}: {done:?}");
    }
    for (what, expected) in [("timer", EACH), ("poll", EACH * EACH)] {
        let count = done.iter().flatten().filter(|(kind, _)| *kind == what).count();
        assert_eq!(count, expected, "{what}: {done:?}");
    }
    stage.end();
}

/// What takes long is behind what came first, and nobody passes it.
#[test]
fn commands_stay_in_order_though_more_come_meanwhile() {
    let mut stage = stage(2 * MS, MS);
    let handle = stage.reactor.handle();
    let post = |numbers: std::ops::Range<usize>| {
        for number in numbers {
            handle.run(move |_| note("command", number)).unwrap();
        }
    };
    post(0..5);
    assert_eq!(stage.step(), [("command", 0), ("command", 1)]);
    post(5..7);
    assert!(stage.reactor.has_ready_work());
    assert_eq!(stage.step(), [("command", 2), ("command", 3)]);
    assert_eq!(stage.step(), [("command", 4), ("command", 5)], "behind the last there are others");
    // A drain does not forget what waits.
    post(7..9);
    stage.step();
    stage.reactor.begin_drain(Duration::ZERO);
    assert!(!stage.reactor.is_drained());
    stage.end();
}

/// The time of a wait is not the turn's.
#[test]
fn a_turn_that_waited_long_has_all_of_its_time() {
    let mut stage = stage(3 * MS, MS);
    for number in 0..4 {
        let clock = stage.clock.clone();
        stage.reactor.after(50 * MS, move |_| clock.note("after", number));
    }
    let start = stage.reactor.driver.now();
    while stage.clock.log.borrow().is_empty() {
        stage.reactor.step(Some(60 * MS)).unwrap();
    }
    assert!(stage.reactor.driver.now() - start >= 50 * MS);
    assert_eq!(stage.clock.take().len(), 3);
    assert_eq!(stage.reactor.next_deadline().map(|due| due <= stage.reactor.driver.now()), Some(true));
    assert_eq!(stage.step(), [("after", 3)]);
    stage.end();
}

/// A peer whose end lies there and was not looked at has not been silent.
#[test]
fn a_time_limit_does_not_run_out_for_what_waits_in_the_reactor() {
    let mut stage = stage(MS, 10 * MS);
    let ids = stage.connect(3, 0);
    let last = *ids.last().unwrap();
    stage.reactor.change(last, |link| link.begin_close(&mut crate::buf::Spare::new(0)));
    assert_eq!(stage.reactor.connections.get(last).unwrap().link.phase, Phase::Lingering);
    stage.world.borrow_mut().peers.values_mut().for_each(|peer| {
        peer.sends.extend([1; 30]);
        peer.echoes = false;
    });
    // The peers' ends are there, behind what takes long, and by now the connection has waited long enough.
    stage.world.borrow_mut().taken += 20 * MS;
    step_until(&mut stage.reactor, |reactor| reactor.connections() == 0);
    assert_eq!(stage.reactor.metrics().connections_over_limit, 0);
    stage.end();
}

#[test]
fn a_turn_without_time_is_refused_and_one_with_all_time_is_not() {
    assert!(Reactor::builder().turn_time(Duration::ZERO).check().is_err());
    assert!(Reactor::builder().turn_time(Duration::from_nanos(1)).check().is_ok());
    let mut stage = stage(Duration::MAX, MS);
    stage.connect(3, 0);
    stage.every_peer_sends(&[1; 100]);
    assert_eq!(stage.step().len(), 30);
    stage.end();
}

/// What handlers deferred is done although there was no time for all of it, and nothing else is left.
#[test]
fn a_drain_waits_for_what_was_deferred() {
    let mut stage = stage(MS, MS);
    let done = Rc::new(RefCell::new(0));
    for _ in 0..3 {
        let (done, world) = (done.clone(), stage.world.clone());
        stage.reactor.shared.deferred.push(Box::new(move |_| {
            *done.borrow_mut() += 1;
            world.borrow_mut().taken += 20 * MS;
        }));
    }
    stage.end();
    assert_eq!(*done.borrow(), 3);
}
