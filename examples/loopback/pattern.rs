//! Content that shows loss, duplication and reordering, and is cheap to make and to check.

use bytes::Bytes;
use std::fmt;

/// After so many bytes the pattern repeats: a prime number of cache lines, so that copies stay aligned, and not a power
/// of two, so that anything that is displaced by a block of a usual size differs.
pub(crate) const PERIOD: usize = 64 * 1021;

/// Every window of this length, wherever it begins, is one slice.
pub(crate) const WINDOW: usize = 256 << 10;

/// How much is compared at once. Only the first two pieces of the pattern are read by that, which the cache holds.
const PIECE: usize = 64 << 10;

const PAGE: usize = 4096;

/// Pseudo-random bytes, repeated. The content of a stream at a position depends on the position alone.
#[derive(Clone, Debug)]
pub(crate) struct Pattern(Bytes);

impl Pattern {
    pub(crate) fn new() -> Self {
        // The beginning is moved to a page boundary.
        let mut memory = vec![0; PAGE + PERIOD + WINDOW];
        let start = memory.as_ptr().align_offset(PAGE).min(PAGE);
        let (period, repeated) = memory[start..].split_at_mut(PERIOD);
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for byte in period.iter_mut() {
            // Xorshift (Marsaglia 2003).
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = state as u8;
        }
        repeated.chunks_mut(PERIOD).for_each(|copy| copy.copy_from_slice(&period[..copy.len()]));
        Pattern(Bytes::from(memory).slice(start..start + PERIOD + WINDOW))
    }

    /// The stream's bytes from `position` on, at most [`WINDOW`] of them.
    pub(crate) fn bytes(&self, position: u64, len: usize) -> &[u8] {
        let start = offset(position);
        &self.0[start..start + len]
    }

    /// The same without a copy, to be sent.
    pub(crate) fn slice(&self, position: u64, len: usize) -> Bytes {
        let start = offset(position);
        self.0.slice(start..start + len)
    }
}

fn offset(position: u64) -> usize {
    (position % PERIOD as u64) as usize
}

/// The receiving end of a stream that ought to be the pattern.
#[derive(Clone, Debug)]
pub(crate) struct Check {
    pattern: Pattern,
    position: u64,
}

/// Where a stream first differs from the pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mismatch {
    pub(crate) offset: u64,
}

impl Check {
    pub(crate) fn new(pattern: Pattern) -> Self {
        Check { pattern, position: 0 }
    }

    /// Bytes that were right.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<(), Mismatch> {
        for piece in bytes.chunks(PIECE) {
            let expected = self.pattern.bytes(self.position, piece.len());
            if piece != expected {
                let equal = piece.iter().zip(expected).take_while(|(a, b)| a == b).count();
                return Err(Mismatch { offset: self.position + equal as u64 });
            }
            self.position += piece.len() as u64;
        }
        Ok(())
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the byte at offset {} is not the one that was sent", self.offset)
    }
}
