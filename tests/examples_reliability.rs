//! The rows of what does not break, run as a user would: a small one, on each backend.

use std::process::Output;

#[path = "support/example.rs"]
mod example;
#[path = "support/process.rs"]
mod process;

use example::example;
use process::{PATIENCE, backends, output_within, rows};

fn reliability(arguments: &[&str]) -> Output {
    output_within(2 * PATIENCE, example("reliability").args(arguments))
}

#[test]
fn a_row_is_measured_on_each_backend_and_held() {
    let arguments = ["--row", "in_order", "--row", "in_order_late", "--seconds", "0.2", "--json"];
    let rows = rows(&reliability(&arguments));
    let mut left: Vec<(String, String)> = ["in_order", "in_order_late"]
        .iter()
        .flat_map(|row| backends().into_iter().map(|backend| ((*row).to_owned(), backend.to_string())))
        .collect();
    for row in rows {
        let ran = [&row["row"], &row["backend"]].map(|name| name.as_str().unwrap().to_owned());
        let place = left.iter().position(|(row, backend)| [row, backend] == [&ran[0], &ran[1]]);
        left.remove(place.expect("each of them once"));
        assert_eq!(row["held"], true, "{row}");
        let findings = row["findings"].as_array().unwrap();
        let of = |unit: &str| findings.iter().filter(|finding| finding["unit"] == unit).count();
        assert!(of("bytes") > 0 && of("number") > 0, "{row}");
        for finding in findings {
            assert!(finding["value"].as_f64().unwrap() >= 0.0, "{finding}");
            assert_eq!(finding["held"], true, "{finding}");
            let limit = finding["limit"].as_object().unwrap();
            assert!(limit.len() == 1 && limit.values().all(|value| value.is_number()), "{finding}");
        }
    }
    assert!(left.is_empty(), "not measured: {left:?}");
}

#[test]
fn one_row_on_one_backend_is_a_table() {
    let arguments = ["--row", "in_order", "--backend", "fallback", "--seconds", "0.1"];
    let output = reliability(&arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.starts_with("| row | backend |"), "{text}");
    assert!(text.contains("| in_order | fallback | held at most"), "{text}");
}

#[test]
fn nonsense_is_refused() {
    for arguments in [["--row", "none"], ["--backend", "kqueue"], ["--seconds", "0"]] {
        assert_eq!(reliability(&arguments).status.code(), Some(2), "{arguments:?}");
    }
    let output = reliability(&["--help"]);
    assert!(output.status.success() && String::from_utf8(output.stdout).unwrap().contains("--row"));
}
