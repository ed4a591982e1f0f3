//! The way in for calls and for what is pushed through the client: a batcher, a waiting room behind it, and how it ended.
//!
//! Who finds no room in the batcher's lanes and must not block its thread waits in the waiting room *with the request*, and so does
//! everybody who comes then, until the reactor has taken them all: so the requests of one thread keep their order, nobody is woken
//! in vain, and who gives up takes the request along. What lies there is bounded by those who wait: a call holds its request either
//! way, and a push does not return before its turn.
//!
//! A thread that may block waits at its lane instead, unless a request of its own could be in the waiting room: a lane with room again
//! takes many requests of a thread for each time that it is woken, the waiting room one.

use super::call::deadlines::Deadlines;
use super::call::state::{CallState, Pending, Promise};
use super::end::End;
use super::target::Target;
use super::waiters::{Admission, Waiters};
use crate::batch::{Batcher, PushError};
use crate::rpc::{CallError, Callback, SendError};
use crate::waiting;
use parking_lot::{Condvar, Mutex};
use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What a client, its calls and its connection share.
pub(in crate::rpc) struct Gate<Req, Res> {
    pub(super) queue: Batcher<Pending<Req, Res>>,
    pub(super) deadlines: Arc<Deadlines<Res>>,
    pub(super) target: Arc<Target>,
    pub(super) room: Mutex<WaitingRoom<Req, Res>>,
    /// Somebody is in the waiting room: others go there as well.
    pub(super) crowded: AtomicBool,
    /// Somebody wants to hear of room.
    pub(super) wanted: AtomicBool,
    pub(super) end: Mutex<End<Req>>,
    pub(super) ended: Condvar,
    pub(super) close_timeout: Duration,
}

/// A place in the waiting room.
pub(in crate::rpc) type Ticket = u64;

pub(super) struct WaitingRoom<Req, Res> {
    pub(super) waiting: BTreeMap<Ticket, Waiting<Req, Res>>,
    pub(super) next: Ticket,
    /// To be called when there is room.
    pub(super) actions: VecDeque<Box<dyn FnOnce() + Send>>,
    /// Nobody will look here any more.
    pub(super) closed: bool,
}

/// A request in the waiting room, and whoever waits for its turn.
pub(super) type Waiting<Req, Res> = (Pending<Req, Res>, Option<Arc<Admission<Req>>>);

/// A push that waits for its turn.
pub(in crate::rpc) type Place<Req> = (Ticket, Arc<Admission<Req>>);

/// Of those who want to hear of room, as many are told at a time.
const TOLD_AT_A_TIME: usize = 64;

impl<Req: Send + 'static, Res: Send + 'static> Gate<Req, Res> {
    pub(in crate::rpc) fn new(
        queue: Batcher<Pending<Req, Res>>,
        deadlines: Arc<Deadlines<Res>>,
        target: Arc<Target>,
        close_timeout: Duration,
    ) -> Arc<Self> {
        let room = WaitingRoom { waiting: BTreeMap::new(), next: 0, actions: VecDeque::new(), closed: false };
        Arc::new(Gate {
            queue,
            deadlines,
            target,
            room: Mutex::new(room),
            crowded: AtomicBool::new(false),
            wanted: AtomicBool::new(false),
            end: Mutex::new(End { outcome: None, unsent: Vec::new(), waiters: Waiters::default() }),
            ended: Condvar::new(),
            close_timeout,
        })
    }

    pub(in crate::rpc) fn target(&self) -> &Arc<Target> {
        &self.target
    }

    pub(in crate::rpc) fn deadlines(&self) -> &Arc<Deadlines<Res>> {
        &self.deadlines
    }

    // The way in.

    /// Takes a call in, always: at once, or into the waiting room.
    pub(in crate::rpc) fn enter(&self, request: Req, promise: Promise<Res>) -> Option<Ticket> {
        let pending = match self.try_enter(Pending { request, promise }) {
            Ok(()) => return None,
            Err(PushError::Full(pending)) => pending,
            Err(refused) => return self.refuse(refused.into_item()),
        };
        match self.wait_with(pending, None) {
            Ok(ticket) => Some(ticket),
            Err(pending) => self.refuse(pending),
        }
    }

    fn refuse(&self, pending: Pending<Req, Res>) -> Option<Ticket> {
        pending.promise.fail(CallError::NotSent(self.cause_of_end()));
        None
    }

    /// Makes a request for a callback. Waits while there is no room, if it may.
    pub(in crate::rpc) fn send(
        &self,
        request: Req,
        callback: Callback<Res>,
        timeout: Option<Duration>,
        waits: bool,
    ) -> Result<(), SendError<Req, Res>> {
        if waits && waiting::is_forbidden() {
            return Err(SendError { request, callback, full: false });
        }
        let state = CallState::new(Some(callback));
        let pending = Pending { request, promise: Promise::of(&state) };
        let deadline = timeout.and_then(|after| Instant::now().checked_add(after));
        let mut admission = None;
        let mut entered = self.try_enter(pending);
        if waits && let Err(refused) = entered {
            entered = self.wait_at_lane(refused, deadline);
        }
        match entered {
            Ok(()) => {}
            Err(PushError::Full(pending)) if !waits => {
                let (request, callback) = (give_back(pending), state.take_callback());
                let callback = callback.expect("nobody has called it: the call was never accepted");
                return Err(SendError { request, callback, full: true });
            }
            Err(PushError::Full(pending)) if deadline.is_some_and(|deadline| deadline <= Instant::now()) => {
                // It waited at its lane, in vain: it need not send others to the waiting room.
                state.time_out();
                drop(pending);
                return Ok(());
            }
            Err(PushError::Full(pending)) => {
                let admitted = Arc::new(Admission::default());
                match self.wait_with(pending, Some(admitted.clone())) {
                    Ok(ticket) => admission = Some((ticket, admitted)),
                    Err(pending) => drop(self.refuse(pending)),
                }
            }
            Err(refused) => drop(self.refuse(refused.into_item())),
        }
        if let Some(deadline) = deadline {
            let key = self.deadlines.insert(deadline, &state);
            state.keep_deadline(&self.deadlines, key);
        }
        if let Some((ticket, admission)) = admission
            && admission.wait_until(deadline).is_none()
        {
            drop(self.leave(ticket));
            if let Some(sent) = state.time_out() {
                self.target.call_given_up(sent);
            }
        }
        Ok(())
    }

    /// Takes a request in whose response goes to the client's callback, if there is room now.
    pub(in crate::rpc) fn try_push(&self, request: Req) -> Result<(), PushError<Req>> {
        self.try_enter(Pending { request, promise: Promise::nobodys() }).map_err(without_promise)
    }

    /// As [`try_push`](Self::try_push), waiting for room.
    #[inline]
    pub(in crate::rpc) fn push(&self, request: Req) -> Result<(), PushError<Req>> {
        match self.try_enter(Pending { request, promise: Promise::nobodys() }) {
            Ok(()) => Ok(()),
            Err(refused) => self.push_later(refused),
        }
    }

    #[cold]
    #[inline(never)]
    fn push_later(&self, refused: PushError<Pending<Req, Res>>) -> Result<(), PushError<Req>> {
        let entered = self.wait_at_lane(refused, None);
        let Some((_, admission)) = self.or_wait(entered.map_err(without_promise))? else { return Ok(()) };
        match admission.wait_until(None) {
            Some(Err(request)) => Err(PushError::Closed(request)),
            Some(Ok(())) | None => Ok(()),
        }
    }

    /// As [`try_push`](Self::try_push); where there is no room, the request waits, and whoever pushes can wait for its turn.
    pub(in crate::rpc) fn begin_push(&self, request: Req) -> Result<Option<Place<Req>>, PushError<Req>> {
        self.or_wait(self.try_push(request))
    }

    /// Has a request without room wait in the waiting room.
    fn or_wait(&self, pushed: Result<(), PushError<Req>>) -> Result<Option<Place<Req>>, PushError<Req>> {
        match pushed {
            Ok(()) => Ok(None),
            Err(PushError::Full(request)) => {
                let admission = Arc::new(Admission::default());
                let pending = Pending { request, promise: Promise::nobodys() };
                match self.wait_with(pending, Some(admission.clone())) {
                    Ok(ticket) => Ok(Some((ticket, admission))),
                    Err(pending) => Err(PushError::Closed(pending.request)),
                }
            }
            Err(refused) => Err(refused),
        }
    }

    #[inline]
    pub(in crate::rpc) fn try_enter(
        &self,
        pending: Pending<Req, Res>,
    ) -> Result<(), PushError<Pending<Req, Res>>> {
        if self.crowded.load(Ordering::Acquire) && !self.queue.is_closed() {
            return Err(PushError::Full(pending));
        }
        self.queue.try_push(pending)
    }

    /// Waits for room at the lane of this thread. While anybody is in the waiting room, that is
    /// [`Full`](PushError::Full): a request of this thread may be there, and comes first.
    fn wait_at_lane(
        &self,
        refused: PushError<Pending<Req, Res>>,
        deadline: Option<Instant>,
    ) -> Result<(), PushError<Pending<Req, Res>>> {
        match refused {
            PushError::Full(pending) if !self.is_crowded() => self.queue.push_until(pending, deadline),
            refused => Err(refused),
        }
    }

    fn wait_with(
        &self,
        pending: Pending<Req, Res>,
        admission: Option<Arc<Admission<Req>>>,
    ) -> Result<Ticket, Pending<Req, Res>> {
        let mut room = self.room.lock();
        if room.closed || self.queue.is_closed() {
            return Err(pending);
        }
        let ticket = room.next;
        room.next += 1;
        room.waiting.insert(ticket, (pending, admission));
        self.crowded.store(true, Ordering::Release);
        let first = room.waiting.len() == 1;
        drop(room);
        if first {
            // The others are found with it.
            self.target.notify();
        }
        Ok(ticket)
    }

    /// Leaves the waiting room: the request, if it was still there.
    pub(in crate::rpc) fn leave(&self, ticket: Ticket) -> Option<Req> {
        let (pending, admission) = self.room.lock().waiting.remove(&ticket)?;
        drop(admission);
        Some(give_back(pending))
    }

    /// Calls `action` on the reactor once there may be room; at once if there will never be any.
    pub(in crate::rpc) fn when_room(&self, action: Box<dyn FnOnce() + Send>) {
        let mut room = self.room.lock();
        if room.closed {
            drop(room);
            return tell(action);
        }
        room.actions.push_back(action);
        self.wanted.store(true, Ordering::Release);
        drop(room);
        self.target.notify();
    }

    // The reactor's side.

    /// Whether there is anything to do for those who found no room.
    pub(in crate::rpc) fn has_waiting(&self) -> bool {
        self.is_crowded() || self.wanted.load(Ordering::Acquire)
    }

    pub(in crate::rpc) fn is_crowded(&self) -> bool {
        self.crowded.load(Ordering::Acquire)
    }

    /// Takes the first ones out of the waiting room. They come behind everything that is in the lanes by now: until those were
    /// seen empty and [`reopen`](Self::reopen) was called, all others go to the waiting room.
    pub(in crate::rpc) fn admit(&self, most: usize, into: &mut VecDeque<Pending<Req, Res>>) {
        let mut admissions = Vec::new();
        {
            let mut room = self.room.lock();
            for _ in 0..most {
                let Some((_, (pending, admission))) = room.waiting.pop_first() else { break };
                into.push_back(pending);
                admissions.extend(admission);
            }
        }
        admissions.into_iter().for_each(|admission| admission.decide(Ok(())));
    }

    /// If nobody is in the waiting room any more, others need not go there.
    pub(in crate::rpc) fn reopen(&self) {
        let room = self.room.lock();
        if room.waiting.is_empty() {
            self.crowded.store(false, Ordering::Release);
        }
    }

    /// There is room in the lanes: tells some of those who want to hear of it. Whether there were any.
    pub(in crate::rpc) fn tell_of_room(&self) -> bool {
        if !self.wanted.load(Ordering::Acquire) {
            return false;
        }
        let actions: Vec<_> = {
            let mut room = self.room.lock();
            let count = room.actions.len().min(TOLD_AT_A_TIME);
            let actions = room.actions.drain(..count).collect();
            self.wanted.store(!room.actions.is_empty(), Ordering::Release);
            actions
        };
        let any = !actions.is_empty();
        actions.into_iter().for_each(tell);
        any
    }

    /// Whether nobody is in the waiting room; then nobody will be again.
    pub(in crate::rpc) fn close_room_if_empty(&self) -> bool {
        let mut room = self.room.lock();
        room.closed |= room.waiting.is_empty();
        room.closed
    }
}

/// Boxes a callback, unless it is one that was handed back: so it can be sent again any number of times.
pub(in crate::rpc) fn boxed<Res: 'static>(
    callback: impl FnOnce(Result<Res, CallError>) + Send + 'static,
) -> Callback<Res> {
    let mut callback = Some(callback);
    match (&mut callback as &mut dyn Any).downcast_mut::<Option<Callback<Res>>>().and_then(Option::take) {
        Some(boxed) => boxed,
        None => Box::new(callback.expect("it was there, and is no box")),
    }
}

pub(super) fn tell(action: Box<dyn FnOnce() + Send>) {
    if catch_unwind(AssertUnwindSafe(action)).is_err() {
        crate::log::callback_panicked();
    }
}

/// What was not taken goes back to whoever asked for it, who then knows.
pub(super) fn without_promise<Req, Res>(refused: PushError<Pending<Req, Res>>) -> PushError<Req> {
    match refused {
        PushError::Full(pending) => PushError::Full(give_back(pending)),
        PushError::Failed(pending) => PushError::Failed(give_back(pending)),
        refused => PushError::Closed(give_back(refused.into_item())),
    }
}

fn give_back<Req, Res>(pending: Pending<Req, Res>) -> Req {
    pending.promise.dissolve();
    pending.request
}
