//! What the process has.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Measure {
    /// `None` where the system does not tell.
    pub(crate) rss_bytes: Option<u64>,
    pub(crate) descriptors: u64,
}

/// What memory may grow by: a tenth and so much.
const SLACK: u64 = 16 << 20;

impl Measure {
    pub(crate) fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let rss = rss.and_then(|rss| rss.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        let rss_bytes = rss.map(|kilobytes| kilobytes << 10);
        // One is for the look itself, each time.
        let descriptors = std::fs::read_dir("/dev/fd").map_or(0, |entries| entries.count() as u64);
        Measure { rss_bytes, descriptors }
    }

    /// What is not as it was before, `warm` if pools and the allocator had had the time to come to what they keep.
    pub(crate) fn differs_from(&self, before: &Measure, warm: bool) -> Vec<String> {
        let mut differences = Vec::new();
        if self.descriptors != before.descriptors {
            differences
                .push(format!("{} descriptors are open, {} before", self.descriptors, before.descriptors));
        }
        if let (Some(now), Some(before)) = (self.rss_bytes, before.rss_bytes)
            && warm
            && now > before + before / 10 + SLACK
        {
            differences.push(format!("{now} bytes of memory are resident, {before} before"));
        }
        differences
    }
}

/// Raises the limit of descriptors as far as the process may: how many there may be.
pub(crate) fn most_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // Fails where the hard limit is more than the kernel takes; then the soft one stays.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(1 << 20)
}
