//! Deadlines of connections and listeners.

use super::contain::About;
use crate::config::NEVER;
use crate::driver::Kind;
use crate::reactor::table::Id;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// When `after` has passed. Never `now` itself, so that a timer that is set while timers fire waits for the next turn, and
/// never out of range.
pub(in crate::reactor) fn deadline(now: Instant, after: Duration) -> Instant {
    now + after.clamp(Duration::from_nanos(1), NEVER)
}

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    /// A connection's handler asked to be called.
    Handler(Id),
    /// A connection has been connecting or closing for long enough.
    Phase(Id),
    /// A connection attempt has rested.
    Connect(Id),
    /// A listener has rested.
    Accept(Id),
    /// A server's connections have had their time to finish; by the server's number.
    Stop(u64),
    /// Something of the application is to be done.
    Action(u64),
}

impl Due {
    /// Whom it is about, if it is a connection or a listener.
    pub(in crate::reactor) fn about(self) -> About {
        match self {
            Due::Handler(id) | Due::Phase(id) | Due::Connect(id) => Some(id.token(Kind::Receive)),
            Due::Accept(id) => Some(id.token(Kind::Accept)),
            Due::Stop(_) | Due::Action(_) => None,
        }
    }
}

/// An ordered set: setting a deadline anew removes the old one, so that it never holds more than the tables' entries.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    set: BTreeSet<(Instant, Due)>,
}

impl Timers {
    /// Moves `due` from the deadline it has, which the caller remembers in `slot`, to another or to none.
    pub(crate) fn change(&mut self, slot: &mut Option<Instant>, due: Due, deadline: Option<Instant>) {
        if *slot == deadline {
            return;
        }
        if let Some(old) = slot.take() {
            self.set.remove(&(old, due));
        }
        if let Some(new) = deadline {
            self.set.insert((new, due));
        }
        *slot = deadline;
    }

    /// The same for a deadline that moves often: one that is later, or none any more, leaves the entry where it is, and costs
    /// nothing. When that fires, whoever set it compares, and asks again.
    pub(crate) fn change_lazily(&mut self, slot: &mut Option<Instant>, due: Due, deadline: Option<Instant>) {
        let is_early_enough = slot.is_some_and(|set| deadline.is_none_or(|deadline| set <= deadline));
        if !is_early_enough {
            self.change(slot, due, deadline);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.set.len()
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.set.first().map(|(deadline, _)| *deadline)
    }

    pub(crate) fn are_due(&self, now: Instant) -> bool {
        self.next().is_some_and(|deadline| deadline <= now)
    }

    /// Takes the first one.
    pub(crate) fn pop(&mut self) -> Option<Due> {
        self.set.pop_first().map(|(_, due)| due)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.set.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::table::Table;
    use std::time::Duration;

    #[test]
    fn any_duration_makes_a_deadline_that_is_not_now() {
        let now = Instant::now();
        for after in [Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(1), Duration::MAX] {
            assert!(deadline(now, after) > now);
        }
        assert_eq!(deadline(now, Duration::from_secs(1)), now + Duration::from_secs(1));
    }

    #[test]
    fn only_an_earlier_deadline_moves_at_once() {
        let (mut timers, mut table, now) = (Timers::default(), Table::new(), Instant::now());
        let (id, mut slot) = (table.insert(|_| ()), None);
        let at = |seconds| Some(now + Duration::from_secs(seconds));
        for (asked, known) in [
            (None, None),
            (at(10), at(10)),
            (at(10), at(10)),
            (at(11), at(10)),
            (None, at(10)),
            (at(9), at(9)),
        ] {
            timers.change_lazily(&mut slot, Due::Handler(id), asked);
            assert_eq!((slot, timers.next()), (known, known));
        }
        timers.change(&mut slot, Due::Handler(id), None);
        assert!(timers.is_empty());
    }

    #[test]
    fn deadlines_fire_in_order_and_once() {
        let (mut timers, mut table, now) = (Timers::default(), Table::new(), Instant::now());
        let ids: Vec<Id> = (0..3).map(|_| table.insert(|_| ())).collect();
        let mut slots = [None; 3];
        for (i, after) in [30, 10, 20].into_iter().enumerate() {
            timers.change(&mut slots[i], Due::Handler(ids[i]), Some(now + Duration::from_secs(after)));
        }
        timers.change(&mut slots[2], Due::Handler(ids[2]), None);
        timers.change(&mut slots[0], Due::Handler(ids[0]), Some(now + Duration::from_secs(5)));
        assert!(!timers.are_due(now) && !timers.are_due(now + Duration::from_secs(4)));
        for (after, id) in [(5, ids[0]), (10, ids[1])] {
            assert!(timers.are_due(now + Duration::from_secs(after)));
            assert_eq!(timers.pop(), Some(Due::Handler(id)));
        }
        assert_eq!(timers.pop(), None);
        assert!(timers.is_empty());
    }
}
