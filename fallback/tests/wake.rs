//! Waking a wait, and holding a proactor in another selector.

mod common;

use common::{DEADLINE, Harness, KINDS, Kind, harness, pair};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn a_wake_before_the_wait_counts() {
    let mut harness = harness(1);
    for _ in 0..3 {
        let waker = harness.proactor.waker();
        waker.wake().unwrap();
        waker.clone().wake().unwrap();
        assert_eq!(harness.wait(None), 0);
    }
}

#[test]
fn a_wake_ends_a_wait_on_another_thread() {
    let mut harness = harness(1);
    let waker = harness.proactor.waker();
    let (sleeps, woken) = std::sync::mpsc::channel();
    let thread = thread::spawn(move || {
        for () in woken {
            waker.wake().unwrap();
        }
    });
    for _ in 0..100 {
        sleeps.send(()).unwrap();
        harness.wait(None);
    }
    drop(sleeps);
    thread.join().unwrap();
}

/// Many threads count up and wake. Were a wake lost after which nobody wakes again, the wait would reach its
/// deadline with something uncounted.
#[test]
fn no_wake_of_a_storm_is_lost() {
    const THREADS: usize = 4;
    const WAKES: usize = 5_000;
    let mut harness = harness(1);
    let count = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            let waker = harness.proactor.waker();
            let count = &count;
            scope.spawn(move || {
                for _ in 0..WAKES {
                    count.fetch_add(1, Ordering::SeqCst);
                    waker.wake().unwrap();
                }
            });
        }
        let mut seen = 0;
        while seen < THREADS * WAKES {
            let start = Instant::now();
            harness.wait(Some(DEADLINE));
            assert!(start.elapsed() < DEADLINE, "a wake was lost after {seen}");
            seen = count.load(Ordering::SeqCst);
        }
    });
}

#[test]
fn completions_arrive_through_a_storm_of_wakes() {
    let mut harness = harness(4);
    let (socket, mut peer) = pair(Kind::Tcp);
    let fd = harness.attach(socket);
    harness.proactor.receive(fd, 1);
    let waker = harness.proactor.waker();
    let writer = thread::spawn(move || {
        for byte in 0..2_000 {
            waker.wake().unwrap();
            peer.write_all(&[byte as u8]).unwrap();
        }
        peer
    });
    let expected: Vec<u8> = (0..2_000).map(|byte| byte as u8).collect();
    assert_eq!(harness.gather(2_000), expected);
    drop(writer.join().unwrap());
}

#[test]
fn a_waker_outlives_its_proactor() {
    let waker = harness(1).proactor.waker();
    waker.wake().unwrap();
}

#[test]
fn a_wait_ends_with_its_timeout() {
    let mut harness = harness(1);
    let start = Instant::now();
    assert_eq!(harness.wait(Some(Duration::from_millis(20))), 0);
    assert!(start.elapsed() >= Duration::from_millis(20));
}

struct Outer(Poll);

impl Outer {
    fn holding(harness: &Harness) -> Self {
        let poll = Poll::new().unwrap();
        let fd = harness.proactor.as_raw_fd();
        poll.registry().register(&mut SourceFd(&fd), Token(0), Interest::READABLE).unwrap();
        Self(poll)
    }

    fn sees_something(&mut self, timeout: Duration) -> bool {
        let mut events = Events::with_capacity(1);
        self.0.poll(&mut events, Some(timeout)).unwrap();
        !events.is_empty()
    }
}

#[test]
fn an_outer_selector_sees_readiness_and_wakes() {
    for kind in KINDS {
        let mut harness = harness(4);
        let (socket, mut peer) = pair(kind);
        let fd = harness.attach(socket);
        harness.proactor.receive(fd, 1);
        assert!(harness.proactor.has_work(), "what was submitted has to be tried before anyone sleeps");
        harness.assert_quiet();
        let mut outer = Outer::holding(&harness);
        assert!(!outer.sees_something(Duration::ZERO));
        for _ in 0..3 {
            peer.write_all(b"x").unwrap();
            assert!(outer.sees_something(DEADLINE));
            assert_eq!(harness.gather(1), b"x");
            harness.assert_quiet();
            harness.proactor.waker().wake().unwrap();
            assert!(outer.sees_something(DEADLINE));
            harness.assert_quiet();
            assert!(!outer.sees_something(Duration::ZERO));
        }
    }
}

/// Deadlines of the layers above are not late by a millisecond each. The best of many, for a busy machine adds to the others.
#[test]
fn a_short_timeout_is_not_rounded_up() {
    const TIMEOUT: Duration = Duration::from_micros(50);
    let mut harness = harness(1);
    let best = (0..2_000)
        .map(|_| {
            let start = Instant::now();
            harness.wait(Some(TIMEOUT));
            start.elapsed()
        })
        .inspect(|slept| assert!(*slept >= TIMEOUT, "{slept:?}"))
        .take_while(|slept| *slept >= Duration::from_micros(900))
        .count();
    assert!(best < 2_000, "each of them took a millisecond");
}

#[test]
fn a_short_sleep_finds_what_ended_it() {
    let mut harness = harness(1);
    let (socket, mut peer) = pair(Kind::Unix);
    let fd = harness.attach(socket);
    harness.proactor.receive(fd, 1);
    harness.assert_quiet();
    for _ in 0..100 {
        peer.write_all(&[7]).unwrap();
        assert_eq!(harness.wait(Some(Duration::from_millis(9))), 1);
        assert_eq!(harness.gather(1), [7]);
        harness.assert_quiet();
    }
}
