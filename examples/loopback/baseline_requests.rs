//! The same requests and responses over a bare event loop (epoll, kqueue): on each core a thread with both ends of its
//! connections, which decodes each request, answers it, encodes the answer, decodes that and makes the next request, with the same
//! codecs. Batches are made by hand: whatever one read brought is answered by one write. Nothing else: no lanes, no callbacks
//! that are not inlined, no limits, no reconnecting. `baseline_rated` has the same loop with requests that come when they are due.

use crate::Result;
use crate::load::{Check, Load};
use crate::options::Options;
use crate::report::{Progress, Unit};
use crate::rounds::{Sample, Slice};
use crossbeam_utils::CachePadded;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Registry, Token};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use trochus::codec::{Decode, Decoded, Encode, Protocol};

/// What one read takes at most: as much as a receive buffer of trochus.
const GULP: usize = 256 << 10;

/// How soon a loop with nothing to do notices that the time is up, if it sleeps.
const GLANCE: Duration = Duration::from_millis(20);

/// What to measure.
pub(crate) struct Bare<L> {
    pub(crate) load: L,
    pub(crate) connections: usize,
    /// Requests without a response on each connection.
    pub(crate) outstanding: u64,
    /// Bytes of a message.
    pub(crate) size: usize,
}

/// What the loops and whoever measures them tell each other.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) stop: AtomicBool,
    /// Responses, by thread.
    answered: Vec<CachePadded<AtomicU64>>,
}

impl Shared {
    pub(crate) fn of(threads: usize) -> Self {
        Shared { answered: (0..threads).map(|_| CachePadded::default()).collect(), ..Shared::default() }
    }

    pub(crate) fn answered(&self) -> u64 {
        self.answered.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

/// What follows a response.
pub(crate) trait Rhythm {
    /// A new request does, made by the loop.
    const CLOSED: bool;

    /// There was the response to the request with this number.
    fn answered(&mut self, connection: usize, number: u64);

    /// Requests that were made on a connection by somebody else, once there are no more.
    fn made(&self, connection: usize) -> u64;
}

/// Each response is followed by the next request.
struct Closed;

impl Rhythm for Closed {
    const CLOSED: bool = true;

    fn answered(&mut self, _connection: usize, _number: u64) {}

    fn made(&self, _connection: usize) -> u64 {
        0
    }
}

pub(crate) fn measure<L: Load>(
    options: &Options,
    bare: &Bare<L>,
    slice: Slice,
    progress: &mut Progress,
) -> Result<Sample> {
    let shared = Shared::of(options.reactors);
    let ends = Ends::all(&bare.load, bare.connections, options.reactors)?;
    thread::scope(|scope| {
        let (shared, busily) = (&shared, options.polls_busily());
        let start_thread = |(index, mut ends): (usize, Ends<L>)| {
            scope.spawn(move || {
                pin(index);
                let result = ends
                    .begin(&bare.load, bare.outstanding)
                    .and_then(|()| ends.run(&bare.load, &mut Closed, shared, index, busily));
                // One that failed makes the measurement void.
                result.inspect_err(|_| shared.stop.store(true, Ordering::Relaxed))
            })
        };
        let threads: Vec<_> = ends.into_iter().enumerate().map(start_thread).collect();
        progress.wait(slice.warm_up, "plain sockets", Unit::Messages, || shared.answered());
        let (start, before) = (Instant::now(), shared.answered());
        progress.wait(slice.time, "plain sockets", Unit::Messages, || shared.answered());
        shared.stop.store(true, Ordering::Relaxed);
        let mut last = start;
        for thread in threads {
            last = last.max(thread.join().expect("the thread reports errors and does not panic")?);
        }
        let rate = (shared.answered() - before) as f64 / (last - start).as_secs_f64();
        let bytes_per_s = Some(rate * bare.size as f64);
        Ok(Sample { messages_per_s: Some(rate), bytes_per_s, ..Sample::default() })
    })
}

/// Where the reactor with this number would run.
pub(crate) fn pin(index: usize) {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    if !cores.is_empty() {
        core_affinity::set_for_current(cores[index % cores.len()]);
    }
}

/// A socket, what it still has to send, and what it received of an item that is not whole yet.
struct Wire {
    stream: TcpStream,
    partial: Vec<u8>,
    out: Vec<u8>,
    sent: usize,
    waits_to_write: bool,
}

struct Client<L: Load> {
    wire: Wire,
    requests: <L::Protocol as Protocol>::RequestCodec,
    responses: <L::Protocol as Protocol>::ResponseCodec,
    check: Check<L>,
    connection: usize,
    sent: u64,
}

struct Server<L: Load> {
    wire: Wire,
    requests: <L::Protocol as Protocol>::RequestCodec,
    responses: <L::Protocol as Protocol>::ResponseCodec,
}

/// Both ends of a thread's connections. Clients have even tokens, their servers the odd ones behind them.
pub(crate) struct Ends<L: Load> {
    clients: Vec<Client<L>>,
    servers: Vec<Server<L>>,
    /// The clients' sockets once more, by connection, for whoever writes to them instead of the loop.
    pub(crate) writers: Vec<(usize, std::net::TcpStream)>,
    poll: Poll,
}

impl<L: Load> Ends<L> {
    /// Those of each thread.
    pub(crate) fn all(load: &L, connections: usize, threads: usize) -> io::Result<Vec<Self>> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let of_thread = |thread| {
            let mut ends = Ends { clients: vec![], servers: vec![], writers: vec![], poll: Poll::new()? };
            (thread..connections)
                .step_by(threads)
                .try_for_each(|connection| ends.connect(&listener, load, connection, connections))?;
            Ok(ends)
        };
        (0..threads).map(of_thread).collect()
    }

    fn connect(
        &mut self,
        listener: &TcpListener,
        load: &L,
        connection: usize,
        connections: usize,
    ) -> io::Result<()> {
        let protocol = load.protocol();
        let client = std::net::TcpStream::connect(listener.local_addr()?)?;
        let (server, _) = listener.accept()?;
        self.writers.push((connection, client.try_clone()?));
        let token = 2 * self.clients.len();
        self.clients.push(Client {
            wire: Wire::new(client, self.poll.registry(), Token(token))?,
            requests: protocol.request_codec(),
            responses: protocol.response_codec(),
            check: Check::new(load.clone(), connection, connections, connections),
            connection,
            sent: 0,
        });
        self.servers.push(Server {
            wire: Wire::new(server, self.poll.registry(), Token(token + 1))?,
            requests: protocol.request_codec(),
            responses: protocol.response_codec(),
        });
        Ok(())
    }

    /// The first requests.
    fn begin(&mut self, load: &L, outstanding: u64) -> io::Result<()> {
        for (index, client) in self.clients.iter_mut().enumerate() {
            (0..outstanding).try_for_each(|_| client.request(load))?;
            client.wire.flush(self.poll.registry(), Token(2 * index))?;
        }
        Ok(())
    }

    /// Until everything that was asked before the time was up has been answered. When that was.
    pub(crate) fn run<R: Rhythm>(
        mut self,
        load: &L,
        rhythm: &mut R,
        shared: &Shared,
        index: usize,
        busily: bool,
    ) -> io::Result<Instant> {
        let answered = &shared.answered[index];
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; 2 * GULP];
        let timeout = if busily { Duration::ZERO } else { GLANCE };
        loop {
            let stopping = shared.stop.load(Ordering::Acquire);
            if stopping && self.clients.iter().all(|client| client.is_answered(rhythm)) {
                let verdict = self.clients.iter_mut().try_for_each(|client| client.check.verdict().map(drop));
                return verdict.map(|()| Instant::now()).map_err(io::Error::other);
            }
            if let Err(error) = self.poll.poll(&mut events, Some(timeout))
                && error.kind() != ErrorKind::Interrupted
            {
                return Err(error);
            }
            if busily && events.is_empty() {
                // As a reactor that looks for work does: whoever else wants this core may have it.
                thread::yield_now();
            }
            for event in &events {
                let (token, index) = (event.token(), event.token().0 / 2);
                let wire = if token.0 % 2 == 1 {
                    let server = &mut self.servers[index];
                    while server.serve(&mut buffer)? {}
                    &mut server.wire
                } else {
                    let client = &mut self.clients[index];
                    let before = client.check.received();
                    while client.take(load, rhythm, stopping, &mut buffer)? {}
                    let count = client.check.received() - before;
                    answered.store(answered.load(Ordering::Relaxed) + count, Ordering::Relaxed);
                    &mut client.wire
                };
                wire.flush(self.poll.registry(), token)?;
            }
        }
    }
}

impl<L: Load> Client<L> {
    fn is_answered(&self, rhythm: &impl Rhythm) -> bool {
        self.check.received() == self.sent + rhythm.made(self.connection)
    }

    #[inline]
    fn request(&mut self, load: &L) -> io::Result<()> {
        let request = load.request(self.connection as u32, self.sent);
        self.sent += 1;
        self.requests.encode(&request, &mut self.wire.out).map_err(io::Error::other)
    }

    /// Takes what one read brings; `false` if the socket has no more.
    fn take<R: Rhythm>(
        &mut self,
        load: &L,
        rhythm: &mut R,
        stopping: bool,
        buffer: &mut [u8],
    ) -> io::Result<bool> {
        let (end, more) = self.wire.read(buffer)?;
        let mut input = &buffer[..end];
        while let Decoded::Item { item, consumed } = self.responses.decode(input).map_err(io::Error::other)? {
            if !R::CLOSED {
                rhythm.answered(self.connection, self.check.received());
            }
            self.check.take(&item);
            input = &input[consumed..];
            if R::CLOSED && !stopping {
                self.request(load)?;
            }
        }
        self.wire.partial.extend_from_slice(input);
        Ok(more)
    }
}

impl<L: Load> Server<L> {
    /// Answers what one read brings; `false` if the socket has no more.
    fn serve(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let (end, more) = self.wire.read(buffer)?;
        let mut input = &buffer[..end];
        while let Decoded::Item { item, consumed } = self.requests.decode(input).map_err(io::Error::other)? {
            self.responses.encode(&L::answer(item), &mut self.wire.out).map_err(io::Error::other)?;
            input = &input[consumed..];
        }
        self.wire.partial.extend_from_slice(input);
        Ok(more)
    }
}

impl Wire {
    fn new(stream: std::net::TcpStream, registry: &Registry, token: Token) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let mut stream = TcpStream::from_std(stream);
        registry.register(&mut stream, token, Interest::READABLE)?;
        Ok(Wire { stream, partial: Vec::new(), out: Vec::new(), sent: 0, waits_to_write: false })
    }

    /// Fills `buffer` with what was left over and one read. How far, and whether the socket may have more.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<(usize, bool)> {
        let kept = self.partial.len();
        buffer[..kept].copy_from_slice(&self.partial);
        self.partial.clear();
        match self.stream.read(&mut buffer[kept..][..GULP]) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            // What comes behind a read that fell short is told anew.
            Ok(bytes) => Ok((kept + bytes, bytes == GULP)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok((kept, false)),
            Err(error) => Err(error),
        }
    }

    fn flush(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        while self.sent < self.out.len() {
            match self.stream.write(&self.out[self.sent..]) {
                Ok(bytes) => self.sent += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let waits = self.sent < self.out.len();
        if !waits {
            self.out.clear();
            self.sent = 0;
        }
        if std::mem::replace(&mut self.waits_to_write, waits) != waits {
            let both = Interest::READABLE | Interest::WRITABLE;
            registry.reregister(&mut self.stream, token, if waits { both } else { Interest::READABLE })?;
        }
        Ok(())
    }
}
