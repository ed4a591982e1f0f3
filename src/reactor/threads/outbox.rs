//! What the reactor and the handles of one connection share.

use super::mailbox::{Command, Mailbox};
use super::stream_handle::HandleError;
use crate::buf::{Payload, Spare};
use crate::reactor::socket::address::Address;
use crate::reactor::table::{ConnectionId, Id};
use parking_lot::{Condvar, Mutex, MutexGuard};
use slab::Slab;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Waker;
use std::time::Instant;

/// The shared part of a connection.
pub(crate) struct Remote {
    pub(super) connection: ConnectionId,
    pub(super) peer: Address,
    pub(super) local: Option<Address>,
    id: Id,
    mailbox: Arc<Mailbox>,
    /// What may wait here while the reactor has `soft` bytes of output, or more.
    limit: usize,
    soft: usize,
    /// Whether the outbox holds output. Written with the lock held; the reactor looks without it.
    has_output: AtomicBool,
    /// Output that the reactor has taken over and the kernel has not. Written by the reactor.
    output: AtomicUsize,
    outbox: Mutex<Outbox>,
    room: Condvar,
}

#[derive(Default)]
struct Outbox {
    payload: Payload,
    /// The reactor was told and has not looked yet.
    announced: bool,
    stage: Stage,
    wishes: Wishes,
    /// Tasks that wait for room, and how often they have been told since the beginning.
    wakers: Slab<Waker>,
    rounds: u64,
}

/// How much of its life a connection has behind it, as its handles see it: what they asked for has happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    #[default]
    Open,
    /// Nothing more is accepted.
    OutputEnded,
    Closing,
    /// The connection's number may soon be another's: the reactor is not to be told of it any more.
    Gone,
}

/// What handles ask of the reactor, besides output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::reactor) enum Wish {
    Notify,
    Pause,
    Resume,
    EndOutput,
    Close,
    Abort,
}

/// Wishes in the order in which they came. One of a kind is enough, so they need no memory.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::reactor) struct Wishes {
    list: [Option<Wish>; 6],
    next: usize,
}

impl Wishes {
    fn add(&mut self, wish: Wish) {
        if matches!(wish, Wish::Pause | Wish::Resume) {
            // Only the last word counts.
            self.remove(Wish::Pause);
            self.remove(Wish::Resume);
        }
        if !self.list.contains(&Some(wish)) {
            let end = self.list.iter().position(Option::is_none).expect("there is room for one of each kind");
            self.list[end] = Some(wish);
        }
    }

    fn remove(&mut self, wish: Wish) {
        if let Some(at) = self.list.iter().position(|other| *other == Some(wish)) {
            self.list[at] = None;
            self.list[at..].rotate_left(1);
        }
    }
}

impl Iterator for Wishes {
    type Item = Wish;

    fn next(&mut self) -> Option<Wish> {
        let wish = *self.list.get(self.next)?;
        self.next += 1;
        wish
    }
}

/// A task's place among those that wait for room. It must be [left](Remote::leave).
#[derive(Debug, Default)]
pub(super) struct Place(Option<(u64, usize)>);

impl Remote {
    pub(in crate::reactor) fn new(
        (id, connection): (Id, ConnectionId),
        mailbox: Arc<Mailbox>,
        (peer, local): (Address, Option<Address>),
        (limit, soft): (usize, usize),
    ) -> Self {
        Remote {
            connection,
            peer,
            local,
            id,
            mailbox,
            limit,
            soft,
            has_output: AtomicBool::new(false),
            output: AtomicUsize::new(0),
            outbox: Mutex::default(),
            room: Condvar::new(),
        }
    }

    // For handles.

    /// Accepts `len` bytes, which `append` adds, if there is room.
    pub(super) fn try_put(&self, len: usize, append: impl FnOnce(&mut Payload)) -> Result<(), HandleError> {
        let mut outbox = self.outbox.lock();
        self.check_room(&outbox, len)?;
        self.put(&mut outbox, append)
    }

    /// The same; waits for room until `deadline`, if there is one.
    pub(super) fn put_or_wait(
        &self,
        len: usize,
        deadline: Option<Instant>,
        append: impl FnOnce(&mut Payload),
    ) -> Result<(), HandleError> {
        let mut outbox = self.outbox.lock();
        let mut timed_out = false;
        while let Err(refusal) = self.check_room(&outbox, len) {
            match (refusal, deadline) {
                (HandleError::Full { .. }, None) => self.room.wait(&mut outbox),
                (HandleError::Full { .. }, Some(_)) if timed_out => return Err(HandleError::TimedOut),
                (HandleError::Full { .. }, Some(deadline)) => {
                    timed_out = self.room.wait_until(&mut outbox, deadline).timed_out();
                }
                (refusal, _) => return Err(refusal),
            }
        }
        self.put(&mut outbox, append)
    }

    /// The same; without room, `waker` is woken when there may be some.
    pub(super) fn put_or_register(
        &self,
        len: usize,
        (place, waker): (&mut Place, &Waker),
        append: impl FnOnce(&mut Payload),
    ) -> Result<(), HandleError> {
        let mut outbox = self.outbox.lock();
        let result = self.check_room(&outbox, len);
        if matches!(result, Err(HandleError::Full { .. })) {
            outbox.register(place, waker);
        }
        result.and_then(|()| self.put(&mut outbox, append))
    }

    /// Whether there is room; if not, `waker` is woken when there may be some.
    pub(super) fn wait_for_room(
        &self,
        len: usize,
        place: &mut Place,
        waker: &Waker,
    ) -> Result<(), HandleError> {
        let mut outbox = self.outbox.lock();
        let result = self.check_room(&outbox, len);
        if matches!(result, Err(HandleError::Full { .. })) {
            outbox.register(place, waker);
        }
        result
    }

    /// To be called before a place is dropped.
    pub(super) fn leave(&self, place: &mut Place) {
        if place.0.is_some() {
            let waker = self.outbox.lock().leave(place);
            // Behind the lock: dropping it may do anything.
            drop(waker);
        }
    }

    fn check_room(&self, outbox: &Outbox, len: usize) -> Result<(), HandleError> {
        if outbox.stage >= Stage::OutputEnded {
            return Err(HandleError::Closed);
        }
        // What is larger than the limit is let through alone, or it could never be.
        if outbox.payload.is_empty() || len <= self.room_behind(outbox.payload.len()) {
            return Ok(());
        }
        self.mailbox.count_refused_write();
        Err(HandleError::Full { limit: self.limit })
    }

    /// What would be accepted behind so many bytes. The reactor will take over up to its own limit as soon as it looks:
    /// only what is beyond that has to wait for the peer.
    fn room_behind(&self, waiting: usize) -> usize {
        let taken_at_once = self.soft.saturating_sub(self.output.load(Ordering::Relaxed));
        self.limit.saturating_add(taken_at_once).saturating_sub(waiting)
    }

    fn put(&self, outbox: &mut Outbox, append: impl FnOnce(&mut Payload)) -> Result<(), HandleError> {
        append(&mut outbox.payload);
        self.has_output.store(!outbox.payload.is_empty(), Ordering::Release);
        self.announce(outbox)
    }

    pub(super) fn wish(&self, wish: Wish) -> Result<(), HandleError> {
        let mut outbox = self.outbox.lock();
        let (stage, fulfilled) = match wish {
            Wish::EndOutput => (Stage::OutputEnded, outbox.stage >= Stage::OutputEnded),
            Wish::Close => (Stage::Closing, outbox.stage >= Stage::Closing),
            Wish::Abort => (Stage::Closing, outbox.stage == Stage::Gone),
            Wish::Notify | Wish::Pause | Wish::Resume if outbox.stage >= Stage::Closing => {
                return Err(HandleError::Closed);
            }
            Wish::Notify | Wish::Pause | Wish::Resume => (outbox.stage, false),
        };
        if fulfilled {
            return Ok(());
        }
        outbox.wishes.add(wish);
        let advances = outbox.stage < stage;
        outbox.stage = outbox.stage.max(stage);
        let announced = self.announce(&mut outbox);
        if advances {
            self.tell_waiting(outbox);
        }
        announced
    }

    fn announce(&self, outbox: &mut Outbox) -> Result<(), HandleError> {
        if !std::mem::replace(&mut outbox.announced, true) {
            self.mailbox.post(Command::Look(self.id)).map_err(|_| HandleError::Closed)?;
        }
        Ok(())
    }

    pub(super) fn is_closed(&self) -> bool {
        self.outbox.lock().stage >= Stage::Closing
    }

    pub(super) fn pending(&self) -> usize {
        let outbox = self.outbox.lock();
        outbox.payload.len() + self.output.load(Ordering::Relaxed)
    }

    pub(super) fn room(&self) -> usize {
        let outbox = self.outbox.lock();
        if outbox.stage >= Stage::OutputEnded { 0 } else { self.room_behind(outbox.payload.len()) }
    }

    // For the reactor.

    /// Bytes that were written and not taken over yet.
    pub(in crate::reactor) fn outbox_len(&self) -> usize {
        if self.has_output() { self.outbox.lock().payload.len() } else { 0 }
    }

    /// The reactor has been told to look, and does.
    /// Keeps what cannot be fulfilled yet; whoever can will ask.
    pub(in crate::reactor) fn keep_wish(&self, wish: Wish) {
        self.outbox.lock().wishes.add(wish);
    }

    pub(in crate::reactor) fn take_wishes(&self) -> Wishes {
        let mut outbox = self.outbox.lock();
        outbox.announced = false;
        std::mem::take(&mut outbox.wishes)
    }

    /// Whether there is output to take over. Without a lock: what comes in the next moment is announced.
    pub(in crate::reactor) fn has_output(&self) -> bool {
        self.has_output.load(Ordering::Acquire)
    }

    /// Refuses output from now on. What was accepted before is still to be collected.
    pub(in crate::reactor) fn refuse_output(&self) {
        self.advance(Stage::OutputEnded);
    }

    /// Refuses everything from now on but to be aborted. What was accepted before is still to be collected.
    pub(in crate::reactor) fn refuse_all(&self) {
        self.advance(Stage::Closing);
    }

    fn advance(&self, stage: Stage) {
        let mut outbox = self.outbox.lock();
        outbox.stage = outbox.stage.max(stage);
        self.tell_waiting(outbox);
    }

    /// The connection has ended; what was not taken over is lost.
    pub(in crate::reactor) fn end(&self) {
        let mut outbox = self.outbox.lock();
        outbox.stage = Stage::Gone;
        outbox.wishes = Wishes::default();
        let lost = std::mem::take(&mut outbox.payload);
        self.has_output.store(false, Ordering::Release);
        self.output.store(0, Ordering::Relaxed);
        self.tell_waiting(outbox);
        drop(lost);
    }

    /// So much output waits for the kernel. To be called whenever that has changed.
    pub(in crate::reactor) fn set_output(&self, bytes: usize) {
        if self.output.load(Ordering::Relaxed) != bytes {
            self.output.store(bytes, Ordering::Relaxed);
        }
    }

    /// Takes over what was written.
    pub(in crate::reactor) fn collect(&self, out: &mut Payload, spare: &mut Spare) {
        if !self.has_output() {
            return;
        }
        let mut outbox = self.outbox.lock();
        let mut taken = std::mem::take(&mut outbox.payload);
        self.has_output.store(false, Ordering::Release);
        self.output.store(out.len() + taken.len(), Ordering::Relaxed);
        self.tell_waiting(outbox);
        // Without the lock, for this may copy. And the outbox is left with no memory at all: there are as many as there are
        // connections, and the reactor has better use for it.
        out.append(&mut taken);
        spare.give_payload(taken);
    }

    /// There may be room, or there never will be.
    fn tell_waiting(&self, mut outbox: MutexGuard<'_, Outbox>) {
        let wakers = outbox.take_wakers();
        drop(outbox);
        self.room.notify_all();
        for (_, waker) in wakers {
            // Somebody else's code. That it panics is nothing to the reactor, nor to those who come behind.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| waker.wake())) {
                // Its end might panic as well.
                std::mem::forget(panic);
            }
        }
    }
}

impl Outbox {
    fn register(&mut self, place: &mut Place, waker: &Waker) {
        match place.0.filter(|(round, _)| *round == self.rounds) {
            Some((_, key)) => self.wakers[key].clone_from(waker),
            None => place.0 = Some((self.rounds, self.wakers.insert(waker.clone()))),
        }
    }

    /// Gives up a place, unless it was given up for the task when it was told.
    fn leave(&mut self, place: &mut Place) -> Option<Waker> {
        let (round, key) = place.0.take()?;
        (round == self.rounds).then(|| self.wakers.remove(key))
    }

    fn take_wakers(&mut self) -> Slab<Waker> {
        if self.wakers.is_empty() {
            return Slab::new();
        }
        self.rounds += 1;
        std::mem::take(&mut self.wakers)
    }
}
