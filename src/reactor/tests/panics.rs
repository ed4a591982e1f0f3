//! A driver that panics, once, while it is handed something: whom that concerns is given up, and nobody else notices.

use super::*;

/// Sends so much, one piece behind the other, expects it back, and tells how it ended.
struct Talker {
    sends: Vec<u8>,
    written: usize,
    received: Rc<RefCell<Vec<u8>>>,
    fate: Rc<RefCell<Fate>>,
}

impl Talker {
    fn write_some(&mut self, io: &mut Io<'_>) {
        let end = self.sends.len().min(self.written + 20);
        io.write(&self.sends[self.written..end]);
        self.written = end;
        // Now and then the receive is taken back.
        io.pause_reading();
        io.set_timer(Duration::from_millis(2));
    }
}

impl Handler for Talker {
    fn on_open(&mut self, io: &mut Io<'_>) {
        self.fate.borrow_mut().opened += 1;
        self.write_some(io);
    }

    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        self.received.borrow_mut().extend_from_slice(bytes);
        if *self.received.borrow() == self.sends {
            io.close();
        } else if self.received.borrow().len() == self.written {
            self.write_some(io);
        }
        bytes.len()
    }

    fn on_timer(&mut self, io: &mut Io<'_>) {
        io.resume_reading();
    }

    fn on_shutdown(&mut self, _io: &mut Io<'_>) {}

    fn on_close(&mut self, reason: &CloseReason, _reactor: &mut Reactor) {
        self.fate.borrow_mut().closed.push(format!("{reason:?}"));
    }
}

#[test]
fn a_panic_below_the_handlers_costs_one_connection() {
    const TALKERS: usize = 5;
    let lost = RefCell::new(0);
    for_each_seed(SEEDS / 2, |seed| {
        let mut rng = Rng::with_seed(seed);
        let world = Shared::default();
        let mut reactor = over(Simulated::new(seed, world.clone(), 4, 30).with(Whims::PROMPT));
        let path = std::env::temp_dir().join(format!("trochus-sim-panics-{}-{seed}", std::process::id()));
        let accepted = Rc::<RefCell<Fate>>::default();
        let (fate, handler_rng) = (accepted.clone(), Rng::with_seed(seed));
        reactor.listen(path, move |_| super::Echo { rng: handler_rng.clone(), fate: fate.clone() }).unwrap();
        world.borrow_mut().panics_after = Some(rng.usize(1..120));
        let mut talkers = Vec::new();
        for number in 0..TALKERS {
            // Where sends are short, the next one follows before anything is settled.
            let takes = if rng.bool() { Takes::ByteEach(Duration::ZERO) } else { Takes::Everything };
            world.borrow_mut().answering.push_back(Peer { number, echoes: true, takes, ..Peer::default() });
            let sends: Vec<u8> = (0..100).map(|_| rng.u8(..)).collect();
            let (received, fate) = (Rc::default(), Rc::<RefCell<Fate>>::default());
            talkers.push((sends.clone(), Rc::clone(&received), fate.clone()));
            let talker = Talker { sends, written: 0, received, fate };
            reactor.connect(&StreamOptions::new(), &somewhere(), talker);
            world.borrow_mut().arriving.push_back(Peer {
                number: TALKERS + number,
                sends: (0..50).collect(),
                ..Peer::default()
            });
        }
        // The accepted ones' peers end their streams; whoever was given up has no peer any more.
        step_until(&mut reactor, |reactor| reactor.connections() == 0 && world.borrow().arriving.is_empty());
        reactor.drain(Duration::from_secs(3600)).unwrap();
        let panicked = world.borrow().panics_after.is_none();
        world.borrow_mut().panics_after = None;
        assert_eq!(reactor.metrics().internal_panics, u64::from(panicked));
        check_the_end(&mut reactor, &world);
        let mut given_up = 0;
        for (sends, received, fate) in talkers {
            let fate = fate.borrow();
            match &fate.closed[..] {
                [reason] if reason == "Closed" => assert_eq!(*received.borrow(), sends),
                [reason] if reason == "Internal" || reason.contains("trochus itself panicked") => {
                    given_up += 1
                }
                other => panic!("{other:?}"),
            }
        }
        let accepted = accepted.borrow();
        assert_eq!((accepted.opened, accepted.closed.len()), (TALKERS, TALKERS));
        given_up += accepted.closed.iter().filter(|reason| *reason == "Internal").count();
        let clean = accepted.closed.iter().all(|reason| ["ByPeer", "Internal"].contains(&&**reason));
        assert!(clean, "{accepted:?}");
        // It may have been about a listener, or about a connection that was ending anyway.
        assert!(given_up <= usize::from(panicked), "{given_up}");
        *lost.borrow_mut() += given_up;
    });
    let lost = lost.into_inner();
    assert!(lost > 0 || std::env::var_os("TROCHUS_SEED").is_some());
}
