//! The receive pool: one slab of memory, and the ring in which its buffers are offered to the kernel.
#![allow(unsafe_code)]

use super::entry::BUFFER_GROUP;
use super::setup::Ring;
use crate::buf::BufferId;
use crate::config::{POOL_WINDOW, PoolConfig};
use crate::driver::Lent;
use io_uring::types::BufRingEntry;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// After so many publications in which half of the window went unused, the window narrows.
const NARROW_AFTER: u32 = 1024;

/// Buffers of equal size in one slab.
///
/// Free buffers are a stack, so that the one used last, which the cache still holds, is used next. Of these only
/// `window` lie in the kernel's ring at a time: the kernel takes them in turn, so all that lie there pass through the
/// cache.
pub(super) struct Pool {
    slab: Mapping,
    buffer_bytes: usize,
    states: Vec<State>,
    free: Vec<BufferId>,
    ring: Option<BufferRing>,
    window: u16,
    /// The fewest buffers that lay ready when more were published, lately.
    fewest_ready: u16,
    since_narrowed: u32,
    loaned: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Published,
    Loaned,
}

impl Pool {
    /// With `provided`, registers the buffers with the ring, if the kernel knows how to.
    pub(super) fn new(config: &PoolConfig, provided: bool, ring: &mut Ring) -> io::Result<Self> {
        let buffers = config.buffers;
        let mut slab = Mapping::new(usize::from(buffers) * config.buffer_bytes)?;
        let window = POOL_WINDOW.min(buffers);
        slab.touch(usize::from(window) * config.buffer_bytes);
        let ring = match provided.then(|| BufferRing::register(buffers, ring)).transpose() {
            // Before Linux 5.19 there was no such thing to register.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => None,
            ring => ring?,
        };
        Ok(Pool {
            slab,
            buffer_bytes: config.buffer_bytes,
            states: vec![State::Free; usize::from(buffers)],
            free: (0..buffers).rev().map(BufferId).collect(),
            ring,
            window,
            fewest_ready: window,
            since_narrowed: 0,
            loaned: 0,
        })
    }

    /// Whether the kernel picks buffers itself.
    pub(super) fn is_provided(&self) -> bool {
        self.ring.is_some()
    }

    /// Fills the kernel's ring up to the window.
    pub(super) fn publish(&mut self) {
        let Some(ring) = &mut self.ring else { return };
        self.fewest_ready = self.fewest_ready.min(ring.ready);
        if ring.ready >= self.window {
            return;
        }
        while ring.ready < self.window {
            let Some(buffer) = self.free.pop() else { break };
            self.states[usize::from(buffer.0)] = State::Published;
            let offset = usize::from(buffer.0) * self.buffer_bytes;
            ring.add(buffer, self.slab.at(offset), self.buffer_bytes);
        }
        ring.announce();
        self.since_narrowed += 1;
        if self.since_narrowed >= NARROW_AFTER {
            if self.fewest_ready > self.window / 2 && self.window > POOL_WINDOW {
                self.window /= 2;
            }
            self.since_narrowed = 0;
            self.fewest_ready = self.window;
        }
    }

    /// The kernel found no buffer: offer more at a time.
    pub(super) fn widen(&mut self) {
        self.window = (self.window * 2).min(self.states.len() as u16);
        self.since_narrowed = 0;
        self.fewest_ready = self.window;
    }

    /// The kernel filled this buffer from its ring.
    pub(super) fn taken_by_kernel(&mut self, buffer: BufferId) {
        debug_assert_eq!(self.states[usize::from(buffer.0)], State::Published);
        self.states[usize::from(buffer.0)] = State::Loaned;
        self.loaned += 1;
        if let Some(ring) = &mut self.ring {
            ring.ready -= 1;
        }
    }

    /// Lends a buffer to an operation that names it itself.
    pub(super) fn take(&mut self) -> Option<BufferId> {
        let buffer = self.free.pop()?;
        self.states[usize::from(buffer.0)] = State::Loaned;
        self.loaned += 1;
        Some(buffer)
    }

    pub(super) fn release(&mut self, buffer: BufferId) {
        let state = &mut self.states[usize::from(buffer.0)];
        assert_eq!(*state, State::Loaned, "buffer {} was not on loan", buffer.0);
        *state = State::Free;
        self.loaned -= 1;
        self.free.push(buffer);
    }

    pub(super) fn bytes(&mut self, lent: Lent) -> &mut [u8] {
        let Lent { buffer, start, len } = lent;
        assert_eq!(self.states[usize::from(buffer.0)], State::Loaned, "buffer {} is not on loan", buffer.0);
        assert!(start + len <= self.buffer_bytes);
        let start = self.slab.at(usize::from(buffer.0) * self.buffer_bytes + start);
        // SAFETY: the range lies in the mapping, whose bytes are always initialised. It is on loan, so the kernel has
        // its final completion behind it and writes elsewhere; `release`, which lets it write here again, takes
        // `&mut self` and so comes after the end of this borrow, as does whoever else asks for these bytes.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }

    /// Where an operation that names its buffer may write.
    pub(super) fn target(&mut self, buffer: BufferId) -> (*mut u8, usize) {
        (self.slab.at(usize::from(buffer.0) * self.buffer_bytes), self.buffer_bytes)
    }

    pub(super) fn free(&self) -> usize {
        self.free.len() + self.ring.as_ref().map_or(0, |ring| usize::from(ring.ready))
    }

    pub(super) fn loaned(&self) -> usize {
        self.loaned
    }

    /// Never gives the memory back to the system.
    pub(super) fn leak(&mut self) {
        self.slab.leaked = true;
        if let Some(ring) = &mut self.ring {
            ring.entries.leaked = true;
        }
    }
}

/// A ring of buffer descriptions that the kernel reads at its head and this process extends at its tail.
struct BufferRing {
    entries: Mapping,
    mask: u16,
    tail: u16,
    /// Buffers that the kernel has not taken yet.
    ready: u16,
}

impl BufferRing {
    fn register(buffers: u16, ring: &mut Ring) -> io::Result<Self> {
        let entries = Mapping::new(usize::from(buffers) * size_of::<BufRingEntry>())?;
        // SAFETY: the mapping is page-aligned, zeroed, of that many entries, and lives until the ring is closed or is
        // leaked: `Uring` drops its ring before its pool.
        unsafe { ring.register_buffers(entries.at(0) as u64, buffers, BUFFER_GROUP) }?;
        Ok(BufferRing { entries, mask: buffers - 1, tail: 0, ready: 0 })
    }

    fn add(&mut self, buffer: BufferId, address: *mut u8, len: usize) {
        let offset = usize::from(self.tail & self.mask) * size_of::<BufRingEntry>();
        let entry: *mut BufRingEntry = self.entries.at(offset).cast();
        // SAFETY: the masked index lies in the mapping. The kernel reads an entry only between its head and the
        // announced tail, and `ready` is less than the ring's size, so this entry is ours. It is written field by
        // field because the tail lies in the first entry's reserved field.
        let entry = unsafe { &mut *entry };
        entry.set_addr(address as u64);
        entry.set_len(len as u32);
        entry.set_bid(buffer.0);
        self.tail = self.tail.wrapping_add(1);
        self.ready += 1;
    }

    fn announce(&mut self) {
        // SAFETY: `entries` points to a registered ring, which has at least one entry.
        let tail = unsafe { BufRingEntry::tail(self.entries.at(0).cast_const().cast()) };
        // SAFETY: the tail is two aligned bytes in the mapping that this process alone writes and the kernel reads
        // atomically.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

/// Anonymous, page-aligned, zeroed memory.
struct Mapping {
    start: NonNull<u8>,
    len: usize,
    leaked: bool,
}

impl Mapping {
    fn new(len: usize) -> io::Result<Self> {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new anonymous mapping touches no memory that exists.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).expect("the kernel maps nothing at zero unless asked to");
        Ok(Mapping { start, len, leaked: false })
    }

    /// Makes the first `bytes` resident, so that the first receives do not fault.
    fn touch(&mut self, bytes: usize) {
        for offset in (0..bytes).step_by(4096) {
            // SAFETY: `at` checks that the byte lies in the mapping, which is writable and which nobody else uses yet.
            unsafe { self.at(offset).write_volatile(0) };
        }
    }

    fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.len);
        // SAFETY: the offset lies in the mapping.
        unsafe { self.start.as_ptr().add(offset) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if !self.leaked {
            // SAFETY: the range is the one that was mapped, and whoever could still use it has said so by `leaked`.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
        }
    }
}
