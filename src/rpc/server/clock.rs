//! What a connection waits for, and for how long: one timer for all of it, which is set seldom.

use super::options::ServerOptions;
use crate::reactor::Io;
use std::time::{Duration, Instant};

/// Deadlines that move with each message cost nothing but a look: the timer fires when the first of them could be over, and is
/// set anew for what is left.
#[derive(Debug)]
pub(super) struct Clock {
    began: Instant,
    /// When the timer fires.
    armed: Option<Instant>,
    /// When the peer began to send the request whose rest is missing.
    half_since: Option<Instant>,
    /// When something came in last.
    heard: Instant,
}

/// Whose time is over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Over {
    HalfRequest(Duration),
    Idle(Duration),
}

impl Clock {
    pub(super) fn new(now: Instant) -> Self {
        Clock { began: now, armed: None, half_since: None, heard: now }
    }

    /// The time as requests know it, in milliseconds.
    pub(super) fn millis(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(u32::MAX)
    }

    /// Whether there was this connection then.
    pub(super) fn has_begun(&self, time: Instant) -> bool {
        time >= self.began
    }

    /// It is not the peer's fault that nothing came: what it takes is counted from now.
    pub(super) fn forgive(&mut self, now: Instant) {
        self.half_since = self.half_since.map(|_| now);
    }

    /// How long ago it was that [`millis`](Self::millis) said so.
    pub(super) fn age(&self, since: u32, now: Instant) -> Duration {
        now.saturating_duration_since(self.began).saturating_sub(Duration::from_millis(since.into()))
    }

    /// Bytes came; `consumed` says that some of them were whole requests, `half` that the last ones are not.
    #[inline]
    pub(super) fn heard(&mut self, now: Instant, consumed: bool, half: bool) {
        self.heard = now;
        if !half {
            self.half_since = None;
        } else if consumed || self.half_since.is_none() {
            self.half_since = Some(now);
        }
    }

    /// Sees to it that the timer fires in time for what is waited for now.
    #[inline]
    pub(super) fn arm(&mut self, io: &mut Io<'_>, options: &ServerOptions, in_progress: bool) {
        let shortest = [
            options.half_request_timeout.filter(|_| self.half_since.is_some()),
            options.request_timeout.filter(|_| in_progress),
            options.idle_timeout,
        ];
        if let Some(shortest) = shortest.into_iter().flatten().min() {
            self.arm_after(io, shortest);
        }
    }

    pub(super) fn arm_after(&mut self, io: &mut Io<'_>, time: Duration) {
        // What cannot be expressed never happens.
        let Some(deadline) = io.now().checked_add(time) else { return };
        if self.armed.is_none_or(|armed| deadline < armed) {
            self.armed = Some(deadline);
            io.set_timer(time);
        }
    }

    /// The timer has fired.
    pub(super) fn fired(&mut self) {
        self.armed = None;
    }

    /// What has taken too long, and otherwise how long from now the next look is due. Requests in progress are looked after
    /// elsewhere.
    pub(super) fn look(
        &self,
        now: Instant,
        options: &ServerOptions,
        is_idle: bool,
    ) -> Result<Option<Duration>, Over> {
        let left =
            |since: Instant, limit: Duration| limit.saturating_sub(now.saturating_duration_since(since));
        let half = options
            .half_request_timeout
            .zip(self.half_since)
            .map(|(limit, since)| (left(since, limit), limit));
        if let Some((Duration::ZERO, limit)) = half {
            return Err(Over::HalfRequest(limit));
        }
        let idle =
            options.idle_timeout.map(|limit| (if is_idle { left(self.heard, limit) } else { limit }, limit));
        if let Some((Duration::ZERO, limit)) = idle {
            return Err(Over::Idle(limit));
        }
        Ok([half, idle].into_iter().flatten().map(|(left, _)| left).min())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_request_is_as_old_as_its_first_byte() {
        let (options, second) =
            (ServerOptions::new().half_request_timeout(Duration::from_secs(3)), Duration::from_secs(1));
        let start = Instant::now();
        let mut clock = Clock::new(start);
        assert_eq!(clock.look(start + 100 * second, &options, true), Ok(None), "nothing is waited for");
        clock.heard(start, false, true);
        // One more byte each second.
        clock.heard(start + second, false, true);
        clock.heard(start + 2 * second, false, true);
        assert_eq!(clock.look(start + 2 * second, &options, false), Ok(Some(second)));
        assert_eq!(clock.look(start + 3 * second, &options, false), Err(Over::HalfRequest(3 * second)));
        // It was completed, and another one begun.
        clock.heard(start + 3 * second, true, true);
        assert_eq!(clock.look(start + 5 * second, &options, false), Ok(Some(second)));
        clock.heard(start + 5 * second, true, false);
        assert_eq!(clock.look(start + 100 * second, &options, false), Ok(None));
    }

    #[test]
    fn idle_is_who_sends_nothing_and_waits_for_nothing() {
        let (options, second) =
            (ServerOptions::new().idle_timeout(Duration::from_secs(3)), Duration::from_secs(1));
        let start = Instant::now();
        let mut clock = Clock::new(start);
        clock.heard(start + second, true, false);
        assert_eq!(clock.look(start + 3 * second, &options, true), Ok(Some(second)));
        assert_eq!(clock.look(start + 9 * second, &options, false), Ok(Some(3 * second)));
        assert_eq!(clock.look(start + 4 * second, &options, true), Err(Over::Idle(3 * second)));
    }
}
