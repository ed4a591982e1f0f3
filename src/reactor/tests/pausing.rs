//! Handlers that pause: what is read ahead, and what is noticed meanwhile.

use super::*;

/// Takes some, pauses, goes on when its timer says so; what it was shown and did not take comes again.
struct Sluggish {
    rng: Rng,
    /// With so many bytes it does not resume any more.
    takes: usize,
    taken: Rc<RefCell<Vec<u8>>>,
    fate: Rc<RefCell<Fate>>,
}

impl Handler for Sluggish {
    fn on_open(&mut self, io: &mut Io<'_>) {
        self.fate.borrow_mut().opened += 1;
        if self.rng.bool() {
            self.pause(io);
        }
    }

    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        // Who goes on at once has to take everything: no frame is as long as the limit.
        let stays_paused = self.rng.u8(..) < 100 && self.pause(io);
        let some = if stays_paused { self.rng.usize(0..=bytes.len()) } else { bytes.len() };
        self.taken.borrow_mut().extend_from_slice(&bytes[..some]);
        some
    }

    fn on_timer(&mut self, io: &mut Io<'_>) {
        io.resume_reading();
    }

    fn on_end(&mut self, io: &mut Io<'_>) {
        self.fate.borrow_mut().ended += 1;
        io.close();
    }

    fn on_close(&mut self, reason: &CloseReason, _reactor: &mut Reactor) {
        self.fate.borrow_mut().closed.push(format!("{reason:?}"));
    }
}

impl Sluggish {
    /// Whether it stays paused.
    fn pause(&mut self, io: &mut Io<'_>) -> bool {
        io.pause_reading();
        match self.rng.u8(..) {
            _ if self.taken.borrow().len() >= self.takes => io.clear_timer(),
            0..100 => {
                io.resume_reading();
                return false;
            }
            _ => io.set_timer(Duration::from_millis(self.rng.u64(0..30))),
        }
        true
    }
}

/// However often a handler pauses, it gets every byte in order and then the end; a reset is told whether it reads or not; and what
/// is kept for it has its bound, which is not that of a frame.
#[test]
fn who_pauses_gets_everything_or_a_reset() {
    for_each_seed(SEEDS, |seed| {
        let mut rng = Rng::with_seed(seed);
        let world = Shared::default();
        let (buffers, buffer_bytes) = (1 << rng.u16(0..4), rng.usize(1..100));
        let driver = Simulated::new(seed, world.clone(), buffers, buffer_bytes);
        let builder = Reactor::builder().busy_poll(BusyPoll::Off).turn_budget(1 + seed as usize % 300);
        let mut reactor = builder.build_over(Driver::Simulated(Box::new(driver)));
        let read_ahead = rng.usize(1..200);
        // At times never, for as long as it takes, or always.
        let careful = [0, 1 << 20, usize::MAX][rng.usize(..3)];
        let options = StreamOptions::new().reading(read_ahead, careful).input_limit(1);
        let resets = rng.bool();
        // Who never resumes hears only of resets, and not behind an end.
        let some_stop = resets && rng.bool();
        let (mut sent, mut clients) = (Vec::new(), Vec::new());
        for number in 0..rng.usize(1..4) {
            let mut peer = arriving(number, &mut rng, 2_000);
            // By this it is known who got which peer.
            peer.sends.push_front(number as u8);
            peer.echoes = some_stop;
            peer.resets_after = resets.then(|| rng.usize(1..200));
            sent.push(peer.sends.iter().copied().collect::<Vec<u8>>());
            world.borrow_mut().answering.push_back(peer);
            let (taken, fate) = (Rc::<RefCell<Vec<u8>>>::default(), Rc::<RefCell<Fate>>::default());
            clients.push((taken.clone(), fate.clone()));
            let takes = if some_stop && rng.bool() { rng.usize(0..100) } else { usize::MAX };
            let rng = Rng::with_seed(rng.u64(..));
            reactor.connect(&options, &somewhere(), Sluggish { rng, takes, taken, fate });
        }
        let most = read_ahead.max(buffer_bytes) + if careful > 0 { buffer_bytes } else { 2_000 };
        step_until(&mut reactor, |reactor| {
            for id in reactor.connections.ids() {
                let held = reactor.connections.get(id).map_or(0, |connection| connection.link.inbox.len());
                assert!(held <= most, "{held} bytes are held");
            }
            reactor.connections() == 0
        });
        check_the_end(&mut reactor, &world);
        for (taken, fate) in clients {
            let (taken, fate) = (taken.borrow(), fate.borrow());
            let sends = taken.first().map(|number| &sent[usize::from(*number)]);
            let is_beginning = sends.is_none_or(|sends| sends.starts_with(&taken));
            match &fate.closed[..] {
                [reason] if reason == "ByPeer" => assert!(sends == Some(&taken) && fate.ended == 1),
                [reason] if reason.starts_with("Failed") => assert!(resets && is_beginning),
                [reason] => assert!(reason.starts_with("ConnectFailed") && fate.opened == 0, "{reason}"),
                reasons => panic!("closed {} times", reasons.len()),
            }
        }
    });
}

/// Takes everything, and pauses for a moment each time.
struct Nervous {
    received: Rc<RefCell<usize>>,
}

impl Handler for Nervous {
    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        *self.received.borrow_mut() += bytes.len();
        io.pause_reading();
        io.set_timer(Duration::from_millis(1));
        bytes.len()
    }

    fn on_timer(&mut self, io: &mut Io<'_>) {
        io.resume_reading();
    }

    fn on_end(&mut self, io: &mut Io<'_>) {
        io.close();
    }
}

#[test]
fn short_pauses_cancel_nothing() {
    const BYTES: usize = 10_000;
    for careful in [0, 1 << 20] {
        let (mut reactor, world) = prompt_reactor(4, 10);
        let received = Rc::<RefCell<usize>>::default();
        let sends = std::iter::repeat_n(7, BYTES).collect();
        world.borrow_mut().answering.push_back(Peer { sends, ..Peer::default() });
        let options = StreamOptions::new().reading(100, careful);
        reactor.connect(&options, &somewhere(), Nervous { received: received.clone() });
        step_until(&mut reactor, |reactor| reactor.connections() == 0);
        assert_eq!(*received.borrow(), BYTES);
        let cancelled = world.borrow().cancelled_receives;
        // What was full when the pause was over had a look-out for a reset instead.
        assert!(cancelled <= 2 * BYTES / 100, "{cancelled} were cancelled");
        check_the_end(&mut reactor, &world);
    }
}
