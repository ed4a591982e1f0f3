//! A connection, in the hands of other threads.

use super::mailbox::{Command, Mailbox};
use crate::buf::Payload;
use crate::reactor::table::Id;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use std::fmt;
use std::sync::Arc;

/// Writes to, closes or notifies a connection from any thread. Cheap to clone.
#[derive(Clone)]
pub struct Handle(Arc<Remote>);

/// What the reactor and the handles of one connection share.
pub(crate) struct Remote {
    id: Id,
    mailbox: Arc<Mailbox>,
    outbox: Mutex<Outbox>,
    room: Condvar,
}

struct Outbox {
    payload: Payload,
    limit: usize,
    /// The reactor was told and has not looked yet.
    announced: bool,
    notified: bool,
    /// The output has ended, so that nothing more is accepted.
    ended: bool,
    closed: bool,
}

/// Why something was not written. It can be tried again, or was never accepted; nothing was lost silently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandleError {
    /// The connection has ended or is being closed; for a write, it is enough that its output has ended.
    Closed,
    /// So much is waiting already that the outbox's limit, in bytes, would be exceeded.
    Full {
        /// The limit ([`StreamOptions::outbox_limit`](crate::reactor::StreamOptions::outbox_limit)).
        limit: usize,
    },
}

impl Handle {
    pub(in crate::reactor) fn new(id: Id, mailbox: Arc<Mailbox>, limit: usize) -> Self {
        let outbox = Outbox {
            payload: Payload::default(),
            limit,
            announced: false,
            notified: false,
            ended: false,
            closed: false,
        };
        Handle(Arc::new(Remote { id, mailbox, outbox: Mutex::new(outbox), room: Condvar::new() }))
    }

    pub(in crate::reactor) fn remote(&self) -> &Remote {
        &self.0
    }

    /// Appends `bytes` to the connection's output, or says why not. Never blocks.
    pub fn try_write(&self, bytes: &[u8]) -> Result<(), HandleError> {
        self.0.put(bytes.len(), false, |payload| payload.text().extend_from_slice(bytes))
    }

    /// Appends `bytes` to the connection's output without a copy, or says why not. Never blocks.
    pub fn try_write_bytes(&self, bytes: Bytes) -> Result<(), HandleError> {
        self.0.put(bytes.len(), false, |payload| payload.splice(bytes))
    }

    /// Appends `bytes` to the connection's output; waits while the peer is too slow for more. Not for a reactor's own
    /// thread, which would wait for itself.
    pub fn write(&self, bytes: &[u8]) -> Result<(), HandleError> {
        self.0.put(bytes.len(), true, |payload| payload.text().extend_from_slice(bytes))
    }

    /// Calls the handler's [`on_notify`](crate::reactor::Handler::on_notify). Calls that come before it ran are one.
    pub fn notify(&self) -> Result<(), HandleError> {
        let mut outbox = self.0.outbox.lock();
        if outbox.closed {
            return Err(HandleError::Closed);
        }
        outbox.notified = true;
        self.0.announce(&mut outbox)
    }

    /// Ends the output behind everything that was written.
    pub fn shutdown_write(&self) -> Result<(), HandleError> {
        self.0.post(Command::ShutdownWrite(self.0.id))
    }

    /// Closes the connection once everything that was written has been sent.
    pub fn close(&self) -> Result<(), HandleError> {
        self.0.post(Command::Close(self.0.id))
    }

    /// Closes the connection at once, with a reset.
    pub fn abort(&self) -> Result<(), HandleError> {
        self.0.post(Command::Abort(self.0.id))
    }

    /// Stops reading.
    pub fn pause_reading(&self) -> Result<(), HandleError> {
        self.0.post(Command::PauseReading(self.0.id))
    }

    /// Reads again.
    pub fn resume_reading(&self) -> Result<(), HandleError> {
        self.0.post(Command::ResumeReading(self.0.id))
    }

    /// Whether the connection has ended or is being closed.
    pub fn is_closed(&self) -> bool {
        self.0.outbox.lock().closed
    }
}

impl Remote {
    fn put(&self, len: usize, wait: bool, append: impl FnOnce(&mut Payload)) -> Result<(), HandleError> {
        let mut outbox = self.outbox.lock();
        // A write that is larger than the limit is let through alone, or it could never be.
        while !outbox.ended && !outbox.payload.is_empty() && outbox.payload.len() + len > outbox.limit {
            if !wait {
                return Err(HandleError::Full { limit: outbox.limit });
            }
            self.room.wait(&mut outbox);
        }
        if outbox.ended {
            return Err(HandleError::Closed);
        }
        append(&mut outbox.payload);
        self.announce(&mut outbox)
    }

    fn announce(&self, outbox: &mut Outbox) -> Result<(), HandleError> {
        if !std::mem::replace(&mut outbox.announced, true) {
            self.post(Command::Notify(self.id))?;
        }
        Ok(())
    }

    fn post(&self, command: Command) -> Result<(), HandleError> {
        self.mailbox.post(command).map_err(|_| HandleError::Closed)
    }

    /// The reactor follows an announcement: `true` if the handler is to be notified. The output is moved behind `out`, if there
    /// is one.
    pub(in crate::reactor) fn look(&self, out: Option<&mut Payload>) -> bool {
        let mut outbox = self.outbox.lock();
        outbox.announced = false;
        if let Some(out) = out {
            self.move_output(&mut outbox, out);
        }
        std::mem::take(&mut outbox.notified)
    }

    /// Moves the output behind `out`. What was announced stays so: a notification that came with it is still owed.
    pub(in crate::reactor) fn take_output(&self, out: &mut Payload) {
        self.move_output(&mut self.outbox.lock(), out);
    }

    fn move_output(&self, outbox: &mut Outbox, out: &mut Payload) {
        if !outbox.payload.is_empty() {
            out.append(&mut outbox.payload);
            self.room.notify_all();
        }
    }

    /// Refuses output from now on; those who wait are told.
    pub(in crate::reactor) fn end_output(&self) {
        self.outbox.lock().ended = true;
        self.room.notify_all();
    }

    /// Refuses everything from now on; those who wait are told.
    pub(in crate::reactor) fn close(&self) {
        let mut outbox = self.outbox.lock();
        (outbox.ended, outbox.closed) = (true, true);
        outbox.payload = Payload::default();
        self.room.notify_all();
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("closed", &self.is_closed()).finish_non_exhaustive()
    }
}

impl fmt::Display for HandleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HandleError::Closed => f.write_str("the connection or its output has ended"),
            HandleError::Full { limit } => {
                write!(
                    f,
                    "the connection's peer is too slow: more than {limit} bytes would wait for it (outbox limit)"
                )
            }
        }
    }
}

impl std::error::Error for HandleError {}
