//! Whether the reactors are still there, and what happened to those that are not.

use crate::error::Error;
use parking_lot::{Condvar, Mutex};
use std::fmt;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// What a bell rings with when a reactor has failed; a signal rings with another one.
pub(super) const FAILURE: u8 = 1;

/// A reactor that ended without being asked to: its backend failed, or something panicked that nothing caught.
///
/// Its connections were reset, its sockets closed, and what other threads hand to it is refused. The runtime's other reactors
/// go on.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReactorFailure {
    /// Which of the runtime's reactors.
    pub reactor: usize,
    /// What happened.
    pub reason: String,
}

impl fmt::Display for ReactorFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "reactor {} has ended: {}", self.reactor, self.reason)
    }
}

impl fmt::Debug for ReactorFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for ReactorFailure {}

impl From<ReactorFailure> for Error {
    fn from(failure: ReactorFailure) -> Self {
        Error::ReactorFailed { reactor: failure.reactor, reason: failure.reason }
    }
}

/// What is called when a reactor fails.
#[derive(Clone)]
pub(super) struct OnFailure(pub(super) Arc<dyn Fn(&ReactorFailure) + Send + Sync>);

impl fmt::Debug for OnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnFailure")
    }
}

/// What the threads of a runtime's reactors say about their end, and whoever wants to know.
pub(super) struct Watch {
    alive: Vec<AtomicBool>,
    state: Mutex<State>,
    changed: Condvar,
    on_failure: Option<OnFailure>,
}

#[derive(Default)]
struct State {
    /// In the order in which they happened.
    failures: Vec<ReactorFailure>,
    ended: usize,
    /// Told by a byte of each failure.
    bells: Vec<Weak<UnixStream>>,
    /// Done when a reactor has failed, or all have ended.
    farewells: Vec<Farewell>,
    /// Done when all have ended.
    last_farewells: Vec<Farewell>,
}

type Farewell = Box<dyn FnOnce() + Send>;

impl Watch {
    pub(super) fn new(reactors: usize, on_failure: Option<OnFailure>) -> Arc<Self> {
        let alive = (0..reactors).map(|_| AtomicBool::new(true)).collect();
        Arc::new(Watch { alive, state: Mutex::default(), changed: Condvar::new(), on_failure })
    }

    pub(super) fn is_alive(&self, reactor: usize) -> bool {
        self.alive[reactor].load(Ordering::Acquire)
    }

    pub(super) fn failures(&self) -> Vec<ReactorFailure> {
        self.state.lock().failures.clone()
    }

    pub(super) fn failure_of(&self, reactor: usize) -> Option<ReactorFailure> {
        self.state.lock().failures.iter().find(|failure| failure.reactor == reactor).cloned()
    }

    /// The first failure, as an error.
    pub(super) fn check(&self) -> Result<(), Error> {
        self.state.lock().failures.first().map_or(Ok(()), |failure| Err(failure.clone().into()))
    }

    /// Waits until a reactor has failed, or all have ended.
    pub(super) fn wait(&self) -> Result<(), Error> {
        let mut state = self.state.lock();
        while state.failures.is_empty() && state.ended < self.alive.len() {
            self.changed.wait(&mut state);
        }
        drop(state);
        self.check()
    }

    /// Does this when a reactor has failed, or all have ended.
    pub(super) fn when_it_ends(&self, farewell: impl FnOnce() + Send + 'static) {
        let mut state = self.state.lock();
        if state.failures.is_empty() && state.ended < self.alive.len() {
            state.farewells.push(Box::new(farewell));
        } else {
            drop(state);
            farewell();
        }
    }

    /// Does this when all reactors have ended, failed or not.
    pub(super) fn when_all_ended(&self, farewell: impl FnOnce() + Send + 'static) {
        let mut state = self.state.lock();
        if state.ended < self.alive.len() {
            state.last_farewells.push(Box::new(farewell));
        } else {
            drop(state);
            farewell();
        }
    }

    /// Writes a byte for each failure from now on, and one at once if there was one.
    pub(super) fn ring_at_failure(&self, bell: &Arc<UnixStream>) {
        let mut state = self.state.lock();
        if !state.failures.is_empty() {
            let _ = (&**bell).write(&[FAILURE]);
        }
        // Those who have heard enough have dropped theirs.
        state.bells.retain(|bell| bell.strong_count() > 0);
        state.bells.push(Arc::downgrade(bell));
    }

    /// By a reactor's thread: it has failed, and does nothing more.
    pub(super) fn failed(&self, reactor: usize, reason: String) {
        let failure = ReactorFailure { reactor, reason };
        self.alive[reactor].store(false, Ordering::Release);
        crate::log::reactor_failed(&failure);
        let farewells = {
            let mut state = self.state.lock();
            state.failures.push(failure.clone());
            for bell in state.bells.iter().filter_map(Weak::upgrade) {
                // Who has hung up does not listen any more.
                let _ = (&*bell).write(&[FAILURE]);
            }
            std::mem::take(&mut state.farewells)
        };
        self.changed.notify_all();
        farewells.into_iter().for_each(|farewell| farewell());
        if let Some(OnFailure(call)) = &self.on_failure
            && catch_unwind(AssertUnwindSafe(|| call(&failure))).is_err()
        {
            crate::log::on_failure_panicked();
        }
    }

    /// By a reactor's thread: it has ended, and everything that it had is given back.
    pub(super) fn ended(&self, reactor: usize) {
        self.alive[reactor].store(false, Ordering::Release);
        let farewells = {
            let mut state = self.state.lock();
            state.ended += 1;
            let mut farewells = Vec::new();
            if state.ended == self.alive.len() {
                farewells.append(&mut state.farewells);
                farewells.append(&mut state.last_farewells);
            }
            farewells
        };
        self.changed.notify_all();
        farewells.into_iter().for_each(|farewell| farewell());
    }
}
