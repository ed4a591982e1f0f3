//! The reactor over the simulated driver: thousands of seeds of everything that a kernel may do.

mod carriers;
mod deadlines;
mod endings;
mod files;
mod filters;
mod pairs;
mod panics;
mod pausing;
mod relaying;
mod succession;
mod threads;
mod time;
mod turns;

use super::*;
use crate::config::BusyPoll;
use crate::driver::simulated::{Peer, Simulated, Takes, Whims, World};
use bytes::Bytes;
use fastrand::Rng;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

/// Seeds of a scenario. One that fails is printed; `TROCHUS_SEED=n` runs it alone, `TROCHUS_SEEDS=n` so many of each.
const SEEDS: u64 = 1_000;

type Shared = Rc<RefCell<World>>;

fn for_each_seed(count: u64, scenario: impl Fn(u64)) {
    let number = |name| std::env::var(name).ok().map(|number| number.parse().expect("it is a number"));
    let (alone, count) = (number("TROCHUS_SEED"), number("TROCHUS_SEEDS").unwrap_or(count));
    let seeds = alone.map_or(0..count, |seed| seed..seed + 1);
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| scenario(seed))) {
            eprintln!("the seed that failed: TROCHUS_SEED={seed}");
            resume_unwind(panic);
        }
    }
}

fn reactor(seed: u64, rng: &mut Rng) -> (Reactor, Shared) {
    let world = Shared::default();
    let driver = Simulated::new(seed, world.clone(), 1 << rng.u16(0..4), rng.usize(1..100));
    // Turns that take little, so that much has to wait for the next one.
    let mut builder = Reactor::builder().busy_poll(BusyPoll::Off).turn_budget(1 + seed as usize % 300);
    if seed.is_multiple_of(3) {
        // Each look at the clock takes a while.
        world.borrow_mut().tick = Duration::from_micros(1);
        builder = builder.turn_time(Duration::from_micros(1 + seed / 3 % 8));
    }
    (builder.build_over(Driver::Simulated(Box::new(driver))), world)
}

/// A reactor whose kernel does everything at once.
fn prompt_reactor(buffers: u16, buffer_bytes: usize) -> (Reactor, Shared) {
    let world = Shared::default();
    let driver = Simulated::new(0, world.clone(), buffers, buffer_bytes).with(Whims::PROMPT);
    (over(driver), world)
}

fn over(driver: Simulated) -> Reactor {
    Reactor::builder().busy_poll(BusyPoll::Off).build_over(Driver::Simulated(Box::new(driver)))
}

/// Where it is that peers answer makes no difference.
fn somewhere() -> Address {
    Address::Tcp(([127, 0, 0, 1], 9).into())
}

/// Steps until `done`, which must come before the simulated kernel has been asked very often.
fn step_until(reactor: &mut Reactor, mut done: impl FnMut(&mut Reactor) -> bool) {
    for _ in 0..100_000 {
        if done(reactor) {
            return;
        }
        reactor.step(Some(Duration::from_millis(10))).unwrap();
    }
    panic!("stuck: {reactor:?} {:?}", reactor.outstanding());
}

fn check_the_end(reactor: &mut Reactor, world: &Shared) {
    reactor.drain(Duration::from_secs(3600)).unwrap();
    assert_eq!(reactor.outstanding(), Outstanding::default());
    assert_eq!(world.borrow().faults, Vec::<String>::new());
    assert_eq!(reactor.shared.memory.held(), 0);
    let metrics = reactor.metrics();
    assert_eq!(metrics.connections_opened, metrics.connections_closed);
    assert!(reactor.starved.iter().flatten().all(|id| reactor.connections.get(*id).is_none()));
}

/// What became of a handler.
#[derive(Debug, Default)]
struct Fate {
    opened: usize,
    ended: usize,
    closed: Vec<String>,
}

/// Echoes in pieces of any size, sometimes by copy and sometimes by reference, and pauses now and then.
struct Echo {
    rng: Rng,
    fate: Rc<RefCell<Fate>>,
}

impl Handler for Echo {
    fn on_open(&mut self, _io: &mut Io<'_>) {
        self.fate.borrow_mut().opened += 1;
    }

    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        let consumed = if self.rng.u8(..) < 200 { bytes.len() } else { self.rng.usize(1..=bytes.len()) };
        if self.rng.bool() {
            io.write(&bytes[..consumed])
        } else {
            io.write_bytes(Bytes::copy_from_slice(&bytes[..consumed]))
        }
        if consumed < bytes.len() || self.rng.u8(..) < 30 {
            // What is left comes again when reading goes on.
            io.pause_reading();
            io.set_timer(Duration::from_millis(self.rng.u64(0..10)));
        }
        consumed
    }

    fn on_timer(&mut self, io: &mut Io<'_>) {
        io.resume_reading();
    }

    fn on_end(&mut self, io: &mut Io<'_>) {
        self.fate.borrow_mut().ended += 1;
        io.close();
    }

    fn on_shutdown(&mut self, _io: &mut Io<'_>) {
        // Its peers end by themselves.
    }

    fn on_close(&mut self, reason: &CloseReason, _reactor: &mut Reactor) {
        self.fate.borrow_mut().closed.push(format!("{reason:?}"));
    }
}

fn arriving(number: usize, rng: &mut Rng, most: usize) -> Peer {
    let sends = (0..rng.usize(..most)).map(|_| rng.u8(..)).collect();
    let resets_after = (rng.u8(..) < 40).then(|| rng.usize(1..40));
    Peer { number, sends, resets_after, ..Peer::default() }
}

/// Every byte that arrives goes back, in order, to the peer that sent it; handlers are opened and closed once.
#[test]
fn an_echo_server_echoes_whatever_happens() {
    for_each_seed(SEEDS, |seed| {
        let mut rng = Rng::with_seed(seed);
        let (mut reactor, world) = reactor(seed, &mut rng);
        let peers: Vec<Peer> = (0..rng.usize(1..8)).map(|number| arriving(number, &mut rng, 600)).collect();
        let expected: Vec<(Vec<u8>, bool)> = peers
            .iter()
            .map(|peer| (peer.sends.iter().copied().collect(), peer.resets_after.is_some()))
            .collect();
        let count = peers.len();
        world.borrow_mut().arriving.extend(peers);
        let fate = Rc::new(RefCell::new(Fate::default()));
        let (fate_of_each, handler_rng) = (fate.clone(), Rng::with_seed(seed));
        let soft = rng.usize(1..300);
        let stream = StreamOptions::new().output_limits(soft, 1 << 20);
        let stream = stream.reading(rng.usize(1..200), if rng.bool() { 0 } else { usize::MAX });
        let options = ListenOptions::new().stream(stream);
        let path = std::env::temp_dir().join(format!("trochus-sim-{}-{seed}", std::process::id()));
        reactor
            .listen_with(&options, path, move |_| Echo {
                rng: handler_rng.clone(),
                fate: fate_of_each.clone(),
            })
            .unwrap();
        step_until(&mut reactor, |_| world.borrow().gone.len() == count);
        check_the_end(&mut reactor, &world);
        let fate = fate.borrow();
        assert_eq!((fate.opened, fate.closed.len()), (count, count));
        for peer in &world.borrow().gone {
            // A peer that went away got a beginning; every other one got everything and saw the end.
            let (sent, resets) = &expected[peer.number];
            let whole = *sent == peer.received && peer.saw_end;
            assert!(whole || *resets && sent.starts_with(&peer.received), "{peer:?} was to get {sent:?}");
        }
    });
}

/// Sends a sequence, expects it back, then closes.
struct Client {
    sends: Vec<u8>,
    received: Rc<RefCell<Vec<u8>>>,
    fate: Rc<RefCell<Fate>>,
    rng: Rng,
    written: usize,
}

impl Client {
    fn write_some(&mut self, io: &mut Io<'_>) {
        let left = self.sends.len() - self.written;
        let some = if left == 0 { 0 } else { self.rng.usize(1..=left) };
        io.write(&self.sends[self.written..self.written + some]);
        self.written += some;
        if self.written == self.sends.len() {
            io.shutdown_write();
        }
    }
}

impl Handler for Client {
    fn on_open(&mut self, io: &mut Io<'_>) {
        self.fate.borrow_mut().opened += 1;
        self.write_some(io);
    }

    fn on_bytes(&mut self, _io: &mut Io<'_>, bytes: &[u8]) -> usize {
        self.received.borrow_mut().extend_from_slice(bytes);
        bytes.len()
    }

    fn on_drained(&mut self, io: &mut Io<'_>) {
        assert_eq!(io.pending(), 0, "drained of all output");
        self.write_some(io);
    }

    fn on_close(&mut self, reason: &CloseReason, _reactor: &mut Reactor) {
        self.fate.borrow_mut().closed.push(format!("{reason:?}"));
    }
}

/// A client whose peer stays gets everything back; one whose peer goes, or that finds nobody, is told so.
#[test]
fn clients_get_everything_or_a_reason() {
    for_each_seed(SEEDS, |seed| {
        let mut rng = Rng::with_seed(seed);
        let (mut reactor, world) = reactor(seed, &mut rng);
        let count = rng.usize(1..6);
        let mut clients = Vec::new();
        for _ in 0..count {
            if rng.u8(..) < 220 {
                let resets_after = (rng.u8(..) < 40).then(|| rng.usize(1..40));
                world.borrow_mut().answering.push_back(Peer {
                    echoes: true,
                    resets_after,
                    ..Peer::default()
                });
            }
            let sends: Vec<u8> = (0..rng.usize(..500)).map(|_| rng.u8(..)).collect();
            let (received, fate) = (Rc::default(), Rc::<RefCell<Fate>>::default());
            clients.push((sends.clone(), Rc::clone(&received), fate.clone()));
            let client = Client { sends, received, fate, rng: Rng::with_seed(seed), written: 0 };
            let options = StreamOptions::new().reading(100, if rng.bool() { 0 } else { usize::MAX });
            reactor.connect(&options, &Address::Tcp(([127, 0, 0, 1], 9).into()), client);
        }
        step_until(&mut reactor, |reactor| reactor.connections() == 0);
        check_the_end(&mut reactor, &world);
        for (sends, received, fate) in clients {
            let (received, fate) = (received.borrow(), fate.borrow());
            match &fate.closed[..] {
                [reason] if reason == "Closed" || reason == "ByPeer" => {
                    assert_eq!((&*received, fate.opened), (&sends, 1))
                }
                [reason] if reason.starts_with("Failed") => {
                    assert!(sends.starts_with(&received) && fate.opened == 1);
                }
                [reason] => assert!(reason.starts_with("ConnectFailed") && fate.opened == 0, "{reason}"),
                reasons => panic!("closed {} times", reasons.len()),
            }
        }
    });
}

/// A reactor that is told to stop at any moment gives everything back, and each handler hears of its end once.
#[test]
fn a_drain_at_any_moment_gives_everything_back() {
    for_each_seed(SEEDS, |seed| {
        let mut rng = Rng::with_seed(seed);
        let (mut reactor, world) = reactor(seed, &mut rng);
        world
            .borrow_mut()
            .arriving
            .extend((0..rng.usize(0..6)).map(|number| arriving(number, &mut rng, 3_000)).collect::<Vec<_>>());
        let fate = Rc::new(RefCell::new(Fate::default()));
        let (fate_of_each, handler_rng) = (fate.clone(), Rng::with_seed(seed));
        let path = std::env::temp_dir().join(format!("trochus-sim-drain-{}-{seed}", std::process::id()));
        let stream = StreamOptions::new().reading(rng.usize(1..200), if rng.bool() { 0 } else { usize::MAX });
        let options = ListenOptions::new().stream(stream);
        let echo = move |_: &Incoming<'_>| Echo { rng: handler_rng.clone(), fate: fate_of_each.clone() };
        reactor.listen_with(&options, path, echo).unwrap();
        for _ in 0..rng.usize(0..60) {
            reactor.step(Some(Duration::ZERO)).unwrap();
        }
        let grace = Duration::from_millis(rng.u64(0..50));
        reactor.drain(grace).unwrap();
        assert_eq!(reactor.outstanding(), Outstanding::default());
        assert_eq!(world.borrow().faults, Vec::<String>::new());
        let fate = fate.borrow();
        assert_eq!(fate.opened, fate.closed.len());
    });
}

/// Writes as much as a turn sends of what is polled, each time it is asked.
struct Pusher {
    number: usize,
    asked: Rc<RefCell<Vec<usize>>>,
}

impl Handler for Pusher {
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

impl Polled for Pusher {
    fn on_poll(&mut self, io: &mut Io<'_>) -> bool {
        self.asked.borrow_mut().push(self.number);
        if io.pending() == 0 {
            io.write(&[0; crate::config::POLLED_OUTPUT_BYTES]);
        }
        true
    }

    fn prepare_sleep(&mut self) {}

    fn is_ready(&self) -> bool {
        false
    }
}

#[test]
fn polled_handlers_with_much_to_send_take_turns() {
    let mut rng = Rng::with_seed(1);
    let (mut reactor, world) = reactor(1, &mut rng);
    let asked = Rc::<RefCell<Vec<usize>>>::default();
    for number in 0..5 {
        world.borrow_mut().answering.push_back(Peer { echoes: true, ..Peer::default() });
        let pusher = Pusher { number, asked: asked.clone() };
        reactor.connect(&StreamOptions::new(), &Address::Tcp(([127, 0, 0, 1], 9).into()), pusher);
    }
    step_until(&mut reactor, |_| (0..5).all(|number| asked.borrow().contains(&number)));
    asked.borrow_mut().clear();
    (0..25).for_each(|_| reactor.step(Some(Duration::ZERO)).unwrap());
    // Whoever cannot send at the moment does not keep the turn from the next one.
    let asked = asked.borrow();
    for number in 0..5 {
        assert!(asked.iter().filter(|asked| **asked == number).count() >= 5, "{number} of {asked:?}");
    }
    assert!(
        asked.len() < 125,
        "some turns sent what there was and asked the others in the next one: {asked:?}"
    );
}
