//! A lane: a bounded queue with one writer and one reader, the only place where items cross threads.
//!
//! A ring of slots with two counters that only grow. It starts small and is replaced by a larger one when the
//! writer outruns the reader, so that a thousand idle producers cost little; the writer links the new ring
//! behind the old one and the reader moves over when it gets there. Items are not copied on the way.

#![allow(unsafe_code)] // hand-over of uninitialised slots between two threads

use std::cell::UnsafeCell;
use std::mem::{self, MaybeUninit};
use std::ptr::{self, NonNull};

use crossbeam_utils::CachePadded;

use super::Room;
use super::run::Run;
use super::weight::Weights;
use crate::batch::sync::{Arc, AtomicBool, AtomicPtr, AtomicUsize, Mutex, Ordering};
use crate::batch::wait::list::WaitList;

/// Slots of a new lane, unless its capacity is smaller.
const FIRST_SLOTS: usize = if cfg!(loom) { 1 } else { 64 };
/// How much larger the next ring is.
const GROWTH: usize = 4;

/// A new lane for at most `capacity` items, which is a power of two, and at most `bytes` of them if that is said.
pub(crate) fn lane<T>(capacity: usize, bytes: Option<usize>) -> (Writer<T>, Reader<T>) {
    assert!(capacity.is_power_of_two());
    let slots = capacity.min(FIRST_SLOTS);
    let first = NonNull::from(Box::leak(Ring::new(slots)));
    let lane = Arc::new(Lane {
        written: CachePadded::new(Written { tail: AtomicUsize::new(0), ended: AtomicBool::new(false) }),
        head: CachePadded::new(AtomicUsize::new(0)),
        waiters: WaitList::new(),
        alarm: AtomicUsize::new(0),
        sealed: Mutex::new(None),
        oldest: AtomicPtr::new(first.as_ptr()),
        capacity,
    });
    let writer = Writer::new(Arc::clone(&lane), first, bytes.map(|bytes| Weights::new(bytes, slots)));
    (writer, Reader { lane, ring: first, head: 0, sealed: None, mark: 0 })
}

/// What both ends share.
pub(crate) struct Lane<T> {
    written: CachePadded<Written>,
    /// Items before this one have been taken. Stored by the reader only.
    head: CachePadded<AtomicUsize>,
    /// Those who wait for space.
    pub(in crate::batch) waiters: WaitList,
    /// While the reader lingers: it wants to be woken when `tail` has come here. Stored by the reader only.
    alarm: AtomicUsize,
    /// Where the reader stops for good; what is written from there on is the writer's to take back.
    sealed: Mutex<Option<usize>>,
    /// The ring that holds `head`. Stored by the reader; here so that the last owner finds what to free.
    oldest: AtomicPtr<Ring<T>>,
    capacity: usize,
}

/// Stored by the writer only.
struct Written {
    /// Items before this one have been written.
    tail: AtomicUsize,
    /// The writer is gone, `tail` is final.
    ended: AtomicBool,
}

// SAFETY: the slots of a ring are written by the one `Writer` and read by the one `Reader`, each slot by one
// of them at a time: `tail` hands it over in one direction, `head` in the other. Items move between threads,
// references to them do not, hence `T: Send` is enough.
unsafe impl<T: Send> Sync for Lane<T> {}
// SAFETY: as above; the raw pointer in `oldest` is owned.
unsafe impl<T: Send> Send for Lane<T> {}

impl<T> Lane<T> {
    pub(crate) fn len(&self) -> usize {
        let head = self.head.load(Ordering::Acquire);
        self.written.tail.load(Ordering::Acquire).wrapping_sub(head)
    }

    /// Whether so many items were written that a reader who lingers is to be woken.
    pub(crate) fn is_due(&self) -> bool {
        let tail = self.written.tail.load(Ordering::Relaxed);
        tail.wrapping_sub(self.alarm.load(Ordering::Relaxed)).cast_signed() >= 0
    }

    /// Enough space that waking those who wait for it is worth a context switch.
    pub(crate) fn is_roomy(&self) -> bool {
        self.len() <= self.capacity / 2
    }
}

impl<T> Drop for Lane<T> {
    fn drop(&mut self) {
        let mut head = self.head.load(Ordering::Relaxed);
        let tail = self.written.tail.load(Ordering::Relaxed);
        let mut ring = NonNull::new(self.oldest.load(Ordering::Relaxed));
        while let Some(current) = ring {
            // SAFETY: rings are leaked boxes, freed by the reader only after `oldest` moved past them; nobody
            // else holds the lane any more.
            let current = unsafe { Box::from_raw(current.as_ptr()) };
            while let Some((items, count)) = current.contiguous(head, tail) {
                // SAFETY: slots between `head` and `tail` are initialised and nobody will read them again.
                unsafe { ptr::slice_from_raw_parts_mut(items.as_ptr(), count).drop_in_place() };
                head = head.wrapping_add(count);
            }
            ring = NonNull::new(current.next.load(Ordering::Relaxed));
        }
    }
}

struct Ring<T> {
    /// The first item that it holds; earlier ones are in earlier rings.
    start: usize,
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
    /// The larger ring that follows, null while this one is the newest.
    next: AtomicPtr<Ring<T>>,
    #[cfg(loom)]
    track: Box<[loom::cell::UnsafeCell<()>]>,
}

impl<T> Ring<T> {
    fn new(slots: usize) -> Box<Self> {
        Box::new(Self {
            start: 0,
            slots: (0..slots).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect(),
            next: AtomicPtr::new(ptr::null_mut()),
            #[cfg(loom)]
            track: (0..slots).map(|_| loom::cell::UnsafeCell::new(())).collect(),
        })
    }

    fn base(&self) -> *mut T {
        UnsafeCell::raw_get(self.slots.as_ptr()).cast()
    }

    fn mask(&self) -> usize {
        self.slots.len() - 1
    }

    fn next(&self) -> Option<NonNull<Self>> {
        NonNull::new(self.next.load(Ordering::Acquire))
    }

    /// The items from `head` on that lie side by side in this ring, before `tail` and before the next ring's.
    fn contiguous(&self, head: usize, tail: usize) -> Option<(NonNull<T>, usize)> {
        let mut count = tail.wrapping_sub(head);
        if let Some(next) = self.next() {
            // SAFETY: a ring outlives its predecessor, which is borrowed here.
            let start = unsafe { next.as_ref() }.start;
            count = count.min(start.wrapping_sub(head));
        }
        let offset = head & self.mask();
        count = count.min(self.slots.len() - offset);
        let first = NonNull::new(self.base().wrapping_add(offset))?;
        (count > 0).then_some((first, count))
    }

    /// Under loom, tells the model that the slots are read or written now.
    #[inline(always)]
    fn track(&self, _index: usize, _count: usize) {
        #[cfg(loom)]
        for index in _index.._index.wrapping_add(_count) {
            self.track[index & self.mask()].with_mut(|_| ());
        }
    }
}

/// The writing end.
pub(crate) struct Writer<T> {
    lane: Arc<Lane<T>>,
    /// The newest ring, and its parts that every write needs.
    ring: NonNull<Ring<T>>,
    slots: *mut T,
    mask: usize,
    tail: usize,
    /// `tail` may grow up to here without another look at the reader's `head`.
    limit: usize,
    /// What the items weigh, where that is bounded. Then `limit` is `tail` before each item, so that each comes by here.
    weights: Option<Box<Weights>>,
}

// SAFETY: the pointers lead into rings that the lane owns; see `Lane`.
unsafe impl<T: Send> Send for Writer<T> {}

/// What a lane grows by. Made and dropped by whoever holds no lock.
pub(crate) struct Growth<T> {
    ring: Option<Box<Ring<T>>>,
    weights: Weights,
}

impl<T> Growth<T> {
    pub(crate) fn new(slots: usize) -> Self {
        Self { ring: Some(Ring::new(slots)), weights: Weights::new(0, slots) }
    }

    pub(crate) fn has(&self, slots: usize) -> bool {
        self.ring.as_ref().is_some_and(|ring| ring.slots.len() == slots)
    }
}

impl<T> Writer<T> {
    fn new(lane: Arc<Lane<T>>, ring: NonNull<Ring<T>>, weights: Option<Weights>) -> Self {
        let weights = weights.map(Box::new);
        let mut writer = Self { lane, ring, slots: ptr::null_mut(), mask: 0, tail: 0, limit: 0, weights };
        writer.enter(ring);
        writer
    }

    pub(crate) fn lane(&self) -> &Arc<Lane<T>> {
        &self.lane
    }

    /// Hands an item over, or back when there is no room that [`make_room`](Self::make_room) knows of.
    #[inline(always)]
    pub(crate) fn try_write(&mut self, item: T) -> Result<(), T> {
        if self.tail == self.limit {
            return Err(item);
        }
        self.ring().track(self.tail, 1);
        let slot = self.slots.wrapping_add(self.tail & self.mask);
        // SAFETY: `limit` is within one ring's length of the reader's head, so that nobody reads this slot;
        // the ring is the newest, which only the lane's drop frees.
        unsafe { slot.write(item) };
        self.tail = self.tail.wrapping_add(1);
        self.lane.written.tail.store(self.tail, Ordering::Release);
        Ok(())
    }

    /// Learns how far the reader is, and whether an item that weighs so much can be written now: the next one is.
    pub(crate) fn make_room(&mut self, weight: usize) -> Room {
        let head = self.lane.head.load(Ordering::Acquire);
        if let Some(weights) = &mut self.weights
            && !weights.admit(weight, head)
        {
            return Room::Full;
        }
        let room = self.lane.capacity - self.tail.wrapping_sub(head);
        let slots = self.mask + 1;
        let used = self.tail.wrapping_sub(head).min(self.tail.wrapping_sub(self.ring().start));
        let free = room.min(slots - used);
        if free == 0 {
            let grows = room > 0 && slots < self.lane.capacity;
            return if grows { Room::Grow((slots * GROWTH).min(self.lane.capacity)) } else { Room::Full };
        }
        self.limit = match &mut self.weights {
            Some(weights) => {
                weights.add(weight);
                self.tail.wrapping_add(1)
            }
            None => self.tail.wrapping_add(free),
        };
        Room::Ready
    }

    /// Goes on to a larger ring. What is left in `growth` then is for the caller to drop.
    pub(crate) fn grow(&mut self, growth: &mut Growth<T>) {
        let Some(mut ring) = growth.ring.take() else { return };
        ring.start = self.tail;
        let next = NonNull::from(Box::leak(ring));
        self.ring().next.store(next.as_ptr(), Ordering::Release);
        self.enter(next);
        if let Some(weights) = &mut self.weights {
            weights.move_to(&mut growth.weights);
        }
    }

    /// Says that nothing will follow.
    pub(crate) fn end(&mut self) {
        self.lane.written.ended.store(true, Ordering::Release);
    }

    /// Takes the last item back if it was written behind the seal, where nobody reads it.
    pub(crate) fn revoke(&mut self) -> Option<T> {
        let sealed = (*self.lane.sealed.lock())?;
        if self.tail == sealed {
            return None;
        }
        self.tail = self.tail.wrapping_sub(1);
        self.lane.written.tail.store(self.tail, Ordering::Relaxed);
        if let Some(weights) = &mut self.weights {
            weights.take_back();
        }
        let slot = self.slots.wrapping_add(self.tail & self.mask);
        // SAFETY: written by the call before, into the newest ring; the reader never passes the seal.
        Some(unsafe { slot.read() })
    }

    fn enter(&mut self, ring: NonNull<Ring<T>>) {
        self.ring = ring;
        self.slots = self.ring().base();
        self.mask = self.ring().mask();
    }

    fn ring(&self) -> &Ring<T> {
        // SAFETY: the newest ring is freed by the lane's drop only, and `self.lane` keeps the lane.
        unsafe { self.ring.as_ref() }
    }
}

impl<T> Drop for Writer<T> {
    fn drop(&mut self) {
        self.end();
    }
}

/// The reading end.
pub(crate) struct Reader<T> {
    lane: Arc<Lane<T>>,
    /// The ring that holds `head`.
    ring: NonNull<Ring<T>>,
    head: usize,
    sealed: Option<usize>,
    /// Where the lane ended when somebody asked to be told that everything before is dealt with.
    mark: usize,
}

// SAFETY: the pointer leads into rings that the lane owns; see `Lane`.
unsafe impl<T: Send> Send for Reader<T> {}

impl<T> Reader<T> {
    pub(crate) fn lane(&self) -> &Lane<T> {
        &self.lane
    }

    /// As [`Lane::is_due`], as the reader knows what was written.
    pub(crate) fn is_due(&self) -> bool {
        self.end().wrapping_sub(self.lane.alarm.load(Ordering::Relaxed)).cast_signed() >= 0
    }

    /// Items that can be taken now.
    pub(crate) fn pending(&self) -> usize {
        self.end().wrapping_sub(self.head)
    }

    /// Nothing is left, and nothing will come.
    pub(crate) fn is_exhausted(&self) -> bool {
        // In this order: what was written before the end is visible once the end is.
        (self.lane.written.ended.load(Ordering::Acquire) || self.sealed.is_some()) && self.pending() == 0
    }

    /// Has the writer wake a reader who lingers once `more` items were written behind the `pending` ones that were looked at, or
    /// half of the lane is full.
    pub(crate) fn set_alarm(&mut self, pending: usize, more: usize) {
        let half = self.lane.capacity.div_ceil(2);
        let length = pending.saturating_add(more).min(half);
        self.lane.alarm.store(self.head.wrapping_add(length), Ordering::Relaxed);
    }

    /// Remembers where the lane ends now.
    pub(crate) fn set_mark(&mut self) {
        self.mark = self.end();
    }

    /// Whether everything before the mark was taken.
    pub(crate) fn is_past_mark(&self) -> bool {
        self.mark.wrapping_sub(self.head).cast_signed() <= 0
    }

    /// From now on the lane ends where it ends now; a writer takes back what it writes behind that.
    pub(crate) fn seal(&mut self) {
        let mut sealed = self.lane.sealed.lock();
        let tail = self.lane.written.tail.load(Ordering::Acquire);
        self.sealed = Some(*sealed.get_or_insert(tail));
    }

    /// Hands out at most `max` items, in order, as runs that lie side by side in memory.
    pub(crate) fn drain_runs(&mut self, max: usize, f: &mut impl FnMut(Run<'_, T>)) -> usize {
        let count = self.pending().min(max);
        let end = self.head.wrapping_add(count);
        while self.head != end {
            match self.ring().contiguous(self.head, end) {
                Some((first, length)) => {
                    self.ring().track(self.head, length);
                    // The guard frees the slots when `f` is done with them, also when it panics.
                    let _taken = Taken { reader: self, length };
                    // SAFETY: written and published by the writer, which does not touch these slots until the
                    // guard frees them, after `f`; `head` passes each item once.
                    f(unsafe { Run::new(first, length) });
                }
                None => self.advance(),
            }
        }
        count
    }

    /// Goes on to the next ring; the one it leaves has been read to its end.
    fn advance(&mut self) {
        let Some(next) = self.ring().next() else { unreachable!("items behind the end of the newest ring") };
        self.lane.oldest.store(next.as_ptr(), Ordering::Relaxed);
        let old = mem::replace(&mut self.ring, next);
        // SAFETY: a leaked box; the writer left it when it linked the next one, which happened before.
        drop(unsafe { Box::from_raw(old.as_ptr()) });
    }

    #[inline]
    fn end(&self) -> usize {
        self.sealed.unwrap_or_else(|| self.lane.written.tail.load(Ordering::Acquire))
    }

    fn ring(&self) -> &Ring<T> {
        // SAFETY: only `advance` and the lane's drop free a ring, and `self.lane` keeps the lane.
        unsafe { self.ring.as_ref() }
    }
}

struct Taken<'a, T> {
    reader: &'a mut Reader<T>,
    length: usize,
}

impl<T> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        self.reader.head = self.reader.head.wrapping_add(self.length);
        self.reader.lane.head.store(self.reader.head, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::rc::Rc;

    /// As a producer does.
    fn write<T>(writer: &mut Writer<T>, item: T, weight: usize) -> Result<(), T> {
        let item = match writer.try_write(item) {
            Ok(()) => return Ok(()),
            Err(item) => item,
        };
        loop {
            match writer.make_room(weight) {
                Room::Ready => return writer.try_write(item),
                Room::Grow(slots) => writer.grow(&mut Growth::new(slots)),
                Room::Full => return Err(item),
            }
        }
    }

    fn take<T>(reader: &mut Reader<T>, max: usize) -> Vec<T> {
        let mut items = Vec::new();
        reader.drain_runs(max, &mut |run| run.append_to(&mut items));
        items
    }

    #[test]
    fn holds_its_capacity_and_not_more() {
        for capacity in [1, 2, 64, 128, 1024] {
            let (mut writer, mut reader) = lane(capacity, None);
            for round in 0..3 {
                let written = (0..).take_while(|item| write(&mut writer, *item, 0).is_ok()).count();
                assert_eq!(written, capacity, "round {round}");
                assert_eq!(take(&mut reader, usize::MAX), (0..capacity).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn keeps_order_across_growth_and_wrap_around() {
        let (mut writer, mut reader) = lane(1024, None);
        let (mut written, mut taken) = (0, Vec::new());
        for step in 1..200 {
            for _ in 0..step * 7 % 300 {
                if write(&mut writer, written, 0).is_ok() {
                    written += 1;
                }
            }
            taken.append(&mut take(&mut reader, step * 5 % 210));
        }
        taken.append(&mut take(&mut reader, usize::MAX));
        assert!(written > 10_000);
        assert_eq!(taken, (0..written).collect::<Vec<_>>());
    }

    #[test]
    fn drops_what_nobody_took() {
        let item = Rc::new(());
        let (mut writer, mut reader) = lane(512, None);
        for _ in 0..400 {
            write(&mut writer, Rc::clone(&item), 0).unwrap();
        }
        assert_eq!(take(&mut reader, 70).len(), 70); // into the second ring
        assert_eq!(Rc::strong_count(&item), 331);
        drop((writer, reader));
        assert_eq!(Rc::strong_count(&item), 1);
    }

    #[test]
    fn a_run_skips_items_and_drops_them_once() {
        for skipped in 0..10 {
            let items: Vec<Rc<usize>> = (0..8).map(Rc::new).collect();
            let (mut writer, mut reader) = lane(8, None);
            for item in &items {
                write(&mut writer, Rc::clone(item), 0).unwrap();
            }
            let (mut rest, mut alive) = (Vec::new(), 0);
            reader.drain_runs(8, &mut |mut run| {
                rest.extend(run.nth(skipped));
                alive = items.iter().filter(|item| Rc::strong_count(item) > 1).count();
                rest.extend(run);
            });
            assert_eq!(rest.iter().map(|item| **item).collect::<Vec<_>>(), (skipped..8).collect::<Vec<_>>());
            assert_eq!(alive, 8_usize.saturating_sub(skipped), "those before it are dropped");
            drop(rest);
            assert!(items.iter().all(|item| Rc::strong_count(item) == 1));
        }
    }

    #[test]
    fn a_run_drops_the_rest_of_its_items() {
        let item = Rc::new(());
        let (mut writer, mut reader) = lane(8, None);
        for _ in 0..8 {
            write(&mut writer, Rc::clone(&item), 0).unwrap();
        }
        reader.drain_runs(8, &mut |mut run| {
            assert_eq!((run.len(), run.as_slice().len()), (8, 8));
            run.next();
            assert_eq!(run.as_slice().len(), 7);
        });
        assert_eq!(Rc::strong_count(&item), 1);
    }

    #[test]
    fn a_panic_while_taking_neither_repeats_nor_leaks_items() {
        let item = Rc::new(());
        let (mut writer, mut reader) = lane(8, None);
        for _ in 0..8 {
            write(&mut writer, Rc::clone(&item), 0).unwrap();
        }
        let taking = AssertUnwindSafe(|| reader.drain_runs(5, &mut |_| panic!("on purpose")));
        assert!(catch_unwind(taking).is_err());
        assert_eq!((reader.pending(), Rc::strong_count(&item)), (3, 4));
        assert_eq!(take(&mut reader, 8).len(), 3);
    }

    #[test]
    fn an_item_behind_the_seal_is_taken_back() {
        let (mut writer, mut reader) = lane(128, None);
        for item in 0..64 {
            write(&mut writer, item, 0).unwrap();
        }
        assert_eq!(writer.revoke(), None, "no seal yet");
        reader.seal();
        assert_eq!(writer.revoke(), None, "in front of the seal");
        write(&mut writer, 64, 0).unwrap(); // in a new ring
        assert_eq!(writer.revoke(), Some(64));
        assert_eq!(take(&mut reader, usize::MAX), (0..64).collect::<Vec<_>>());
        assert!(reader.is_exhausted());
    }

    #[test]
    fn a_lane_that_weighs_holds_its_bytes_and_not_more() {
        let (mut writer, mut reader) = lane(1024, Some(1000));
        for round in 0..3 {
            let written = (0..).take_while(|item| write(&mut writer, *item, 10).is_ok()).count();
            assert_eq!(written, 100, "round {round}: across rings");
            assert!(write(&mut writer, 100, 0).is_ok(), "what weighs nothing finds room");
            assert!(write(&mut writer, 101, 1).is_err());
            assert_eq!(take(&mut reader, 30).len(), 30);
            assert!(write(&mut writer, 101, 301).is_err());
            write(&mut writer, 101, 300).unwrap();
            assert_eq!(take(&mut reader, usize::MAX), (30..102).collect::<Vec<_>>());
            write(&mut writer, 0, usize::MAX).unwrap();
            assert!(write(&mut writer, 1, 1).is_err(), "a large one goes alone");
            assert_eq!(take(&mut reader, usize::MAX), [0]);
        }
        // By count as well.
        assert_eq!((0..2000).take_while(|item| write(&mut writer, *item, 0).is_ok()).count(), 1024);
        // And what was taken back weighs nothing.
        let (mut writer, mut reader) = lane(8, Some(10));
        reader.seal();
        write(&mut writer, 1, 10).unwrap();
        assert_eq!(writer.revoke(), Some(1));
        assert_eq!(writer.make_room(10), Room::Ready);
    }

    #[test]
    fn a_mark_is_passed_when_what_was_before_it_is_taken() {
        let (mut writer, mut reader) = lane(8, None);
        assert!(reader.is_past_mark());
        (0..3).for_each(|item| write(&mut writer, item, 0).unwrap());
        reader.set_mark();
        write(&mut writer, 3, 0).unwrap();
        for (taken, past) in [(0, false), (2, false), (1, true), (1, true)] {
            assert_eq!(take(&mut reader, taken).len(), taken);
            assert_eq!(reader.is_past_mark(), past);
        }
    }

    #[test]
    fn items_without_size_are_counted() {
        let (mut writer, mut reader) = lane(4, None);
        assert_eq!((0..9).filter(|_| write(&mut writer, (), 0).is_ok()).count(), 4);
        assert_eq!(take(&mut reader, 3).len(), 3);
        assert_eq!(reader.pending(), 1);
    }
}
