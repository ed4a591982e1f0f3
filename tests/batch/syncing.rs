//! Being told what is dealt with, and batches that are tried again.

use super::*;
use std::sync::atomic::AtomicU32;
use trochus::batch::{CloseErrorKind, SyncError, Written};

#[test]
fn sync_returns_when_what_was_accepted_before_is_dealt_with() {
    in_time(|| {
        let written = Arc::new(AtomicUsize::new(0));
        let count = written.clone();
        let batcher = Batcher::builder()
            .batch(7)
            .linger(FOREVER)
            .spawn(move |items: &mut Vec<usize>| {
                // Not before the end of the closure, whatever came before in it.
                thread::sleep(Duration::from_millis(1));
                count.fetch_add(items.len(), Ordering::SeqCst);
            })
            .unwrap();
        batcher.sync().unwrap(); // nothing was accepted
        let goal = AtomicUsize::new(0);
        thread::scope(|scope| {
            for number in 0..4 {
                let (batcher, written, goal) = (&batcher, &written, &goal);
                scope.spawn(move || {
                    let mut producer = batcher.producer();
                    for round in 0..30 {
                        for item in 0..round {
                            if number % 2 == 0 { producer.push(item) } else { batcher.push(item) }.unwrap();
                            goal.fetch_add(1, Ordering::SeqCst);
                        }
                        let accepted = goal.load(Ordering::SeqCst);
                        if number < 2 { producer.sync() } else { batcher.sync() }.unwrap();
                        assert!(written.load(Ordering::SeqCst) >= accepted, "round {round} of {number}");
                    }
                });
            }
        });
        batcher.close().unwrap();
        batcher.sync().unwrap();
    });
}

#[test]
fn a_sync_does_not_wait_for_what_comes_behind_it() {
    in_time(|| {
        let (batcher, mut consumer) = Batcher::builder().lane(8).build();
        let mut producer = batcher.producer();
        producer.push_all(0..4).unwrap();
        let woken = Arc::<waiting::Woken>::default();
        let mut syncing = batcher.sync_async();
        assert_eq!(consumer.drain(2, |_| ()), 2); // it knows of it from here on
        producer.push_all(4..8).unwrap();
        for (taken, done) in [(1, false), (1, false), (1, true)] {
            assert!(waiting::poll(&mut syncing, &woken).is_pending());
            assert_eq!(consumer.drain(taken, |_| ()), taken);
            assert_eq!(woken.0.load(Ordering::SeqCst), done, "it is done when the consumer comes back");
        }
        assert!(matches!(waiting::poll(&mut syncing, &woken), Poll::Ready(Ok(()))));
        // A second one that begins while the first is under way.
        producer.push(8).unwrap();
        let (mut second, woken) = (batcher.sync_async(), Arc::<waiting::Woken>::default());
        assert_eq!(consumer.drain(2, |_| ()), 2);
        producer.push(9).unwrap();
        let mut third = batcher.sync_async();
        assert_eq!(consumer.drain(2, |_| ()), 2);
        assert!(waiting::poll(&mut second, &woken).is_pending());
        assert_eq!(consumer.drain(9, |_| ()), 1);
        assert!(waiting::poll(&mut third, &woken).is_pending());
        consumer.prepare_sleep();
        assert!(
            waiting::poll(&mut second, &woken).is_ready() && waiting::poll(&mut third, &woken).is_ready()
        );
        consumer.cancel_sleep();
    });
}

#[test]
fn a_sync_ends_with_the_batcher() {
    in_time(|| {
        let (batcher, mut consumer) = Batcher::builder().build();
        batcher.push(1).unwrap();
        let (mut failed, mut dropped) = (batcher.sync_async(), batcher.sync_async());
        let woken = Arc::<waiting::Woken>::default();
        assert!(waiting::poll(&mut failed, &woken).is_pending());
        assert!(waiting::poll(&mut dropped, &Arc::default()).is_pending());
        drop(dropped);
        consumer.fail("disk full", Vec::new());
        assert!(woken.0.load(Ordering::SeqCst));
        let Poll::Ready(Err(error)) = waiting::poll(&mut failed, &woken) else { panic!("not failed") };
        assert!(matches!(&error, SyncError::Failed(cause) if cause.to_string() == "disk full"), "{error}");
        assert!(matches!(batcher.sync_timeout(Duration::MAX), Err(SyncError::Failed(_))));

        let (batcher, mut consumer) = Batcher::builder().build();
        batcher.push(1).unwrap();
        let mut last = batcher.sync_async();
        assert!(waiting::poll(&mut last, &woken).is_pending());
        batcher.stop_accepting();
        assert_eq!(consumer.drain(9, |_| ()), 1);
        assert!(consumer.is_finished());
        assert!(matches!(waiting::poll(&mut last, &woken), Poll::Ready(Ok(()))));
    });
}

#[test]
fn limits_of_time_are_kept_and_change_nothing() {
    in_time(|| {
        let (batcher, mut consumer) = Batcher::builder().build();
        batcher.push(1).unwrap();
        assert!(matches!(batcher.sync_timeout(Duration::from_millis(2)), Err(SyncError::TimedOut)));
        assert!(matches!(batcher.sync_timeout(Duration::ZERO), Err(SyncError::TimedOut)));
        assert!(!batcher.is_closed());
        let error = batcher.close_timeout(Duration::from_millis(2)).unwrap_err();
        assert_eq!(error.kind(), CloseErrorKind::TimedOut);
        assert!(batcher.is_closed() && error.to_string().contains("within the limit"), "{error}");
        assert_eq!(consumer.drain(9, |_| ()), 1);
        assert!(consumer.is_finished());
        batcher.close_timeout(Duration::ZERO).unwrap();
        batcher.close_timeout(Duration::MAX).unwrap();
    });
}

#[test]
fn close_can_be_awaited() {
    in_time(|| {
        let (batcher, mut consumer) = Batcher::builder().build();
        batcher.push(1).unwrap();
        let (mut closing, woken) = (batcher.close_async(), Arc::<waiting::Woken>::default());
        assert_eq!(batcher.push(2), Err(PushError::Closed(2)), "from the call on");
        assert!(waiting::poll(&mut closing, &woken).is_pending());
        assert_eq!(consumer.drain(9, |_| ()), 1);
        assert!(!woken.0.load(Ordering::SeqCst));
        assert!(consumer.is_finished());
        assert!(woken.0.load(Ordering::SeqCst));
        assert!(matches!(waiting::poll(&mut closing, &woken), Poll::Ready(Ok(()))));
    });
}

// On threads that must not wait.

#[test]
fn the_consumers_own_closure_never_waits_for_itself() {
    in_time(|| {
        let (handle, handed) = mpsc::channel::<Batcher<u32>>();
        let (report, reported) = mpsc::channel();
        let batcher = Batcher::builder()
            .batch(1)
            .lane(2)
            .spawn(move |_: &mut Vec<u32>| {
                if let Ok(own) = handed.try_recv() {
                    let mut producer = own.producer();
                    let pushed = (0..9).map(|item| producer.push(item)).find(Result::is_err);
                    let shared = (0..9).map(|item| own.push(item)).find(Result::is_err);
                    report.send((pushed, shared, own.sync())).unwrap();
                }
            })
            .unwrap();
        handle.send(batcher.clone()).unwrap();
        batcher.push(1).unwrap();
        let (pushed, shared, synced) = reported.recv().unwrap();
        assert_eq!(pushed, Some(Err(PushError::WouldDeadlock(2))));
        assert!(matches!(shared, Some(Err(PushError::WouldDeadlock(1 | 2)))), "{shared:?}");
        assert!(matches!(synced, Err(SyncError::WouldDeadlock)));
        batcher.close().unwrap();
    });
}

/// What the calls that wait answer on a reactor's thread.
fn on_a_reactors_thread<R: Send + 'static>(test: impl FnOnce() -> R + Send + 'static) -> R {
    let runtime = trochus::Runtime::builder().reactors(1).build().unwrap();
    let (done, result) = mpsc::channel();
    runtime.reactor(0).run(move |_| done.send(test()).unwrap()).unwrap();
    result.recv_timeout(DEADLINE).expect("it waits on a reactor's thread")
}

#[test]
fn a_reactors_thread_never_waits() {
    in_time(|| {
        let (batcher, mut consumer) = Batcher::builder().lane(2).build();
        let handle = batcher.clone();
        let (producer, pushed, shared, synced, closed) = on_a_reactors_thread(move || {
            let mut producer = handle.producer();
            let pushed = producer.push_all(0..9);
            let shared = handle.push_all(0..9);
            let synced = handle.sync_timeout(Duration::MAX);
            let closed = handle.close().map_err(|error| (error.kind(), error.to_string()));
            (producer, pushed, shared, synced, closed)
        });
        assert_eq!(pushed, Err(PushError::WouldDeadlock(2)));
        assert!(pushed.unwrap_err().to_string().contains("`push_async`"));
        assert_eq!(shared, Err(PushError::WouldDeadlock(2)));
        assert!(synced.unwrap_err().to_string().contains("`sync_async`"));
        let (kind, text) = closed.unwrap_err();
        assert!(kind == CloseErrorKind::WouldDeadlock && text.contains("`close_async`"), "{text}");
        assert!(!batcher.is_closed(), "nothing was done");
        // Where nobody has to wait, they work there as anywhere.
        assert_eq!(consumer.drain(9, |_| ()), 4);
        drop(producer);
        let handle = batcher.clone();
        on_a_reactors_thread(move || handle.push(1)).unwrap();
        assert_eq!(consumer.drain(9, |_| ()), 1);
        batcher.stop_accepting();
        assert!(consumer.is_finished());
        let handle = batcher.clone();
        on_a_reactors_thread(move || handle.close()).unwrap();
    });
}

// Trying again.

#[test]
fn what_is_left_of_a_batch_comes_again_until_it_is_written() {
    in_time(|| {
        let disk = Arc::new(Mutex::new(Vec::new()));
        let (written, attempts) = (disk.clone(), Arc::new(AtomicU32::new(0)));
        let tried = attempts.clone();
        let batcher = Batcher::builder()
            .batch(8)
            .retries(3, Duration::from_micros(10))
            .spawn(move |items: &mut Vec<i32>| {
                // Every batch is refused three times, with two items written each time.
                if tried.fetch_add(1, Ordering::SeqCst) % 4 < 3 {
                    let some = items.len().min(2);
                    written.lock().unwrap().extend(items.drain(..some));
                    return Ok(Written::again("disk full"));
                }
                written.lock().unwrap().extend(items.iter());
                Ok::<_, std::io::Error>(Written::Done)
            })
            .unwrap();
        batcher.push_all(0..100).unwrap();
        batcher.sync().unwrap();
        assert_eq!(*disk.lock().unwrap(), (0..100).collect::<Vec<_>>());
        batcher.close().unwrap();
        let stats = batcher.stats();
        assert_eq!((stats.retries, stats.items), (3 * stats.batches, 100));
        assert_eq!(u64::from(attempts.load(Ordering::SeqCst)), 4 * stats.batches);
    });
}

#[test]
fn a_batch_that_is_never_written_fails_and_comes_back_whole() {
    in_time(|| {
        for most in [0, 1, 4] {
            let attempts = Arc::new(AtomicU32::new(0));
            let tried = attempts.clone();
            let batcher = Batcher::builder()
                .retries(most, Duration::from_micros(10))
                .spawn(move |_: &mut Vec<i32>| {
                    Written::again(format!("attempt {}", tried.fetch_add(1, Ordering::SeqCst)))
                })
                .unwrap();
            batcher.push(7).unwrap();
            let failure = batcher.close().unwrap_err();
            assert_eq!(failure.cause().to_string(), format!("attempt {most}"));
            assert_eq!(failure.undelivered(), [7]);
            assert_eq!(attempts.load(Ordering::SeqCst), most + 1);
            assert_eq!(batcher.stats().retries, u64::from(most));
        }
    });
}
