//! Memory that files are read into, and sent from.

use crate::config::{FILE_READ_BYTES, FILE_SPARE_BYTES};
use bytes::Bytes;
use std::sync::{Arc, Mutex, PoisonError};

/// What is read is copied, up to so much, and the memory used for the next read at once: what holds little is not to keep much.
const MOST_COPIED: usize = if cfg!(test) { 16 } else { 16 << 10 };

/// What is read in smaller pieces has memory of its own size, and none of what is kept.
const LEAST_KEPT: usize = FILE_READ_BYTES / 4;

/// A reactor's memory for reads. The one that was given back last is the first to be used again, for it is in the cache.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReadMemory(Arc<Mutex<Vec<Vec<u8>>>>);

/// What was read, on its way out. Gives the memory back when nobody sends it any more.
struct Read {
    memory: Vec<u8>,
    len: usize,
    home: ReadMemory,
}

impl AsRef<[u8]> for Read {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

impl Drop for Read {
    fn drop(&mut self) {
        self.home.give(std::mem::take(&mut self.memory));
    }
}

impl ReadMemory {
    /// Memory to read `len` bytes into, or more; at most [`FILE_READ_BYTES`].
    pub(crate) fn take(&self, len: usize) -> Vec<u8> {
        let len = len.min(FILE_READ_BYTES);
        if len < LEAST_KEPT {
            return vec![0; len];
        }
        // What lies there is from the last read, or zeroes; no more than was read is ever sent of it.
        self.spare(|spare| spare.pop()).unwrap_or_else(|| vec![0; FILE_READ_BYTES])
    }

    /// Keeps memory for the next read, if it is of the kind that is kept.
    pub(crate) fn give(&self, memory: Vec<u8>) {
        if memory.len() != FILE_READ_BYTES {
            return;
        }
        self.spare(|spare| {
            if spare.len() < FILE_SPARE_BYTES / FILE_READ_BYTES {
                spare.push(memory);
            }
        });
    }

    /// What the first `len` bytes of `memory` are sent as: themselves, unless they are so few that a copy costs less, or would
    /// keep much more than themselves.
    pub(crate) fn share(&self, memory: Vec<u8>, len: usize) -> Result<Bytes, Vec<u8>> {
        if len <= MOST_COPIED || len < memory.len() / 4 {
            return Err(memory);
        }
        if memory.len() != FILE_READ_BYTES {
            return Ok(Bytes::from(memory).slice(..len));
        }
        Ok(Bytes::from_owner(Read { memory, len, home: self.clone() }))
    }

    fn spare<R>(&self, act: impl FnOnce(&mut Vec<Vec<u8>>) -> R) -> R {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_read_into_again() {
        let memory = ReadMemory::default();
        let (few, some) = (memory.take(5), memory.take(FILE_READ_BYTES / 2));
        assert_eq!((few.len(), some.len()), (5, FILE_READ_BYTES));
        let place = some.as_ptr();
        let bytes = memory.share(some, LEAST_KEPT).unwrap();
        assert_eq!((bytes.len(), bytes.as_ptr()), (LEAST_KEPT, place));
        let rest = bytes.slice(5..);
        drop(bytes);
        let other = memory.take(FILE_READ_BYTES);
        assert_ne!(other.as_ptr(), place, "some of it is still to be sent");
        drop(rest);
        let again = memory.take(usize::MAX);
        assert_eq!((again.as_ptr(), again.len()), (place, FILE_READ_BYTES));
        // What is little is copied, and the memory used at once.
        memory.give(memory.share(again, 10).unwrap_err());
        memory.give(few);
        let again = memory.take(FILE_READ_BYTES);
        assert_eq!(again.as_ptr(), place);
    }

    #[test]
    fn no_more_is_kept_than_may_be() {
        let memory = ReadMemory::default();
        let most = FILE_SPARE_BYTES / FILE_READ_BYTES;
        let taken: Vec<_> = (0..most + 3).map(|_| memory.take(FILE_READ_BYTES)).collect();
        taken.into_iter().for_each(|taken| memory.give(taken));
        assert_eq!(memory.spare(|spare| spare.len()), most);
    }
}
