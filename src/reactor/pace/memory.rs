//! What connections hold in memory, against what all of a runtime's may hold together, and what is done when that is short.

use crate::config::{MEMORY_BYTES, SCARCE_TIME};
use crate::driver::Kind;
use crate::reactor::Reactor;
use crate::reactor::stream::connection::{Connection, Link, Phase};
use crate::reactor::stream::handler::CloseReason;
use crate::reactor::table::Id;
use crate::reactor::threads::reactor_handle::ReactorHandle;
use crossbeam_utils::CachePadded;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// What the connections of a runtime, or of a reactor of its own, hold, and what they may. See
/// [`RuntimeBuilder::memory_budget`](crate::net::RuntimeBuilder::memory_budget).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryBudget {
    /// Bytes that are held, as of the reactors' last turns.
    pub held: usize,
    /// Bytes that may be held.
    pub limit: usize,
}

/// The bytes that the connections of a runtime hold, by reactor.
pub(crate) struct Ledger {
    limit: usize,
    parts: Box<[CachePadded<Part>]>,
    /// How much is left, as whoever looked last saw it: a [`Level`].
    level: CachePadded<AtomicU8>,
    /// Since when that has been scarce, or one connection less, in nanoseconds since `began`; 0 if it is not.
    scarce_since: AtomicU64,
    began: Instant,
}

/// A reactor's.
#[derive(Default)]
struct Part {
    held: AtomicUsize,
    /// To ask it for some of that.
    reactor: OnceLock<ReactorHandle>,
    asked: AtomicBool,
    /// It has connections that are not read until there is plenty.
    squeezes: AtomicBool,
}

/// How much is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Level {
    Plenty,
    /// Who has much output is not read.
    Short,
    /// Nobody is let in.
    Scarce,
    /// The largest connections are closed.
    Exceeded,
}

impl Level {
    fn from(number: u8) -> Self {
        [Level::Plenty, Level::Short, Level::Scarce, Level::Exceeded][usize::from(number)]
    }

    /// What follows, a little below where each begins it ends.
    fn next(self, held: usize, limit: usize) -> Self {
        let eighths = |n: usize| limit / 8 * n;
        match self {
            _ if held > limit => Level::Exceeded,
            _ if held > eighths(7) => Level::Scarce,
            Level::Scarce | Level::Exceeded if held > eighths(6) => Level::Scarce,
            _ if held > eighths(6) => Level::Short,
            Level::Short | Level::Scarce | Level::Exceeded if held > eighths(5) => Level::Short,
            _ => Level::Plenty,
        }
    }
}

impl Ledger {
    pub(crate) fn new(limit: Option<usize>, reactors: usize) -> Arc<Self> {
        let parts = (0..reactors).map(|_| CachePadded::default()).collect();
        let limit = limit.unwrap_or_else(usual_limit);
        let (level, scarce_since) = (CachePadded::default(), AtomicU64::new(0));
        Arc::new(Ledger { limit, parts, level, scarce_since, began: Instant::now() })
    }

    pub(crate) fn budget(&self) -> MemoryBudget {
        let held = self.parts.iter().map(|part| part.held.load(Ordering::Relaxed));
        MemoryBudget { held: held.fold(0, usize::saturating_add), limit: self.limit }
    }

    #[inline]
    fn level(&self) -> Level {
        Level::from(self.level.load(Ordering::Relaxed))
    }

    /// Looks what is left, for all reactors. If there is plenty again, those that have connections waiting for that are told.
    fn look(&self, now: Instant) -> Level {
        let (before, level) = loop {
            let before = self.level();
            let MemoryBudget { held, limit } = self.budget();
            let level = before.next(held, limit);
            // Before it is asked who squeezes; who squeezes looks at it behind saying so. Of two who look at the same time, the one
            // who comes second has to look again.
            let change = || {
                let (before, level) = (before as u8, level as u8);
                self.level.compare_exchange(before, level, Ordering::SeqCst, Ordering::Relaxed)
            };
            if level == before || change().is_ok() {
                break (before, level);
            }
        };
        if level < Level::Scarce {
            self.scarce_since.store(0, Ordering::Relaxed);
        } else {
            let now = self.nanos(now);
            let _ = self.scarce_since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        }
        if level == Level::Plenty && before > level {
            self.parts.iter().filter(|part| part.squeezes.load(Ordering::SeqCst)).for_each(|part| {
                // It looks for itself in its next turn.
                part.reactor.get().inspect(|reactor| reactor.wake());
            });
        }
        level
    }

    /// Whether memory has been scarce for so long that somebody has to go: once each time.
    fn is_overdue(&self, now: Instant) -> bool {
        let (since, now) = (self.scarce_since.load(Ordering::Relaxed), self.nanos(now));
        let overdue = since > 0 && now.saturating_sub(since) >= SCARCE_TIME.as_nanos() as u64;
        overdue
            && self.scarce_since.compare_exchange(since, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    fn nanos(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_nanos().max(1) as u64
    }

    /// Who holds the most: the first one of those who do.
    fn largest(&self) -> usize {
        let held = |index: usize| self.parts[index].held.load(Ordering::Relaxed);
        (0..self.parts.len()).rev().max_by_key(|index| held(*index)).unwrap_or(0)
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.budget().fmt(f)
    }
}

/// What may be held unless it is set: a quarter of the memory that the process may have, and no more than [`MEMORY_BYTES`].
fn usual_limit() -> usize {
    let may_have = crate::reactor::pace::machine::memory().unwrap_or(usize::MAX);
    (may_have / 4).min(MEMORY_BYTES)
}

/// A reactor's view of the ledger.
pub(in crate::reactor) struct Memory {
    ledger: Arc<Ledger>,
    index: usize,
    /// By its own connections. Whatever they claim, the sum is right.
    held: u128,
}

impl Memory {
    pub(in crate::reactor) fn new(ledger: Arc<Ledger>, index: usize) -> Self {
        Memory { ledger, index, held: 0 }
    }

    fn part(&self) -> &Part {
        &self.ledger.parts[self.index]
    }

    /// Sets by whom this reactor can be asked for memory.
    pub(in crate::reactor) fn belongs_to(&self, reactor: ReactorHandle) {
        let _ = self.part().reactor.set(reactor);
    }

    /// A connection that held `before` holds `now`.
    #[inline]
    fn change(&mut self, before: &mut usize, now: usize) {
        self.held = self.held + now as u128 - *before as u128;
        *before = now;
    }

    #[inline]
    pub(in crate::reactor) fn is_short(&self) -> bool {
        self.ledger.level() > Level::Plenty
    }

    /// A connection is not read because memory is short.
    pub(in crate::reactor) fn squeeze(&self) {
        let squeezes = &self.part().squeezes;
        if !squeezes.load(Ordering::Relaxed) {
            squeezes.store(true, Ordering::SeqCst);
        }
    }

    /// Whether those that were not read for that are to be looked at.
    fn may_let_go(&self) -> bool {
        let squeezes = &self.part().squeezes;
        let is_plenty = || Level::from(self.ledger.level.load(Ordering::SeqCst)) == Level::Plenty;
        let lets_go = squeezes.load(Ordering::Relaxed) && is_plenty();
        if lets_go {
            squeezes.store(false, Ordering::SeqCst);
        }
        lets_go
    }

    pub(in crate::reactor) fn budget(&self) -> MemoryBudget {
        self.ledger.budget()
    }

    /// Bytes that this reactor's own connections hold.
    pub(in crate::reactor) fn held(&self) -> usize {
        usize::try_from(self.held).unwrap_or(usize::MAX)
    }

    /// Tells what this reactor's connections hold, and looks what is left.
    fn look(&self, now: Instant) -> Level {
        let told = &self.part().held;
        if told.load(Ordering::Relaxed) != self.held() {
            told.store(self.held(), Ordering::Relaxed);
        }
        self.ledger.look(now)
    }
}

impl Drop for Memory {
    /// Who is not there holds nothing.
    fn drop(&mut self) {
        self.ledger.parts[self.index].held.store(0, Ordering::Relaxed);
    }
}

impl Link {
    /// What it holds that others do without.
    #[inline]
    fn weight(&self) -> usize {
        if self.phase == Phase::Dead {
            return 0;
        }
        let outbox = self.remote.as_ref().map_or(0, |handle| handle.remote().outbox_len());
        let own = self.unconsumed() + self.pending_output() + outbox;
        own.saturating_add(self.claimed)
    }
}

impl Reactor {
    /// What its connections hold, and those of all reactors of its runtime may.
    pub fn memory_budget(&self) -> MemoryBudget {
        self.shared.memory.budget()
    }

    /// Notes what a connection holds now.
    #[inline]
    pub(in crate::reactor) fn weigh(&mut self, id: Id) {
        if let Some(Connection { link, .. }) = self.connections.get_mut(id) {
            let weight = link.weight();
            self.shared.memory.change(&mut link.held, weight);
        }
    }

    /// Takes a connection out of the table, and what it held out of the account.
    pub(in crate::reactor) fn forget(&mut self, id: Id) -> Option<Connection> {
        let mut connection = self.connections.remove(id)?;
        self.shared.memory.change(&mut connection.link.held, 0);
        Some(connection)
    }

    /// Looks, once a turn, how much memory is left, and does what follows.
    pub(in crate::reactor) fn watch_memory(&mut self) {
        if self.shared.memory.look(self.shared.now) == Level::Exceeded {
            self.ask_for_memory(Asked::UntilEnough);
        }
        if self.shared.memory.may_let_go() {
            let mut ids = self.connections.ids().into_iter();
            while !self.contain(|reactor, about| {
                for id in ids.by_ref() {
                    *about = Some(id.token(Kind::Receive));
                    reactor.settle(id);
                }
            }) {}
        }
    }

    /// Whether a new connection has to be turned away. When that goes on for a while, because those who hold the memory do not
    /// give it back, the largest of them goes.
    pub(in crate::reactor) fn has_no_memory_for_one_more(&mut self) -> bool {
        let memory = &self.shared.memory;
        if memory.ledger.level() < Level::Scarce || memory.look(self.shared.now) < Level::Scarce {
            return false;
        }
        if memory.ledger.is_overdue(self.shared.now) {
            self.ask_for_memory(Asked::One);
        }
        true
    }

    /// Has whichever reactor holds the most close the largest of its connections.
    fn ask_for_memory(&mut self, asked: Asked) {
        let memory = &self.shared.memory;
        let (ledger, largest) = (memory.ledger.clone(), memory.ledger.largest());
        if largest == memory.index {
            return self.shed(asked);
        }
        let part = &ledger.parts[largest];
        if let Some(reactor) = part.reactor.get()
            && !part.asked.swap(true, Ordering::AcqRel)
        {
            // One that has stopped holds nothing.
            let _ = reactor.run(move |reactor| {
                reactor.shed(asked);
                reactor.shared.memory.part().asked.store(false, Ordering::Release);
            });
        }
    }

    /// Closes the connections that hold the most, as long as that is needed.
    fn shed(&mut self, asked: Asked) {
        let held = |id: &Id| self.connections.get(*id).map_or(0, |connection| connection.link.held);
        let mut ids: Vec<(usize, Id)> =
            self.connections.ids().into_iter().map(|id| (held(&id), id)).collect();
        ids.sort_unstable_by_key(|(held, _)| std::cmp::Reverse(*held));
        let mut ids = ids.into_iter().take_while(|(held, _)| *held > 0);
        let needed = if asked == Asked::One { Level::Scarce } else { Level::Exceeded };
        while !self.contain(|reactor, about| {
            while reactor.shared.memory.look(reactor.shared.now) >= needed
                && let Some((held, id)) = ids.next()
            {
                *about = Some(id.token(Kind::Receive));
                let MemoryBudget { held: all, limit } = reactor.memory_budget();
                reactor.change(id, |link| link.fail(CloseReason::MemoryBudget { held, all, limit }));
                if asked == Asked::One {
                    break;
                }
            }
        }) {}
        self.shared.memory.look(self.shared.now);
    }
}

/// How much a reactor is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// The largest connection, because newcomers have been waiting for long.
    One,
    /// As much as exceeds the limit.
    UntilEnough,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_end_a_little_below_where_they_begin() {
        use Level::{Exceeded, Plenty, Scarce, Short};
        let (mut level, mut levels) = (Plenty, Vec::new());
        for held in [60, 61, 70, 71, 80, 81, 80, 71, 70, 61, 60, 51, 50, 81, 50] {
            level = level.next(held, 80);
            levels.push(level);
        }
        let up = [Plenty, Short, Short, Scarce, Scarce, Exceeded];
        let down = [Scarce, Scarce, Scarce, Scarce, Short, Short, Plenty, Exceeded, Plenty];
        assert_eq!(levels, [&up[..], &down[..]].concat());
        assert!((0..4).all(|number| Level::from(number) as u8 == number));
    }

    #[test]
    fn whatever_is_claimed_the_sum_is_right() {
        let mut memory = Memory::new(Ledger::new(Some(80), 1), 0);
        let mut connections = [0; 3];
        for (connection, claim) in connections.iter_mut().zip([usize::MAX, usize::MAX, 5]) {
            memory.change(connection, claim);
        }
        assert_eq!((memory.held(), memory.look(Instant::now())), (usize::MAX, Level::Exceeded));
        memory.change(&mut connections[0], 0);
        memory.change(&mut connections[1], 7);
        assert_eq!((memory.held(), memory.look(Instant::now())), (12, Level::Plenty));
        assert_eq!(memory.budget(), MemoryBudget { held: 12, limit: 80 });
    }

    /// Over and over, as each newcomer asks.
    #[test]
    fn scarcity_costs_one_connection_a_second() {
        let ledger = Ledger::new(Some(80), 1);
        let at = |seconds| ledger.began + SCARCE_TIME * seconds;
        ledger.parts[0].held.store(75, Ordering::Relaxed);
        assert_eq!(ledger.look(at(10)), Level::Scarce);
        assert!(!ledger.is_overdue(at(10)) && !ledger.is_overdue(at(11) - SCARCE_TIME / 2));
        assert!(ledger.is_overdue(at(11)) && !ledger.is_overdue(at(11)));
        assert!(!ledger.is_overdue(at(12) - SCARCE_TIME / 2) && ledger.is_overdue(at(12)));
        // Somebody gave it back meanwhile.
        ledger.parts[0].held.store(1, Ordering::Relaxed);
        ledger.look(at(13));
        ledger.parts[0].held.store(75, Ordering::Relaxed);
        ledger.look(at(20));
        assert!(!ledger.is_overdue(at(20)) && ledger.is_overdue(at(21)));
    }
}
