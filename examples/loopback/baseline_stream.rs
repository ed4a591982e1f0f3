//! The same streams over plain sockets: on each core a thread that sends and receives on both ends of its connections.
//! Nothing sleeps and nothing crosses cores.

use crate::Result;
use crate::bandwidth::Plan;
use crate::options::Options;
use crate::pattern::{Check, Pattern, WINDOW};
use crate::report::{Progress, Unit};
use crate::rounds::{Sample, Slice};
use crate::wire::Mode;
use crossbeam_utils::CachePadded;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    verified: Vec<CachePadded<AtomicU64>>,
}

impl Shared {
    fn verified(&self) -> u64 {
        self.verified.iter().map(|bytes| bytes.load(Ordering::Relaxed)).sum()
    }
}

pub(crate) fn measure(
    options: &Options,
    plan: &Plan,
    slice: Slice,
    progress: &mut Progress,
) -> Result<Sample> {
    let shared =
        Shared { verified: (0..options.reactors).map(|_| Default::default()).collect(), ..Shared::default() };
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let (bytes, time) = thread::scope(|scope| {
        let (shared, cores) = (&shared, &cores);
        let start_thread = |index: usize| {
            scope.spawn(move || {
                if !cores.is_empty() {
                    core_affinity::set_for_current(cores[index % cores.len()]);
                }
                let connections = (index..plan.connections).step_by(options.reactors);
                let result = run(plan, connections, &shared.stop, &shared.verified[index]);
                // One that failed makes the measurement void.
                result.inspect_err(|_| shared.stop.store(true, Ordering::Relaxed))
            })
        };
        let threads: Vec<_> = (0..options.reactors).map(start_thread).collect();
        progress.wait(slice.warm_up, "plain sockets", Unit::Bytes, || shared.verified());
        let (start, before) = (Instant::now(), shared.verified());
        progress.wait(slice.time, "plain sockets", Unit::Bytes, || shared.verified());
        let measured = (shared.verified() - before, start.elapsed());
        shared.stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().expect("the thread reports errors and does not panic")?;
        }
        Ok::<_, io::Error>(measured)
    })?;
    Ok(Sample { bytes_per_s: Some(bytes as f64 / time.as_secs_f64()), ..Sample::default() })
}

fn run(
    plan: &Plan,
    connections: impl Iterator<Item = usize>,
    stop: &AtomicBool,
    verified: &AtomicU64,
) -> io::Result<()> {
    let mut pairs = connections.map(|_| Pair::new(plan)).collect::<io::Result<Vec<_>>>()?;
    let mut buffer = vec![0; WINDOW];
    while !stop.load(Ordering::Relaxed) {
        for pair in &mut pairs {
            let bytes = pair.turn(&mut buffer)?;
            verified.store(verified.load(Ordering::Relaxed) + bytes as u64, Ordering::Relaxed);
        }
        if pairs.is_empty() {
            // Fewer connections than cores.
            thread::yield_now();
        }
    }
    pairs.into_iter().try_for_each(|pair| pair.finish(&mut buffer))
}

/// Both ends of a connection.
struct Pair {
    client: End,
    server: End,
    duplex: bool,
}

struct End {
    stream: TcpStream,
    pattern: Pattern,
    size: usize,
    sent: u64,
    check: Check,
}

impl Pair {
    fn new(plan: &Plan) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        let (server, _) = listener.accept()?;
        let (client, server) = (End::new(client, plan)?, End::new(server, plan)?);
        Ok(Pair { client, server, duplex: plan.mode == Mode::Duplex })
    }

    /// A write and a read in each direction. Tells how many bytes arrived.
    fn turn(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.client.send()?;
        let mut received = self.server.receive(buffer)?.unwrap_or(0);
        if self.duplex {
            self.server.send()?;
            received += self.client.receive(buffer)?.unwrap_or(0);
        }
        Ok(received)
    }

    /// What is still under way must arrive.
    fn finish(self, buffer: &mut [u8]) -> io::Result<()> {
        let Pair { mut client, mut server, .. } = self;
        client.stream.shutdown(Shutdown::Write)?;
        server.stream.shutdown(Shutdown::Write)?;
        for end in [&mut client, &mut server] {
            end.stream.set_nonblocking(false)?;
            while end.receive(buffer)? != Some(0) {}
        }
        if (client.sent, server.sent) != (server.check.position(), client.check.position()) {
            return Err(io::Error::other("plain sockets lost or duplicated bytes"));
        }
        Ok(())
    }
}

impl End {
    fn new(stream: TcpStream, plan: &Plan) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let (pattern, size) = (plan.pattern.clone(), plan.size.min(WINDOW));
        Ok(End { stream, check: Check::new(pattern.clone()), pattern, size, sent: 0 })
    }

    fn send(&mut self) -> io::Result<()> {
        let sent = self.stream.write(self.pattern.bytes(self.sent, self.size));
        self.sent += unless_blocked(sent)?.unwrap_or(0) as u64;
        Ok(())
    }

    /// How many bytes arrived and were right; 0 at the end, `None` if none are there.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let received = unless_blocked(self.stream.read(buffer))?;
        let bytes = &buffer[..received.unwrap_or(0)];
        self.check.take(bytes).map_err(|mismatch| io::Error::other(format!("plain sockets: {mismatch}")))?;
        Ok(received)
    }
}

fn unless_blocked(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        result => result.map(Some),
    }
}
