//! Subscribers that check what they get.

use crate::feed::{LEFT_OUT, MESSAGE};
use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use trochus::Reactor;
use trochus::net::{CloseReason, Handler, Io};

/// Of so many messages the lateness of one is taken.
const SAMPLE: u64 = 16;

/// In the place of the next number: it has ended.
const ENDED: u64 = u64::MAX;

/// What subscribers have heard.
pub(crate) struct Heard {
    pub(crate) messages: u64,
    /// Messages that are missing although nobody said so, and those that came when others were due.
    pub(crate) gaps: u64,
    /// Messages of which the server said that it left them out.
    pub(crate) left_out: u64,
    /// Subscribers that were closed otherwise than in good order.
    pub(crate) lost: u64,
    /// In nanoseconds.
    pub(crate) lateness: Histogram<u64>,
}

impl Heard {
    fn new() -> Self {
        let lateness = Histogram::new(3).expect("3 figures are possible");
        Heard { messages: 0, gaps: 0, left_out: 0, lost: 0, lateness }
    }

    fn merge(&mut self, other: &Heard) {
        self.messages += other.messages;
        self.gaps += other.gaps;
        self.left_out += other.left_out;
        self.lost += other.lost;
        self.lateness.add(&other.lateness).expect("both grow");
    }
}

/// All subscribers that read.
pub(crate) struct Audience {
    /// The next number of each.
    next: Vec<AtomicU64>,
    delivered: AtomicU64,
    heard: Mutex<Heard>,
}

impl Audience {
    pub(crate) fn new(subscribers: usize) -> Self {
        let next = (0..subscribers).map(|_| AtomicU64::new(0)).collect();
        Audience { next, delivered: AtomicU64::new(0), heard: Mutex::new(Heard::new()) }
    }

    pub(crate) fn len(&self) -> usize {
        self.next.len()
    }

    pub(crate) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Whether all have heard of every message below `end`, or have ended.
    pub(crate) fn has_reached(&self, end: u64) -> bool {
        self.next.iter().all(|next| next.load(Ordering::Relaxed) >= end)
    }

    /// Once all have ended.
    pub(crate) fn heard(&self) -> Heard {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut heard, Heard::new())
    }
}

pub(crate) struct Subscriber {
    index: usize,
    audience: Arc<Audience>,
    epoch: Instant,
    next: u64,
    heard: Heard,
}

impl Subscriber {
    pub(crate) fn new(index: usize, audience: Arc<Audience>, epoch: Instant) -> Self {
        Subscriber { index, audience, epoch, next: 0, heard: Heard::new() }
    }

    fn message(&mut self, number: u64, due: u64, now: u64) {
        if number & LEFT_OUT != 0 {
            let count = number & !LEFT_OUT;
            self.heard.left_out += count;
            self.next += count;
            return;
        }
        if number != self.next {
            self.heard.gaps += number.saturating_sub(self.next).max(1);
        }
        self.next = number + 1;
        self.heard.messages += 1;
        if number.is_multiple_of(SAMPLE) {
            self.heard.lateness.record(now.saturating_sub(due)).expect("it grows");
        }
    }
}

impl Handler for Subscriber {
    fn on_bytes(&mut self, _io: &mut Io<'_>, bytes: &[u8]) -> usize {
        let now = self.epoch.elapsed().as_nanos() as u64;
        let before = self.heard.messages;
        let (messages, rest) = bytes.as_chunks::<MESSAGE>();
        for message in messages {
            let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| message[at + index]));
            self.message(word(0), word(8), now);
        }
        self.audience.delivered.fetch_add(self.heard.messages - before, Ordering::Relaxed);
        self.audience.next[self.index].store(self.next, Ordering::Relaxed);
        bytes.len() - rest.len()
    }

    fn on_close(&mut self, reason: &CloseReason, _reactor: &mut Reactor) {
        self.heard.lost += u64::from(!reason.is_clean());
        self.audience.heard.lock().unwrap_or_else(PoisonError::into_inner).merge(&self.heard);
        self.audience.next[self.index].store(ENDED, Ordering::Relaxed);
    }
}
