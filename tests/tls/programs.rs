//! Programs that everybody has: openssl's client and server, curl, Python's `ssl`. Whoever runs these tests has them.

use crate::support::*;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use tempfile::TempDir;
use trochus::net::{Address, CloseReason, Handler, Io, ListenOptions, Server, StreamOptions};
use trochus::{Reactor, Runtime};

/// Certificates in files, for those who want them there.
struct Files {
    folder: TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Files { folder: tempfile::tempdir().unwrap() };
        let client = AUTHORITY.make(&["a client"]);
        for (name, text) in [
            ("roots", &AUTHORITY.pem()),
            ("certificate", &LOCALHOST.certificate),
            ("key", &LOCALHOST.key),
            ("client-certificate", &client.certificate),
            ("client-key", &client.key),
        ] {
            fs::write(files.path(name), text).unwrap();
        }
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command whose words are split here; `@name` is the path of a file.
    fn command(&self, line: &str) -> Command {
        let mut words = line.split_whitespace().map(|word| match word.strip_prefix('@') {
            Some(name) => self.path(name).into_os_string(),
            None => word.into(),
        });
        let mut command = Command::new(words.next().unwrap());
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// What a program says to that, and whether it was content. It has to be there: without it nothing would be tested.
fn run(mut command: Command, input: &[u8]) -> (String, bool) {
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8_lossy(&text).into_owned(), output.status.success())
}

/// Answers a request for anything, once it is whole, and ends.
struct Hello;

impl Handler for Hello {
    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        if !bytes.ends_with(b"\r\n\r\n") {
            return 0;
        }
        let body = vec![b'x'; 1 << 20];
        io.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\nConnection: close\r\n\r\n");
        io.write(&body);
        io.close();
        bytes.len()
    }
}

fn port(server: &Server) -> u16 {
    plain(server.local_addr()).port()
}

#[test]
fn curl_gets_a_page() {
    on_each_backend(|runtime| {
        let files = Files::new();
        let options = ListenOptions::new().tls(server().alpn(["http/1.1"]));
        let server = runtime.listen_with(&options, "127.0.0.1:0", |_| Hello).unwrap();
        for version in ["--tlsv1.3", "--tlsv1.2 --tls-max 1.2"] {
            let line = format!(
                "curl --silent --show-error --fail --max-time 30 {version} --cacert @roots https://localhost:{}/",
                port(&server)
            );
            let (text, content) = run(files.command(&line), b"");
            assert!(content && text.len() == 1 << 20, "{version}: {}", &text[..text.len().min(300)]);
        }
        let line = format!("curl --silent --show-error --max-time 30 https://localhost:{}/", port(&server));
        let (text, content) = run(files.command(&line), b"");
        assert!(!content && text.contains("certificate"), "{text}");
        // Nor does it get anything without TLS.
        let line = format!("curl --silent --show-error --max-time 30 http://localhost:{}/", port(&server));
        assert!(!run(files.command(&line), b"").1);
    });
}

#[test]
fn openssls_client_agrees_shows_its_certificate_and_changes_keys() {
    on_each_backend(|runtime| {
        let files = Files::new();
        let tls = server().alpn(["one", "two"]).require_client_certificates(roots()).unwrap();
        let (server, log) = serve(runtime, tls);
        let options = "-CAfile @roots -verify_return_error -servername localhost -alpn two -cert @client-certificate -key @client-key";
        for version in ["-tls1_3", "-tls1_2"] {
            let line = format!("openssl s_client -connect 127.0.0.1:{} {version} {options}", port(&server));
            let mut command = files.command(&line);
            let mut child = command.spawn().unwrap();
            let mut input = child.stdin.take().unwrap();
            // A line of one `K` has it change the keys of both sides, where there is such a thing.
            input.write_all(b"before\n").unwrap();
            let mut output = BufReader::new(child.stdout.take().unwrap());
            let mut said = wait_for(&mut output, "before");
            if version == "-tls1_3" {
                input.write_all(b"K\n").unwrap();
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            input.write_all(b"after\n").unwrap();
            said += &wait_for(&mut output, "after");
            input.write_all(b"Q\n").unwrap();
            assert!(child.wait().unwrap().success());
            assert!(said.contains("ALPN protocol: two") && said.contains("Verify return code: 0"), "{said}");
            let info = log.opened();
            assert_eq!((info.alpn(), info.server_name()), (Some(&b"two"[..]), Some("localhost")));
            assert!(info.peer_certificates().len() > 0);
            let (received, seen) = log.rest();
            assert_eq!(String::from_utf8_lossy(&received), "before\nafter\n");
            assert!(matches!(seen, Seen::End), "it says close_notify: {seen:?}");
            log.closed();
        }
    });
}

/// What is said up to the end of a line with this, which may come in the middle of what the program says by itself.
#[track_caller]
fn wait_for(output: &mut impl BufRead, what: &str) -> String {
    let mut said = String::new();
    while !said.contains(what) {
        assert_ne!(output.read_line(&mut said).unwrap(), 0, "in vain for {what:?}: {said}");
    }
    said
}

#[test]
fn openssls_client_resumes() {
    on_each_backend(|runtime| {
        let files = Files::new();
        let (server, log) = serve(runtime, server());
        for version in ["-tls1_3", "-tls1_2"] {
            for (session, is_new) in [("-sess_out @session", true), ("-sess_in @session", false)] {
                let line = format!(
                    "openssl s_client -connect localhost:{} -CAfile @roots {version} {session}",
                    port(&server)
                );
                let mut child = files.command(&line).spawn().unwrap();
                let mut input = child.stdin.take().unwrap();
                let mut output = BufReader::new(child.stdout.take().unwrap());
                // Tickets have come by the time that this is back.
                input.write_all(b"hello\n").unwrap();
                let said = wait_for(&mut output, "hello");
                input.write_all(b"Q\n").unwrap();
                assert!(child.wait().unwrap().success());
                let word = if is_new { "New, TLS" } else { "Reused, TLS" };
                assert!(said.contains(word), "{said}");
                assert_eq!(log.opened().is_resumed(), !is_new);
                log.closed();
            }
        }
    });
}

/// Ended when it is dropped.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks, and tells what comes back.
struct Asks(Echo, Vec<u8>);

impl Handler for Asks {
    fn on_open(&mut self, io: &mut Io<'_>) {
        self.0.on_open(io);
        io.write(&self.1);
    }

    fn on_bytes(&mut self, _: &mut Io<'_>, bytes: &[u8]) -> usize {
        self.0.0.tell(Seen::Bytes(bytes.to_vec()));
        bytes.len()
    }

    fn on_end(&mut self, io: &mut Io<'_>) {
        self.0.on_end(io);
    }

    fn on_close(&mut self, reason: &CloseReason, reactor: &mut Reactor) {
        self.0.on_close(reason, reactor);
    }
}

fn ask(runtime: &Runtime, port: u16, question: &[u8]) -> Log {
    let (log, recorder) = log();
    let options = StreamOptions::new().tls(client());
    let question = question.to_vec();
    let address = Address::Tcp(([127, 0, 0, 1], port).into());
    let make = move || Asks(Echo(recorder), question);
    runtime.connect_with(&options, address, make).unwrap();
    log
}

#[test]
fn openssls_server_is_asked() {
    on_each_backend(|runtime| {
        let files = Files::new();
        for version in ["-tls1_3", "-tls1_2"] {
            let line =
                format!("openssl s_server -accept 127.0.0.1:0 -cert @certificate -key @key {version} -rev");
            let mut server = Program(files.command(&line).spawn().unwrap());
            let mut output = BufReader::new(server.0.stdout.take().unwrap());
            let mut said = String::new();
            while !said.starts_with("ACCEPT ") {
                said.clear();
                assert_ne!(output.read_line(&mut said).unwrap(), 0, "it does not listen");
            }
            let port = said.trim().rsplit(':').next().unwrap().parse().unwrap();
            let log = ask(runtime, port, b"hello\n");
            assert_eq!(log.opened().peer_certificates().next(), Some(&LOCALHOST.der()[..]));
            let mut received = Vec::new();
            while received.len() < 6 {
                let Seen::Bytes(bytes) = log.next() else { panic!("no answer") };
                received.extend(bytes);
            }
            assert_eq!(received, b"olleh\n");
        }
    });
}

/// A server that ends with close_notify, and one that does not.
const PYTHON: &str = r#"
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
for polite in (True, False):
    plain, _ = listener.accept()
    stream = context.wrap_socket(plain, server_side=True)
    got = b""
    while len(got) < 1000000:
        got += stream.recv(65536)
    stream.sendall(got)
    if polite:
        stream.unwrap().close()
    else:
        stream.close()
"#;

#[test]
fn pythons_server_ends_politely_or_not() {
    on_each_backend(|runtime| {
        let files = Files::new();
        fs::write(files.path("server"), PYTHON).unwrap();
        let mut server = Program(files.command("python3 @server @certificate @key").spawn().unwrap());
        let mut output = BufReader::new(server.0.stdout.take().unwrap());
        let mut port = String::new();
        output.read_line(&mut port).unwrap();
        let question = pattern(1_000_000);
        for polite in [true, false] {
            let log = ask(runtime, port.trim().parse().unwrap(), &question);
            let (received, seen) = log.rest();
            assert!(received == question, "{} bytes", received.len());
            if polite {
                assert!(matches!(seen, Seen::End), "{seen:?}");
                assert!(matches!(log.closed(), CloseReason::ByPeer));
            } else {
                assert!(matches!(seen, Seen::Closed(CloseReason::Truncated)), "{seen:?}");
            }
        }
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        assert!(server.0.wait().unwrap().success());
    });
}

/// A client that says its hello twice, because the server wants another group, leaves its name to nobody.
#[test]
fn the_name_of_who_says_hello_twice_is_nobody_elses() {
    for backend in trochus::Backend::available() {
        let runtime = trochus::Runtime::builder().backend(backend).reactors(1).build().unwrap();
        let files = Files::new();
        let (server, log) = serve(&runtime, server());
        for _ in 0..2 {
            let line = format!(
                "openssl s_client -connect localhost:{} -servername first.example -groups P-521:X25519",
                port(&server)
            );
            run(files.command(&line), b"Q\n");
            assert_eq!(log.opened().server_name(), Some("first.example"));
            log.closed();
            let mut client = connect_with(&server, &Arc::new(client_config(ALL)), "127.0.0.1");
            echoes(&mut client, b"x");
            assert_eq!(log.opened().server_name(), None);
            drop(client);
            log.closed();
        }
    }
}
