//! Handing over an item allocates nothing. In a program of its own, since it counts every allocation.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use trochus::batch::{Batcher, PushError};

#[path = "support/counting.rs"]
mod counting;

use counting::allocations;

/// Waits, without allocating, until the consumer has counted so many.
fn wait_for(count: &AtomicUsize, goal: usize) {
    while count.load(Ordering::Acquire) < goal {
        thread::yield_now();
    }
}

#[test]
fn a_steady_state_allocates_nothing() {
    const WARM_UP: usize = 100_000;
    const ITEMS: usize = 1_000_000;
    let received = Arc::new(AtomicUsize::new(0));
    let count = received.clone();
    let batcher = Batcher::builder()
        .batch(256)
        .lane(512)
        .spawn(move |items: &mut Vec<u64>| {
            count.fetch_add(items.len(), Ordering::Release);
        })
        .unwrap();
    let mut producer = batcher.producer();
    let mut push = |items: usize| {
        for item in 0..items as u64 {
            // Both ways in; and a lane this small makes them wait and park, which must be free as well.
            let pushed = if item % 2 == 0 { producer.push(item) } else { batcher.push(item) };
            assert!(pushed.is_ok());
        }
    };
    push(WARM_UP);
    wait_for(&received, WARM_UP);
    let before = allocations();
    push(ITEMS);
    wait_for(&received, WARM_UP + ITEMS);
    let allocations = allocations() - before;
    // Lanes may reach their last size and queues of waiting threads their first after the warm-up.
    assert!(allocations <= 16, "{allocations} allocations for {ITEMS} items");
    assert!(before > 0, "the allocator counts");
    batcher.close().unwrap();
    assert!(matches!(batcher.push(0), Err(PushError::Closed(0))));
}
