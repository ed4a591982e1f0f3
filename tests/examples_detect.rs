//! The example that tells protocols apart, run as a user would, with real clients.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;
use trochus::Runtime;
use trochus::codec::Lines;
use trochus::rpc::Client;

#[path = "support/example.rs"]
mod example;
#[path = "support/process.rs"]
mod process;

use example::example;
use process::{PATIENCE, Server, output};

fn start(arguments: &[&str]) -> Server {
    let mut command = example("detect");
    command.args(["--listen", "127.0.0.1:0"]).args(arguments);
    Server::start(command)
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends the text cut at `at`, and reads until the end.
fn exchange(server: &Server, text: &[u8], at: usize) -> Vec<u8> {
    let mut stream = connect(server);
    stream.set_nodelay(true).unwrap();
    stream.write_all(&text[..at]).unwrap();
    thread::sleep(Duration::from_millis(3));
    stream.write_all(&text[at..]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

#[test]
fn each_client_finds_its_protocol_wherever_its_bytes_are_cut() {
    let server = start(&[]);
    let request = b"GET / HTTP/1.1\r\n\r\n";
    for at in 0..request.len() {
        let answer = String::from_utf8(exchange(&server, request, at)).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "cut at {at}: {answer}");
        assert!(answer.ends_with("\r\n\r\none port, several protocols\n"), "cut at {at}: {answer}");
    }
    // Some of these begin like a request.
    let text = b"GET going\nHEADS up\nG\n";
    for at in 0..text.len() {
        assert_eq!(exchange(&server, text, at), b"GET GOING\nHEADS UP\nG\n", "cut at {at}");
    }
    let (succeeded, printed) = server.stop();
    assert!(succeeded && printed.contains(&format!("{} lines", 3 * text.len())), "{printed}");
}

#[test]
fn the_librarys_own_client_and_curl_share_the_port() {
    let server = start(&[]);
    let runtime = Runtime::new().unwrap();
    let client = Client::connect(&runtime, server.address.as_str(), Lines::new()).unwrap();
    for n in 0..100 {
        assert_eq!(client.call(format!("line {n}")).wait().unwrap(), format!("LINE {n}"));
    }
    client.close().unwrap();
    let has_curl = Command::new("curl").arg("--version").output().is_ok_and(|output| output.status.success());
    if has_curl {
        let answer = output(Command::new("curl").args(["-sS", &format!("http://{}/", server.address)]));
        assert_eq!(String::from_utf8_lossy(&answer.stdout), "one port, several protocols\n");
    }
    assert!(server.stop().0);
}

#[test]
fn what_is_for_somebody_else_is_passed_on_whole() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = start(&["--upstream", &upstream.local_addr().unwrap().to_string()]);
    let mut client = connect(&server);
    client.write_all(b"\0binary").unwrap();
    let (mut served, _) = upstream.accept().unwrap();
    served.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut received = [0; 7];
    served.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"\0binary");
    served.write_all(b"answer").unwrap();
    drop(served);
    client.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"answer");
    assert!(server.stop().0);
}

#[test]
fn what_nobody_serves_is_reset() {
    let server = start(&[]);
    for first in [b"\0", b"\x16"] {
        let mut client = connect(&server);
        client.write_all(first).unwrap();
        assert_eq!(client.read(&mut [0; 8]).map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    }
    assert!(server.stop().0);
}
