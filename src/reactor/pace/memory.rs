//! What connections hold in memory, against what all of a runtime's may hold together, and what is done when that is short.

use crate::config::{MEMORY_BYTES, SCARCE_TIME, SHORT_BYTES};
use crate::driver::Kind;
use crate::log;
use crate::reactor::Reactor;
use crate::reactor::stream::connection::{Connection, Link, Phase};
use crate::reactor::stream::handler::CloseReason;
use crate::reactor::table::Id;
use crate::reactor::threads::reactor_handle::ReactorHandle;
use crossbeam_utils::CachePadded;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
}

/// A reactor's.
#[derive(Default)]
struct Part {
    held: AtomicUsize,
    /// To ask it for some of that.
    reactor: OnceLock<ReactorHandle>,
    asked: AtomicBool,
}

impl Ledger {
    pub(crate) fn new(limit: Option<usize>, reactors: usize) -> Arc<Self> {
        let parts = (0..reactors).map(|_| CachePadded::default()).collect();
        Arc::new(Ledger { limit: limit.unwrap_or_else(usual_limit), parts })
    }

    pub(crate) fn budget(&self) -> MemoryBudget {
        let held = self.parts.iter().map(|part| part.held.load(Ordering::Relaxed));
        MemoryBudget { held: held.fold(0, usize::saturating_add), limit: self.limit }
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

/// How much is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Plenty,
    /// Who holds much is not read.
    Short,
    /// Nobody is let in.
    Scarce,
    /// The largest connection is closed.
    Exceeded,
}

/// A reactor's view of the ledger.
pub(in crate::reactor) struct Memory {
    ledger: Arc<Ledger>,
    index: usize,
    /// By its own connections.
    held: usize,
    /// As the others know it.
    told: usize,
    level: Level,
    scarce_since: Option<Instant>,
}

impl Memory {
    pub(in crate::reactor) fn new(ledger: Arc<Ledger>, index: usize) -> Self {
        Memory { ledger, index, held: 0, told: 0, level: Level::Plenty, scarce_since: None }
    }

    /// Sets by whom this reactor can be asked for memory.
    pub(in crate::reactor) fn belongs_to(&self, reactor: ReactorHandle) {
        let _ = self.ledger.parts[self.index].reactor.set(reactor);
    }

    /// A connection that held `before` holds `now`.
    #[inline]
    fn change(&mut self, before: &mut usize, now: usize) {
        // Wraps where it gets less; the sum does not.
        self.held = self.held.wrapping_add(now).wrapping_sub(*before);
        *before = now;
    }

    #[inline]
    pub(in crate::reactor) fn is_short(&self) -> bool {
        self.level > Level::Plenty
    }

    pub(in crate::reactor) fn budget(&self) -> MemoryBudget {
        self.ledger.budget()
    }

    /// Bytes that this reactor's own connections hold.
    pub(in crate::reactor) fn held(&self) -> usize {
        self.held
    }

    fn publish(&mut self) {
        if self.told != self.held {
            self.told = self.held;
            self.ledger.parts[self.index].held.store(self.held, Ordering::Relaxed);
        }
    }

    /// Looks what is left. The level that there was.
    fn look(&mut self, now: Instant) -> Level {
        self.publish();
        let MemoryBudget { held, limit } = self.ledger.budget();
        let eighths = |n: usize| limit / 8 * n;
        let level = match self.level {
            _ if held > limit => Level::Exceeded,
            _ if held > eighths(7) => Level::Scarce,
            // A little below where each begins, it ends.
            Level::Scarce | Level::Exceeded if held > eighths(6) => Level::Scarce,
            _ if held > eighths(6) => Level::Short,
            Level::Short | Level::Scarce | Level::Exceeded if held > eighths(5) => Level::Short,
            _ => Level::Plenty,
        };
        if level < Level::Scarce {
            self.scarce_since = None;
        } else {
            self.scarce_since.get_or_insert(now);
        }
        std::mem::replace(&mut self.level, level)
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
        self.inbox.len() + self.pending_output() + self.claimed + outbox
    }

    /// Whether it holds so much output that it is not to be read while memory is short.
    #[inline]
    pub(in crate::reactor) fn holds_much_output(&self) -> bool {
        self.pending_output() + self.claimed > SHORT_BYTES
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
        let before = self.shared.memory.look(self.shared.now);
        let level = self.shared.memory.level;
        if level == Level::Exceeded {
            self.ask_for_memory();
        }
        if level == Level::Plenty && before > level {
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
        if memory.level < Level::Scarce {
            return false;
        }
        let since = memory.scarce_since.unwrap_or(self.shared.now);
        if self.shared.now.saturating_duration_since(since) >= SCARCE_TIME {
            self.ask_for_memory();
        }
        true
    }

    /// Has whichever reactor holds the most close the largest of its connections.
    fn ask_for_memory(&mut self) {
        let memory = &self.shared.memory;
        let (ledger, largest) = (memory.ledger.clone(), memory.ledger.largest());
        if largest == memory.index {
            return self.shed();
        }
        let part = &ledger.parts[largest];
        if let Some(reactor) = part.reactor.get()
            && !part.asked.swap(true, Ordering::AcqRel)
        {
            // One that has stopped holds nothing.
            let _ = reactor.run(|reactor| {
                let memory = &reactor.shared.memory;
                memory.ledger.parts[memory.index].asked.store(false, Ordering::Release);
                reactor.shed();
                reactor.shared.memory.publish();
            });
        }
    }

    /// Closes the connection that holds the most.
    fn shed(&mut self) {
        let held = |id: &Id| self.connections.get(*id).map_or(0, |connection| connection.link.held);
        let Some(id) = self.connections.ids().into_iter().max_by_key(held) else { return };
        let MemoryBudget { held: all, limit } = self.memory_budget();
        if let Some(Connection { link, .. }) = self.connections.get_mut(id)
            && link.held > 0
        {
            let held = link.held;
            log::over_limit(
                &link.peer,
                &format_args!("it held {held} of {all} bytes; the budget is {limit}"),
            );
            self.change(id, |link| link.fail(CloseReason::MemoryBudget { held, all, limit }));
        }
    }
}
