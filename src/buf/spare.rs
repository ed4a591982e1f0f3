//! Vectors that nobody uses at the moment.

/// A reactor's spare vectors, so that a connection at rest owns no buffer and a busy one allocates none.
///
/// The last one given back is the first one taken: it is the one that is still in the cache.
#[derive(Debug)]
pub(crate) struct Spare {
    vectors: Vec<Vec<u8>>,
    held_bytes: usize,
    most_bytes: usize,
}

impl Spare {
    /// Keeps vectors until their capacities add up to `most_bytes`.
    pub(crate) fn new(most_bytes: usize) -> Self {
        Spare { vectors: Vec::new(), held_bytes: 0, most_bytes }
    }

    /// An empty vector, with room if one was given back before.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        let vector = self.vectors.pop().unwrap_or_default();
        self.held_bytes -= vector.capacity();
        vector
    }

    /// Keeps `vector` for the next one who needs it, or frees it when enough are kept.
    pub(crate) fn give(&mut self, mut vector: Vec<u8>) {
        vector.clear();
        let held_bytes = self.held_bytes + vector.capacity();
        if vector.capacity() > 0 && held_bytes <= self.most_bytes {
            self.held_bytes = held_bytes;
            self.vectors.push(vector);
        }
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

    #[test]
    fn keeps_no_more_than_it_may() {
        let mut spare = Spare::new(100);
        spare.give(Vec::with_capacity(60));
        spare.give(Vec::with_capacity(60));
        assert_eq!(spare.held_bytes, 60);
        assert_eq!(spare.take().capacity(), 60);
        assert_eq!(spare.take().capacity(), 0);
        assert_eq!(spare.held_bytes, 0);
    }
}
