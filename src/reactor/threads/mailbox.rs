//! What other threads hand to a reactor, and how it wakes for it.

use super::wake_queue::WakeQueue;
use crate::driver::DriverWaker;
use crate::reactor::Reactor;
use crate::reactor::table::Id;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Something to do on the reactor's own thread.
pub(crate) enum Command {
    Run(Box<dyn FnOnce(&mut Reactor) + Send>),
    /// A connection's outbox has something in it.
    Look(Id),
}

/// A queue with a bell. The bell is rung only for a reactor that sleeps.
#[derive(Debug)]
pub(crate) struct Mailbox {
    queue: WakeQueue<Command>,
    waker: DriverWaker,
    refused_writes: AtomicU64,
}

impl Mailbox {
    pub(crate) fn new(waker: DriverWaker) -> Self {
        Mailbox { queue: WakeQueue::new(), waker, refused_writes: AtomicU64::new(0) }
    }

    /// Hands over a command, or gives it back when the reactor has stopped.
    pub(crate) fn post(&self, command: Command) -> Result<(), Command> {
        if self.queue.post(command)? {
            self.waker.wake();
        }
        Ok(())
    }

    /// Ends the reactor's wait, the current one or the next.
    pub(crate) fn wake(&self) {
        if self.queue.wake() {
            self.waker.wake();
        }
    }

    /// Takes all commands, in the order in which they came.
    pub(crate) fn take(&self, into: &mut Vec<Command>) {
        self.queue.take(into);
    }

    /// Whether there are commands, or the reactor is not to wait.
    pub(crate) fn has_mail(&self) -> bool {
        self.queue.has_reason()
    }

    /// Announces that the reactor is about to sleep. If this returns `false`, there is something to do instead.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.queue.fall_asleep()
    }

    /// The reactor has slept.
    pub(crate) fn end_sleep(&self) {
        self.queue.end_sleep();
    }

    /// The reactor is awake although it did not sleep, or is not known to have.
    pub(crate) fn awake(&self) {
        self.queue.awake();
    }

    /// Refuses commands from now on, unless there are some to be run first.
    pub(crate) fn close_if_empty(&self) -> bool {
        self.queue.close_if_empty()
    }

    /// Refuses commands from now on and drops those that came too late.
    pub(crate) fn close(&self) {
        // Behind the lock: what is dropped may have something to post.
        drop(self.queue.close());
    }

    /// A write of another thread found no room.
    pub(crate) fn count_refused_write(&self) {
        self.refused_writes.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refused_writes(&self) -> u64 {
        self.refused_writes.load(Ordering::Relaxed)
    }

    /// Signals sent, and signals saved because the reactor was awake.
    pub(crate) fn wakes(&self) -> (u64, u64) {
        self.queue.signals()
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Run(_) => f.write_str("Run"),
            Command::Look(id) => write!(f, "Look({id:?})"),
        }
    }
}
