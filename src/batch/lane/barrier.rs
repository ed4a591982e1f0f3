//! An asymmetric barrier: nearly free for those who pass it often, dear for the one who passes it seldom.
//!
//! Two threads that each store to one location and then load the other's (a producer: "my item", then "do you
//! sleep?"; a consumer: "I sleep", then "is there an item?") need a full barrier between the two on *both*
//! sides, or both may miss the other. [`light`] and [`heavy`] are such a pair. Where Linux offers `membarrier`,
//! `light` only keeps the compiler from reordering, and `heavy` has the kernel run a full barrier on every
//! processor that is executing a thread of this process. Elsewhere both are full fences.

#![cfg_attr(all(target_os = "linux", not(loom), not(miri)), allow(unsafe_code))]

use crate::batch::sync::{Ordering, fence};

/// The side of the many: between a store and a load of what the other side stores.
#[inline(always)]
pub(crate) fn light() {
    if imp::asymmetric() {
        std::sync::atomic::compiler_fence(Ordering::SeqCst);
    } else {
        fence(Ordering::SeqCst);
    }
}

/// Whether [`light`] is free. Settled by [`init`], for good.
pub(crate) fn is_asymmetric() -> bool {
    imp::asymmetric()
}

/// The side of the few: a system call of a microsecond or so. Before it sleeps, once for all that it arms.
pub(crate) fn heavy() {
    #[cfg(test)]
    PASSED.set(PASSED.get() + 1);
    fence(Ordering::SeqCst);
    imp::interrupt_others();
}

/// How often this thread has passed [`heavy`].
#[cfg(all(test, not(loom)))]
pub(crate) fn passed() -> usize {
    PASSED.get()
}

#[cfg(test)]
thread_local! {
    static PASSED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Decides how the barrier works. To be called before anything that relies on it is shared between threads.
pub(crate) fn init() {
    imp::init();
}

#[cfg(all(target_os = "linux", not(loom), not(miri)))]
mod imp {
    use std::sync::Once;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    static INIT: Once = Once::new();
    /// Set once, before anything relies on it.
    static ASYMMETRIC: AtomicBool = AtomicBool::new(false);

    #[inline(always)]
    pub(in crate::batch) fn asymmetric() -> bool {
        ASYMMETRIC.load(Ordering::Relaxed)
    }

    pub(in crate::batch) fn init() {
        INIT.call_once(|| {
            let usable = membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)
                && membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED);
            ASYMMETRIC.store(usable, Ordering::Relaxed);
        });
    }

    pub(in crate::batch) fn interrupt_others() {
        if !asymmetric() || membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED) {
            return;
        }
        // A seccomp filter installed since `init` forbids the call. Then time does it: a store leaves its
        // processor's store buffer within nanoseconds, and for a thread descheduled between its store and its
        // load, the context switch was the barrier.
        std::thread::sleep(Duration::from_millis(1));
    }

    fn membarrier(command: libc::c_int) -> bool {
        const NO_FLAGS: libc::c_uint = 0;
        const NO_CPU: libc::c_int = 0;
        // SAFETY: membarrier(2) takes three integers and touches no memory of the caller.
        unsafe { libc::syscall(libc::SYS_membarrier, command, NO_FLAGS, NO_CPU) == 0 }
    }
}

#[cfg(not(all(target_os = "linux", not(loom), not(miri))))]
mod imp {
    #[inline(always)]
    pub(in crate::batch) fn asymmetric() -> bool {
        false
    }

    pub(in crate::batch) fn init() {}

    pub(in crate::batch) fn interrupt_others() {}
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    /// The store-buffer test: without the barriers, both sides reading 0 is what the hardware does.
    #[test]
    fn at_least_one_side_sees_the_other() {
        const ROUNDS: usize = if cfg!(miri) { 20 } else { 2_000 };
        init();
        let (x, y) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let start = Barrier::new(2);
        std::thread::scope(|scope| {
            let many = scope.spawn(|| {
                let mut seen = Vec::with_capacity(ROUNDS);
                for round in 1..=ROUNDS {
                    start.wait();
                    x.store(round, Relaxed);
                    light();
                    seen.push(y.load(Relaxed) == round);
                }
                seen
            });
            let mut seen_by_few = Vec::with_capacity(ROUNDS);
            for round in 1..=ROUNDS {
                start.wait();
                y.store(round, Relaxed);
                heavy();
                seen_by_few.push(x.load(Relaxed) == round);
            }
            let seen_by_many = many.join().unwrap();
            for (round, (many, few)) in seen_by_many.iter().zip(&seen_by_few).enumerate() {
                assert!(*many || *few, "both sides missed each other in round {round}");
            }
        });
    }
}
