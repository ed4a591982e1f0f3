//! How long an open connection may wait for its peer, in each respect.

use super::connection::{Link, Phase};
use super::files::FileRead;
use super::handler::CloseReason;
use crate::config::{self, DRAIN_TIMEOUT, MESSAGE_STEP, NEVER};
use crate::error::{Error, Result};
use crate::reactor::pace::timers::deadline;
use crate::reactor::socket::options::StreamOptions;
use std::time::{Duration, Instant};

/// The limits of time of an open connection. From [`NEVER`] on there is none.
#[derive(Clone, Debug)]
pub(in crate::reactor) struct Deadlines {
    opening: Duration,
    message: Duration,
    idle: Duration,
    write_stall: Duration,
    write_rate: Option<WriteRate>,
    lifetime: Duration,
    /// Of all these: whatever the connection waits for from now on, it has this long at least.
    shortest: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let (message, write_stall) = (config::MESSAGE_TIMEOUT, config::WRITE_STALL_TIMEOUT);
        let (opening, idle, lifetime) = (Duration::MAX, Duration::MAX, Duration::MAX);
        let shortest = message.min(write_stall);
        Deadlines { opening, message, idle, write_stall, write_rate: None, lifetime, shortest }
    }
}

/// What a peer has to take at least while output waits for it.
#[derive(Clone, Copy, Debug)]
struct WriteRate {
    bytes: usize,
    period: Duration,
}

/// Limits of time. Each has a [`CloseReason`] and a counter of its own, and costs next to nothing while it is kept: there is one timer
/// for all of a connection's. `Duration::MAX` switches one off.
/// [`trochus::docs::limits`](crate::docs::limits) has all of them in one table.
impl StreamOptions {
    /// How long the peer may take until the first byte that it sends ([`CloseReason::OpeningTimeout`]): for ever unless set, because
    /// there are protocols in which it has nothing to say. It ends as [`idle_timeout`](Self::idle_timeout) does.
    pub fn opening_timeout(mut self, timeout: Duration) -> Self {
        self.deadlines.change(|limits| limits.opening = timeout);
        self
    }

    /// How long the peer may take for the rest of a message whose beginning the handler has left unconsumed
    /// ([`CloseReason::MessageTimeout`]): [`config::MESSAGE_TIMEOUT`] unless set. It counts from when the handler last consumed
    /// something, or from the last [`config::MESSAGE_STEP`] that came since, so that a byte now and then does not put it off; and
    /// not while reading is paused: a handler that waits for somebody else than the peer has to
    /// [pause](crate::reactor::Io::pause_reading). Servers of [`rpc`](crate::rpc) have a limit of their own in its place, and
    /// clients one for each call.
    pub fn message_timeout(mut self, timeout: Duration) -> Self {
        self.deadlines.change(|limits| limits.message = timeout);
        self
    }

    /// How long nothing may come from the peer, and nothing be taken by it, before the connection is to end
    /// ([`CloseReason::IdleTimeout`]): for ever unless set. If output waits for the peer, it is reset. Otherwise the handler's
    /// [`on_shutdown`](crate::reactor::Handler::on_shutdown) is called, which knows whether something is in progress, and what has not
    /// ended [`config::DRAIN_TIMEOUT`] later is reset. Servers of [`rpc`](crate::rpc) take this for their own
    /// [`idle_timeout`](crate::rpc::ServerOptions::idle_timeout), and clients do without.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.deadlines.change(|limits| limits.idle = timeout);
        self
    }

    /// How long the peer of an open connection may take none of the output that waits for it, before the connection is reset
    /// ([`CloseReason::WriteStalled`]): [`config::WRITE_STALL_TIMEOUT`] unless set. It counts from the last progress.
    pub fn write_stall_timeout(mut self, timeout: Duration) -> Self {
        self.deadlines.change(|limits| limits.write_stall = timeout);
        self
    }

    /// How many bytes the peer has to take in each `period` in which output waits for it all the time, before the connection is
    /// reset ([`CloseReason::WriteTooSlow`]). None unless set. The system's buffers take some at once and give room again in
    /// large pieces, of up to a few megabytes: the period should be long enough for one.
    pub fn write_rate(mut self, bytes: usize, period: Duration) -> Self {
        self.deadlines.change(|limits| limits.write_rate = Some(WriteRate { bytes, period }));
        self
    }

    /// For whoever looks after that by itself: without limits for the rest of a message, and for silence. What the last one was, if it
    /// was set.
    pub(crate) fn without_own_patience(mut self) -> (Self, Option<Duration>) {
        let idle = Some(self.deadlines.idle).filter(|idle| *idle < NEVER);
        self.deadlines.change(|limits| (limits.message, limits.idle) = (Duration::MAX, Duration::MAX));
        (self, idle)
    }

    /// A server's own; see [`ListenOptions::lifetime`](crate::reactor::ListenOptions::lifetime).
    pub(in crate::reactor) fn lifetime(mut self, lifetime: Duration) -> Self {
        self.deadlines.change(|limits| limits.lifetime = lifetime);
        self
    }
}

impl Deadlines {
    fn change(&mut self, change: impl FnOnce(&mut Self)) {
        change(self);
        self.shortest = self.all().iter().map(|(_, limit)| *limit).min().unwrap_or(Duration::MAX);
    }

    fn all(&self) -> [(&'static str, Duration); 6] {
        let period = self.write_rate.map_or(Duration::MAX, |rate| rate.period);
        [
            ("opening_timeout", self.opening),
            ("message_timeout", self.message),
            ("idle_timeout", self.idle),
            ("write_stall_timeout", self.write_stall),
            ("write_rate's period", period),
            ("lifetime", self.lifetime),
        ]
    }

    pub(in crate::reactor) fn check(&self) -> Result<()> {
        match self.all().iter().find(|(_, time)| time.is_zero()) {
            Some((name, _)) => Err(Error::InvalidSetting(format!(
                "{name} must be longer than nothing; `Duration::MAX` switches it off"
            ))),
            None => Ok(()),
        }
    }
}

/// What took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    /// Sending has failed, and what there was has been delivered, or the handler does not want it.
    FailedOutput,
    Opening,
    Message,
    Idle,
    WriteStall,
    WriteRate,
    Flush,
    Lifetime,
    /// It was asked to end, and has not.
    Farewell,
}

/// What to do about it.
#[derive(Debug)]
pub(super) enum Overdue {
    Fail(CloseReason),
    /// Its handler is asked to end it, for this reason if there is one.
    AskToEnd(Option<CloseReason>),
    Nothing,
}

/// What a connection's limits of time count from, besides its last input and its last progress.
#[derive(Debug)]
pub(in crate::reactor) struct Since {
    opened: Instant,
    /// The peer has sent something.
    pub(in crate::reactor) heard: bool,
    /// The handler waits for the rest of a message; and how much of it there was.
    half: Option<(Instant, usize)>,
    /// Output has been waiting all the time, and so much of it was taken.
    output: Option<(Instant, usize)>,
    /// It was asked to end.
    asked: Option<Instant>,
    /// It was not read when it was last looked at.
    silenced: bool,
}

impl Since {
    pub(in crate::reactor) fn new(now: Instant) -> Self {
        Since { opened: now, heard: false, half: None, output: None, asked: None, silenced: false }
    }

    /// Some of what the peer sent was consumed: what is left is another message.
    pub(super) fn consumed(&mut self) {
        self.half = None;
    }

    /// The peer took something; is there more?
    #[inline]
    pub(super) fn taken(&mut self, bytes: usize, more: bool) {
        self.output = self.output.filter(|_| more).map(|(since, taken)| (since, taken.saturating_add(bytes)));
    }
}

/// When a limit is reached, if it is one.
fn at(since: Instant, limit: Duration) -> Option<Instant> {
    (limit < NEVER).then(|| deadline(since, limit))
}

impl Link {
    /// Notes from when on the peer owes the rest of a message, and takes what waits for it.
    #[inline]
    pub(super) fn note_waiting(&mut self, now: Instant) {
        let ended = self.input_has_ended();
        let owes = self.unconsumed() > 0
            && self.wants_input()
            && self.passage.is_none()
            && !ended
            && self.phase > Phase::Handshaking;
        let silenced = self.is_silenced();
        if std::mem::replace(&mut self.since.silenced, silenced) && !silenced {
            self.last_input = now;
        }
        let there = self.unconsumed();
        let half = self.since.half.filter(|(_, before)| there < before.saturating_add(MESSAGE_STEP));
        self.since.half = owes.then(|| half.unwrap_or((now, there)));
        let waits = self.pending_output() > 0 && self.phase >= Phase::Open;
        self.since.output = waits.then(|| self.since.output.unwrap_or((now, 0)));
    }

    /// Whether a timer that is set for then comes before any limit: those that began to count before it was set are in it, and
    /// those that begin now have their time.
    #[inline]
    pub(super) fn is_early_enough(&self, timer: Instant, now: Instant) -> bool {
        timer.saturating_duration_since(now) <= self.options.deadlines.shortest
    }

    /// When the first limit is reached of a connection that is open, or has output left behind a close.
    pub(super) fn limit_due(&self) -> Option<Instant> {
        self.first_limit().map(|(due, _)| due)
    }

    fn first_limit(&self) -> Option<(Instant, Limit)> {
        let (limits, since) = (&self.options.deadlines, &self.since);
        let rate = self.rate_due().map(|due| (due, Limit::WriteRate));
        let farewell = since.asked.map(|asked| (deadline(asked, DRAIN_TIMEOUT), Limit::Farewell));
        if self.phase == Phase::Flushing {
            let flush = (deadline(self.last_progress, self.options.flush_timeout), Limit::Flush);
            return [Some(flush), rate, farewell].into_iter().flatten().min_by_key(|(due, _)| *due);
        }
        if self.has_failed_output() {
            return Some((deadline(self.last_sign(), self.options.close_timeout), Limit::FailedOutput));
        }
        let waits = self.pending_output() > 0;
        // Who was asked to end is asked once.
        let is_asked = since.asked.is_some();
        let opening = at(since.opened, limits.opening).filter(|_| !since.heard && !is_asked);
        let message = since.half.and_then(|(half, _)| at(half, limits.message));
        // Who is not read cannot help being silent, nor who waits for a file that is being read.
        let waits_for_file = self.file_read == FileRead::InFlight && !waits;
        let idle =
            at(self.last_sign(), limits.idle).filter(|_| !self.is_silenced() && !is_asked && !waits_for_file);
        let stall = at(self.last_progress, limits.write_stall).filter(|_| waits);
        let lifetime = at(since.opened, limits.lifetime).filter(|_| !is_asked);
        let limits = [
            opening.map(|due| (due, Limit::Opening)),
            message.map(|due| (due, Limit::Message)),
            idle.map(|due| (due, Limit::Idle)),
            stall.map(|due| (due, Limit::WriteStall)),
            rate,
            lifetime.map(|due| (due, Limit::Lifetime)),
            farewell,
        ];
        limits.into_iter().flatten().min_by_key(|(due, _)| *due)
    }

    /// When the peer must have taken enough.
    fn rate_due(&self) -> Option<Instant> {
        let (rate, (since, _)) = self.options.deadlines.write_rate.zip(self.since.output)?;
        at(since, rate.period)
    }

    /// Why the peer took too little, if it did; otherwise the next period begins.
    fn check_rate(&mut self, now: Instant) -> Option<CloseReason> {
        let (rate, (_, taken)) = self.options.deadlines.write_rate.zip(self.since.output)?;
        if taken >= rate.bytes {
            self.since.output = Some((now, 0));
            return None;
        }
        let (pending, least, period) = (self.unsent(), rate.bytes, rate.period);
        Some(CloseReason::WriteTooSlow { pending, taken, least, period })
    }

    /// Whether this side keeps the peer from saying anything.
    fn is_silenced(&self) -> bool {
        self.paused || self.throttled || !self.has_passage_open()
    }

    /// What follows from the first of those limits, if it is reached.
    pub(super) fn limit_overdue(&mut self, now: Instant) -> Overdue {
        let Some((_, limit)) = self.first_limit().filter(|(due, _)| *due <= now) else {
            return Overdue::Nothing;
        };
        let (limits, pending) = (&self.options.deadlines, self.unsent());
        match limit {
            Limit::FailedOutput => Overdue::Fail(CloseReason::Closed),
            Limit::Opening => {
                let reason = CloseReason::OpeningTimeout { timeout: limits.opening };
                self.ask_to_end(now, Some(reason))
            }
            Limit::Message => {
                let (pending, timeout) = (self.unconsumed(), limits.message);
                Overdue::Fail(CloseReason::MessageTimeout { pending, timeout })
            }
            Limit::Idle => {
                let reason = CloseReason::IdleTimeout { timeout: limits.idle };
                if pending > 0 {
                    // Who takes nothing is not waited for once more.
                    return Overdue::Fail(reason);
                }
                self.ask_to_end(now, Some(reason))
            }
            Limit::WriteStall => {
                Overdue::Fail(CloseReason::WriteStalled { pending, timeout: limits.write_stall })
            }
            Limit::WriteRate => self.check_rate(now).map_or(Overdue::Nothing, Overdue::Fail),
            Limit::Flush => {
                Overdue::Fail(CloseReason::FlushTimeout { pending, timeout: self.options.flush_timeout })
            }
            Limit::Lifetime => self.ask_to_end(now, None),
            Limit::Farewell => Overdue::Fail(CloseReason::LifetimeOver { lifetime: limits.lifetime }),
        }
    }

    fn ask_to_end(&mut self, now: Instant, reason: Option<CloseReason>) -> Overdue {
        self.since.asked = Some(now);
        Overdue::AskToEnd(reason)
    }
}
