//! One direction of a connection.

use super::plan::{COALESCED, Fate, Faults};
use mio::net::TcpStream;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

/// Bytes that wait at most: beyond that nothing is read, as in any pipe.
const WAITING: usize = 256 << 10;

/// Rounds of reading and writing before others have their turn.
const ROUNDS: usize = 16;

/// A throttled direction writes so much at a time, of what it may in a second.
const BURSTS_PER_SECOND: u64 = 200;

pub(super) struct Way {
    faults: Faults,
    /// What was read, and when it may leave.
    queue: VecDeque<(Instant, Vec<u8>)>,
    waiting: usize,
    /// Nothing leaves before.
    held_until: Option<Instant>,
    /// Bytes that were read, and bytes that the other end's kernel took.
    pub(super) taken: u64,
    pub(super) passed: u64,
    source: Source,
    /// An event has told of it.
    broken: bool,
    /// Which fate has come.
    pub(super) met: Option<Fate>,
    /// The end was passed on, or will never be.
    pub(super) over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Open,
    Ended,
    Failed,
}

/// What comes of a step.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// When an event says so.
    Wait,
    /// At this time, or when an event says so.
    At(Instant),
    /// Both ends are to be reset.
    Reset,
}

impl Way {
    pub(super) fn new(faults: Faults) -> Self {
        Way {
            faults,
            queue: VecDeque::new(),
            waiting: 0,
            held_until: None,
            taken: 0,
            passed: 0,
            source: Source::Open,
            broken: false,
            met: None,
            over: false,
        }
    }

    /// The socket that this direction reads from is broken. Who reads on finds that behind the last bytes.
    pub(super) fn source_broke(&mut self) {
        self.broken = true;
    }

    /// Does what can be done now.
    pub(super) fn step(&mut self, from: &mut TcpStream, to: &mut TcpStream, now: Instant) -> Next {
        for _ in 0..ROUNDS {
            let read = self.read(from, now);
            let wrote = match self.write(to, now) {
                Ok(wrote) => wrote,
                Err(_) => return Next::Reset,
            };
            if self.met == Some(Fate::Reset) {
                return Next::Reset;
            }
            let stalled = self.met == Some(Fate::Stall);
            if self.source == Source::Failed && self.queue.is_empty() || self.broken && stalled {
                return Next::Reset;
            }
            if !read && !wrote {
                return self.due(now).map_or(Next::Wait, Next::At);
            }
        }
        Next::At(now)
    }

    /// Whether it read something, or the end.
    fn read(&mut self, from: &mut TcpStream, now: Instant) -> bool {
        let stalled = self.met == Some(Fate::Stall);
        if self.source != Source::Open || stalled || self.waiting >= WAITING {
            return false;
        }
        let mut bytes = vec![0; COALESCED];
        match from.read(&mut bytes) {
            Ok(0) => {
                self.source = Source::Ended;
                self.held_until = None;
            }
            Ok(read) => {
                self.taken += read as u64;
                // Behind a cut and in a hole it is lost.
                if self.met.is_none() {
                    bytes.truncate(read);
                    self.enqueue(bytes, now);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => self.source = Source::Failed,
        }
        true
    }

    fn enqueue(&mut self, bytes: Vec<u8>, now: Instant) {
        self.waiting += bytes.len();
        if self.faults.coalesce > Duration::ZERO {
            self.held_until = Some(now + self.faults.coalesce);
            if let Some((_, last)) = self.queue.back_mut().filter(|(_, last)| last.len() < COALESCED) {
                return last.extend_from_slice(&bytes);
            }
        }
        self.queue.push_back((now + self.faults.delay, bytes));
    }

    /// Whether it wrote something, or the end, or a fate has come.
    fn write(&mut self, to: &mut TcpStream, now: Instant) -> io::Result<bool> {
        if self.over {
            return Ok(false);
        }
        if let Some((bytes, fate)) = self.faults.fate
            && self.met.is_none()
            && self.passed >= bytes
        {
            self.meet(fate, to);
            return Ok(true);
        }
        if self.met.is_some() {
            // A hole, for a cut is over: it has taken the end as well.
            self.over = self.source == Source::Ended;
            return Ok(self.over);
        }
        if self.due(now).is_some_and(|due| due > now) {
            return Ok(false);
        }
        let Some((_, bytes)) = self.queue.front_mut() else {
            self.over = self.source == Source::Ended;
            if self.over {
                // A peer that is gone already shows in the other direction.
                let _ = to.shutdown(Shutdown::Write);
            }
            return Ok(self.over);
        };
        let rate = self.faults.rate.map(|rate| (rate / BURSTS_PER_SECOND).max(1));
        let fate = self.faults.fate.map(|(bytes, _)| bytes - self.passed);
        let limits = [self.faults.chunk.map(|bytes| bytes as u64), rate, fate];
        let most = limits.into_iter().flatten().min().map_or(bytes.len(), |most| most as usize);
        let written = match to.write(&bytes[..most.min(bytes.len())]) {
            Ok(written) => written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error),
        };
        self.passed += written as u64;
        self.waiting -= written;
        if written == bytes.len() {
            self.queue.pop_front();
        } else {
            bytes.drain(..written);
        }
        if let Some(rate) = self.faults.rate {
            self.held_until = Some(now + Duration::from_secs_f64(written as f64 / rate as f64));
        }
        Ok(true)
    }

    /// When something may leave that waits for its time only.
    fn due(&self, now: Instant) -> Option<Instant> {
        let (due, _) = self.queue.front()?;
        if self.over || self.met.is_some() {
            return None;
        }
        let gathers = self.faults.coalesce > Duration::ZERO && self.waiting >= COALESCED;
        let held = self.held_until.filter(|_| !gathers);
        // What is due already waits for the other end.
        Some(held.map_or(*due, |held| held.max(*due))).filter(|due| *due > now)
    }

    fn meet(&mut self, fate: Fate, to: &mut TcpStream) {
        self.met = Some(fate);
        self.queue.clear();
        self.waiting = 0;
        if fate == Fate::Cut {
            let _ = to.shutdown(Shutdown::Write);
            self.over = true;
        }
    }

    /// Nothing comes any more, and all is passed on that will be.
    pub(super) fn is_done(&self) -> bool {
        self.over && self.source != Source::Open
    }
}
