//! A lock for sections of a few instructions: one atomic exchange to take, a plain store to give back. Nothing foreign runs
//! within, and nothing is allocated.
//!
//! A holder that is descheduled is waited for by yielding and then by sleeping, so that no thread spins for
//! long and a thread of higher priority cannot starve it.

#![allow(unsafe_code)] // exclusive access through a shared reference

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use crate::batch::sync::{AtomicBool, Ordering, Patience};

#[derive(Debug, Default)]
pub(crate) struct SpinLock<T> {
    locked: AtomicBool,
    value: UnsafeCell<T>,
    #[cfg(loom)]
    track: loom::cell::UnsafeCell<()>,
}

// SAFETY: `value` is reached through a guard only, of which there is one at a time; as with any mutex.
unsafe impl<T: Send> Sync for SpinLock<T> {}

impl<T> SpinLock<T> {
    #[inline(always)]
    pub(crate) fn lock(&self) -> SpinGuard<'_, T> {
        if self.locked.swap(true, Ordering::Acquire) {
            self.wait();
        }
        #[cfg(loom)]
        self.track.with_mut(|_| ());
        SpinGuard { lock: self, _access: PhantomData }
    }

    #[cold]
    fn wait(&self) {
        let patience = Patience::new();
        while self.looks_taken() || self.locked.swap(true, Ordering::Acquire) {
            patience.wait();
        }
    }

    /// A look that leaves the holder its cache line. In a model it could see an old value for ever, which no machine does.
    fn looks_taken(&self) -> bool {
        !cfg!(loom) && self.locked.load(Ordering::Relaxed)
    }
}

pub(crate) struct SpinGuard<'a, T> {
    lock: &'a SpinLock<T>,
    /// To be shared between threads only where the value may be: a lock's own reference would allow it for any `T: Send`.
    _access: PhantomData<&'a mut T>,
}

impl<T> Deref for SpinGuard<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: the guard's existence is the exclusive access.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for SpinGuard<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard's existence is the exclusive access.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for SpinGuard<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        #[cfg(loom)]
        self.lock.track.with_mut(|_| ());
        self.lock.locked.store(false, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// A guard is shared only where its value may be. (Compiles only if there is one way to do this.)
    #[test]
    fn a_guard_is_no_more_shared_than_its_value() {
        trait Ambiguous<Marker> {
            fn check() {}
        }
        struct IsSync;
        impl<T: ?Sized> Ambiguous<()> for T {}
        impl<T: ?Sized + Sync> Ambiguous<IsSync> for T {}
        <SpinGuard<'static, std::cell::Cell<u8>> as Ambiguous<_>>::check();
    }

    #[test]
    fn one_at_a_time() {
        const ROUNDS: usize = if cfg!(miri) { 50 } else { 20_000 };
        let counter = SpinLock::<usize>::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..ROUNDS).for_each(|_| *counter.lock() += 1));
            }
        });
        assert_eq!(*counter.lock(), 4 * ROUNDS);
    }
}
