//! The table and JSON.

use serde::{Deserialize, Serialize};
use std::fmt::Write;
use trochus::Backend;

/// What was found of one row on one backend.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Row {
    row: String,
    backend: String,
    /// Whether everything that decides was held.
    pub(crate) held: bool,
    findings: Vec<Finding>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Finding {
    what: String,
    value: f64,
    unit: Unit,
    limit: Option<Limit>,
    /// `None` if there is no limit.
    held: Option<bool>,
    /// Whether the exit status depends on it.
    decides: bool,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    Bytes,
    Number,
    PerSecond,
    Microseconds,
    Ratio,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Limit {
    AtMost(f64),
    AtLeast(f64),
    Exactly(f64),
}

#[derive(Debug, Default)]
pub(crate) struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, what: &str, value: f64, unit: Unit, limit: Option<Limit>, decides: bool) {
        let held = limit.map(|limit| match limit {
            Limit::AtMost(most) => value <= most,
            Limit::AtLeast(least) => value >= least,
            Limit::Exactly(right) => value == right,
        });
        self.0.push(Finding { what: what.to_owned(), value, unit, limit, held, decides });
    }

    /// For information.
    pub(crate) fn tell(&mut self, what: &str, value: f64, unit: Unit) {
        self.add(what, value, unit, None, false);
    }

    /// Ratios: they depend on what else the machine does.
    pub(crate) fn at_least(&mut self, what: &str, value: f64, least: f64) {
        self.add(what, value, Unit::Ratio, Some(Limit::AtLeast(least)), false);
    }

    pub(crate) fn times_at_most(&mut self, what: &str, value: f64, most: f64) {
        self.add(what, value, Unit::Ratio, Some(Limit::AtMost(most)), false);
    }

    /// A bound.
    pub(crate) fn bytes(&mut self, what: &str, value: u64, most: u64) {
        self.add(what, value as f64, Unit::Bytes, Some(Limit::AtMost(most as f64)), true);
    }

    /// Has to be this.
    pub(crate) fn exactly(&mut self, what: &str, value: u64, right: u64) {
        self.add(what, value as f64, Unit::Number, Some(Limit::Exactly(right as f64)), true);
    }
}

impl Row {
    pub(crate) fn new(row: &str, backend: Backend, Findings(findings): Findings) -> Self {
        let held = findings.iter().all(|finding| !finding.decides || finding.held != Some(false));
        Row { row: row.to_owned(), backend: backend.to_string(), held, findings }
    }
}

/// `12.3 MiB`, `1.2 k/s`, `0.98`.
fn show(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Bytes if value >= 1e6 => format!("{:.1} MiB", value / f64::from(1 << 20)),
        Unit::Bytes => format!("{value:.0} bytes"),
        Unit::Number => format!("{value:.0}"),
        Unit::PerSecond => format!("{:.1} k/s", value / 1e3),
        Unit::Microseconds => format!("{value:.0} µs"),
        Unit::Ratio => format!("{value:.2}"),
    }
}

/// In Markdown, so that it can be shown elsewhere as it is.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| row | backend | what was measured | | limit | held |\n| --- | --- | --- | ---: | ---: | --- |\n",
    );
    for Row { row, backend, findings, .. } in rows {
        for Finding { what, value, unit, limit, held, decides } in findings {
            let limit = match limit {
                Some(Limit::AtMost(most)) => format!("≤ {}", show(*most, *unit)),
                Some(Limit::AtLeast(least)) => format!("≥ {}", show(*least, *unit)),
                Some(Limit::Exactly(right)) => show(*right, *unit),
                None => "–".to_owned(),
            };
            let held = match (held, decides) {
                (None, _) => "–",
                (Some(true), _) => "yes",
                (Some(false), true) => "**no**",
                (Some(false), false) => "no",
            };
            writeln!(text, "| {row} | {backend} | {what} | {} | {limit} | {held} |", show(*value, *unit))
                .expect("a string takes everything");
        }
    }
    text
}
