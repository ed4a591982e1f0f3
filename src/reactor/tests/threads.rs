//! What other threads do to a connection, at any moment: while the reactor is at work, and while it sleeps.

use super::*;
use std::cell::Cell;

/// What the test knows of a connection and its handler.
#[derive(Default)]
struct Seen {
    handle: RefCell<Option<Handle>>,
    /// Notifications were accepted and not delivered yet.
    owed: Cell<bool>,
    notified: Cell<usize>,
    received: RefCell<Vec<u8>>,
    closed: RefCell<Vec<String>>,
}

/// Hands out its handle; writes something of its own now and then, which has to go between what others write.
struct Open {
    seen: Rc<Seen>,
    rng: Rng,
}

impl Handler for Open {
    fn on_open(&mut self, io: &mut Io<'_>) {
        *self.seen.handle.borrow_mut() = Some(io.handle());
    }

    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        let consumed = if self.rng.bool() { bytes.len() } else { self.rng.usize(1..=bytes.len()) };
        self.seen.received.borrow_mut().extend_from_slice(&bytes[..consumed]);
        if consumed < bytes.len() {
            io.pause_reading();
            io.set_timer(Duration::from_millis(1));
        }
        if self.rng.bool() {
            io.write(&[OWN]);
        }
        consumed
    }

    fn on_timer(&mut self, io: &mut Io<'_>) {
        io.resume_reading();
    }

    fn on_notify(&mut self, io: &mut Io<'_>) {
        self.seen.owed.set(false);
        self.seen.notified.set(self.seen.notified.get() + 1);
        if self.rng.bool() {
            io.write(&[OWN]);
        }
    }

    fn on_end(&mut self, _io: &mut Io<'_>) {
        // Others may still write.
    }

    fn on_close(&mut self, reason: &CloseReason, _reactor: &mut Reactor) {
        self.seen.closed.borrow_mut().push(format!("{reason:?}"));
    }
}

/// A byte that only the handler writes.
const OWN: u8 = 255;

/// Does things with a handle, and knows what must come of them.
struct Others {
    seen: Rc<Seen>,
    rng: Rng,
    accepted: Vec<u8>,
    next: u8,
    output_ended: bool,
}

impl Others {
    /// `true` if that is something for the reactor to do.
    fn act(&mut self) -> bool {
        let Some(handle) = self.seen.handle.borrow().clone() else { return false };
        match self.rng.u8(..12) {
            0..=5 => self.write(&handle),
            6..=8 => {
                let accepted = handle.notify().is_ok();
                if accepted {
                    self.seen.owed.set(true);
                }
                accepted
            }
            9 => handle.pause_reading().is_ok(),
            10 => handle.resume_reading().is_ok(),
            _ if self.rng.u8(..) < 20 => {
                // A second time there is nothing to do.
                handle.shutdown_write().is_ok() && !std::mem::replace(&mut self.output_ended, true)
            }
            _ => false,
        }
    }

    fn write(&mut self, handle: &Handle) -> bool {
        let bytes: Vec<u8> = (0..self.rng.u8(1..50)).map(|n| self.next.wrapping_add(n) % OWN).collect();
        let result = match self.rng.bool() {
            true => handle.try_write(&bytes),
            false => handle.try_write_bytes(Bytes::from(bytes.clone())),
        };
        match result {
            Ok(()) => {
                self.next = bytes[bytes.len() - 1].wrapping_add(1);
                self.accepted.extend(bytes);
                true
            }
            // Before it is full, something was accepted, and the reactor told.
            Err(HandleError::Full { .. }) => false,
            Err(_) => {
                assert!(self.output_ended, "refused while nobody had ended anything");
                false
            }
        }
    }
}

/// Whatever other threads write arrives, in order; what they notify is told; what the peer sends is read in spite of it.
#[test]
fn what_other_threads_do_takes_effect_whatever_happens() {
    for_each_seed(400, |seed| {
        let mut rng = Rng::with_seed(seed);
        let (mut reactor, world) = reactor(seed, &mut rng);
        let sends: VecDeque<u8> = (0..rng.usize(..400)).map(|_| rng.u8(..)).collect();
        let expected: Vec<u8> = sends.iter().copied().collect();
        world.borrow_mut().answering.push_back(Peer { sends, echoes: false, ..Peer::default() });
        let seen = Rc::<Seen>::default();
        let options =
            StreamOptions::new().output_limits(rng.usize(1..200), 1 << 20).outbox_limit(rng.usize(1..200));
        reactor.connect(&options, &somewhere(), Open { seen: seen.clone(), rng: Rng::with_seed(seed) });
        let others = Rc::new(RefCell::new(Others {
            seen: seen.clone(),
            rng: Rng::with_seed(seed + 1),
            accepted: Vec::new(),
            next: 0,
            output_ended: false,
        }));
        let at_work = others.clone();
        world.borrow_mut().meanwhile = Some(Box::new(move || at_work.borrow_mut().act()));
        for _ in 0..rng.usize(1..300) {
            reactor.step(Some(Duration::from_millis(10))).unwrap();
            if rng.u8(..) < 40 {
                // Between two turns, when nobody waits.
                others.borrow_mut().act();
            }
        }
        // They fall silent. What they are owed comes now.
        world.borrow_mut().meanwhile = Some(Box::new(|| false));
        step_until(&mut reactor, |reactor| reactor.connections() == 0 || seen.handle.borrow().is_some());
        // An attempt to connect may be interrupted.
        let Some(handle) = seen.handle.borrow().clone() else { return };
        if !others.borrow().output_ended || !handle.is_closed() {
            handle.resume_reading().unwrap();
        }
        step_until(&mut reactor, |_| {
            let all_read = *seen.received.borrow() == expected;
            let closed = !seen.closed.borrow().is_empty();
            closed || all_read && !seen.owed.get()
        });
        assert!(!seen.owed.get() || others.borrow().output_ended, "a notification is lost");
        let _ = handle.close();
        step_until(&mut reactor, |reactor| reactor.connections() == 0);
        check_the_end(&mut reactor, &world);
        assert!(matches!(&seen.closed.borrow()[..], [reason] if reason == "Closed" || reason == "ByPeer"));
        assert_eq!(*seen.received.borrow(), expected);
        let gone = &world.borrow().gone;
        let from_others: Vec<u8> = gone[0].received.iter().copied().filter(|byte| *byte != OWN).collect();
        assert_eq!(from_others, others.borrow().accepted);
        assert!(gone[0].saw_end);
        assert_eq!(handle.try_write(&[1]), Err(HandleError::Closed));
    });
}

/// A notification that comes while output waits behind a slow send is told as soon as the send lets it be.
#[test]
fn a_notification_that_comes_along_with_output_is_told() {
    for_each_seed(100, |seed| {
        let mut rng = Rng::with_seed(seed);
        let (mut reactor, world) = reactor(seed, &mut rng);
        world.borrow_mut().answering.push_back(Peer { echoes: true, ..Peer::default() });
        let seen = Rc::<Seen>::default();
        let options = StreamOptions::new().output_limits(10, 1 << 20);
        reactor.connect(&options, &somewhere(), Open { seen: seen.clone(), rng: Rng::with_seed(seed) });
        step_until(&mut reactor, |reactor| reactor.connections() == 0 || seen.handle.borrow().is_some());
        // An attempt to connect may be interrupted.
        let Some(handle) = seen.handle.borrow().clone() else { return };
        for _ in 0..20 {
            // Above the soft limit: what comes behind it stays in the outbox, and the first look there takes note of it.
            handle.try_write(&[1; 50]).unwrap();
            (0..rng.usize(0..3)).for_each(|_| reactor.step(Some(Duration::ZERO)).unwrap());
            handle.try_write(&[2; 50]).unwrap();
            (0..rng.usize(0..3)).for_each(|_| reactor.step(Some(Duration::ZERO)).unwrap());
            // In a wait, so that the send may complete in the same turn and be looked at first.
            let (notifier, notify) = (handle.clone(), Cell::new(true));
            world.borrow_mut().meanwhile =
                Some(Box::new(move || notify.replace(false) && notifier.notify().is_ok()));
            let before = seen.notified.get();
            step_until(&mut reactor, |_| seen.notified.get() > before);
        }
        handle.close().unwrap();
        step_until(&mut reactor, |reactor| reactor.connections() == 0);
        check_the_end(&mut reactor, &world);
    });
}
