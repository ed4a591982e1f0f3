//! The proxy, run as a user would, between plain sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

#[path = "support/example.rs"]
mod example;
#[path = "support/process.rs"]
mod process;

use example::example;
use process::{PATIENCE, Server, backends};

/// Says its name, and then sends back what it gets, to whoever connects, until it is dropped.
struct Upstream {
    address: SocketAddr,
    ends: Arc<AtomicBool>,
}

impl Upstream {
    fn start(name: u8) -> Self {
        Upstream::at("127.0.0.1:0".parse().unwrap(), name)
    }

    fn at(address: SocketAddr, name: u8) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let (address, ends) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let told = ends.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                if told.load(Ordering::Relaxed) {
                    return;
                }
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let mut buffer = [0; 16 << 10];
                    let mut sent = stream.write_all(&[name]);
                    while sent.is_ok() {
                        match stream.read(&mut buffer) {
                            Ok(n) if n > 0 => sent = stream.write_all(&buffer[..n]),
                            _ => return,
                        }
                    }
                });
            }
        });
        Upstream { address, ends }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        // So that it looks.
        let _ = TcpStream::connect(self.address);
        while TcpStream::connect(self.address).is_ok() {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn proxy(backend: &str, arguments: &[&str], upstreams: &[&Upstream]) -> Server {
    let mut command = example("proxy");
    command.args(["--listen", "127.0.0.1:0", "--backend", backend, "--health", "0.05"]).args(arguments);
    for upstream in upstreams {
        command.args(["--upstream", &upstream.address.to_string()]);
    }
    Server::start(command)
}

fn connect(proxy: &Server) -> TcpStream {
    let stream = TcpStream::connect(&proxy.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Who answers.
fn name(stream: &mut TcpStream) -> u8 {
    let mut name = [0];
    stream.read_exact(&mut name).unwrap();
    name[0]
}

fn next_name(proxy: &Server) -> u8 {
    name(&mut connect(proxy))
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn those_that_answer_take_turns() {
    for backend in backends() {
        let (first, second) = (Upstream::start(b'1'), Upstream::start(b'2'));
        let proxy = proxy(&backend, &["--reactors", "2"], &[&first, &second]);
        let names: Vec<u8> = (0..20).map(|_| next_name(&proxy)).collect();
        assert_eq!(names.iter().filter(|name| **name == b'1').count(), 10, "{names:?}");
        // One that goes away costs nobody anything.
        let address = first.address;
        drop(first);
        assert!((0..20).all(|_| next_name(&proxy) == b'2'));
        // It is taken back when it is there again.
        let first = Upstream::at(address, b'1');
        eventually("it has its turns again", || next_name(&proxy) == b'1');
        drop((first, second));
        // Nobody is left: clients are turned away, and not left to wait.
        let end = connect(&proxy).read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(end, Err(ErrorKind::ConnectionReset));
        let (succeeded, text) = proxy.stop();
        assert!(succeeded && text.contains("1 without an upstream"), "{text}");
        assert!(text.contains("does not answer") && text.contains("is there again"), "{text}");
    }
}

#[test]
fn a_hangup_has_the_upstreams_read_once_more() {
    for backend in backends() {
        let (first, second) = (Upstream::start(b'1'), Upstream::start(b'2'));
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |text: String| std::fs::write(file.path(), text).unwrap();
        write(format!("# the first\n{}\n", first.address));
        let proxy = proxy(&backend, &["--upstreams", file.path().to_str().unwrap()], &[]);
        let mut kept = connect(&proxy);
        assert_eq!(name(&mut kept), b'1');
        write(format!("{}\n", second.address));
        proxy.signal("HUP");
        eventually("the other one has all", || next_name(&proxy) == b'2');
        assert!((0..5).all(|_| next_name(&proxy) == b'2'));
        // What was going on goes on.
        kept.write_all(b"still").unwrap();
        let mut answer = [0; 5];
        kept.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"still");
        // What cannot be read changes nothing, and a burst of signals ends nothing.
        write("this is no address".to_owned());
        (0..20).for_each(|_| proxy.signal("HUP"));
        assert!((0..5).all(|_| next_name(&proxy) == b'2'));
        drop(kept);
        let (succeeded, text) = proxy.stop();
        assert!(succeeded && text.contains("stay as they are"), "{text}");
        assert!(text.contains("1 upstreams from now on"), "{text}");
    }
}

#[test]
fn all_of_a_stream_is_passed_on_whoever_else_is_there() {
    for backend in backends() {
        let upstream = Upstream::start(b'1');
        let proxy = proxy(&backend, &[], &[&upstream]);
        // Hostile ones: they never read, reset, or say nothing.
        let mut never_reads = connect(&proxy);
        never_reads.set_nonblocking(true).unwrap();
        let mut stalled = 0;
        while stalled < 50 {
            // However much of it finds room.
            if never_reads.write(&[7; 64 << 10]).is_ok_and(|written| written > 0) {
                stalled = 0;
            } else {
                stalled += 1;
                thread::sleep(Duration::from_millis(2));
            }
        }
        let resets = connect(&proxy);
        socket2::SockRef::from(&resets).set_linger(Some(Duration::ZERO)).unwrap();
        drop(resets);
        let silent = connect(&proxy);
        let message: Vec<u8> = (0..4_000_000u32).map(|n| (n % 251) as u8).collect();
        thread::scope(|scope| {
            for _ in 0..4 {
                let mut stream = connect(&proxy);
                let message = &message;
                scope.spawn(move || {
                    let mut sending = stream.try_clone().unwrap();
                    thread::scope(|scope| {
                        scope.spawn(move || {
                            sending.write_all(message).unwrap();
                            sending.shutdown(Shutdown::Write).unwrap();
                        });
                        let mut heard = Vec::new();
                        stream.read_to_end(&mut heard).unwrap();
                        assert!(heard[1..] == message[..], "{} bytes", heard.len());
                    });
                });
            }
        });
        drop((never_reads, silent));
        let (succeeded, text) = proxy.stop();
        assert!(succeeded, "{text}");
    }
}

#[test]
fn what_is_going_on_has_its_time_when_it_stops() {
    for backend in backends() {
        let upstream = Upstream::start(b'1');
        let server = proxy(&backend, &["--grace", "60"], &[&upstream]);
        let mut stream = connect(&server);
        assert_eq!(name(&mut stream), b'1');
        server.signal("TERM");
        eventually("nobody else is let in", || TcpStream::connect(&server.address).is_err());
        stream.write_all(b"the rest").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "the rest");
        let (succeeded, text) = server.rest();
        // Who was let in while it was asked whether anybody is was relayed as well.
        let in_order = ["; 8 bytes forth", " 0 connections were cut off"];
        assert!(succeeded && in_order.iter().all(|part| text.contains(part)), "{text}");
        // Who does not finish is cut off, and can tell.
        let server = proxy(&backend, &["--grace", "0.1"], &[&upstream]);
        let mut stream = connect(&server);
        assert_eq!(name(&mut stream), b'1');
        server.signal("TERM");
        let end = stream.read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(end, Err(ErrorKind::ConnectionReset));
        let (succeeded, text) = server.rest();
        assert!(succeeded && text.contains("1 of them not in good order"), "{text}");
    }
}

#[test]
fn a_proxy_without_upstreams_says_so() {
    let output = process::output(example("proxy").args(["--listen", "127.0.0.1:0"]));
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("--upstream ADDR"), "{text}");
}
