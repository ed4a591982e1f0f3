//! The request-response experiments of the `loopback` example, which check every response themselves.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};

use std::time::Duration;

#[path = "support/example.rs"]
mod example;
#[path = "support/process.rs"]
mod process;

use example::example;
use process::{output_within, rows};

/// How long anything may take that ought to be over in seconds.
const PATIENCE: Duration = Duration::from_secs(120);

fn loopback(arguments: &[&str]) -> Output {
    output_within(PATIENCE, example("loopback").args(arguments))
}

fn is_figure(row: &Value, name: &str) -> bool {
    row[name].as_f64().is_some_and(|figure| figure > 0.0)
}

/// One row for each backend, with the figures of the experiment and those of no other.
fn assert_rates(experiment: &str, connections: u64, size: Option<u64>, options: &[&str]) {
    let always = ["--seconds", "0.3", "--json", "--backend", "all", "--experiment", experiment];
    let rows = rows(&loopback(&[&always[..], options].concat()));
    let backends: Vec<String> = trochus::Backend::available().iter().map(ToString::to_string).collect();
    assert_eq!(rows.iter().map(|row| row["backend"].as_str().unwrap()).collect::<Vec<_>>(), backends);
    for row in &rows {
        assert_eq!((&row["experiment"], &row["connections"]), (&experiment.into(), &connections.into()));
        assert!(size.is_none_or(|size| row["size"] == size), "{row}");
        for name in ["messages_per_s", "gbit_per_s", "cores", "baseline_messages_per_s", "ratio"] {
            assert!(is_figure(row, name), "{name} in {row}");
        }
        assert!(row["p50_us"].is_null() && row["spread"].is_number(), "{row}");
        assert_one_way(row, "");
        assert_one_way(row, "baseline_");
    }
}

/// What is moved in one direction, not both directions together.
fn assert_one_way(row: &Value, whose: &str) {
    let figure = |name: &str| row[format!("{whose}{name}")].as_f64().unwrap();
    let bits = figure("messages_per_s") * row["size"].as_f64().unwrap() * 8.0;
    assert!((figure("gbit_per_s") * 1e9 / bits - 1.0).abs() < 1e-6, "{row}");
}

/// How many make requests, and on how many threads of their own.
fn assert_made_by(options: &[&str], producers: Option<u64>, threads: Option<u64>) {
    let always = ["--seconds", "0.1", "--json", "--reactors", "2", "--experiment", "echo4"];
    for row in rows(&loopback(&[&always[..], options].concat())) {
        assert_eq!((row["producers"].as_u64(), row["threads"].as_u64()), (producers, threads), "{row}");
    }
}

#[test]
fn a_row_says_who_made_the_requests() {
    assert_made_by(&["--connections", "3", "--producers", "7"], Some(7), Some(2));
    assert_made_by(&["--connections", "3", "--producers", "7", "--drive", "threads"], Some(7), Some(7));
    assert_made_by(&["--connections", "3", "--producers", "7", "--drive", "shared"], Some(7), Some(7));
    assert_made_by(&["--connections", "3", "--drive", "reactor"], None, None);
}

#[test]
fn numbers_are_echoed_over_many_connections() {
    assert_rates("echo4", 512, Some(4), &[]);
    // Several producers share a connection, unevenly.
    assert_rates("echo4", 3, Some(4), &["--connections", "3", "--producers", "7"]);
}

#[test]
fn numbers_are_echoed_to_reactors_that_make_them() {
    assert_rates("echo4", 2, Some(4), &["--connections", "2", "--reactors", "2", "--drive", "reactor"]);
    assert_rates("echo4", 5, Some(4), &["--connections", "5", "--drive", "reactor"]);
}

#[test]
fn numbers_of_many_threads_are_echoed_over_one_connection() {
    assert_rates("echo4-shared", 1, Some(4), &[]);
    assert_rates("echo4-shared", 3, Some(4), &["--connections", "3", "--producers", "10"]);
}

#[test]
fn records_are_echoed() {
    assert_rates("echo276", 12, Some(276), &[]);
    assert_rates("echo276", 2, Some(276), &["--connections", "2", "--drive", "reactor"]);
}

#[test]
fn objects_are_echoed() {
    // Fewer than it has by default: what lies in all sockets takes an unoptimised build long to decode.
    assert_rates("json", 4, None, &["--connections", "4"]);
    assert_rates("json", 2, None, &["--connections", "2", "--producers", "5", "--drive", "shared"]);
}

#[test]
fn latency_is_measured_at_each_rate() {
    let arguments = ["--seconds", "0.3", "--json", "--backend", "all", "--experiment", "latency"];
    let rows = rows(&loopback(&arguments));
    assert_eq!(rows.len(), 3 * trochus::Backend::available().len());
    for row in &rows {
        assert_eq!((&row["connections"], &row["size"]), (&16.into(), &64.into()));
        let times = ["p50_us", "p99_us", "p999_us", "max_us"];
        let rest =
            ["messages_per_s", "late_p50_us", "late_p99_us", "baseline_p99_us", "baseline_late_p99_us"];
        for name in times.iter().chain(&rest) {
            assert!(is_figure(row, name), "{name} in {row}");
        }
        assert!(times.is_sorted_by(|a, b| row[a].as_f64() <= row[b].as_f64()), "{row}");
        assert_one_way(row, "");
    }
}

#[test]
fn presets_are_measured() {
    for preset in ["throughput", "balanced", "latency"] {
        assert_rates("echo4", 3, Some(4), &["--connections", "3", "--producers", "3", "--preset", preset]);
        let options = ["--seconds", "0.2", "--json", "--backend", "auto", "--preset", preset];
        for row in rows(&loopback(&[&options[..], &["--experiment", "latency"]].concat())) {
            assert_eq!((&row["preset"], &row["busy_poll"]), (&preset.into(), &Value::Null));
            assert!(is_figure(&row, "p99_us") && is_figure(&row, "cores"), "{row}");
        }
    }
}

#[test]
fn what_is_impossible_is_refused() {
    let wrong: [(&[&str], &str); 3] = [
        (&["--drive", "sideways"], "`producers`, `threads`, `reactor` or `shared`"),
        (&["--producers", "0"], "at least 1"),
        (&["--experiment", "echo4", "--producers", "1025"], "1024 producers"),
    ];
    for (arguments, part) in wrong {
        let output = loopback(arguments);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && errors.contains(part), "{arguments:?}: {errors}");
    }
}

#[test]
fn a_codec_of_ones_own_has_words_for_everything() {
    let output = example("rpc_codec").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<&str> = text.lines().skip(1).collect();
    let expected =
        ["1+2: 3", "84/2: 42", "1/0: sorry: Panicked", "one+two: sorry: Dropped", "?: sorry: Panicked"];
    assert_eq!(answers, expected);
    assert!(output.status.success());
}

#[test]
fn by_id_between_processes_and_a_stop_in_good_order() {
    let mut server =
        example("rpc_by_id").args(["--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    let address = line.strip_prefix("listening on ").unwrap().split(' ').next().unwrap();
    let output = example("rpc_by_id").args(["--connect", address]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, "slept 1 ms, and meanwhile the other one is on its way\nslept 300 ms\n");
    // A request is in progress when the server is told to stop: it is answered, and then the client hears a goodbye.
    let mut peer = TcpStream::connect(address).unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    peer.write_all(b"\0\0\0\0\0\0\0\x07400\n\0\0\0\0\0\0\0\x08x\n").unwrap();
    let mut first = [0; 8 + "\"x\" is no number\n".len()];
    peer.read_exact(&mut first).unwrap();
    Command::new("kill").arg(server.id().to_string()).status().unwrap();
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).unwrap();
    drop(peer);
    let (answer, goodbye) = rest.split_at(rest.len() - 18);
    assert_eq!(answer, b"\0\0\0\0\0\0\0\x07slept 400 ms\n");
    assert_eq!(goodbye, [&[255; 7][..], &[254, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2]].concat());
    assert_eq!(lines.next().unwrap().unwrap(), "4 requests, 4 responses, 0 cut off");
    assert!(server.wait().unwrap().success());
}
