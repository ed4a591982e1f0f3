//! The soak, run as a user would, and what it takes for a failure.

use serde_json::Value;
use std::process::{Command, Output};
use std::sync::atomic::Ordering::SeqCst;
use trochus::rpc::CallError;

#[path = "support/example.rs"]
mod example;
#[allow(dead_code, reason = "the soak uses all of it")]
#[path = "../examples/soak/ledger.rs"]
mod ledger;
#[allow(dead_code, reason = "the soak uses all of it")]
#[path = "../examples/soak/measure.rs"]
mod measure;
#[path = "support/process.rs"]
mod process;
#[allow(dead_code, reason = "the soak uses all of it")]
#[path = "../examples/soak/wire.rs"]
mod wire;

use example::example;
use ledger::{Kind, Ledger};
use measure::Measure;
use process::{PATIENCE, backends, output_within, rows};

fn soak(arguments: &[&str]) -> Output {
    let mut command: Command = example("soak");
    output_within(2 * PATIENCE, command.args(arguments))
}

#[test]
fn ten_seconds_of_everything_are_accounted_for() {
    let rows = rows(&soak(&["--minutes", "0.17", "--seed", "7", "--idle", "200", "--json"]));
    let [report] = &rows[..] else { panic!("one line, not {rows:?}") };
    assert_eq!((&report["passed"], &report["seed"]), (&Value::from(true), &Value::from(7)), "{report}");
    assert_eq!(report["failures"].as_array().unwrap().len(), 0);
    assert_eq!(report["before"]["descriptors"], report["after"]["descriptors"]);
    let ran: Vec<&str> =
        report["backends"].as_array().unwrap().iter().map(|row| row["backend"].as_str().unwrap()).collect();
    assert_eq!(ran, backends());
    for row in report["backends"].as_array().unwrap() {
        let count = |kind: &str, what: &str| row["kinds"][kind][what].as_u64().unwrap();
        for (kind, sums) in row["kinds"].as_object().unwrap() {
            // What the conductor does is a matter of luck in so short a time.
            let must = !matches!(kind.as_str(), "restart" | "hand_over");
            assert!(!must || sums["sessions"].as_u64().unwrap() > 0, "{kind}: {row}");
        }
        assert!(count("restart", "sessions") + count("hand_over", "sessions") > 0);
        assert_eq!(count("good", "requests"), count("good", "answered"), "{row}");
        let proxied = ["answered", "maybe", "not_sent"].map(|what| count("proxied", what));
        assert_eq!(proxied.iter().sum::<u64>(), count("proxied", "requests"), "{row}");
        assert!(row["executed"].as_u64().unwrap() > count("good", "requests"));
    }
}

#[test]
fn what_takes_too_long_is_a_failure_that_names_the_seed() {
    let output = soak(&["--minutes", "0.02", "--seed", "7", "--idle", "10", "--patience", "0.001", "--json"]);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("takes too long") && errors.contains("--seed 7"), "{errors}");
}

#[test]
fn one_backend_alone_can_be_chosen_and_nonsense_is_refused() {
    let output = soak(&["--backend", "kqueue"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let output = soak(&["--minutes", "0"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let output = soak(&["--help"]);
    assert!(output.status.success() && String::from_utf8(output.stdout).unwrap().contains("--minutes"));
    let arguments = ["--minutes", "0.03", "--seed", "1", "--idle", "10", "--backend", "fallback", "--json"];
    assert_eq!(rows(&soak(&arguments))[0]["backends"][0]["backend"], "fallback");
}

fn failures_of(what: impl FnOnce(&Ledger)) -> u64 {
    let ledger = Ledger::new();
    what(&ledger);
    ledger.check();
    assert_eq!(ledger.failures().len() as u64, ledger.failed.load(SeqCst));
    ledger.failed.load(SeqCst)
}

#[test]
fn the_ledger_finds_what_does_not_add_up() {
    let right = |ledger: &Ledger| {
        let asked = ledger.ask(Kind::Good, 100);
        ledger.execute(asked);
        ledger.settle(Kind::Good, asked, Ok(&asked.answer()));
        ledger.settle(Kind::Good, ledger.ask(Kind::Good, 1), Err(&CallError::TimedOut { sent: true }));
        ledger.settle(Kind::Good, ledger.ask(Kind::Good, 1), Err(&CallError::TimedOut { sent: false }));
    };
    assert_eq!(failures_of(right), 0);
    let twice = |ledger: &Ledger| {
        let asked = ledger.ask(Kind::Good, 100);
        ledger.execute(asked);
        ledger.execute(asked);
    };
    assert_eq!(failures_of(twice), 1);
    let by_nobody = |ledger: &Ledger| {
        let asked = ledger.ask(Kind::Good, 100);
        ledger.settle(Kind::Good, asked, Ok(&asked.answer()));
    };
    assert_eq!(failures_of(by_nobody), 1);
    let anothers = |ledger: &Ledger| {
        let (asked, other) = (ledger.ask(Kind::Good, 100), ledger.ask(Kind::Good, 100));
        ledger.execute(asked);
        ledger.settle(Kind::Good, asked, Ok(&other.answer()));
    };
    assert_eq!(failures_of(anothers), 1);
    let sent_after_all = |ledger: &Ledger| {
        let asked = ledger.ask(Kind::Good, 100);
        ledger.settle(Kind::Good, asked, Err(&CallError::TimedOut { sent: false }));
        ledger.execute(asked);
    };
    assert_eq!(failures_of(sent_after_all), 1);
}

#[test]
fn memory_and_descriptors_have_to_be_as_they_were() {
    let before = Measure { rss_bytes: Some(100 << 20), descriptors: 10 };
    let grown = |mib: u64| Measure { rss_bytes: Some(mib << 20), ..before };
    assert!(grown(125).differs_from(&before, true).is_empty());
    assert_eq!(grown(127).differs_from(&before, true).len(), 1);
    assert!(grown(127).differs_from(&before, false).is_empty());
    assert_eq!(Measure { descriptors: 11, ..before }.differs_from(&before, false).len(), 1);
}
