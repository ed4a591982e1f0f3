//! Brings what the kernel is asked to do in line with what a connection's state wants.

use super::connection::{Connection, Phase};
use super::files::FileRead;
use super::handler::{CloseReason, Handler};
use super::io::Io;
use crate::driver::{Kind, Token};
use crate::reactor::Reactor;
use crate::reactor::carrier::Wire;
use crate::reactor::pace::timers::{Due, deadline};
use crate::reactor::socket::address::Address;
use crate::reactor::table::Id;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// How long a time limit is put off because what was received is not handled yet: not for as long as a peer sends.
const LONGEST_DELAY: Duration = Duration::from_secs(1);

impl Reactor {
    /// To be called after anything that may have changed a connection: it is the one place that starts and ends
    /// operations, and that moves a closing connection on.
    pub(in crate::reactor) fn settle(&mut self, id: Id) {
        let outer = self.settling.replace(id);
        while self.settle_input(id) {}
        self.settle_output(id);
        self.settle_phase(id);
        self.settle_reading(id);
        self.settle_timer(id);
        self.weigh(id);
        self.bury(id);
        self.settling = outer;
    }

    /// Delivers what the handler is owed, if it may have it now. `true` if that may have changed things.
    fn settle_input(&mut self, id: Id) -> bool {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return false };
        let short = self.shared.memory.is_short();
        let paused = link.check_output(short);
        if short && link.throttled {
            self.shared.memory.squeeze();
        }
        if paused {
            self.shared.counters.reads_paused.add(1);
            link.unread = true;
        }
        if link.phase != Phase::Open || !link.wants_input() {
            return false;
        }
        if std::mem::take(&mut link.unread) && !link.inbox.is_empty() {
            self.feed_again(id);
            return true;
        }
        if std::mem::take(&mut link.end_owed) && !link.has_failed_output() {
            if link.is_truncated() {
                link.fail(CloseReason::Truncated);
            } else {
                self.call(id, |handler, io| handler.on_end(io));
            }
            return true;
        }
        false
    }

    fn settle_output(&mut self, id: Id) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        if link.files.is_some() {
            self.unsubmitted |= link.settle_files(&mut self.driver, &mut self.shared);
        }
        if link.pending_output() == 0
            && link.accepts_output()
            && link.remote.as_ref().is_some_and(|handle| handle.remote().has_output())
        {
            link.collect_outbox(&mut self.shared.spare);
        }
        if let Some(handle) = &link.remote {
            handle.remote().set_output(link.pending_output());
        }
        if link.filter.is_some() {
            link.take_leave();
        }
        if !link.has_sendable() && link.filtered == 0 || link.phase > Phase::Flushing {
            return;
        }
        link.undrained |= link.has_sendable();
        link.above_low_water |= link.pending_output() > link.options.limits.low_water();
        let may_send = link.phase >= Phase::Open || link.phase == Phase::Handshaking && link.filtered > 0;
        if link.sending == 0 && may_send && !link.queued {
            link.queued = true;
            link.last_progress = self.shared.now;
            self.dirty.push(id);
        }
    }

    fn settle_phase(&mut self, id: Id) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        if link.ends_output_now() {
            match &link.wire {
                Wire::Socket(socket) => self.driver.end_output(socket),
                Wire::Carried(_) => {
                    self.end_carried_output(id);
                    // Once more, with what is left to do.
                    return self.settle_phase(id);
                }
            }
        }
        // Whoever still reads is told of the end first.
        let end_told = !link.end_owed || link.phase != Phase::Open;
        let input_ended = link.input_has_ended() && end_told;
        let output_ended = link.has_ended_output() || link.has_failed_output();
        match link.phase {
            Phase::Open | Phase::Flushing | Phase::Lingering
                if output_ended && input_ended && link.cut.is_none() =>
            {
                link.fail(if link.ended_by_peer { CloseReason::ByPeer } else { CloseReason::Closed });
            }
            Phase::Flushing if output_ended || link.cut.is_some() && !link.has_output() => {
                link.linger(self.shared.now);
            }
            Phase::Lingering => link.linger(self.shared.now),
            Phase::Flushing if !std::mem::replace(&mut link.flushing, true) => {
                // The peer has its time from now on, however long it took nothing before.
                link.last_progress = self.shared.now;
            }
            _ => {}
        }
        self.settle_phase_timer(id);
    }

    /// The timer may be early: when it fires, it is set to when the phase's time is over by then. So progress costs nothing.
    pub(in crate::reactor) fn settle_phase_timer(&mut self, id: Id) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        link.note_waiting(self.shared.now);
        match link.phase {
            Phase::Open
                if !link.has_failed_output()
                    && link.phase_timer.is_some_and(|timer| link.is_early_enough(timer, self.shared.now)) => {
            }
            Phase::Dead => self.timers.change(&mut link.phase_timer, Due::Phase(id), None),
            _ => {
                // Never at once: whoever is due fires until nobody is.
                let next = deadline(self.shared.now, Duration::ZERO);
                let due = link.phase_due().map(|due| due.max(next));
                self.timers.change_lazily(&mut link.phase_timer, Due::Phase(id), due);
            }
        }
    }

    fn settle_timer(&mut self, id: Id) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        if link.phase == Phase::Dead {
            self.timers.change(&mut link.retry_timer, Due::Connect(id), None);
        }
        if link.phase <= Phase::Open {
            self.timers.change_lazily(&mut link.handler_timer, Due::Handler(id), link.handler_deadline);
        } else {
            self.timers.change(&mut link.handler_timer, Due::Handler(id), None);
        }
    }

    /// Ends a dead connection: its handler is told, its operations are cancelled, and with the last final completion its
    /// descriptor is closed and its slot is free.
    fn bury(&mut self, id: Id) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        if link.phase < Phase::Dead {
            return;
        }
        if let Some(reason) = link.reason.take() {
            if let (true, Wire::Socket(socket)) = (link.resets, &link.wire) {
                // Fails only where there is nobody left to be told.
                let _ = socket.set_linger(Some(Duration::ZERO));
            }
            if is_limit(&reason) {
                crate::log::over_limit(&link.peer, &reason);
            }
            let (opened, attempted) = (link.opened, link.race.is_some());
            let shook = link.filter.is_some() || !attempted && !link.options.filters.are_none();
            self.count_end(&reason, opened, attempted, shook);
            self.tell_ended(id, reason);
        }
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        if let Wire::Carried(_) = link.wire {
            self.close_carrier(id);
        }
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        if link.sending > 0 && !link.send_cancelled {
            self.driver.cancel(id.token(Kind::Send), link.descriptor());
            link.send_cancelled = true;
            self.unsubmitted = true;
        }
        if link.connecting && !link.connect_cancelled {
            self.driver.cancel(id.token(Kind::Connect), link.descriptor());
            link.connect_cancelled = true;
            self.unsubmitted = true;
        }
        if link.file_read == FileRead::InFlight {
            self.driver.cancel(id.token(Kind::Read), link.descriptor());
            link.file_read = FileRead::Cancelled;
            self.unsubmitted = true;
        }
        if !link.has_operations() {
            if let Wire::Socket(socket) = &link.wire {
                self.driver.detach(socket);
            }
            let Connection { mut link, .. } = self.forget(id).expect("it was there");
            link.inbox.release(&mut self.shared.spare);
            if let Wire::Carried(_) = link.wire {
                self.guarded(|_| drop(link));
            }
        }
    }

    fn count_end(&mut self, reason: &CloseReason, opened: bool, attempted: bool, shook: bool) {
        let counters = &self.shared.counters;
        if !opened {
            counters.connects_failed.add(u64::from(attempted));
            let gave_up = matches!(reason, CloseReason::Aborted | CloseReason::Shutdown);
            counters.handshakes_failed.add(u64::from(shook && !gave_up));
            counters.proxy_headers_refused.add(u64::from(matches!(reason, CloseReason::ProxyHeader { .. })));
            if let CloseReason::HandshakeTimeout { .. } = reason {
                counters.handshake_timeouts.add(1);
                counters.connections_over_limit.add(1);
            }
            return;
        }
        counters.connections_closed.add(1);
        let limit = match reason {
            CloseReason::Failed(_) => return counters.connections_reset.add(1),
            CloseReason::FileFailed { .. } => return counters.files_failed.add(1),
            CloseReason::CloseTimeout { .. } => &counters.close_timeouts,
            CloseReason::FlushTimeout { .. } => &counters.flush_timeouts,
            CloseReason::OpeningTimeout { .. } => &counters.opening_timeouts,
            CloseReason::MessageTimeout { .. } => &counters.message_timeouts,
            CloseReason::IdleTimeout { .. } => &counters.idle_timeouts,
            CloseReason::WriteStalled { .. } => &counters.write_stalls,
            CloseReason::WriteTooSlow { .. } => &counters.slow_readers,
            CloseReason::LifetimeOver { .. } => &counters.lifetimes_exceeded,
            CloseReason::MemoryBudget { .. } => &counters.memory_closed,
            CloseReason::OutputLimit { .. } => &counters.output_limits,
            CloseReason::InputLimit { .. } => &counters.input_limits,
            _ => return,
        };
        limit.add(1);
        counters.connections_over_limit.add(1);
    }

    fn tell_ended(&mut self, id: Id, reason: CloseReason) {
        match self.connections.get_mut(id).and_then(|connection| connection.link.race.take()) {
            Some(race) => self.lose_attempt(id, &race, reason),
            None => self.tell_closed(id, &reason),
        }
    }

    pub(in crate::reactor) fn tell_closed(&mut self, id: Id, reason: &CloseReason) {
        let Some(Connection { handler, link }) = self.connections.get_mut(id) else { return };
        let (handler, peer) = (std::mem::replace(handler, Box::new(Gone)), link.peer.clone());
        self.say_goodbye(handler, reason, &peer);
    }

    /// Calls a handler for the last time.
    pub(in crate::reactor) fn say_goodbye(
        &mut self,
        mut handler: Box<dyn Handler>,
        reason: &CloseReason,
        peer: &Address,
    ) {
        let outer = self.settling;
        let panicked = catch_unwind(AssertUnwindSafe(|| handler.on_close(reason, self))).is_err();
        if panicked && self.settling != outer {
            self.give_up_on(None, outer);
        } else if panicked {
            self.shared.counters.handler_panics.add(1);
            crate::log::handler_panicked(peer);
        }
        self.guarded(|_| drop(handler));
    }

    pub(in crate::reactor) fn phase_timer(&mut self, id: Id) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        link.phase_timer = None;
        if let Some(due) = link.phase_due().filter(|due| *due <= self.shared.now) {
            let concerns = |token: Token| token.kind() != Kind::Accept && Id::from(token) == id;
            let waits = !self.shared.soon.is_empty() || !self.commands.is_empty();
            let may_have_come = self.completions.iter().any(|waiting| concerns(waiting.token))
                || waits && link.wire.socket().is_none();
            if may_have_come && self.shared.now < deadline(due, LONGEST_DELAY) {
                // What it waits for may wait itself, for want of time.
                let again = deadline(self.shared.now, Duration::ZERO);
                return self.timers.change(&mut link.phase_timer, Due::Phase(id), Some(again));
            }
            if link.overdue(self.shared.now) {
                if link.reason.is_none() {
                    self.shared.counters.lifetimes_over.add(1);
                }
                return self.stop_connection(id);
            }
        }
        self.settle(id);
    }

    /// One send for each connection that has output, and one receive for each buffer that came back.
    pub(in crate::reactor) fn flush(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        let mut rest = dirty.drain(..);
        while !self.contain(|reactor, about| {
            for id in rest.by_ref() {
                *about = Some(id.token(Kind::Send));
                reactor.flush_one(id);
            }
        }) {}
        drop(rest);
        // What somebody wrote who was given up meanwhile.
        dirty.append(&mut self.dirty);
        self.dirty = dirty;
        self.contain(|reactor, _| reactor.feed_starved());
    }

    #[inline(always)]
    fn flush_one(&mut self, id: Id) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        link.queued = false;
        if link.filter.is_some() {
            return self.flush_filter(id);
        }
        // None was in flight when it was queued, and only this begins one: others go on with what is in flight.
        if link.has_sendable() {
            let mut payload = link.take_sendable();
            self.shared.spare.fit(&mut payload);
            self.send(id, payload);
        }
    }
}

/// Whether a limit took something away: that is worth a line. A peer that did not end its side in time has everything, and one
/// that was idle missed nothing.
fn is_limit(reason: &CloseReason) -> bool {
    use CloseReason::*;
    matches!(
        reason,
        OutputLimit { .. }
            | InputLimit { .. }
            | MemoryBudget { .. }
            | FlushTimeout { .. }
            | WriteStalled { .. }
            | WriteTooSlow { .. }
            | MessageTimeout { .. }
            | LifetimeOver { .. }
    )
}

/// In the place of a handler that has had its last call.
struct Gone;

impl Handler for Gone {
    fn on_bytes(&mut self, _io: &mut Io<'_>, bytes: &[u8]) -> usize {
        bytes.len()
    }
}
