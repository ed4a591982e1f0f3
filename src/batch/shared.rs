//! What handles, producers and the consumer share: acceptance of items, registration of lanes, the outcome.

use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::thread::{JoinHandle, ThreadId};

use super::builder::Options;
use super::error::{Cause, CloseError, PushError};
use super::lane::barrier;
use super::lane::ring::{Lane, Reader, Writer, lane};
use super::stats::Counters;
use super::sync::{AtomicBool, AtomicUsize, Condvar, Mutex, Ordering, fence, wait};
use super::wait::gate::{FAILED, Gate, Notify, STOPPED};

pub(crate) struct Shared<T> {
    pub(crate) gate: Gate,
    pub(crate) options: Options,
    pub(crate) counters: Counters,
    arrivals: Arrivals<T>,
    /// Somebody may wait for space. Kept apart from the lists so that the consumer looks in one place.
    space_wanted: AtomicBool,
    flush_wanted: AtomicBool,
    /// Handles and producers. At zero nothing can come any more.
    senders: AtomicUsize,
    outcome: Mutex<Outcome<T>>,
    outcome_set: Condvar,
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
    pub(crate) fn new(options: Options, notify: Option<Notify>) -> Self {
        barrier::init();
        Self {
            gate: Gate::new(notify),
            options,
            counters: Counters::default(),
            arrivals: Arrivals { readers: Mutex::new(Vec::new()), count: AtomicUsize::new(0) },
            space_wanted: AtomicBool::new(false),
            flush_wanted: AtomicBool::new(false),
            senders: AtomicUsize::new(1),
            outcome: Mutex::new(Outcome::Running),
            outcome_set: Condvar::new(),
            thread: OwnThread::default(),
        }
    }

    // Items in.

    /// Writes the item into the lane. `Ok` means that the consumer gets it, or its loss is reported.
    #[inline(always)]
    pub(crate) fn try_push(&self, writer: &mut Writer<T>, item: T) -> Result<(), PushError<T>> {
        if self.gate.state() & STOPPED != 0 {
            return Err(self.refuse(item));
        }
        writer.try_write(item).map_err(PushError::Full)?;
        if self.gate.wants_attention() { self.attend(writer) } else { Ok(()) }
    }

    /// After a write that met a consumer asleep or a batcher just stopped; or any, where the barrier is a fence.
    #[cold]
    fn attend(&self, writer: &mut Writer<T>) -> Result<(), PushError<T>> {
        let state = self.gate.state_after_write();
        if state & STOPPED != 0
            && let Some(item) = writer.revoke()
        {
            return Err(self.refuse(item));
        }
        self.gate.wake_for(state, || writer.lane().len());
        Ok(())
    }

    fn refuse(&self, item: T) -> PushError<T> {
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
                self.space_wanted.store(true, Ordering::Release);
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

    /// After items were taken: wakes those for whom there is space again.
    pub(crate) fn space_freed<'a>(&self, lanes: impl Iterator<Item = &'a Lane<T>>)
    where
        T: 'a,
    {
        fence(Ordering::SeqCst);
        if !self.space_wanted.load(Ordering::Relaxed) {
            return;
        }
        // Cleared first: who queues from here on sets it again.
        self.space_wanted.swap(false, Ordering::AcqRel);
        let mut wanted = false;
        for lane in lanes.filter(|lane| !lane.waiters.is_empty()) {
            if lane.is_roomy() {
                lane.waiters.wake_one();
            }
            wanted |= !lane.waiters.is_empty();
        }
        if wanted {
            self.space_wanted.store(true, Ordering::Release);
        }
    }

    /// Moves lanes that are new since `seen` arrivals to the consumer.
    #[inline]
    pub(crate) fn adopt(&self, seen: &mut usize, lanes: &mut Vec<Reader<T>>) {
        if self.has_arrivals(*seen) {
            let mut readers = self.arrivals.readers.lock();
            lanes.append(&mut readers);
            *seen = self.arrivals.count.load(Ordering::Relaxed);
        }
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
        self.outcome_set.notify_all();
    }

    // The handles' side.

    /// A new lane; the consumer finds its other end.
    pub(crate) fn register(&self) -> Writer<T> {
        let (writer, reader) = lane(self.options.lane);
        let mut readers = self.arrivals.readers.lock();
        // Once the consumer has taken the last arrivals, the lock makes its reason visible here and to the
        // writer, which then accepts nothing.
        if self.gate.state() & STOPPED == 0 {
            readers.push(reader);
            self.arrivals.count.fetch_add(1, Ordering::Release);
        }
        drop(readers);
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

    pub(crate) fn close(&self) -> Result<(), CloseError<T>> {
        self.gate.stop(0);
        if self.thread.is_current() {
            return Ok(());
        }
        let mut outcome = self.outcome.lock();
        while matches!(*outcome, Outcome::Running) {
            outcome = wait(&self.outcome_set, outcome);
        }
        let result = match &mut *outcome {
            Outcome::Failed { cause, undelivered } => {
                Err(CloseError::new(Cause::clone(cause), std::mem::take(undelivered)))
            }
            Outcome::Running | Outcome::Drained => Ok(()),
        };
        drop(outcome);
        self.thread.join();
        result
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

    fn is_current(&self) -> bool {
        self.id.get() == Some(&std::thread::current().id())
    }

    fn join(&self) {
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
