//! The receiving end: batches for a thread, or items for an event loop.

mod linger;

use std::error::Error;
use std::time::{Duration, Instant};

use super::error::{Abandoned, Cause};
use super::lane::barrier;
use super::lane::ring::Reader;
use super::lane::run::Run;
use super::shared::Shared;
use super::sync::Arc;
use super::wait::gate::{ASLEEP, FAILED, STOPPED};

/// How long to leave the lanes alone after a small batch. About as many items come in that time as make up for
/// the cache lines that a look takes.
const PACE: Duration = Duration::from_micros(4);
/// How long to look again before sleeping: what the wake-up of a thread costs, so that neither a short pause nor
/// a long one costs more than twice what it must.
const PATIENCE: Duration = Duration::from_micros(25);

/// The one consumer of a batcher. `Send`: it may move to the thread that drives it.
///
/// Either **blocking**: [`recv`](Self::recv), a batch at a time. Or **from an event loop**:
/// [`drain`](Self::drain) or [`drain_runs`](Self::drain_runs) in every turn, and before the loop sleeps the two
/// phases [`prepare_sleep`](Self::prepare_sleep) and [`is_ready`](Self::is_ready).
///
/// The end comes through [`is_finished`](Self::is_finished) (or `recv` returning 0), which is what lets
/// [`Batcher::close`](super::Batcher::close) return: the consumer came back for more, so it is done with what
/// it had. A consumer dropped earlier counts as failed, and what it did not take goes back to `close`.
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    lanes: Vec<Reader<T>>,
    /// The lane whose turn it is.
    next: usize,
    /// What the lanes held when they were looked at last; kept for its memory.
    looked: Vec<usize>,
    /// Lanes adopted so far.
    seen: usize,
    phase: Phase,
    /// No item in the lanes was pushed before this.
    oldest: Instant,
    /// What was pushed before a flush has not all left yet.
    flushing: bool,
    /// A flush was asked for that the event loop has not been told of.
    flush_seen: bool,
    /// The sync that is going on: the lanes are marked where they ended when it began.
    syncing: Option<u64>,
    /// Syncs that are done.
    synced: u64,
    /// The last batch was a small one, and the consumer is back already.
    hurried: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// Every lane has an end; what is before it remains to be taken.
    Sealed,
    /// Drained or failed, and `close` knows.
    Settled,
}

impl<T> Consumer<T> {
    pub(crate) fn new(shared: Arc<Shared<T>>) -> Self {
        Self {
            shared,
            lanes: Vec::new(),
            next: 0,
            looked: Vec::new(),
            seen: 0,
            phase: Phase::Open,
            oldest: Instant::now(),
            flushing: false,
            flush_seen: false,
            syncing: None,
            synced: 0,
            hurried: false,
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared<T>> {
        &self.shared
    }

    pub(crate) fn batch_limit(&self) -> usize {
        self.shared.options.batch
    }

    // For a thread of its own.

    /// Waits for a batch and appends it to `batch`: how many items, at most the configured size. 0 means that
    /// the batcher is closed and everything was delivered.
    ///
    /// Coming back says that the batch before is dealt with. To report that it could not be, call
    /// [`fail`](Self::fail).
    pub fn recv(&mut self, batch: &mut Vec<T>) -> usize {
        let limit = self.batch_limit();
        let linger = self.shared.options.linger;
        let mut idle_since = None;
        let mut taken = 0;
        let mut deadline = None;
        let mut weight = 0_usize;
        self.came_back();
        if self.hurried {
            self.pace();
        }
        loop {
            let stopping = self.seal_if_stopped();
            // Before looking for items: what was pushed before a flush is then seen.
            if self.shared.take_flush() {
                self.flushing = true;
                self.begin_sync();
                if taken == 0 {
                    self.came_back();
                }
            }
            let started = linger.map(|_| Instant::now());
            let before = batch.len();
            taken += self.pass(limit - taken, &mut |run| run.append_to(batch));
            if taken == limit {
                break;
            }
            // From here on: every lane was seen empty at some time after `started`.
            let flushed = std::mem::take(&mut self.flushing);
            let first = started.map(|started| std::mem::replace(&mut self.oldest, started));
            if taken == 0 && stopping {
                self.settle_drained();
                return 0;
            }
            if taken == 0 {
                self.idle(&mut idle_since);
                continue;
            }
            let (Some(linger), Some(first), Some(started)) = (linger, first, started) else { break };
            let deadline = *deadline.get_or_insert(first + linger);
            let heavy = self.shared.scale.as_ref().is_some_and(|scale| {
                let more = batch[before..].iter().map(|item| (scale.weigh)(item));
                weight = more.fold(weight, usize::saturating_add);
                weight >= scale.lane_bytes
            });
            if flushed || stopping || heavy || started >= deadline {
                break;
            }
            self.sleep(Some((limit - taken, deadline)));
        }
        self.hurried = taken < limit / 2;
        self.shared.counters.batch(taken);
        taken
    }

    /// After a small batch: lets the next one grow for a moment. Each look at a lane takes a cache line from its
    /// producer, and looking all the time would slow down exactly those who are busiest.
    fn pace(&self) {
        let started = Instant::now();
        while !cfg!(loom) && started.elapsed() < PACE {
            std::thread::yield_now();
        }
    }

    /// Nothing to do: looks again for as long as a wake-up would cost, then sleeps.
    fn idle(&mut self, since: &mut Option<Instant>) {
        let now = Instant::now();
        if !cfg!(loom) && now.duration_since(*since.get_or_insert(now)) < PATIENCE {
            std::thread::yield_now();
            return;
        }
        self.sleep(None);
        *since = None;
        if self.shared.options.linger.is_some() {
            self.oldest = Instant::now();
        }
    }

    /// Sleeps until there is something, or with a part of a batch until `missing` items fill it or the deadline.
    fn sleep(&mut self, linger: Option<(usize, Instant)>) {
        self.shared.gate.enlist();
        match linger {
            None => self.shared.gate.arm(ASLEEP),
            Some((missing, _)) => self.arm_for(missing),
        }
        barrier::heavy();
        if self.has_reason(linger.is_some()) {
            self.shared.gate.disarm();
            return;
        }
        self.shared.counters.sleep();
        self.shared.gate.sleep(linger.map(|(_, deadline)| deadline));
    }

    // Syncs: who asks waits until the consumer has come back behind everything that was accepted before.

    /// A flush may be a sync.
    fn look_for_flush(&mut self) {
        if self.shared.take_flush() {
            self.flush_seen = true;
            self.begin_sync();
            self.came_back();
        }
    }

    fn begin_sync(&mut self) {
        let wanted = self.shared.syncs_wanted();
        if self.syncing.is_none() && wanted != self.synced {
            self.shared.adopt(&mut self.seen, &mut self.lanes);
            self.lanes.iter_mut().for_each(Reader::set_mark);
            self.syncing = Some(wanted);
            // What is marked must not linger, also when this began without a flush of its own.
            (self.flushing, self.flush_seen) = (true, true);
        }
    }

    /// What was taken so far is dealt with.
    fn came_back(&mut self) {
        while let Some(wanted) = self.syncing
            && self.lanes.iter().all(Reader::is_past_mark)
        {
            self.syncing = None;
            self.synced = wanted;
            self.shared.synced(wanted);
            self.begin_sync(); // for those who asked meanwhile
        }
    }

    // For an event loop.

    /// Gives up to `max` items to `f`, lane by lane, each in its order; the next call goes on with the next
    /// lane. Never waits. How many there were.
    ///
    /// Does not look at `linger`: an event loop has its own reasons when to turn. Coming back, here or with
    /// [`prepare_sleep`](Self::prepare_sleep), says that what was taken before is dealt with.
    pub fn drain(&mut self, max: usize, mut f: impl FnMut(T)) -> usize {
        self.drain_runs(max, |run| run.for_each(&mut f))
    }

    /// As [`drain`](Self::drain), many items at a time: each run lies side by side in memory. The fastest way
    /// to encode plain values, see [`Run::as_slice`].
    pub fn drain_runs(&mut self, max: usize, mut f: impl FnMut(Run<'_, T>)) -> usize {
        self.seal_if_stopped();
        self.came_back();
        self.look_for_flush();
        let taken = self.pass(max, &mut f);
        if taken > 0 {
            self.shared.counters.batch(taken);
        }
        taken
    }

    /// Whether [`drain`](Self::drain) would find items now.
    #[must_use]
    pub fn has_items(&self) -> bool {
        self.shared.has_arrivals(self.seen) || self.lanes.iter().any(|lane| lane.pending() > 0)
    }

    /// First phase of going to sleep: from now on the first push calls `notify`.
    ///
    /// Then pass [`sleep_barrier`](super::sleep_barrier), once for all consumers that the loop prepared. Then
    /// ask each [`is_ready`](Self::is_ready); sleep only when none is.
    pub fn prepare_sleep(&mut self) {
        self.came_back();
        // A closure that panicked in `drain` may have left somebody waiting.
        self.space_freed();
        self.shared.counters.sleep();
        self.shared.gate.arm(ASLEEP);
    }

    /// Second phase: whether something came in the meantime, so that this consumer must not sleep. Then call
    /// [`cancel_sleep`](Self::cancel_sleep) and drain.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.has_reason(false)
    }

    /// The loop goes on: `notify` is not called for pushes any more.
    pub fn cancel_sleep(&mut self) {
        self.shared.gate.disarm();
    }

    // The end.

    /// Whether the batcher is closed and every item was taken. Once it says so, `close` returns: ask only when
    /// the items taken before are dealt with.
    #[must_use]
    pub fn is_finished(&mut self) -> bool {
        if self.seal_if_stopped() && self.phase == Phase::Sealed && !self.has_items() {
            self.settle_drained();
        }
        self.phase == Phase::Settled
    }

    /// Gives up. Pushes are refused from now on and those that wait get their item back; `close` returns the
    /// error, `undelivered` (what the caller had taken but could not deal with) and everything accepted behind.
    pub fn fail(&mut self, error: impl Into<Box<dyn Error + Send + Sync>>, mut undelivered: Vec<T>) {
        if self.phase == Phase::Settled {
            return;
        }
        self.shared.gate.disarm();
        self.shared.gate.stop(FAILED);
        self.seal_if_stopped();
        self.pass(usize::MAX, &mut |run| run.append_to(&mut undelivered));
        self.phase = Phase::Settled;
        self.shared.settle_failed(Cause::from(error.into()), undelivered);
    }

    fn settle_drained(&mut self) {
        if self.phase == Phase::Sealed {
            self.phase = Phase::Settled;
            self.shared.settle_drained();
        }
    }

    /// If nothing is accepted any more, fixes where each lane ends: an item is either before that and will be
    /// delivered, or its producer takes it back. Whether this is so.
    fn seal_if_stopped(&mut self) -> bool {
        if self.phase == Phase::Open && self.shared.gate.synced_state() & STOPPED != 0 {
            // A push that did not see the stop wrote its item before this.
            self.shared.gate.set_before_barrier(0);
            barrier::heavy();
            self.shared.adopt_last(&mut self.seen, &mut self.lanes);
            for lane in &mut self.lanes {
                lane.seal();
                lane.lane().waiters.wake_all();
            }
            self.phase = Phase::Sealed;
        }
        self.phase != Phase::Open
    }

    // Looking at the lanes.

    /// One round over the lanes, until `max` items were taken. Fewer mean that each lane was seen empty.
    fn pass(&mut self, max: usize, f: &mut impl FnMut(Run<'_, T>)) -> usize {
        self.shared.adopt(&mut self.seen, &mut self.lanes);
        let (mut left, mut ended) = (max, false);
        for _ in 0..self.lanes.len() {
            if left == 0 {
                break;
            }
            if self.next >= self.lanes.len() {
                self.next = 0;
            }
            let lane = &mut self.lanes[self.next];
            let taken = lane.drain_runs(left, f);
            left -= taken;
            ended |= taken == 0 && lane.is_exhausted();
            self.next += 1;
        }
        if ended {
            // Not in the round: it would pass over a lane that takes another one's place.
            self.lanes.retain(|lane| !lane.is_exhausted());
        }
        if left < max {
            self.space_freed();
        }
        max - left
    }

    fn space_freed(&self) {
        self.shared.space_freed(self.seen, self.lanes.iter().map(Reader::lane));
    }

    /// Whether there is anything to do: items, or enough of them for one who lingers; a lane to give back, or an event.
    fn has_reason(&self, lingers: bool) -> bool {
        let stopped = self.shared.gate.synced_state() & STOPPED != 0 && self.phase != Phase::Settled;
        let is_reason = |lane: &Reader<T>| {
            // A lane may be full of few items that are large: who waits there does not linger.
            let any = lane.pending() > 0;
            let items = if lingers { lane.is_due() || any && !lane.lane().waiters.is_empty() } else { any };
            items || lane.is_exhausted()
        };
        stopped
            || self.shared.is_flush_wanted()
            || self.shared.has_arrivals(self.seen)
            || self.lanes.iter().any(is_reason)
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        if !self.is_finished() {
            self.fail(Abandoned, Vec::new());
        }
    }
}

impl<T> std::fmt::Debug for Consumer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer")
            .field("lanes", &self.lanes.len())
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}
