//! Progress, the table and JSON.

use crate::ground::Ground;
use crate::ledger::{Kind, Sums};
use crate::measure::Measure;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) passed: bool,
    pub(crate) seed: u64,
    pub(crate) seconds: f64,
    /// Whether the time sufficed for that.
    pub(crate) memory_compared: bool,
    pub(crate) before: Measure,
    pub(crate) after: Measure,
    pub(crate) backends: Vec<Row>,
    pub(crate) failures: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Row {
    backend: String,
    /// Requests that services were called for.
    executed: u64,
    /// Requests that nobody made, of those who send nonsense.
    foreign: u64,
    connections: u64,
    connections_reset: u64,
    received_bytes: u64,
    sent_bytes: u64,
    kinds: BTreeMap<Kind, Sums>,
}

impl Row {
    pub(crate) fn of(ground: &Ground) -> Self {
        let metrics = ground.servers.metrics();
        Row {
            backend: ground.backend.to_string(),
            executed: ground.ledger.executions.load(SeqCst),
            foreign: ground.ledger.foreign.load(SeqCst),
            connections: metrics.connections_opened,
            connections_reset: metrics.connections_reset,
            received_bytes: metrics.received_bytes,
            sent_bytes: metrics.sent_bytes,
            kinds: Kind::ALL.into_iter().map(|kind| (kind, ground.ledger.sums(kind))).collect(),
        }
    }
}

/// One line, over the last one.
pub(crate) fn progress(phase: &str, elapsed: Duration, grounds: &[Arc<Ground>]) {
    let mut line = format!("\r{phase} {:>4} s", elapsed.as_secs());
    if let Some(bytes) = Measure::now().rss_bytes {
        write!(line, "  {:>3} MiB", bytes >> 20).expect("a string takes everything");
    }
    for ground in grounds {
        let (executed, failed) = (ground.ledger.executions.load(SeqCst), ground.ledger.failed.load(SeqCst));
        let open = ground.servers.metrics().connections();
        let restarts = ground.ledger.sums(Kind::Restart).sessions;
        write!(
            line,
            "  {}: {executed} executed, {open} open, {restarts} restarts, {failed} failures",
            ground.backend
        )
        .expect("a string takes everything");
    }
    eprint!("{line}");
}

pub(crate) fn table(report: &Report) -> String {
    let mut text = String::new();
    for row in &report.backends {
        writeln!(
            text,
            "{}: {} requests executed over {} connections, {} of them reset\n{:<12}{:>10}{:>12}{:>12}{:>12}{:>12}",
            row.backend,
            row.executed,
            row.connections,
            row.connections_reset,
            "",
            "sessions",
            "requests",
            "answered",
            "maybe",
            "not sent"
        )
        .expect("a string takes everything");
        for (kind, Sums { sessions, requests, answered, maybe, not_sent }) in &row.kinds {
            let name = format!("{kind:?}");
            writeln!(text, "{name:<12}{sessions:>10}{requests:>12}{answered:>12}{maybe:>12}{not_sent:>12}")
                .expect("a string takes everything");
        }
        text.push('\n');
    }
    let (before, after) = (&report.before, &report.after);
    let mib =
        |measure: &Measure| measure.rss_bytes.map_or(f64::NAN, |bytes| bytes as f64 / f64::from(1 << 20));
    writeln!(
        text,
        "memory {:.1} MiB before, {:.1} after; descriptors {} before, {} after",
        mib(before),
        mib(after),
        before.descriptors,
        after.descriptors
    )
    .expect("a string takes everything");
    text
}
