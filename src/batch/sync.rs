//! The primitives the batcher is made of, real or model-checked.
//!
//! With `--cfg loom` the same code runs on loom's versions, which explore every interleaving that the memory
//! model allows.

#[cfg(not(loom))]
mod imp {
    pub(crate) use parking_lot::Mutex;
    pub(crate) use std::sync::Arc;
    pub(crate) use std::sync::atomic::{
        AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };
    pub(crate) use std::thread::{Thread, current, park, park_timeout};

    /// How somebody waits who will not wait for long: spins, yields, naps.
    #[derive(Default)]
    pub(crate) struct Patience(crossbeam_utils::Backoff);

    impl Patience {
        const NAP: std::time::Duration = std::time::Duration::from_micros(50);

        pub(crate) fn new() -> Self {
            Self::default()
        }

        pub(crate) fn wait(&self) {
            if self.0.is_completed() { std::thread::sleep(Self::NAP) } else { self.0.snooze() }
        }
    }
}

#[cfg(loom)]
mod imp {
    pub(crate) use loom::sync::atomic::{
        AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };
    pub(crate) use loom::sync::{Arc, Condvar, MutexGuard};

    #[derive(Default)]
    pub(crate) struct Patience;

    impl Patience {
        pub(crate) fn new() -> Self {
            Self
        }

        pub(crate) fn wait(&self) {
            loom::thread::yield_now();
        }
    }

    /// As `std::thread::Thread`. loom has parking of its own, but forgets a token when the thread takes a lock
    /// between `unpark` and `park`, and lets `unpark` end any kind of waiting.
    #[derive(Clone, Debug)]
    pub(crate) struct Thread(std::sync::Arc<(loom::sync::Mutex<bool>, Condvar)>);

    loom::thread_local! {
        static CURRENT: Thread = Thread(std::sync::Arc::new((loom::sync::Mutex::new(false), Condvar::new())));
    }

    impl Thread {
        pub(crate) fn unpark(&self) {
            *self.0.0.lock().expect("no model panics with the lock held") = true;
            self.0.1.notify_one();
        }
    }

    pub(crate) fn current() -> Thread {
        CURRENT.with(Thread::clone)
    }

    pub(crate) fn park() {
        let thread = current();
        let mut token = thread.0.0.lock().expect("no model panics with the lock held");
        while !*token {
            token = wait(&thread.0.1, token);
        }
        *token = false;
    }

    /// loom has no clock: models do not use deadlines.
    pub(crate) fn park_timeout(_: std::time::Duration) {
        park();
    }

    fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        condvar.wait(guard).expect("no model panics with the lock held")
    }

    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().expect("no model panics with the lock held")
        }
    }
}

pub(crate) use imp::*;
