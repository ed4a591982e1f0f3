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
pub(super) struct Slot<R> {
    /// The request whose reply may leave something here.
    ticket: Cell<u64>,
    answer: UnsafeCell<Answer<R>>,
    /// The reply's link, given back, so that the next one need not count references.
    later: Cell<Option<Arc<Later<R>>>>,
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
        Slot { ticket: Cell::new(NO_TICKET), answer: UnsafeCell::new(Answer::Later), later: Cell::new(None) }
    }
}

impl<'a, R> Dispatch<'a, R> {
    pub(super) fn begin(slot: &'a Slot<R>) -> Self {
        let number = fresh_dispatch();
        Dispatch { slot, number, outer: CURRENT.replace(number) }
    }

    /// Makes the reply of the request with this ticket, calls the service with it, and says what came of it. Tickets must
    /// not repeat within a connection. The answer stays where it is, for a large response is best encoded there; what is
    /// not taken is dropped before the next request.
    #[inline]
    pub(super) fn serve(
        &mut self,
        ticket: u64,
        later: &Arc<Later<R>>,
        serve: impl FnOnce(Reply<R>),
    ) -> &mut Answer<R> {
        self.answer().clear();
        self.slot.ticket.set(ticket);
        let link = self.slot.later.take().unwrap_or_else(|| later.clone());
        serve(Reply { later: Some(link), ticket, dispatch: self.number, slot: self.slot });
        // If the reply lives on, it must find that its request is not the one that is being served any more.
        self.slot.ticket.set(NO_TICKET);
        self.answer()
    }

    #[inline]
    fn answer(&mut self) -> &mut Answer<R> {
        // SAFETY: a slot has one dispatch at a time (both are the connection's handler's own), which is borrowed as long as
        // this reference lives. A reply makes one only while `serve` calls the service, when there is none of these: at any
        // other time no reply finds its ticket in the slot.
        unsafe { &mut *self.slot.answer.get() }
    }
}

impl<R> Answer<R> {
    /// Leaves nothing behind.
    #[inline]
    fn clear(&mut self) {
        self.take();
    }

    #[inline]
    pub(super) fn take(&mut self) -> Self {
        std::mem::replace(self, Answer::Later)
    }
}

impl<R> Drop for Dispatch<'_, R> {
    fn drop(&mut self) {
        self.answer().clear();
        CURRENT.set(self.outer);
    }
}

impl<R> Reply<R> {
    /// Sends the response. If the connection has ended, it goes nowhere.
    #[inline]
    pub fn send(mut self, response: R) {
        self.answer(Some(response));
        // Nothing is left to drop; the compiler does not see that by itself.
        std::mem::forget(self);
    }

    /// Takes the link, with which the right to answer is gone.
    #[inline]
    fn answer(&mut self, response: Option<R>) {
        let Some(later) = self.later.take() else { return };
        if !self.is_being_served() {
            return later.answer(self.ticket, response);
        }
        // SAFETY: as the request is being served, its slot is there.
        let slot = unsafe { &*self.slot };
        // SAFETY: the slot is used on this thread only, and nobody has a reference to the answer: the dispatch has none while
        // it calls the service, outside of which no ticket is there.
        unsafe { *slot.answer.get() = response.map_or(Answer::Dropped, Answer::Now) };
        // The dispatch has taken the one that was there, so that nothing is to be dropped here either.
        std::mem::forget(slot.later.replace(Some(later)));
    }

    /// Whether this request is the one that is being served on this thread.
    #[inline]
    fn is_being_served(&self) -> bool {
        // SAFETY: the dispatch with this number, of which there is one, is going on on this very thread: it sets `CURRENT` and
        // restores it when it is dropped, before its slot can be.
        CURRENT.get() == self.dispatch && unsafe { &*self.slot }.ticket.get() == self.ticket
    }
}

impl<R> Drop for Reply<R> {
    #[inline]
    fn drop(&mut self) {
        self.answer(None);
    }
}

// SAFETY: a reply carries a response to another thread, hence the bound. Its pointer is followed only on the thread that made
// it (see `is_being_served`).
unsafe impl<R: Send> Send for Reply<R> {}

impl<R> Later<R> {
    pub(super) fn new(handle: Handle) -> Arc<Self> {
        Arc::new(Later { done: Mutex::new(Vec::new()), handle })
    }

    /// An answer from elsewhere, or `None` if there will be none. By value, so that a reply that is sent at once need not lie
    /// in memory.
    #[cold]
    fn answer(self: Arc<Self>, ticket: u64, response: Option<R>) {
        self.done.lock().push((ticket, response));
        // If the connection has ended, nobody waits for it.
        let _ = self.handle.notify();
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
