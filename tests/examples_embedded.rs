//! The `embedded` example: a loop of its own that has a reactor in it, and says what it saw.

use serde_json::Value;
use trochus::Backend;

#[path = "support/example.rs"]
mod example;
#[path = "support/process.rs"]
mod process;

use example::example;
use process::{output, rows};

/// Without an environment that names a backend.
fn embedded(arguments: &[&str]) -> std::process::Command {
    let mut command = example("embedded");
    command.args(arguments).env_remove("TROCHUS_BACKEND").env_remove("TROCHUS_IO_URING_WITHOUT");
    command
}

fn row(arguments: &[&str]) -> Value {
    let output = output(&mut embedded(&[&["--seconds", "0.3", "--json"], arguments].concat()));
    let [row] = &rows(&output)[..] else { panic!("one row, not {output:?}") };
    let greeting = format!(" via {}", row["backend"].as_str().unwrap());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.starts_with("listening on 127.0.0.1:") && errors.contains(&greeting), "{errors}");
    row.clone()
}

/// Everybody was served, and the loop did what it does besides.
fn assert_served(row: &Value, clients: u64) {
    assert_eq!((row["clients"].as_u64(), row["served"].as_u64()), (Some(clients), Some(clients)), "{row}");
    for figure in ["bytes", "ticks", "timers", "turns", "longest_turn_ms"] {
        assert!(row[figure].as_f64().is_some_and(|figure| figure > 0.0), "{figure} in {row}");
    }
    for kind in ["tick", "timer"] {
        let [p50, p99, max] =
            ["p50", "p99", "max"].map(|name| row[format!("{kind}_late_{name}_ms")].as_f64().unwrap());
        assert!(p50 <= p99 && p99 <= max, "{row}");
    }
    if row["backend"] == "fallback" {
        assert_eq!(row["interrupted"], 0, "{row}");
    }
}

#[test]
fn its_players_are_served_on_each_backend_and_with_either_settings() {
    for backend in Backend::available() {
        for (load, clients) in [("bulk", 4), ("ping", 20)] {
            for settings in ["embedded", "default"] {
                let (name, count) = (backend.to_string(), clients.to_string());
                let options = ["--backend", &name, "--load", load, "--clients", &count];
                let row = row(&[&options[..], &["--settings", settings]].concat());
                assert_eq!(
                    (&row["backend"], &row["load"], &row["settings"]),
                    (&name.into(), &load.into(), &settings.into())
                );
                assert_served(&row, clients);
            }
        }
    }
}

#[test]
fn its_settings_choose_a_backend_that_interrupts_nobody() {
    let row = row(&["--clients", "10", "--backend", "auto"]);
    assert_eq!(row["backend"], "fallback");
    assert!(row["backend_reason"].as_str().unwrap().contains("it is embedded"), "{row}");
    assert_served(&row, 10);
}

#[test]
fn it_shows_a_table_and_what_goes_on() {
    let output = output(&mut embedded(&["--seconds", "2.5", "--clients", "2"]));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.starts_with("listening on "), "{text}");
    for part in [" turns, longest ", "ticks, how late", "interrupted waits", "players served"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn it_says_what_is_wrong_with_its_options() {
    for (arguments, part) in [
        (["--load", "heavy"], "bulk or ping"),
        (["--settings", "none"], "embedded or default"),
        (["--backend", "kqueue"], "kqueue"),
        (["--seconds", "-1"], "egative"),
    ] {
        let output = output(&mut embedded(&arguments));
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && errors.contains(part), "{arguments:?}: {errors}");
    }
}
