//! Request-response with programs of others: the examples as a user runs them, and a client in another language.

use std::process::Output;

#[path = "support/example.rs"]
mod example;

use example::example;

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn a_tokio_program_awaits_calls() {
    for backend in trochus::Backend::available() {
        let output = example("rpc_tokio").env("TROCHUS_BACKEND", backend.to_string()).output().unwrap();
        let text = text(&output);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[..2], ["6² = 36, 7² = 49", "the sum of the first hundred squares is 338350"]);
        assert_eq!(lines.len(), 3, "{text}");
    }
}

#[cfg(feature = "json")]
mod json {
    use super::{example, text};
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    /// A server that is ended when the test is over, however that goes.
    struct Server {
        process: Child,
        address: String,
    }

    impl Server {
        fn start(backend: &str) -> Self {
            let mut command = example("rpc_json");
            command.args(["--listen", "127.0.0.1:0"]).env("TROCHUS_BACKEND", backend);
            let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
            let mut line = String::new();
            BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
            let address = line.strip_prefix("listening on ").and_then(|rest| rest.split_once(" via "));
            let (address, via) = address.unwrap_or_else(|| panic!("`{line}` names no address"));
            assert_eq!(via.trim(), backend);
            Server { address: address.to_owned(), process }
        }

        /// Asks it to stop; whether it did in good order.
        fn stop(mut self) -> bool {
            let asked = Command::new("kill").arg(self.process.id().to_string()).status().unwrap();
            asked.success() && self.process.wait().unwrap().success()
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            // It may have ended already.
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }

    const ANSWERS: [&str; 3] = [
        r#""a ring, or a wheel": 5 words, the longest is Some("wheel")"#,
        r#""a snail with a spiral shell": 6 words, the longest is Some("spiral")"#,
        r#""": 0 words, the longest is None"#,
    ];

    #[test]
    fn the_example_runs_in_one_process() {
        let text = text(&example("rpc_json").output().unwrap());
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("listening on 127.0.0.1:"), "{text}");
        assert_eq!(lines[1..], ANSWERS);
    }

    #[test]
    fn the_example_runs_in_two_processes() {
        for backend in trochus::Backend::available() {
            let server = Server::start(&backend.to_string());
            let output = example("rpc_json").args(["--connect", &server.address]).output().unwrap();
            assert_eq!(text(&output).lines().collect::<Vec<_>>(), ANSWERS);
            assert!(server.stop());
        }
    }

    #[test]
    fn the_example_says_what_is_wrong() {
        for (arguments, part) in
            [(&["--sideways"][..], "usage"), (&["--connect", "127.0.0.1:1"], "127.0.0.1:1")]
        {
            let output = example("rpc_json").args(arguments).output().unwrap();
            assert!(!output.status.success());
            let errors = String::from_utf8(output.stderr).unwrap();
            assert!(errors.contains(part), "{errors}");
        }
    }

    /// Many requests ahead, an end of output with responses still to come, and a line that is no JSON.
    const PYTHON_CLIENT: &str = r#"
import json, socket, sys
host, port = sys.argv[1].rsplit(":", 1)

def connect():
    return socket.create_connection((host.strip("[]"), int(port)), timeout=60)

with connect() as stream:
    lines = stream.makefile("rw", encoding="utf-8", newline="\n")
    lines.write(json.dumps({"text": "grüße aus python"}) + "\n")
    lines.flush()
    answer = json.loads(lines.readline())
    assert answer == {"words": 3, "longest": "grüße"}, answer
    for count in range(1000):
        lines.write(json.dumps({"text": "word " * count}) + "\n")
    lines.flush()
    stream.shutdown(socket.SHUT_WR)
    counts = [json.loads(line)["words"] for line in lines]
    assert counts == list(range(1000)), counts

with connect() as stream:
    stream.sendall(b'{"text":"good"}\nnot json\n{"text":"never read"}\n')
    received = b""
    while piece := stream.recv(65536):
        received += piece
    assert [json.loads(line) for line in received.splitlines()] == [{"words": 1, "longest": "good"}], received
"#;

    #[test]
    fn a_client_in_python_is_served() {
        let python = ["python3", "python"].into_iter().find(|name| {
            Command::new(name).args(["-c", ""]).output().is_ok_and(|output| output.status.success())
        });
        let Some(python) = python else {
            eprintln!("skipped: there is no Python here");
            return;
        };
        for backend in trochus::Backend::available() {
            let server = Server::start(&backend.to_string());
            let client = Command::new(python).args(["-c", PYTHON_CLIENT, &server.address]).output().unwrap();
            assert!(client.status.success(), "{backend}: {}", String::from_utf8_lossy(&client.stderr));
            assert!(server.stop());
        }
    }
}
