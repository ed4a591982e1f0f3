//! Handing over an item allocates nothing. In a program of its own, since it counts every allocation.

#![allow(unsafe_code)] // a global allocator is an unsafe trait

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use trochus::batch::{Batcher, PushError};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: `block` came from `System` with this layout.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: `block` came from `System` with this layout.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

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
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    push(ITEMS);
    wait_for(&received, WARM_UP + ITEMS);
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    // Lanes may reach their last size and queues of waiting threads their first after the warm-up.
    assert!(allocations <= 16, "{allocations} allocations for {ITEMS} items");
    assert!(before > 0, "the allocator counts");
    batcher.close().unwrap();
    assert!(matches!(batcher.push(0), Err(PushError::Closed(0))));
}
