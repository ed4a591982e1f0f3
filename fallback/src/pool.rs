//! The pool of receive buffers: one contiguous slab, the most recently returned buffer first.

use std::fmt;

/// Names one buffer of a proactor's pool.
///
/// The holder gives it back with [`Proactor::release`](crate::Proactor::release), once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(u16);

impl BufferId {
    /// The buffer with this index, as [`BufferId::index`] gave it.
    pub const fn new(index: u16) -> Self {
        Self(index)
    }

    /// The buffer's index in the pool: from 0 to the number of buffers, exclusive.
    #[must_use]
    pub const fn index(self) -> u16 {
        self.0
    }
}

/// Fixed number of buffers of one size. The free list is a stack, so that the buffer handed out next is the
/// one most likely to be in cache, and a lightly loaded pool touches few of its pages.
pub(crate) struct Pool {
    slab: Box<[u8]>,
    buffer_bytes: usize,
    free: Vec<u16>,
    lent: Box<[bool]>,
}

impl Pool {
    /// A pool of `buffers` × `buffer_bytes` bytes. The memory is zeroed and not yet touched.
    pub(crate) fn new(buffers: u16, buffer_bytes: usize) -> Self {
        let count = usize::from(buffers);
        Self {
            slab: vec![0; count * buffer_bytes].into_boxed_slice(),
            buffer_bytes,
            free: (0..buffers).rev().collect(),
            lent: vec![false; count].into_boxed_slice(),
        }
    }

    /// Lends a buffer, or says that all are lent.
    pub(crate) fn take(&mut self) -> Option<BufferId> {
        let index = self.free.pop()?;
        self.lent[usize::from(index)] = true;
        Some(BufferId(index))
    }

    /// Takes a buffer back; false (and no effect) when it was not lent.
    pub(crate) fn release(&mut self, buffer: BufferId) -> bool {
        let Some(lent) = self.lent.get_mut(usize::from(buffer.0)).filter(|lent| **lent) else {
            return false;
        };
        *lent = false;
        self.free.push(buffer.0);
        true
    }

    pub(crate) fn is_lent(&self, buffer: BufferId) -> bool {
        self.lent.get(usize::from(buffer.0)).copied().unwrap_or(false)
    }

    /// The whole buffer. Panics when the pool has no such buffer.
    pub(crate) fn bytes(&self, buffer: BufferId) -> &[u8] {
        let start = usize::from(buffer.0) * self.buffer_bytes;
        &self.slab[start..start + self.buffer_bytes]
    }

    /// The whole buffer, to be filled. Panics when the pool has no such buffer.
    pub(crate) fn bytes_mut(&mut self, buffer: BufferId) -> &mut [u8] {
        let start = usize::from(buffer.0) * self.buffer_bytes;
        &mut self.slab[start..start + self.buffer_bytes]
    }

    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("buffers", &self.lent.len())
            .field("buffer_bytes", &self.buffer_bytes)
            .field("free", &self.free.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Take(u8),
        ReleaseNth(usize),
        ReleaseAny(u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => any::<u8>().prop_map(Step::Take),
            2 => (0..16usize).prop_map(Step::ReleaseNth),
            1 => (0..16u16).prop_map(Step::ReleaseAny),
        ]
    }

    proptest! {
        /// The model is a stack of free indices and a list of what is lent, with the byte each holder wrote.
        #[test]
        fn behaves_as_its_model(
            buffers in 1..10u16,
            buffer_bytes in 1..20usize,
            steps in prop::collection::vec(step(), 0..200),
        ) {
            let mut pool = Pool::new(buffers, buffer_bytes);
            let mut free: Vec<u16> = (0..buffers).rev().collect();
            let mut lent: Vec<(u16, u8)> = Vec::new();
            for step in steps {
                match step {
                    Step::Take(mark) => {
                        let taken = pool.take();
                        prop_assert_eq!(taken.map(BufferId::index), free.pop());
                        if let Some(buffer) = taken {
                            pool.bytes_mut(buffer).fill(mark);
                            lent.push((buffer.index(), mark));
                        }
                    }
                    Step::ReleaseNth(nth) if !lent.is_empty() => {
                        let (index, _) = lent.remove(nth % lent.len());
                        prop_assert!(pool.release(BufferId::new(index)));
                        free.push(index);
                    }
                    Step::ReleaseNth(_) => {}
                    Step::ReleaseAny(index) => {
                        let position = lent.iter().position(|(other, _)| *other == index);
                        prop_assert_eq!(pool.is_lent(BufferId::new(index)), position.is_some());
                        prop_assert_eq!(pool.release(BufferId::new(index)), position.is_some());
                        if let Some(position) = position {
                            lent.remove(position);
                            free.push(index);
                        }
                    }
                }
                prop_assert_eq!(pool.free(), free.len());
                for (index, mark) in &lent {
                    let bytes = pool.bytes(BufferId::new(*index));
                    prop_assert_eq!(bytes.len(), buffer_bytes);
                    prop_assert!(bytes.iter().all(|byte| byte == mark), "buffers overlap");
                }
            }
        }
    }
}
