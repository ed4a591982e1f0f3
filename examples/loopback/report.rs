//! Progress, the table, the picture and JSON.

use crate::experiment::EXPERIMENTS;
use crate::options::Options;
use crate::preset::Preset;
use crate::rounds::{Compared, Summary};
use serde::Serialize;
use std::fmt::Write;
use std::thread;
use std::time::{Duration, Instant};
use trochus::Backend;

/// Takes each row as soon as it is there.
pub(crate) type Report<'a> = &'a mut dyn FnMut(Row);

/// One line of results. The names are those of the JSON objects; `None` where something does not apply.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) experiment: &'static str,
    pub(crate) backend: String,
    pub(crate) reactors: usize,
    pub(crate) connections: usize,
    /// Bytes of a write, or of a message.
    pub(crate) size: usize,
    /// What was set, if it was a preset; and else what the reactors did before they slept.
    pub(crate) preset: Option<&'static str>,
    pub(crate) busy_poll: Option<&'static str>,
    /// Who made the requests, where that can be chosen.
    pub(crate) drive: Option<&'static str>,
    /// How many of them, and on how many threads that are not reactors.
    pub(crate) producers: Option<usize>,
    pub(crate) threads: Option<usize>,
    /// Messages that were to be sent a second, where that is given.
    pub(crate) target_per_s: Option<f64>,
    pub(crate) messages_per_s: Option<f64>,
    /// One way, of messages; `duplex` has both ways together.
    pub(crate) gbit_per_s: Option<f64>,
    /// The fastest slice's rate less the slowest's, over the median, which is what stands here as the rate.
    pub(crate) spread: Option<f64>,
    /// Of all round trips together.
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    pub(crate) p999_us: Option<f64>,
    pub(crate) max_us: Option<f64>,
    /// How late requests were made that had to be made at a given time; the latencies count from that time.
    pub(crate) late_p50_us: Option<f64>,
    pub(crate) late_p99_us: Option<f64>,
    /// Processor time, of both ends, over time.
    pub(crate) cores: Option<f64>,
    pub(crate) baseline_messages_per_s: Option<f64>,
    pub(crate) baseline_gbit_per_s: Option<f64>,
    pub(crate) baseline_p50_us: Option<f64>,
    pub(crate) baseline_p99_us: Option<f64>,
    pub(crate) baseline_p999_us: Option<f64>,
    pub(crate) baseline_late_p99_us: Option<f64>,
    pub(crate) baseline_cores: Option<f64>,
    /// Trochus over the baseline: of messages where there are messages, else of bytes.
    pub(crate) ratio: Option<f64>,
    /// Both ends of each connection were on one reactor.
    pub(crate) local: Option<bool>,
    /// Connections that were made a second, one after the other, while those that were there already played; of the slowest
    /// tenth of them; and what was played a second while the last tenth connected.
    pub(crate) connects_per_s: Option<f64>,
    pub(crate) slowest_connects_per_s: Option<f64>,
    pub(crate) messages_per_s_meanwhile: Option<f64>,
    /// What the slowest connection played, over what they played on average.
    pub(crate) slowest: Option<f64>,
}

impl Row {
    pub(crate) fn new(
        options: &Options,
        experiment: &'static str,
        connections: usize,
        size: usize,
        backend: Backend,
    ) -> Self {
        Row {
            experiment,
            backend: backend.to_string(),
            reactors: options.reactors,
            connections,
            size,
            preset: options.preset.map(Preset::name),
            busy_poll: options.busy_poll_name(),
            drive: None,
            producers: None,
            threads: None,
            target_per_s: None,
            messages_per_s: None,
            gbit_per_s: None,
            spread: None,
            p50_us: None,
            p99_us: None,
            p999_us: None,
            max_us: None,
            late_p50_us: None,
            late_p99_us: None,
            cores: None,
            baseline_messages_per_s: None,
            baseline_gbit_per_s: None,
            baseline_p50_us: None,
            baseline_p99_us: None,
            baseline_p999_us: None,
            baseline_late_p99_us: None,
            baseline_cores: None,
            ratio: None,
            local: None,
            connects_per_s: None,
            slowest_connects_per_s: None,
            messages_per_s_meanwhile: None,
            slowest: None,
        }
    }

    pub(crate) fn measured(mut self, summary: &Summary) -> Self {
        self.messages_per_s = summary.messages_per_s;
        self.gbit_per_s = summary.bytes_per_s.map(gbit);
        self.spread = summary.spread;
        if let Some(latency) = summary.latency {
            (self.p50_us, self.p99_us) = (Some(latency.p50_us), Some(latency.p99_us));
            (self.p999_us, self.max_us) = (Some(latency.p999_us), Some(latency.max_us));
        }
        self.late_p50_us = summary.lateness.map(|late| late.p50_us);
        self.late_p99_us = summary.lateness.map(|late| late.p99_us);
        (self.cores, self.local) = (summary.cores, summary.local);
        self.connects_per_s = summary.connects_per_s;
        self.slowest_connects_per_s = summary.slowest_connects_per_s;
        self.messages_per_s_meanwhile = summary.messages_per_s_meanwhile;
        self.slowest = summary.slowest;
        self
    }

    pub(crate) fn compared(self, Compared { trochus, baseline, .. }: &Compared) -> Self {
        let mut row = self.measured(trochus);
        row.baseline_messages_per_s = baseline.messages_per_s;
        row.baseline_gbit_per_s = baseline.bytes_per_s.map(gbit);
        row.baseline_p50_us = baseline.latency.map(|latency| latency.p50_us);
        row.baseline_p99_us = baseline.latency.map(|latency| latency.p99_us);
        row.baseline_p999_us = baseline.latency.map(|latency| latency.p999_us);
        row.baseline_late_p99_us = baseline.lateness.map(|late| late.p99_us);
        row.baseline_cores = baseline.cores;
        let ratio = |ours: Option<f64>, theirs: Option<f64>| Some(ours? / theirs?);
        row.ratio = ratio(trochus.messages_per_s, baseline.messages_per_s)
            .or_else(|| ratio(trochus.bytes_per_s, baseline.bytes_per_s));
        row
    }

    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a row has only strings and numbers")
    }
}

fn gbit(bytes_per_s: f64) -> f64 {
    bytes_per_s * 8.0 / 1e9
}

/// Between two lines of progress.
const EVERY: Duration = Duration::from_secs(1);
/// How long something must have been counted before its rate is told.
const MEANINGFUL: Duration = Duration::from_millis(200);

/// A line a second on standard error, while something is measured.
#[derive(Debug)]
pub(crate) struct Progress {
    experiment: &'static str,
    last: Instant,
}

/// What a rate is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Bytes,
    Messages,
}

impl Progress {
    pub(crate) fn new(experiment: &'static str) -> Self {
        Progress { experiment, last: Instant::now() }
    }

    /// Lets `time` pass, and now and then says how fast `count` grows.
    pub(crate) fn wait(&mut self, time: Duration, who: &str, unit: Unit, count: impl Fn() -> u64) {
        let (start, before) = (Instant::now(), count());
        let end = start + time;
        // What was counted within the first moments says little about a rate.
        self.last = self.last.max((start + MEANINGFUL).checked_sub(EVERY).unwrap_or(start));
        while Instant::now() < end {
            let next = end.min(self.last + EVERY);
            thread::sleep(next.saturating_duration_since(Instant::now()));
            if self.last.elapsed() >= EVERY {
                self.last = Instant::now();
                let rate = (count() - before) as f64 / start.elapsed().as_secs_f64();
                let rate = match unit {
                    Unit::Bytes => format!("{:.1} Gbit/s", gbit(rate)),
                    Unit::Messages => format!("{rate:.0} messages/s"),
                };
                eprintln!("{} {who}: {rate}", self.experiment);
            }
        }
    }
}

/// The experiments' names and what they are, for the help.
pub(crate) fn experiments() -> String {
    let mut text = String::new();
    for experiment in EXPERIMENTS {
        writeln!(text, "  {:<24} {}", experiment.name, experiment.about).expect("a string takes everything");
    }
    text
}

/// All rows, under a heading.
pub(crate) fn table(rows: &[Row]) -> String {
    let heading =
        ["experiment", "backend", "conns", "size", "messages/s", "Gbit/s", "spread", "p50 µs", "p99 µs"]
            .into_iter()
            .chain(["p99.9 µs", "late p99", "cores", "plain messages/s", "plain Gbit/s", "ratio", "local"])
            .map(str::to_owned);
    let mut lines: Vec<Vec<String>> = vec![heading.collect()];
    lines.extend(rows.iter().map(cells));
    let widths: Vec<usize> = (0..lines[0].len())
        .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for line in lines {
        let mut row = String::new();
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            // Names to the left, figures to the right.
            let padded = if column < 2 { format!("{cell:<width$}") } else { format!("{cell:>width$}") };
            row = if column == 0 { padded } else { row + "  " + &padded };
        }
        text += row.trim_end();
        text.push('\n');
    }
    text
}

fn cells(row: &Row) -> Vec<String> {
    let number = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
    };
    vec![
        row.experiment.to_owned(),
        row.backend.clone(),
        row.connections.to_string(),
        row.size.to_string(),
        number(row.messages_per_s, 0),
        number(row.gbit_per_s, 2),
        row.spread.map_or_else(|| "-".to_owned(), |spread| format!("{:.0} %", spread * 100.0)),
        number(row.p50_us, 1),
        number(row.p99_us, 1),
        number(row.p999_us, 1),
        number(row.late_p99_us, 1),
        number(row.cores, 2),
        number(row.baseline_messages_per_s, 0),
        number(row.baseline_gbit_per_s, 2),
        number(row.ratio, 2),
        row.local.map_or("-", |local| if local { "yes" } else { "no" }).to_owned(),
    ]
}

/// How connecting went and how evenly the connections were served, where that was measured with many of them.
pub(crate) fn connecting(rows: &[Row]) -> String {
    const MANY: usize = 100;
    let mut text = String::new();
    for row in rows.iter().filter(|row| row.connections >= MANY) {
        let (Some(connects), Some(slowest), Some(messages), Some(share)) =
            (row.connects_per_s, row.slowest_connects_per_s, row.messages_per_s_meanwhile, row.slowest)
        else {
            continue;
        };
        writeln!(
            text,
            "{} × {} {}: {connects:.0} connects/s (the slowest tenth {slowest:.0}/s), {messages:.0} messages/s while the last \
             ones connected; the slowest connection played {share:.2} of the mean",
            row.experiment, row.connections, row.backend
        )
        .expect("a string takes everything");
    }
    text
}

/// Columns of a bar whose ratio is 1.
const SCALE: f64 = 40.0;
const LONGEST_BAR: usize = 72;

/// The ratios as bars; `|` is where the plain sockets are.
pub(crate) fn picture(rows: &[Row]) -> String {
    let mut text = String::new();
    for (row, ratio) in rows.iter().filter_map(|row| Some((row, row.ratio?))) {
        let length = ((ratio * SCALE).round() as usize).min(LONGEST_BAR);
        let mut bar: Vec<char> = vec!['█'; length];
        bar.resize(length.max(SCALE as usize + 1), ' ');
        bar[SCALE as usize] = '|';
        let (bar, name) =
            (bar.into_iter().collect::<String>(), format!("{} × {}", row.experiment, row.connections));
        writeln!(text, "{name:<16} {:<9} {bar} {ratio:.2}", row.backend).expect("a string takes everything");
    }
    text
}
