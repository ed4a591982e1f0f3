//! The way in for calls and for what is pushed through the client: a batcher, a waiting room behind it, and how it ended.
//!
//! Whoever finds no room in the batcher's lanes waits in the waiting room *with the request*, and so does everybody who comes
//! then, until the reactor has taken them all: so the requests of one thread keep their order, nobody is woken in vain, and who
//! gives up takes the request along. What lies there is bounded by those who wait: a call holds its request either way, and a push
//! does not return before its turn.

use super::deadlines::Deadlines;
use super::state::{CallState, Pending, Promise};
use super::target::Target;
use super::waiters::{Admission, Waiters};
use crate::batch::{Batcher, PushError};
use crate::rpc::{CallError, Callback, Cause, SendError, Unfinished};
use crate::waiting;
use parking_lot::{Condvar, Mutex};
use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;
use std::time::{Duration, Instant};

/// What a client, its calls and its connection share.
pub(in crate::rpc) struct Gate<Req, Res> {
    queue: Batcher<Pending<Req, Res>>,
    deadlines: Arc<Deadlines<Res>>,
    target: Arc<Target>,
    room: Mutex<WaitingRoom<Req, Res>>,
    /// Somebody is in the waiting room: others go there as well.
    crowded: AtomicBool,
    /// Somebody wants to hear of room.
    wanted: AtomicBool,
    end: Mutex<End<Req>>,
    ended: Condvar,
    close_timeout: Duration,
}

/// A place in the waiting room.
pub(in crate::rpc) type Ticket = u64;

struct WaitingRoom<Req, Res> {
    waiting: BTreeMap<Ticket, Waiting<Req, Res>>,
    next: Ticket,
    /// To be called when there is room.
    actions: VecDeque<Box<dyn FnOnce() + Send>>,
    /// Nobody will look here any more.
    closed: bool,
}

/// A request in the waiting room, and whoever waits for its turn.
type Waiting<Req, Res> = (Pending<Req, Res>, Option<Arc<Admission<Req>>>);

/// A push that waits for its turn.
pub(in crate::rpc) type Place<Req> = (Ticket, Arc<Admission<Req>>);

struct End<Req> {
    outcome: Option<Result<(), Unfinished>>,
    unsent: Vec<Req>,
    waiters: Waiters,
}

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

    pub(in crate::rpc) fn target(&self) -> &Target {
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
        let mut admission = None;
        match self.try_enter(pending) {
            Ok(()) => {}
            Err(PushError::Full(pending)) if !waits => {
                let (request, callback) = (give_back(pending), state.take_callback());
                let callback = callback.expect("nobody has called it: the call was never accepted");
                return Err(SendError { request, callback, full: true });
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
        let deadline = timeout.and_then(|after| Instant::now().checked_add(after));
        if let Some(deadline) = deadline {
            let key = self.deadlines.insert(deadline, &state);
            state.keep_deadline(&self.deadlines, key);
        }
        if let Some((ticket, admission)) = admission
            && admission.wait_until(deadline).is_none()
        {
            drop(self.leave(ticket));
            state.time_out();
        }
        Ok(())
    }

    /// Takes a request in whose response goes to the client's callback, if there is room now.
    pub(in crate::rpc) fn try_push(&self, request: Req) -> Result<(), PushError<Req>> {
        let pushed = self.try_enter(Pending { request, promise: Promise::nobodys() });
        pushed.map_err(|refused| match refused {
            PushError::Full(pending) => PushError::Full(pending.request),
            PushError::Failed(pending) => PushError::Failed(pending.request),
            refused => PushError::Closed(refused.into_item().request),
        })
    }

    /// As [`try_push`](Self::try_push); where there is no room, the request waits, and whoever pushes can wait for its turn.
    pub(in crate::rpc) fn push(&self, request: Req) -> Result<Option<Place<Req>>, PushError<Req>> {
        match self.try_push(request) {
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

    fn try_enter(&self, pending: Pending<Req, Res>) -> Result<(), PushError<Pending<Req, Res>>> {
        if self.crowded.load(Ordering::Acquire) && !self.queue.is_closed() {
            return Err(PushError::Full(pending));
        }
        self.queue.try_push(pending)
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

    // The end.

    /// Accepts nothing more; what was accepted is still sent and answered.
    pub(in crate::rpc) fn stop_accepting(&self) {
        self.queue.stop_accepting();
    }

    pub(in crate::rpc) fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// The client has ended: whoever waits for anything is told. `unsent` was pushed and never sent.
    pub(in crate::rpc) fn end(&self, outcome: Result<(), Unfinished>, unsent: Vec<Req>) {
        let waiters = {
            let mut end = self.end.lock();
            end.outcome.get_or_insert(outcome);
            end.unsent.extend(unsent);
            std::mem::take(&mut end.waiters)
        };
        let (waiting, actions) = {
            let mut room = self.room.lock();
            room.closed = true;
            self.wanted.store(false, Ordering::Release);
            (std::mem::take(&mut room.waiting), std::mem::take(&mut room.actions))
        };
        let cause = self.cause_of_end();
        for (pending, admission) in waiting.into_values() {
            let Pending { request, promise } = pending;
            promise.lose(&cause);
            if let Some(admission) = admission {
                admission.decide(Err(request));
            }
        }
        actions.into_iter().for_each(tell);
        self.target.ended();
        self.ended.notify_all();
        waiters.wake_all();
    }

    fn cause_of_end(&self) -> Cause {
        match &self.end.lock().outcome {
            Some(Err(unfinished)) => unfinished.cause.clone(),
            _ => Cause::new(io::ErrorKind::NotConnected, "the client is closed"),
        }
    }

    /// Blocks until the end. The reactor gives up when its time limit has passed; this does a little later, in case that the
    /// reactor is stuck.
    pub(in crate::rpc) fn wait_for_end(&self) -> Result<(), Unfinished> {
        let deadline =
            self.close_timeout.checked_add(GRACE).and_then(|limit| Instant::now().checked_add(limit));
        let mut end = self.end.lock();
        loop {
            if let Some(outcome) = &end.outcome {
                return outcome.clone();
            }
            match deadline {
                None => self.ended.wait(&mut end),
                Some(deadline) if self.ended.wait_until(&mut end, deadline).timed_out() => {
                    let cause = Cause::new(io::ErrorKind::TimedOut, "the client's reactor does not respond");
                    return Err(Unfinished { cause, unanswered: 0, unsent: 0, not_encoded: 0 });
                }
                Some(_) => {}
            }
        }
    }

    /// How it ended, if it has; otherwise `waker` is told.
    pub(in crate::rpc) fn poll_end(
        &self,
        ticket: &mut Option<Ticket>,
        waker: &Waker,
    ) -> Option<Result<(), Unfinished>> {
        let waker = waker.clone();
        let mut end = self.end.lock();
        if let Some(outcome) = &end.outcome {
            return Some(outcome.clone());
        }
        let before = end.waiters.register(ticket, waker);
        drop(end);
        drop(before);
        None
    }

    pub(in crate::rpc) fn stop_waiting_for_end(&self, ticket: Ticket) {
        let waker = self.end.lock().waiters.leave(ticket);
        drop(waker);
    }

    pub(in crate::rpc) fn has_ended(&self) -> bool {
        self.end.lock().outcome.is_some()
    }

    pub(in crate::rpc) fn take_unsent(&self) -> Vec<Req> {
        std::mem::take(&mut self.end.lock().unsent)
    }
}

/// How much longer than a client's time limit its closing waits for a reactor that does not respond.
const GRACE: Duration = Duration::from_secs(1);

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

fn tell(action: Box<dyn FnOnce() + Send>) {
    if catch_unwind(AssertUnwindSafe(action)).is_err() {
        crate::log::callback_panicked();
    }
}

fn give_back<Req, Res>(pending: Pending<Req, Res>) -> Req {
    pending.promise.dissolve();
    pending.request
}
