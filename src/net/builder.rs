//! How a runtime is set up and its reactors are started.

use super::runtime::{ReactorInfo, Runtime, Worker};
use super::watch::{OnFailure, ReactorFailure, Watch};
use crate::config::{BusyPoll, LATENCY_BUSY_POLL, UringFeature};
use crate::driver::Backend;
use crate::error::{Error, Result};
use crate::reactor::{self, Reactor, ReactorBuilder, ReactorHandle};
use core_affinity::CoreId;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

/// Settings of a [`Runtime`].
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct RuntimeBuilder {
    reactor: ReactorBuilder,
    reactors: Option<usize>,
    pin: bool,
    first_core: Option<usize>,
    on_failure: Option<OnFailure>,
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

    /// Where pinning begins among the cores that the process may use; for several runtimes in one process. Unless set, it begins
    /// where the thread runs that builds the runtime, so that the processes of a machine do not all take its first cores.
    pub fn first_core(mut self, index: usize) -> Self {
        self.first_core = Some(index);
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

    /// The small buffers of each reactor's receive pool; see [`ReactorBuilder::small_pool`].
    pub fn small_pool(mut self, buffers: u16, buffer_bytes: usize) -> Self {
        self.reactor = self.reactor.small_pool(buffers, buffer_bytes);
        self
    }

    /// The sizes of each reactor's queues; see [`ReactorBuilder::ring_entries`].
    pub fn ring_entries(mut self, submission: u32, completion: u32) -> Self {
        self.reactor = self.reactor.ring_entries(submission, completion);
        self
    }

    /// Input that one turn of a reactor shows to handlers; see [`ReactorBuilder::turn_budget`].
    pub fn turn_budget(mut self, bytes: usize) -> Self {
        self.reactor = self.reactor.turn_budget(bytes);
        self
    }

    /// Bytes that the connections of all reactors may hold together; see [`ReactorBuilder::memory_budget`].
    pub fn memory_budget(mut self, bytes: usize) -> Self {
        self.reactor = self.reactor.memory_budget(bytes);
        self
    }

    /// Handshakes that may go on at a time at each reactor; see [`ReactorBuilder::handshakes`].
    pub fn handshakes(mut self, handshakes: usize) -> Self {
        self.reactor = self.reactor.handshakes(handshakes);
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

    /// Is called when a reactor fails, once it has let go of everything: on that reactor's thread, which has nothing else to do
    /// any more, so it may take its time. [`Runtime::wait`] returns and [`Runtime::health`] is an error as well.
    pub fn on_failure(mut self, callback: impl Fn(&ReactorFailure) + Send + Sync + 'static) -> Self {
        self.on_failure = Some(OnFailure(Arc::new(callback)));
        self
    }

    /// Starts the reactors, and waits until they run. On a reactor's own thread this is [`Error::OnReactorThread`].
    pub fn build(&self) -> Result<Runtime> {
        Error::if_on_reactor_thread(
            "RuntimeBuilder::build",
            "start the runtime before, or on another thread",
        )?;
        let cores = if self.pin { core_affinity::get_core_ids().unwrap_or_default() } else { Vec::new() };
        // Asked even if it is not needed here: the reactors are told the same.
        let usable = reactor::cores();
        let reactors = self.reactors.unwrap_or(usable);
        if reactors == 0 {
            return Err(Error::InvalidSetting("a runtime needs at least one reactor".to_owned()));
        }
        self.reactor.check()?;
        let first_core = match self.first_core {
            Some(index) => index % cores.len().max(1),
            None if cores.is_empty() => 0,
            None => place_of(current_core(), &cores),
        };
        // All threads start at once; the first error, if any, ends those that came up.
        let ledger = self.reactor.ledger(reactors);
        let watch = Watch::new(reactors, self.on_failure.clone());
        let starting: Vec<Result<Starting>> = (0..reactors)
            .map(|index| {
                let core = cores.get((first_core + index) % cores.len().max(1));
                start(self.reactor.clone().share_of(&ledger, index), index, core.copied(), watch.clone())
            })
            .collect();
        let (mut workers, mut failure) = (Vec::new(), None);
        for starting in starting {
            match starting.and_then(Starting::wait) {
                Ok(worker) => workers.push(worker),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        let runtime = Runtime::over(workers, watch, ledger);
        failure.map_or(Ok(runtime), Err)
    }
}

struct Starting {
    thread: JoinHandle<()>,
    ready: mpsc::Receiver<Result<(ReactorHandle, ReactorInfo)>>,
}

impl Starting {
    fn wait(self) -> Result<Worker> {
        let Starting { thread, ready } = self;
        let (handle, info) = ready.recv().unwrap_or(Err(Error::Stopped))?;
        Ok(Worker { handle, thread: Some(thread), info })
    }
}

fn start(builder: ReactorBuilder, index: usize, core: Option<CoreId>, watch: Arc<Watch>) -> Result<Starting> {
    let (send, ready) = mpsc::channel();
    let run = move || {
        if let Some(core) = core {
            // Where the system does not pin (Apple Silicon), the reactor runs wherever it is put.
            core_affinity::set_for_current(core);
        }
        let built = builder.build_alone();
        // It knows of the other reactors, and would outlive what tells that this one has ended.
        drop(builder);
        match built {
            Ok(reactor) => {
                let info = ReactorInfo {
                    backend: reactor.backend(),
                    backend_reason: reactor.backend_reason().to_owned(),
                    capabilities: reactor.capabilities(),
                    core: core.map(|core| core.id),
                };
                let _ = send.send(Ok((reactor.handle(), info)));
                supervise(index, reactor, &watch);
            }
            Err(error) => _ = send.send(Err(error)),
        }
    };
    let thread = std::thread::Builder::new().name(format!("trochus-{index}")).spawn(run);
    let thread = thread.map_err(|source| Error::System { action: "start a reactor's thread", source })?;
    Ok(Starting { thread, ready })
}

/// Where a core stands among `cores`: at the beginning if it is not known.
fn place_of(core: Option<usize>, cores: &[CoreId]) -> usize {
    cores.iter().position(|candidate| Some(candidate.id) == core).unwrap_or(0)
}

/// The core that this thread runs on at the moment, where the system tells.
fn current_core() -> Option<usize> {
    // proc_pid_stat(5): the second field is a name in parentheses, the 39th is the core.
    let stat = std::fs::read_to_string("/proc/thread-self/stat").ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(39 - 3)?.parse().ok()
}

/// Runs a reactor to its end, and says what that was.
fn supervise(index: usize, mut reactor: Reactor, watch: &Watch) {
    let reason = match catch_unwind(AssertUnwindSafe(|| reactor.run_until_drained())) {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(panic) => Some(told(panic)),
    };
    if let Some(reason) = reason {
        // First nobody can take it for one that works, then it is told of.
        reactor.give_up();
        watch.failed(index, reason);
    }
    // What it still has may panic as well.
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(reactor))) {
        std::mem::forget(panic);
    }
    watch.ended(index);
}

/// What a panic said. The rest of it is not looked at: what panics may do so again when it is dropped.
fn told(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    let told = format!("it panicked: {}", text.unwrap_or("with something that is no text"));
    std::mem::forget(panic);
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinning_begins_where_the_builder_runs() {
        for core in core_affinity::get_core_ids().unwrap_or_default() {
            let seen = std::thread::spawn(move || core_affinity::set_for_current(core).then(current_core));
            if cfg!(target_os = "linux") {
                assert_eq!(seen.join().unwrap(), Some(Some(core.id)));
            }
        }
        let cores = [3, 5, 7].map(|id| CoreId { id });
        assert_eq!([Some(5), Some(4), None].map(|core| place_of(core, &cores)), [1, 0, 0]);
    }

    #[test]
    fn settings_reach_the_reactors_and_no_core_is_too_far() {
        let told = format!("{:?}", Runtime::builder().turn_budget(12_345));
        assert!(told.contains("turn_budget: Some(12345)"), "{told}");
        assert!(Runtime::builder().turn_budget(0).build().is_err());
        for first_core in [0, 1000, usize::MAX] {
            let runtime = Runtime::builder().reactors(2).pin(true).first_core(first_core).build().unwrap();
            assert_eq!(runtime.reactors(), 2);
        }
    }
}
