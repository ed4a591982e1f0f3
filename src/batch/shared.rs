//! What handles, producers and the consumer share: acceptance of items, registration of lanes, the outcome.

use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::thread::{JoinHandle, ThreadId};

use super::builder::Options;
use super::error::{Cause, CloseError, PushError, SyncError};
use super::lane::barrier;
use super::lane::ring::{Lane, Reader, Writer, lane};
use super::lane::weight::Scale;
use super::stats::Counters;
use super::sync::{AtomicBool, AtomicU64, AtomicUsize, Mutex, Ordering, fence};
use super::wait::gate::{FAILED, Gate, Notify, STOPPED};
use super::wait::list::WaitList;

pub(crate) struct Shared<T> {
    pub(crate) gate: Gate,
    pub(crate) options: Options,
    /// Where items are weighed.
    pub(crate) scale: Option<Scale<T>>,
    pub(crate) counters: Counters,
    arrivals: Arrivals<T>,
    /// Somebody may wait for space. Kept apart from the lists so that the consumer looks in one place.
    space_wanted: AtomicBool,
    flush_wanted: AtomicBool,
    /// Handles and producers. At zero nothing can come any more.
    senders: AtomicUsize,
    /// How often somebody asked to be told that everything accepted by then is dealt with, and up to which of them it is.
    syncs: (AtomicU64, AtomicU64),
    outcome: Mutex<Outcome<T>>,
    /// Those who wait for the outcome, or for a sync.
    pub(crate) waiters: WaitList,
    pub(crate) thread: OwnThread,
}

/// Lanes on their way to the consumer.
struct Arrivals<T> {
    readers: Mutex<Vec<Reader<T>>>,
    /// How many have ever arrived.
    count: AtomicUsize,
}

enum Outcome<T> {
    Running,
    Drained,
    Failed { cause: Cause, undelivered: Vec<T> },
}

impl<T> Shared<T> {
    pub(crate) fn new(options: Options, scale: Option<Scale<T>>, notify: Option<Notify>) -> Self {
        barrier::init();
        Self {
            gate: Gate::new(notify),
            options,
            scale,
            counters: Counters::default(),
            arrivals: Arrivals { readers: Mutex::new(Vec::new()), count: AtomicUsize::new(0) },
            space_wanted: AtomicBool::new(false),
            flush_wanted: AtomicBool::new(false),
            senders: AtomicUsize::new(1),
            syncs: (AtomicU64::new(0), AtomicU64::new(0)),
            outcome: Mutex::new(Outcome::Running),
            waiters: WaitList::new(),
            thread: OwnThread::default(),
        }
    }

    // Items in.

    /// Writes the item into the lane. `Ok` means that the consumer gets it, or its loss is reported; and `true`, that
    /// the consumer is to be woken, once the caller holds no lock. `Full` if there is no room that the writer knows of.
    pub(crate) fn try_push(&self, writer: &mut Writer<T>, item: T) -> Result<bool, PushError<T>> {
        match self.try_write(writer, item) {
            Ok(false) => Ok(false),
            Ok(true) => self.attend(writer),
            Err(item) if self.is_stopped() => Err(self.refuse(item)),
            Err(item) => Err(PushError::Full(item)),
        }
    }

    /// The part of `try_push` that every push goes through, small enough to become part of the caller's loop: `Ok` when the item
    /// was written, and `true` that `attend` has to follow. Anything else is for `try_push`, at leisure.
    #[inline(always)]
    pub(crate) fn try_write(&self, writer: &mut Writer<T>, item: T) -> Result<bool, T> {
        if self.gate.state() & STOPPED != 0 {
            return Err(item);
        }
        writer.try_write(item)?;
        Ok(self.gate.wants_attention())
    }

    /// After a write that met a consumer asleep or a batcher just stopped; or any, where the barrier is a fence.
    #[cold]
    pub(crate) fn attend(&self, writer: &mut Writer<T>) -> Result<bool, PushError<T>> {
        let state = self.gate.state_after_write();
        if state & STOPPED != 0
            && let Some(item) = writer.revoke()
        {
            return Err(self.refuse(item));
        }
        Ok(self.gate.is_reason(state, || writer.lane().is_due()))
    }

    /// What comes behind a write, when no lock is held any more.
    pub(crate) fn announce(&self, pushed: Result<bool, PushError<T>>) -> Result<(), PushError<T>> {
        if pushed? {
            self.gate.wake();
        }
        Ok(())
    }

    /// What the item weighs in its lane; runs the application's function, if there is one.
    pub(crate) fn weigh(&self, item: &T) -> usize {
        self.scale.as_ref().map_or(0, |scale| (scale.weigh)(item))
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.gate.state() & STOPPED != 0
    }

    pub(crate) fn refuse(&self, item: T) -> PushError<T> {
        if self.gate.state() & FAILED != 0 { PushError::Failed(item) } else { PushError::Closed(item) }
    }

    /// One step of a push that waits: tries, queues for space, tries again. Leaves the item in its place until
    /// it is accepted or refused.
    pub(crate) fn poll_push(
        &self,
        lane: &Lane<T>,
        ticket: &mut Option<u64>,
        context: &mut Context<'_>,
        item: &mut Option<T>,
        mut attempt: impl FnMut(T) -> Result<(), PushError<T>>,
    ) -> Poll<Result<(), PushError<T>>> {
        for last in [false, true] {
            let Some(pushed) = item.take() else { panic!("a push was polled after it had completed") };
            match attempt(pushed) {
                Err(PushError::Full(back)) => *item = Some(back),
                done => {
                    self.stop_waiting(lane, ticket);
                    return Poll::Ready(done);
                }
            }
            if !last {
                lane.waiters.register(ticket, context.waker());
                // An exchange, here and below: whoever clears it sees what all did who set it.
                self.space_wanted.swap(true, Ordering::AcqRel);
                fence(Ordering::SeqCst); // the consumer does the reverse in `space_freed`
                self.gate.wake(); // it may linger on a part of a batch
            }
        }
        Poll::Pending
    }

    /// Ends a wait, whether the push succeeded or was given up.
    pub(crate) fn stop_waiting(&self, lane: &Lane<T>, ticket: &mut Option<u64>) {
        if let Some(ticket) = ticket.take()
            && lane.waiters.leave(ticket)
            && !lane.waiters.is_empty()
            && lane.is_roomy()
        {
            // Space was announced to this one, and there is more of it: the next in the queue may go on too.
            lane.waiters.wake_one();
        }
    }

    // The consumer's side.

    /// After items were taken: wakes those for whom there is space again in these lanes, which are all that were adopted by then.
    pub(crate) fn space_freed<'a>(&self, seen: usize, lanes: impl Iterator<Item = &'a Lane<T>>)
    where
        T: 'a,
    {
        fence(Ordering::SeqCst);
        if !self.space_wanted.load(Ordering::Relaxed) {
            return;
        }
        // Cleared first: who queues from here on sets it again.
        self.space_wanted.swap(false, Ordering::AcqRel);
        // Who waits at a lane that came in between is looked for once that is among them.
        let mut wanted = self.has_arrivals(seen);
        for lane in lanes.filter(|lane| !lane.waiters.is_empty()) {
            if lane.is_roomy() {
                lane.waiters.wake_one();
            }
            wanted |= !lane.waiters.is_empty();
        }
        if wanted {
            self.space_wanted.swap(true, Ordering::AcqRel);
        }
    }

    /// Moves lanes that are new since `seen` arrivals to the consumer.
    #[inline]
    pub(crate) fn adopt(&self, seen: &mut usize, lanes: &mut Vec<Reader<T>>) {
        if self.has_arrivals(*seen) {
            self.adopt_last(seen, lanes);
        }
    }

    /// As `adopt`, and no lane comes behind it that its writer could use, if the batcher has stopped: whoever registers later
    /// sees that, because of the lock. The count alone may be out of date.
    pub(crate) fn adopt_last(&self, seen: &mut usize, lanes: &mut Vec<Reader<T>>) {
        let mut readers = self.arrivals.readers.lock();
        lanes.append(&mut readers);
        *seen = self.arrivals.count.load(Ordering::Relaxed);
    }

    pub(crate) fn has_arrivals(&self, seen: usize) -> bool {
        self.arrivals.count.load(Ordering::Acquire) != seen
    }

    pub(crate) fn take_flush(&self) -> bool {
        self.flush_wanted.load(Ordering::Relaxed) && self.flush_wanted.swap(false, Ordering::Acquire)
    }

    pub(crate) fn is_flush_wanted(&self) -> bool {
        self.flush_wanted.load(Ordering::Acquire)
    }

    pub(crate) fn settle_drained(&self) {
        self.settle(Outcome::Drained);
    }

    pub(crate) fn settle_failed(&self, cause: Cause, undelivered: Vec<T>) {
        self.settle(Outcome::Failed { cause, undelivered });
    }

    fn settle(&self, outcome: Outcome<T>) {
        *self.outcome.lock() = outcome;
        self.waiters.wake_all();
    }

    /// How often a sync was asked for.
    pub(crate) fn syncs_wanted(&self) -> u64 {
        self.syncs.0.load(Ordering::Acquire)
    }

    /// Everything that was accepted before so many syncs were asked for is dealt with.
    pub(crate) fn synced(&self, syncs: u64) {
        self.syncs.1.store(syncs, Ordering::Release);
        self.waiters.wake_all();
    }

    // The handles' side.

    /// A new lane; the consumer finds its other end.
    pub(crate) fn register(&self) -> Writer<T> {
        let (writer, reader) = lane(self.options.lane, self.scale.as_ref().map(|scale| scale.lane_bytes));
        let mut readers = self.arrivals.readers.lock();
        // Once the consumer has taken the last arrivals, the lock makes its reason visible here and to the
        // writer, which then accepts nothing.
        let accepts = self.gate.state() & STOPPED == 0;
        if accepts {
            readers.push(reader);
            self.arrivals.count.fetch_add(1, Ordering::Release);
        }
        drop(readers);
        if accepts {
            self.gate.wake_if_lingering();
        }
        writer
    }

    pub(crate) fn add_sender(&self) {
        self.senders.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remove_sender(&self) {
        if self.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.gate.stop(0);
        }
    }

    pub(crate) fn flush(&self) {
        if self.options.linger.is_none() {
            return; // a consumer that does not linger was woken by the push itself
        }
        self.flush_wanted.store(true, Ordering::Release);
        fence(Ordering::SeqCst); // the consumer looks at it between arming and sleeping
        self.gate.wake();
    }

    /// Asks to be told when everything accepted so far is dealt with. For `poll_sync`.
    pub(crate) fn want_sync(&self) -> u64 {
        let wanted = self.syncs.0.fetch_add(1, Ordering::AcqRel) + 1;
        self.flush_wanted.store(true, Ordering::Release);
        fence(Ordering::SeqCst); // as for a flush
        self.gate.wake();
        wanted
    }

    pub(crate) fn poll_sync(&self, wanted: u64) -> Poll<Result<(), SyncError>> {
        if self.syncs.1.load(Ordering::Acquire) >= wanted {
            return Poll::Ready(Ok(()));
        }
        match &*self.outcome.lock() {
            Outcome::Running => Poll::Pending,
            Outcome::Drained => Poll::Ready(Ok(())),
            Outcome::Failed { cause, .. } => Poll::Ready(Err(SyncError::Failed(Cause::clone(cause)))),
        }
    }

    /// How it ended, if it did. The first to ask gets what was not delivered.
    pub(crate) fn poll_outcome(&self) -> Poll<Result<(), CloseError<T>>> {
        match &mut *self.outcome.lock() {
            Outcome::Running => Poll::Pending,
            Outcome::Drained => Poll::Ready(Ok(())),
            Outcome::Failed { cause, undelivered } => {
                Poll::Ready(Err(CloseError::failed(Cause::clone(cause), std::mem::take(undelivered))))
            }
        }
    }

    /// Whether waiting on this thread would be waiting for oneself: it is the consumer's, or drives a reactor.
    pub(crate) fn would_deadlock(&self) -> bool {
        self.thread.is_current() || crate::waiting::is_forbidden()
    }
}

/// The consumer's own thread, if it has one.
#[derive(Default)]
pub(crate) struct OwnThread {
    id: OnceLock<ThreadId>,
    handle: Mutex<Option<JoinHandle<()>>>,
}

impl OwnThread {
    /// To be called by the thread, first of all.
    pub(crate) fn entered(&self) {
        self.id.get_or_init(|| std::thread::current().id());
    }

    pub(crate) fn started(&self, handle: JoinHandle<()>) {
        *self.handle.lock() = Some(handle);
    }

    pub(crate) fn is_current(&self) -> bool {
        self.id.get() == Some(&std::thread::current().id())
    }

    pub(crate) fn join(&self) {
        let handle = self.handle.lock().take();
        if let Some(handle) = handle {
            // It settled the outcome, a panic of the closure included; there is nothing more to learn.
            let _ = handle.join();
        }
    }
}

impl<T> std::fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("options", &self.options)
            .field("gate", &self.gate)
            .finish_non_exhaustive()
    }
}
