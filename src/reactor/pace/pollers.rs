//! Handlers whose queues other threads fill without telling the reactor, as long as it looks there itself.
//!
//! Not to be told is what makes a push cheap. The price is paid here, once for all handlers: before the reactor sleeps,
//! each of them says that it wants to be told from now on, a barrier makes sure that every push sees that, and then
//! each looks a last time.

use super::budget::Work;
use crate::batch;
use crate::config::POLLED_OUTPUT_BYTES;
use crate::reactor::Reactor;
use crate::reactor::stream::connection::{Connection, Phase};
use crate::reactor::stream::handler::Polled;
use crate::reactor::stream::io::Io;
use crate::reactor::table::Id;

/// Turns without anything to do before the reactor would sleep.
const IDLE_TURNS: u8 = 4;

/// Turns without anything to do before a handler may be let go of although others are busy.
const LET_GO_TURNS: u8 = 16;

/// Those who may be let go of are when they were asked so often in vain, all of them: to let go takes a barrier.
const LET_GO_ASKS: usize = 64;

#[derive(Debug, Default)]
pub(in crate::reactor) struct Pollers {
    /// Each with how often in a row it had nothing to do.
    list: Vec<(Id, u8)>,
    /// Whose turn it is.
    next: usize,
    /// How many of them had something to do when they were asked last.
    found: usize,
    /// How many of them had something to do lately.
    active: usize,
    /// How often those who may be let go of were asked in vain.
    in_vain: usize,
}

impl Pollers {
    /// Whether one of them had something to do lately, so that the reactor should not sleep.
    pub(in crate::reactor) fn are_active(&self) -> bool {
        self.active > 0
    }

    /// Whether they keep the reactor awake although none of them had anything to do when it was asked last.
    pub(in crate::reactor) fn found_nothing(&self) -> bool {
        self.active > 0 && self.found == 0
    }

    fn add(&mut self, id: Id, idle: u8) {
        self.list.push((id, idle));
        self.count(idle);
    }

    fn count(&mut self, idle: u8) {
        self.found += usize::from(idle == 0);
        self.active += usize::from(idle < IDLE_TURNS);
    }

    fn discount(&mut self, idle: u8) {
        self.found -= usize::from(idle == 0);
        self.active -= usize::from(idle < IDLE_TURNS);
    }

    /// Takes note of how it went at `at`.
    fn note(&mut self, at: usize, found: bool) {
        let before = self.list[at].1;
        let idle = if found { 0 } else { before.saturating_add(1) };
        self.list[at].1 = idle;
        self.discount(before);
        self.count(idle);
        self.in_vain += usize::from(idle > LET_GO_TURNS);
    }

    /// Takes out the entry of a handler that its connection no longer has.
    fn forget(&mut self, id: Id) {
        if let Some(at) = self.list.iter().position(|(polled, _)| *polled == id) {
            self.remove(at);
        }
    }

    fn remove(&mut self, at: usize) {
        let (_, idle) = self.list.swap_remove(at);
        self.discount(idle);
    }
}

impl Reactor {
    /// Asks each of them, but goes on only in the next turn once they had enough to send: what they wrote is still in the
    /// cache when the kernel takes it, and so is the same memory when the next ones write. Nor does it go on without time.
    pub(in crate::reactor) fn poll_handlers(&mut self) {
        self.forget_former_pollers();
        for id in self.shared.new_pollers.drain(..) {
            self.pollers.add(id, 0);
        }
        let mut staged = 0;
        for _ in 0..self.pollers.list.len() {
            if !self.may_go_on(Work::Polled) {
                break;
            }
            let at = if self.pollers.next < self.pollers.list.len() { self.pollers.next } else { 0 };
            let (id, _) = self.pollers.list[at];
            let found = self.ask(id, |polled, io| polled.on_poll(io));
            self.pollers.note(at, found);
            self.pollers.next = at;
            if self.is_polled(id) {
                self.pollers.next += 1;
            } else {
                self.pollers.remove(at);
            }
            staged += if found { self.sendable_bytes(id) } else { 0 };
            if staged >= POLLED_OUTPUT_BYTES {
                break;
            }
        }
        if self.pollers.in_vain >= LET_GO_ASKS {
            self.retire(LET_GO_TURNS);
        }
    }

    /// Those who took over a connection are polled only if they ask for it.
    fn forget_former_pollers(&mut self) {
        for id in self.shared.former_pollers.drain(..) {
            self.pollers.forget(id);
        }
    }

    /// Lets go of all, for the reactor is about to sleep. `false` if it must not.
    pub(in crate::reactor) fn retire_pollers(&mut self) -> bool {
        self.pollers.list.is_empty() || {
            self.retire(0);
            self.pollers.list.is_empty()
        }
    }

    /// Lets go of those that were idle for so many turns and find nothing even now.
    fn retire(&mut self, idle_turns: u8) {
        self.forget_former_pollers();
        let mut list = std::mem::take(&mut self.pollers.list);
        list.retain(|(id, _)| self.is_polled(*id));
        for (id, _) in list.iter().filter(|(_, idle)| *idle >= idle_turns) {
            self.call(*id, |handler, _| {
                if let Some(polled) = handler.polled() {
                    polled.prepare_sleep();
                }
            });
        }
        batch::sleep_barrier();
        list.retain_mut(|(id, idle)| {
            if *idle < idle_turns {
                return true;
            }
            *idle = 0;
            let ready = self.ask(*id, |polled, _| polled.is_ready());
            if let Some(Connection { link, .. }) = self.connections.get_mut(*id) {
                link.polled = ready;
            }
            ready
        });
        (self.pollers.found, self.pollers.active, self.pollers.in_vain) = (0, 0, 0);
        list.iter().for_each(|(_, idle)| self.pollers.count(*idle));
        self.pollers.list = list;
    }

    /// Calls the handler and settles the connection if the answer is `true` or the handler panicked.
    fn ask(&mut self, id: Id, question: impl FnOnce(&mut dyn Polled, &mut Io<'_>) -> bool) -> bool {
        let mut answer = None;
        self.call(id, |handler, io| {
            let found = handler.polled().is_some_and(|polled| question(polled, io));
            answer = Some(found || io.is_handed_over());
        });
        if answer != Some(false) {
            self.contain(|reactor, _| reactor.settle(id));
        }
        answer == Some(true)
    }

    /// Output of a connection that the kernel can have at once.
    fn sendable_bytes(&self, id: Id) -> usize {
        self.connections.get(id).map_or(
            0,
            |Connection { link, .. }| {
                if link.sending == 0 { link.out.len() } else { 0 }
            },
        )
    }

    fn is_polled(&self, id: Id) -> bool {
        self.connections
            .get(id)
            .is_some_and(|Connection { link, .. }| link.phase == Phase::Open && link.polled)
    }
}
