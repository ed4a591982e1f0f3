//! Whether to look for work before sleeping.

use crate::config::{BUSY_POLL, BusyPoll};
use crate::error::Result;
use crate::reactor::Reactor;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Looking pays off when sleeps are short. This much evidence makes it start, and it stops when it is used up.
const ENOUGH: u8 = 4;
const MOST: u8 = 16;

/// How many cores the process may use. Asked once, and by whoever starts reactors before they are pinned: a thread that
/// is pinned hears of one.
pub(crate) fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Reactors of this process.
static REACTORS: AtomicUsize = AtomicUsize::new(0);

#[derive(Debug)]
pub(in crate::reactor) struct Busy {
    mode: BusyPoll,
    cores: usize,
    evidence: u8,
}

impl Busy {
    pub(in crate::reactor) fn new(mode: BusyPoll) -> Self {
        REACTORS.fetch_add(1, Ordering::Relaxed);
        Busy { mode, cores: cores(), evidence: 0 }
    }

    /// How long to look, if at all.
    pub(in crate::reactor) fn budget(&self) -> Option<Duration> {
        match self.mode {
            BusyPoll::Off => None,
            BusyPoll::For(budget) => Some(budget),
            BusyPoll::Adaptive => {
                let enough_cores = REACTORS.load(Ordering::Relaxed) <= self.cores && self.cores > 1;
                (enough_cores && self.evidence >= ENOUGH).then_some(BUSY_POLL)
            }
        }
    }

    pub(in crate::reactor) fn found(&mut self) {
        self.evidence = (self.evidence + 1).min(MOST);
    }

    pub(in crate::reactor) fn found_nothing(&mut self) {
        self.evidence = self.evidence.saturating_sub(2);
    }

    /// A sleep that ended within the time that looking takes would have been better spent looking.
    pub(in crate::reactor) fn slept(&mut self, time: Duration) {
        if time <= BUSY_POLL {
            self.found();
        } else {
            self.evidence = self.evidence.saturating_sub(1);
        }
    }
}

impl Reactor {
    /// Looks for completions and commands a while, if that has paid off lately.
    pub(in crate::reactor) fn poll_busily(&mut self, timeout: Option<Duration>) -> Result<()> {
        let Some(budget) = self.busy.budget() else { return Ok(()) };
        let start = Instant::now();
        let budget = timeout.map_or(budget, |timeout| timeout.min(budget));
        while start.elapsed() < budget {
            if self.driver.may_have_completed() {
                self.enter(Some(Duration::ZERO))?;
            }
            if self.has_ready_work() || self.shared.mailbox.has_mail() {
                self.busy.found();
                return Ok(());
            }
            // Whoever else has something to do on this core may be the one who is waited for.
            std::thread::yield_now();
        }
        self.busy.found_nothing();
        Ok(())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        REACTORS.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_sleeps_start_it_and_long_ones_end_it() {
        let mut busy = Busy::new(BusyPoll::Adaptive);
        busy.cores = usize::MAX;
        assert_eq!(busy.budget(), None);
        (0..ENOUGH).for_each(|_| busy.slept(Duration::from_micros(20)));
        assert_eq!(busy.budget(), Some(BUSY_POLL));
        (0..MOST).for_each(|_| busy.slept(Duration::from_millis(1)));
        assert_eq!(busy.budget(), None);
        busy.cores = 0;
        (0..MOST).for_each(|_| busy.found());
        assert_eq!(busy.budget(), None, "fewer cores than reactors");
    }

    #[test]
    fn a_reactor_on_a_pinned_thread_knows_of_all_cores() {
        let all = cores();
        let pinned = std::thread::spawn(|| {
            core_affinity::set_for_current(core_affinity::get_core_ids().unwrap_or_default()[0]);
            Busy::new(BusyPoll::Adaptive).cores
        });
        assert_eq!(pinned.join().unwrap(), all);
    }
}
