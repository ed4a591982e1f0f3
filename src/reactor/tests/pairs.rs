//! Streams in memory: the same promises as over sockets, with nobody in between who could break them.

use super::*;
use crate::reactor::carrier::pair::pair;
use std::cell::Cell;

/// Byte number `at` of what the end `side` writes.
fn byte(side: usize, at: usize) -> u8 {
    (at.wrapping_mul(167) >> 3) as u8 ^ [0, 0x5a][side]
}

/// What an end said and heard.
#[derive(Debug, Default)]
struct Heard {
    written: Cell<usize>,
    read: Cell<usize>,
    /// It has ended its output.
    ended: Cell<bool>,
    /// It was told of the other end's.
    told: Cell<bool>,
    closed: RefCell<Option<CloseReason>>,
    /// The most that it had waiting at a time.
    pending: Cell<usize>,
}

/// Writes, reads, pauses and ends as chance will have it.
struct End {
    side: usize,
    rng: Rng,
    left: usize,
    heard: [Rc<Heard>; 2],
    may_abort: bool,
}

impl End {
    fn own(&self) -> &Heard {
        &self.heard[self.side]
    }

    fn act(&mut self, io: &mut Io<'_>) {
        let own = self.heard[self.side].clone();
        own.pending.set(own.pending.get().max(io.pending()));
        for _ in 0..self.rng.usize(0..4) {
            let len = self.rng.usize(0..=self.left.min(300));
            let bytes: Vec<u8> = (0..len).map(|at| byte(self.side, own.written.get() + at)).collect();
            if self.rng.bool() {
                io.write(&bytes)
            } else {
                io.write_bytes(Bytes::from(bytes))
            }
            own.written.set(own.written.get() + len);
            self.left -= len;
        }
        match self.rng.u8(..) {
            0..60 => io.pause_reading(),
            60..160 => io.resume_reading(),
            160..170 if self.may_abort => return io.abort(),
            _ => {}
        }
        if self.left == 0 && !own.ended.get() && self.rng.bool() {
            own.ended.set(true);
            if own.told.get() { io.close() } else { io.shutdown_write() }
        }
        io.set_timer(Duration::from_millis(self.rng.u64(0..5)));
    }
}

impl Handler for End {
    fn on_open(&mut self, io: &mut Io<'_>) {
        self.act(io);
    }

    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        let consumed = if self.rng.bool() { bytes.len() } else { self.rng.usize(0..=bytes.len()) };
        let before = self.own().read.get();
        for (at, seen) in bytes.iter().enumerate() {
            assert_eq!(*seen, byte(1 - self.side, before + at), "byte {} of what came", before + at);
        }
        self.own().read.set(before + consumed);
        if self.rng.u8(..) < 30 {
            self.act(io);
        }
        consumed
    }

    fn on_timer(&mut self, io: &mut Io<'_>) {
        self.act(io);
    }

    fn on_end(&mut self, io: &mut Io<'_>) {
        assert!(!self.own().told.replace(true), "told once");
        self.own().read.set(self.own().read.get() + io.unconsumed().len());
        if self.own().ended.get() {
            io.close();
        }
    }

    fn on_shutdown(&mut self, _io: &mut Io<'_>) {}

    fn on_close(&mut self, reason: &CloseReason, _reactor: &mut Reactor) {
        assert!(self.own().closed.replace(Some(reason.clone())).is_none(), "told once");
    }
}

/// Both ends on one reactor, or on two. Everything that was written before an end in good order is read before that is told, in order;
/// what waits is the writer's; a reset is heard; and nothing is left.
#[test]
fn what_one_end_writes_the_other_reads() {
    let cut = Cell::new(0);
    for_each_seed(SEEDS, |seed| {
        let mut rng = Rng::with_seed(seed);
        let (first, first_world) = reactor(seed, &mut rng);
        let (second, second_world) = reactor(!seed, &mut rng);
        let mut reactors = [first, second];
        let heard = [(); 2].map(|()| Rc::<Heard>::default());
        let may_abort = rng.u8(..) < 80;
        let (one, other) = pair();
        // The second end may come later, and on another reactor.
        let late = rng.usize(0..4);
        let places = [0, rng.usize(0..2)];
        let mut ends = vec![(0, one), (1, other)];
        if rng.bool() {
            ends.reverse();
        }
        for (number, (side, end)) in ends.into_iter().enumerate() {
            let handler = End {
                side,
                rng: Rng::with_seed(rng.u64(..)),
                left: rng.usize(0..3_000),
                heard: heard.clone(),
                may_abort,
            };
            let options = StreamOptions::new().reading(rng.usize(1..200), 0);
            reactors[places[side]].carry(&options, end, handler).unwrap();
            for _ in 0..late * (1 - number) {
                reactors.iter_mut().for_each(|reactor| reactor.step(Some(Duration::from_millis(1))).unwrap());
            }
        }
        for _ in 0..100_000 {
            if reactors.iter().all(|reactor| reactor.connections() == 0) {
                break;
            }
            reactors.iter_mut().for_each(|reactor| reactor.step(Some(Duration::from_millis(1))).unwrap());
        }
        for (one, other) in [(&heard[0], &heard[1]), (&heard[1], &heard[0])] {
            let closed = one.closed.borrow().clone().unwrap_or_else(|| panic!("stuck: {heard:?}"));
            assert!(one.read.get() <= other.written.get());
            if one.told.get() {
                assert!(other.ended.get() && one.read.get() == other.written.get(), "{heard:?}");
            }
            match closed {
                CloseReason::Closed | CloseReason::ByPeer => assert!(one.told.get() && one.ended.get()),
                CloseReason::Aborted => assert!(may_abort),
                CloseReason::Failed(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
                    assert!(matches!(*other.closed.borrow(), Some(CloseReason::Aborted)), "{heard:?}");
                    cut.set(cut.get() + 1);
                }
                other => panic!("{other}"),
            }
        }
        let [mut first, mut second] = reactors;
        check_the_end(&mut first, &first_world);
        check_the_end(&mut second, &second_world);
    });
    assert!(cut.get() > 10 || std::env::var("TROCHUS_SEED").is_ok(), "resets were tried");
}

/// Writes without end, or reads nothing.
struct Greedy(bool);

impl Handler for Greedy {
    fn on_open(&mut self, io: &mut Io<'_>) {
        if self.0 {
            io.write(&[7; 100_000]);
        } else {
            io.pause_reading();
        }
    }

    fn on_bytes(&mut self, _io: &mut Io<'_>, bytes: &[u8]) -> usize {
        bytes.len()
    }
}

/// What is on its way counts as the writer's, and no more is read ahead than over a socket.
#[test]
fn who_does_not_read_holds_no_more_than_a_little() {
    let (mut reactor, world) = prompt_reactor(4, 100);
    let (one, other) = pair();
    let options = StreamOptions::new().reading(500, 0).close_timeout(Duration::from_millis(10));
    reactor.carry(&options, one, Greedy(true)).unwrap();
    reactor.carry(&options, other, Greedy(false)).unwrap();
    (0..100).for_each(|_| reactor.step(Some(Duration::ZERO)).unwrap());
    let gauges = reactor.gauges();
    assert_eq!((gauges.input_bytes, gauges.output_bytes), (500, 99_500));
    assert_eq!(reactor.memory_budget().held, 100_000);
    reactor.begin_drain(Duration::ZERO);
    step_until(&mut reactor, |reactor| reactor.is_drained());
    check_the_end(&mut reactor, &world);
}

/// An end that nobody takes in is no silence.
#[test]
fn an_end_that_is_dropped_resets_the_other_one() {
    for late in [false, true] {
        let (mut reactor, world) = prompt_reactor(4, 100);
        let fate = Rc::new(RefCell::new(Fate::default()));
        let (one, other) = pair();
        let echo = Echo { rng: Rng::with_seed(1), fate: fate.clone() };
        let mut other = Some(other);
        if !late {
            other = None;
        }
        reactor.carry(&StreamOptions::new(), one, echo).unwrap();
        reactor.step(Some(Duration::ZERO)).unwrap();
        drop(other);
        step_until(&mut reactor, |reactor| reactor.connections() == 0);
        assert!(fate.borrow().closed[0].contains("ConnectionReset"), "{fate:?}");
        check_the_end(&mut reactor, &world);
    }
}

/// The reactor of one end goes, without a word to anybody.
#[test]
fn a_reactor_that_is_given_up_resets_those_elsewhere() {
    let (mut first, _) = prompt_reactor(4, 100);
    let (mut second, world) = prompt_reactor(4, 100);
    let fate = Rc::new(RefCell::new(Fate::default()));
    let (one, other) = pair();
    first.carry(&StreamOptions::new(), one, Greedy(true)).unwrap();
    second.carry(&StreamOptions::new(), other, Echo { rng: Rng::with_seed(1), fate: fate.clone() }).unwrap();
    first.give_up();
    step_until(&mut second, |reactor| reactor.connections() == 0);
    assert!(fate.borrow().closed[0].contains("ConnectionReset"), "{fate:?}");
    check_the_end(&mut second, &world);
}

/// Sends back what it gets, as often as it gets it.
struct Counting(Rc<Cell<usize>>, bool);

impl Handler for Counting {
    fn on_open(&mut self, io: &mut Io<'_>) {
        if self.1 {
            io.write(b"x");
        }
    }

    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        self.0.set(self.0.get() + 1);
        io.write(bytes);
        bytes.len()
    }
}

/// Sockets that have always more for a turn than it takes leave something for streams in memory, which leave something for them.
#[test]
fn neither_sockets_nor_pairs_take_all_there_is() {
    let world = Shared::default();
    let driver = Simulated::new(1, world.clone(), 4, 50).with(Whims::PROMPT);
    let builder = Reactor::builder().busy_poll(BusyPoll::Off).turn_budget(100);
    let mut reactor = builder.build_over(Driver::Simulated(Box::new(driver)));
    let pairs = Rc::<Cell<usize>>::default();
    let sockets = Rc::<Cell<usize>>::default();
    for _ in 0..4 {
        let sends = std::iter::repeat_n(7, 100_000).collect();
        world.borrow_mut().answering.push_back(Peer { sends, ..Peer::default() });
        let options = StreamOptions::new().throttle_reading(false);
        reactor.connect(&options, &somewhere(), Counting(sockets.clone(), false));
        let (one, other) = pair();
        reactor.carry(&StreamOptions::new(), one, Counting(pairs.clone(), true)).unwrap();
        reactor.carry(&StreamOptions::new(), other, Counting(pairs.clone(), false)).unwrap();
    }
    (0..20).for_each(|_| reactor.step(Some(Duration::ZERO)).unwrap());
    let before = (pairs.get(), sockets.get());
    (0..100).for_each(|_| reactor.step(Some(Duration::ZERO)).unwrap());
    let (pairs, sockets) = (pairs.get() - before.0, sockets.get() - before.1);
    assert!(pairs >= 400 && sockets >= 100, "{pairs} and {sockets} in a hundred turns");
}
