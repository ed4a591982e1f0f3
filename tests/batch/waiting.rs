//! Back-pressure, lingering, and those who wait: threads, tasks and event loops.

use super::*;

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

// What items weigh.

#[test]
fn a_lane_holds_as_many_bytes_as_it_may() {
    in_time(|| {
        let builder = || Batcher::builder().lane(1024).weigh(|text: &String| text.len()).lane_bytes(100);
        let (batcher, mut consumer) = builder().build();
        let text = |length: usize| "x".repeat(length);
        let mut producer = batcher.producer();
        let mut push: [&mut dyn FnMut(String) -> Result<(), PushError<String>>; 2] =
            [&mut |text| producer.try_push(text), &mut |text| batcher.try_push(text)];
        for push in &mut push {
            for _ in 0..3 {
                assert_eq!((0..).take_while(|_| push(text(10)).is_ok()).count(), 10);
                assert_eq!(push(text(1)), Err(PushError::Full(text(1))));
                push(text(0)).unwrap();
                assert_eq!(consumer.drain(3, drop), 3);
                assert!(push(text(31)).unwrap_err().is_full());
                push(text(30)).unwrap();
                assert_eq!(consumer.drain(99, drop), 9);
                push(text(1_000)).unwrap(); // alone
                assert!(push(text(1)).unwrap_err().is_full());
                assert_eq!(consumer.drain(99, drop), 1);
            }
        }
        // By default each weighs what it takes in the lane.
        let (batcher, _consumer) = Batcher::builder().lane(1024).lane_bytes(100).build();
        assert_eq!((0_u64..99).take_while(|item| batcher.try_push(*item).is_ok()).count(), 8);
        let (batcher, _consumer) = Batcher::builder().lane_bytes(0).build();
        assert_eq!((0_u64..99).take_while(|item| batcher.try_push(*item).is_ok()).count(), 1);
    });
}

#[test]
fn who_waits_for_bytes_is_woken() {
    in_time(|| {
        let weigh = |(_, number): &Item| number % 7 * 30;
        stress(Batcher::builder().batch(100).weigh(weigh).lane_bytes(100), 3, 3, 3_000, 100);
        let weigh = |_: &Item| 1;
        stress(Batcher::builder().batch(100).weigh(weigh).lane_bytes(0), 2, 2, 1_000, 100);
    });
}

#[test]
fn a_function_that_weighs_may_use_the_batcher_or_panic() {
    in_time(|| {
        let (handle, handed) = mpsc::channel::<Batcher<i32>>();
        let handed = Mutex::new(handed);
        let own = std::sync::OnceLock::new();
        let weigh = move |item: &i32| {
            let own = own.get_or_init(|| handed.lock().unwrap().recv().unwrap());
            match item {
                1 => own.try_push(2).map_or(0, |()| 1),
                3 => panic!("on purpose"),
                _ => 1,
            }
        };
        let (batcher, mut consumer) = Batcher::builder().weigh(weigh).build();
        handle.send(batcher.clone()).unwrap();
        batcher.push(1).unwrap();
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| batcher.push(3))).is_err());
        batcher.push(4).unwrap();
        let mut items = Vec::new();
        consumer.drain(9, |item| items.push(item));
        assert_eq!(items, [2, 1, 4]);
    });
}

#[test]
fn a_lingering_batch_leaves_when_it_is_heavy() {
    in_time(|| {
        let builder = Batcher::builder().batch(1_000).linger(FOREVER).weigh(|_: &i32| 10).lane_bytes(100);
        let (batcher, received) = collecting(builder);
        let mut producers: Vec<_> = (0..5).map(|_| batcher.producer()).collect();
        for producer in &mut producers {
            producer.push_all(0..9).unwrap(); // none of the lanes is full
        }
        let mut producer = batcher.producer();
        let pushing = thread::spawn(move || producer.push_all(0..1_000));
        assert!(received.recv().unwrap().len() >= 10);
        drop(received);
        assert!(pushing.join().unwrap().is_err(), "the consumer has nobody to write to");
    });
}

// Nothing foreign runs while the shared handle's lock is held.

#[test]
fn a_notification_may_use_the_batcher() {
    in_time(|| {
        let own = Arc::new(std::sync::OnceLock::<Batcher<i32>>::new());
        let (notified, count) = (own.clone(), Arc::new(AtomicUsize::new(0)));
        let counted = count.clone();
        let (batcher, mut consumer) = Batcher::builder().build_with_notify(Arc::new(move || {
            counted.fetch_add(1, Ordering::SeqCst);
            notified.get().unwrap().push(2).unwrap();
        }));
        own.set(batcher.clone()).unwrap();
        consumer.prepare_sleep();
        sleep_barrier();
        assert!(!consumer.is_ready());
        batcher.push(1).unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 1);
        let mut items = Vec::new();
        consumer.drain(9, |item| items.push(item));
        assert_eq!(items, [1, 2]);
    });
}

/// A waker that uses what it waits in, when it is cloned, woken and dropped.
#[test]
fn a_waker_may_use_the_batcher() {
    struct Meddling(Batcher<i32>, Waker);

    impl Wake for Meddling {
        fn wake(self: Arc<Self>) {
            meddle(&self.0, &self.1);
        }
    }

    impl Drop for Meddling {
        fn drop(&mut self) {
            meddle(&self.0, &self.1);
        }
    }

    /// Goes where the lock of those who wait is taken.
    fn meddle(batcher: &Batcher<i32>, waker: &Waker) {
        let mut push = batcher.push_async(9);
        let _ = Pin::new(&mut push).poll(&mut Context::from_waker(waker));
    }

    in_time(|| {
        let (batcher, mut consumer) = Batcher::builder().lane(1).build();
        batcher.push(0).unwrap();
        let new = || Waker::from(Arc::new(Meddling(batcher.clone(), Waker::noop().clone())));
        let mut waiting = batcher.push_async(1);
        for _ in 0..2 {
            // The second takes the place of the first, which is dropped.
            let waker = new();
            assert!(Pin::new(&mut waiting).poll(&mut Context::from_waker(&waker)).is_pending());
        }
        drop(waiting); // and so is this one
        let mut waiting = batcher.push_async(1);
        let waker = new();
        assert!(Pin::new(&mut waiting).poll(&mut Context::from_waker(&waker)).is_pending());
        drop(waker);
        consumer.drain(9, |_| ());
    });
}

#[test]
fn a_panic_while_draining_leaves_nobody_waiting() {
    in_time(|| {
        let (batcher, mut consumer) = Batcher::builder().lane(2).build();
        batcher.push_all(0..2).unwrap();
        let (mut waiting, woken) = (batcher.push_async(2), Arc::<Woken>::default());
        assert!(poll(&mut waiting, &woken).is_pending());
        let panicking = std::panic::AssertUnwindSafe(|| consumer.drain_runs(9, |_| panic!("on purpose")));
        assert!(std::panic::catch_unwind(panicking).is_err());
        assert!(!woken.0.load(Ordering::SeqCst), "the panic came first");
        consumer.prepare_sleep();
        assert!(woken.0.load(Ordering::SeqCst), "before the loop sleeps");
        consumer.cancel_sleep();
        assert_eq!(poll(&mut waiting, &woken), Poll::Ready(Ok(())));
    });
}

/// Who waits at a lane that came while the consumer was at the others is not forgotten.
#[test]
fn who_waits_at_a_lane_that_has_just_come_is_woken() {
    in_time(|| {
        for sleeps_first in [false, true] {
            let (batcher, mut consumer) = Batcher::builder().lane(1).build();
            batcher.producer().push(1).unwrap();
            let woken = Arc::<Woken>::default();
            let mut waiting = None;
            consumer.drain(9, |_| {
                batcher.push(2).unwrap(); // makes the lane of this thread
                let mut push = batcher.push_async(3);
                assert!(poll(&mut push, &woken).is_pending());
                waiting = Some(push);
            });
            if sleeps_first {
                consumer.prepare_sleep();
                assert!(consumer.is_ready());
                consumer.cancel_sleep();
            }
            consumer.drain(9, |item| assert_eq!(item, 2));
            assert!(woken.0.load(Ordering::SeqCst));
            assert_eq!(poll(&mut waiting.unwrap(), &woken), Poll::Ready(Ok(())));
        }
    });
}

// When a batch leaves.

/// The clock starts with the oldest item, not when the consumer first looks.
#[test]
fn what_waited_while_the_consumer_was_busy_lingers_no_more() {
    const LINGER: Duration = Duration::from_secs(2);
    in_time(|| {
        let (free, held) = mpsc::channel::<()>();
        let (batches, received) = mpsc::channel();
        let batcher = Batcher::builder()
            .batch(1_000)
            .linger(LINGER)
            .spawn(move |items: &mut Vec<i32>| {
                batches.send((std::mem::take(items), std::time::Instant::now())).unwrap();
                held.recv().unwrap();
            })
            .unwrap();
        batcher.push(1).unwrap();
        batcher.flush();
        assert_eq!(received.recv().unwrap().0, [1]);
        batcher.push(2).unwrap();
        thread::sleep(LINGER + Duration::from_millis(100));
        let freed = std::time::Instant::now();
        free.send(()).unwrap();
        let (items, at) = received.recv().unwrap();
        assert_eq!(items, [2]);
        // Half of what it would be if its time began only now: no matter how slow the machine, nothing is waited for here.
        assert!(at - freed < LINGER / 2, "{:?} after it could leave", at - freed);
        free.send(()).unwrap();
    });
}

/// Lanes that come while the consumer lingers count like those that it knew.
#[test]
fn a_lingering_batch_is_filled_by_lanes_that_come_later() {
    in_time(|| {
        for lanes in [2, 4, 10] {
            let (batcher, received) = collecting(Batcher::builder().batch(20).linger(FOREVER));
            let mut first = batcher.producer();
            first.push(0).unwrap();
            // Until it sleeps on a part of a batch.
            while batcher.stats().sleeps == 0 {
                thread::yield_now();
            }
            thread::sleep(Duration::from_millis(20));
            let mut late: Vec<_> = (0..lanes).map(|_| batcher.producer()).collect();
            for item in 0..19 {
                late[item % lanes].push(item).unwrap();
            }
            assert_eq!(received.recv().unwrap().len(), 20, "{lanes} lanes");
        }
    });
}

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

// Futures.

#[derive(Default)]
pub(crate) struct Woken(pub(crate) AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

pub(crate) fn poll<F: Future + Unpin>(future: &mut F, woken: &Arc<Woken>) -> Poll<F::Output> {
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
fn a_flush_does_not_keep_an_event_loop_awake() {
    let (batcher, mut consumer) = Batcher::<i32>::builder().linger(FOREVER).build();
    batcher.flush();
    consumer.prepare_sleep();
    sleep_barrier();
    assert!(consumer.is_ready());
    consumer.cancel_sleep();
    assert_eq!(consumer.drain(9, |_| ()), 0);
    consumer.prepare_sleep();
    sleep_barrier();
    assert!(!consumer.is_ready());
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

/// It would keep the event loop awake, and its memory.
#[test]
fn a_producer_that_is_gone_leaves_nothing_behind() {
    let (batcher, mut consumer) = Batcher::builder().build();
    for n in 0..3 {
        let mut producer = batcher.producer();
        producer.push(n).unwrap();
        drop(producer);
        assert_eq!(consumer.drain(9, |item| assert_eq!(item, n)), 1);
        assert_eq!(consumer.drain(9, |_| ()), 0);
        consumer.prepare_sleep();
        sleep_barrier();
        assert!(!consumer.is_ready(), "behind producer {n}");
        consumer.cancel_sleep();
    }
}
