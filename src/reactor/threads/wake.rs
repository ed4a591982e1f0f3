//! The flag that saves a system call for each wake of a reactor that is awake anyway.

#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, Ordering};

/// Whether the reactor sleeps, or is about to.
///
/// The order is what matters. The reactor sets the flag, *then* looks whether there is anything to do, then sleeps. The
/// other thread makes sure that there is something to do, *then* claims the flag. Whichever comes second sees what the
/// first did, so a wake cannot be lost; and only one of many wakers finds the flag set and has to signal.
#[derive(Debug)]
pub(crate) struct WakeFlag {
    asleep: AtomicBool,
}

impl WakeFlag {
    pub(crate) fn new() -> Self {
        WakeFlag { asleep: AtomicBool::new(false) }
    }

    /// By the reactor, before it looks for the last time.
    pub(crate) fn set_asleep(&self) {
        // A read-modify-write, so that what the look finds is ordered behind it even without a lock.
        self.asleep.swap(true, Ordering::SeqCst);
    }

    pub(crate) fn set_awake(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// By another thread, after it has left something to do. `true` if it must signal.
    pub(crate) fn claim(&self) -> bool {
        self.asleep.swap(false, Ordering::SeqCst)
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::atomic::AtomicUsize;
    use loom::sync::{Arc, Condvar, Mutex};
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

    /// Two threads leave work and wake; the reactor must end up having done all of it. A lost wake is a deadlock, which
    /// the model checker reports.
    #[test]
    fn no_wake_is_lost() {
        // Two preemptions find every known way to lose a wake, and keep this short.
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(|| {
            let flag = Arc::new(WakeFlag::new());
            let work = Arc::new(AtomicUsize::new(0));
            let bell = Arc::new(Bell::default());
            let wakers: Vec<_> = (0..2)
                .map(|_| {
                    let (flag, work, bell) = (flag.clone(), work.clone(), bell.clone());
                    thread::spawn(move || {
                        work.fetch_add(1, Ordering::SeqCst);
                        if flag.claim() {
                            bell.ring();
                        }
                    })
                })
                .collect();
            let mut done = 0;
            while done < 2 {
                flag.set_asleep();
                if work.load(Ordering::SeqCst) == done {
                    bell.wait();
                }
                flag.set_awake();
                done = work.load(Ordering::SeqCst);
            }
            wakers.into_iter().for_each(|waker| waker.join().unwrap());
        });
    }
}
