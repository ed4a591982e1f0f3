//! The right to answer one request, now or later, here or elsewhere.
#![allow(unsafe_code)]

use super::later::{Later, Said};
use super::parts::Parts;
use crate::reactor::Address;
use crate::rpc::notice::Why;
use std::cell::{Cell, UnsafeCell};
use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Answers one request.
///
/// Sent while the service is being called, the response goes straight into the connection's output: no lock, no allocation.
/// Or move it to another thread or task and send it whenever it is ready.
///
/// One that is dropped without being sent is not forgotten: the service is asked for a substitute
/// ([`Service::substitute`](crate::rpc::Service::substitute)), and if it has none, the connection is reset behind the responses
/// before it. Only a protocol without correlation has no need of that.
#[must_use = "a request without a reply ends its connection"]
pub struct Reply<R> {
    /// Where the response goes if it is not sent at once. A reference that the slot counted beforehand, and that passes to
    /// this reply when it leaves its dispatch.
    later: NonNull<Later<R>>,
    ticket: u64,
    dispatch: u64,
    slot: *const Slot<R>,
}

/// What the request that is being served came to so far.
pub(in crate::rpc) enum Answer<R> {
    /// The reply is alive, or was sent from elsewhere.
    Later,
    Now(R),
    /// As `Now`, and then the connection closes.
    Last(R),
    Dropped,
}

/// Where a reply leaves its response as long as its service is being called.
pub(in crate::rpc) struct Slot<R> {
    /// The request whose service is being called. Apart from the answer, because replies of other requests look at it while
    /// the answer is borrowed.
    ticket: Cell<u64>,
    answer: UnsafeCell<Answer<R>>,
    /// Counted once more than this slot needs it: for the reply that is out.
    spare: Cell<NonNull<Later<R>>>,
}

thread_local! {
    /// The dispatch that is going on on this thread; 0 if none.
    static CURRENT: Cell<u64> = const { Cell::new(0) };
    /// The next number of this thread's block of them.
    static NEXT: Cell<u64> = const { Cell::new(0) };
}

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
pub(in crate::rpc) struct Dispatch<'a, R> {
    slot: &'a Slot<R>,
    later: &'a Arc<Later<R>>,
    number: u64,
    outer: u64,
}

impl<R> Slot<R> {
    pub(in crate::rpc) fn new(later: &Arc<Later<R>>) -> Self {
        let (ticket, answer) = (Cell::new(NOBODY), UnsafeCell::new(Answer::Later));
        Slot { ticket, answer, spare: Cell::new(counted(later.clone())) }
    }

    /// What came of the request whose service panicked in the dispatch that has ended, if that is why it ended.
    pub(in crate::rpc) fn take_panicked(&mut self, later: &Arc<Later<R>>) -> Option<(u64, Answer<R>)> {
        let ticket = self.ticket.get();
        if ticket == NOBODY {
            return None;
        }
        if self.is_spare_gone() {
            self.replace_spare(later);
        }
        self.ticket.set(NOBODY);
        Some((ticket, std::mem::replace(self.answer.get_mut(), Answer::Later)))
    }

    /// A service panicked, and its reply was not among what was dropped for that: it took the spare reference with it.
    fn is_spare_gone(&mut self) -> bool {
        self.ticket.get() != NOBODY && matches!(self.answer.get_mut(), Answer::Later)
    }

    /// The reply that was out has taken the spare reference with it: counts another one.
    #[cold]
    fn replace_spare(&self, later: &Arc<Later<R>>) {
        self.spare.set(counted(later.clone()));
    }
}

impl<R> Drop for Slot<R> {
    fn drop(&mut self) {
        if self.is_spare_gone() {
            return;
        }
        // SAFETY: the slot owns the spare reference: whenever a reply took it, another one was put in its place, but for the
        // reply of a service that panicked.
        drop(unsafe { Arc::from_raw(self.spare.get().as_ptr()) });
    }
}

/// A slot whose contents go home when this is dropped, whatever happens meanwhile: moved and not referred to, so that they need not
/// have an address as long as they are used.
pub(in crate::rpc) struct Lent<'h, R> {
    pub(in crate::rpc) slot: ManuallyDrop<Slot<R>>,
    home: &'h mut Slot<R>,
}

impl<'h, R> Lent<'h, R> {
    /// Until this is dropped, the spare reference is the lent slot's.
    pub(in crate::rpc) fn new(home: &'h mut Slot<R>) -> Self {
        let (ticket, answer) = (Cell::new(NOBODY), UnsafeCell::new(Answer::Later));
        let slot = Slot { ticket, answer, spare: Cell::new(home.spare.get()) };
        Lent { slot: ManuallyDrop::new(slot), home }
    }
}

impl<R> Drop for Lent<'_, R> {
    #[inline(always)]
    fn drop(&mut self) {
        let ticket = self.slot.ticket.get();
        self.home.spare.set(self.slot.spare.get());
        self.home.ticket.set(ticket);
        // SAFETY: this is the end of the slot, which is not dropped itself; its dispatch has ended, so nobody has a reference.
        let answer = unsafe { std::ptr::read(self.slot.answer.get()) };
        if ticket == NOBODY {
            // What it says has been seen. Known to the compiler, so that it need not be kept in the loop.
            drop(answer);
        } else {
            *self.home.answer.get_mut() = answer;
        }
    }
}

/// A reference that somebody has to give back by `Arc::from_raw`.
fn counted<R>(later: Arc<Later<R>>) -> NonNull<Later<R>> {
    NonNull::new(Arc::into_raw(later).cast_mut()).expect("an `Arc` is never null")
}

/// A ticket that no request has.
const NOBODY: u64 = u64::MAX;

impl<'a, R> Dispatch<'a, R> {
    pub(in crate::rpc) fn begin(slot: &'a Slot<R>, later: &'a Arc<Later<R>>) -> Self {
        let number = fresh_dispatch();
        Dispatch { slot, later, number, outer: CURRENT.replace(number) }
    }

    /// Makes the reply of the request with this ticket, calls the service with it, and says what came of it. Tickets must
    /// not repeat within a connection. The answer stays where it is, for a large response is best encoded there; what is
    /// not taken is dropped before the next request.
    #[inline]
    pub(in crate::rpc) fn serve(&mut self, ticket: u64, serve: impl FnOnce(Reply<R>)) -> &mut Answer<R> {
        // Drops a response that was not taken, which may run anything; the slot is nobody's meanwhile.
        *self.answer() = Answer::Later;
        self.slot.ticket.set(ticket);
        let reply = Reply { later: self.slot.spare.get(), ticket, dispatch: self.number, slot: self.slot };
        serve(reply);
        self.end_serving();
        self.answer()
    }

    /// The service has returned.
    #[inline]
    fn end_serving(&mut self) {
        self.slot.ticket.set(NOBODY);
        if let Answer::Later = self.answer() {
            // The reply has left, and took the spare reference with it.
            self.slot.replace_spare(self.later);
        }
    }

    #[inline]
    fn answer(&mut self) -> &mut Answer<R> {
        // SAFETY: the slot has one dispatch, on this thread, which is borrowed as long as this reference lives. A reply makes
        // a reference of its own only while `serve` calls the service, when there is none of these: at any other time no
        // reply finds its ticket in the slot, and the ticket is all that it looks at.
        unsafe { &mut *self.slot.answer.get() }
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
    pub fn send(self, response: R) {
        self.finish(Answer::Now(response));
    }

    /// Sends the response, and has the connection closed behind it once everything that came before is answered. No more
    /// requests are taken; those that come behind this one are not served.
    pub fn send_and_close(self, response: R) {
        self.finish(Answer::Last(response));
    }

    /// For a request that is answered by more than one response, if the protocol knows such: see [`Parts`].
    pub fn in_parts(self) -> Parts<R> {
        let Reply { later, ticket, .. } = *ManuallyDrop::new(self);
        // SAFETY: this reply has left its dispatch without a word, so the dispatch counts another reference for its slot, or
        // has done so, and this one was the reply's alone.
        let later = unsafe { Arc::from_raw(later.as_ptr()) };
        Parts { later, ticket, ended: false }
    }

    /// The number of the request on its connection, counted from 0: to know it again in
    /// [`Service::substitute`](crate::rpc::Service::substitute).
    pub fn request_number(&self) -> u64 {
        self.ticket
    }

    /// Who asks.
    pub fn peer(&self) -> &Address {
        self.later().peer()
    }

    /// Whether anybody still waits for the response: `false` once the connection has ended, or the request's time is over
    /// ([`ServerOptions::request_timeout`](crate::rpc::ServerOptions::request_timeout)). For work that is worth giving up.
    pub fn is_wanted(&self) -> bool {
        self.later().is_wanted(self.ticket)
    }

    fn later(&self) -> &Later<R> {
        // SAFETY: the reference that the slot counted for this reply, or that went over to it, is given back when the reply
        // is consumed and not before.
        unsafe { self.later.as_ref() }
    }

    /// The future that was to answer has panicked.
    pub(in crate::rpc) fn panicked(self) {
        let Reply { later, ticket, dispatch, slot } = *ManuallyDrop::new(self);
        if Self::leave(slot, ticket, dispatch, Answer::Dropped).is_some() {
            Self::send_later(later, ticket, Said::Nothing(Why::Panicked));
        }
    }

    #[inline]
    fn finish(self, answer: Answer<R>) {
        let Reply { later, ticket, dispatch, slot } = *ManuallyDrop::new(self);
        if let Some(answer) = Self::leave(slot, ticket, dispatch, answer) {
            Self::send_later(later, ticket, Said::from(answer));
        }
    }

    /// Leaves the answer in the slot, if this request is the one that is being served on this thread. The spare reference
    /// then stays where it was.
    #[inline]
    fn leave(slot: *const Slot<R>, ticket: u64, dispatch: u64, left: Answer<R>) -> Option<Answer<R>> {
        if CURRENT.get() != dispatch {
            return Some(left);
        }
        // SAFETY: the dispatch with this number, of which there is one, is going on on this very thread: it sets `CURRENT` and
        // restores it when it is dropped, before its slot can be. So the slot is alive.
        let slot = unsafe { &*slot };
        if slot.ticket.get() != ticket {
            return Some(left);
        }
        // SAFETY: nobody else has a reference to the answer: other threads fail the comparison of numbers, other requests
        // that of tickets, and `Dispatch` has none as long as the slot has a ticket.
        let answer = unsafe { &mut *slot.answer.get() };
        *answer = left;
        None
    }

    /// Called once, by whoever consumes the reply.
    #[cold]
    fn send_later(later: NonNull<Later<R>>, ticket: u64, said: Said<R>) {
        // SAFETY: this reply has left its dispatch (`leave` said so), or is consumed by the service's own call for another
        // request; either way the dispatch that made it counts, or has counted, another reference for its slot, and this
        // one is the reply's alone.
        let later = unsafe { Arc::from_raw(later.as_ptr()) };
        // If the connection has ended, nobody waits for it.
        let _ = later.put(ticket, said);
    }
}

impl<R> Drop for Reply<R> {
    #[inline]
    fn drop(&mut self) {
        if Self::leave(self.slot, self.ticket, self.dispatch, Answer::Dropped).is_some() {
            Self::send_later(self.later, self.ticket, Said::Nothing(Why::Dropped));
        }
    }
}

// SAFETY: a reply carries a response to another thread, hence the bound. Its pointer is followed only on the thread that made
// it (see `leave`).
unsafe impl<R: Send> Send for Reply<R> {}

impl<R> From<Answer<R>> for Said<R> {
    fn from(answer: Answer<R>) -> Self {
        match answer {
            Answer::Now(response) => Said::Response(response),
            Answer::Last(response) => Said::Last(response),
            Answer::Later | Answer::Dropped => Said::Nothing(Why::Dropped),
        }
    }
}

impl<R> fmt::Debug for Reply<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").finish_non_exhaustive()
    }
}

/// Meant for Miri as well, which checks what the `SAFETY` comments say.
#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::thread;

    type Text = String;

    fn unattached() -> Arc<Later<Text>> {
        Later::new(None, std::net::SocketAddr::from(([127, 0, 0, 1], 1)).into())
    }

    fn taken(later: &Later<Text>) -> Vec<(u64, Option<Text>)> {
        let mut done = Vec::new();
        later.take(&mut done);
        let response = |said| match said {
            Said::Response(response) => Some(response),
            _ => None,
        };
        done.into_iter().map(|(ticket, said)| (ticket, response(said))).collect()
    }

    fn now(answer: &mut Answer<Text>) -> Option<Text> {
        match answer {
            Answer::Now(response) => Some(response.clone()),
            Answer::Last(_) | Answer::Later | Answer::Dropped => None,
        }
    }

    #[test]
    fn a_reply_at_once_stays_in_the_slot_and_gives_its_link_back() {
        let later = unattached();
        let slot = Slot::new(&later);
        let mut dispatch = Dispatch::begin(&slot, &later);
        for ticket in 0..3 {
            let answer = dispatch.serve(ticket, |reply| reply.send(ticket.to_string()));
            assert_eq!(now(answer), Some(ticket.to_string()));
            assert_eq!(Arc::strong_count(&later), 2, "the slot keeps one");
        }
        assert!(taken(&later).is_empty());
    }

    #[test]
    fn a_dropped_reply_is_noticed() {
        let later = unattached();
        let slot = Slot::new(&later);
        let mut dispatch = Dispatch::begin(&slot, &later);
        assert!(matches!(dispatch.serve(0, drop), Answer::Dropped));
        let mut kept = None;
        assert!(matches!(dispatch.serve(1, |reply| kept = Some(reply)), Answer::Later));
        drop(kept);
        assert_eq!(taken(&later), [(1, None)]);
    }

    #[test]
    fn a_reply_from_another_thread_comes_later() {
        let later = unattached();
        let slot = Slot::new(&later);
        let mut dispatch = Dispatch::begin(&slot, &later);
        // Also while the service is still being called.
        let answer = dispatch.serve(0, |reply| {
            thread::spawn(move || reply.send("joined".to_owned())).join().unwrap();
        });
        assert!(matches!(answer, Answer::Later));
        let mut sending = None;
        let answer = dispatch.serve(1, |reply| {
            sending = Some(thread::spawn(move || reply.send("raced".to_owned())));
        });
        assert!(matches!(answer, Answer::Later));
        let answer = dispatch.serve(2, |reply| drop(thread::spawn(move || drop(reply)).join()));
        assert!(matches!(answer, Answer::Later));
        sending.unwrap().join().unwrap();
        let mut done = taken(&later);
        done.sort();
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(done, [(0, text("joined")), (1, text("raced")), (2, None)]);
    }

    #[test]
    fn a_reply_does_not_take_another_requests_slot() {
        let later = unattached();
        let slot = Slot::new(&later);
        let mut kept = Vec::new();
        let mut dispatch = Dispatch::begin(&slot, &later);
        dispatch.serve(0, |reply| kept.push(reply));
        dispatch.serve(1, |reply| kept.push(reply));
        let answer = dispatch.serve(2, |reply| {
            kept.remove(0).send("stale".to_owned());
            reply.send("fresh".to_owned());
        });
        assert_eq!(now(answer), Some("fresh".to_owned()));
        // Between two requests, and behind the dispatch, when the slot may be gone.
        kept.remove(0).send("between".to_owned());
        dispatch.serve(3, |reply| kept.push(reply));
        drop(dispatch);
        drop(slot);
        kept.remove(0).send("behind".to_owned());
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(taken(&later), [(0, text("stale")), (1, text("between")), (3, text("behind"))]);
    }

    /// What a responder does with an answer while replies of other requests are sent: the answer is borrowed all the time.
    #[test]
    fn other_replies_are_sent_while_an_answer_is_borrowed() {
        let later = unattached();
        let slot = Slot::new(&later);
        let mut kept = Vec::new();
        let mut dispatch = Dispatch::begin(&slot, &later);
        for ticket in 0..3 {
            dispatch.serve(ticket, |reply| kept.push(reply));
        }
        let answer = dispatch.serve(3, drop);
        // As by a service that makes a substitute, then by an encoder.
        kept.remove(0).send("during the substitute".to_owned());
        *answer = Answer::Now("substitute".to_owned());
        drop(kept.remove(0));
        assert_eq!(now(answer), Some("substitute".to_owned()));
        // And the other way round: first an answer at once, which is looked at.
        let answer = dispatch.serve(4, |reply| reply.send("at once".to_owned()));
        let Answer::Now(response) = &*answer else { panic!("it was sent") };
        kept.remove(0).send("during the encoding".to_owned());
        assert_eq!(response, "at once");
        let text = |text: &str| Some(text.to_owned());
        let expected = [(0, text("during the substitute")), (1, None), (2, text("during the encoding"))];
        assert_eq!(taken(&later), expected);
    }

    /// A response that sends another request's reply when it is dropped.
    struct Tells(Option<Reply<Tells>>);

    impl Drop for Tells {
        fn drop(&mut self) {
            if let Some(reply) = self.0.take() {
                reply.send(Tells(None));
            }
        }
    }

    #[test]
    fn a_response_that_sends_a_reply_when_it_is_dropped() {
        let later = Later::new(None, std::net::SocketAddr::from(([127, 0, 0, 1], 1)).into());
        let slot = Slot::new(&later);
        let mut kept = None;
        let mut dispatch = Dispatch::begin(&slot, &later);
        dispatch.serve(0, |reply| kept = Some(reply));
        dispatch.serve(1, |reply| reply.send(Tells(kept.take())));
        // The answer before is dropped here, before the slot is this request's.
        let answer = dispatch.serve(2, |reply| reply.send(Tells(None)));
        assert!(matches!(answer, Answer::Now(Tells(None))));
        let mut done = Vec::new();
        later.take(&mut done);
        assert!(matches!(&done[..], [(0, Said::Response(_))]));
    }

    #[test]
    fn a_reply_of_an_earlier_dispatch_is_told_from_a_later_ones() {
        let later = unattached();
        let slot = Slot::new(&later);
        let mut kept = None;
        Dispatch::begin(&slot, &later).serve(7, |reply| kept = Some(reply));
        // The same ticket in the same slot, as if another connection's.
        let mut dispatch = Dispatch::begin(&slot, &later);
        let answer = dispatch.serve(7, |reply| {
            kept.take().unwrap().send("old".to_owned());
            reply.send("new".to_owned());
        });
        assert_eq!(now(answer), Some("new".to_owned()));
        assert_eq!(taken(&later), [(7, Some("old".to_owned()))]);
    }

    #[test]
    fn dispatches_nest() {
        let (outer_later, inner_later) = (unattached(), unattached());
        let (outer_slot, inner_slot) = (Slot::new(&outer_later), Slot::new(&inner_later));
        let mut outer = Dispatch::begin(&outer_slot, &outer_later);
        let mut inner_kept = None;
        let answer = outer.serve(0, |outer_reply| {
            let mut inner = Dispatch::begin(&inner_slot, &inner_later);
            let answer = inner.serve(0, |inner_reply| inner_reply.send("inner".to_owned()));
            assert_eq!(now(answer), Some("inner".to_owned()));
            inner.serve(1, |inner_reply| inner_kept = Some(inner_reply));
            drop(inner);
            // The outer one goes on where it was.
            outer_reply.send("outer".to_owned());
        });
        assert_eq!(now(answer), Some("outer".to_owned()));
        // In the inner one, the outer reply is one from elsewhere.
        let answer = outer.serve(1, |outer_reply| {
            let mut inner = Dispatch::begin(&inner_slot, &inner_later);
            let answer = inner.serve(2, |inner_reply| {
                outer_reply.send("detour".to_owned());
                drop(inner_reply);
            });
            assert!(matches!(answer, Answer::Dropped));
        });
        assert!(matches!(answer, Answer::Later));
        assert_eq!(taken(&outer_later), [(1, Some("detour".to_owned()))]);
        drop(inner_kept);
        assert_eq!(taken(&inner_later), [(1, None)]);
    }

    #[test]
    fn a_panic_in_a_service_ends_its_dispatch() {
        let later = unattached();
        let mut slot = Slot::new(&later);
        let serving = AssertUnwindSafe(|| {
            Dispatch::begin(&slot, &later).serve(0, |_reply| panic!("on purpose"));
        });
        assert!(catch_unwind(serving).is_err());
        assert_eq!(CURRENT.get(), 0);
        assert!(matches!(slot.take_panicked(&later), Some((0, Answer::Dropped))));
        assert!(slot.take_panicked(&later).is_none());
        let mut dispatch = Dispatch::begin(&slot, &later);
        let answer = dispatch.serve(1, |reply| reply.send("next".to_owned()));
        assert_eq!(now(answer), Some("next".to_owned()));
    }

    #[test]
    fn references_are_given_back_whatever_becomes_of_replies() {
        let later = unattached();
        let mut slot = Slot::new(&later);
        let mut kept = None;
        let mut dispatch = Dispatch::begin(&slot, &later);
        dispatch.serve(0, |reply| kept = Some(reply));
        assert_eq!(Arc::strong_count(&later), 3, "ours, the slot's, the reply's");
        drop(kept.take());
        assert_eq!(Arc::strong_count(&later), 2);
        let leaves_and_panics = AssertUnwindSafe(|| {
            dispatch.serve(1, |reply| {
                kept = Some(reply);
                panic!("on purpose");
            });
        });
        assert!(catch_unwind(leaves_and_panics).is_err());
        drop(dispatch);
        assert!(matches!(slot.take_panicked(&later), Some((1, Answer::Later))));
        drop(slot);
        assert_eq!(Arc::strong_count(&later), 2);
        kept.take().unwrap().send("late".to_owned());
        assert_eq!(Arc::strong_count(&later), 1);
        assert_eq!(taken(&later), [(0, None), (1, Some("late".to_owned()))]);
    }

    #[test]
    fn what_is_lent_goes_home() {
        let later = unattached();
        let mut home = Slot::new(&later);
        let mut kept = Vec::new();
        {
            let lent = Lent::new(&mut home);
            let mut dispatch = Dispatch::begin(&lent.slot, &later);
            dispatch.serve(0, |reply| kept.push(reply));
            dispatch.serve(1, |reply| reply.send("dropped with the slot".to_owned()));
        }
        assert!(home.take_panicked(&later).is_none());
        for (ticket, leaves) in [(2, false), (3, true)] {
            let serving = AssertUnwindSafe(|| {
                let lent = Lent::new(&mut home);
                Dispatch::begin(&lent.slot, &later).serve(ticket, |reply| {
                    if leaves {
                        kept.push(reply);
                    } else {
                        reply.send("said".to_owned());
                    }
                    panic!("on purpose");
                });
            });
            assert!(catch_unwind(serving).is_err());
            let (panicked, mut answer) = home.take_panicked(&later).unwrap();
            assert_eq!((panicked, now(&mut answer)), (ticket, (!leaves).then(|| "said".to_owned())));
        }
        kept.into_iter().for_each(|reply| reply.send("late".to_owned()));
        drop(home);
        assert_eq!(Arc::strong_count(&later), 1);
        let late = Some("late".to_owned());
        assert_eq!(taken(&later), [(0, late.clone()), (3, late)]);
    }

    #[test]
    fn numbers_of_dispatches_are_not_shared_by_threads() {
        let mut numbers: Vec<u64> = (0..4)
            .map(|_| thread::spawn(|| [fresh_dispatch(), fresh_dispatch()]))
            .flat_map(|thread| thread.join().unwrap())
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 8);
        assert_ne!(numbers[0], 0);
    }
}
