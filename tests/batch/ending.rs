//! The end of a batcher: closed, left by all, failed.

use super::*;

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
