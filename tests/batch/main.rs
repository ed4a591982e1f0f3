//! The batcher as its users see it. Here: that everything arrives, once and in order. `waiting` is about when, `syncing` about who is
//! told, `ending` about the end, whether it was wanted or not.

mod ending;
mod syncing;
mod waiting;

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use trochus::batch::{Batcher, BatcherBuilder, Consumer, Producer, PushError, sleep_barrier};

/// Longer than any machine needs, shorter than anybody waits.
const DEADLINE: Duration = Duration::from_secs(60);
/// A linger that no test outlives.
const FOREVER: Duration = Duration::from_secs(3_600);

/// Runs a test that would otherwise hang for ever if it failed.
fn in_time<R: Send + 'static>(test: impl FnOnce() -> R + Send + 'static) -> R {
    let (done, result) = mpsc::channel();
    let running = thread::spawn(move || done.send(test()).unwrap());
    match result.recv_timeout(DEADLINE) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("still waiting after {DEADLINE:?}"),
        Err(mpsc::RecvTimeoutError::Disconnected) => std::panic::resume_unwind(running.join().unwrap_err()),
    }
}

/// A batcher whose batches arrive at a channel.
fn collecting<T: Send + 'static>(builder: BatcherBuilder<T>) -> (Batcher<T>, mpsc::Receiver<Vec<T>>) {
    let (batches, received) = mpsc::channel();
    let batcher = builder.spawn(move |items| batches.send(std::mem::take(items)).unwrap()).unwrap();
    (batcher, received)
}

/// Who pushed an item, and its number among theirs.
type Item = (usize, usize);

/// Every item once, each producer's in order.
fn assert_complete(received: &[Item], counts: &[usize]) {
    let mut next = vec![0; counts.len()];
    for (producer, number) in received {
        assert_eq!(*number, next[*producer], "producer {producer} out of order, or an item lost or repeated");
        next[*producer] += 1;
    }
    assert_eq!(next, counts);
}

fn stress(builder: BatcherBuilder<Item>, lanes: usize, sharing: usize, items: usize, batch: usize) {
    let (batcher, received) = collecting(builder);
    let start = Barrier::new(lanes + sharing);
    thread::scope(|scope| {
        for number in 0..lanes {
            let (mut producer, start) = (batcher.producer(), &start);
            scope.spawn(move || {
                start.wait();
                producer.push_all((0..items).map(|item| (number, item))).unwrap();
            });
        }
        for number in lanes..lanes + sharing {
            let (batcher, start) = (&batcher, &start);
            scope.spawn(move || {
                start.wait();
                batcher.push_all((0..items).map(|item| (number, item))).unwrap();
            });
        }
    });
    batcher.close().unwrap();
    let stats = batcher.stats();
    drop(batcher);
    let batches: Vec<Vec<Item>> = received.iter().collect();
    assert!(batches.iter().all(|items| (1..=batch).contains(&items.len())));
    assert_eq!(stats.batches, batches.len() as u64);
    assert_eq!(stats.items, ((lanes + sharing) * items) as u64);
    assert_complete(&batches.concat(), &vec![items; lanes + sharing]);
}

#[test]
fn nothing_is_lost_repeated_or_reordered() {
    in_time(|| stress(Batcher::builder().batch(100), 4, 4, 50_000, 100));
}

#[test]
fn tiny_lanes_make_everybody_wait_for_everybody() {
    in_time(|| stress(Batcher::builder().batch(3).lane(1), 3, 5, 2_000, 3));
}

#[test]
fn many_more_threads_than_processors() {
    in_time(|| stress(Batcher::builder().batch(1_000).lane(64), 100, 100, 500, 1_000));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn nothing_is_lost_whatever_the_options(
        batch in 1_usize..300,
        buffers in 0_usize..6,
        lane in proptest::option::of(0_usize..200),
        linger_us in 0_u64..3_000,
        lanes in 0_usize..5,
        sharing in 0_usize..5,
        items in 0_usize..700,
    ) {
        in_time(move || {
            let mut builder =
                Batcher::builder().batch(batch).buffers(buffers).linger(Duration::from_micros(linger_us));
            if let Some(lane) = lane {
                builder = builder.lane(lane);
            }
            stress(builder, lanes, sharing, items, batch);
        });
    }
}

/// Whoever drains fewer than there was room for has seen every lane empty.
#[test]
fn a_round_passes_over_no_lane_because_others_end() {
    for first in 0..6 {
        for ended in 0..1 << 6 {
            let (batcher, mut consumer) = Batcher::builder().build();
            let mut producers: Vec<_> = (0..6).map(|_| Some(batcher.producer())).collect();
            let push = |producer: &mut Option<Producer<_>>| {
                if let Some(producer) = producer {
                    producer.push(()).unwrap();
                }
            };
            // The next round begins somewhere.
            producers.iter_mut().take(first).for_each(push);
            assert_eq!(consumer.drain(first, |()| ()), first);
            for (n, producer) in producers.iter_mut().enumerate() {
                if ended >> n & 1 == 1 {
                    *producer = None;
                }
            }
            producers.iter_mut().for_each(push);
            let left = producers.iter().flatten().count();
            assert_eq!(consumer.drain(7, |()| ()), left, "from {first}, without {ended:b}");
        }
    }
}
