//! What a turn does besides completions: what other threads and handlers handed over, and what is due. Each of these goes on while
//! the turn has time; what is left comes first in the next one.

use super::budget::Work;
use super::contain::About;
use super::timers::Due;
use crate::driver::Kind;
use crate::reactor::Reactor;
use crate::reactor::threads::mailbox::Command;
use std::mem;

impl Reactor {
    /// Whether the turn has time for one more of these. Without a limit the clock is not looked at.
    #[inline]
    pub(in crate::reactor) fn may_go_on(&mut self, work: Work) -> bool {
        self.budget.allows(work, || self.driver.now())
    }

    /// Whether the turn has taken as long as it may.
    pub(in crate::reactor) fn is_out_of_time(&mut self) -> bool {
        self.budget.is_late(|| self.driver.now())
    }

    pub(in crate::reactor) fn run_commands(&mut self) {
        // In the order in which they came: more are taken only behind those for which there was no time.
        self.run_taken_commands();
        if self.commands.is_empty() {
            self.shared.mailbox.take(&mut self.commands);
            self.shared.counters.commands.add(self.commands.len() as u64);
            self.run_taken_commands();
        }
        self.run_deferred();
    }

    fn run_taken_commands(&mut self) {
        if self.commands.is_empty() {
            return;
        }
        let mut commands = mem::take(&mut self.commands);
        let mut rest = commands.drain(..);
        while !self.contain(|reactor, about| {
            while rest.len() > 0 && reactor.may_go_on(Work::Commands) {
                match rest.next() {
                    Some(Command::Run(action)) => reactor.guarded(action),
                    Some(Command::Look(id)) => {
                        *about = Some(id.token(Kind::Receive));
                        reactor.look_into_outbox(id);
                    }
                    None => {}
                }
            }
        }) {}
        let left: Vec<Command> = rest.collect();
        commands.extend(left);
        self.commands = commands;
    }

    pub(in crate::reactor) fn run_deferred(&mut self) {
        while !self.shared.deferred.is_empty() {
            let mut actions = mem::take(&mut self.shared.deferred).into_iter();
            while actions.len() > 0 && self.may_go_on(Work::Deferred) {
                actions.next().into_iter().for_each(|action| self.guarded(action));
            }
            if actions.len() > 0 {
                // Before what these deferred in their turn.
                self.shared.deferred.splice(..0, actions);
                return;
            }
        }
    }

    pub(in crate::reactor) fn fire_timers(&mut self) {
        while !self.contain(Self::fire_expired) {}
        self.drain_timer();
        self.run_deferred();
    }

    fn fire_expired(&mut self, about: &mut About) {
        while self.timers.are_due(self.shared.now) && self.may_go_on(Work::Timers) {
            let Some(due) = self.timers.pop() else { return };
            if !matches!(due, Due::Handler(_)) {
                self.shared.counters.timers_fired.add(1);
            }
            *about = due.about();
            match due {
                Due::Handler(id) => self.handler_timer(id),
                Due::Phase(id) => self.phase_timer(id),
                Due::Connect(id) => self.connect_again(id),
                Due::Accept(id) => self.end_rest(id),
                Due::Stop(number) => self.stop_timer(number),
                Due::Action(number) => self.act(number),
            }
        }
    }
}
