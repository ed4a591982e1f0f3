//! Reactors on threads of their own.

use crate::config::{BusyPoll, DRAIN_TIMEOUT, LATENCY_BUSY_POLL, UringFeature};
use crate::driver::{Backend, Capabilities};
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::reactor::{self, Reactor, ReactorBuilder, ReactorHandle};
use core_affinity::CoreId;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

/// A reactor per core, each on a thread of its own.
///
/// Dropping it drains, as [`shutdown`](Self::shutdown) does with [`DRAIN_TIMEOUT`].
pub struct Runtime {
    workers: Vec<Worker>,
    backend: Backend,
    capabilities: Capabilities,
    next: AtomicUsize,
}

struct Worker {
    handle: ReactorHandle,
    thread: Option<JoinHandle<Result<()>>>,
    core: Option<CoreId>,
}

/// Settings of a [`Runtime`].
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct RuntimeBuilder {
    reactor: ReactorBuilder,
    reactors: Option<usize>,
    pin: bool,
    first_core: usize,
}

impl RuntimeBuilder {
    /// For the most bytes and messages a second: reactors are pinned, so that both ends of a loopback connection, or a
    /// connection and its interrupts, share a cache; they do not look for work before they sleep.
    ///
    /// The cost: a reactor that sleeps is woken in 20–30 µs, and the scheduler cannot move it out of the way of busy threads
    /// of the program's own.
    pub fn throughput() -> Self {
        Self::default().pin(true).busy_poll(BusyPoll::Off)
    }

    /// What [`Runtime::new`] uses: reactors wherever the scheduler puts them, which look for work before they sleep while that
    /// pays off.
    pub fn balanced() -> Self {
        Self::default()
    }

    /// For the shortest time to an answer: reactors are pinned and look for work for a millisecond before they sleep.
    ///
    /// The cost: as long as there is traffic at all, each reactor keeps its core busy.
    pub fn latency() -> Self {
        Self::default().pin(true).busy_poll(BusyPoll::For(LATENCY_BUSY_POLL))
    }

    /// How many reactors: one for each core that the process may use, unless set.
    pub fn reactors(mut self, reactors: usize) -> Self {
        self.reactors = Some(reactors);
        self
    }

    /// Pins each reactor to a core, and with that lets Linux bring each connection to the reactor on whose core its packets
    /// are processed. Worth up to twice the bandwidth on loopback, where it makes both ends of a connection share a cache.
    /// Off unless set: a program with busy threads of its own may do better without.
    pub fn pin(mut self, on: bool) -> Self {
        self.pin = on;
        self
    }

    /// Where pinning begins among the cores that the process may use; for several runtimes in one process.
    pub fn first_core(mut self, index: usize) -> Self {
        self.first_core = index;
        self
    }

    /// How to reach the kernel: [`Backend::Auto`] unless set.
    pub fn backend(mut self, backend: Backend) -> Self {
        self.reactor = self.reactor.backend(backend);
        self
    }

    /// Each reactor's receive pool; see [`ReactorBuilder::pool`].
    pub fn pool(mut self, buffers: u16, buffer_bytes: usize) -> Self {
        self.reactor = self.reactor.pool(buffers, buffer_bytes);
        self
    }

    /// Whether reactors look for work before they sleep.
    pub fn busy_poll(mut self, busy_poll: BusyPoll) -> Self {
        self.reactor = self.reactor.busy_poll(busy_poll);
        self
    }

    /// Does without a feature of io_uring; see [`ReactorBuilder::without`].
    pub fn without(mut self, feature: UringFeature) -> Self {
        self.reactor = self.reactor.without(feature);
        self
    }

    /// Starts the reactors.
    pub fn build(&self) -> Result<Runtime> {
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        // Asked even if it is not needed here: the reactors are told the same.
        let usable = reactor::cores();
        let reactors = self.reactors.unwrap_or(usable);
        if reactors == 0 {
            return Err(Error::InvalidSetting("a runtime needs at least one reactor".to_owned()));
        }
        self.reactor.check()?;
        // All threads start at once; the first error, if any, ends those that came up.
        let starting: Vec<Result<Starting>> = (0..reactors)
            .map(|index| {
                let core = cores.get((self.first_core + index) % cores.len().max(1)).filter(|_| self.pin);
                start(self.reactor.clone(), index, core.copied())
            })
            .collect();
        let mut runtime = Runtime {
            workers: Vec::new(),
            backend: Backend::Auto,
            capabilities: Capabilities::default(),
            next: AtomicUsize::new(0),
        };
        let mut failure = None;
        for starting in starting {
            let up = starting.and_then(|Starting { thread, core, ready }| {
                let (handle, backend, capabilities) = ready.recv().unwrap_or(Err(Error::Stopped))?;
                (runtime.backend, runtime.capabilities) = (backend, capabilities);
                runtime.workers.push(Worker { handle, thread: Some(thread), core });
                Ok(())
            });
            failure = failure.or(up.err());
        }
        failure.map_or(Ok(runtime), Err)
    }
}

struct Starting {
    thread: JoinHandle<Result<()>>,
    core: Option<CoreId>,
    ready: mpsc::Receiver<Result<(ReactorHandle, Backend, Capabilities)>>,
}

fn start(builder: ReactorBuilder, index: usize, core: Option<CoreId>) -> Result<Starting> {
    let (send, ready) = mpsc::channel();
    let run = move || {
        if let Some(core) = core {
            // Where the system does not pin (Apple Silicon), the reactor runs wherever it is put.
            core_affinity::set_for_current(core);
        }
        let mut reactor = match builder.build_alone() {
            Ok(reactor) => reactor,
            Err(error) => {
                let _ = send.send(Err(error));
                return Ok(());
            }
        };
        let _ = send.send(Ok((reactor.handle(), reactor.backend(), reactor.capabilities())));
        reactor.run_until_drained()
    };
    let thread = std::thread::Builder::new().name(format!("trochus-{index}")).spawn(run);
    let thread = thread.map_err(|source| Error::System { action: "start a reactor's thread", source })?;
    Ok(Starting { thread, core, ready })
}

impl Runtime {
    /// A reactor for each core that the process may use, on the best backend there is.
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// Settings for a runtime.
    pub fn builder() -> RuntimeBuilder {
        RuntimeBuilder::default()
    }

    /// The backend that the reactors run on; never [`Backend::Auto`].
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// What that backend can do.
    pub fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// How many reactors there are.
    pub fn reactors(&self) -> usize {
        self.workers.len()
    }

    /// One of the reactors, to hand work to.
    ///
    /// # Panics
    ///
    /// If `index` is not below [`reactors`](Self::reactors).
    pub fn reactor(&self, index: usize) -> &ReactorHandle {
        &self.workers[index].handle
    }

    /// The reactors' counters, added up.
    pub fn metrics(&self) -> Metrics {
        let mut sum = Metrics::default();
        self.workers.iter().for_each(|worker| sum.merge(&worker.handle.metrics()));
        sum
    }

    /// Serves until the process is told to stop (SIGINT, as by Ctrl-C, or SIGTERM), then drains.
    pub fn run_until_interrupted(self) -> Result<()> {
        super::signal::wait_for_interrupt()?;
        self.shutdown(DRAIN_TIMEOUT)
    }

    /// Stops: servers accept no more, handlers' [`on_shutdown`](super::Handler::on_shutdown) is called, and what has not
    /// finished within `grace` is cut off.
    pub fn shutdown(mut self, grace: Duration) -> Result<()> {
        self.stop(grace)
    }

    fn stop(&mut self, grace: Duration) -> Result<()> {
        for worker in &self.workers {
            // One that has stopped already needs no telling.
            let _ = worker.handle.run(move |reactor| reactor.begin_drain(grace));
        }
        let mut result = Ok(());
        for thread in self.workers.iter_mut().filter_map(|worker| worker.thread.take()) {
            let stopped = thread.join().unwrap_or(Err(Error::Stopped));
            result = result.and(stopped);
        }
        result
    }

    /// The next reactor in turn.
    pub(crate) fn next_reactor(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed) % self.workers.len()
    }

    pub(super) fn core(&self, index: usize) -> Option<usize> {
        self.workers[index].core.map(|core| core.id)
    }

    /// Does something on a reactor's thread and waits for the result.
    pub(super) fn on_reactor<T: Send + 'static>(
        &self,
        index: usize,
        action: impl FnOnce(&mut Reactor) -> T + Send + 'static,
    ) -> Result<T> {
        let (send, result) = mpsc::channel();
        self.workers[index].handle.run(move |reactor| {
            let _ = send.send(action(reactor));
        })?;
        result.recv().map_err(|_| Error::Stopped)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let _ = self.stop(DRAIN_TIMEOUT);
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime")
            .field("backend", &self.backend)
            .field("reactors", &self.workers.len())
            .finish()
    }
}
