//! What README.md says is true: its version, its commands, its examples, and its figures, which are those of the runs that
//! `docs/figures.jsonl` keeps. So are those of the presets in docs/tuning.md, of `docs/presets.jsonl`.
//!
//! After new runs (`cargo run --release --example loopback -- --backend all --json > docs/figures.jsonl`, and with `--preset`),
//! `UPDATE_README=1 cargo test --test readme` writes the tables and the picture.

use serde_json::Value;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn figures(file: &str) -> Vec<Value> {
    read(file).lines().map(|line| serde_json::from_str(line).expect("a JSON object a line")).collect()
}

fn number(row: &Value, name: &str) -> Option<f64> {
    row[name].as_f64()
}

/// `12.3 M`, `45 k`, `678`.
fn rate(value: f64) -> String {
    match value {
        value if value >= 1e8 => format!("{:.0} M", value / 1e6),
        value if value >= 1e6 => format!("{:.1} M", value / 1e6),
        value if value >= 1e3 => format!("{:.0} k", value / 1e3),
        value => format!("{value:.0}"),
    }
}

fn label(row: &Value) -> String {
    let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
    let busy = if row["busy_poll"] == "on" { ", busy polling" } else { "" };
    let drive = match (row["drive"].as_str(), number(row, "producers"), number(row, "threads")) {
        (Some("reactor"), ..) => ", by the reactors".to_owned(),
        (Some("shared"), _, Some(threads)) => format!(", {threads} threads, one handle"),
        (Some(_), Some(producers), Some(threads)) => format!(", {producers} producers on {threads} threads"),
        _ => String::new(),
    };
    let target =
        number(row, "target_per_s").map_or(String::new(), |target| format!(", {}/s asked for", rate(target)));
    format!("{} × {}{drive}{target}{busy}", text("experiment"), row["connections"])
}

fn table(rows: &[Value]) -> String {
    let mut table = String::from(
        "| experiment × connections | bytes | backend | messages/s | Gbit/s | ± % | p50 µs | p99 µs | p99.9 µs | plain sockets | ratio |\n\
         | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    let cell = |value: Option<String>| value.unwrap_or_else(|| "–".to_owned());
    for row in rows {
        let baseline = match (number(row, "baseline_messages_per_s"), number(row, "baseline_gbit_per_s")) {
            (Some(messages), _) => Some(format!("{}/s", rate(messages))),
            (None, Some(gbit)) => Some(format!("{gbit:.0} Gbit/s")),
            (None, None) => None,
        };
        writeln!(
            table,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            label(row),
            row["size"],
            row["backend"].as_str().unwrap_or_default(),
            cell(number(row, "messages_per_s").map(rate)),
            cell(number(row, "gbit_per_s").map(|gbit| format!("{gbit:.1}"))),
            cell(number(row, "spread").map(|spread| format!("{:.0}", spread * 50.0))),
            cell(number(row, "p50_us").map(|time| format!("{time:.0}"))),
            cell(number(row, "p99_us").map(|time| format!("{time:.0}"))),
            cell(number(row, "p999_us").map(|time| format!("{time:.0}"))),
            cell(baseline),
            cell(number(row, "ratio").map(|ratio| format!("{ratio:.2}"))),
        )
        .unwrap();
    }
    table
}

/// What each preset is good for, and what it costs.
fn presets(rows: &[Value]) -> String {
    let mut table = String::from(
        "| preset | backend | one request at a time, 1/s | p50 µs | cores | 10 k/s: p50 µs | p99 µs | cores | 512 producers on 2 threads, 1/s |\n\
         | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for preset in ["throughput", "balanced", "latency"] {
        for backend in ["io_uring", "fallback"] {
            let of = |experiment: &str, connections: u64| {
                let mut rows = rows.iter().filter(|row| {
                    let asked = number(row, "target_per_s").is_none_or(|target| target == 1e4);
                    let names = row["preset"] == preset && row["backend"] == backend && asked;
                    names && row["experiment"] == experiment && row["connections"] == connections
                });
                rows.next().unwrap_or_else(|| panic!("no {experiment} with {preset} on {backend}"))
            };
            let (one, rated, many) = (of("pingpong", 1), of("latency", 16), of("echo4", 512));
            let figure = |row: &Value, name: &str| number(row, name).unwrap_or_else(|| panic!("no {name}"));
            writeln!(
                table,
                "| {preset} | {backend} | {} | {:.0} | {:.1} | {:.0} | {:.0} | {:.1} | {} |",
                rate(figure(one, "messages_per_s")),
                figure(one, "p50_us"),
                figure(one, "cores"),
                figure(rated, "p50_us"),
                figure(rated, "p99_us"),
                figure(rated, "cores"),
                rate(figure(many, "messages_per_s")),
            )
            .unwrap();
        }
    }
    table
}

/// Bars of the ratios to plain sockets, one group an experiment.
fn picture(rows: &[Value]) -> String {
    const ROW: usize = 22;
    const LEFT: f64 = 260.0;
    const WIDTH: f64 = 420.0;
    let compared: Vec<&Value> = rows.iter().filter(|row| row["ratio"].is_number()).collect();
    let most = compared.iter().filter_map(|row| number(row, "ratio")).fold(1.2, f64::max).min(2.0);
    let height = compared.len() * ROW + 40;
    let one = LEFT + WIDTH / most;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"760\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (index, row) in compared.iter().enumerate() {
        let ratio = number(row, "ratio").unwrap_or_default();
        let (y, width) = (index * ROW + 8, ratio.min(most) / most * WIDTH);
        let color = if row["backend"] == "io_uring" { "#2f6f8f" } else { "#c98b2f" };
        let backend = row["backend"].as_str().unwrap_or_default();
        writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{} {backend}</text>",
            LEFT - 8.0,
            y + 12,
            label(row)
        )
        .unwrap();
        writeln!(svg, "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.0}\" height=\"16\" fill=\"{color}\"/>")
            .unwrap();
        writeln!(svg, "<text x=\"{:.0}\" y=\"{}\">{ratio:.2}</text>", LEFT + width + 6.0, y + 12).unwrap();
    }
    let bottom = compared.len() * ROW + 12;
    writeln!(svg, "<line x1=\"{one:.0}\" y1=\"0\" x2=\"{one:.0}\" y2=\"{bottom}\" stroke=\"black\" stroke-dasharray=\"4\"/>").unwrap();
    writeln!(
        svg,
        "<text x=\"{one:.0}\" y=\"{}\" text-anchor=\"middle\">plain sockets = 1</text>\n</svg>",
        bottom + 16
    )
    .unwrap();
    svg
}

/// Puts `text` between the markers of that name.
fn with_section(document: &str, name: &str, text: &str) -> String {
    let (start, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let (before, rest) = document.split_once(&start).unwrap_or_else(|| panic!("there is no {start}"));
    let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("there is no {end}"));
    format!("{before}{start}{text}{end}{after}")
}

#[test]
fn the_tables_and_the_picture_are_those_of_the_last_runs() {
    let rows = figures("docs/figures.jsonl");
    let readme = with_section(&read("README.md"), "figures", &format!("\n{}\n", table(&rows)));
    let platforms = read("tests/portability/results.md");
    let readme = with_section(&readme, "platforms", &format!("\n{}\n", platforms.trim()));
    let presets = presets(&figures("docs/presets.jsonl"));
    let tuning = with_section(&read("docs/tuning.md"), "presets", &format!("\n{presets}\n"));
    for (name, expected) in
        [("README.md", readme), ("docs/tuning.md", tuning), ("docs/figures.svg", picture(&rows))]
    {
        if std::env::var_os("UPDATE_README").is_some() {
            fs::write(path(name), &expected).unwrap();
        } else {
            assert_eq!(read(name), expected, "{name}: run `UPDATE_README=1 cargo test --test readme`");
        }
    }
}

#[test]
fn every_experiment_was_measured_on_both_backends() {
    let rows = figures("docs/figures.jsonl");
    for row in &rows {
        let twin = rows.iter().any(|other| other["backend"] != row["backend"] && label(other) == label(row));
        assert!(twin, "{} on {} only", label(row), row["backend"]);
    }
}

#[test]
fn version_and_oldest_compiler_are_those_of_the_crate() {
    let readme = read("README.md");
    let (major, minor) = (env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR"));
    assert!(readme.contains(&format!("trochus = \"{major}.{minor}\"")), "the version in README.md");
    assert!(
        readme.contains(&format!("Rust {}", env!("CARGO_PKG_RUST_VERSION"))),
        "the oldest compiler in README.md"
    );
    assert!(
        read("CHANGELOG.md").contains(&format!("\n## {}", env!("CARGO_PKG_VERSION"))),
        "the version in CHANGELOG.md"
    );
}

#[test]
fn the_two_commands_are_there_and_ci_runs_them() {
    let (readme, ci) = (read("README.md"), read(".ci/run"));
    assert!(readme.contains("cargo run --release --example loopback\n"));
    assert!(readme.contains("cargo test --workspace\n"));
    assert!(ci.contains("step cargo test --workspace\n"));
    assert!(ci.contains("cargo run --release --example loopback"));
}

#[test]
fn the_examples_that_are_named_exist() {
    let readme = read("README.md");
    let named: Vec<&str> = readme
        .split("--example ")
        .skip(1)
        .map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap())
        .collect();
    assert!(named.len() > 3);
    for name in named {
        let (file, folder) =
            (path(&format!("examples/{name}.rs")), path(&format!("examples/{name}/main.rs")));
        assert!(file.exists() || folder.exists(), "README.md names an example {name}");
    }
}
