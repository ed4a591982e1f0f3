//! When the consumer sleeps, and how a push wakes it.
//!
//! The consumer sets `ASLEEP`, passes the heavy barrier, looks at the lanes once more, and only then sleeps. A
//! producer writes its item, passes the light barrier and looks at the flag. Whatever the order, one of them
//! sees the other. Whoever clears the flag sends the wake: one per sleep.

use std::sync::atomic::compiler_fence;
use std::time::Instant;

use crossbeam_utils::CachePadded;

use crate::batch::lane::barrier;
use crate::batch::sync::{
    AtomicU32, AtomicU64, AtomicUsize, Mutex, Ordering, Thread, current, park, park_timeout,
};

/// The consumer sleeps, or is about to.
pub(crate) const ASLEEP: u32 = 1;
/// It sleeps on a part of a batch: wake it only when more would fill the batch.
pub(crate) const LINGERING: u32 = 1 << 1;
/// No item is accepted any more.
pub(crate) const STOPPED: u32 = 1 << 2;
/// The consumer gave up; what was accepted goes back to the application.
pub(crate) const FAILED: u32 = 1 << 3;
/// Set from the start where the light barrier is a fence: so that where it is not, a push need not even ask.
const FENCED: u32 = 1 << 4;

/// Called when a push wakes the consumer.
pub(crate) type Notify = std::sync::Arc<dyn Fn() + Send + Sync>;

pub(crate) struct Gate {
    /// Read by every push, written only around a sleep and at the end.
    state: CachePadded<AtomicU32>,
    /// While lingering: the length at which one lane is reason enough to wake.
    wake_at: AtomicUsize,
    wakes: AtomicU64,
    sleeper: Mutex<Option<Thread>>,
    notify: Option<Notify>,
}

impl Gate {
    pub(crate) fn new(notify: Option<Notify>) -> Self {
        let always = if barrier::is_asymmetric() { 0 } else { FENCED };
        Self {
            state: CachePadded::new(AtomicU32::new(always)),
            wake_at: AtomicUsize::new(0),
            wakes: AtomicU64::new(0),
            sleeper: Mutex::new(None),
            notify,
        }
    }

    #[inline(always)]
    pub(crate) fn state(&self) -> u32 {
        self.state.load(Ordering::Relaxed)
    }

    /// After an item was written: whether there is more to do, see `state_after_write`. All that a push costs while
    /// the consumer is awake.
    #[inline(always)]
    pub(crate) fn wants_attention(&self) -> bool {
        compiler_fence(Ordering::SeqCst); // what the light barrier is, if `FENCED` is not set
        self.state() != 0
    }

    /// The state, as the light barrier between the write and this has it.
    pub(crate) fn state_after_write(&self) -> u32 {
        barrier::light();
        self.synced_state()
    }

    /// As `state`, and what was done before a bit was set is visible.
    pub(crate) fn synced_state(&self) -> u32 {
        self.state.load(Ordering::Acquire)
    }

    pub(crate) fn wakes(&self) -> u64 {
        self.wakes.load(Ordering::Relaxed)
    }

    /// The consumer is about to sleep; `None` wakes at any item, `Some(n)` at n items in one lane. The heavy
    /// barrier and another look at the lanes must follow.
    pub(crate) fn arm(&self, linger: Option<usize>) {
        let bits = match linger {
            None => ASLEEP,
            Some(length) => {
                self.wake_at.store(length, Ordering::Relaxed);
                ASLEEP | LINGERING
            }
        };
        self.state.fetch_or(bits, Ordering::AcqRel);
    }

    /// The consumer goes on without having been woken.
    pub(crate) fn disarm(&self) {
        self.state.fetch_and(!(ASLEEP | LINGERING), Ordering::AcqRel);
    }

    pub(crate) fn is_armed(&self) -> bool {
        self.synced_state() & ASLEEP != 0
    }

    /// Makes the calling thread the one that a wake unparks. To be called before `arm`.
    pub(crate) fn enlist(&self) {
        *self.sleeper.lock() = Some(current());
    }

    /// Sleeps until woken or, disarming, until the deadline.
    pub(crate) fn sleep(&self, deadline: Option<Instant>) {
        while self.is_armed() {
            let Some(deadline) = deadline else {
                park();
                continue;
            };
            match deadline.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => park_timeout(left),
                _ => self.disarm(),
            }
        }
    }

    /// Wakes the consumer if a lane of this length is reason enough.
    pub(crate) fn wake_for(&self, state: u32, length: impl FnOnce() -> usize) {
        let idle = state & ASLEEP != 0 && state & LINGERING == 0;
        if idle || (state & LINGERING != 0 && length() >= self.wake_at.load(Ordering::Relaxed)) {
            self.wake();
        }
    }

    /// Wakes the consumer if it sleeps.
    #[cold]
    pub(crate) fn wake(&self) {
        if self.state() & ASLEEP == 0 {
            return;
        }
        if self.state.fetch_and(!(ASLEEP | LINGERING), Ordering::AcqRel) & ASLEEP == 0 {
            return;
        }
        self.wakes.fetch_add(1, Ordering::Relaxed);
        // Cloned, not taken: if the consumer is awake already and about to sleep again, the next wake needs it.
        let sleeper = self.sleeper.lock().clone();
        if let Some(sleeper) = sleeper {
            sleeper.unpark();
        }
        if let Some(notify) = &self.notify {
            notify();
        }
    }

    /// Accepts nothing any more and wakes the consumer, which has to see to the rest.
    pub(crate) fn stop(&self, bits: u32) {
        self.state.fetch_or(STOPPED | bits, Ordering::AcqRel);
        self.wake();
    }
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").field("state", &self.state()).finish_non_exhaustive()
    }
}
