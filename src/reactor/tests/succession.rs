//! Handlers that hand their connection over, again and again.

use super::*;

/// What the handlers of one connection have seen, one behind the other.
#[derive(Debug, Default)]
struct Told {
    /// Who has the connection, by number, and who was the last to be made.
    current: usize,
    made: usize,
    dropped: usize,
    consumed: Vec<u8>,
    closed: Vec<String>,
    /// By the last one.
    saw_end: bool,
}

/// Takes some of what it is shown, sends it back, and hands over at any moment, with everything set that must not outlive it.
struct Stage {
    number: usize,
    told: Rc<RefCell<Told>>,
    rng: Rng,
    is_open: bool,
    has_timer: bool,
    has_paused: bool,
    wants_polls: bool,
    saw_end: bool,
}

impl Stage {
    fn new(told: &Rc<RefCell<Told>>, rng: &mut Rng) -> Self {
        let number = told.borrow().made;
        told.borrow_mut().made += 1;
        Stage {
            number,
            told: told.clone(),
            rng: rng.fork(),
            is_open: false,
            has_timer: false,
            has_paused: false,
            wants_polls: false,
            saw_end: false,
        }
    }

    fn check(&self) {
        assert_eq!(self.told.borrow().current, self.number, "who has handed over is called no more");
        assert!(self.is_open, "nothing comes before it is opened");
    }

    /// Leaves everything in disorder, and the connection to the next one.
    fn hand_over(&mut self, io: &mut Io<'_>) {
        match self.rng.u8(..6) {
            0 => io.pause_reading(),
            1 => io.expect(1 << 20),
            2 => io.set_timer(Duration::from_millis(self.rng.u64(..3))),
            3 => io.claim(1 << 20),
            4 => io.poll_me(),
            _ => {}
        }
        if self.rng.u8(..) < 20 {
            // This one gets nothing at all.
            io.hand_over(Stage::new(&self.told, &mut self.rng));
        }
        let next = Stage::new(&self.told, &mut self.rng);
        self.told.borrow_mut().current = next.number;
        io.hand_over(next);
    }

    fn may_hand_over(&mut self, io: &mut Io<'_>, chance: u8) {
        if self.rng.u8(..) < chance {
            self.hand_over(io);
        }
    }
}

impl Handler for Stage {
    fn on_open(&mut self, io: &mut Io<'_>) {
        assert!(!std::mem::replace(&mut self.is_open, true), "it is opened once");
        self.check();
        assert!(!io.is_closing() && io.link.claimed == 0 && !io.link.polled);
        if self.rng.u8(..) < 40 {
            io.poll_me();
            self.wants_polls = true;
        }
        self.may_hand_over(io, 60);
    }

    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        self.check();
        assert!(!self.saw_end && !self.has_paused && !bytes.is_empty());
        let consumed = self.rng.usize(..=bytes.len());
        self.told.borrow_mut().consumed.extend_from_slice(&bytes[..consumed]);
        io.write(&bytes[..consumed]);
        if self.rng.bool() {
            self.hand_over(io);
        } else if consumed < bytes.len() || self.rng.u8(..) < 60 {
            // What is left comes again when reading goes on.
            io.pause_reading();
            io.set_timer(Duration::from_millis(self.rng.u64(..5)));
            (self.has_timer, self.has_paused) = (true, true);
        }
        consumed
    }

    fn on_timer(&mut self, io: &mut Io<'_>) {
        self.check();
        assert!(self.has_timer, "a timer is its own");
        self.has_timer = false;
        io.resume_reading();
        self.has_paused = false;
        self.may_hand_over(io, 80);
    }

    fn on_notify(&mut self, io: &mut Io<'_>) {
        self.check();
        self.may_hand_over(io, 80);
    }

    fn on_drained(&mut self, io: &mut Io<'_>) {
        self.check();
        let handle = io.handle();
        let _ = handle.notify();
        self.may_hand_over(io, 80);
    }

    fn on_room(&mut self, io: &mut Io<'_>) {
        self.check();
        self.may_hand_over(io, 80);
    }

    fn on_end(&mut self, io: &mut Io<'_>) {
        self.check();
        assert!(!std::mem::replace(&mut self.saw_end, true), "it is told once");
        if self.rng.bool() {
            self.hand_over(io);
        } else {
            self.told.borrow_mut().saw_end = true;
            io.close();
        }
    }

    fn on_shutdown(&mut self, io: &mut Io<'_>) {
        self.check();
        self.may_hand_over(io, 80);
    }

    fn on_close(&mut self, reason: &CloseReason, _reactor: &mut Reactor) {
        let mut told = self.told.borrow_mut();
        assert_eq!(told.current, self.number, "the last one is told");
        told.closed.push(format!("{reason:?}"));
    }

    fn polled(&mut self) -> Option<&mut dyn Polled> {
        Some(self)
    }
}

impl Polled for Stage {
    fn on_poll(&mut self, io: &mut Io<'_>) -> bool {
        self.check();
        assert!(self.wants_polls, "who did not ask for it is not polled");
        self.may_hand_over(io, 80);
        // Whether it says so or not, the next one begins.
        false
    }

    fn prepare_sleep(&mut self) {
        assert!(self.wants_polls);
    }

    fn is_ready(&self) -> bool {
        false
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Ok(mut told) = self.told.try_borrow_mut() {
            told.dropped += 1;
        }
    }
}

/// Whoever has the connection, and however often it changes hands: each byte is consumed once, in order, and answered; the last one is
/// told the end; nobody is called before it has the connection or after; and all are dropped.
#[test]
fn a_connection_that_changes_hands_loses_nothing() {
    for_each_seed(SEEDS, |seed| {
        let mut rng = Rng::with_seed(seed);
        let (mut reactor, world) = reactor(seed, &mut rng);
        let peers: Vec<Peer> = (0..rng.usize(1..5)).map(|number| arriving(number, &mut rng, 300)).collect();
        let mut sent: Vec<(Vec<u8>, bool)> = Vec::new();
        for peer in &peers {
            sent.push((peer.sends.iter().copied().collect(), peer.resets_after.is_some()));
        }
        let count = peers.len();
        world.borrow_mut().arriving.extend(peers);
        let all = Rc::new(RefCell::new(Vec::new()));
        let (each, mut stages) = (all.clone(), Rng::with_seed(seed));
        let stream = StreamOptions::new().output_limits(rng.usize(1..300), 1 << 20);
        let stream = stream.reading(rng.usize(1..200), if rng.bool() { 0 } else { usize::MAX });
        let path = std::env::temp_dir().join(format!("trochus-sim-hands-{}-{seed}", std::process::id()));
        let options = ListenOptions::new().stream(stream);
        let accept = move |_: &Incoming<'_>| {
            let told = Rc::<RefCell<Told>>::default();
            each.borrow_mut().push(told.clone());
            Stage::new(&told, &mut stages)
        };
        reactor.listen_with(&options, path, accept).unwrap();
        // Some seeds stop in the middle.
        let mut left = if rng.u8(..) < 60 { rng.usize(..60) } else { usize::MAX };
        step_until(&mut reactor, |_| {
            left = left.saturating_sub(1);
            left == 0 || world.borrow().gone.len() == count
        });
        check_the_end(&mut reactor, &world);
        let stopped = left == 0;
        for told in all.borrow().iter().map(|told| told.borrow()) {
            assert_eq!((told.closed.len(), told.dropped), (1, told.made), "{told:?}");
            let whole = |(sent, resets): &&(Vec<u8>, bool)| {
                *sent == told.consumed && told.saw_end
                    || (*resets || stopped) && sent.starts_with(&told.consumed)
            };
            assert!(sent.iter().any(|sent| whole(&sent)), "{told:?} of {sent:?}");
        }
        for peer in &world.borrow().gone {
            let (sent, resets) = &sent[peer.number];
            let whole = *sent == peer.received && peer.saw_end;
            assert!(
                whole || (*resets || stopped) && sent.starts_with(&peer.received),
                "{peer:?} of {sent:?}"
            );
        }
    });
}

/// Hands over to another one of its kind at once, for ever.
struct Endless {
    opened: Rc<RefCell<usize>>,
    in_open: bool,
}

impl Endless {
    fn go_on(&self, io: &mut Io<'_>) {
        io.hand_over(Endless { opened: self.opened.clone(), in_open: self.in_open });
    }
}

impl Handler for Endless {
    fn on_open(&mut self, io: &mut Io<'_>) {
        *self.opened.borrow_mut() += 1;
        if self.in_open {
            self.go_on(io);
        }
    }

    fn on_bytes(&mut self, io: &mut Io<'_>, _bytes: &[u8]) -> usize {
        self.go_on(io);
        0
    }

    fn on_end(&mut self, io: &mut Io<'_>) {
        self.go_on(io);
    }

    fn on_shutdown(&mut self, io: &mut Io<'_>) {
        self.go_on(io);
    }
}

/// Counts what it is shown.
struct Count(Rc<RefCell<usize>>);

impl Handler for Count {
    fn on_bytes(&mut self, _io: &mut Io<'_>, bytes: &[u8]) -> usize {
        *self.0.borrow_mut() += bytes.len();
        bytes.len()
    }
}

/// Hands over when it is polled, and says that it found nothing.
struct Leaves(Rc<RefCell<usize>>);

impl Handler for Leaves {
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

impl Polled for Leaves {
    fn on_poll(&mut self, io: &mut Io<'_>) -> bool {
        io.hand_over(Comes(self.0.clone()));
        false
    }

    fn prepare_sleep(&mut self) {}

    fn is_ready(&self) -> bool {
        true
    }
}

/// Writes, and is polled as well.
struct Comes(Rc<RefCell<usize>>);

impl Handler for Comes {
    fn on_open(&mut self, io: &mut Io<'_>) {
        io.poll_me();
        io.write(b"here");
    }

    fn on_bytes(&mut self, _io: &mut Io<'_>, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn polled(&mut self) -> Option<&mut dyn Polled> {
        Some(self)
    }
}

impl Polled for Comes {
    fn on_poll(&mut self, _io: &mut Io<'_>) -> bool {
        *self.0.borrow_mut() += 1;
        false
    }

    fn prepare_sleep(&mut self) {}

    fn is_ready(&self) -> bool {
        true
    }
}

#[test]
fn who_takes_over_in_a_poll_is_polled_once_a_turn_and_what_it_writes_is_sent() {
    let (mut reactor, world) = prompt_reactor(8, 100);
    world.borrow_mut().answering.push_back(Peer { echoes: true, ..Peer::default() });
    let polls = Rc::<RefCell<usize>>::default();
    reactor.connect(&StreamOptions::new(), &somewhere(), Leaves(polls.clone()));
    let mut before = 0;
    for _ in 0..50 {
        reactor.step(Some(Duration::ZERO)).unwrap();
        let now = *polls.borrow();
        // A turn may look a last time before it lets go.
        assert!(now - before <= 1, "{} times in one turn", now - before);
        before = now;
    }
    assert!(before > 10);
    assert_eq!(reactor.metrics().sent_bytes, 4);
    check_the_end(&mut reactor, &world);
}

/// However it is handed on, a turn has an end, and others are served; and it can be cut off.
#[test]
fn a_turn_ends_whoever_hands_over_for_ever() {
    for in_open in [true, false] {
        for sends in [&b""[..], b"some"] {
            let (mut reactor, world) = prompt_reactor(8, 100);
            // It never waits, so that time passes only here.
            world.borrow_mut().tick = Duration::from_micros(1);
            let opened = Rc::<RefCell<usize>>::default();
            let peer = |number, sends: &[u8]| Peer {
                number,
                sends: sends.iter().copied().collect(),
                ..Peer::default()
            };
            world.borrow_mut().answering.extend([peer(0, sends), peer(1, &[7; 1000])]);
            reactor.connect(&StreamOptions::new(), &somewhere(), Endless { opened: opened.clone(), in_open });
            let received = Rc::<RefCell<usize>>::default();
            reactor.connect(&StreamOptions::new(), &somewhere(), Count(received.clone()));
            let mut before = 0;
            step_until(&mut reactor, |_| {
                let (now, most) = (*opened.borrow(), crate::config::HAND_OVERS);
                // The first one is no successor.
                assert!(now - before <= most + usize::from(before == 0), "{} in one step", now - before);
                before = now;
                now > 1000 && *received.borrow() == 1000
            });
            reactor.begin_drain(Duration::from_millis(5));
            check_the_end(&mut reactor, &world);
        }
    }
}
