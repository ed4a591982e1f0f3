//! When a connection receives: all the time, one time, or, while its handler is to be shown nothing, only a little ahead.

use super::connection::{Connection, Link, Phase};
use crate::driver::{BufferGroup, Kind, Op};
use crate::reactor::Reactor;
use crate::reactor::carrier::Wire;
use crate::reactor::table::Id;

/// The receive operation, or what takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::reactor) enum Reading {
    Idle,
    /// It receives until it is cancelled.
    Armed,
    /// It receives one time.
    Once,
    /// Nothing is received; a reset is noticed all the same.
    Watching,
    /// Asked to end.
    Cancelling,
    /// In the queue for a buffer of the pool.
    Starved,
    /// The peer has ended its stream, or reading failed.
    Ended,
}

impl Link {
    /// Whether the handler that was just called is to be shown no more for now, by its own will or because its output waits, which
    /// [`check_output`](Self::check_output) has not looked at yet.
    #[cold]
    pub(in crate::reactor) fn is_held_back(&self) -> bool {
        let limits = &self.options.limits;
        let own = self.pending_output() - self.foreign_output();
        let many = self.files.as_ref().is_some_and(|files| files.are_many(false));
        self.paused || limits.throttles && (own > limits.output_soft || many)
    }

    /// Whether the receive should be armed for more than to read ahead.
    pub(in crate::reactor) fn wants_input(&self) -> bool {
        match self.phase {
            Phase::Open => !self.paused && !self.throttled && self.has_passage_open(),
            // Not before it is its turn.
            Phase::Handshaking => self.filter.is_some(),
            // To throw it away.
            Phase::Flushing | Phase::Lingering => true,
            Phase::Connecting | Phase::Dead => false,
        }
    }

    /// Bytes that may be received next. While the handler is to be shown nothing, a little is received all the same, so that an end
    /// or a reset shows; then the peer has to wait.
    pub(in crate::reactor) fn input_room(&self) -> usize {
        match (self.phase, &self.passage) {
            (Phase::Open, Some(passage)) if !self.paused && !self.throttled => passage.most(),
            _ if self.wants_input() => usize::MAX,
            (Phase::Open, None) => self.options.limits.read_ahead.saturating_sub(self.unconsumed()),
            _ => 0,
        }
    }
}

impl Reactor {
    pub(super) fn settle_reading(&mut self, id: Id) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        if let Wire::Carried(_) = link.wire {
            return self.settle_carried_reading(id);
        }
        let (wants_input, is_open) = (link.wants_input(), link.phase == Phase::Open);
        let unlimited = link.input_room() == usize::MAX;
        if !wants_input {
            link.careful = link.options.limits.careful;
        }
        match link.reading {
            Reading::Armed if unlimited => {}
            Reading::Idle if link.careful == 0 && unlimited => self.receive(id),
            Reading::Idle if link.input_room() > 0 => {
                // Who receives one time has to stand in line again.
                let starved = &mut self.starved[self.driver.group(id.token(Kind::Receive)) as usize];
                if starved.is_empty() {
                    return self.receive(id);
                }
                link.reading = Reading::Starved;
                starved.push_back(id);
            }
            Reading::Idle if is_open => {
                link.inbox.fit();
                // A send tells of a reset as well.
                if link.pending_output() == 0 {
                    self.driver.submit(id.token(Kind::Receive), Op::Watch { socket: link.descriptor() });
                    link.reading = Reading::Watching;
                    self.unsubmitted = true;
                }
            }
            // A receive that ends by itself goes on during a pause.
            Reading::Once if wants_input || is_open => {}
            Reading::Watching if !wants_input && is_open => {}
            Reading::Armed | Reading::Once | Reading::Watching => {
                self.driver.cancel(id.token(Kind::Receive), link.descriptor());
                link.reading = Reading::Cancelling;
                self.unsubmitted = true;
            }
            Reading::Idle | Reading::Cancelling | Reading::Starved | Reading::Ended => {}
        }
    }

    /// Arms the receive of a connection that has none and wants one.
    fn receive(&mut self, id: Id) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        let room = link.input_room();
        let once = (link.careful > 0 || room < usize::MAX).then_some(room);
        self.driver.submit(id.token(Kind::Receive), Op::Receive { socket: link.descriptor(), once });
        link.reading = if once.is_some() { Reading::Once } else { Reading::Armed };
        self.unsubmitted = true;
    }

    pub(super) fn feed_starved(&mut self) {
        for group in BufferGroup::ALL {
            self.feed_starved_of(group);
        }
    }

    fn feed_starved_of(&mut self, group: BufferGroup) {
        // No more than there are buffers for, or most would come back empty-handed.
        let mut free = self.driver.free_buffers(group);
        while free > 0 {
            let Some(id) = self.starved[group as usize].pop_front() else { break };
            if let Some(Connection { link, .. }) = self.connections.get_mut(id)
                && link.reading == Reading::Starved
            {
                link.reading = Reading::Idle;
                if link.input_room() > 0 {
                    let outer = self.settling.replace(id);
                    self.receive(id);
                    self.settling = outer;
                    free -= 1;
                }
                self.settle(id);
            }
        }
    }
}
