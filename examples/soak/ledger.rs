//! What was asked for, what was executed and what was told. A difference is a failure.

use crate::wire::Asked;
use serde::Serialize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use trochus::rpc::CallError;

/// The kinds of clients, and of what is done to servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Good,
    Proxied,
    Pushing,
    Dialing,
    Slow,
    Greedy,
    Malformed,
    HalfOpen,
    Vanishing,
    Idle,
    Restart,
    HandOver,
}

impl Kind {
    pub(crate) const ALL: [Kind; 12] = [
        Kind::Good,
        Kind::Proxied,
        Kind::Pushing,
        Kind::Dialing,
        Kind::Slow,
        Kind::Greedy,
        Kind::Malformed,
        Kind::HalfOpen,
        Kind::Vanishing,
        Kind::Idle,
        Kind::Restart,
        Kind::HandOver,
    ];
}

/// What one kind has done.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Connections, or restarts and the like.
    sessions: AtomicU64,
    requests: AtomicU64,
    /// Responses that were right.
    answered: AtomicU64,
    /// Requests of which the client was told that they may have been executed, or that they were not.
    maybe: AtomicU64,
    not_sent: AtomicU64,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Sums {
    pub(crate) sessions: u64,
    pub(crate) requests: u64,
    pub(crate) answered: u64,
    pub(crate) maybe: u64,
    pub(crate) not_sent: u64,
}

/// Requests of which it is remembered whether they were executed: the latest so many.
const REMEMBERED: usize = 1 << 20;

/// Calls that were not sent, to be looked at again in the end: the latest so many.
const DOUBTFUL: usize = 1 << 16;

/// Failures that are told; there may be one for each call.
const TOLD: usize = 20;

/// One backend's.
pub(crate) struct Ledger {
    tallies: [Tally; Kind::ALL.len()],
    next: AtomicU64,
    /// A request's number is where it is modulo the length, once it was executed.
    executed: Vec<AtomicU64>,
    pub(crate) executions: AtomicU64,
    /// Requests that malformed clients made by chance.
    pub(crate) foreign: AtomicU64,
    unsent: Mutex<Vec<u64>>,
    failures: Mutex<Vec<String>>,
    pub(crate) failed: AtomicU64,
}

impl Ledger {
    /// All of its memory is touched, so that it does not grow later.
    pub(crate) fn new() -> Self {
        let mut unsent = vec![u64::MAX; DOUBTFUL];
        unsent.clear();
        Ledger {
            tallies: Default::default(),
            next: AtomicU64::new(1),
            executed: (0..REMEMBERED).map(|_| AtomicU64::new(u64::MAX)).collect(),
            executions: AtomicU64::new(0),
            foreign: AtomicU64::new(0),
            unsent: Mutex::new(unsent),
            failures: Mutex::default(),
            failed: AtomicU64::new(0),
        }
    }

    /// A request for a response of so many bytes.
    pub(crate) fn ask(&self, kind: Kind, response: u32) -> Asked {
        self.tallies[kind as usize].requests.fetch_add(1, SeqCst);
        Asked { number: self.next.fetch_add(1, SeqCst), response }
    }

    pub(crate) fn began(&self, kind: Kind) {
        self.tallies[kind as usize].sessions.fetch_add(1, SeqCst);
    }

    fn place(&self, number: u64) -> &AtomicU64 {
        &self.executed[number as usize % REMEMBERED]
    }

    /// The service was called for this one.
    pub(crate) fn execute(&self, asked: Asked) {
        self.executions.fetch_add(1, SeqCst);
        if asked.number >= self.next.load(SeqCst) {
            self.fail(format!("request {} was executed, and nobody made it", asked.number));
        }
        if self.place(asked.number).swap(asked.number, SeqCst) == asked.number {
            self.fail(format!("request {} was executed twice", asked.number));
        }
    }

    /// What has come of a call, or of a request over a plain socket.
    pub(crate) fn settle(&self, kind: Kind, asked: Asked, outcome: Result<&[u8], &CallError>) {
        let (tally, number) = (&self.tallies[kind as usize], asked.number);
        match outcome {
            Ok(response) => {
                tally.answered.fetch_add(1, SeqCst);
                if !asked.is_answer(response) {
                    self.fail(format!("{kind:?}: request {number} has another's response"));
                } else if self.place(number).load(SeqCst) != number {
                    self.fail(format!("{kind:?}: request {number} was answered and not executed"));
                }
            }
            Err(error) if error.may_have_been_executed() => _ = tally.maybe.fetch_add(1, SeqCst),
            Err(error) => {
                tally.not_sent.fetch_add(1, SeqCst);
                let mut unsent = self.unsent.lock().unwrap();
                if unsent.len() == DOUBTFUL {
                    unsent.drain(..DOUBTFUL / 2).for_each(|number| self.check_unsent(number));
                }
                unsent.push(number);
                drop(unsent);
                if matches!(error, CallError::Encode(_) | CallError::OnReactorThread { .. }) {
                    self.fail(format!("{kind:?}: request {number}: {error}"));
                }
            }
        }
    }

    /// So many pushes had a response.
    pub(crate) fn answered(&self, kind: Kind, pushes: u64) {
        self.tallies[kind as usize].answered.fetch_add(pushes, SeqCst);
    }

    pub(crate) fn maybe(&self, kind: Kind, requests: u64) {
        self.tallies[kind as usize].maybe.fetch_add(requests, SeqCst);
    }

    /// What was not sent is not executed later either: to be called when nothing can be any more.
    pub(crate) fn check(&self) {
        self.unsent.lock().unwrap().drain(..).for_each(|number| self.check_unsent(number));
    }

    fn check_unsent(&self, number: u64) {
        if self.place(number).load(SeqCst) == number {
            self.fail(format!("request {number} was executed, and its client told that it was not"));
        }
    }

    pub(crate) fn fail(&self, what: String) {
        self.failed.fetch_add(1, SeqCst);
        let mut failures = self.failures.lock().unwrap();
        if failures.len() < TOLD {
            eprintln!("\nsoak: {what}");
            failures.push(what);
        }
    }

    pub(crate) fn failures(&self) -> Vec<String> {
        self.failures.lock().unwrap().clone()
    }

    pub(crate) fn sums(&self, kind: Kind) -> Sums {
        let Tally { sessions, requests, answered, maybe, not_sent } = &self.tallies[kind as usize];
        let [sessions, requests, answered, maybe, not_sent] =
            [sessions, requests, answered, maybe, not_sent].map(|counter| counter.load(SeqCst));
        Sums { sessions, requests, answered, maybe, not_sent }
    }
}
