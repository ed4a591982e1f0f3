//! Reactors on threads of their own.

use super::builder::RuntimeBuilder;
use super::pending::{Pending, Promise, promise};
use super::signal::Signal;
use super::watch::{ReactorFailure, Watch};
use crate::config::DRAIN_TIMEOUT;
use crate::driver::{Backend, Capabilities};
use crate::error::{Error, Result};
use crate::gauges::Gauges;
use crate::metrics::{Drained, Metrics};
use crate::reactor::{Ledger, MemoryBudget, Reactor, ReactorHandle};
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// A reactor per core, each on a thread of its own.
///
/// Dropping it drains, as [`shutdown`](Self::shutdown) does with [`DRAIN_TIMEOUT`]. On a reactor's own thread that happens
/// without waiting for it.
///
/// A reactor that fails ends nothing but itself. [`failures`](Self::failures) tells of it, [`wait`](Self::wait) waits for it,
/// [`RuntimeBuilder::on_failure`] is called.
pub struct Runtime {
    pub(super) workers: Vec<Worker>,
    pub(super) watch: Arc<Watch>,
    ledger: Arc<Ledger>,
    next: AtomicUsize,
}

pub(super) struct Worker {
    pub(super) handle: ReactorHandle,
    pub(super) thread: Option<JoinHandle<()>>,
    pub(super) info: ReactorInfo,
}

/// What one of a runtime's reactors runs on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ReactorInfo {
    /// How it reaches the kernel; never [`Backend::Auto`].
    pub backend: Backend,
    /// Why it is this backend and not the other one; see [`Reactor::backend_reason`](crate::Reactor::backend_reason).
    pub backend_reason: String,
    /// What that backend can do.
    pub capabilities: Capabilities,
    /// The core that its thread is pinned to, as the system numbers it.
    pub core: Option<usize>,
}

impl Runtime {
    pub(super) fn over(workers: Vec<Worker>, watch: Arc<Watch>, ledger: Arc<Ledger>) -> Self {
        Runtime { workers, watch, ledger, next: AtomicUsize::new(0) }
    }

    /// A reactor for each core that the process may use, on the best backend there is.
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// Settings for a runtime.
    pub fn builder() -> RuntimeBuilder {
        RuntimeBuilder::default()
    }

    /// The backend that the reactors run on; never [`Backend::Auto`]. Should they run on different ones, as when the limit on
    /// locked memory sufficed for some rings only, the lesser one: the fallback.
    pub fn backend(&self) -> Backend {
        self.least().backend
    }

    /// What that backend can do.
    pub fn capabilities(&self) -> Capabilities {
        self.least().capabilities
    }

    fn least(&self) -> &ReactorInfo {
        let mut infos = self.workers.iter().map(|worker| &worker.info);
        let first = &self.workers[0].info;
        infos.find(|info| info.backend == Backend::Fallback).unwrap_or(first)
    }

    /// What one of the reactors runs on.
    ///
    /// # Panics
    ///
    /// If `index` is not below [`reactors`](Self::reactors).
    pub fn reactor_info(&self, index: usize) -> &ReactorInfo {
        &self.workers[index].info
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

    /// The counters of each reactor, by its index.
    pub fn metrics_by_reactor(&self) -> Vec<Metrics> {
        self.workers.iter().map(|worker| worker.handle.metrics()).collect()
    }

    /// What the connections of all reactors hold in memory, and what they may.
    pub fn memory_budget(&self) -> MemoryBudget {
        self.ledger.budget()
    }

    /// What each reactor has at the moment, by its index; one that has ended has nothing.
    ///
    /// Waits for the reactors; on a reactor's own thread this is [`Error::OnReactorThread`].
    pub fn gauges(&self) -> Result<Vec<Gauges>> {
        Error::if_on_reactor_thread("Runtime::gauges", "use `Runtime::gauges_async`, or `Reactor::gauges`")?;
        self.gauges_async().wait()
    }

    /// What [`gauges`](Self::gauges) returns, without waiting.
    pub fn gauges_async(&self) -> Pending<Vec<Gauges>> {
        let (promise, pending) = promise();
        let counted =
            Arc::new(Counted(Mutex::new((vec![Gauges::default(); self.workers.len()], Some(promise)))));
        for (index, worker) in self.workers.iter().enumerate() {
            let counted = counted.clone();
            let _ = worker.handle.run(move |reactor| counted.0.lock().0[index] = reactor.gauges());
        }
        pending
    }

    /// Does something with one of the reactors on its own thread, soon, for what it returns. It is done whether anybody waits for
    /// that or not; without a result, [`ReactorHandle::run`] does it.
    ///
    /// The outcome is [`Error::Stopped`] if the reactor has stopped, or stops before it comes to it, and if `action` panics.
    ///
    /// # Panics
    ///
    /// If `reactor` is not below [`reactors`](Self::reactors).
    pub fn run_on<R: Send + 'static>(
        &self,
        reactor: usize,
        action: impl FnOnce(&mut Reactor) -> R + Send + 'static,
    ) -> Pending<R> {
        let (promise, pending) = promise();
        // Dropped in this order where it is not done: nothing of it is left when that is known.
        let both = (action, promise);
        let _ = self.reactor(reactor).run(move |reactor| {
            let (action, promise) = both;
            promise.keep(Ok(action(reactor)));
        });
        pending
    }

    /// The reactors that have failed so far, in that order.
    pub fn failures(&self) -> Vec<ReactorFailure> {
        self.watch.failures()
    }

    /// An error if one of the reactors has failed.
    pub fn health(&self) -> Result<()> {
        self.watch.check()
    }

    /// Waits until one of the reactors has failed, which is the error, or all of them have been stopped.
    ///
    /// On a reactor's own thread this is [`Error::OnReactorThread`].
    pub fn wait(&self) -> Result<()> {
        Error::if_on_reactor_thread(
            "Runtime::wait",
            "use `Runtime::wait_async` or `RuntimeBuilder::on_failure`",
        )?;
        self.watch.wait()
    }

    /// What [`wait`](Self::wait) waits for.
    pub fn wait_async(&self) -> Pending<()> {
        let (promise, pending) = promise();
        let watch = self.watch.clone();
        self.watch.when_it_ends(move || promise.keep(watch.check()));
        pending
    }

    /// Waits until the process is told to stop, by SIGINT, as from Ctrl-C, or by SIGTERM; a second one, once this has
    /// returned, ends the process at once. If a reactor fails, that is the error, at once.
    ///
    /// On a reactor's own thread this is [`Error::OnReactorThread`].
    pub fn wait_for_interrupt(&self) -> Result<()> {
        super::signal::wait_for_interrupt_or(Some(&self.watch))?;
        self.watch.check()
    }

    /// Waits until the process is told to stop or to read its settings once more, as
    /// [`net::wait_for_signal`](super::wait_for_signal) does. If a reactor fails, that is the error, at once.
    ///
    /// On a reactor's own thread this is [`Error::OnReactorThread`].
    pub fn wait_for_signal(&self) -> Result<Signal> {
        let signal = super::signal::wait_for_signal_or(Some(&self.watch))?;
        self.watch.check().map(|()| signal)
    }

    /// Serves until the process is told to stop, as [`wait_for_interrupt`](Self::wait_for_interrupt) does, then drains for
    /// up to [`DRAIN_TIMEOUT`]. A second signal ends the process at once. If a reactor fails, the others drain, and that is
    /// the error.
    pub fn run_until_interrupted(self) -> Result<()> {
        self.run_until_interrupted_with(DRAIN_TIMEOUT).map(drop)
    }

    /// The same with a grace of one's own; says what was cut off when it was over.
    pub fn run_until_interrupted_with(self, grace: Duration) -> Result<Drained> {
        match self.wait_for_interrupt() {
            // What has failed is told of when the others have drained.
            Ok(()) | Err(Error::ReactorFailed { .. }) => self.shutdown(grace),
            Err(error) => Err(error),
        }
    }

    /// Stops: servers accept no more, handlers' [`on_shutdown`](super::Handler::on_shutdown) is called, and what has not
    /// finished within `grace` is cut off. An error if a reactor failed, now or before.
    ///
    /// Waits. On a reactor's own thread this is [`Error::OnReactorThread`], and the runtime drains as if it had been dropped.
    pub fn shutdown(mut self, grace: Duration) -> Result<Drained> {
        Error::if_on_reactor_thread("Runtime::shutdown", "use `Runtime::shutdown_async`")?;
        let before = self.metrics();
        self.begin_to_stop(grace);
        self.join();
        self.watch.check()?;
        Ok(drained(&before, &self.metrics()))
    }

    /// Stops, as [`shutdown`](Self::shutdown) does, without waiting. It goes on if the result is dropped.
    pub fn shutdown_async(mut self, grace: Duration) -> Pending<Drained> {
        let (promise, pending) = promise();
        let handles: Vec<ReactorHandle> = self.workers.iter().map(|worker| worker.handle.clone()).collect();
        let (before, watch) = (self.metrics(), self.watch.clone());
        self.begin_to_stop(grace);
        self.watch.when_all_ended(move || {
            let mut after = Metrics::default();
            handles.iter().for_each(|handle| after.merge(&handle.metrics()));
            // Nothing of it is left when it is said to have ended.
            drop(handles);
            promise.keep(watch.check().map(|()| drained(&before, &after)));
        });
        // They end by themselves.
        self.workers.iter_mut().for_each(|worker| worker.thread = None);
        pending
    }

    fn begin_to_stop(&self, grace: Duration) {
        for worker in &self.workers {
            // One that has stopped already needs no telling.
            let _ = worker.handle.run(move |reactor| reactor.begin_drain(grace));
        }
    }

    fn join(&mut self) {
        for thread in self.workers.iter_mut().filter_map(|worker| worker.thread.take()) {
            // It catches what panics.
            let _ = thread.join();
        }
    }

    /// The next reactor in turn that is there; if none is, any.
    pub(crate) fn next_reactor(&self) -> usize {
        let next = || self.next.fetch_add(1, Ordering::Relaxed) % self.workers.len();
        (0..self.workers.len()).map(|_| next()).find(|index| self.watch.is_alive(*index)).unwrap_or_else(next)
    }

    /// The reactors that are there, of which there must be one.
    pub(super) fn live_reactors(&self) -> Result<Vec<usize>> {
        let live: Vec<usize> = (0..self.workers.len()).filter(|index| self.watch.is_alive(*index)).collect();
        if live.is_empty() { Err(self.watch.check().err().unwrap_or(Error::Stopped)) } else { Ok(live) }
    }

    /// What is wrong with a reactor that takes nothing any more.
    pub(super) fn why_stopped(&self, index: usize) -> Error {
        self.watch.failure_of(index).map_or(Error::Stopped, Error::from)
    }

    pub(super) fn core(&self, index: usize) -> Option<usize> {
        self.workers[index].info.core
    }
}

/// What the reactors have counted; told when the last of them has, or has ended.
struct Counted(Mutex<(Vec<Gauges>, Option<GaugesPromise>)>);

type GaugesPromise = Promise<Vec<Gauges>>;

impl Drop for Counted {
    fn drop(&mut self) {
        let (gauges, promise) = self.0.get_mut();
        if let Some(promise) = promise.take() {
            promise.keep(Ok(std::mem::take(gauges)));
        }
    }
}

fn drained(before: &Metrics, after: &Metrics) -> Drained {
    let cut_off = after.connections_cut_off - before.connections_cut_off;
    Drained::new((after.connections_closed - before.connections_closed).saturating_sub(cut_off), cut_off)
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if self.workers.iter().all(|worker| worker.thread.is_none()) {
            return;
        }
        self.begin_to_stop(DRAIN_TIMEOUT);
        // A reactor's thread would wait for what only it can do, or be waited for by the one that it waits for.
        if !crate::waiting::is_forbidden() {
            self.join();
        }
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime")
            .field("backend", &self.backend())
            .field("reactors", &self.workers.len())
            .field("failures", &self.failures())
            .finish_non_exhaustive()
    }
}
