//! What the process has, and rates.

use crate::clients::{Clients, Outcome};
use crate::{PATIENCE, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};
use trochus::Runtime;

/// Raises the limit of descriptors as far as the process may; clients inherit it.
pub(crate) fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    // Fails where the hard limit is more than the kernel takes; then the soft one stays.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// How many of `wanted` connections this process can have, if it has `ends` ends of each.
pub(crate) fn possible(wanted: usize, ends: usize) -> usize {
    /// Descriptors that are no connection's.
    const OTHERS: u64 = 500;
    let most = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20).saturating_sub(OTHERS);
    wanted.min(most as usize / ends)
}

/// Memory that is resident; `None` where the system does not tell.
pub(crate) fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

pub(crate) fn descriptors() -> u64 {
    // One is for the look itself, each time.
    std::fs::read_dir("/dev/fd").map_or(0, |entries| entries.count() as u64)
}

/// What memory may be more than before, once all is over: a tenth and so much.
pub(crate) fn as_before(before: u64) -> u64 {
    before + before / 10 + (16 << 20)
}

/// The most that was held, and that was resident.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Peak {
    pub(crate) held: u64,
    pub(crate) resident: u64,
}

/// Does `work`, and looks at memory meanwhile.
pub(crate) fn watching<T>(runtime: &Runtime, work: impl FnOnce() -> T) -> (T, Peak) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut peak = Peak::default();
            while !over.load(Relaxed) {
                peak.held = peak.held.max(runtime.memory_budget().held as u64);
                peak.resident = peak.resident.max(resident().unwrap_or(0));
                thread::sleep(Duration::from_millis(2));
            }
            peak
        });
        let done = work();
        over.store(true, Relaxed);
        (done, watching.join().expect("it does not panic"))
    })
}

/// Waits until it is so. Whether it was, in the end.
pub(crate) fn until(longest: Duration, mut so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + longest;
    while !so() {
        if Instant::now() > end {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Waits until the runtime has so many connections.
pub(crate) fn until_connected(runtime: &Runtime, connections: usize) -> Result<()> {
    let so = || runtime.metrics().connections() == connections as u64;
    let there = || format!("{} connections instead of {connections}", runtime.metrics().connections());
    if until(PATIENCE / 2, so) { Ok(()) } else { Err(there().into()) }
}

/// So many slices of `time` in all.
pub(crate) fn slices(clients: &mut Clients, rounds: u32, time: Duration) -> Result<Vec<Outcome>> {
    (0..rounds).map(|_| clients.go(time / rounds)).collect()
}

/// The one in the middle.
pub(crate) fn median(of: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = of.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

pub(crate) fn rate(of: &[Outcome]) -> f64 {
    median(of.iter().map(|outcome| outcome.per_second))
}

pub(crate) fn p99_us(of: &[Outcome]) -> f64 {
    median(of.iter().map(|outcome| outcome.p99_us))
}
