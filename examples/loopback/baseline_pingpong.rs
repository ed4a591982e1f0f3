//! The same messages over a bare event loop (epoll, kqueue): clients and servers on threads of their own, each thread
//! with its own poll, on different cores.

use crate::Result;
use crate::latency::Latencies;
use crate::message::Messages;
use crate::options::Options;
use crate::pingpong::Plan;
use crate::report::{Progress, Unit};
use crate::rounds::{Sample, Slice};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Registry, Token};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const WARMING_UP: u8 = 0;
const MEASURING: u8 = 1;
const STOPPING: u8 = 2;

/// How soon a loop with nothing to do notices that the time is up, if it sleeps.
const GLANCE: Duration = Duration::from_millis(20);

#[derive(Default)]
struct Shared {
    phase: AtomicU8,
    played: AtomicU64,
}

pub(crate) fn measure(
    options: &Options,
    plan: &Plan,
    slice: Slice,
    progress: &mut Progress,
) -> Result<Sample> {
    let shared = Shared::default();
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let loops = share_out(options, plan)?;
    let (latencies, time) = thread::scope(|scope| {
        let (shared, cores) = (&shared, &cores);
        let start_thread = |(index, ends): (usize, Vec<End>)| {
            scope.spawn(move || {
                if !cores.is_empty() {
                    core_affinity::set_for_current(cores[index % cores.len()]);
                }
                let result = run(ends, shared, options.polls_busily());
                result.inspect_err(|_| shared.phase.store(STOPPING, Ordering::Relaxed))
            })
        };
        let threads: Vec<_> = loops.into_iter().enumerate().map(start_thread).collect();
        let played = || shared.played.load(Ordering::Relaxed);
        progress.wait(slice.warm_up, "plain sockets", Unit::Messages, played);
        let start = Instant::now();
        // Unless a thread has failed already.
        let _ = shared.phase.compare_exchange(WARMING_UP, MEASURING, Ordering::Relaxed, Ordering::Relaxed);
        progress.wait(slice.time, "plain sockets", Unit::Messages, played);
        shared.phase.store(STOPPING, Ordering::Relaxed);
        let time = start.elapsed();
        let mut sum = Latencies::new();
        for thread in threads {
            sum.merge(&thread.join().expect("the thread reports errors and does not panic")?);
        }
        Ok::<_, io::Error>((sum, time))
    })?;
    Ok(latencies.sample(time, plan.size))
}

/// The ends that each thread serves: clients on the first half of the cores, servers on the others, or both on one.
fn share_out(options: &Options, plan: &Plan) -> io::Result<Vec<Vec<End>>> {
    let for_clients = options.reactors / 2;
    let for_servers = options.reactors - for_clients;
    let mut loops: Vec<Vec<End>> = (0..options.reactors).map(|_| Vec::new()).collect();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    for connection in 0..plan.connections {
        let client = std::net::TcpStream::connect(listener.local_addr()?)?;
        let (server, _) = listener.accept()?;
        let client_loop = connection % for_clients.max(1);
        loops[client_loop].push(End::new(client, plan, Side::Client { sent_at: Instant::now() })?);
        loops[for_clients + connection % for_servers].push(End::new(server, plan, Side::Server)?);
    }
    Ok(loops)
}

/// A thread's event loop. Gives the round trips of its clients while they were measured.
///
/// With `busily` it never sleeps, as reactors with `--busy-poll` do not.
fn run(mut ends: Vec<End>, shared: &Shared, busily: bool) -> io::Result<Latencies> {
    let timeout = if busily { Duration::ZERO } else { GLANCE };
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut latencies = Latencies::new();
    for (index, end) in ends.iter_mut().enumerate() {
        poll.registry().register(&mut end.stream, Token(index), Interest::READABLE)?;
        end.serve(&mut latencies)?;
        end.write(poll.registry(), Token(index))?;
    }
    let mut measuring = false;
    loop {
        if let Err(error) = poll.poll(&mut events, Some(timeout))
            && error.kind() != ErrorKind::Interrupted
        {
            return Err(error);
        }
        match shared.phase.load(Ordering::Relaxed) {
            STOPPING => return Ok(latencies),
            MEASURING if !measuring => {
                measuring = true;
                latencies = Latencies::new();
            }
            _ => {}
        }
        if busily && events.is_empty() {
            // As a reactor that looks for work does: whoever else wants this core may have it.
            thread::yield_now();
        }
        for event in &events {
            let end = &mut ends[event.token().0];
            let before = end.played;
            let served = end.read().and_then(|()| {
                end.serve(&mut latencies)?;
                end.write(poll.registry(), event.token())
            });
            shared.played.fetch_add(end.played - before, Ordering::Relaxed);
            match served {
                // The other thread has stopped first.
                Err(_) if shared.phase.load(Ordering::Relaxed) == STOPPING => return Ok(latencies),
                served => served?,
            }
        }
    }
}

struct End {
    stream: TcpStream,
    side: Side,
    messages: Messages,
    /// One byte longer than a message: a read that does not fill it has emptied the socket, and edge-triggered polling
    /// needs no second one to find that out.
    incoming: Vec<u8>,
    received: usize,
    outgoing: Vec<u8>,
    sent: usize,
    waits_to_write: bool,
    /// Round trips.
    played: u64,
}

#[derive(Clone, Copy, Debug)]
enum Side {
    Client { sent_at: Instant },
    Server,
}

impl End {
    fn new(stream: std::net::TcpStream, plan: &Plan, side: Side) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let messages = Messages::new(plan.pattern.clone(), plan.size);
        Ok(End {
            stream: TcpStream::from_std(stream),
            side,
            outgoing: match side {
                Side::Client { .. } => messages.current().to_vec(),
                Side::Server => Vec::with_capacity(plan.size),
            },
            messages,
            incoming: vec![0; plan.size + 1],
            received: 0,
            sent: 0,
            waits_to_write: false,
            played: 0,
        })
    }

    fn read(&mut self) -> io::Result<()> {
        match self.stream.read(&mut self.incoming[self.received..]) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => {
                self.received += bytes;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Checks a message that is there, and has the next one to send.
    fn serve(&mut self, latencies: &mut Latencies) -> io::Result<()> {
        if self.received < self.messages.size() {
            return Ok(());
        }
        let message = &self.incoming[..self.received];
        if message.len() > self.messages.size() {
            return Err(io::Error::other("plain sockets: more arrived than was sent"));
        }
        self.messages
            .take(message)
            .map_err(|mismatch| io::Error::other(format!("plain sockets: {mismatch}")))?;
        self.outgoing.clear();
        self.sent = 0;
        match &mut self.side {
            Side::Client { sent_at } => {
                let now = Instant::now();
                latencies.record(now - *sent_at);
                *sent_at = now;
                self.played += 1;
                self.outgoing.extend_from_slice(self.messages.current());
            }
            Side::Server => self.outgoing.extend_from_slice(message),
        }
        self.received = 0;
        Ok(())
    }

    fn write(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        while self.sent < self.outgoing.len() {
            match self.stream.write(&self.outgoing[self.sent..]) {
                Ok(bytes) => self.sent += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let waits = self.sent < self.outgoing.len();
        if std::mem::replace(&mut self.waits_to_write, waits) != waits {
            let both = Interest::READABLE | Interest::WRITABLE;
            let interest = if waits { both } else { Interest::READABLE };
            registry.reregister(&mut self.stream, token, interest)?;
        }
        Ok(())
    }
}
