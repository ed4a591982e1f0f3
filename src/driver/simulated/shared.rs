//! Buffers that are sent from where they were received.

use super::Simulated;
use crate::buf::BufferId;
use crate::driver::{BufferGroup, Lent};
use bytes::Bytes;
use std::sync::{Arc, Mutex};

/// Buffers that were shared and are not any more, with their memory.
pub(super) type Returned = Arc<Mutex<Vec<(BufferId, Vec<u8>)>>>;

struct SharedBytes {
    buffer: BufferId,
    memory: Vec<u8>,
    start: usize,
    len: usize,
    returned: Returned,
}

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl Drop for SharedBytes {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        self.returned.lock().unwrap().push((self.buffer, memory));
    }
}

impl Simulated {
    /// At times all of them but one.
    pub(crate) fn share(&mut self, Lent { buffer, start, len }: Lent) -> Option<Bytes> {
        let others = self.pool.iter().filter(|memory| !memory.is_empty()).count();
        if len == 0 || others <= 1 {
            return None;
        }
        let memory = std::mem::take(&mut self.pool[usize::from(buffer.0)]);
        let returned = self.returned.clone();
        Some(Bytes::from_owner(SharedBytes { buffer, memory, start, len, returned }))
    }

    pub(crate) fn free_buffers(&self, _group: BufferGroup) -> usize {
        self.free.len() + self.returned()
    }

    pub(crate) fn loaned_buffers(&self) -> usize {
        self.pool.len() - self.free.len() - self.returned()
    }

    pub(super) fn take_back(&mut self) {
        let returned = std::mem::take(&mut *self.returned.lock().unwrap());
        for (buffer, memory) in returned {
            self.pool[usize::from(buffer.0)] = memory;
            self.release(buffer);
        }
    }

    fn returned(&self) -> usize {
        self.returned.lock().unwrap().len()
    }
}

impl std::fmt::Debug for Simulated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulated").field("operations", &self.operations.len()).finish_non_exhaustive()
    }
}
