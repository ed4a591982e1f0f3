//! What the items in a lane weigh: the writer's own account, which the reader knows nothing of.

use std::collections::VecDeque;
use std::fmt;

/// A function that says how many bytes an item keeps alive.
pub(crate) type Weigh<T> = std::sync::Arc<dyn Fn(&T) -> usize + Send + Sync>;

/// How items are weighed, and how much of them a lane holds.
pub(crate) struct Scale<T> {
    pub(crate) weigh: Weigh<T>,
    pub(crate) lane_bytes: usize,
}

impl<T> fmt::Debug for Scale<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scale").field("lane_bytes", &self.lane_bytes).finish_non_exhaustive()
    }
}

/// The weights of the items that the reader has not freed, as far as the writer knows.
pub(super) struct Weights {
    limit: usize,
    held: usize,
    /// The oldest first.
    each: VecDeque<usize>,
    /// The position of the oldest.
    first: usize,
}

impl Weights {
    /// For a lane whose newest ring has so many slots: older rings have at most a third as many.
    pub(super) fn new(limit: usize, slots: usize) -> Self {
        Self { limit, held: 0, each: VecDeque::with_capacity(2 * slots), first: 0 }
    }

    /// Whether an item of this weight finds room when the reader is at `head`. One alone always does.
    pub(super) fn admit(&mut self, weight: usize, head: usize) -> bool {
        while self.first != head
            && let Some(weight) = self.each.pop_front()
        {
            self.held -= weight;
            self.first = self.first.wrapping_add(1);
        }
        self.each.is_empty() || self.held.saturating_add(weight) <= self.limit
    }

    pub(super) fn add(&mut self, weight: usize) {
        // Never more than there is, whatever a function says that was made to weigh.
        let weight = weight.min(usize::MAX - self.held);
        self.held += weight;
        self.each.push_back(weight);
    }

    /// The last item was not written after all.
    pub(super) fn take_back(&mut self) {
        self.held -= self.each.pop_back().unwrap_or(0);
    }

    /// Goes on in the memory of `other`, which gets this one's.
    pub(super) fn move_to(&mut self, other: &mut Weights) {
        other.each.extend(self.each.drain(..));
        std::mem::swap(&mut self.each, &mut other.each);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_what_was_added_and_not_freed() {
        let mut weights = Weights::new(10, 1);
        for (position, weight) in [(0, 4), (1, 6), (2, 0)] {
            assert!(weights.admit(weight, 0), "{position}");
            weights.add(weight);
        }
        assert!(!weights.admit(1, 0));
        assert!(weights.admit(4, 1), "the limit itself is allowed");
        assert!(!weights.admit(5, 1));
        assert!(!weights.admit(11, 2), "not alone: one that weighs nothing is there");
        assert!(weights.admit(usize::MAX, 3));
        weights.add(usize::MAX);
        assert!(!weights.admit(1, 3));
        weights.take_back();
        assert!(weights.admit(1, 3));
    }

    #[test]
    fn sums_do_not_overflow() {
        let mut weights = Weights::new(usize::MAX, 1);
        weights.add(usize::MAX - 1);
        assert!(weights.admit(usize::MAX, 0));
        weights.add(usize::MAX);
        assert!(weights.admit(1, 2));
        assert_eq!(weights.held, 0);
    }
}
