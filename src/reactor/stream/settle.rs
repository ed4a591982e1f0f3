//! Brings what the kernel is asked to do in line with what a connection's state wants.

use super::connection::{Connection, Phase, Reading};
use super::handler::CloseReason;
use crate::config::FLUSH_TIMEOUT;
use crate::driver::{BufferGroup, Kind, Op};
use crate::reactor::Reactor;
use crate::reactor::pace::timers::{Due, deadline};
use crate::reactor::table::Id;
use std::io;

impl Reactor {
    /// To be called after anything that may have changed a connection: it is the one place that starts and ends
    /// operations, and that moves a closing connection on.
    pub(in crate::reactor) fn settle(&mut self, id: Id) {
        while self.settle_input(id) {}
        self.settle_output(id);
        self.settle_phase(id);
        self.settle_reading(id);
        self.settle_timer(id);
        self.bury(id);
    }

    /// Delivers what the handler is owed, if it may have it now. `true` if that may have changed things.
    fn settle_input(&mut self, id: Id) -> bool {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return false };
        if link.check_output() {
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
        if std::mem::take(&mut link.end_owed) {
            self.call(id, |handler, io| handler.on_end(io));
            return true;
        }
        false
    }

    fn settle_output(&mut self, id: Id) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        if link.pending_output() == 0
            && link.accepts_output()
            && link.remote.as_ref().is_some_and(|handle| handle.remote().has_output())
        {
            link.collect_outbox(&mut self.shared.spare);
        }
        if let Some(handle) = &link.remote {
            handle.remote().set_output(link.pending_output());
        }
        if link.out.is_empty() || link.phase > Phase::Flushing {
            return;
        }
        link.undrained = true;
        if link.sending == 0 && link.phase >= Phase::Open && !link.queued {
            link.queued = true;
            self.dirty.push(id);
        }
    }

    fn settle_phase(&mut self, id: Id) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        // Whoever still reads is told of the end first.
        let end_told = !link.end_owed || link.phase != Phase::Open;
        let input_ended = link.reading == Reading::Ended && end_told;
        if link.ends_output_now() {
            self.driver.end_output(&link.socket);
        }
        let output_ended = link.has_ended_output();
        let due = match link.phase {
            Phase::Open | Phase::Flushing | Phase::Lingering if output_ended && input_ended => {
                link.fail(CloseReason::Closed);
                None
            }
            Phase::Flushing if output_ended => {
                link.phase = Phase::Lingering;
                Some(deadline(self.shared.now, link.options.close_timeout))
            }
            Phase::Flushing => link.phase_timer.or(Some(deadline(self.shared.now, FLUSH_TIMEOUT))),
            Phase::Open | Phase::Dead => None,
            Phase::Connecting | Phase::Lingering => link.phase_timer,
        };
        self.timers.change(&mut link.phase_timer, Due::Phase(id), due);
    }

    fn settle_reading(&mut self, id: Id) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        match link.reading {
            Reading::Idle if link.wants_input() => {
                link.reading = Reading::Armed;
                self.driver.submit(id.token(Kind::Receive), Op::Receive { socket: link.descriptor() });
                self.unsubmitted = true;
            }
            Reading::Armed if !link.wants_input() => {
                link.reading = Reading::Cancelling;
                self.driver.cancel(id.token(Kind::Receive), link.descriptor());
                self.unsubmitted = true;
            }
            _ => {}
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
            let opened = link.opened;
            self.count_end(&reason, opened);
            self.tell_closed(id, reason);
        }
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        if link.sending > 0 && !std::mem::replace(&mut link.send_cancelled, true) {
            self.driver.cancel(id.token(Kind::Send), link.descriptor());
            self.unsubmitted = true;
        }
        if link.connecting && !std::mem::replace(&mut link.connect_cancelled, true) {
            self.driver.cancel(id.token(Kind::Connect), link.descriptor());
            self.unsubmitted = true;
        }
        if !link.has_operations() {
            self.driver.detach(&link.socket);
            let Connection { mut link, handler } = self.connections.remove(id).expect("it was there");
            self.guarded(|_| drop(handler));
            link.inbox.release(&mut self.shared.spare);
        }
    }

    fn count_end(&mut self, reason: &CloseReason, opened: bool) {
        let counters = &self.shared.counters;
        if !opened {
            counters.connects_failed.add(1);
            return;
        }
        counters.connections_closed.add(1);
        match reason {
            CloseReason::Failed(_) => counters.connections_reset.add(1),
            CloseReason::OutputLimit { .. } | CloseReason::InputLimit { .. } => {
                counters.connections_over_limit.add(1)
            }
            _ => {}
        }
    }

    fn tell_closed(&mut self, id: Id, reason: CloseReason) {
        if let Some(race) = self.connections.get_mut(id).and_then(|connection| connection.link.race.take()) {
            return self.lose_attempt(id, &race, reason);
        }
        if let Some(Connection { link, .. }) = self.connections.get_mut(id)
            && matches!(reason, CloseReason::Aborted)
        {
            // The close that follows sends a reset.
            let _ = link.socket.set_linger(Some(std::time::Duration::ZERO));
        }
        self.call(id, |handler, _| handler.on_close(&reason));
    }

    pub(in crate::reactor) fn phase_timer(&mut self, id: Id) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        link.phase_timer = None;
        match link.phase {
            Phase::Connecting => link.fail(CloseReason::ConnectFailed(io::ErrorKind::TimedOut.into())),
            Phase::Flushing => link.fail(CloseReason::Failed(io::ErrorKind::TimedOut.into())),
            // All output was sent: whether the peer read it cannot be known.
            Phase::Lingering => link.fail(CloseReason::Closed),
            Phase::Open | Phase::Dead => {}
        }
        self.settle(id);
    }

    /// One send for each connection that has output, and one receive for each buffer that came back.
    pub(in crate::reactor) fn flush(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            let Some(Connection { link, .. }) = self.connections.get_mut(id) else { continue };
            link.queued = false;
            if link.sending == 0 && !link.out.is_empty() {
                let mut payload = std::mem::take(&mut link.out);
                self.shared.spare.fit(&mut payload);
                self.send(id, payload);
            }
        }
        self.dirty = dirty;
        self.feed_starved();
    }

    fn feed_starved(&mut self) {
        for group in BufferGroup::ALL {
            self.feed_starved_of(group);
        }
    }

    fn feed_starved_of(&mut self, group: BufferGroup) {
        // No more than there are buffers for, or most would come back empty-handed.
        for _ in 0..self.driver.free_buffers(group) {
            let Some(id) = self.starved[group as usize].pop_front() else { break };
            if let Some(Connection { link, .. }) = self.connections.get_mut(id)
                && link.reading == Reading::Starved
            {
                link.reading = Reading::Idle;
                self.settle(id);
            }
        }
    }
}
