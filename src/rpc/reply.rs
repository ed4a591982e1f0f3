//! The right to answer one request, now or later, here or elsewhere.
#![allow(unsafe_code)]

use crate::reactor::Handle;
use parking_lot::Mutex;
use std::cell::{Cell, UnsafeCell};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Answers one request.
///
/// Sent while the service is being called, the response goes straight into the connection's output: no lock, no allocation.
/// Or move it to another thread or task and send it whenever it is ready.
///
/// One that is dropped without being sent is not forgotten: the service is asked for a substitute
/// ([`Service::substitute`](super::Service::substitute)), and if it has none, the connection is closed behind the responses
/// before it. Only a protocol without correlation has no need of that.
#[must_use = "a request without a reply closes its connection"]
pub struct Reply<R> {
    /// Taken when the reply is sent.
    later: Option<Arc<Later<R>>>,
    ticket: u64,
    dispatch: u64,
    slot: *const Slot<R>,
}

/// What the request that is being served came to so far.
pub(super) enum Answer<R> {
    /// The reply is alive, or was sent from elsewhere.
    Later,
    Now(R),
    Dropped,
}

/// Where a reply leaves its response as long as its service is being called.
pub(super) struct Slot<R>(UnsafeCell<SlotState<R>>);

struct SlotState<R> {
    /// The request that is being served.
    ticket: u64,
    answer: Answer<R>,
    /// The reply's link, given back, so that the next one need not count references.
    later: Option<Arc<Later<R>>>,
}

/// Where replies go that were not sent while the service was being called.
pub(super) struct Later<R> {
    done: Mutex<Vec<(u64, Option<R>)>>,
    handle: Handle,
}

thread_local! {
    /// The dispatch that is going on on this thread; 0 if none.
    static CURRENT: Cell<u64> = const { Cell::new(0) };
    /// The next number of this thread's block of them.
    static NEXT: Cell<u64> = const { Cell::new(0) };
}

/// No request has it.
const NO_TICKET: u64 = u64::MAX;

/// Numbers that a thread takes at a time.
const BLOCK: u64 = 1 << 32;

/// No two dispatches of the process have the same number.
fn fresh_dispatch() -> u64 {
    static BLOCKS: AtomicU64 = AtomicU64::new(1);
    let mut number = NEXT.get();
    if number.is_multiple_of(BLOCK) {
        number = BLOCKS.fetch_add(1, Ordering::Relaxed) * BLOCK + 1;
    }
    NEXT.set(number + 1);
    number
}

/// Requests of one connection being served on this thread, one after the other. While it lives, replies made by it find
/// their slot.
pub(super) struct Dispatch<'a, R> {
    slot: &'a Slot<R>,
    number: u64,
    outer: u64,
}

impl<R> Slot<R> {
    pub(super) fn new() -> Self {
        Slot(UnsafeCell::new(SlotState { ticket: NO_TICKET, answer: Answer::Later, later: None }))
    }
}

impl<'a, R> Dispatch<'a, R> {
    pub(super) fn begin(slot: &'a Slot<R>) -> Self {
        let number = fresh_dispatch();
        Dispatch { slot, number, outer: CURRENT.replace(number) }
    }

    /// Makes the reply of the request with this ticket, calls the service with it, and says what came of it. Tickets must
    /// not repeat within a connection.
    #[inline]
    pub(super) fn serve(
        &mut self,
        ticket: u64,
        later: &Arc<Later<R>>,
        serve: impl FnOnce(Reply<R>),
    ) -> Answer<R> {
        // SAFETY: the slot is this dispatch's own, on this thread, and no reference into it outlives a call: `Reply` makes
        // one only inside `leave`, which returns before anything else runs.
        let state = unsafe { &mut *self.slot.0.get() };
        state.ticket = ticket;
        let link = state.later.take().unwrap_or_else(|| later.clone());
        serve(Reply { later: Some(link), ticket, dispatch: self.number, slot: self.slot });
        // SAFETY: as above; the reference from before the call is not used any more.
        let state = unsafe { &mut *self.slot.0.get() };
        let answer = std::mem::replace(&mut state.answer, Answer::Later);
        if matches!(answer, Answer::Later) {
            // The reply lives on, and must find that its request is not the one that is being served any more.
            state.ticket = NO_TICKET;
        }
        answer
    }
}

impl<R> Drop for Dispatch<'_, R> {
    fn drop(&mut self) {
        CURRENT.set(self.outer);
    }
}

impl<R> Reply<R> {
    /// Sends the response. If the connection has ended, it goes nowhere.
    #[inline]
    pub fn send(mut self, response: R) {
        match self.leave(Some(response)) {
            Some(response) => self.send_later(response),
            // Its link is in the slot now, so that nothing is left to drop; the compiler does not see that by itself.
            None => std::mem::forget(self),
        }
    }

    /// Leaves the response in the slot, if this request is the one that is being served on this thread.
    #[inline]
    fn leave(&mut self, response: Option<R>) -> Option<Option<R>> {
        if CURRENT.get() != self.dispatch {
            return Some(response);
        }
        // SAFETY: the dispatch with this number, of which there is one, is going on on this very thread: it sets `CURRENT` and
        // restores it when it is dropped, before its slot can be. So the slot is alive.
        let slot = unsafe { &*self.slot };
        // SAFETY: nobody else has a reference into the slot: other threads fail the comparison above, and `Dispatch::serve`
        // does not use its own across the service's call.
        let state = unsafe { &mut *slot.0.get() };
        if state.ticket != self.ticket {
            return Some(response);
        }
        state.answer = response.map_or(Answer::Dropped, Answer::Now);
        state.later = self.later.take();
        None
    }

    #[cold]
    fn send_later(&mut self, response: Option<R>) {
        if let Some(later) = self.later.take() {
            later.done.lock().push((self.ticket, response));
            // If the connection has ended, nobody waits for it.
            let _ = later.handle.notify();
        }
    }
}

impl<R> Drop for Reply<R> {
    #[inline]
    fn drop(&mut self) {
        if self.later.is_some() && self.leave(None).is_some() {
            self.send_later(None);
        }
    }
}

// SAFETY: a reply carries a response to another thread, hence the bound. Its pointer is followed only on the thread that made
// it (see `leave`).
unsafe impl<R: Send> Send for Reply<R> {}

impl<R> Later<R> {
    pub(super) fn new(handle: Handle) -> Arc<Self> {
        Arc::new(Later { done: Mutex::new(Vec::new()), handle })
    }

    /// Takes what was sent from elsewhere: tickets, and the responses if they were not dropped.
    pub(super) fn take(&self, into: &mut Vec<(u64, Option<R>)>) {
        std::mem::swap(&mut *self.done.lock(), into);
    }
}

impl<R> fmt::Debug for Reply<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").finish_non_exhaustive()
    }
}
