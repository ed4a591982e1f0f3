//! A process that runs out of descriptors: those who are connected are served, those who wait are accepted later, and
//! meanwhile nothing spins. In a program of its own, because the limit is the whole process'.

#[path = "common/descriptors.rs"]
mod descriptors;

use socket2::{Domain, SockAddr, Socket, Type};
use std::fs::File;
use std::io::{Read, Write};
use std::time::{Duration, Instant};
use trochus::config::ACCEPT_BACKOFF;
use trochus::net::{Address, Handler, Io};
use trochus::{Backend, Metrics, Runtime};

const DEADLINE: Duration = Duration::from_secs(30);

struct Echo;

impl Handler for Echo {
    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        io.write(bytes);
        bytes.len()
    }
}

#[track_caller]
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn socket() -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

#[track_caller]
fn assert_served(peer: &Socket) {
    (&mut &*peer).write_all(b"served?").unwrap();
    let mut answer = [0; 7];
    (&mut &*peer).read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"served?");
}

#[test]
fn whoever_waits_is_accepted_once_there_are_descriptors_again() {
    // Before anything listens: an accept that io_uring has armed keeps the limit that it was armed under.
    descriptors::set_limit(200).unwrap();
    for backend in Backend::available() {
        for reactors in [1, 2] {
            run_out(&Runtime::builder().backend(backend).reactors(reactors).build().unwrap());
        }
    }
}

fn run_out(runtime: &Runtime) {
    let server = runtime.listen("127.0.0.1:0", |_| Echo).unwrap();
    let Address::Tcp(address) = *server.local_addr() else { unreachable!("listens on TCP") };
    let target = SockAddr::from(address);
    let connected: Vec<Socket> = (0..5).map(|_| socket()).collect();
    for peer in &connected {
        peer.connect(&target).unwrap();
        assert_served(peer);
    }
    let waiting: Vec<Socket> = (0..20).map(|_| socket()).collect();
    let ballast: Vec<File> = std::iter::from_fn(|| File::open("/").ok()).collect();
    assert!(ballast.len() > waiting.len());
    waiting.iter().for_each(|peer| peer.connect(&target).unwrap());

    wait_until("accepting backs off", || runtime.metrics().accept_backoffs >= 1);
    let refused = runtime.connect(server.local_addr(), || Echo).unwrap_err().to_string();
    assert!(refused.contains("raise `ulimit -n`"), "{refused}");
    connected.iter().for_each(assert_served);
    let (start, began) = (runtime.metrics(), Instant::now());
    wait_until("it has been tried some more", || {
        runtime.metrics().accept_backoffs >= start.accept_backoffs + 10
    });
    let Metrics { turns, accept_backoffs, .. } = runtime.metrics();
    let (turns, attempts) = (turns - start.turns, accept_backoffs - start.accept_backoffs);
    assert!(turns <= 10 * attempts + 20, "{turns} turns for {attempts} attempts to accept");
    let most = runtime.reactors() as u128 * (began.elapsed().as_nanos() / ACCEPT_BACKOFF.as_nanos() + 2);
    assert!(u128::from(attempts) <= most, "{attempts} attempts, where there is time for {most}");
    assert_eq!(server.connections(), connected.len());

    drop(ballast);
    waiting.iter().for_each(assert_served);
    connected.iter().for_each(assert_served);
    drop((waiting, connected));
    wait_until("all have left", || runtime.metrics().connections() == 0);
    assert_eq!(runtime.metrics().connections_opened, 25);
}
