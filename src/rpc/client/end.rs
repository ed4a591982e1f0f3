//! How a client ended, for everybody who wants to know.

use super::call::state::Pending;
use super::gate::{Gate, Ticket, tell};
use super::waiters::Waiters;
use crate::rpc::{Cause, Unfinished};
use std::io;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::{Duration, Instant};

/// How much longer than a client's time limit its closing waits for a reactor that does not respond.
const GRACE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct End<Req> {
    pub(super) outcome: Option<Result<(), Unfinished>>,
    pub(super) unsent: Vec<Req>,
    pub(super) waiters: Waiters,
}

impl<Req: Send + 'static, Res: Send + 'static> Gate<Req, Res> {
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

    pub(super) fn cause_of_end(&self) -> Cause {
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
