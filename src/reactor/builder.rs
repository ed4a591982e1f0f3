//! Settings of a reactor.

use super::pace::busy::Busy;
use super::pace::pollers::Pollers;
use super::pace::timers::Timers;
use super::table::Table;
use super::threads::mailbox::Mailbox;
use super::{Reactor, Shared};
use crate::buf::Spare;
use crate::config::{BusyPoll, PoolConfig, SPARE_BYTES, UringFeature};
use crate::driver::{self, Backend, Choice, Driver};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Settings of a reactor; see [`Reactor::builder`].
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct ReactorBuilder {
    choice: Choice,
    pool: PoolConfig,
    busy_poll: BusyPoll,
}

impl ReactorBuilder {
    /// How to reach the kernel: [`Backend::Auto`] unless set.
    pub fn backend(mut self, backend: Backend) -> Self {
        self.choice.backend = backend;
        self
    }

    /// The receive pool: how many buffers (a power of two up to 2^15), and how large each is. Memory is used as buffers
    /// are. [`config::POOL_BUFFERS`](crate::config::POOL_BUFFERS) of
    /// [`config::POOL_BUFFER_BYTES`](crate::config::POOL_BUFFER_BYTES) unless set.
    pub fn pool(mut self, buffers: u16, buffer_bytes: usize) -> Self {
        self.pool = PoolConfig { buffers, buffer_bytes };
        self
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
    /// concerns the fallback.
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
        Ok(self.build_over(driver::choose(self.choice, &self.pool)?))
    }

    pub(crate) fn check(&self) -> Result<()> {
        let PoolConfig { buffers, buffer_bytes } = self.pool;
        if !buffers.is_power_of_two() || buffers > 1 << 15 {
            let message = format!("the pool must have 1, 2, 4 … 32768 buffers, not {buffers}");
            return Err(Error::InvalidSetting(message));
        }
        if buffer_bytes == 0 || buffer_bytes > 1 << 30 {
            let message = format!("a pool buffer must have 1 byte to 1 GiB, not {buffer_bytes} bytes");
            return Err(Error::InvalidSetting(message));
        }
        Ok(())
    }

    pub(super) fn build_over(&self, driver: Driver) -> Reactor {
        let (mailbox, now) = (Arc::new(Mailbox::new(driver.waker())), driver.now());
        Reactor {
            driver,
            connections: Table::new(),
            listeners: Table::new(),
            timers: Timers::default(),
            dirty: Vec::new(),
            starved: VecDeque::new(),
            pollers: Pollers::default(),
            actions: BTreeMap::new(),
            races: Vec::new(),
            stops: BTreeMap::new(),
            shared: Shared {
                mailbox,
                counters: Arc::default(),
                spare: Spare::new(SPARE_BYTES),
                void: Vec::new(),
                now,
                deferred: Vec::new(),
                new_pollers: Vec::new(),
            },
            busy: Busy::new(self.busy_poll),
            unsubmitted: false,
            resting: false,
            drain_deadline: None,
            drain_cut: None,
            completions: Vec::new(),
            commands: Vec::new(),
        }
    }
}
