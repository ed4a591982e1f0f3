//! Vectors that nobody uses at the moment.

use super::Payload;
use super::payload::Splice;
use std::collections::VecDeque;

/// Capacity up to which a vector may hold next to nothing.
const SMALL: usize = 64 << 10;

/// Above that, a vector is too large for less than this part of it.
const LEAST_PART: usize = 16;

/// So many small vectors in a row must come back before one is taken rather than a large one. A small one that is taken for
/// much grows step by step.
const SMALL_AGAIN: u32 = 64;

/// How many lists of splices are kept, and how long each may be.
const LISTS: usize = 16;
const LIST_ITEMS: usize = 1024;

/// Whether `len` bytes should move out of a vector of such a capacity. To copy them is little compared to what is freed.
pub(super) fn is_wasteful(capacity: usize, len: usize) -> bool {
    capacity > SMALL && len < capacity / LEAST_PART
}

/// A reactor's spare vectors, so that a connection at rest owns no buffer and a busy one allocates none.
///
/// The last one given back is the first one taken: it is the one that is still in the cache. Where some were large lately, it
/// is the largest of those, because what leaves next may be as much: if smaller ones were taken for much, all of them would
/// grow in the end. Whoever keeps a vector for long asks for one that [fits](Self::take_for).
#[derive(Debug)]
pub(crate) struct Spare {
    small: Vec<Vec<u8>>,
    /// By capacity, the largest last; among equal ones in the order in which they were given back.
    large: Vec<Vec<u8>>,
    small_in_a_row: u32,
    splices: Vec<VecDeque<Splice>>,
    held_bytes: usize,
    most_bytes: usize,
}

impl Spare {
    /// Keeps vectors until their capacities add up to `most_bytes`, each of up to a quarter of that.
    pub(crate) fn new(most_bytes: usize) -> Self {
        Spare {
            small: Vec::new(),
            large: Vec::new(),
            small_in_a_row: SMALL_AGAIN,
            splices: Vec::new(),
            held_bytes: 0,
            most_bytes,
        }
    }

    /// An empty vector, with room if one was given back before.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        let [first, second] = match self.small_in_a_row < SMALL_AGAIN {
            true => [&mut self.large, &mut self.small],
            false => [&mut self.small, &mut self.large],
        };
        let vector = first.pop().or_else(|| second.pop()).unwrap_or_default();
        self.held_bytes -= vector.capacity();
        vector
    }

    /// An empty vector for `bytes` bytes, which it may hold for as long as it takes: not a large one for few.
    pub(crate) fn take_for(&mut self, bytes: usize) -> Vec<u8> {
        let spare = if bytes > SMALL {
            let fitting = self.large.partition_point(|vector| vector.capacity() < bytes);
            let fits = self.large.get(fitting).is_some_and(|vector| !is_wasteful(vector.capacity(), bytes));
            fits.then(|| self.large.remove(fitting))
        } else {
            self.small.pop()
        };
        let mut vector = spare.unwrap_or_default();
        self.held_bytes -= vector.capacity();
        if vector.capacity() < bytes {
            // So that it does for the next one who has a little more.
            vector.reserve_exact(bytes.next_power_of_two());
        }
        vector
    }

    /// Keeps `vector` for the next one who needs it, or frees it when enough are kept.
    pub(crate) fn give(&mut self, mut vector: Vec<u8>) {
        vector.clear();
        let capacity = vector.capacity();
        let held_bytes = self.held_bytes + capacity;
        if capacity > 0 && held_bytes <= self.most_bytes && capacity <= self.most_bytes / 4 {
            self.held_bytes = held_bytes;
            if capacity > SMALL {
                self.small_in_a_row = 0;
                let place = self.large.partition_point(|other| other.capacity() <= capacity);
                self.large.insert(place, vector);
            } else {
                self.small_in_a_row = self.small_in_a_row.saturating_add(1);
                self.small.push(vector);
            }
        }
    }

    /// An empty payload, with the memory of one that was given back before.
    pub(crate) fn take_payload(&mut self) -> Payload {
        let splices = self.splices.pop().unwrap_or_default();
        Payload::over(self.take(), splices)
    }

    /// Keeps the memory of a payload for another one.
    pub(crate) fn give_payload(&mut self, payload: Payload) {
        let (text, splices) = payload.into_parts();
        self.give(text);
        if splices.capacity() > 0 && splices.capacity() <= LIST_ITEMS && self.splices.len() < LISTS {
            self.splices.push(splices);
        }
    }

    /// Has a payload that is about to wait for its peer hold no more memory than becomes it.
    pub(crate) fn fit(&mut self, payload: &mut Payload) {
        payload.fit(self);
    }
}

/// Whoever has spare vectors at hand.
pub(crate) trait HasSpare {
    fn spare(&mut self) -> &mut Spare;
}

impl HasSpare for Spare {
    fn spare(&mut self) -> &mut Spare {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn keeps_no_more_than_it_may() {
        let mut spare = Spare::new(240);
        for _ in 0..5 {
            spare.give(Vec::with_capacity(60));
        }
        assert_eq!(spare.held_bytes, 240);
        for held in [180, 120, 60, 0] {
            assert_eq!((spare.take().capacity(), spare.held_bytes), (60, held));
        }
        assert_eq!((spare.take().capacity(), spare.held_bytes), (0, 0));
        spare.give(Vec::with_capacity(61));
        assert_eq!(spare.held_bytes, 0, "one vector is not to use up the room of all others");
    }

    #[test]
    fn few_bytes_get_no_large_vector() {
        let mut spare = Spare::new(1 << 24);
        let (small, large) = (1000, 1 << 20);
        spare.give(Vec::with_capacity(large));
        assert_eq!(spare.take_for(5).capacity(), 8);
        spare.give(Vec::with_capacity(small));
        assert_eq!(spare.take_for(5).capacity(), small);
        assert_eq!(spare.take_for(SMALL).capacity(), SMALL);
        assert_eq!(spare.take_for(SMALL + 1).capacity(), large);
        assert_eq!(spare.held_bytes, 0);
        spare.give(Vec::with_capacity(4 << 20));
        assert_eq!(spare.take_for(SMALL + 1).capacity(), 2 * SMALL, "64 times too large");
        assert_eq!(spare.take_for(1 << 18).capacity(), 4 << 20);
        assert_eq!(spare.held_bytes, 0);
    }

    #[test]
    fn of_large_ones_who_has_much_gets_the_largest_and_who_has_less_what_fits() {
        let mut spare = Spare::new(1 << 24);
        for capacity in [3 << 20, 1 << 17, 1 << 20, 1 << 17] {
            spare.give(Vec::with_capacity(capacity));
        }
        assert_eq!(spare.take().capacity(), 3 << 20);
        assert_eq!(spare.take_for(100_000).capacity(), 1 << 17);
        assert_eq!(spare.take_for(1 << 17).capacity(), 1 << 17);
        assert_eq!(spare.take_for((1 << 17) + 1).capacity(), 1 << 20);
        assert_eq!(spare.held_bytes, 0);
        let (first, last) = (Vec::with_capacity(1 << 20), Vec::with_capacity(1 << 20));
        let place = last.as_ptr();
        spare.give(first);
        spare.give(last);
        let taken = spare.take();
        assert_eq!(taken.as_ptr(), place, "it is the one in the cache");
    }

    #[test]
    fn large_ones_are_taken_while_some_come_back_now_and_then() {
        let mut spare = Spare::new(1 << 24);
        let (small, large) = (1000, 1 << 20);
        spare.give(Vec::with_capacity(small));
        assert_eq!(spare.take().capacity(), small, "there never was a large one");
        spare.give(Vec::with_capacity(large));
        for _ in 1..SMALL_AGAIN {
            spare.give(Vec::with_capacity(small));
            assert_eq!(spare.take_for(5).capacity(), small);
        }
        spare.give(Vec::with_capacity(small));
        assert_eq!(spare.take().capacity(), small, "nothing was large for long");
        assert_eq!(spare.take().capacity(), large, "better than none");
        spare.give(Vec::with_capacity(large));
        spare.give(Vec::with_capacity(small));
        assert_eq!(spare.take().capacity(), large, "what leaves next may be as much");
        assert_eq!(spare.take().capacity(), small);
    }

    #[test]
    fn a_payload_lives_on_the_memory_of_another() {
        let mut spare = Spare::new(1 << 24);
        let mut payload = spare.take_payload();
        payload.text().extend_from_slice(b"text");
        (0..100).for_each(|_| payload.splice(Bytes::from_static(b"spliced")));
        payload.advance(10);
        let place = payload.text().as_ptr();
        spare.give_payload(payload);
        let capacity = spare.splices[0].capacity();
        assert!(capacity >= 100);
        let mut payload = spare.take_payload();
        assert_eq!((payload.len(), payload.text().as_ptr()), (0, place));
        assert!(spare.splices.is_empty());
        // Not for ever as much as somebody once needed.
        (0..2 * LIST_ITEMS).for_each(|_| payload.splice(Bytes::from_static(b"spliced")));
        spare.give_payload(payload);
        assert!(spare.splices.is_empty());
    }
}
