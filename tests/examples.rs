//! The examples, run as a user would.

use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};
use std::thread;

#[path = "support/example.rs"]
mod example;
#[path = "support/process.rs"]
mod process;

use example::example;
use process::{PATIENCE, Server, Watchdog, backends, output, rows};

fn loopback(arguments: &[&str]) -> Output {
    output(example("loopback").args(arguments))
}

fn loopback_server(backend: &str) -> Server {
    let mut command = example("loopback");
    command.args(["--role", "server", "--listen", "127.0.0.1:0", "--backend", backend]);
    Server::start(command)
}

/// Positive where it applies, and null where it does not.
fn assert_figures(row: &Value, applies: &[&str], does_not: &[&str]) {
    for name in applies {
        assert!(row[name].as_f64().is_some_and(|figure| figure > 0.0), "{name} in {row}");
    }
    for name in does_not {
        assert!(row.as_object().unwrap()[*name].is_null(), "{name} in {row}");
    }
}

#[test]
fn loopback_measures_each_stream_on_each_backend() {
    for experiment in ["bulk", "duplex"] {
        let output =
            loopback(&["--seconds", "0.2", "--json", "--backend", "all", "--experiment", experiment]);
        let rows = rows(&output);
        assert_eq!(rows.iter().map(|row| row["backend"].as_str().unwrap()).collect::<Vec<_>>(), backends());
        for row in &rows {
            assert_eq!(row["experiment"], experiment);
            assert_eq!(row["size"], 256 << 10);
            assert_eq!(row["connections"], row["reactors"]);
            assert_figures(
                row,
                &["gbit_per_s", "baseline_gbit_per_s", "ratio"],
                &["messages_per_s", "p50_us"],
            );
            // Both ends find each other where the kernel can tell on which core a connection is.
            if cfg!(target_os = "linux") {
                assert_eq!(row["local"], true, "{row}");
            }
        }
    }
}

#[test]
fn loopback_measures_messages_and_their_latency() {
    let output = loopback(&["--seconds", "0.2", "--json", "--backend", "all", "--experiment", "pingpong"]);
    let rows = rows(&output);
    assert_eq!(rows.len(), 3 * backends().len());
    for (row, connections) in
        rows.iter().zip([1, 16, 128].into_iter().flat_map(|n| vec![n; backends().len()]))
    {
        assert_eq!((&row["experiment"], &row["size"]), (&"pingpong".into(), &64.into()));
        assert_eq!(row["connections"], connections);
        assert_figures(
            row,
            &[
                "messages_per_s",
                "p50_us",
                "p99_us",
                "p999_us",
                "baseline_messages_per_s",
                "gbit_per_s",
                "ratio",
            ],
            &["local"],
        );
        assert!(row["p50_us"].as_f64() <= row["p99_us"].as_f64(), "{row}");
    }
}

#[test]
fn loopback_takes_every_option() {
    let options = ["--seconds", "0.1", "--reactors", "1", "--connections", "3", "--busy-poll"];
    for (experiment, size) in [("bulk", "1000001"), ("duplex", "777"), ("pingpong", "70001")] {
        let output =
            loopback(&[&options[..], &["--json", "--experiment", experiment, "--size", size]].concat());
        for row in rows(&output) {
            assert_eq!(
                (&row["reactors"], &row["connections"], &row["busy_poll"]),
                (&1.into(), &3.into(), &"on".into())
            );
            assert_eq!(row["size"].to_string(), size);
            assert_figures(&row, &["gbit_per_s", "ratio"], &[]);
        }
    }
    let output = loopback(&[&options[..], &["--experiment", "bulk"]].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("plain Gbit/s") && text.contains("bulk × 3"), "{text}");
}

#[test]
fn loopback_says_what_is_wrong_with_its_options() {
    let wrong: [(&[&str], &str); 7] = [
        (&["--experiment", "magic"], "bulk, duplex, pingpong"),
        (&["--reactors", "0"], "at least 1"),
        (&["--backend", "kqueue"], "kqueue"),
        (&["--role", "server"], "--listen"),
        (&["--preset", "fast"], "balanced"),
        (&["--preset", "latency", "--busy-poll"], "leave out --busy-poll"),
        (&["--sideways"], "--sideways"),
    ];
    for (arguments, part) in wrong {
        let output = loopback(arguments);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(errors.contains(part), "{arguments:?}: {errors}");
    }
    let help = loopback(&["--help"]);
    assert!(help.status.success());
    assert!(String::from_utf8(help.stdout).unwrap().contains("--experiment NAME"));
}

#[test]
fn loopback_runs_its_halves_as_processes() {
    for backend in backends() {
        let server = loopback_server(&backend);
        // One client after another.
        for _ in 0..2 {
            let options = ["--role", "client", "--seconds", "0.1", "--json", "--backend", &backend];
            let output = loopback(&[&options[..], &["--connect", &server.address]].concat());
            let rows = rows(&output);
            let names: Vec<&str> = rows.iter().map(|row| row["experiment"].as_str().unwrap()).collect();
            assert_eq!(names, ["bulk", "duplex", "pingpong", "pingpong", "pingpong"]);
            for row in &rows {
                assert_figures(row, &["gbit_per_s"], &["ratio", "baseline_gbit_per_s"]);
            }
        }
        let (succeeded, text) = server.stop();
        assert!(succeeded && text.contains("bytes from clients were right"), "{text}");
    }
}

/// A client's greeting: duplex, as connection 7, in writes of 64 KiB.
fn greet(server: &Server) -> TcpStream {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"trochus1\x01\0\0\0\x07\0\0\0\0\0\x01\0").unwrap();
    stream
}

/// What the server sends is what it expects in return, so a client can do without making the content itself.
fn content(stream: &mut TcpStream) -> Vec<u8> {
    let mut content = vec![0; 300_000];
    stream.read_exact(&mut content).unwrap();
    content
}

#[test]
fn loopback_notices_every_kind_of_wrong_content() {
    const AT: usize = 200_123;
    const BLOCK: usize = 4096;
    let damages: [fn(&mut Vec<u8>); 4] = [
        |content| content[AT] ^= 1,
        |content| drop(content.drain(AT..AT + BLOCK)),
        |content| {
            let block = content[AT - BLOCK..AT].to_vec();
            drop(content.splice(AT..AT, block));
        },
        |content| content[AT..AT + 2 * BLOCK].rotate_left(BLOCK),
    ];
    for damage in damages {
        let server = loopback_server("auto");
        let mut stream = greet(&server);
        let mut content = content(&mut stream);
        damage(&mut content);
        // The server may cut this short.
        let _ = stream.write_all(&content);
        // It ends the connection with a reset, behind what it had sent before.
        let mut sink = vec![0; 1 << 16];
        while stream.read(&mut sink).is_ok_and(|bytes| bytes > 0) {}
        let (succeeded, text) = server.stop();
        assert!(!succeeded, "{text}");
        let offset = text.split("connection 7: the byte at offset ").nth(1);
        let offset = offset.and_then(|rest| rest.split(' ').next()?.parse().ok());
        // By chance, the bytes right behind the damage may be the expected ones.
        assert!(offset.is_some_and(|offset: usize| (AT..AT + 8).contains(&offset)), "{text}");
    }
}

#[test]
fn loopback_confirms_what_was_right() {
    let server = loopback_server("auto");
    let mut stream = greet(&server);
    let content = content(&mut stream);
    stream.write_all(&content).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    let (_, verdict) = rest.split_last_chunk::<24>().unwrap();
    let total = (content.len() + rest.len() - verdict.len()) as u64;
    let expected = [&b"verified"[..], &(content.len() as u64).to_le_bytes(), &total.to_le_bytes()].concat();
    assert_eq!(verdict[..], expected);
    let (succeeded, text) = server.stop();
    assert!(succeeded && text.contains("300000 bytes from clients were right"), "{text}");
}

#[test]
fn loopback_survives_strangers() {
    let server = loopback_server("auto");
    let mut stranger = TcpStream::connect(&server.address).unwrap();
    stranger.set_read_timeout(Some(PATIENCE)).unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let answer = stranger.read(&mut [0; 100]);
    assert!(answer.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
    drop(TcpStream::connect(&server.address).unwrap());
    let options = ["--role", "client", "--seconds", "0.05", "--json", "--experiment", "bulk", "--connect"];
    assert_eq!(rows(&loopback(&[&options[..], &[&server.address]].concat())).len(), 1);
    let (succeeded, text) = server.stop();
    assert!(succeeded && text.contains("not a client of the loopback example"), "{text}");
}

const PYTHON_CLIENT: &str = r#"
import socket, sys
host, port = sys.argv[1].rsplit(":", 1)
message = bytes(range(256)) * 4096
with socket.create_connection((host.strip("[]"), int(port)), timeout=60) as stream:
    received = bytearray()
    for start in range(0, len(message), 65536):
        stream.sendall(message[start:start + 65536])
    stream.shutdown(socket.SHUT_WR)
    while piece := stream.recv(65536):
        received += piece
assert received == message, len(received)
"#;

fn python() -> Option<&'static str> {
    ["python3", "python"]
        .into_iter()
        .find(|name| Command::new(name).args(["-c", ""]).output().is_ok_and(|output| output.status.success()))
}

#[test]
fn echo_serves_programs_in_other_languages() {
    let Some(python) = python() else {
        eprintln!("skipped: there is no Python here");
        return;
    };
    for backend in backends() {
        let mut command = example("echo");
        command.arg("127.0.0.1:0").env("TROCHUS_BACKEND", &backend);
        let server = Server::start(command);
        let client = output(Command::new(python).args(["-c", PYTHON_CLIENT, &server.address]));
        assert!(client.status.success(), "{backend}: {}", String::from_utf8_lossy(&client.stderr));
        assert!(server.stop().0);
    }
}

fn echo_client(address: &str, input: &[u8]) -> Output {
    let mut command = example("echo");
    command.args(["--client", address]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut client = command.spawn().unwrap();
    let _watchdog = Watchdog::over(&client);
    let mut stdin = client.stdin.take().unwrap();
    thread::scope(|scope| {
        // While the output is being read, or the pipes could fill up on both sides.
        scope.spawn(move || {
            let _ = stdin.write_all(input);
        });
        client.wait_with_output().unwrap()
    })
}

#[test]
fn echo_and_its_client_talk_over_tcp_and_unix_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let path = format!("unix:{}", folder.path().join("echo").display());
    let input: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_be_bytes).collect();
    for address in ["[::1]:0", "127.0.0.1:0", &path] {
        let mut command = example("echo");
        command.arg(address);
        let server = Server::start(command);
        let output = echo_client(&server.address, &input);
        assert!(output.status.success(), "{address}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout == input, "{address}: {} bytes came back", output.stdout.len());
        assert!(server.stop().0);
    }
    let output = echo_client(&path, b"");
    assert!(!output.status.success(), "nobody listens there any more");
}
