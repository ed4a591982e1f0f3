//! The receive pool: slabs of memory, and the rings in which their buffers are offered to the kernel.
#![allow(unsafe_code)]

use super::setup::Ring;
use super::window::Window;
use crate::buf::BufferId;
use crate::config::{POOL_WINDOW, PoolConfig, SMALL_WINDOW};
use crate::driver::{BufferGroup, Lent};
use bytes::Bytes;
use io_uring::types::BufRingEntry;
use parking_lot::Mutex;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};

/// Two groups of buffers: large ones that move much at a time, and small ones that are many. The numbers of the small
/// ones follow those of the large ones, so that a number tells its group.
pub(super) struct Pool {
    large: Group,
    small: Option<Group>,
}

impl Pool {
    /// With `provided`, registers the buffers with the ring, if the kernel knows how to. Small ones make sense only there:
    /// where the kernel does not pick the buffer, one is taken when the bytes are there.
    pub(super) fn new(config: &PoolConfig, provided: bool, ring: &mut Ring) -> io::Result<Self> {
        let mut large = Group::new(0, config.buffers, config.buffer_bytes, POOL_WINDOW)?;
        if provided {
            large.offer_to(ring, BufferGroup::Large)?;
        }
        let small = (large.ring.is_some() && config.has_small())
            .then(|| {
                let mut small = Group::new(
                    config.buffers,
                    config.small_buffers,
                    config.small_buffer_bytes,
                    SMALL_WINDOW,
                )?;
                small.offer_to(ring, BufferGroup::Small)?;
                io::Result::Ok(small)
            })
            .transpose()?;
        Ok(Pool { large, small })
    }

    /// Whether the kernel picks buffers itself.
    pub(super) fn is_provided(&self) -> bool {
        self.large.ring.is_some()
    }

    /// Bytes of a small buffer, if there are any.
    pub(super) fn small_bytes(&self) -> Option<usize> {
        self.small.as_ref().map(|small| small.buffer_bytes)
    }

    /// Fills the kernel's rings up to their windows.
    pub(super) fn publish(&mut self) {
        self.large.publish();
        if let Some(small) = &mut self.small {
            small.publish();
        }
    }

    /// The kernel found no buffer in this group.
    pub(super) fn note_shortage(&mut self, group: BufferGroup) {
        self.group(group).window.note_shortage();
    }

    /// The kernel filled this buffer from its ring.
    pub(super) fn taken_by_kernel(&mut self, buffer: BufferId) {
        self.owner(buffer).taken_by_kernel(buffer);
    }

    /// Lends a large buffer to an operation that names it itself.
    pub(super) fn take(&mut self) -> Option<BufferId> {
        self.large.take()
    }

    pub(super) fn release(&mut self, buffer: BufferId) {
        self.owner(buffer).release(buffer);
    }

    pub(super) fn bytes(&mut self, lent: Lent) -> &mut [u8] {
        self.owner(lent.buffer).bytes(lent)
    }

    /// What is on loan, as bytes that give the buffer back when they are dropped; `None` if that would leave too few to receive into.
    pub(super) fn share(&mut self, lent: Lent) -> Option<Bytes> {
        self.owner(lent.buffer).share(lent)
    }

    /// Where an operation that names its buffer may write.
    pub(super) fn target(&mut self, buffer: BufferId) -> (*mut u8, usize) {
        let group = self.owner(buffer);
        (group.address(buffer), group.buffer_bytes)
    }

    pub(super) fn free(&self, group: BufferGroup) -> usize {
        match (group, &self.small) {
            (BufferGroup::Small, Some(small)) => small.free(),
            _ => self.large.free(),
        }
    }

    pub(super) fn loaned(&self) -> usize {
        [Some(&self.large), self.small.as_ref()]
            .into_iter()
            .flatten()
            .map(|group| group.loaned - group.returned())
            .sum()
    }

    /// Never gives the memory back to the system.
    pub(super) fn leak(&mut self) {
        self.large.leak();
        if let Some(small) = &mut self.small {
            small.leak();
        }
    }

    fn group(&mut self, group: BufferGroup) -> &mut Group {
        match (group, &mut self.small) {
            (BufferGroup::Small, Some(small)) => small,
            _ => &mut self.large,
        }
    }

    fn owner(&mut self, buffer: BufferId) -> &mut Group {
        match &mut self.small {
            Some(small) if buffer.0 >= small.first => small,
            _ => &mut self.large,
        }
    }
}

/// Buffers of equal size in one slab.
///
/// Free buffers are a stack, so that the one used last, which the cache still holds, is used next. Of these only as many
/// as the window says lie in the kernel's ring at a time.
struct Group {
    slab: Arc<Mapping>,
    buffer_bytes: usize,
    /// The number of the first buffer.
    first: u16,
    states: Vec<State>,
    free: Vec<BufferId>,
    ring: Option<BufferRing>,
    window: Window,
    loaned: usize,
    /// Buffers that are shared, and those of them that are not any more.
    shared: usize,
    returned: Returned,
}

type Returned = Arc<Mutex<Vec<BufferId>>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Published,
    Loaned,
    /// On loan to whoever has the bytes.
    Shared,
}

/// A buffer's bytes, on their way to where they are sent from. Of these there is one, and nobody else has the buffer.
struct SharedBytes {
    slab: Arc<Mapping>,
    offset: usize,
    len: usize,
    buffer: BufferId,
    returned: Returned,
}

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `Group::share` has seen that the range lies in the mapping, which lives as long as this does, and whose bytes are
        // always initialised. Until this is dropped the buffer's state is `Shared`: nobody writes there, for it is neither
        // published nor lent.
        unsafe { std::slice::from_raw_parts(self.slab.at(self.offset), self.len) }
    }
}

impl Drop for SharedBytes {
    fn drop(&mut self) {
        self.returned.lock().push(self.buffer);
    }
}

impl Group {
    fn new(first: u16, buffers: u16, buffer_bytes: usize, window: u16) -> io::Result<Self> {
        Ok(Group {
            slab: Arc::new(Mapping::new(usize::from(buffers) * buffer_bytes)?),
            buffer_bytes,
            first,
            states: vec![State::Free; usize::from(buffers)],
            free: (0..buffers).rev().map(|index| BufferId(first + index)).collect(),
            ring: None,
            window: Window::new(usize::from(window), usize::from(buffers)),
            loaned: 0,
            shared: 0,
            returned: Returned::default(),
        })
    }

    fn offer_to(&mut self, ring: &mut Ring, group: BufferGroup) -> io::Result<()> {
        self.ring = match BufferRing::register(self.states.len() as u16, group, ring) {
            // Before Linux 5.19 there was no such thing to register.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => None,
            ring => Some(ring?),
        };
        Ok(())
    }

    fn publish(&mut self) {
        self.take_back();
        let Some(ring) = &mut self.ring else { return };
        self.window.adapt(ring.ready);
        if ring.ready >= self.window.size() || self.free.is_empty() {
            return;
        }
        while ring.ready < self.window.size() {
            let Some(buffer) = self.free.pop() else { break };
            let index = usize::from(buffer.0 - self.first);
            self.states[index] = State::Published;
            ring.add(buffer, self.slab.at(index * self.buffer_bytes), self.buffer_bytes);
        }
        ring.announce();
    }

    fn taken_by_kernel(&mut self, buffer: BufferId) {
        let state = self.state(buffer);
        debug_assert_eq!(*state, State::Published);
        *state = State::Loaned;
        self.loaned += 1;
        if let Some(ring) = &mut self.ring {
            ring.ready -= 1;
        }
    }

    fn take(&mut self) -> Option<BufferId> {
        self.take_back();
        let buffer = self.free.pop()?;
        *self.state(buffer) = State::Loaned;
        self.loaned += 1;
        Some(buffer)
    }

    fn release(&mut self, buffer: BufferId) {
        let state = self.state(buffer);
        assert_eq!(*state, State::Loaned, "buffer {} was not on loan", buffer.0);
        *state = State::Free;
        self.loaned -= 1;
        self.free.push(buffer);
    }

    fn share(&mut self, lent: Lent) -> Option<Bytes> {
        let Lent { buffer, start, len } = lent;
        // However long those that share them keep them, half of the buffers are there for the others.
        if len == 0 || self.shared >= self.states.len() / 2 {
            return None;
        }
        assert_eq!(*self.state(buffer), State::Loaned, "buffer {} is not on loan", buffer.0);
        assert!(start <= self.buffer_bytes && len <= self.buffer_bytes - start);
        *self.state(buffer) = State::Shared;
        self.shared += 1;
        let offset = usize::from(buffer.0 - self.first) * self.buffer_bytes + start;
        let (slab, returned) = (self.slab.clone(), self.returned.clone());
        Some(Bytes::from_owner(SharedBytes { slab, offset, len, buffer, returned }))
    }

    /// Takes back what was shared and is not any more.
    fn take_back(&mut self) {
        while self.shared > 0 {
            let returned = self.returned.lock().pop();
            let Some(buffer) = returned else { break };
            self.shared -= 1;
            *self.state(buffer) = State::Loaned;
            self.release(buffer);
        }
    }

    /// Buffers that were shared and are not any more, though nobody has taken them back.
    fn returned(&self) -> usize {
        if self.shared > 0 { self.returned.lock().len() } else { 0 }
    }

    fn bytes(&mut self, lent: Lent) -> &mut [u8] {
        let Lent { buffer, start, len } = lent;
        assert_eq!(*self.state(buffer), State::Loaned, "buffer {} is not on loan", buffer.0);
        assert!(start <= self.buffer_bytes && len <= self.buffer_bytes - start);
        let offset = usize::from(buffer.0 - self.first) * self.buffer_bytes + start;
        if len == 0 {
            return &mut [];
        }
        // SAFETY: the range lies in the mapping, whose bytes are always initialised. It is on loan, so the kernel has
        // its final completion behind it and writes elsewhere; `release`, which lets it write here again, takes
        // `&mut self` and so comes after the end of this borrow, as does whoever else asks for these bytes.
        unsafe { std::slice::from_raw_parts_mut(self.slab.at(offset), len) }
    }

    fn address(&self, buffer: BufferId) -> *mut u8 {
        self.slab.at(usize::from(buffer.0 - self.first) * self.buffer_bytes)
    }

    fn state(&mut self, buffer: BufferId) -> &mut State {
        &mut self.states[usize::from(buffer.0 - self.first)]
    }

    fn free(&self) -> usize {
        self.free.len() + self.returned() + self.ring.as_ref().map_or(0, |ring| ring.ready)
    }

    fn leak(&mut self) {
        self.slab.leak();
        if let Some(ring) = &mut self.ring {
            ring.entries.leak();
        }
    }
}

/// A ring of buffer descriptions that the kernel reads at its head and this process extends at its tail.
struct BufferRing {
    entries: Mapping,
    mask: u16,
    tail: u16,
    /// Buffers that the kernel has not taken yet.
    ready: usize,
}

impl BufferRing {
    fn register(buffers: u16, group: BufferGroup, ring: &mut Ring) -> io::Result<Self> {
        let entries = Mapping::new(usize::from(buffers) * size_of::<BufRingEntry>())?;
        // SAFETY: the mapping is page-aligned, zeroed, of that many entries, and lives until the ring is closed or is
        // leaked: `Uring` drops its ring before its pool.
        unsafe { ring.register_buffers(entries.at(0) as u64, buffers, group.id()) }?;
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
    leaked: AtomicBool,
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
        Ok(Mapping { start, len, leaked: AtomicBool::new(false) })
    }

    /// It is never given back to the system.
    fn leak(&self) {
        self.leaked.store(true, Ordering::Relaxed);
    }

    fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.len);
        // SAFETY: the offset lies in the mapping.
        unsafe { self.start.as_ptr().add(offset) }
    }
}

// SAFETY: it is memory of the process', which belongs to no thread; who reads and who writes where, the pool sees to.
unsafe impl Send for Mapping {}

// SAFETY: as above; through a shared reference it gives addresses only.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        if !*self.leaked.get_mut() {
            // SAFETY: the range is the one that was mapped, and whoever could still use it has said so by `leaked`.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
        }
    }
}
