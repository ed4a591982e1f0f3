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
