//! Settings of a reactor.

use super::pace::after::Actions;
use super::pace::budget::Budget;
use super::pace::busy::Busy;
use super::pace::memory::{Ledger, Memory};
use super::pace::pollers::Pollers;
use super::pace::timers::Timers;
use super::stream::filter::Handshakes;
use super::table::Table;
use super::threads::mailbox::Mailbox;
use super::{Reactor, Shared};
use crate::buf::{ReadMemory, Spare};
use crate::config::{
    BusyPoll, EMBEDDED_POOL_BUFFER_BYTES, EMBEDDED_POOL_BUFFERS, EMBEDDED_TURN_BYTES, EMBEDDED_TURN_TIME,
    PoolConfig, RingEntries, SPARE_BYTES, UringFeature,
};
use crate::driver::{self, Backend, BufferGroup, Choice, Chosen, Driver};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Settings of a reactor; see [`Reactor::builder`].
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct ReactorBuilder {
    choice: Choice,
    pool: PoolConfig,
    busy_poll: BusyPoll,
    turn_budget: Option<usize>,
    turn_time: Option<Duration>,
    memory_budget: Option<usize>,
    handshakes: Option<usize>,
    ledger: Option<(Arc<Ledger>, usize)>,
}

impl ReactorBuilder {
    /// Settings for a loop that has other things to do, such as a game's or a user interface's: short turns, little memory, no
    /// looking for work. That is a [pool](Self::pool) of 16 buffers of 16 KiB, a [budget](Self::turn_budget) of 256 KiB and of
    /// [2 ms](Self::turn_time), and [`BusyPoll::Off`]. What is set behind this counts instead.
    ///
    /// Unless the program or `TROCHUS_BACKEND` names a backend, it is [`Backend::Fallback`]. With io_uring the kernel ends whatever
    /// the thread waits in, in order to complete what the reactor asked for: `epoll_wait`, a receive with a time limit and others
    /// fail with [`Interrupted`](std::io::ErrorKind::Interrupted), also in code that knows nothing of the reactor. The
    /// fallback does nothing behind the thread's back. Who sets [`backend`](Self::backend) behind this gets what it says,
    /// [`Backend::Auto`] included.
    pub fn embedded(mut self) -> Self {
        self.choice.embedded = true;
        self.pool(EMBEDDED_POOL_BUFFERS, EMBEDDED_POOL_BUFFER_BYTES)
            .turn_budget(EMBEDDED_TURN_BYTES)
            .turn_time(EMBEDDED_TURN_TIME)
            .busy_poll(BusyPoll::Off)
    }

    /// How to reach the kernel: [`Backend::Auto`] unless set.
    pub fn backend(mut self, backend: Backend) -> Self {
        (self.choice.backend, self.choice.embedded) = (backend, false);
        self
    }

    /// The receive pool: how many buffers (a power of two up to 2^15), and how large each is. Memory is used as buffers
    /// are. [`config::POOL_BUFFERS`](crate::config::POOL_BUFFERS) of
    /// [`config::POOL_BUFFER_BYTES`](crate::config::POOL_BUFFER_BYTES) unless set.
    pub fn pool(mut self, buffers: u16, buffer_bytes: usize) -> Self {
        (self.pool.buffers, self.pool.buffer_bytes) = (buffers, buffer_bytes);
        self
    }

    /// The small buffers of the receive pool, for connections whose messages are small: how many (a power of two up to 2^15,
    /// or 0 for none), and how large each is. They exist where the kernel picks the buffer, beside buffers that are at least
    /// four times as large. [`config::SMALL_BUFFERS`](crate::config::SMALL_BUFFERS) of
    /// [`config::SMALL_BUFFER_BYTES`](crate::config::SMALL_BUFFER_BYTES) unless set.
    pub fn small_pool(mut self, buffers: u16, buffer_bytes: usize) -> Self {
        (self.pool.small_buffers, self.pool.small_buffer_bytes) = (buffers, buffer_bytes);
        self
    }

    /// The sizes of an io_uring's queues: operations that are submitted at a time, and completions that can wait to be
    /// taken; the kernel rounds up to powers of two. More completions than that are late and not lost, and counted
    /// ([`Metrics::completion_overflows`](crate::Metrics)). [`config::SUBMISSION_ENTRIES`](crate::config::SUBMISSION_ENTRIES)
    /// and [`config::COMPLETION_ENTRIES`](crate::config::COMPLETION_ENTRIES) unless set.
    pub fn ring_entries(mut self, submission: u32, completion: u32) -> Self {
        self.choice.entries = RingEntries { submission, completion };
        self
    }

    /// Input, in bytes, that one turn shows to handlers, before timers, commands and other connections have their turn;
    /// [`config::TURN_BYTES`](crate::config::TURN_BYTES) unless set. One connection gets
    /// [`config::SLICE_BYTES`](crate::config::SLICE_BYTES) of it at most. What was received is not divided: a turn may exceed this by
    /// one buffer of the pool. For a loop that has other things to do, such as a game's, less is better, with a pool of few small
    /// buffers; see [`embedded`](Self::embedded).
    pub fn turn_budget(mut self, bytes: usize) -> Self {
        self.turn_budget = Some(bytes);
        self
    }

    /// How long a turn goes on, counted from the end of its wait; without limit unless set. Once that is over, what completed and
    /// was not handled yet waits for the next turn, in order, and so do commands of other threads, deferred work, timers and
    /// polled handlers; the reactor's descriptor shows that there is more. Of each of these one gets its turn even then, so
    /// that none waits for ever. What is going on is not interrupted: a turn is longer than this by what those take that were
    /// called last, and by what the kernel takes to send what they wrote. The clock is read for each of them.
    pub fn turn_time(mut self, time: Duration) -> Self {
        self.turn_time = Some(time);
        self
    }

    /// Handshakes that may go on at a time with connections that were accepted; [`config::HANDSHAKES`](crate::config::HANDSHAKES) unless
    /// set. Each keeps some kilobytes and costs much computing. Whoever comes while there are so many is not refused, or all clients
    /// that come back at once would come again and again: they wait, unread, in order, and each for the
    /// [time](crate::reactor::StreamOptions::handshake_timeout) that it has.
    pub fn handshakes(mut self, handshakes: usize) -> Self {
        self.handshakes = Some(handshakes);
        self
    }

    /// Bytes that connections may hold, all together: input that their handlers have not consumed, output that their peers have not
    /// taken, as far as it is not in [files](crate::reactor::Io::write_file), and what handlers [claim](crate::reactor::Io::claim). Unless set, a quarter of the memory that the process may have, and
    /// [`config::MEMORY_BYTES`](crate::config::MEMORY_BYTES) at most. From three quarters of it on, connections with more than
    /// [`config::SHORT_BYTES`](crate::config::SHORT_BYTES) of output are not read until their peers have taken some; from seven
    /// eighths on, new connections are refused; beyond it, those that hold the most are closed, as many as are needed
    /// ([`CloseReason::MemoryBudget`](crate::reactor::CloseReason::MemoryBudget)). What one turn adds comes on top of it. Buffers of
    /// the pool, and the system's own, do not count.
    pub fn memory_budget(mut self, bytes: usize) -> Self {
        self.memory_budget = Some(bytes);
        self
    }

    /// It holds what a runtime's connections may hold together with others, of which it has this index.
    pub(crate) fn share_of(mut self, ledger: &Arc<Ledger>, index: usize) -> Self {
        self.ledger = Some((ledger.clone(), index));
        self
    }

    /// What is set, or not.
    pub(crate) fn ledger(&self, reactors: usize) -> Arc<Ledger> {
        Ledger::new(self.memory_budget, reactors)
    }

    /// Whether to look for work before sleeping.
    pub fn busy_poll(mut self, busy_poll: BusyPoll) -> Self {
        self.busy_poll = busy_poll;
        self
    }

    /// Does without a feature of io_uring, as if the kernel did not have it. The environment variable
    /// `TROCHUS_IO_URING_WITHOUT` does the same by name, separated by commas (`multishot_receive,buffer_ring`).
    pub fn without(mut self, feature: UringFeature) -> Self {
        self.choice.without.insert(feature);
        self
    }

    /// The reactor, on this thread.
    ///
    /// Its descriptor can be watched by an outer selector. For that, a ring does without
    /// [`DeferTaskRun`](UringFeature::DeferTaskRun): while the kernel defers completion work, a selector is not told of all of it.
    /// What it does not defer it does at once, and ends this thread's own waiting for it: `epoll_wait`, a receive with a time limit
    /// and other calls that do not start again by themselves fail with
    /// [`Interrupted`](std::io::ErrorKind::Interrupted). That means that the reactor has something to do. Nothing of this
    /// concerns the fallback, which [`embedded`](Self::embedded) prefers.
    pub fn build(&self) -> Result<Reactor> {
        let mut reactor = self.clone().without(UringFeature::DeferTaskRun).build_alone()?;
        // The driver watches for signals of other threads, of which the kernel is still to hear.
        reactor.unsubmitted = true;
        reactor.hand_back()?;
        Ok(reactor)
    }

    /// A reactor that nothing but its own loop waits for.
    pub(crate) fn build_alone(&self) -> Result<Reactor> {
        self.check()?;
        let Chosen { driver, reason } = driver::choose(self.choice, &self.pool)?;
        let mut reactor = self.build_over(driver);
        reactor.backend_reason = reason;
        Ok(reactor)
    }

    pub(crate) fn check(&self) -> Result<()> {
        let PoolConfig { buffers, buffer_bytes, small_buffers, small_buffer_bytes } = self.pool;
        if !buffers.is_power_of_two() || buffers > 1 << 15 {
            let message = format!("the pool must have 1, 2, 4 … 32768 buffers, not {buffers}");
            return Err(Error::InvalidSetting(message));
        }
        if self.turn_budget == Some(0) {
            return Err(Error::InvalidSetting("a turn must have a budget of at least 1 byte".to_owned()));
        }
        if self.turn_time == Some(Duration::ZERO) {
            return Err(Error::InvalidSetting("a turn must have some time".to_owned()));
        }
        if self.handshakes == Some(0) {
            return Err(Error::InvalidSetting("at least 1 handshake must be allowed".to_owned()));
        }
        if self.memory_budget == Some(0) {
            return Err(Error::InvalidSetting(
                "connections must be allowed to hold at least 1 byte".to_owned(),
            ));
        }
        if small_buffers > 0 && (!small_buffers.is_power_of_two() || small_buffers > 1 << 15) {
            let message = format!("the pool must have 0, 1, 2, 4 … 32768 small buffers, not {small_buffers}");
            return Err(Error::InvalidSetting(message));
        }
        for bytes in [buffer_bytes, small_buffer_bytes] {
            if bytes == 0 || bytes > 1 << 30 {
                let message = format!("a pool buffer must have 1 byte to 1 GiB, not {bytes} bytes");
                return Err(Error::InvalidSetting(message));
            }
        }
        let RingEntries { submission, completion } = self.choice.entries;
        if submission == 0 || completion < submission || completion > 1 << 16 || submission > 1 << 15 {
            let message = format!(
                "a ring has 1 to 32768 submission entries and as many completion entries at least, up to 65536, not {submission} and {completion}"
            );
            return Err(Error::InvalidSetting(message));
        }
        Ok(())
    }

    pub(super) fn build_over(&self, driver: Driver) -> Reactor {
        let (mailbox, now) = (Arc::new(Mailbox::new(driver.waker())), driver.now());
        let alone = || (Ledger::new(self.memory_budget, 1), 0);
        let (ledger, index) = self.ledger.clone().unwrap_or_else(alone);
        let reactor = Reactor {
            driver,
            backend_reason: String::new(),
            connections: Table::new(),
            listeners: Table::new(),
            timers: Timers::default(),
            dirty: Vec::new(),
            starved: [const { VecDeque::new() }; BufferGroup::COUNT],
            pollers: Pollers::default(),
            actions: Actions::default(),
            races: Vec::new(),
            stops: BTreeMap::new(),
            shared: Shared {
                mailbox,
                counters: Arc::default(),
                spare: Spare::new(SPARE_BYTES),
                memory: Memory::new(ledger, index),
                void: Vec::new(),
                reads: ReadMemory::default(),
                now,
                deferred: Vec::new(),
                soon: Vec::new(),
                succession: Default::default(),
                former_pollers: Vec::new(),
                new_pollers: Vec::new(),
            },
            settling: None,
            busy: Busy::new(self.busy_poll),
            handshakes: Handshakes::new(self.handshakes),
            budget: Budget::new(self.turn_budget, self.turn_time),
            unsubmitted: false,
            resting: false,
            drain_deadline: None,
            drain_cut: None,
            completions: Vec::new(),
            commands: Vec::new(),
        };
        reactor.shared.memory.belongs_to(reactor.handle());
        reactor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_behind_a_preset_counts() {
        let preset = format!("{:?}", ReactorBuilder::default().embedded());
        for setting in ["turn_budget: Some(262144)", "turn_time: Some(2ms)", "busy_poll: Off"] {
            assert!(preset.contains(setting), "{setting}: {preset}");
        }
        let own = ReactorBuilder::default().embedded().pool(8, 4096).turn_budget(5);
        let own = own.turn_time(Duration::from_secs(1)).busy_poll(BusyPoll::Adaptive);
        assert_eq!((own.pool.buffers, own.pool.buffer_bytes), (8, 4096));
        assert_eq!((own.turn_budget, own.turn_time), (Some(5), Some(Duration::from_secs(1))));
        assert!(matches!(own.busy_poll, BusyPoll::Adaptive) && own.choice.embedded);
    }
}
