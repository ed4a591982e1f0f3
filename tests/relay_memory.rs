//! What stalled downloads through a proxy cost, however much the source has to send and however often reading paused before. With
//! handlers that pass on through handles: of each connection, its output, its outbox and a little that was read ahead. With
//! `Relay` and all its defaults: what may wait of one direction.
//!
//! Source and clients are a process of their own, which is this program once more, so that only the proxy is measured.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use trochus::config::RELAY_BYTES;
use trochus::net::{Address, Handle, HandleError, Handler, Io, ListenOptions, Relay, Server, StreamOptions};
use trochus::{Backend, Runtime};

const DOWNLOADS: usize = 100;
/// What each client takes before it stalls, in several goes: so reading pauses and goes on a few times.
const TAKEN: usize = 8 << 20;
const OUTPUT_SOFT: usize = 256 << 10;
const OUTBOX: usize = 256 << 10;
/// For each download, beside its output and its outbox: what was read ahead, the buffer that was on its way when the pause began,
/// and what vectors have too much.
const MOST_HELD: usize = 512 << 10;
/// For all of them: the pool, and the memory that goes from one connection to the next.
const MOST_SHARED: usize = 48 << 20;
const DEADLINE: Duration = Duration::from_secs(60);

/// Relays: for all of them, with what else the process has grown by. Nothing is read ahead that may not wait.
const MOST_RELAYED: usize = 64 << 20;

/// Set in a process that measures: its backend.
const MEASURED: &str = "TROCHUS_RELAY_BACKEND";
/// Set there as well, if it is `Relay` that passes on.
const BY_RELAY: &str = "TROCHUS_RELAY_BY_RELAY";
/// Set in the other one's: it is the source and the clients.
const OTHERS: &str = "TROCHUS_RELAY_OTHERS";

/// Passes a download on, and does not read while the client has no room.
struct Upstream {
    client: Handle,
    this: Arc<OnceLock<Handle>>,
}

impl Handler for Upstream {
    fn on_open(&mut self, io: &mut Io<'_>) {
        let _ = self.this.set(io.handle());
    }

    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        match self.client.try_write(bytes) {
            Ok(()) => bytes.len(),
            Err(HandleError::Full { .. }) => {
                io.pause_reading();
                0
            }
            Err(_) => {
                io.close();
                bytes.len()
            }
        }
    }
}

/// A client of the proxy.
struct Client {
    source: SocketAddr,
    upstream: Arc<OnceLock<Handle>>,
}

impl Handler for Client {
    fn on_open(&mut self, io: &mut Io<'_>) {
        let upstream = Upstream { client: io.handle(), this: self.upstream.clone() };
        let source = Address::Tcp(self.source);
        io.defer(move |reactor| {
            reactor.connect(&StreamOptions::new(), &source, upstream);
        });
    }

    fn on_bytes(&mut self, _io: &mut Io<'_>, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn on_room(&mut self, _io: &mut Io<'_>) {
        if let Some(upstream) = self.upstream.get() {
            let _ = upstream.resume_reading();
        }
    }
}

fn main() {
    if std::env::var(OTHERS).is_ok() {
        return be_others();
    }
    if resident_bytes().is_none() {
        return println!("relay: not measured, for /proc/self/statm is not there");
    }
    if let Ok(backend) = std::env::var(MEASURED) {
        return measure(backend.parse().unwrap());
    }
    for backend in Backend::available() {
        for by_relay in [false, true] {
            let mut measuring = Command::new(std::env::current_exe().unwrap());
            measuring.env(MEASURED, backend.to_string());
            if by_relay {
                measuring.env(BY_RELAY, "1");
            }
            assert!(measuring.status().unwrap().success());
        }
    }
}

fn by_handlers(runtime: &Runtime, source: SocketAddr) -> Server {
    let stream = StreamOptions::new().output_limits(OUTPUT_SOFT, 64 << 20).outbox_limit(OUTBOX);
    let options = ListenOptions::new().stream(stream);
    let server =
        runtime.listen_with(&options, "127.0.0.1:0", move |_| Client { source, upstream: Arc::default() });
    server.unwrap()
}

fn by_relay(runtime: &Runtime, source: SocketAddr) -> Server {
    runtime.listen("127.0.0.1:0", move |_| Relay::to([Address::Tcp(source)])).unwrap()
}

fn measure(backend: Backend) {
    let runtime = Runtime::builder().backend(backend).reactors(1).build().unwrap();
    let before = resident_bytes().unwrap();
    let mut others = Others::start();
    let source: SocketAddr = others.hear().parse().unwrap();
    let relays = std::env::var(BY_RELAY).is_ok();
    let server = if relays { by_relay(&runtime, source) } else { by_handlers(&runtime, source) };
    let start = Instant::now();
    others.say(&server.local_addr().to_string());
    assert_eq!(others.hear(), "stalled");
    let mut received = 0;
    loop {
        std::thread::sleep(Duration::from_millis(300));
        let now = runtime.metrics().received_bytes;
        if std::mem::replace(&mut received, now) == now {
            break;
        }
        assert!(start.elapsed() < DEADLINE, "the proxy reads on and on: {received} bytes");
    }
    let held = resident_bytes().unwrap().saturating_sub(before);
    let gauges = runtime.gauges().unwrap()[0];
    println!(
        "relay: {} MiB resident for {DOWNLOADS} stalled downloads by {} on {backend}: {} KiB of output, {} in outboxes, {} read ahead",
        held >> 20,
        if relays { "`Relay`" } else { "handlers" },
        gauges.output_bytes >> 10,
        gauges.outbox_bytes >> 10,
        gauges.input_bytes >> 10,
    );
    let stalled = if relays { gauges.throttled } else { gauges.paused };
    assert!(stalled >= DOWNLOADS as u64 * 9 / 10, "{gauges:?}");
    assert!(!relays || gauges.output_bytes as usize <= DOWNLOADS * RELAY_BYTES, "{gauges:?}");
    // The reactor takes over an outbox as a whole.
    let by_handlers = DOWNLOADS * (OUTPUT_SOFT + 2 * OUTBOX + MOST_HELD) + MOST_SHARED;
    let most = if relays { MOST_RELAYED } else { by_handlers };
    assert!(held <= most, "{held} bytes are resident, and {most} are plenty");
    drop(others);
}

/// The other process.
struct Others {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Others {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(OTHERS, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Others { child, input, output }
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn say(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        // It lives until its input ends.
        self.input = None;
        let _ = self.child.wait();
    }
}

/// Sends for ever to whoever connects, downloads through the proxy, and stalls.
fn be_others() {
    let source = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", source.local_addr().unwrap());
    std::thread::spawn(move || {
        for download in source.incoming() {
            let mut download = download.unwrap();
            std::thread::spawn(move || while download.write_all(&[7; 64 << 10]).is_ok() {});
        }
    });
    let mut lines = std::io::stdin().lines();
    let proxy: SocketAddr = lines.next().unwrap().unwrap().parse().unwrap();
    let mut clients: Vec<TcpStream> = (0..DOWNLOADS).map(|_| TcpStream::connect(proxy).unwrap()).collect();
    let mut some = vec![0; TAKEN / 8];
    for _ in 0..8 {
        for client in &mut clients {
            client.set_read_timeout(Some(DEADLINE)).unwrap();
            client.read_exact(&mut some).unwrap();
        }
    }
    println!("stalled");
    assert!(lines.next().is_none());
}

fn resident_bytes() -> Option<usize> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: usize = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * 4096)
}
