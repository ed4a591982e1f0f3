//! How much input one turn takes, and how long it may take, so that nobody waits long for it to end.

use crate::config::{NEVER, SLICE_BYTES, TURN_BYTES};
use crate::driver::Completion;
use std::time::{Duration, Instant};

/// What a turn does, by who would wait for it in vain if others took all of its time.
#[derive(Clone, Copy, Debug)]
pub(in crate::reactor) enum Work {
    Completions,
    Commands,
    Deferred,
    Carried,
    Timers,
    Polled,
}

const KINDS: usize = Work::Polled as usize + 1;

#[derive(Debug)]
pub(in crate::reactor) struct Budget {
    /// For one connection.
    pub(in crate::reactor) slice: usize,
    /// For all of them.
    pub(in crate::reactor) whole: usize,
    turn: u64,
    /// What was given out in this turn.
    given: usize,
    /// The same to streams that no socket carries: neither those nor the others can take all there is.
    carried: usize,
    /// How long a turn may take.
    time: Option<Duration>,
    /// When this turn's time is over; `None` before it begins, and without a limit.
    until: Option<Instant>,
    /// The time is known to be over.
    late: bool,
    /// Which work had one go in this turn.
    had: [bool; KINDS],
    /// Completions that have to wait for the next turn, in order.
    pub(in crate::reactor) postponed: Vec<Completion>,
}

/// What one connection had of a turn.
#[derive(Debug, Default)]
pub(in crate::reactor) struct Share {
    turn: u64,
    bytes: usize,
}

impl Budget {
    /// For turns of so many bytes and of this time, if anybody said how many and how long.
    pub(in crate::reactor) fn new(whole: Option<usize>, time: Option<Duration>) -> Self {
        let whole = whole.unwrap_or(TURN_BYTES);
        Budget {
            slice: SLICE_BYTES.min(whole),
            whole,
            turn: 0,
            given: 0,
            carried: 0,
            time,
            until: None,
            late: false,
            had: [false; KINDS],
            postponed: Vec::new(),
        }
    }

    pub(in crate::reactor) fn begin_turn(&mut self) {
        self.turn += 1;
        (self.given, self.carried) = (0, 0);
        (self.until, self.late, self.had) = (None, false, [false; KINDS]);
    }

    /// The turn's wait is over: from now on its time counts.
    pub(in crate::reactor) fn begin_time(&mut self, now: Instant) {
        if let (Some(time), None) = (self.time, self.until) {
            self.until = Some(now + time.min(NEVER));
        }
    }

    /// Whether turns have a limit of time.
    pub(in crate::reactor) fn is_timed(&self) -> bool {
        self.time.is_some()
    }

    /// Whether there is time for one more of this work. For one a turn there always is, so that none of it waits for ever.
    #[inline]
    pub(in crate::reactor) fn allows(&mut self, work: Work, now: impl FnOnce() -> Instant) -> bool {
        !self.is_timed() || !std::mem::replace(&mut self.had[work as usize], true) || !self.is_late(now)
    }

    pub(in crate::reactor) fn is_late(&mut self, now: impl FnOnce() -> Instant) -> bool {
        self.late = self.late || self.until.is_some_and(|until| now() >= until);
        self.late
    }

    #[inline]
    pub(in crate::reactor) fn charge(&mut self, share: &mut Share, bytes: usize) {
        if share.turn != self.turn {
            *share = Share { turn: self.turn, bytes: 0 };
        }
        share.bytes += bytes;
        self.given += bytes;
    }

    /// Whether it is time to look at who had how much. Mostly it is not: all of them together had less than one may have.
    #[inline]
    pub(in crate::reactor) fn is_short(&self) -> bool {
        self.given >= self.slice
    }

    /// Whether the turn has no more for the connection that had this share of it.
    pub(in crate::reactor) fn is_used_up(&self, share: &Share) -> bool {
        self.is_spent() || share.turn == self.turn && share.bytes >= self.slice
    }

    /// Bytes that the turn still has for the carried stream that had this share of it.
    pub(in crate::reactor) fn left(&self, share: &Share) -> usize {
        let had = if share.turn == self.turn { share.bytes } else { 0 };
        self.slice.saturating_sub(had).min(self.whole.saturating_sub(self.carried))
    }

    /// Whether the turn has no more for carried streams.
    pub(in crate::reactor) fn is_spent_on_carried(&self) -> bool {
        self.carried >= self.whole
    }

    #[inline]
    pub(in crate::reactor) fn charge_carried(&mut self, share: &mut Share, bytes: usize) {
        let given = self.given;
        self.charge(share, bytes);
        self.given = given;
        self.carried += bytes;
    }

    /// Whether the turn has no more for anybody.
    pub(in crate::reactor) fn is_spent(&self) -> bool {
        self.given >= self.whole
    }
}
