//! What an idle connection costs: at most 1 KiB of the server's resident memory, and 2 KiB with a handle, whatever was written
//! to that.
//!
//! The clients are a process of their own, which is this program once more, so that only one end is measured. The kernel's own memory for sockets is no process' and not counted.

#[path = "common/descriptors.rs"]
mod descriptors;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use trochus::net::{Address, Handle, Handler, Io};
use trochus::{Backend, Runtime};

const CONNECTIONS: u64 = 10_000;
const MOST_BYTES: u64 = 1024;
/// With a handle that was written to.
const MOST_BYTES_WITH_HANDLE: u64 = 2048;
/// What was written to it, once.
const WRITTEN: usize = 64 << 10;
const DEADLINE: Duration = Duration::from_secs(60);

/// Set in a process that measures: its backend. One each, because memory that was given back is used again.
const MEASURED: &str = "TROCHUS_MEMORY_BACKEND";
/// Set in the clients' process: where they connect to, and how many there are.
const TARGET: &str = "TROCHUS_MEMORY_TARGET";
const CLIENTS: &str = "TROCHUS_MEMORY_CLIENTS";
/// Set if connections are written to by handles, in both processes.
const HANDLES: &str = "TROCHUS_MEMORY_HANDLES";

struct Echo(Option<Arc<Mutex<Vec<Handle>>>>);

impl Handler for Echo {
    fn on_open(&mut self, io: &mut Io<'_>) {
        if let Some(handles) = &self.0 {
            handles.lock().unwrap().push(io.handle());
        }
    }

    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        io.write(bytes);
        bytes.len()
    }
}

fn main() {
    if let Ok(target) = std::env::var(TARGET) {
        return be_clients(target.parse().unwrap(), std::env::var(CLIENTS).unwrap().parse().unwrap());
    }
    if resident_bytes().is_none() {
        return println!("memory: not measured, for /proc/self/statm is not there");
    }
    let (_, most) = descriptors::limit().unwrap();
    descriptors::set_limit(most).unwrap();
    let connections = CONNECTIONS.min(most - 100);
    if let Ok(backend) = std::env::var(MEASURED) {
        let bytes = measure(backend.parse().unwrap(), connections);
        let (with, most) = match has_handles() {
            true => (" with handles", MOST_BYTES_WITH_HANDLE),
            false => ("", MOST_BYTES),
        };
        println!("memory: {bytes} bytes for each of {connections} idle connections{with} on {backend}");
        assert!(bytes <= most, "an idle connection{with} may cost {most} bytes");
        return;
    }
    if connections < CONNECTIONS {
        println!("memory: `ulimit -n` allows {connections} connections of {CONNECTIONS}");
    }
    for backend in Backend::available() {
        let measuring = || {
            let mut measuring = Command::new(std::env::current_exe().unwrap());
            measuring.env(MEASURED, backend.to_string());
            measuring
        };
        assert!(measuring().status().unwrap().success());
        assert!(measuring().env(HANDLES, "1").status().unwrap().success());
    }
}

/// Resident bytes per connection that has been used once and now rests.
fn measure(backend: Backend, connections: u64) -> u64 {
    let runtime = Runtime::builder().backend(backend).reactors(1).build().unwrap();
    let handles = has_handles().then(Arc::<Mutex<Vec<Handle>>>::default);
    let listened = handles.clone();
    let server = runtime.listen("127.0.0.1:0", move |_| Echo(listened.clone())).unwrap();
    let wait = |count: u64| {
        let start = Instant::now();
        while runtime.metrics().connections() != count {
            assert!(start.elapsed() < DEADLINE, "waited in vain for {count} connections");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    // Buffers that all connections share have been used before it counts.
    let mut first = clients(server.local_addr(), 200);
    wait(200);
    write_to_all(&handles, &mut first);
    end(first);
    wait(0);
    if let Some(handles) = &handles {
        handles.lock().unwrap().clear();
    }
    let before = resident_bytes().unwrap();
    let mut all = clients(server.local_addr(), connections);
    wait(connections);
    write_to_all(&handles, &mut all);
    let after = resident_bytes().unwrap();
    end(all);
    wait(0);
    after.saturating_sub(before) / connections
}

/// A process with connections; they live until its input ends.
type Clients = (Child, ChildStdin, BufReader<ChildStdout>);

/// A child that has so many connections, each of which has been served once.
fn clients(address: &Address, count: u64) -> Clients {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(TARGET, address.to_string())
        .env(CLIENTS, count.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "connected\n");
    let stdin = child.stdin.take().unwrap();
    (child, stdin, output)
}

fn has_handles() -> bool {
    std::env::var(HANDLES).is_ok()
}

/// Writes to each connection once, and waits until all of it has been received.
fn write_to_all(handles: &Option<Arc<Mutex<Vec<Handle>>>>, (_, _, output): &mut Clients) {
    let Some(handles) = handles else { return };
    for handle in handles.lock().unwrap().iter() {
        handle.write(&[1; WRITTEN]).unwrap();
        while handle.pending() > 0 {
            std::thread::yield_now();
        }
    }
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "received\n");
}

fn end((mut child, stdin, _output): Clients) {
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

fn be_clients(target: SocketAddr, count: u64) {
    let clients: Vec<TcpStream> = (0..count)
        .map(|_| {
            let mut client = TcpStream::connect(target).unwrap();
            client.set_read_timeout(Some(DEADLINE)).unwrap();
            client.write_all(b"x").unwrap();
            client.read_exact(&mut [0]).unwrap();
            client
        })
        .collect();
    println!("connected");
    if has_handles() {
        let mut bytes = vec![0; WRITTEN];
        for mut client in &clients {
            client.read_exact(&mut bytes).unwrap();
        }
        println!("received");
    }
    // Until the parent closes the pipe.
    let _ = std::io::stdin().read(&mut [0]);
    drop(clients);
}

fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * 4096)
}
