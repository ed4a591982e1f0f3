//! What other threads hand to a reactor, and how it wakes for it.

use super::wake::WakeFlag;
use crate::driver::DriverWaker;
use crate::reactor::Reactor;
use crate::reactor::table::Id;
use parking_lot::Mutex;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Something to do on the reactor's own thread.
pub(crate) enum Command {
    Run(Box<dyn FnOnce(&mut Reactor) + Send>),
    /// A connection's outbox has something in it.
    Notify(Id),
    Close(Id),
    Abort(Id),
    ShutdownWrite(Id),
    PauseReading(Id),
    ResumeReading(Id),
}

/// A queue with a bell. The bell is rung only for a reactor that sleeps.
#[derive(Debug)]
pub(crate) struct Mailbox {
    queue: Mutex<Queue>,
    flag: WakeFlag,
    waker: DriverWaker,
    wakes_sent: AtomicU64,
    wakes_saved: AtomicU64,
}

#[derive(Debug)]
struct Queue {
    commands: Vec<Command>,
    open: bool,
}

impl Mailbox {
    pub(crate) fn new(waker: DriverWaker) -> Self {
        Mailbox {
            queue: Mutex::new(Queue { commands: Vec::new(), open: true }),
            flag: WakeFlag::new(),
            waker,
            wakes_sent: AtomicU64::new(0),
            wakes_saved: AtomicU64::new(0),
        }
    }

    /// Hands over a command, or gives it back when the reactor has stopped.
    pub(crate) fn post(&self, command: Command) -> Result<(), Command> {
        {
            let mut queue = self.queue.lock();
            if !queue.open {
                return Err(command);
            }
            queue.commands.push(command);
        }
        self.wake();
        Ok(())
    }

    /// Wakes the reactor if it sleeps.
    pub(crate) fn wake(&self) {
        if self.flag.claim() {
            self.wakes_sent.fetch_add(1, Ordering::Relaxed);
            self.waker.wake();
        } else {
            self.wakes_saved.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes all commands, in the order in which they came.
    pub(crate) fn take(&self, into: &mut Vec<Command>) {
        debug_assert!(into.is_empty());
        std::mem::swap(&mut self.queue.lock().commands, into);
    }

    pub(crate) fn has_commands(&self) -> bool {
        !self.queue.lock().commands.is_empty()
    }

    /// Announces that the reactor is about to sleep. If this returns `false`, there is something to do instead.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.flag.set_asleep();
        if self.has_commands() {
            self.flag.set_awake();
            return false;
        }
        true
    }

    pub(crate) fn awake(&self) {
        self.flag.set_awake();
    }

    /// Refuses commands from now on and drops those that came too late.
    pub(crate) fn close(&self) {
        let late = {
            let mut queue = self.queue.lock();
            queue.open = false;
            std::mem::take(&mut queue.commands)
        };
        drop(late);
    }

    /// Signals sent, and signals saved because the reactor was awake.
    pub(crate) fn wakes(&self) -> (u64, u64) {
        (self.wakes_sent.load(Ordering::Relaxed), self.wakes_saved.load(Ordering::Relaxed))
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Run(_) => f.write_str("Run"),
            Command::Notify(id) => write!(f, "Notify({id:?})"),
            Command::Close(id) => write!(f, "Close({id:?})"),
            Command::Abort(id) => write!(f, "Abort({id:?})"),
            Command::ShutdownWrite(id) => write!(f, "ShutdownWrite({id:?})"),
            Command::PauseReading(id) => write!(f, "PauseReading({id:?})"),
            Command::ResumeReading(id) => write!(f, "ResumeReading({id:?})"),
        }
    }
}
