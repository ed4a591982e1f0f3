//! What is printed, and where it comes from.

use crate::feed::Shared;
use crate::options::Options;
use crate::subscriber::Heard;
use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};
use trochus::Backend;

pub(crate) struct Report {
    pub(crate) backend: Backend,
    pub(crate) published: u64,
    pub(crate) elapsed: Duration,
    /// Of the whole process, subscribers included.
    pub(crate) cpu: Duration,
    /// Of the publisher and its reactors.
    pub(crate) server_cpu: Duration,
    pub(crate) rss: Option<u64>,
    pub(crate) closed: u64,
    pub(crate) behind: u64,
    pub(crate) waited: Duration,
    pub(crate) heard: Heard,
}

pub(crate) const HEAD: &str = "\
backend   policy       linger us  published/s  delivered/s    p50 us    p99 us  p99.9 us  gaps  left out  behind  closed  lost  \
waited ms  RSS MB  CPU %  server CPU %";

impl Report {
    fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.elapsed.as_secs_f64()
    }

    fn percent(&self, time: Duration) -> f64 {
        time.as_secs_f64() / self.elapsed.as_secs_f64() * 100.0
    }

    fn late_us(&self, quantile: f64) -> f64 {
        self.heard.lateness.value_at_quantile(quantile) as f64 / 1e3
    }

    fn rss_mb(&self) -> Option<f64> {
        self.rss.map(|bytes| bytes as f64 / 1e6)
    }

    pub(crate) fn to_row(&self, options: &Options) -> String {
        let Heard { messages, gaps, left_out, lost, .. } = self.heard;
        let rss = self.rss_mb().map_or("–".to_owned(), |rss| format!("{rss:.0}"));
        format!(
            "{:<9} {:<12} {:>9} {:>12.0} {:>12.0} {:>9.0} {:>9.0} {:>9.0} {gaps:>5} {left_out:>9} {:>7} {:>7} {lost:>5} {:>10.0} \
             {rss:>7} {:>6.0} {:>13.0}",
            self.backend.to_string(),
            options.policy,
            options.linger.as_micros(),
            self.per_second(self.published),
            self.per_second(messages),
            self.late_us(0.5),
            self.late_us(0.99),
            self.late_us(0.999),
            self.behind,
            self.closed,
            self.waited.as_secs_f64() * 1e3,
            self.percent(self.cpu),
            self.percent(self.server_cpu),
        )
    }

    pub(crate) fn to_json(&self, options: &Options) -> String {
        serde_json::json!({
            "backend": self.backend.to_string(),
            "policy": options.policy.to_string(),
            "rate": options.rate,
            "reactors": options.reactors,
            "subscribers": options.subscribers,
            "slow": options.slow,
            "linger_us": options.linger.as_micros() as u64,
            "published": self.published,
            "delivered": self.heard.messages,
            "delivered_per_s": self.per_second(self.heard.messages),
            "p50_us": self.late_us(0.5),
            "p99_us": self.late_us(0.99),
            "p999_us": self.late_us(0.999),
            "gaps": self.heard.gaps,
            "left_out": self.heard.left_out,
            "behind": self.behind,
            "closed": self.closed,
            "lost": self.heard.lost,
            "waited_ms": self.waited.as_secs_f64() * 1e3,
            "rss_mb": self.rss_mb(),
            "cpu_percent": self.percent(self.cpu),
            "server_cpu_percent": self.percent(self.server_cpu),
        })
        .to_string()
    }
}

/// A line a second while it goes on.
pub(crate) struct Live {
    started: Instant,
    looked: Instant,
    published: u64,
    delivered: u64,
}

impl Live {
    pub(crate) fn new(started: Instant) -> Self {
        Live { started, looked: started, published: 0, delivered: 0 }
    }

    pub(crate) fn is_due(&self) -> bool {
        self.looked.elapsed() >= Duration::from_secs(1)
    }

    pub(crate) fn tell(&mut self, published: u64, delivered: u64, shared: &Shared) {
        let now = Instant::now();
        let time = (now - self.looked).as_secs_f64().max(1e-3);
        eprintln!(
            "{:>4.0} s: {:.0} messages/s, {:.0} deliveries/s, {} closed, {} times behind",
            (now - self.started).as_secs_f64(),
            (published - self.published) as f64 / time,
            (delivered - self.delivered) as f64 / time,
            shared.closed(),
            shared.behind(),
        );
        (self.looked, self.published, self.delivered) = (now, published, delivered);
    }
}

pub(crate) fn process_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

/// Of this thread.
pub(crate) fn thread_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// Where the system tells.
pub(crate) fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}
