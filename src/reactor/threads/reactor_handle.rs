//! A reactor, in the hands of other threads.

use super::mailbox::{Command, Mailbox};
use crate::error::{Error, Result};
use crate::metrics::{Metrics, PaddedCounters};
use crate::reactor::Reactor;
use std::fmt;
use std::sync::Arc;

/// Something that one thread has a reactor do.
pub(crate) type SentAction = Box<dyn FnOnce(&mut Reactor) + Send>;

/// Hands work to a reactor from any thread, and reads its counters. Cheap to clone.
#[derive(Clone)]
pub struct ReactorHandle {
    mailbox: Arc<Mailbox>,
    counters: Arc<PaddedCounters>,
}

impl ReactorHandle {
    pub(in crate::reactor) fn new(mailbox: Arc<Mailbox>, counters: Arc<PaddedCounters>) -> Self {
        ReactorHandle { mailbox, counters }
    }

    /// Whether it is the reactor that has this mailbox.
    pub(in crate::reactor) fn is_of(&self, mailbox: &Arc<Mailbox>) -> bool {
        Arc::ptr_eq(&self.mailbox, mailbox)
    }

    /// Does something with the reactor on its own thread, soon. Fails when the reactor has stopped; if it stops before it
    /// comes to it, `action` is dropped. For something with a result, there is
    /// [`Runtime::run_on`](crate::Runtime::run_on).
    pub fn run(&self, action: impl FnOnce(&mut Reactor) + Send + 'static) -> Result<()> {
        self.mailbox.post(Command::Run(Box::new(action))).map_err(|_| Error::Stopped)
    }

    /// The same, for something that is not to be lost when the reactor has stopped.
    pub(crate) fn run_or_give_back(&self, action: SentAction) -> Result<(), SentAction> {
        match self.mailbox.post(Command::Run(action)) {
            Err(Command::Run(action)) => Err(action),
            _ => Ok(()),
        }
    }

    /// Ends the reactor's wait, the current one or the next.
    pub fn wake(&self) {
        self.mailbox.wake();
    }

    /// The counters so far.
    pub fn metrics(&self) -> Metrics {
        let mut metrics = self.counters.read();
        (metrics.wakes_sent, metrics.wakes_saved) = self.mailbox.wakes();
        metrics.writes_refused = self.mailbox.refused_writes();
        metrics
    }
}

impl fmt::Debug for ReactorHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReactorHandle").finish_non_exhaustive()
    }
}
