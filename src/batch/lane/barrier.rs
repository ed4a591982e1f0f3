//! An asymmetric barrier: nearly free for those who pass it often, dear for the one who passes it seldom.
//!
//! Two threads that each store to one location and then load the other's (a producer: "my item", then "do you
//! sleep?"; a consumer: "I sleep", then "is there an item?") need a full barrier between the two on *both*
//! sides, or both may miss the other. [`light`] and [`heavy`] are such a pair. Where Linux offers `membarrier`,
//! `light` only keeps the compiler from reordering, and `heavy` has the kernel run a full barrier on every
//! processor that is executing a thread of this process. Elsewhere both are full fences.
//!
//! What it costs: an interrupt on each of those processors, for each event loop that falls asleep. With many loops that sleep
//! often on many processors that is their product; it was measured on two processors only. An event loop passes
//! it once for all its consumers, and not at all while it finds work.
//!
//! # When the kernel refuses after all
//!
//! A seccomp filter that is installed later may forbid the call. From then on both sides are full fences. Who relied
//! on the call when it failed (they said so by [`relies_on_interrupts`]) waits long enough for time to have done it.

#![cfg_attr(all(target_os = "linux", not(loom), not(miri)), allow(unsafe_code))]

use crate::batch::sync::{Ordering, fence};

/// The side of the many: between a store and a load of what the other side stores.
#[inline(always)]
pub(crate) fn light() {
    if imp::asymmetric() {
        imp::free();
    } else {
        fence(Ordering::SeqCst);
    }
}

/// What [`light`] is where it is free. Elsewhere it is not enough, and whoever calls this has another way to know.
#[inline(always)]
pub(crate) fn light_if_free() {
    imp::free();
}

/// Whether [`light`] is free. Once it is not, it never is again.
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

/// The next [`heavy`] on this thread is for somebody whose other side has not fenced until now.
pub(crate) fn relies_on_interrupts() {
    imp::relies_on_interrupts();
}

/// Decides how the barrier works. To be called before anything that relies on it is shared between threads.
pub(crate) fn init() {
    imp::init();
}

#[cfg(all(target_os = "linux", not(loom), not(miri)))]
mod imp {
    use std::cell::Cell;
    use std::io;
    use std::sync::Once;
    use std::sync::atomic::{AtomicBool, Ordering, compiler_fence};
    use std::time::Duration;

    /// A store leaves its processor's store buffer within nanoseconds, and for a thread descheduled between its store and its
    /// load, the context switch was the barrier.
    const LONG_ENOUGH: Duration = Duration::from_millis(1);

    static INIT: Once = Once::new();
    /// Set before anything relies on it, and cleared when the kernel refuses.
    static ASYMMETRIC: AtomicBool = AtomicBool::new(false);

    thread_local! {
        static RELIES: Cell<bool> = const { Cell::new(false) };
    }

    #[inline(always)]
    pub(in crate::batch) fn asymmetric() -> bool {
        ASYMMETRIC.load(Ordering::Relaxed)
    }

    #[inline(always)]
    pub(in crate::batch) fn free() {
        compiler_fence(Ordering::SeqCst);
    }

    pub(in crate::batch) fn init() {
        INIT.call_once(|| {
            let usable = membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED).is_ok()
                && membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED).is_ok();
            ASYMMETRIC.store(usable, Ordering::Relaxed);
        });
    }

    pub(in crate::batch) fn relies_on_interrupts() {
        RELIES.set(true);
    }

    pub(in crate::batch) fn interrupt_others() {
        let relies = RELIES.replace(false);
        if asymmetric() {
            let Err(error) = membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED) else { return };
            if ASYMMETRIC.swap(false, Ordering::Relaxed) {
                crate::log::membarrier_refused(&error);
            }
        } else if !relies {
            return; // the other side fences
        }
        #[cfg(test)]
        refusal::NAPS.set(refusal::NAPS.get() + 1);
        std::thread::sleep(LONG_ENOUGH);
    }

    fn membarrier(command: libc::c_int) -> io::Result<()> {
        const NO_FLAGS: libc::c_uint = 0;
        const NO_CPU: libc::c_int = 0;
        #[cfg(test)]
        if refusal::REFUSED.get() {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        // SAFETY: membarrier(2) takes three integers and touches no memory of the caller.
        match unsafe { libc::syscall(libc::SYS_membarrier, command, NO_FLAGS, NO_CPU) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// What a seccomp filter does, to one thread.
    #[cfg(test)]
    pub(in crate::batch) mod refusal {
        use std::cell::Cell;

        thread_local! {
            pub(in crate::batch) static REFUSED: Cell<bool> = const { Cell::new(false) };
            /// How often this thread let time do it.
            pub(in crate::batch) static NAPS: Cell<usize> = const { Cell::new(0) };
        }
    }
}

/// loom has no interrupts. Where the barrier is asymmetric, a fence stands for what the kernel makes of the light side.
#[cfg(loom)]
pub(in crate::batch) mod imp {
    use super::{Ordering, fence};

    thread_local! {
        /// All threads of a model run on one thread of the system.
        static ASYMMETRIC: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    }

    /// Which of the two a model explores.
    pub(in crate::batch) fn set_asymmetric(asymmetric: bool) {
        ASYMMETRIC.set(asymmetric);
    }

    pub(in crate::batch) fn asymmetric() -> bool {
        ASYMMETRIC.get()
    }

    pub(in crate::batch) fn free() {
        if asymmetric() {
            fence(Ordering::SeqCst);
        }
    }

    pub(in crate::batch) fn init() {}

    pub(in crate::batch) fn relies_on_interrupts() {}

    pub(in crate::batch) fn interrupt_others() {}
}

#[cfg(not(any(loom, all(target_os = "linux", not(miri)))))]
mod imp {
    use std::sync::atomic::{Ordering, compiler_fence};

    #[inline(always)]
    pub(in crate::batch) fn asymmetric() -> bool {
        false
    }

    #[inline(always)]
    pub(in crate::batch) fn free() {
        compiler_fence(Ordering::SeqCst);
    }

    pub(in crate::batch) fn init() {}

    pub(in crate::batch) fn relies_on_interrupts() {}

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
                relies_on_interrupts();
                heavy();
                seen_by_few.push(x.load(Relaxed) == round);
            }
            let seen_by_many = many.join().unwrap();
            for (round, (many, few)) in seen_by_many.iter().zip(&seen_by_few).enumerate() {
                assert!(*many || *few, "both sides missed each other in round {round}");
            }
        });
    }

    /// Nothing is lost when the kernel refuses, and time stands in for it once for each gate and not for each sleep.
    #[cfg(all(target_os = "linux", not(miri)))]
    #[test]
    fn a_late_refusal_switches_to_fences_once() {
        use super::imp::refusal::{NAPS, REFUSED};
        use crate::batch::{Batcher, sleep_barrier};

        init();
        let was_asymmetric = is_asymmetric();
        let (batcher, mut consumer) = Batcher::builder().build();
        let (other, mut its_consumer) = Batcher::builder().build();
        let sleep = |consumer: &mut crate::batch::Consumer<i32>, batcher: &Batcher<i32>| {
            consumer.prepare_sleep();
            sleep_barrier();
            assert!(!consumer.is_ready());
            batcher.push(1).unwrap();
            assert!(consumer.is_ready());
            consumer.cancel_sleep();
            assert_eq!(consumer.drain(9, |_| ()), 1);
        };
        sleep(&mut consumer, &batcher);
        REFUSED.set(true);
        NAPS.set(0);
        for _ in 0..50 {
            sleep(&mut consumer, &batcher);
        }
        assert!(!is_asymmetric());
        // The sleep that failed, and the first one whose producers had not been told to fence.
        let first = NAPS.get();
        assert!(first <= 2 && (first > 0 || !was_asymmetric), "{first}");
        for _ in 0..50 {
            sleep(&mut its_consumer, &other);
        }
        assert!(NAPS.get() - first <= 1, "{}", NAPS.get());
        let (fenced, mut its_consumer) = Batcher::builder().build();
        let before = NAPS.get();
        sleep(&mut its_consumer, &fenced);
        assert_eq!(NAPS.get(), before, "made when the barrier was a fence already");
        // Closed while busy: nobody told its producers before.
        drop((batcher, other, fenced));
        assert!(consumer.is_finished());
        REFUSED.set(false);
    }
}
