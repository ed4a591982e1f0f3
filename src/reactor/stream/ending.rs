//! How a connection ends.

use super::connection::{Link, Phase};
use super::deadlines::Overdue;
use super::handler::CloseReason;
use crate::buf::Spare;
use crate::config::QUIET_TIMEOUT;
use crate::reactor::pace::timers::deadline;
use crate::reactor::socket::system;
use crate::reactor::threads::stream_handle::Handle;
use std::io;
use std::time::{Duration, Instant};

/// How soon it is asked again whether the peer's system has everything; each time it takes twice as long, up to
/// [`LONGEST_LOOK`].
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LONGEST_LOOK: Duration = Duration::from_millis(16);

/// How long what was sent has to arrive where the system does not tell whether it did.
const BLIND_WAIT: Duration = Duration::from_millis(200);

/// By whose will a connection is closed as one that is not finished.
#[derive(Clone, Copy, Debug)]
pub(in crate::reactor) enum Cut {
    Handler,
    Stop,
}

impl From<Cut> for CloseReason {
    fn from(cut: Cut) -> Self {
        match cut {
            Cut::Handler => CloseReason::Aborted,
            Cut::Stop => CloseReason::Shutdown,
        }
    }
}

/// When it is asked whether the peer's system has everything.
#[derive(Debug)]
pub(in crate::reactor) struct Look {
    since: Instant,
    next: Instant,
}

impl Link {
    pub(in crate::reactor) fn shutdown_write(&mut self, spare: &mut Spare) {
        if self.phase == Phase::Open {
            self.write_ends = true;
            if let Some(handle) = &self.remote {
                handle.remote().refuse_output();
            }
            // What other threads wrote before the end is a part of the output.
            self.collect_outbox(spare);
        }
    }

    pub(in crate::reactor) fn begin_close(&mut self, spare: &mut Spare) {
        match self.phase {
            Phase::Connecting | Phase::Handshaking => self.fail(CloseReason::Aborted),
            Phase::Open if self.send_error.is_some() => self.fail(CloseReason::Closed),
            Phase::Open => {
                self.phase = Phase::Flushing;
                if let Some(handle) = &self.remote {
                    handle.remote().refuse_all();
                }
                self.collect_outbox(spare);
            }
            Phase::Flushing | Phase::Lingering | Phase::Dead => {}
        }
    }

    /// As a close, but with a reset in the place of the end, once the peer's system has what was written.
    pub(super) fn begin_cut(&mut self, cut: Cut, spare: &mut Spare) {
        match self.phase {
            Phase::Open if self.send_error.is_some() => self.fail(cut.into()),
            Phase::Connecting | Phase::Handshaking | Phase::Open => {
                self.begin_close(spare);
                self.cut = Some(cut);
            }
            Phase::Flushing | Phase::Lingering | Phase::Dead => {}
        }
    }

    /// A close by nobody's choice, in the middle of whatever the peers were saying.
    pub(super) fn begin_stop(&mut self, spare: &mut Spare) {
        let held = self.remote.as_ref().is_some_and(Handle::is_shared);
        if self.has_output() || self.unconsumed() > 0 || held {
            return self.begin_cut(Cut::Stop, spare);
        }
        self.minds_input = true;
        self.begin_close(spare);
    }

    /// What was written may not have arrived yet, and has to before it is reset.
    pub(in crate::reactor) fn is_unfinished(&self) -> bool {
        self.cut.is_some()
    }

    /// Something arrived that nobody wants any more.
    pub(super) fn input_lost(&mut self) {
        if self.minds_input && self.phase < Phase::Dead {
            self.cut.get_or_insert(Cut::Stop);
        }
    }

    /// Begins to wait for the peer's end, or for its system's confirmation, once all is sent.
    pub(super) fn linger(&mut self, now: Instant) {
        if self.phase == Phase::Flushing {
            self.phase = Phase::Lingering;
            self.phase_deadline = Some(deadline(now, self.options.close_timeout));
        }
        if self.cut.is_some() && self.look.is_none() {
            self.look = Some(Box::new(Look { since: now, next: now }));
            if let Some(reason) = self.lingered(now) {
                self.fail(reason);
            }
        }
    }

    /// Bytes that the kernel has taken and the peer's has not confirmed: whoever resets the connection now takes them away. `None`
    /// where nobody knows.
    fn unconfirmed(&self) -> Option<usize> {
        // What carries a stream says that something was sent once it is with the peer.
        let Some(socket) = self.wire.socket() else { return Some(0) };
        // The peer's address may be that of a client of a proxy, which comes another way.
        let is_unix = socket.local_addr().is_ok_and(|address| address.is_unix());
        if is_unix || socket.take_error().is_ok_and(|error| error.is_some()) {
            // What was sent over a Unix-domain socket is with the peer, and nothing more comes to one that has gone.
            return Some(0);
        }
        system::unacknowledged(&**socket)
    }

    fn is_confirmed(&self, waited: Duration) -> bool {
        self.unconfirmed().map_or(waited >= BLIND_WAIT, |bytes| bytes == 0)
    }

    /// The end, whatever the state was. The first reason is the one that counts.
    pub(in crate::reactor) fn fail(&mut self, reason: CloseReason) {
        if self.phase == Phase::Dead {
            return;
        }
        let reason = match reason {
            CloseReason::Closed | CloseReason::ByPeer | CloseReason::Failed(_) => {
                self.send_error.take().map_or(reason, CloseReason::Failed)
            }
            reason => reason,
        };
        // Once the output has been ended, behind all of it, there is nothing that the peer could miss.
        self.resets = !self.write_ended || self.cut.is_some() || matches!(reason, CloseReason::Aborted);
        self.phase = Phase::Dead;
        self.reason.get_or_insert(reason);
        self.drop_output();
        if let Some(handle) = &self.remote {
            handle.remote().end();
        }
    }

    /// The end of the output, because sending failed. What has arrived is still delivered, if anybody may be waiting for it.
    pub(in crate::reactor) fn fail_output(&mut self, error: io::Error) {
        if self.sends_farewell() {
            // All that was written went before. Whether the peer goes on, reading tells.
            self.write_ended = true;
            return self.drop_output();
        }
        if self.phase != Phase::Open {
            return self.fail(CloseReason::Failed(error));
        }
        self.send_error = Some(error);
        self.drop_output();
        self.undrained = false;
        self.above_low_water = false;
        self.write_ends = true;
        if let Some(handle) = &self.remote {
            handle.remote().refuse_output();
        }
    }

    pub(in crate::reactor) fn has_failed_output(&self) -> bool {
        self.send_error.is_some()
    }

    /// When the connection has been where it is for too long.
    pub(in crate::reactor) fn phase_due(&self) -> Option<Instant> {
        match self.phase {
            Phase::Connecting | Phase::Handshaking => self.phase_deadline,
            Phase::Lingering => {
                // Who is to be reset has its own looks.
                let waits = self.hurried && self.look.is_none();
                let quiet = waits.then(|| deadline(self.last_sign(), QUIET_TIMEOUT));
                let look = self.look.as_ref().map(|look| look.next);
                [self.phase_deadline, quiet, look].into_iter().flatten().min()
            }
            Phase::Open | Phase::Flushing => self.limit_due(),
            Phase::Dead => None,
        }
    }

    /// When anything was last heard of the peer.
    pub(super) fn last_sign(&self) -> Instant {
        self.last_input.max(self.last_progress)
    }

    /// The phase's time is over, or it is time to look whether it may end. `true` if the handler is to be asked to end it.
    pub(in crate::reactor) fn overdue(&mut self, now: Instant) -> bool {
        let reason = match self.phase {
            Phase::Connecting => Some(CloseReason::ConnectFailed(io::ErrorKind::TimedOut.into())),
            Phase::Handshaking => {
                Some(CloseReason::HandshakeTimeout { timeout: self.options.handshake_timeout })
            }
            Phase::Open | Phase::Flushing => match self.limit_overdue(now) {
                Overdue::Fail(reason) => Some(reason),
                Overdue::AskToEnd(reason) => {
                    self.reason = reason;
                    return true;
                }
                Overdue::Nothing => None,
            },
            Phase::Lingering | Phase::Dead => self.lingered(now),
        };
        if let Some(reason) = reason {
            self.fail(reason);
        }
        false
    }

    /// Why it need not linger any more.
    fn lingered(&mut self, now: Instant) -> Option<CloseReason> {
        let timeout = self.options.close_timeout;
        let is_over = self.phase_deadline.is_none_or(|deadline| deadline <= now);
        if let (Some(look), Some(cut)) = (self.look.take(), self.cut) {
            let waited = now.saturating_duration_since(look.since);
            if is_over || self.is_confirmed(waited) {
                return Some(cut.into());
            }
            let next = now + waited.clamp(FIRST_LOOK, LONGEST_LOOK);
            self.look = Some(Box::new(Look { next, ..*look }));
            return None;
        }
        if is_over {
            return Some(CloseReason::CloseTimeout { timeout });
        }
        if self.unconfirmed() == Some(0) {
            return Some(CloseReason::CloseTimeout { timeout: QUIET_TIMEOUT });
        }
        // What has not arrived may still be answered.
        self.last_progress = now;
        None
    }

    /// Whether the output is to be ended at the socket now: that was asked for, and all of it is sent.
    pub(in crate::reactor) fn ends_output_now(&mut self) -> bool {
        let now = self.is_asked_to_end_output()
            && self.has_taken_leave()
            && self.send_error.is_none()
            && !self.write_ended
            && !self.has_output()
            && self.phase < Phase::Dead;
        self.write_ended |= now;
        now
    }

    pub(super) fn is_asked_to_end_output(&self) -> bool {
        self.write_ends || self.phase == Phase::Flushing && self.cut.is_none()
    }

    pub(in crate::reactor) fn has_ended_output(&self) -> bool {
        self.write_ended
    }
}
