//! Requests that were sent, and whom their responses are for.

use super::call::Promise;
use crate::codec::{Correlation, CorrelationKind};
use slab::Slab;
use std::collections::VecDeque;
use std::sync::Arc;

/// The id of requests whose responses go to the client's callback.
const STREAMED: u64 = u64::MAX;

/// What a client's connection waits for.
pub(in crate::rpc) enum Expected<Res> {
    /// In the order of the requests. Streamed ones are only counted; `tail` are those behind all others.
    InOrder { next: VecDeque<Next<Res>>, tail: u64 },
    /// By id: the entry's number, and behind it how often that number was used.
    ById { calls: Slab<(u32, Promise<Res>)>, uses: u32, streamed: u64 },
    /// Every response goes to the callback.
    Uncorrelated,
}

pub(in crate::rpc) enum Next<Res> {
    Streamed(u64),
    Call(Promise<Res>),
}

/// Whom a response is for.
pub(in crate::rpc) enum Recipient<Res> {
    Callback,
    Call(Promise<Res>),
    /// A call that nobody waits for any more.
    Nobody,
}

impl<Res> Expected<Res> {
    pub(in crate::rpc) fn new(kind: CorrelationKind) -> Self {
        match kind {
            CorrelationKind::InOrder => Expected::InOrder { next: VecDeque::new(), tail: 0 },
            CorrelationKind::ById => Expected::ById { calls: Slab::new(), uses: 0, streamed: 0 },
            CorrelationKind::Uncorrelated => Expected::Uncorrelated,
        }
    }

    /// Calls in flight.
    pub(in crate::rpc) fn calls(&self) -> usize {
        match self {
            Expected::InOrder { next, .. } => next.len(),
            Expected::ById { calls, .. } => calls.len(),
            Expected::Uncorrelated => 0,
        }
    }

    /// Requests in flight; 0 if nobody can know.
    pub(in crate::rpc) fn requests(&self) -> u64 {
        match self {
            Expected::InOrder { next, tail } => tail + next.iter().map(Next::requests).sum::<u64>(),
            Expected::ById { calls, streamed, .. } => calls.len() as u64 + streamed,
            Expected::Uncorrelated => 0,
        }
    }

    /// Those of them that are not calls.
    pub(in crate::rpc) fn streamed_requests(&self) -> u64 {
        match self {
            Expected::InOrder { next, tail } => tail + next.iter().map(Next::streamed).sum::<u64>(),
            Expected::ById { streamed, .. } => *streamed,
            Expected::Uncorrelated => 0,
        }
    }

    /// Requests in flight whose responses somebody waits for.
    pub(in crate::rpc) fn awaited_requests(&self) -> u64 {
        let calls = match self {
            Expected::InOrder { next, .. } => next.iter().filter(|next| next.is_wanted_call()).count(),
            Expected::ById { calls, .. } => calls.iter().filter(|(_, (_, call))| call.is_wanted()).count(),
            Expected::Uncorrelated => 0,
        };
        self.streamed_requests() + calls as u64
    }

    /// Whether a response may come that somebody waits for.
    pub(in crate::rpc) fn is_awaited(&self) -> bool {
        match self {
            Expected::InOrder { next, tail } => {
                *tail > 0 || next.iter().any(|next| next.streamed() > 0 || next.is_wanted_call())
            }
            Expected::ById { calls, streamed, .. } => {
                *streamed > 0 || calls.iter().any(|(_, (_, call))| call.is_wanted())
            }
            Expected::Uncorrelated => true,
        }
    }

    /// So many streamed requests were sent.
    #[inline]
    pub(in crate::rpc) fn streamed(&mut self, count: u64) {
        match self {
            Expected::InOrder { tail, .. } => *tail += count,
            Expected::ById { streamed, .. } => *streamed += count,
            Expected::Uncorrelated => {}
        }
    }

    /// The id that the next call's request will have on the wire, if the protocol has ids.
    pub(in crate::rpc) fn next_call_id(&self) -> u64 {
        match self {
            Expected::ById { calls, uses, .. } => id(calls.vacant_key(), *uses),
            Expected::InOrder { .. } | Expected::Uncorrelated => 0,
        }
    }

    /// The call with that id was sent.
    pub(in crate::rpc) fn call(&mut self, promise: Promise<Res>) {
        match self {
            Expected::InOrder { next, tail } => {
                if *tail > 0 {
                    next.push_back(Next::Streamed(std::mem::take(tail)));
                }
                next.push_back(Next::Call(promise));
            }
            Expected::ById { calls, uses, .. } => {
                calls.insert((*uses, promise));
                *uses = uses.wrapping_add(1);
            }
            Expected::Uncorrelated => promise.lose(&Arc::from("the protocol has no correlation")),
        }
    }

    /// Takes the streamed requests that come next, for as many responses to be handed out without asking for each.
    pub(in crate::rpc) fn take_streamed(&mut self) -> u64 {
        let Expected::InOrder { next, tail } = self else { return 0 };
        match next.front() {
            None => std::mem::take(tail),
            Some(Next::Streamed(count)) => {
                let count = *count;
                next.pop_front();
                count
            }
            Some(Next::Call(_)) => 0,
        }
    }

    /// Puts back those that were taken and have no response yet.
    pub(in crate::rpc) fn put_back_streamed(&mut self, count: u64) {
        if let Expected::InOrder { next, tail } = self
            && count > 0
        {
            if next.is_empty() {
                *tail += count;
            } else {
                next.push_front(Next::Streamed(count));
            }
        }
    }

    /// Whom the response with this id is for, when no streamed request comes next. `None`: for nobody who asked.
    pub(in crate::rpc) fn recipient(&mut self, id: u64) -> Option<Recipient<Res>> {
        match self {
            Expected::Uncorrelated => Some(Recipient::Callback),
            Expected::InOrder { next, .. } => match next.pop_front()? {
                Next::Call(promise) if promise.is_wanted() => Some(Recipient::Call(promise)),
                Next::Call(_) => Some(Recipient::Nobody),
                Next::Streamed(_) => None,
            },
            Expected::ById { streamed, .. } if id == STREAMED => {
                *streamed = streamed.checked_sub(1)?;
                Some(Recipient::Callback)
            }
            Expected::ById { calls, .. } => {
                let key = (id & u64::from(u32::MAX)) as usize;
                // A response that comes after its call timed out has no entry any more.
                if calls.get(key).is_none_or(|(uses, _)| u64::from(*uses) != id >> 32) {
                    return Some(Recipient::Nobody);
                }
                let (_, promise) = calls.remove(key);
                Some(if promise.is_wanted() { Recipient::Call(promise) } else { Recipient::Nobody })
            }
        }
    }

    /// Makes room for other calls where that needs no response: those that timed out.
    pub(in crate::rpc) fn forget_unwanted(&mut self) {
        if let Expected::ById { calls, .. } = self {
            calls.retain(|_, (_, promise)| promise.is_wanted());
        }
    }

    /// Nothing more will come.
    pub(in crate::rpc) fn lose(&mut self, reason: &Arc<str>) {
        match self {
            Expected::InOrder { next, tail } => {
                *tail = 0;
                next.drain(..).for_each(|next| match next {
                    Next::Streamed(_) => {}
                    Next::Call(promise) => promise.lose(reason),
                });
            }
            Expected::ById { calls, streamed, .. } => {
                *streamed = 0;
                calls.drain().for_each(|(_, promise)| promise.lose(reason));
            }
            Expected::Uncorrelated => {}
        }
    }
}

impl<Res> Next<Res> {
    fn streamed(&self) -> u64 {
        match self {
            Next::Streamed(count) => *count,
            Next::Call(_) => 0,
        }
    }

    fn is_wanted_call(&self) -> bool {
        matches!(self, Next::Call(promise) if promise.is_wanted())
    }

    fn requests(&self) -> u64 {
        match self {
            Next::Streamed(count) => *count,
            Next::Call(_) => 1,
        }
    }
}

/// Keeps clear of [`STREAMED`], which would need 2^32 calls at a time.
fn id(key: usize, uses: u32) -> u64 {
    u64::from(uses) << 32 | key as u64
}

/// The id of streamed requests.
#[inline]
pub(in crate::rpc) fn streamed_id<C: Correlation>() -> C::Id {
    C::id_from(STREAMED)
}
