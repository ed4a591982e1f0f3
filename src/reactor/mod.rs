//! One thread's run loop: completions in, handlers called, output out.
//!
//! [`Reactor`] is all of it, and can be embedded in somebody else's loop; [`Runtime`](crate::Runtime) runs one a core. The
//! loop itself is [`Reactor::turn`]. The rooms: `stream`, what a handler has in its hands (`dispatch` brings completions to
//! connections, `settle` brings a connection's operations in line with its state); `socket`, where connections come from;
//! `pace`, when things happen; `threads`, how other threads reach in.

mod builder;
mod carrier;
mod pace;
mod socket;
mod stream;
mod table;
mod threads;

#[cfg(test)]
mod tests;

pub use builder::ReactorBuilder;
pub use carrier::carried::{Carried, Carrier, CarrierIo};
pub use carrier::output::Output;
pub use carrier::pair::{PairEnd, pair};
pub use pace::after::TimerId;
pub(crate) use pace::memory::Ledger;
pub use pace::memory::MemoryBudget;
pub use socket::accept::ListenerId;
pub use socket::address::{Address, ToAddresses};
pub use socket::incoming::{Accepted, Incoming};
pub use socket::lookup::Lookup;
pub use socket::options::{ListenOptions, StreamOptions};
pub use socket::proxied::ProxyProtocol;
pub use socket::race::Dialing;
pub use stream::files::FileError;
pub use stream::handler::{CloseReason, Handler, Polled};
pub use stream::io::Io;
pub use stream::relay::Relayed;
pub use table::ConnectionId;
pub use threads::reactor_handle::ReactorHandle;
pub use threads::stream_handle::{Handle, HandleError, Writable, WriteAsync};

pub(crate) use pace::busy::cores;
pub(crate) use socket::listener::{Bound, Share, bind_all, is_served_at, take_over};
pub(crate) use socket::race::Contender;
pub(crate) use socket::seats::Seats;
pub(crate) use socket::system::{inherited_descriptor, pass_descriptors};
#[cfg(any(feature = "tls", feature = "tls-ring"))]
pub(crate) use stream::filter::{Filter, MakeFilter, State, Through};
pub(crate) use threads::reactor_handle::SentAction;

use crate::buf::{HasSpare, ReadMemory, Spare};
use crate::config::LONGEST_SLEEP;
use crate::driver::{Backend, BufferGroup, Capabilities, Completion, Driver};
use crate::error::{Error, Result};
use crate::metrics::{Metrics, PaddedCounters};
use crate::waiting::Driving;
use pace::after::Actions;
use pace::budget::Budget;
use pace::busy::Busy;
use pace::memory::Memory;
use pace::pollers::Pollers;
use pace::timers::Timers;
use socket::listener::Listener;
use socket::race::SharedRace;
use socket::stop::Stop;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use stream::connection::Connection;
use stream::filter::Handshakes;
use stream::succession::Succession;
use table::{Id, Table};
use threads::mailbox::{Command, Mailbox};

/// How often [`Reactor::turn`] goes on with what completed at once, before it returns to the caller's loop.
const EAGER_ROUNDS: usize = 4;

/// One thread's connections and the loop that serves them. Not `Send`: it lives and dies on the thread that built it.
///
/// Most programs use [`Runtime`](crate::Runtime), which runs a reactor on each core. This is for a loop of one's own:
///
/// ```no_run
/// # use std::time::Duration;
/// use trochus::{Backend, Reactor, net::{Handler, Io}};
/// # struct Echo;
/// # impl Handler for Echo {
/// #     fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize { io.write(bytes); bytes.len() }
/// # }
/// # fn tick() {}
/// let mut reactor = Reactor::builder().backend(Backend::Auto).build()?;
/// let server = reactor.listen("127.0.0.1:7000", |_peer| Echo)?;
/// loop {
///     reactor.turn(Some(Duration::from_millis(1)))?; // reap, handle, flush, at most one wait
///     tick();
/// }
/// # #[allow(unreachable_code)] Ok::<(), trochus::Error>(())
/// ```
pub struct Reactor {
    driver: Driver,
    backend_reason: String,
    connections: Table<Connection>,
    listeners: Table<Listener>,
    timers: Timers,
    /// Connections with output to send.
    dirty: Vec<Id>,
    /// Connections that wait for a buffer to receive into, in order, by the group of the buffer.
    starved: [VecDeque<Id>; BufferGroup::COUNT],
    pollers: Pollers,
    actions: Actions,
    /// Connections that are attempted at several addresses.
    races: Vec<SharedRace>,
    /// Servers that are stopping, by a number that its timer has.
    stops: BTreeMap<u64, Stop>,
    shared: Shared,
    /// The connection that is being settled, in case that this panics.
    settling: Option<Id>,
    busy: Busy,
    budget: Budget,
    handshakes: Handshakes,
    /// Something was handed to the driver that the kernel does not know of yet.
    unsubmitted: bool,
    /// An outer loop waits for its descriptor.
    resting: bool,
    drain_deadline: Option<Instant>,
    /// What had not finished by then has been cut off, when the table had seen so many connections.
    drain_cut: Option<u32>,
    // Kept for their capacity, and with what there was no time for.
    completions: Vec<Completion>,
    commands: Vec<Command>,
}

type Action = Box<dyn FnOnce(&mut Reactor)>;

/// What a reactor shares with the handler that is being called.
struct Shared {
    mailbox: Arc<Mailbox>,
    counters: Arc<PaddedCounters>,
    spare: Spare,
    /// What files are read into.
    reads: ReadMemory,
    memory: Memory,
    /// Takes what is written to a connection that is closing.
    void: Vec<u8>,
    now: Instant,
    deferred: Vec<Action>,
    /// What carriers have to do, behind the flush.
    soon: Vec<Action>,
    succession: Succession,
    /// Connections that asked to be polled and are not in the list yet.
    new_pollers: Vec<Id>,
    /// Connections that are in the list for a handler that they no longer have.
    former_pollers: Vec<Id>,
}

impl HasSpare for Shared {
    fn spare(&mut self) -> &mut Spare {
        &mut self.spare
    }
}

impl Reactor {
    /// Settings for a reactor on this thread.
    pub fn builder() -> ReactorBuilder {
        ReactorBuilder::default()
    }

    /// One turn: submits what is to be sent, waits for up to `timeout` (`None`: until something happens), calls the
    /// handlers of what completed, and submits what they wrote. How long that takes is bounded by how much input it
    /// [takes](ReactorBuilder::turn_budget), and by what the handlers do with it, or by the
    /// [time](ReactorBuilder::turn_time) that it may take; there may be more to do at once, which the descriptor shows.
    ///
    /// Fails only when the backend does, which no connection can cause.
    pub fn turn(&mut self, timeout: Option<Duration>) -> Result<()> {
        self.shared.mailbox.awake();
        self.step(timeout)?;
        // An outer loop that watches the descriptor hears only of what the kernel knows, so nothing may stay behind.
        for _ in 0..EAGER_ROUNDS {
            let has_more = self.unsubmitted || self.has_ready_work() || self.driver.has_work();
            if !has_more || self.budget.is_spent() || self.is_out_of_time() {
                break;
            }
            self.step_on(Some(Duration::ZERO))?;
        }
        self.hand_back()
    }

    /// Between turns, the descriptor tells an outer loop when to turn: the kernel knows of everything that is to be done, other
    /// threads know that they have to signal, and what is there already is announced.
    fn hand_back(&mut self) -> Result<()> {
        self.resting = true;
        if self.unsubmitted {
            self.enter(Some(Duration::ZERO))?;
        }
        if !self.retire_pollers()
            || self.has_ready_work()
            || self.driver.has_work()
            || self.timers.are_due(self.shared.now)
            || !self.shared.mailbox.fall_asleep()
        {
            self.shared.mailbox.awake();
            self.driver.announce();
        }
        Ok(())
    }

    /// To be called behind everything that an outer loop can do to the reactor between turns.
    fn disturbed(&mut self) {
        if self.resting {
            // Should it fail, then so does the next turn, which can say so.
            let _ = self.hand_back();
        }
    }

    /// The loop's body. Handlers run only after everything that completed was reaped, so that the stack stays shallow and
    /// what they write is batched.
    fn step(&mut self, timeout: Option<Duration>) -> Result<()> {
        self.budget.begin_turn();
        self.step_on(timeout)
    }

    /// A further step of the same turn.
    fn step_on(&mut self, timeout: Option<Duration>) -> Result<()> {
        let _driving = Driving::begin();
        self.resting = false;
        self.wait(timeout)?;
        let nothing_completed = self.completions.is_empty();
        self.shared.counters.turns.add(1);
        self.shared.now = self.driver.now();
        self.budget.begin_time(self.shared.now);
        self.go_on_with_succession();
        // What there was no time for comes before what has come since.
        self.carry_once();
        self.handle_completions();
        self.run_commands();
        // Connections that the commands made and that are there already: whoever asked for them goes on during the next wait.
        self.driver.take_decided(&mut self.completions);
        self.handle_completions();
        self.fire_timers();
        self.poll_handlers();
        self.flush();
        self.begin_handshakes();
        self.carry_on();
        self.watch_memory();
        if nothing_completed && self.pollers.found_nothing() && !self.unsubmitted {
            // The producers may be on this very core. To let them go on is cheaper than to sleep, which takes a barrier on
            // this side and a wake-up on theirs.
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Submits, and waits unless there is something to do. One entry into the kernel, two before a sleep.
    fn wait(&mut self, timeout: Option<Duration>) -> Result<()> {
        let now = self.driver.now();
        let until_due = self.next_deadline().map(|due| due.saturating_duration_since(now));
        let timeout =
            [timeout, until_due].into_iter().flatten().min().map(|timeout| timeout.min(LONGEST_SLEEP));
        let at_once = timeout == Some(Duration::ZERO) || self.has_ready_work() || self.pollers.are_active();
        if at_once || self.unsubmitted {
            self.enter(Some(Duration::ZERO))?;
            if at_once || self.has_ready_work() {
                return Ok(());
            }
        }
        if !self.retire_pollers() {
            return Ok(());
        }
        self.poll_busily(timeout)?;
        if self.has_ready_work() || !self.shared.mailbox.fall_asleep() {
            return Ok(());
        }
        let asleep = Instant::now();
        let result = self.enter(timeout);
        self.shared.mailbox.end_sleep();
        let slept = asleep.elapsed();
        self.busy.slept(slept);
        self.shared.counters.sleeps.add(1);
        self.shared.counters.asleep_us.add(slept.as_micros() as u64);
        result
    }

    fn enter(&mut self, timeout: Option<Duration>) -> Result<()> {
        self.unsubmitted = false;
        let before = self.completions.len();
        self.driver
            .wait(timeout, &mut self.completions)
            .map_err(|source| Error::System { action: "wait for completions", source })?;
        let (counters, stats) = (&self.shared.counters, self.driver.stats());
        counters.completions.add((self.completions.len() - before) as u64);
        counters.enters.set(stats.enters);
        counters.completion_overflows.set(stats.completion_overflows);
        Ok(())
    }

    fn has_ready_work(&self) -> bool {
        !self.completions.is_empty()
            || !self.dirty.is_empty()
            || !self.shared.deferred.is_empty()
            || !self.shared.soon.is_empty()
            || self.handshakes.may_begin()
            || self.shared.succession.has_waiting()
            || !self.shared.new_pollers.is_empty()
            || !self.commands.is_empty()
            || BufferGroup::ALL
                .into_iter()
                .any(|group| !self.starved[group as usize].is_empty() && self.driver.free_buffers(group) > 0)
    }

    /// The backend that this reactor runs on; never [`Backend::Auto`].
    pub fn backend(&self) -> Backend {
        self.driver.backend()
    }

    /// Why it runs on this backend and not on the other one, in words: who asked for it, or what keeps io_uring from working.
    pub fn backend_reason(&self) -> &str {
        &self.backend_reason
    }

    /// What the backend can do.
    pub fn capabilities(&self) -> Capabilities {
        self.driver.capabilities()
    }

    /// When the next turn is due although nothing happens: a timer, a time limit, or a drain's deadline. `None` if none is. It may be
    /// due for nothing, because a timer was put off. An outer loop sleeps until then at most, or passes `None` to
    /// [`turn`](Self::turn), which does.
    pub fn next_deadline(&self) -> Option<Instant> {
        [self.timers.next(), self.next_cut()].into_iter().flatten().min()
    }

    /// Hands work to this reactor from any thread.
    pub fn handle(&self) -> ReactorHandle {
        ReactorHandle::new(self.shared.mailbox.clone(), self.shared.counters.clone())
    }

    /// The counters so far.
    pub fn metrics(&self) -> Metrics {
        self.handle().metrics()
    }

    /// Connections in the table, those that are still ending included.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// What is on loan or in flight: zero once everything has ended.
    #[doc(hidden)]
    pub fn outstanding(&self) -> Outstanding {
        Outstanding {
            connections: self.connections.len(),
            listeners: self.listeners.len(),
            operations: self.driver.in_flight(),
            buffers: self.driver.loaned_buffers(),
            timers: usize::from(!self.timers.is_empty()),
        }
    }
}

/// See [`Reactor::outstanding`].
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outstanding {
    pub connections: usize,
    pub listeners: usize,
    pub operations: usize,
    pub buffers: usize,
    pub timers: usize,
}

/// The descriptor to wait on in an outer `epoll` or `kqueue`, from the moment on that the reactor is built: when it polls readable,
/// [`Reactor::turn`] has something to do. Timers do not show there: wait until [`Reactor::next_deadline`] at most. Nor does all of
/// what concerns a reactor of a [`Runtime`](crate::Runtime), which waits by itself.
///
/// ```no_run
/// # use std::time::{Duration, Instant};
/// # use trochus::Reactor;
/// # fn wait_for_readable(reactor: &Reactor, timeout: Option<Duration>) -> std::io::Result<()> { Ok(()) }
/// # let mut reactor = Reactor::builder().build()?;
/// loop {
///     let timeout = reactor.next_deadline().map(|due| due.saturating_duration_since(Instant::now()));
///     match wait_for_readable(&reactor, timeout) {
///         // On io_uring the kernel interrupts this thread's own waiting to complete what the reactor asked for.
///         Err(error) if error.kind() != std::io::ErrorKind::Interrupted => return Err(error.into()),
///         _ => reactor.turn(Some(Duration::ZERO))?,
///     }
/// }
/// # #[allow(unreachable_code)] Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl AsRawFd for Reactor {
    fn as_raw_fd(&self) -> RawFd {
        self.driver.descriptor()
    }
}

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor")
            .field("driver", &self.driver)
            .field("connections", &self.connections.len())
            .field("listeners", &self.listeners.len())
            .finish_non_exhaustive()
    }
}
