//! Connections that end, or never begin, at inconvenient moments.

use super::*;
use crate::config::{CONNECT_TIMEOUT, FLUSH_TIMEOUT};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Writes so much and closes.
struct Writer {
    bytes: usize,
    fate: Rc<RefCell<Fate>>,
}

impl Handler for Writer {
    fn on_open(&mut self, io: &mut Io<'_>) {
        self.fate.borrow_mut().opened += 1;
        io.write(&vec![7; self.bytes]);
        io.close();
    }

    fn on_bytes(&mut self, _io: &mut Io<'_>, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn on_close(&mut self, reason: &CloseReason, _reactor: &mut Reactor) {
        self.fate.borrow_mut().closed.push(format!("{reason:?}"));
    }
}

/// A writer that is connected to such a peer, and how long it took until its connection had ended.
fn write_to(seed: u64, bytes: usize, takes: Takes) -> (Rc<RefCell<Fate>>, Duration, Shared) {
    let (mut reactor, world) = reactor(seed, &mut Rng::with_seed(seed));
    let fate = Rc::<RefCell<Fate>>::default();
    step_until(&mut reactor, |reactor| {
        if reactor.connections() == 0 {
            // The attempt to connect was interrupted.
            world.borrow_mut().answering.push_back(Peer { echoes: true, takes, ..Peer::default() });
            reactor.connect(&StreamOptions::new(), &somewhere(), Writer { bytes, fate: fate.clone() });
        }
        fate.borrow().opened == 1
    });
    fate.borrow_mut().closed.clear();
    let opened = reactor.driver.now();
    step_until(&mut reactor, |reactor| reactor.connections() == 0);
    let took = reactor.driver.now() - opened;
    check_the_end(&mut reactor, &world);
    (fate, took, world)
}

#[test]
fn a_peer_that_takes_nothing_is_given_up() {
    for_each_seed(20, |seed| {
        let takes = if seed % 2 == 0 { Takes::Nothing } else { Takes::ByteEach(FLUSH_TIMEOUT * 2) };
        let (fate, took, _) = write_to(seed, 10, takes);
        assert!(took >= FLUSH_TIMEOUT && took < FLUSH_TIMEOUT + Duration::from_secs(5), "{took:?}");
        assert_eq!(fate.borrow().closed.len(), 1);
        assert!(fate.borrow().closed[0].contains("FlushTimeout"), "{fate:?}");
    });
}

/// Who waits for its peer has a vector that fits, whatever vectors are spare. (The simulated kernel takes offence at others.)
#[test]
fn a_few_bytes_do_not_wait_in_a_large_vector() {
    let (mut reactor, world) = prompt_reactor(4, 4096);
    let fate = Rc::<RefCell<Fate>>::default();
    for (bytes, takes) in [(1 << 20, Takes::Everything), (10, Takes::Nothing)] {
        world.borrow_mut().answering.push_back(Peer { takes, ..Peer::default() });
        reactor.connect(&StreamOptions::new(), &somewhere(), Writer { bytes, fate: fate.clone() });
        (0..20).for_each(|_| reactor.step(Some(Duration::ZERO)).unwrap());
    }
    assert_eq!((fate.borrow().opened, &fate.borrow().closed[..]), (2, &["Closed".to_owned()][..]));
    reactor.drain(Duration::ZERO).unwrap();
    assert_eq!(world.borrow().faults, Vec::<String>::new());
}

/// The time counts from the last progress: in all it takes much longer.
#[test]
fn a_peer_that_takes_a_little_now_and_then_gets_everything() {
    for_each_seed(20, |seed| {
        let (fate, took, world) = write_to(seed, 10, Takes::ByteEach(FLUSH_TIMEOUT / 2));
        assert!(took > FLUSH_TIMEOUT * 2, "{took:?}");
        assert_eq!(fate.borrow().closed, ["Closed"]);
        assert_eq!(world.borrow().gone.last().unwrap().received, [7; 10]);
    });
}

/// Peers that take nothing, send nothing and never go away, and cancellations that do not find their operation: a drain
/// still gets everything back.
#[test]
fn a_cancellation_that_found_nothing_is_repeated() {
    for_each_seed(100, |seed| {
        let mut rng = Rng::with_seed(seed);
        let world = Shared::default();
        // In a world where all goes well no accept ends by itself.
        let whims = Whims { prompt: rng.bool(), cancellations_lost: 200, ..Whims::of(&mut rng) };
        let mut reactor = over(Simulated::new(seed, world.clone(), 2, 10).with(whims));
        let fate = Rc::<RefCell<Fate>>::default();
        for _ in 0..rng.usize(1..4) {
            let takes = Takes::Nothing;
            world.borrow_mut().answering.push_back(Peer { echoes: true, takes, ..Peer::default() });
            reactor.connect(&StreamOptions::new(), &somewhere(), Writer { bytes: 10, fate: fate.clone() });
        }
        let path = std::env::temp_dir().join(format!("trochus-sim-again-{}-{seed}", std::process::id()));
        reactor.listen(path, |_| Writer { bytes: 0, fate: Rc::default() }).unwrap();
        for _ in 0..rng.usize(0..60) {
            reactor.step(Some(Duration::ZERO)).unwrap();
        }
        world.borrow_mut().silent = true;
        reactor.connect(&StreamOptions::new(), &somewhere(), Writer { bytes: 10, fate: fate.clone() });
        for _ in 0..rng.usize(0..10) {
            reactor.step(Some(Duration::ZERO)).unwrap();
        }
        reactor.drain(Duration::from_millis(rng.u64(0..50))).unwrap();
        assert_eq!(reactor.outstanding(), Outstanding::default());
        assert_eq!(world.borrow().faults, Vec::<String>::new());
    });
}

/// Connections that are refused, not answered, answered late or given up on the way; each handler hears of it once.
#[test]
fn connecting_ends_in_every_way_that_it_can() {
    for_each_seed(300, |seed| {
        let mut rng = Rng::with_seed(seed);
        let (mut reactor, world) = reactor(seed, &mut rng);
        let answered = rng.usize(0..5);
        for _ in 0..answered {
            let full = rng.usize(0..4);
            world.borrow_mut().answering.push_back(Peer { full, ..Peer::default() });
        }
        let fates: Vec<_> = (0..6).map(|_| Rc::<RefCell<Fate>>::default()).collect();
        let time_limit = Duration::from_millis(rng.u64(1..500));
        let options = [StreamOptions::new(), StreamOptions::new().connect_timeout(time_limit)];
        for fate in &fates {
            let options = &options[usize::from(rng.bool())];
            reactor.connect(options, &somewhere(), Writer { bytes: 3, fate: fate.clone() });
            if rng.bool() {
                reactor.step(Some(Duration::ZERO)).unwrap();
            }
        }
        world.borrow_mut().silent = rng.bool();
        let begun = reactor.driver.now();
        if rng.bool() {
            step_until(&mut reactor, |reactor| reactor.connections() == 0);
            assert!(reactor.driver.now() - begun < CONNECT_TIMEOUT * 2);
        } else {
            (0..rng.usize(0..30)).for_each(|_| reactor.step(Some(Duration::ZERO)).unwrap());
        }
        check_the_end(&mut reactor, &world);
        for fate in &fates {
            let fate = fate.borrow();
            assert_eq!(fate.closed.len(), 1, "{fate:?}");
            let failed = fate.closed[0].starts_with("ConnectFailed") || fate.closed[0] == "Shutdown";
            assert!(fate.opened == 1 || failed && fate.opened == 0, "{fate:?}");
        }
        assert!(fates.iter().filter(|fate| fate.borrow().opened == 1).count() <= answered);
    });
}

#[test]
fn a_connect_that_finds_no_room_is_tried_again() {
    for_each_seed(1, |seed| {
        let world = Shared::default();
        let mut reactor = over(Simulated::new(seed, world.clone(), 8, 100).with(Whims::PROMPT));
        world.borrow_mut().answering.push_back(Peer { full: 3, echoes: true, ..Peer::default() });
        let (options, fate) = (StreamOptions::new().connect_timeout(Duration::MAX), Rc::default());
        reactor.connect(&options, &somewhere(), Writer { bytes: 3, fate: Rc::clone(&fate) });
        step_until(&mut reactor, |reactor| reactor.connections() == 0);
        assert_eq!(fate.borrow().opened, 1, "{fate:?}");
    });
}

/// A driver that fails for good: the reactor says so, and what it has is given back all the same.
#[test]
fn a_wait_that_fails_is_told_and_nothing_is_kept() {
    for_each_seed(300, |seed| {
        let mut rng = Rng::with_seed(seed);
        let (mut reactor, world) = reactor(seed, &mut rng);
        let fates: Vec<_> = (0..4).map(|_| Rc::<RefCell<Fate>>::default()).collect();
        for fate in &fates {
            world.borrow_mut().answering.push_back(Peer { echoes: true, ..Peer::default() });
            reactor.connect(&StreamOptions::new(), &somewhere(), Writer { bytes: 9, fate: fate.clone() });
        }
        world.borrow_mut().breaks_after = Some(rng.usize(1..40));
        let mut result = Ok(());
        for _ in 0..10_000 {
            result = reactor.step(Some(Duration::from_millis(1)));
            if result.is_err() {
                break;
            }
        }
        assert!(result.unwrap_err().to_string().contains("wait for completions"));
        drop(reactor);
        assert!(fates.iter().all(|fate| fate.borrow().closed.len() <= 1));
    });
}

/// Hands itself over again so many times.
fn again(handle: ReactorHandle, times: usize, done: Arc<AtomicUsize>) {
    let next = handle.clone();
    let action = move |_: &mut Reactor| {
        done.fetch_add(1, Ordering::Relaxed);
        if times > 1 {
            again(next, times - 1, done);
        }
    };
    // Once the reactor has ended nobody takes it.
    let _ = handle.run(action);
}

#[test]
fn what_was_handed_over_before_the_end_is_done_and_the_end_comes() {
    for (times, most) in [(1, 1), (5, 5), (usize::MAX, 1000)] {
        let (mut reactor, _world) = prompt_reactor(1, 100);
        let done = Arc::<AtomicUsize>::default();
        again(reactor.handle(), times, done.clone());
        reactor.drain(Duration::from_secs(3600)).unwrap();
        let done = done.load(Ordering::Relaxed);
        assert!(done == times || times > most && (5..most).contains(&done), "{done} of {times}");
    }
}
