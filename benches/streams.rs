//! Byte streams: bandwidth, round trips, and how soon a reactor does what another thread asks of it.
//!
//! `cargo bench --bench streams -- io_uring` (or `fallback`, or `reference`) runs one of them. References are plain
//! sockets and threads.

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};
use trochus::net::{Address, Handle, Handler, Io};
use trochus::{Backend, Runtime};

const CHUNK: usize = 256 << 10;
const MESSAGE: usize = 64;

/// How long to wait for something that takes microseconds.
const PATIENCE: Duration = Duration::from_secs(30);

fn runtime(backend: Backend, core: usize) -> Runtime {
    Runtime::builder().reactors(1).pin(true).first_core(core).backend(backend).build().unwrap()
}

/// Work for a client's handler: `notify` starts it, a message on the channel ends it.
struct Job {
    rounds: Arc<AtomicU64>,
    handle: Handle,
    done: Receiver<()>,
}

impl Job {
    fn new<H: Handler>(
        runtime: &Runtime,
        server: &Address,
        make: impl FnOnce(Arc<AtomicU64>, Sender<()>) -> H + Send + 'static,
    ) -> Self {
        let (rounds, (tell, done)) = (Arc::new(AtomicU64::new(0)), mpsc::channel());
        let theirs = rounds.clone();
        let handle = runtime.connect(server, move || make(theirs, tell)).unwrap();
        Job { rounds, handle, done }
    }

    fn run(&self, rounds: u64) -> Duration {
        self.rounds.store(rounds, Ordering::Relaxed);
        let start = Instant::now();
        self.handle.notify().unwrap();
        self.done.recv_timeout(PATIENCE).unwrap();
        start.elapsed()
    }
}

/// Sends so many chunks, then waits for the receiver's word that all have arrived.
struct Source {
    rounds: Arc<AtomicU64>,
    left: u64,
    chunk: Bytes,
    done: Sender<()>,
}

impl Source {
    fn next(&mut self, io: &mut Io<'_>) {
        if self.left > 0 {
            self.left -= 1;
            io.write_bytes(self.chunk.clone());
        }
    }
}

impl Handler for Source {
    fn on_notify(&mut self, io: &mut Io<'_>) {
        self.left = self.rounds.load(Ordering::Relaxed);
        io.write(&(self.left * CHUNK as u64).to_le_bytes());
        self.next(io);
    }

    fn on_drained(&mut self, io: &mut Io<'_>) {
        self.next(io);
    }

    fn on_bytes(&mut self, _io: &mut Io<'_>, bytes: &[u8]) -> usize {
        self.done.send(()).unwrap();
        bytes.len()
    }
}

/// Is told how many bytes follow, and answers with one when they have.
#[derive(Default)]
struct Sink {
    left: u64,
}

impl Handler for Sink {
    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        let mut body = bytes;
        if self.left == 0 {
            let Some((length, rest)) = bytes.split_first_chunk() else { return 0 };
            (self.left, body) = (u64::from_le_bytes(*length), rest);
        }
        self.left -= body.len() as u64;
        if self.left == 0 {
            io.write(&[1]);
        }
        bytes.len()
    }
}

/// Both ends on one reactor, so that this is what one core can do.
fn bulk(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("bulk");
    group.throughput(Throughput::Bytes(CHUNK as u64));
    for backend in Backend::available() {
        group.bench_function(format!("{backend}/256KiB"), |bencher| {
            let runtime = runtime(backend, 0);
            let server = runtime.listen("127.0.0.1:0", |_| Sink::default()).unwrap();
            let job = Job::new(&runtime, server.local_addr(), |rounds, done| Source {
                rounds,
                left: 0,
                chunk: Bytes::from(vec![7; CHUNK]),
                done,
            });
            bencher.iter_custom(|rounds| job.run(rounds));
        });
    }
    group.bench_function("reference/256KiB", |bencher| {
        bencher.iter_custom(|rounds| on_core(0, || move_chunks(rounds).unwrap()));
    });
    group.finish();
}

/// One thread with both ends of a connection, which never waits.
fn move_chunks(rounds: u64) -> io::Result<Duration> {
    let (mut client, mut server) = connection()?;
    client.set_nonblocking(true)?;
    server.set_nonblocking(true)?;
    let (chunk, mut buffer) = (vec![7; CHUNK], vec![0; CHUNK]);
    let total = rounds * CHUNK as u64;
    let (mut sent, mut received) = (0, 0);
    let start = Instant::now();
    while received < total {
        let len = (total - sent).min(CHUNK as u64) as usize;
        if len > 0 {
            sent += unless_blocked(client.write(&chunk[..len]))?;
        }
        received += unless_blocked(server.read(&mut buffer))?;
    }
    Ok(start.elapsed())
}

fn unless_blocked(result: io::Result<usize>) -> io::Result<u64> {
    match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        result => result.map(|bytes| bytes as u64),
    }
}

/// Plays so many rounds, one message at a time.
struct Pinger {
    rounds: Arc<AtomicU64>,
    left: u64,
    done: Sender<()>,
}

impl Handler for Pinger {
    fn on_notify(&mut self, io: &mut Io<'_>) {
        self.left = self.rounds.load(Ordering::Relaxed);
        io.write(&[7; MESSAGE]);
    }

    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        if bytes.len() < MESSAGE {
            io.expect(MESSAGE);
            return 0;
        }
        self.left -= 1;
        if self.left > 0 {
            io.write(&bytes[..MESSAGE]);
        } else {
            self.done.send(()).unwrap();
        }
        MESSAGE
    }
}

struct Echo;

impl Handler for Echo {
    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        io.write(bytes);
        bytes.len()
    }
}

/// The ends on different cores. The plain sockets block and so sleep between messages; reactors look for work first.
fn ping_pong(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ping-pong");
    for backend in Backend::available() {
        group.bench_function(format!("{backend}/64B"), |bencher| {
            let (clients, servers) = (runtime(backend, 0), runtime(backend, 1));
            let server = servers.listen("127.0.0.1:0", |_| Echo).unwrap();
            let job =
                Job::new(&clients, server.local_addr(), |rounds, done| Pinger { rounds, left: 0, done });
            bencher.iter_custom(|rounds| job.run(rounds));
        });
    }
    group.bench_function("reference/64B", |bencher| {
        let (mut client, mut server) = connection().unwrap();
        let echo = thread::spawn(move || {
            pin(1);
            let mut message = [0; MESSAGE];
            while server.read_exact(&mut message).is_ok() {
                server.write_all(&message).unwrap();
            }
        });
        bencher.iter_custom(|rounds| on_core(0, || play(&mut client, rounds).unwrap()));
        client.shutdown(Shutdown::Both).unwrap();
        echo.join().unwrap();
    });
    group.finish();
}

fn play(client: &mut TcpStream, rounds: u64) -> io::Result<Duration> {
    let mut message = [7; MESSAGE];
    let start = Instant::now();
    for _ in 0..rounds {
        client.write_all(&message)?;
        client.read_exact(&mut message)?;
    }
    Ok(start.elapsed())
}

/// Tells whoever waits that it was notified.
struct Notified(Sender<()>);

impl Handler for Notified {
    fn on_bytes(&mut self, _io: &mut Io<'_>, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn on_notify(&mut self, _io: &mut Io<'_>) {
        self.0.send(()).unwrap();
    }
}

/// From a thread to a reactor that is idle, and back to the thread through a channel.
fn wake(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wake");
    for backend in Backend::available() {
        group.bench_function(format!("{backend}/run"), |bencher| {
            let runtime = runtime(backend, 1);
            let (tell, done) = mpsc::channel();
            bencher.iter(|| {
                let tell = tell.clone();
                runtime.reactor(0).run(move |_| tell.send(()).unwrap()).unwrap();
                done.recv_timeout(PATIENCE).unwrap();
            });
        });
        group.bench_function(format!("{backend}/notify"), |bencher| {
            let runtime = runtime(backend, 1);
            let server = runtime.listen("127.0.0.1:0", |_| Echo).unwrap();
            let (tell, done) = mpsc::channel();
            let handle = runtime.connect(server.local_addr(), || Notified(tell)).unwrap();
            bencher.iter(|| {
                handle.notify().unwrap();
                done.recv_timeout(PATIENCE).unwrap();
            });
        });
    }
    group.bench_function("reference/socket", |bencher| {
        let (mut bell, mut ear) = UnixStream::pair().unwrap();
        let (tell, done) = mpsc::channel();
        let sleeper = thread::spawn(move || {
            pin(1);
            while ear.read_exact(&mut [0]).is_ok() {
                tell.send(()).unwrap();
            }
        });
        bencher.iter(|| {
            bell.write_all(&[1]).unwrap();
            done.recv_timeout(PATIENCE).unwrap();
        });
        drop(bell);
        sleeper.join().unwrap();
    });
    group.finish();
}

fn connection() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    Ok((client, server))
}

/// Where reactors of the same number are.
fn pin(core: usize) {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    if !cores.is_empty() {
        core_affinity::set_for_current(cores[core % cores.len()]);
    }
}

/// On a thread of its own, so that the benchmark's own stays free to run anywhere.
fn on_core<T: Send>(core: usize, work: impl FnOnce() -> T + Send) -> T {
    let pinned = || {
        pin(core);
        work()
    };
    thread::scope(|scope| scope.spawn(pinned).join().unwrap())
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20);
    targets = bulk, ping_pong, wake
}
criterion_main!(benches);
