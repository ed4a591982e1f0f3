//! Items on their way out of a lane.

#![allow(unsafe_code)] // owns items in memory that is not its own, as `vec::Drain` does

use std::marker::PhantomData;
use std::mem;
use std::ptr::{self, NonNull};

/// Items of one producer that lie side by side, on their way to the consumer.
///
/// Take them one by one (it is an iterator), look at them where they lie with [`as_slice`](Run::as_slice), or
/// move them all with [`append_to`](Run::append_to). What is not taken is dropped with the run.
pub struct Run<'a, T> {
    first: NonNull<T>,
    length: usize,
    _items: PhantomData<&'a mut [T]>,
}

impl<T> Run<'_, T> {
    /// # Safety
    /// `first` leads to `length` initialised items in a row, valid for `'a`, which the run takes over: whoever
    /// calls neither touches nor drops them again.
    pub(in crate::batch) unsafe fn new<'a>(first: NonNull<T>, length: usize) -> Run<'a, T> {
        Run { first, length, _items: PhantomData }
    }

    /// The items not yet taken. The fastest way to encode items that are plain values.
    #[must_use]
    #[inline]
    pub fn as_slice(&self) -> &[T] {
        // SAFETY: a run owns `length` initialised items from `first` on, for as long as it is borrowed.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.length) }
    }

    /// Moves all items to the end of `items`, by one copy of memory.
    #[inline]
    pub fn append_to(mut self, items: &mut Vec<T>) {
        items.reserve(self.length);
        let count = mem::take(&mut self.length);
        let end = items.spare_capacity_mut().as_mut_ptr().cast::<T>();
        // SAFETY: `reserve` made room for `count` items, and a run never lies inside a vector.
        unsafe { ptr::copy_nonoverlapping(self.first.as_ptr(), end, count) };
        // SAFETY: the items are initialised now, and the run, now of length zero, gave them up.
        unsafe { items.set_len(items.len() + count) };
    }
}

impl<T> Iterator for Run<'_, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        self.length = self.length.checked_sub(1)?;
        let item = self.first;
        // SAFETY: there was an item at `first`, so one past it is at most the end of the slots.
        self.first = unsafe { item.add(1) };
        // SAFETY: initialised, owned by this run, and from here on outside of it.
        Some(unsafe { item.read() })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.length, Some(self.length))
    }

    /// Drops those before it all at once, which is nothing to do where items need no drop.
    #[inline]
    fn nth(&mut self, n: usize) -> Option<T> {
        let skipped = n.min(self.length);
        let first = self.first;
        self.length -= skipped;
        // SAFETY: there are `skipped` items from `first` on, so this is at most the end of the slots.
        self.first = unsafe { first.add(skipped) };
        // SAFETY: initialised, owned by this run, and from here on outside of it, also if a drop panics.
        unsafe { ptr::slice_from_raw_parts_mut(first.as_ptr(), skipped).drop_in_place() };
        self.next()
    }
}

impl<T> ExactSizeIterator for Run<'_, T> {}

impl<T> std::fmt::Debug for Run<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run").field("items", &self.length).finish()
    }
}

impl<T> Drop for Run<'_, T> {
    fn drop(&mut self) {
        let rest = ptr::slice_from_raw_parts_mut(self.first.as_ptr(), self.length);
        // SAFETY: a run owns its items; those taken are no longer within it.
        unsafe { rest.drop_in_place() };
    }
}
