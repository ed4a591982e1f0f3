//! What the application wants done after a time.

use super::timers::{Due, deadline};
use crate::reactor::{Action, Reactor};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Names what [`Reactor::after`] is to do, for [`Reactor::cancel_after`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerId {
    number: u64,
    deadline: Instant,
}

/// What is to be done, by a number that its timer has and no other one will have.
#[derive(Default)]
pub(in crate::reactor) struct Actions {
    waiting: BTreeMap<u64, (Instant, Action)>,
    next: u64,
}

impl Reactor {
    /// Does something on this reactor after a time, unless it has stopped by then or this is [cancelled](Self::cancel_after).
    pub fn after(&mut self, delay: Duration, action: impl FnOnce(&mut Reactor) + 'static) -> TimerId {
        let (number, deadline) = (self.actions.next, deadline(self.driver.now(), delay));
        self.actions.next += 1;
        self.actions.waiting.insert(number, (deadline, Box::new(action)));
        self.timers.change(&mut None, Due::Action(number), Some(deadline));
        self.disturbed();
        TimerId { number, deadline }
    }

    /// Drops what [`after`](Self::after) of this reactor was to do. Whether it was still to come.
    pub fn cancel_after(&mut self, timer: TimerId) -> bool {
        let TimerId { number, deadline } = timer;
        // The number alone could be one of another reactor.
        if self.actions.waiting.get(&number).is_none_or(|(at, _)| *at != deadline) {
            return false;
        }
        self.timers.change(&mut Some(deadline), Due::Action(number), None);
        self.actions.waiting.remove(&number).is_some()
    }

    pub(in crate::reactor) fn act(&mut self, number: u64) {
        if let Some((_, action)) = self.actions.waiting.remove(&number) {
            self.guarded(action);
        }
    }
}
