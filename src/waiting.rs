//! Whether the current thread may wait. A reactor's may not: whoever waits there waits for what only this thread can do.
//!
//! Every call that blocks asks here first, and answers with an error that names the call to use instead. Below every
//! other module, so that the batcher, which knows no reactor, can ask as well.

use std::cell::Cell;
use std::marker::PhantomData;

thread_local! {
    /// Reactors that this thread is driving at the moment: an embedded one may be driven from a handler of another.
    static DRIVEN: Cell<usize> = const { Cell::new(0) };
}

/// The current thread drives a reactor as long as this lives.
#[derive(Debug)]
#[must_use]
pub(crate) struct Driving(PhantomData<*const ()>);

impl Driving {
    pub(crate) fn begin() -> Self {
        DRIVEN.set(DRIVEN.get() + 1);
        Driving(PhantomData)
    }
}

impl Drop for Driving {
    fn drop(&mut self) {
        DRIVEN.set(DRIVEN.get() - 1);
    }
}

/// Whether a reactor is being driven on this thread, so that nothing here may wait. `false` while the thread is being torn
/// down: no reactor is driven from a destructor of thread-local storage.
#[inline]
pub(crate) fn is_forbidden() -> bool {
    DRIVEN.try_with(Cell::get).is_ok_and(|driven| driven > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_forbidden_while_any_reactor_is_driven_here() {
        assert!(!is_forbidden());
        let outer = Driving::begin();
        let inner = Driving::begin();
        drop(outer);
        assert!(is_forbidden());
        assert!(!std::thread::spawn(is_forbidden).join().unwrap());
        drop(inner);
        assert!(!is_forbidden());
    }
}
