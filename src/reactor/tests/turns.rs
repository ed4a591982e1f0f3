//! Who gets what in a turn when there is not enough for all.

use super::*;
use std::cell::Cell;

/// Counts what it receives, each time it is called.
struct Counter {
    number: usize,
    served: Rc<RefCell<Vec<usize>>>,
}

impl Handler for Counter {
    fn on_bytes(&mut self, _io: &mut Io<'_>, bytes: &[u8]) -> usize {
        self.served.borrow_mut().push(self.number);
        bytes.len()
    }
}

/// Three peers that have always something to send, and one buffer: each gets it in turn.
#[test]
fn who_waits_for_a_buffer_longest_gets_it_first() {
    for_each_seed(4, |seed| {
        let world = Shared::default();
        // One buffer at a time, or until there is none.
        let options = StreamOptions::new().reading(100, if seed < 2 { usize::MAX } else { 0 });
        let whims = Whims { arming_needs_a_buffer: seed % 2 == 0, ..Whims::PROMPT };
        let mut reactor = over(Simulated::new(seed, world.clone(), 1, 10).with(whims));
        let served = Rc::<RefCell<Vec<usize>>>::default();
        for number in 0..3 {
            world
                .borrow_mut()
                .answering
                .push_back(Peer { sends: std::iter::repeat_n(7, 4_000).collect(), ..Peer::default() });
            reactor.connect(&options, &somewhere(), Counter { number, served: served.clone() });
        }
        (0..40).for_each(|_| reactor.step(Some(Duration::ZERO)).unwrap());
        served.borrow_mut().clear();
        (0..60).for_each(|_| reactor.step(Some(Duration::ZERO)).unwrap());
        let served = served.borrow();
        assert!(served.len() > 30, "{served:?}");
        let counts = [0, 1, 2].map(|number| served.iter().filter(|served| **served == number).count());
        assert!(counts.iter().all(|count| count + 2 >= served.len() / 3), "{counts:?} of {served:?}");
    });
}

/// Answers with much, and notes how much waited before.
struct Talker(Rc<RefCell<Vec<usize>>>);

const ANSWER: usize = 60;

impl Handler for Talker {
    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        self.0.borrow_mut().push(io.pending());
        io.write(&[7; ANSWER]);
        bytes.len()
    }
}

/// Beyond the soft limit a handler is shown nothing until half of that is left, so that it does not stop and go with each byte.
#[test]
fn who_was_held_back_by_output_goes_on_at_half_of_it() {
    const SOFT: usize = 100;
    for_each_seed(1, |seed| {
        let world = Shared::default();
        let mut reactor = over(Simulated::new(seed, world.clone(), 1, 10).with(Whims::PROMPT));
        let sends = std::iter::repeat_n(7, 1_000).collect();
        let takes = Takes::ByteEach(Duration::from_millis(1));
        world.borrow_mut().answering.push_back(Peer { sends, takes, ..Peer::default() });
        let waited = Rc::<RefCell<Vec<usize>>>::default();
        let options = StreamOptions::new().output_limits(SOFT, 1 << 20).reading(10, usize::MAX);
        reactor.connect(&options, &somewhere(), Talker(waited.clone()));
        step_until(&mut reactor, |reactor| reactor.connections() == 0);
        let waited = waited.borrow();
        assert!(waited.len() > 3, "{waited:?}");
        for pair in waited.windows(2) {
            let held_back = pair[0] + ANSWER > SOFT;
            assert!(pair[1] <= if held_back { SOFT / 2 } else { SOFT }, "{pair:?}");
        }
    });
}

/// Echoes as long as there is room, and leaves the rest.
struct EchoesWhereThereIsRoom(Rc<Cell<usize>>);

impl Handler for EchoesWhereThereIsRoom {
    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while io.room() > 0 && taken < bytes.len() {
            let chunk = &bytes[taken..bytes.len().min(taken + 30)];
            io.write(chunk);
            taken += chunk.len();
        }
        self.0.set(self.0.get() + taken);
        taken
    }
}

/// Though nothing comes behind it.
#[test]
fn what_was_left_for_want_of_room_is_shown_again() {
    for_each_seed(1, |seed| {
        let world = Shared::default();
        let mut reactor = over(Simulated::new(seed, world.clone(), 1, 1000).with(Whims::PROMPT));
        let takes = Takes::ByteEach(Duration::from_millis(1));
        let sends = std::iter::repeat_n(7, 900).collect();
        world.borrow_mut().answering.push_back(Peer { sends, takes, ..Peer::default() });
        let echoed = Rc::<Cell<usize>>::default();
        let options = StreamOptions::new().output_limits(100, 1 << 20);
        reactor.connect(&options, &somewhere(), EchoesWhereThereIsRoom(echoed.clone()));
        step_until(&mut reactor, |reactor| reactor.connections() == 0);
        assert_eq!(echoed.get(), 900);
    });
}

/// Writes as much as a turn sends of what is polled, each time it is asked.
struct Insatiable {
    number: usize,
    asked: Rc<RefCell<Vec<usize>>>,
}

impl Handler for Insatiable {
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

impl Polled for Insatiable {
    fn on_poll(&mut self, io: &mut Io<'_>) -> bool {
        self.asked.borrow_mut().push(self.number);
        io.write(&[0; crate::config::POLLED_OUTPUT_BYTES]);
        true
    }

    fn prepare_sleep(&mut self) {}

    fn is_ready(&self) -> bool {
        false
    }
}

/// Each of them has enough for the whole turn, and sends it at once: the turn begins with whoever comes next.
#[test]
fn polled_handlers_that_send_at_once_take_turns() {
    let (mut reactor, world) = prompt_reactor(1, 100);
    let asked = Rc::<RefCell<Vec<usize>>>::default();
    for number in 0..5 {
        world.borrow_mut().answering.push_back(Peer { echoes: true, ..Peer::default() });
        reactor.connect(&StreamOptions::new(), &somewhere(), Insatiable { number, asked: asked.clone() });
    }
    step_until(&mut reactor, |_| asked.borrow().len() >= 10);
    asked.borrow_mut().clear();
    step_until(&mut reactor, |_| asked.borrow().len() >= 50);
    for number in 0..5 {
        let count = asked.borrow().iter().filter(|asked| **asked == number).count();
        assert!((8..=12).contains(&count), "{number}: {count} of {:?}", asked.borrow());
    }
}
