//! A queue that knows whether its reader sleeps, so that a signal, which is a system call, is sent only then.

use crossbeam_utils::CachePadded;

#[cfg(not(loom))]
use parking_lot::{Mutex, MutexGuard};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU32, Ordering};

#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, Ordering};
#[cfg(loom)]
use loom::sync::{Mutex, MutexGuard};

/// The reader sleeps, or is about to.
const ASLEEP: u32 = 1;
/// There are items. Set and cleared with the queue locked.
const ITEMS: u32 = 2;
/// Somebody wants the reader's wait to end, the current one or the next.
const WOKEN: u32 = 4;

/// One reader takes what many threads post.
///
/// All that decides about a signal is one word, so that there is one order of everything that is done to it: the reader
/// says that it sleeps and finds out in the same instant whether there is a reason not to; whoever gives the first reason
/// finds out in the same instant whether the reader sleeps. A reason that is there already was somebody else's, who has
/// signalled or will.
#[derive(Debug)]
pub(crate) struct WakeQueue<T> {
    /// On a cache line of its own: the reader looks here all the time, and those who take the lock do not disturb it.
    state: CachePadded<AtomicU32>,
    queue: CachePadded<Mutex<Queue<T>>>,
}

#[derive(Debug)]
struct Queue<T> {
    items: Vec<T>,
    open: bool,
    signals: u64,
    signals_saved: u64,
}

impl<T> WakeQueue<T> {
    pub(crate) fn new() -> Self {
        let queue = Queue { items: Vec::new(), open: true, signals: 0, signals_saved: 0 };
        WakeQueue { state: CachePadded::new(AtomicU32::new(0)), queue: CachePadded::new(Mutex::new(queue)) }
    }

    /// Hands over an item, or gives it back when the queue is closed. `true` if the reader must be signalled.
    pub(crate) fn post(&self, item: T) -> Result<bool, T> {
        let mut queue = self.lock();
        if !queue.open {
            return Err(item);
        }
        // Behind other items there is nothing to say: who posted the first of them has said it.
        let signals = queue.items.is_empty() && self.give_reason(ITEMS);
        queue.items.push(item);
        queue.count(signals);
        Ok(signals)
    }

    /// Ends the reader's wait, the current one or the next. `true` if it must be signalled.
    #[must_use]
    pub(crate) fn wake(&self) -> bool {
        let signals = self.give_reason(WOKEN);
        self.lock().count(signals);
        signals
    }

    /// `true` if this is the first reason that a sleeping reader is given.
    fn give_reason(&self, reason: u32) -> bool {
        self.state.fetch_or(reason, Ordering::AcqRel) == ASLEEP
    }

    /// Takes all items, in the order in which they came.
    pub(crate) fn take(&self, into: &mut Vec<T>) {
        debug_assert!(into.is_empty());
        if self.state.load(Ordering::Acquire) & ITEMS != 0 {
            let mut queue = self.lock();
            std::mem::swap(&mut queue.items, into);
            self.state.fetch_and(!ITEMS, Ordering::AcqRel);
        }
    }

    /// Whether there is a reason not to sleep.
    pub(crate) fn has_reason(&self) -> bool {
        self.state.load(Ordering::Acquire) & (ITEMS | WOKEN) != 0
    }

    /// By the reader, which is about to sleep. If this returns `false` there is a reason not to.
    pub(crate) fn fall_asleep(&self) -> bool {
        if self.state.fetch_or(ASLEEP, Ordering::AcqRel) & (ITEMS | WOKEN) == 0 {
            return true;
        }
        self.end_sleep();
        false
    }

    /// The reader's wait has ended, and with it the wish that it should.
    pub(crate) fn end_sleep(&self) {
        self.state.fetch_and(!(ASLEEP | WOKEN), Ordering::AcqRel);
    }

    /// The reader goes on; it may be about to wait, which a wish that has not been met yet will end.
    pub(crate) fn awake(&self) {
        self.state.fetch_and(!ASLEEP, Ordering::AcqRel);
    }

    /// Refuses items from now on and gives back those that came too late.
    pub(crate) fn close(&self) -> Vec<T> {
        let mut queue = self.lock();
        queue.open = false;
        std::mem::take(&mut queue.items)
    }

    /// Refuses items from now on, unless there are some to be taken first.
    pub(crate) fn close_if_empty(&self) -> bool {
        let mut queue = self.lock();
        queue.open &= !queue.items.is_empty();
        !queue.open
    }

    /// Signals, and signals saved because the reader was awake.
    pub(crate) fn signals(&self) -> (u64, u64) {
        let queue = self.lock();
        (queue.signals, queue.signals_saved)
    }

    #[cfg(not(loom))]
    fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        self.queue.lock()
    }

    #[cfg(loom)]
    fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        self.queue.lock().expect("no model panics with the lock held")
    }
}

impl<T> Queue<T> {
    fn count(&mut self, signals: bool) {
        let counter = if signals { &mut self.signals } else { &mut self.signals_saved };
        *counter += 1;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn taken(queue: &WakeQueue<u32>) -> Vec<u32> {
        let mut items = Vec::new();
        queue.take(&mut items);
        items
    }

    #[test]
    fn only_the_first_reason_of_a_sleep_is_signalled() {
        let queue = WakeQueue::new();
        assert_eq!(queue.post(1), Ok(false));
        assert!(!queue.fall_asleep(), "there is an item");
        assert_eq!(taken(&queue), [1]);
        assert!(queue.fall_asleep());
        assert_eq!((queue.post(2), queue.post(3), queue.wake()), (Ok(true), Ok(false), false));
        queue.end_sleep();
        assert_eq!(taken(&queue), [2, 3]);
        assert!(queue.fall_asleep(), "that it was to be woken is not told twice");
        assert_eq!((queue.wake(), queue.post(4)), (true, Ok(false)));
        assert_eq!(queue.signals(), (2, 4));
        queue.end_sleep();
        assert_eq!(queue.close(), [4]);
        assert_eq!(queue.post(5), Err(5));
    }

    #[test]
    fn a_wish_that_comes_while_the_reader_is_awake_ends_its_next_wait() {
        let queue = WakeQueue::<u32>::new();
        assert!(!queue.wake());
        queue.awake();
        assert!(queue.has_reason());
        assert!(!queue.fall_asleep(), "the wait ends before it begins");
        assert!(!queue.has_reason());
        assert!(queue.fall_asleep(), "one wait, not every wait");
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::atomic::AtomicBool;
    use loom::sync::{Arc, Condvar};
    use loom::thread;

    /// The reactor's bell, as an eventfd is one: a signal stays until it is taken.
    #[derive(Default)]
    struct Bell {
        rung: Mutex<bool>,
        changed: Condvar,
    }

    impl Bell {
        fn ring(&self) {
            *self.rung.lock().unwrap() = true;
            self.changed.notify_one();
        }

        fn wait(&self) {
            let mut rung = self.rung.lock().unwrap();
            while !*rung {
                rung = self.changed.wait(rung).unwrap();
            }
            *rung = false;
        }
    }

    #[derive(Clone)]
    struct Sides(Arc<(WakeQueue<u32>, Bell)>);

    impl Sides {
        fn new() -> Self {
            Sides(Arc::new((WakeQueue::new(), Bell::default())))
        }

        fn post(&self, item: u32) {
            if self.0.0.post(item).unwrap() {
                self.0.1.ring();
            }
        }

        fn wake(&self) {
            if self.0.0.wake() {
                self.0.1.ring();
            }
        }

        /// As a reactor does: takes what there is, then sleeps until there may be more, unless it has all it waits for.
        fn turn(&self, taken: &mut Vec<u32>, wanted: usize) {
            let (queue, bell) = &*self.0;
            let mut items = Vec::new();
            queue.take(&mut items);
            taken.extend(items);
            if taken.len() < wanted && queue.fall_asleep() {
                bell.wait();
                queue.end_sleep();
            }
        }
    }

    /// Two preemptions find every known way to lose a wake, and keep this short.
    fn model(run: impl Fn() + Send + Sync + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(2);
        builder.check(run);
    }

    /// Two threads post; the reader must end up with everything. A lost wake is a deadlock, which the model checker
    /// reports.
    #[test]
    fn nothing_posted_is_slept_over() {
        model(|| {
            let sides = Sides::new();
            let posting = [[1, 2], [3, 4]].map(|items| {
                let sides = sides.clone();
                thread::spawn(move || items.into_iter().for_each(|item| sides.post(item)))
            });
            let mut taken = Vec::new();
            while taken.len() < 4 {
                sides.turn(&mut taken, 4);
            }
            posting.into_iter().for_each(|posting| posting.join().unwrap());
            let order = |items: &[u32]| taken.iter().filter(|item| items.contains(item)).is_sorted();
            assert!(order(&[1, 2]) && order(&[3, 4]), "{taken:?}");
        });
    }

    /// Whoever sets something and wakes is seen, whether the reader slept, was about to, or was awake for another reason.
    #[test]
    fn a_wake_ends_a_wait() {
        model(|| {
            let (sides, stop) = (Sides::new(), Arc::new(AtomicBool::new(false)));
            let posting = thread::spawn({
                let sides = sides.clone();
                move || sides.post(1)
            });
            let stopping = thread::spawn({
                let (sides, stop) = (sides.clone(), stop.clone());
                move || {
                    stop.store(true, Ordering::Release);
                    sides.wake();
                }
            });
            let mut taken = Vec::new();
            while !stop.load(Ordering::Acquire) {
                sides.turn(&mut taken, usize::MAX);
            }
            posting.join().unwrap();
            stopping.join().unwrap();
        });
    }
}
