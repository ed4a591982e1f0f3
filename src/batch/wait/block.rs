//! A future driven by a thread that parks.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use crate::batch::sync::{Thread, current, park, park_timeout};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.unpark();
    }
}

/// `None` if the deadline passed before. No deadline means for ever.
pub(crate) fn block_until<F: Future>(deadline: Option<Instant>, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let waker = thread_waker();
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
            None => park(),
            Some(left) if left.is_zero() => return None,
            Some(left) => park_timeout(left),
        }
    }
}

/// Made once for each thread, so that waiting allocates nothing.
#[cfg(not(loom))]
fn thread_waker() -> Waker {
    thread_local! {
        static WAKER: Waker = new_waker();
    }
    // A destructor of another thread-local value may push after this one is gone.
    WAKER.try_with(Waker::clone).unwrap_or_else(|_| new_waker())
}

#[cfg(loom)]
fn thread_waker() -> Waker {
    new_waker()
}

fn new_waker() -> Waker {
    Waker::from(std::sync::Arc::new(Unpark(current())))
}
