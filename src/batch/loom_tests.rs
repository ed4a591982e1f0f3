//! Every interleaving that the memory model allows, of small runs of the real code.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release --lib batch::loom_tests`. What passes the barrier is explored both ways: where both
//! sides fence, and where pushes do not (with a fence in the place where the kernel's interrupt makes one of it).

use loom::thread;

use super::lane::Room;
use super::lane::barrier;
use super::lane::ring::{Growth, Writer, lane};
use super::sync::{Arc, AtomicUsize, Ordering, current, park};
use super::*;

/// Explores every interleaving with at most so many involuntary switches between threads: most bugs need two, and
/// the whole run shall take less than a minute.
fn model(switches: usize, run: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(switches);
    builder.check(run);
}

/// As `model`, with each kind of barrier.
fn model_each_barrier(switches: usize, run: impl Fn() + Clone + Send + Sync + 'static) {
    for asymmetric in [false, true] {
        let run = run.clone();
        model(switches, move || {
            barrier::imp::set_asymmetric(asymmetric);
            run();
        });
    }
    barrier::imp::set_asymmetric(false);
}

/// Writes as a producer does.
fn write<T>(writer: &mut Writer<T>, item: T) -> Result<(), T> {
    let item = match writer.try_write(item) {
        Ok(()) => return Ok(()),
        Err(item) => item,
    };
    loop {
        match writer.make_room(0) {
            Room::Ready => return writer.try_write(item),
            Room::Grow(slots) => writer.grow(&mut Growth::new(slots)),
            Room::Full => return Err(item),
        }
    }
}

/// An item that counts how often it was dropped.
struct Counted(usize, std::sync::Arc<std::sync::atomic::AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn a_lane_keeps_order_while_it_grows_and_wraps() {
    model(3, || {
        let (mut writer, mut reader) = lane(2, None);
        let pushing =
            thread::spawn(move || (1..=4).take_while(|item| write(&mut writer, *item).is_ok()).count());
        let mut taken = Vec::new();
        for _ in 0..2 {
            reader.drain_runs(2, &mut |run| run.append_to(&mut taken));
        }
        let written = pushing.join().unwrap();
        assert!(written >= 2);
        reader.drain_runs(usize::MAX, &mut |run| taken.extend(run));
        assert_eq!(taken, (1..=written).collect::<Vec<_>>());
        assert!(reader.is_exhausted());
    });
}

#[test]
fn a_lane_dropped_by_both_ends_drops_each_item_once() {
    model(3, || {
        let drops = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = |n| Counted(n, drops.clone());
        let (mut writer, mut reader) = lane(4, None);
        let items = [counted(1), counted(2), counted(3)];
        let pushing = thread::spawn(move || {
            items.into_iter().for_each(|item| drop(write(&mut writer, item)));
        });
        reader.drain_runs(2, &mut |mut run| assert!(run.next().is_some_and(|item| item.0 <= 3)));
        drop(reader);
        pushing.join().unwrap();
        assert_eq!(drops.load(std::sync::atomic::Ordering::Relaxed), 3);
    });
}

#[test]
fn a_sleeping_consumer_is_woken() {
    model_each_barrier(3, || {
        let (batcher, mut consumer) = Batcher::builder().lane(2).build();
        let mut producer = batcher.producer();
        let pushing = thread::spawn(move || {
            producer.push(1).unwrap();
            producer
        });
        let mut taken = Vec::new();
        assert_eq!(consumer.recv(&mut taken), 1);
        assert_eq!(taken, [1]);
        drop((batcher, pushing.join().unwrap()));
        assert_eq!(consumer.recv(&mut taken), 0);
    });
}

#[test]
fn a_dropped_producer_wakes_the_consumer() {
    model_each_barrier(3, || {
        let (batcher, mut consumer) = Batcher::<usize>::builder().lane(2).build();
        let producer = batcher.producer();
        drop(batcher);
        let dropping = thread::spawn(move || drop(producer));
        assert_eq!(consumer.recv(&mut Vec::new()), 0);
        dropping.join().unwrap();
    });
}

#[test]
fn a_full_lane_is_waited_for() {
    model_each_barrier(3, || {
        let (batcher, mut consumer) = Batcher::builder().lane(1).build();
        let mut producer = batcher.producer();
        producer.push(1).unwrap();
        let pushing = thread::spawn(move || {
            producer.push(2).unwrap();
            producer
        });
        let mut taken = Vec::new();
        while consumer.drain(1, |item| taken.push(item)) > 0 {}
        let producer = pushing.join().unwrap();
        consumer.drain(1, |item| taken.push(item));
        assert_eq!(taken, [1, 2]);
        drop((batcher, producer));
    });
}

/// A lane that comes while the consumer is at another one is not passed over by the space that is freed there.
#[test]
fn a_full_lane_that_is_new_is_waited_for() {
    model_each_barrier(2, || {
        let (batcher, mut consumer) = Batcher::builder().lane(1).build();
        let mut producer = batcher.producer();
        producer.push(1).unwrap();
        let other = batcher.clone();
        let pushing = thread::spawn(move || {
            let mut late = other.producer();
            late.push_all([2, 3]).unwrap();
            late
        });
        let mut taken = Vec::new();
        while taken.len() < 3 {
            consumer.recv(&mut taken);
        }
        taken.sort_unstable();
        assert_eq!(taken, [1, 2, 3]);
        drop((batcher, producer, pushing.join().unwrap()));
    });
}

#[test]
fn a_push_against_a_close_is_delivered_or_handed_back() {
    model_each_barrier(2, || {
        let (batcher, mut consumer) = Batcher::builder().lane(2).build();
        let mut producer = batcher.producer();
        let pushing = thread::spawn(move || match producer.push(7) {
            Ok(()) => true,
            Err(error) => {
                assert_eq!(error.into_item(), 7);
                false
            }
        });
        let stopping = thread::spawn(move || batcher.stop_accepting());
        let mut taken = Vec::new();
        while consumer.recv(&mut taken) > 0 {}
        assert_eq!(pushing.join().unwrap(), taken == [7]);
        stopping.join().unwrap();
    });
}

#[test]
fn an_event_loop_is_notified_of_what_it_did_not_see() {
    model_each_barrier(3, || {
        let notified = Arc::new(AtomicUsize::new(0));
        let looping = current();
        let count = notified.clone();
        let (batcher, mut consumer) =
            Batcher::builder().lane(2).build_with_notify(std::sync::Arc::new(move || {
                count.fetch_add(1, Ordering::Release);
                looping.unpark();
            }));
        let mut producer = batcher.producer();
        let pushing = thread::spawn(move || {
            producer.push(1).unwrap();
            producer
        });
        while consumer.drain(8, |item| assert_eq!(item, 1)) == 0 {
            consumer.prepare_sleep();
            sleep_barrier();
            if consumer.is_ready() {
                consumer.cancel_sleep();
            } else {
                while notified.load(Ordering::Acquire) == 0 {
                    park();
                }
            }
        }
        let producer = pushing.join().unwrap();
        assert!(notified.load(Ordering::Relaxed) <= 1);
        drop((producer, batcher));
    });
}

#[test]
fn a_failing_consumer_gives_everything_back() {
    model_each_barrier(2, || {
        let (batcher, mut consumer) = Batcher::builder().batch(1).lane(1).build();
        let mut producer = batcher.producer();
        let pushing = thread::spawn(move || {
            let mut back = Vec::new();
            back.extend((1..=2).filter_map(|item| producer.push(item).err()).map(PushError::into_item));
            back
        });
        let mut taken = Vec::new();
        consumer.recv(&mut taken);
        consumer.fail("disk full", taken);
        let mut all = batcher.close().unwrap_err().into_undelivered();
        all.extend(pushing.join().unwrap());
        assert_eq!(all, [1, 2]);
    });
}

/// The lane is new as well: it is found, or its producer accepts nothing.
#[test]
fn a_new_lane_against_a_close_is_found_or_refuses() {
    model_each_barrier(2, || {
        let (batcher, mut consumer) = Batcher::builder().lane(2).build();
        let pushing = thread::spawn({
            let batcher = batcher.clone();
            move || match batcher.producer().push(1) {
                Ok(()) => true,
                Err(error) => {
                    assert_eq!(error.into_item(), 1);
                    false
                }
            }
        });
        batcher.stop_accepting();
        let mut taken = Vec::new();
        while consumer.drain(2, |item| taken.push(item)) > 0 {}
        assert!(consumer.is_finished());
        assert_eq!(pushing.join().unwrap(), taken == [1]);
    });
}

#[test]
fn a_shared_push_wakes_a_sleeping_consumer() {
    model_each_barrier(2, || {
        let (batcher, mut consumer) = Batcher::builder().lane(2).build();
        let other = batcher.clone();
        let pushing = thread::spawn(move || {
            other.push(1).unwrap();
            other
        });
        assert_eq!(consumer.recv(&mut Vec::new()), 1);
        drop((batcher, pushing.join().unwrap()));
    });
}

const FOREVER: std::time::Duration = std::time::Duration::from_secs(3_600);

/// What was pushed before a flush leaves, whenever the consumer looked; or it would linger for ever.
#[test]
fn a_flush_ends_a_linger() {
    model_each_barrier(2, || {
        let (batcher, mut consumer) = Batcher::builder().batch(9).lane(4).linger(FOREVER).build();
        let mut producer = batcher.producer();
        let pushing = thread::spawn(move || {
            producer.push(1).unwrap();
            producer.flush();
            producer
        });
        let mut taken = Vec::new();
        assert_eq!(consumer.recv(&mut taken), 1);
        assert_eq!(taken, [1]);
        drop((batcher, pushing.join().unwrap()));
    });
}

/// A part of a batch lingers until the rest of it is there, and then leaves by itself.
#[test]
fn a_full_batch_ends_a_linger() {
    model_each_barrier(2, || {
        let (batcher, mut consumer) = Batcher::builder().batch(2).lane(4).linger(FOREVER).build();
        let mut producer = batcher.producer();
        producer.push(1).unwrap();
        let pushing = thread::spawn(move || {
            producer.push(2).unwrap();
            producer
        });
        let mut taken = Vec::new();
        assert_eq!(consumer.recv(&mut taken), 2);
        assert_eq!(taken, [1, 2]);
        drop((batcher, pushing.join().unwrap()));
    });
}

/// As above, but what fills the batch comes in a lane that the consumer did not know when it fell asleep.
#[test]
fn a_new_lane_ends_a_linger() {
    model_each_barrier(2, || {
        let (batcher, mut consumer) = Batcher::builder().batch(3).lane(4).linger(FOREVER).build();
        let mut producer = batcher.producer();
        producer.push(1).unwrap();
        let other = batcher.clone();
        let pushing = thread::spawn(move || {
            producer.push(2).unwrap();
            let mut late = other.producer();
            late.push(3).unwrap();
            (producer, late)
        });
        let mut taken = Vec::new();
        assert_eq!(consumer.recv(&mut taken), 3);
        taken.sort_unstable();
        assert_eq!(taken, [1, 2, 3]);
        drop((batcher, pushing.join().unwrap()));
    });
}

/// Who waits for a sync is told, whether the consumer slept, and never too early.
#[test]
fn a_sync_is_told_when_the_consumer_comes_back() {
    model_each_barrier(2, || {
        let (batcher, mut consumer) = Batcher::builder().lane(2).build();
        let dealt_with = Arc::new(AtomicUsize::new(0));
        let seen = dealt_with.clone();
        let syncing = thread::spawn(move || {
            batcher.push(1).unwrap();
            batcher.sync().unwrap();
            assert_eq!(seen.load(Ordering::Relaxed), 1);
        });
        let mut taken = Vec::new();
        while consumer.recv(&mut taken) > 0 {
            dealt_with.store(taken.len(), Ordering::Relaxed);
        }
        syncing.join().unwrap();
    });
}

#[test]
fn who_closes_is_told_of_the_end() {
    model(3, || {
        let (batcher, mut consumer) = Batcher::<usize>::builder().lane(2).build();
        let closing = thread::spawn(move || batcher.close().unwrap());
        while consumer.recv(&mut Vec::new()) > 0 {}
        closing.join().unwrap();
    });
}
