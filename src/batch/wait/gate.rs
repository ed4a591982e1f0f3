//! When the consumer sleeps, and how a push wakes it.
//!
//! The consumer sets `ASLEEP`, passes the heavy barrier, looks at the lanes once more, and only then sleeps. A
//! producer writes its item, passes the light barrier and looks at the flag. Whatever the order, one of them
//! sees the other. Whoever clears the flag sends the wake: one per sleep.

use std::time::Instant;

use crossbeam_utils::CachePadded;

use crate::batch::lane::barrier;
use crate::batch::sync::{AtomicU32, AtomicU64, Mutex, Ordering, Thread, current, fence, park, park_timeout};

/// The consumer sleeps, or is about to.
pub(crate) const ASLEEP: u32 = 1;
/// It sleeps on a part of a batch: wake it only when more would fill the batch.
pub(crate) const LINGERING: u32 = 1 << 1;
/// No item is accepted any more.
pub(crate) const STOPPED: u32 = 1 << 2;
/// The consumer gave up; what was accepted goes back to the application.
pub(crate) const FAILED: u32 = 1 << 3;
/// Set where the light barrier is a fence, mostly from the start: so that where it is not, a push need not even ask.
const FENCED: u32 = 1 << 4;

/// Called when a push wakes the consumer.
pub(crate) type Notify = std::sync::Arc<dyn Fn() + Send + Sync>;

pub(crate) struct Gate {
    /// Read by every push, written only around a sleep and at the end.
    state: CachePadded<AtomicU32>,
    wakes: AtomicU64,
    sleeper: Mutex<Option<Thread>>,
    notify: Option<Notify>,
}

impl Gate {
    pub(crate) fn new(notify: Option<Notify>) -> Self {
        let always = if barrier::is_asymmetric() { 0 } else { FENCED };
        Self {
            state: CachePadded::new(AtomicU32::new(always)),
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
        barrier::light_if_free(); // what the light barrier is, if `FENCED` is not set
        self.state() != 0
    }

    /// The state, as the light barrier between the write and this has it.
    pub(crate) fn state_after_write(&self) -> u32 {
        // By the bit: what the barrier says of itself may be out of date here when that was just set.
        if self.state() & FENCED != 0 {
            fence(Ordering::SeqCst)
        } else {
            barrier::light()
        }
        self.synced_state()
    }

    /// As `state`, and what was done before a bit was set is visible.
    pub(crate) fn synced_state(&self) -> u32 {
        self.state.load(Ordering::Acquire)
    }

    pub(crate) fn wakes(&self) -> u64 {
        self.wakes.load(Ordering::Relaxed)
    }

    /// The consumer is about to sleep: with `ASLEEP` any item wakes it, with `LINGERING` as well one that makes its lane due. The
    /// heavy barrier and another look at the lanes must follow.
    pub(crate) fn arm(&self, bits: u32) {
        self.set_before_barrier(bits);
    }

    /// Sets what producers are to see, or have theirs seen, once the consumer has passed the heavy barrier.
    pub(crate) fn set_before_barrier(&self, bits: u32) {
        let fenced = if barrier::is_asymmetric() { 0 } else { FENCED };
        if self.state.fetch_or(bits | fenced, Ordering::AcqRel) & FENCED == 0 {
            barrier::relies_on_interrupts();
        }
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

    /// Whether what was written to a lane is reason enough to wake the consumer.
    pub(crate) fn is_reason(&self, state: u32, is_due: impl FnOnce() -> bool) -> bool {
        state & ASLEEP != 0 && (state & LINGERING == 0 || is_due())
    }

    /// A lane was added: what a consumer that lingers waits for is now spread over one more.
    pub(crate) fn wake_if_lingering(&self) {
        fence(Ordering::SeqCst); // the consumer looks for new lanes between arming and sleeping
        if self.state() & LINGERING != 0 {
            self.wake();
        }
    }

    /// Wakes the consumer if it sleeps. Runs the application's `notify`: never with a lock held.
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
