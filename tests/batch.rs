//! The batcher as its users see it.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use trochus::batch::{Batcher, BatcherBuilder, Consumer, PushError, sleep_barrier};

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

// Back-pressure.

#[test]
fn a_full_lane_refuses_waits_and_goes_on() {
    in_time(|| {
        let (batcher, mut consumer) = Batcher::builder().lane(4).build();
        let mut producer = batcher.producer();
        assert_eq!((0..9).take_while(|item| producer.try_push(*item).is_ok()).count(), 4);
        assert_eq!(producer.try_push(4), Err(PushError::Full(4)));
        let pushed = Arc::new(AtomicUsize::new(4));
        let count = pushed.clone();
        let pushing = thread::spawn(move || {
            for item in 4..20 {
                producer.push(item).unwrap();
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        let mut taken = Vec::new();
        while taken.len() < 20 {
            // However long it runs, it is never further ahead than the lane is long.
            assert!(pushed.load(Ordering::SeqCst) <= taken.len() + 4);
            consumer.drain(1, |item| taken.push(item));
        }
        pushing.join().unwrap();
        assert_eq!(taken, (0..20).collect::<Vec<_>>());
    });
}

#[test]
fn everybody_who_waits_on_the_shared_handle_is_woken() {
    in_time(|| {
        let (batcher, mut consumer) = Batcher::builder().lane(1).build();
        let mut taken = Vec::new();
        thread::scope(|scope| {
            for item in 0..40 {
                let batcher = &batcher;
                scope.spawn(move || batcher.push(item).unwrap());
            }
            while taken.len() < 40 {
                consumer.drain(usize::MAX, |item| taken.push(item));
            }
        });
        taken.sort_unstable();
        assert_eq!(taken, (0..40).collect::<Vec<_>>());
    });
}

// When a batch leaves.

#[test]
fn an_idle_consumer_takes_what_there_is() {
    in_time(|| {
        let (batcher, received) = collecting(Batcher::builder().batch(1_000));
        batcher.push(7).unwrap();
        assert_eq!(received.recv().unwrap(), [7]);
    });
}

#[test]
fn a_lingering_batch_leaves_when_it_is_full() {
    in_time(|| {
        let (batcher, received) = collecting(Batcher::builder().batch(12).linger(FOREVER));
        let mut producers: Vec<_> = (0..3).map(|_| batcher.producer()).collect();
        for producer in &mut producers {
            producer.push_all(0..4).unwrap();
        }
        assert_eq!(received.recv().unwrap().len(), 12);
    });
}

#[test]
fn a_lingering_batch_leaves_in_time() {
    in_time(|| {
        let (batcher, received) =
            collecting(Batcher::builder().batch(1_000).linger(Duration::from_millis(5)));
        for item in 0..3 {
            batcher.push(item).unwrap();
            assert_eq!(received.recv().unwrap(), [item]);
        }
    });
}

#[test]
fn flush_and_close_end_a_linger() {
    in_time(|| {
        let (batcher, received) = collecting(Batcher::builder().batch(1_000).linger(FOREVER));
        let mut producer = batcher.producer();
        producer.push_all([1, 2, 3]).unwrap();
        producer.flush();
        let mut flushed = Vec::new();
        while flushed.len() < 3 {
            flushed.extend(received.recv().unwrap());
        }
        assert_eq!(flushed, [1, 2, 3]);
        batcher.push(4).unwrap();
        batcher.close().unwrap();
        assert_eq!(received.recv().unwrap(), [4]);
    });
}

#[test]
fn a_full_lane_ends_a_linger_that_no_batch_would() {
    in_time(|| {
        let (batcher, received) = collecting(Batcher::builder().batch(64).lane(8).linger(FOREVER));
        batcher.push_all(0..64).unwrap();
        assert_eq!(received.recv().unwrap(), (0..64).collect::<Vec<_>>());
    });
}

// The end.

#[test]
fn close_against_pushes_accounts_for_every_item() {
    in_time(|| {
        for round in 0..if cfg!(miri) { 10 } else { 100 } {
            let (batcher, received) = collecting(Batcher::builder().batch(16).lane(16));
            let start = Barrier::new(5);
            let counts: Vec<usize> = thread::scope(|scope| {
                let pushing = [0, 1, 2, 3].map(|number| {
                    let (batcher, start) = (&batcher, &start);
                    scope.spawn(move || {
                        let mut producer = batcher.producer();
                        start.wait();
                        let mut push =
                            |item| if number < 2 { producer.push(item) } else { batcher.push(item) };
                        (0..)
                            .take_while(|item| match push((number, *item)) {
                                Ok(()) => true,
                                Err(error) => {
                                    assert_eq!(error, PushError::Closed((number, *item)));
                                    false
                                }
                            })
                            .count()
                    })
                });
                start.wait();
                (0..round * 20).for_each(|_| std::hint::spin_loop());
                batcher.close().unwrap();
                pushing.map(|pushing| pushing.join().unwrap()).to_vec()
            });
            drop(batcher);
            assert_complete(&received.iter().flatten().collect::<Vec<_>>(), &counts);
        }
    });
}

#[test]
fn after_close_items_come_back() {
    in_time(|| {
        let (batcher, received) = collecting(Batcher::builder());
        let mut early = batcher.producer();
        early.push("early").unwrap();
        batcher.close().unwrap();
        batcher.clone().close().unwrap();
        assert!(batcher.is_closed());
        assert_eq!(early.push("late"), Err(PushError::Closed("late")));
        assert_eq!(batcher.producer().push("later").unwrap_err().into_item(), "later");
        assert_eq!(batcher.push("last"), Err(PushError::Closed("last")));
        drop(batcher);
        assert_eq!(received.recv().unwrap(), ["early"]);
        assert!(received.recv().is_err(), "the thread has ended");
    });
}

#[test]
fn the_last_sender_ends_the_consumer() {
    in_time(|| {
        let (batcher, received) = collecting(Batcher::builder().linger(FOREVER));
        let mut producer = batcher.producer();
        drop(batcher.clone());
        drop(batcher);
        producer.push_all(0..10).unwrap();
        drop(producer);
        assert_eq!(received.iter().flatten().collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    });
}

#[test]
fn producers_that_come_and_go_lose_nothing() {
    in_time(|| {
        let (batcher, received) = collecting(Batcher::builder().batch(10));
        for item in 0..500 {
            batcher.producer().push(item).unwrap();
            drop(batcher.producer()); // and one that never pushes
        }
        batcher.close().unwrap();
        drop(batcher);
        let mut items: Vec<i32> = received.iter().flatten().collect();
        items.sort_unstable();
        assert_eq!(items, (0..500).collect::<Vec<_>>());
    });
}

#[test]
fn close_in_the_consumers_own_closure_does_not_wait_for_itself() {
    in_time(|| {
        let (handle, handed) = mpsc::channel::<Batcher<u32>>();
        let mut own = None;
        let batcher = Batcher::builder()
            .spawn(move |_: &mut Vec<u32>| own.get_or_insert_with(|| handed.recv().unwrap()).close())
            .unwrap();
        handle.send(batcher.clone()).unwrap();
        batcher.push(1).unwrap();
        batcher.close().unwrap();
    });
}

// Failure.

#[test]
fn a_failed_batch_comes_back_with_its_error_and_what_followed() {
    in_time(|| {
        let (go, gate) = mpsc::channel::<()>();
        let written = Arc::new(Mutex::new(Vec::new()));
        let disk = written.clone();
        let batcher = Batcher::builder()
            .batch(4)
            .lane(64)
            .spawn(move |items: &mut Vec<i32>| {
                gate.recv().unwrap();
                for item in items.extract_if(.., |item| *item < 6) {
                    disk.lock().unwrap().push(item);
                }
                if items.is_empty() { Ok(()) } else { Err(std::io::Error::other("disk full")) }
            })
            .unwrap();
        let mut producer = batcher.producer();
        producer.push_all(0..20).unwrap();
        (0..20).for_each(|_| go.send(()).unwrap_or_default());
        let failure = batcher.close().unwrap_err();
        assert_eq!(failure.source().unwrap().to_string(), "disk full");
        assert!(failure.to_string().contains("14 items"), "{failure}");
        assert_eq!(*written.lock().unwrap(), (0..6).collect::<Vec<_>>());
        assert_eq!(failure.into_undelivered(), (6..20).collect::<Vec<_>>());
        assert_eq!(producer.push(20), Err(PushError::Failed(20)));
        let again = batcher.close().unwrap_err();
        assert_eq!((again.undelivered(), again.cause().to_string()), (&[][..], "disk full".to_owned()));
    });
}

#[test]
fn a_panic_is_a_failure() {
    in_time(|| {
        let refuse = |items: &mut Vec<i32>| assert!(items.is_empty(), "cannot write {items:?}");
        let batcher = Batcher::builder().spawn(refuse).unwrap();
        batcher.push(5).unwrap();
        let failure = batcher.close().unwrap_err();
        assert_eq!(failure.cause().to_string(), "panicked: cannot write [5]");
        assert_eq!(failure.undelivered(), [5]);
    });
}

#[test]
fn those_who_wait_get_their_item_back_when_the_consumer_fails() {
    in_time(|| {
        let (batcher, mut consumer) = Batcher::builder().lane(2).build();
        let (mut producer, shared) = (batcher.producer(), batcher.clone());
        // Both push until they are refused, which the lanes see to: nobody takes more than one item.
        let own = thread::spawn(move || producer.push_all((0..).map(|item| (0, item))));
        let sharing = thread::spawn(move || shared.push_all((0..).map(|item| (1, item))));
        let mut taken: Vec<Item> = Vec::new();
        while taken.is_empty() {
            consumer.drain(1, |item| taken.push(item));
        }
        consumer.fail("gone", taken);
        let counts = [own, sharing].map(|pushing| match pushing.join().unwrap() {
            Err(PushError::Failed((_, item))) => item,
            other => panic!("{other:?}"),
        });
        assert_complete(batcher.close().unwrap_err().undelivered(), &counts);
    });
}

#[test]
fn a_consumer_dropped_early_is_a_failure() {
    in_time(|| {
        let (batcher, consumer) = Batcher::builder().build();
        batcher.push(1).unwrap();
        drop(consumer);
        assert_eq!(batcher.push(2), Err(PushError::Failed(2)));
        assert_eq!(batcher.close().unwrap_err().into_undelivered(), [1]);
    });
}

/// Counts its drops.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn every_item_is_dropped_once() {
    in_time(|| {
        let drops = Arc::new(AtomicUsize::new(0));
        let counted = || Counted(drops.clone());
        // Delivered and left in the vector.
        let batcher = Batcher::builder().spawn(|_: &mut Vec<Counted>| ()).unwrap();
        batcher.push_all((0..300).map(|_| counted())).unwrap();
        batcher.close().unwrap();
        assert_eq!(drops.swap(0, Ordering::SeqCst), 300);
        // Never delivered, the failure never asked for.
        let (batcher, mut consumer) = Batcher::builder().build();
        let mut producer = batcher.producer();
        producer.push_all((0..200).map(|_| counted())).unwrap();
        batcher.push_all((0..100).map(|_| counted())).unwrap();
        assert_eq!(consumer.drain(50, drop), 50);
        assert_eq!(drops.load(Ordering::SeqCst), 50);
        drop(consumer);
        assert!(producer.push(counted()).is_err());
        assert_eq!(drops.load(Ordering::SeqCst), 51);
        drop((batcher, producer));
        assert_eq!(drops.load(Ordering::SeqCst), 301);
    });
}

// Futures.

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn poll<F: Future + Unpin>(future: &mut F, woken: &Arc<Woken>) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(&Waker::from(woken.clone())))
}

fn a_future_waits_for_space(batcher: &Batcher<i32>, consumer: &mut Consumer<i32>) {
    let woken = Arc::<Woken>::default();
    assert_eq!(poll(&mut batcher.push_async(1), &woken), Poll::Ready(Ok(())));
    let mut second = batcher.push_async(2);
    assert!(poll(&mut second, &woken).is_pending());
    assert!(!woken.0.load(Ordering::SeqCst));
    assert_eq!(consumer.drain(9, |item| assert_eq!(item, 1)), 1);
    assert!(woken.0.load(Ordering::SeqCst));
    assert_eq!(poll(&mut second, &woken), Poll::Ready(Ok(())));
}

#[test]
fn a_future_is_woken_cancelled_and_closed() {
    in_time(|| {
        let (batcher, mut consumer) = Batcher::builder().lane(1).build();
        a_future_waits_for_space(&batcher, &mut consumer);
        // Cancelled: the item is still there, and the turn goes to the next in the queue.
        let (first, second) = (Arc::<Woken>::default(), Arc::<Woken>::default());
        let (mut cancelled, mut next) = (batcher.push_async(3), batcher.push_async(4));
        assert!(poll(&mut cancelled, &first).is_pending());
        assert!(poll(&mut next, &second).is_pending());
        consumer.drain(9, |item| assert_eq!(item, 2));
        assert!(first.0.load(Ordering::SeqCst) && !second.0.load(Ordering::SeqCst));
        assert_eq!(cancelled.into_item(), Some(3));
        assert!(second.0.load(Ordering::SeqCst));
        assert_eq!(poll(&mut next, &second), Poll::Ready(Ok(())));
        // Closed while it waits.
        let mut producer = batcher.producer();
        producer.push(5).unwrap();
        let woken = Arc::<Woken>::default();
        let mut late = producer.push_async(6);
        assert!(poll(&mut late, &woken).is_pending());
        batcher.stop_accepting();
        assert!(!consumer.is_finished());
        assert!(woken.0.load(Ordering::SeqCst));
        assert_eq!(poll(&mut late, &woken), Poll::Ready(Err(PushError::Closed(6))));
        assert_eq!(consumer.drain(9, |item| assert!([4, 5].contains(&item))), 2);
        assert!(consumer.is_finished());
        batcher.close().unwrap();
    });
}

// Event loops.

#[test]
fn an_event_loop_is_notified_once_a_sleep() {
    in_time(|| {
        let notified = Arc::new(AtomicUsize::new(0));
        let count = notified.clone();
        let notify = Arc::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let (batcher, mut consumer) = Batcher::builder().build_with_notify(notify);
        batcher.push(0).unwrap();
        assert_eq!(notified.load(Ordering::SeqCst), 0, "awake: no signal");
        assert!(consumer.has_items());
        consumer.prepare_sleep();
        sleep_barrier();
        assert!(consumer.is_ready(), "not to be slept over");
        consumer.cancel_sleep();
        assert_eq!(consumer.drain(9, |item| assert_eq!(item, 0)), 1);
        for sleep in 1..=3 {
            consumer.prepare_sleep();
            sleep_barrier();
            assert!(!consumer.is_ready());
            batcher.push_all([1, 2, 3]).unwrap();
            assert_eq!(notified.load(Ordering::SeqCst), sleep);
            assert_eq!(consumer.drain(9, |_| ()), 3);
        }
        assert_eq!(batcher.stats().wakes, 3);
        consumer.prepare_sleep();
        sleep_barrier();
        drop(batcher);
        assert_eq!(notified.load(Ordering::SeqCst), 4, "the end is an event");
        assert!(consumer.is_finished());
    });
}

#[test]
fn lanes_take_turns() {
    let (batcher, mut consumer) = Batcher::builder().build();
    let mut producers = [batcher.producer(), batcher.producer(), batcher.producer()];
    for (number, producer) in producers.iter_mut().enumerate() {
        producer.push_all((0..10).map(|item| (number, item))).unwrap();
    }
    let mut turns = Vec::new();
    while consumer.has_items() {
        let mut lanes = Vec::new();
        assert_eq!(consumer.drain(5, |(number, _)| lanes.push(number)), 5);
        lanes.dedup();
        turns.extend(lanes);
    }
    assert_eq!(turns, [0, 1, 2, 0, 1, 2]);
}
