//! The outcome of something that was begun, for whoever wants it: a thread that waits, or a task that awaits.

use crate::error::{Error, Result};
use parking_lot::{Condvar, Mutex};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Something that goes on by itself, and its outcome. It was begun when this was made, and needs no polling to go on.
///
/// Await it on any executor, or [`wait`](Self::wait) for it on none. What dropping it means, its maker says; unless it says
/// otherwise, whatever was begun goes on and nobody hears of the outcome.
#[must_use = "whoever drops this does not hear of the outcome"]
pub struct Pending<T> {
    shared: Arc<Shared<T>>,
    /// What is done when nobody wants the outcome any more.
    cancel: Option<Box<dyn FnOnce() + Send>>,
}

/// The other end; if it is dropped, the outcome is [`Error::Stopped`].
pub(crate) struct Promise<T>(Option<Arc<Shared<T>>>);

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

enum State<T> {
    Going(Option<Waker>),
    Done(Result<T>),
    Taken,
}

pub(crate) fn promise<T>() -> (Promise<T>, Pending<T>) {
    let shared = Arc::new(Shared { state: Mutex::new(State::Going(None)), changed: Condvar::new() });
    (Promise(Some(shared.clone())), Pending { shared, cancel: None })
}

impl<T> Promise<T> {
    pub(crate) fn keep(mut self, outcome: Result<T>) {
        self.resolve(outcome);
    }

    fn resolve(&mut self, outcome: Result<T>) {
        let Some(shared) = self.0.take() else { return };
        let waker = {
            let mut state = shared.state.lock();
            match std::mem::replace(&mut *state, State::Done(outcome)) {
                State::Going(waker) => waker,
                State::Done(_) | State::Taken => None,
            }
        };
        shared.changed.notify_all();
        // Outside the lock: a waker may do anything.
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        self.resolve(Err(Error::Stopped));
    }
}

impl<T> Pending<T> {
    /// One whose outcome is known already.
    pub(crate) fn done(outcome: Result<T>) -> Self {
        let (promise, pending) = promise();
        promise.keep(outcome);
        pending
    }

    /// What is done if this is dropped before the outcome is known.
    pub(crate) fn on_drop(mut self, cancel: impl FnOnce() + Send + 'static) -> Self {
        self.cancel = Some(Box::new(cancel));
        self
    }

    /// Waits for the outcome. On a reactor's own thread this is [`Error::OnReactorThread`].
    pub fn wait(mut self) -> Result<T> {
        Error::if_on_reactor_thread("Pending::wait", "await it, or look with `Pending::try_take`")?;
        let mut state = self.shared.state.lock();
        while matches!(*state, State::Going(_)) {
            self.shared.changed.wait(&mut state);
        }
        let outcome = take(&mut state);
        drop(state);
        self.cancel = None;
        outcome
    }

    /// Waits for the outcome for so long; gives this back when there is none yet. On a reactor's own thread the outcome is
    /// [`Error::OnReactorThread`].
    pub fn wait_timeout(mut self, timeout: Duration) -> Result<Result<T>, Self> {
        let call = Error::if_on_reactor_thread(
            "Pending::wait_timeout",
            "await it, or look with `Pending::try_take`",
        );
        if let Err(refused) = call {
            return Ok(Err(refused));
        }
        // One that no clock can tell is waited for without an end.
        let deadline = Instant::now().checked_add(timeout);
        let mut state = self.shared.state.lock();
        while matches!(*state, State::Going(_)) {
            match deadline {
                Some(deadline) if deadline <= Instant::now() => {
                    drop(state);
                    return Err(self);
                }
                Some(deadline) => drop(self.shared.changed.wait_until(&mut state, deadline)),
                None => self.shared.changed.wait(&mut state),
            }
        }
        let outcome = take(&mut state);
        drop(state);
        self.cancel = None;
        Ok(outcome)
    }

    /// The outcome, if it is known by now; never waits.
    pub fn try_take(&mut self) -> Option<Result<T>> {
        let mut state = self.shared.state.lock();
        if matches!(*state, State::Going(_)) {
            return None;
        }
        let outcome = take(&mut state);
        drop(state);
        self.cancel = None;
        Some(outcome)
    }

    /// Whether the outcome is known.
    pub fn is_done(&self) -> bool {
        !matches!(*self.shared.state.lock(), State::Going(_))
    }

    /// Lets go of it: what was begun goes on, whatever dropping this would have meant.
    pub fn detach(mut self) {
        self.cancel = None;
    }
}

/// The outcome of what is no longer going on; once.
fn take<T>(state: &mut State<T>) -> Result<T> {
    match std::mem::replace(state, State::Taken) {
        State::Done(outcome) => outcome,
        State::Going(_) | State::Taken => Err(Error::Stopped),
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        let outcome = {
            let mut state = self.shared.state.lock();
            match &mut *state {
                State::Going(waker) => {
                    match waker {
                        Some(waker) => waker.clone_from(context.waker()),
                        None => *waker = Some(context.waker().clone()),
                    }
                    return Poll::Pending;
                }
                State::Done(_) | State::Taken => take(&mut state),
            }
        };
        self.cancel = None;
        Poll::Ready(outcome)
    }
}

impl<T> Drop for Pending<T> {
    fn drop(&mut self) {
        if let Some(cancel) = self.cancel.take().filter(|_| !self.is_done()) {
            cancel();
        }
    }
}

impl<T> fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("done", &self.is_done()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn whoever_waits_or_awaits_hears_of_it_once() {
        let (promise, pending) = super::promise();
        let thread = std::thread::spawn(move || pending.wait());
        promise.keep(Ok(1));
        assert_eq!(thread.join().unwrap().unwrap(), 1);

        let (promise, mut pending) = super::promise();
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut context = Context::from_waker(&waker);
        for _ in 0..2 {
            assert!(Pin::new(&mut pending).poll(&mut context).is_pending());
        }
        assert!(!pending.is_done() && pending.try_take().is_none());
        promise.keep(Ok(2));
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        assert!(matches!(Pin::new(&mut pending).poll(&mut context), Poll::Ready(Ok(2))));
        assert!(matches!(pending.try_take(), Some(Err(Error::Stopped))));
    }

    #[test]
    fn a_promise_that_is_dropped_is_an_error() {
        let (promise, pending) = super::promise::<()>();
        drop(promise);
        assert!(matches!(pending.wait(), Err(Error::Stopped)));
    }

    #[test]
    fn waiting_has_an_end_where_one_is_set() {
        let (promise, pending) = super::promise();
        let pending = pending.wait_timeout(Duration::ZERO).unwrap_err();
        let pending = pending.wait_timeout(Duration::from_millis(1)).unwrap_err();
        promise.keep(Ok(3));
        assert_eq!(pending.wait_timeout(Duration::MAX).unwrap().unwrap(), 3);
    }

    #[test]
    fn only_what_is_dropped_while_it_goes_on_is_cancelled() {
        let cancelled = Arc::new(AtomicUsize::new(0));
        let begun = || {
            let (promise, pending) = super::promise();
            let cancelled = cancelled.clone();
            (promise, pending.on_drop(move || _ = cancelled.fetch_add(1, Ordering::SeqCst)))
        };
        let (promise, pending) = begun();
        promise.keep(Ok(()));
        drop(pending);
        let (promise, mut pending) = begun();
        promise.keep(Ok(()));
        pending.try_take().unwrap().unwrap();
        drop(pending);
        let (promise, pending) = begun();
        pending.detach();
        drop(promise);
        assert_eq!(cancelled.load(Ordering::SeqCst), 0);
        let (promise, pending) = begun();
        drop(pending);
        drop(promise);
        assert_eq!(cancelled.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn nobody_waits_on_a_reactors_thread() {
        let _driving = crate::waiting::Driving::begin();
        let (_promise, pending) = super::promise::<()>();
        let pending = pending.wait_timeout(Duration::MAX);
        assert!(matches!(pending, Ok(Err(Error::OnReactorThread { .. }))));
        let (_promise, pending) = super::promise::<()>();
        assert!(matches!(pending.wait(), Err(Error::OnReactorThread { .. })));
    }
}
