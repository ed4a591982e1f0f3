//! What the loop saw.

use crate::options::{Load, Options, Settings};
use crate::players::Served;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use std::time::Duration;
use trochus::Reactor;

#[derive(Default)]
pub(crate) struct Report {
    /// How late each tick was.
    pub(crate) late: Vec<Duration>,
    /// Waits and calls of the host's own that the kernel interrupted.
    pub(crate) interrupted: u64,
    pub(crate) datagrams: u64,
    turns: u64,
    longest: Duration,
    /// Of any turn, the most processor time of this thread.
    longest_processor: Duration,
}

/// What this thread has had of a processor.
pub(crate) fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The time that this share of them keeps to, in milliseconds.
fn quantile(times: &[Duration], share: f64) -> f64 {
    let mut times = times.to_vec();
    times.sort();
    let at = ((times.len() as f64 * share).ceil() as usize).clamp(1, times.len().max(1)) - 1;
    times.get(at).map_or(0.0, |time| milliseconds(*time))
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

impl Report {
    pub(crate) fn turned(&mut self, wall: Duration, processor: Duration) {
        self.turns += 1;
        self.longest = self.longest.max(wall);
        self.longest_processor = self.longest_processor.max(processor);
    }

    pub(crate) fn progress(&self, reactor: &Reactor) -> String {
        format!(
            "{:>6} ticks, latest {:.2} ms; {:>7} turns, longest {:.2} ms; {} players; {} MB",
            self.late.len(),
            quantile(&self.late, 1.0),
            self.turns,
            milliseconds(self.longest),
            reactor.connections(),
            reactor.metrics().received_bytes / 1_000_000,
        )
    }

    pub(crate) fn print(&self, options: &Options, reactor: &Reactor, timer: &[Duration], served: &[Served]) {
        for failure in served.iter().filter_map(|served| served.as_ref().err()) {
            eprintln!("a player was not served: {failure}");
        }
        let bytes: u64 = served.iter().flatten().sum();
        let players = served.iter().filter(|served| served.is_ok()).count();
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| quantile(&self.late, share));
        let [timer_p50, timer_p99, timer_max] = [0.5, 0.99, 1.0].map(|share| quantile(timer, share));
        let (longest, processor) = (milliseconds(self.longest), milliseconds(self.longest_processor));
        if options.json {
            let row = json!({
                "backend": reactor.backend().to_string(),
                "backend_reason": reactor.backend_reason(),
                "settings": if options.settings == Settings::Embedded { "embedded" } else { "default" },
                "load": if options.load == Load::Bulk { "bulk" } else { "ping" },
                "clients": options.clients,
                "served": players,
                "bytes": bytes,
                "seconds": options.time.as_secs_f64(),
                "ticks": self.late.len(),
                "tick_late_p50_ms": p50,
                "tick_late_p99_ms": p99,
                "tick_late_max_ms": max,
                "timers": timer.len(),
                "timer_late_p50_ms": timer_p50,
                "timer_late_p99_ms": timer_p99,
                "timer_late_max_ms": timer_max,
                "turns": self.turns,
                "longest_turn_ms": longest,
                "longest_turn_processor_ms": processor,
                "interrupted": self.interrupted,
                "datagrams": self.datagrams,
            });
            return println!("{row}");
        }
        println!("\nvia {}: {}", reactor.backend(), reactor.backend_reason());
        println!("{:<22} {:>10} {:>12} {:>12} {:>12}", "", "count", "p50", "p99", "longest");
        let line = |what: &str, count: u64, times: [f64; 3]| {
            let [p50, p99, max] = times.map(|time| format!("{time:.2} ms"));
            println!("{what:<22} {count:>10} {p50:>12} {p99:>12} {max:>12}");
        };
        line("ticks, how late", self.late.len() as u64, [p50, p99, max]);
        line("timers, how late", timer.len() as u64, [timer_p50, timer_p99, timer_max]);
        println!("{:<22} {:>10} {:>38}", "turns", self.turns, format!("{longest:.2} ms"));
        println!("{:<22} {:>49}", "  processor time", format!("{processor:.2} ms"));
        println!("{:<22} {:>10}", "interrupted waits", self.interrupted);
        println!("{:<22} {:>10}", "datagrams heard", self.datagrams);
        println!("{:<22} {:>10}, {} MB there and back", "players served", players, bytes / 1_000_000);
    }
}
