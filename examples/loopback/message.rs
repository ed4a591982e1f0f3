//! Messages that each differ from the ones before: a sequence number, then a piece of the pattern.

use crate::pattern::{Mismatch, Pattern};

/// Bytes of the sequence number, and so of the smallest message.
pub(crate) const SEQUENCE_BYTES: usize = 8;

/// The messages of a connection, one at a time.
#[derive(Debug)]
pub(crate) struct Messages {
    pattern: Pattern,
    sequence: u64,
    current: Vec<u8>,
}

impl Messages {
    /// Of `size` bytes each: from [`SEQUENCE_BYTES`] to a window of the pattern.
    pub(crate) fn new(pattern: Pattern, size: usize) -> Self {
        let mut messages = Messages { pattern, sequence: 0, current: vec![0; size] };
        messages.make();
        messages
    }

    pub(crate) fn current(&self) -> &[u8] {
        &self.current
    }

    pub(crate) fn size(&self) -> usize {
        self.current.len()
    }

    /// Compares whole messages that arrived with what they ought to be, and goes on to the one behind them.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<(), Mismatch> {
        for message in bytes.chunks_exact(self.size()) {
            if message != self.current {
                let equal = message.iter().zip(&self.current).take_while(|(a, b)| a == b).count();
                return Err(Mismatch { offset: self.sequence * self.size() as u64 + equal as u64 });
            }
            self.sequence += 1;
            self.make();
        }
        Ok(())
    }

    fn make(&mut self) {
        let (sequence, content) = self.current.split_at_mut(SEQUENCE_BYTES);
        sequence.copy_from_slice(&self.sequence.to_le_bytes());
        let position = self.sequence.wrapping_mul(content.len() as u64);
        content.copy_from_slice(self.pattern.bytes(position, content.len()));
    }
}
