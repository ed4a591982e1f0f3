//! How much input one turn takes, so that nobody waits long for it to end.

use crate::config::{SLICE_BYTES, TURN_BYTES};
use crate::driver::Completion;

#[derive(Debug)]
pub(in crate::reactor) struct Budget {
    /// For one connection.
    pub(in crate::reactor) slice: usize,
    /// For all of them.
    pub(in crate::reactor) whole: usize,
    turn: u64,
    /// What was given out in this turn.
    given: usize,
    /// Receives that have to wait for the next turn, in order.
    pub(in crate::reactor) postponed: Vec<Completion>,
}

/// What one connection had of a turn.
#[derive(Debug, Default)]
pub(in crate::reactor) struct Share {
    turn: u64,
    bytes: usize,
}

impl Budget {
    /// For turns of so many bytes, if anybody said how many.
    pub(in crate::reactor) fn new(whole: Option<usize>) -> Self {
        let whole = whole.unwrap_or(TURN_BYTES);
        Budget { slice: SLICE_BYTES.min(whole), whole, turn: 0, given: 0, postponed: Vec::new() }
    }

    pub(in crate::reactor) fn begin_turn(&mut self) {
        self.turn += 1;
        self.given = 0;
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

    /// Whether the turn has no more for anybody.
    pub(in crate::reactor) fn is_spent(&self) -> bool {
        self.given >= self.whole
    }
}
