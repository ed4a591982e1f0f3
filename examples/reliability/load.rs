//! The clients themselves: what they are told comes as lines, and they end when no more can come.

use crate::clients::Outcome;
use crate::serve::{FRAME, LONGEST, frame};
use crate::{PATIENCE, Result};
use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write, stdin};
use std::net::SocketAddr;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Each sends a frame when the last one has come back.
    Good,
    /// Write and never read.
    Greedy,
    /// Send a byte a second of a frame that never ends.
    Slow,
    /// Connect for one frame each, so many at a time.
    Hurried,
}

const KINDS: [(Kind, &str); 4] =
    [(Kind::Good, "good"), (Kind::Greedy, "greedy"), (Kind::Slow, "slow"), (Kind::Hurried, "hurried")];

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        KINDS.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = KINDS.iter().find(|(_, known)| *known == name);
        found.map(|(kind, _)| *kind).ok_or_else(|| format!("there are no clients `{name}`"))
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) kind: Kind,
    pub(crate) target: SocketAddr,
    pub(crate) count: usize,
}

pub(crate) fn run(job: &Job) -> Result<()> {
    match job.kind {
        Kind::Good => good(job),
        Kind::Greedy => greedy(job),
        Kind::Slow => slow(job),
        Kind::Hurried => hurried(job),
    }
}

/// What is asked for next; `None` if nothing will be.
fn asked() -> Result<Option<Duration>> {
    let mut line = String::new();
    stdin().read_line(&mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    Ok(Some(Duration::try_from_secs_f64(line.trim().parse()?)?))
}

/// Tells what became of what was asked for.
fn tell(time: Duration, times: &Histogram<u32>) -> Result<()> {
    let outcome = Outcome {
        answered: times.len(),
        per_second: times.len() as f64 / time.as_secs_f64(),
        p99_us: times.value_at_quantile(0.99) as f64 / 1e3,
    };
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

/// Round trips in nanoseconds.
fn times() -> Result<Histogram<u32>> {
    Ok(Histogram::new_with_bounds(1, PATIENCE.as_nanos() as u64, 2)?)
}

fn connect(job: &Job) -> Result<Vec<std::net::TcpStream>> {
    let connect = |_| {
        let stream = std::net::TcpStream::connect(job.target)?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    (0..job.count).map(connect).collect()
}

/// The process ends when nothing is asked for any more, whatever it is doing.
fn end_with_input() {
    thread::spawn(|| {
        while let Ok(Some(_)) = asked() {}
        std::process::exit(0);
    });
}

struct Player {
    stream: TcpStream,
    sent_at: Instant,
    received: usize,
}

fn good(job: &Job) -> Result<()> {
    let mut streams = connect(job)?;
    for stream in &mut streams {
        // Each is served once, so that all of them are there.
        stream.write_all(&frame())?;
        stream.read_exact(&mut [0; FRAME])?;
        stream.set_nonblocking(true)?;
    }
    let mut poll = Poll::new()?;
    let mut players = Vec::new();
    for (index, stream) in streams.into_iter().enumerate() {
        let mut stream = TcpStream::from_std(stream);
        poll.registry().register(&mut stream, Token(index), Interest::READABLE)?;
        players.push(Player { stream, sent_at: Instant::now(), received: 0 });
    }
    println!("ready");
    while let Some(time) = asked()? {
        let start = Instant::now();
        let times = play(&mut poll, &mut players, time)?;
        // Until the last one has come: of many connections each has few round trips.
        tell(start.elapsed(), &times)?;
    }
    Ok(())
}

/// Round trips on all connections for so long; then none is under way.
fn play(poll: &mut Poll, players: &mut [Player], time: Duration) -> Result<Histogram<u32>> {
    let frame = frame();
    let (mut times, mut events) = (times()?, Events::with_capacity(1024));
    let end = Instant::now() + time;
    for player in players.iter_mut() {
        player.sent_at = Instant::now();
        player.stream.write_all(&frame)?;
    }
    let mut playing = players.len();
    while playing > 0 {
        match poll.poll(&mut events, Some(PATIENCE / 2)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        if events.is_empty() {
            return Err(format!("{playing} clients wait in vain").into());
        }
        for event in &events {
            let player = &mut players[event.token().0];
            // One byte more than there can be: what does not fill it has emptied the socket.
            let mut bytes = [0; FRAME + 1];
            match player.stream.read(&mut bytes[player.received..]) {
                Ok(0) => return Err("a good client was cut off".into()),
                Ok(count) => player.received += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            }
            if player.received < FRAME {
                continue;
            }
            player.received = 0;
            let now = Instant::now();
            times.saturating_record((now - player.sent_at).as_nanos() as u64);
            if now > end {
                playing -= 1;
                continue;
            }
            player.sent_at = now;
            player.stream.write_all(&frame)?;
        }
    }
    Ok(times)
}

fn greedy(job: &Job) -> Result<()> {
    /// What the system takes of requests, and of responses that nobody reads: little, so that the server has the rest.
    const SYSTEM: usize = 16 << 10;
    let mut poll = Poll::new()?;
    let mut streams = Vec::new();
    for index in 0..job.count {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.set_recv_buffer_size(SYSTEM)?;
        socket.set_send_buffer_size(SYSTEM)?;
        socket.connect(&job.target.into())?;
        socket.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(socket.into());
        poll.registry().register(&mut stream, Token(index), Interest::WRITABLE)?;
        // How far it is in the frames.
        streams.push((stream, 0));
    }
    println!("ready");
    asked()?;
    end_with_input();
    let frames = frame().repeat(1024);
    let mut events = Events::with_capacity(1024);
    let mut writable = VecDeque::new();
    loop {
        let timeout = if writable.is_empty() { PATIENCE } else { Duration::ZERO };
        match poll.poll(&mut events, Some(timeout)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
            _ => writable.extend(events.iter().map(|event| event.token().0)),
        }
        // Each in its turn; who cannot, or was cut off, is told of again or not.
        for _ in 0..writable.len() {
            let Some(index) = writable.pop_front() else { break };
            let (stream, sent): &mut (TcpStream, usize) = &mut streams[index];
            if let Ok(count) = stream.write(&frames[*sent..]) {
                *sent = (*sent + count) % frames.len();
                writable.push_back(index);
            }
        }
    }
}

fn slow(job: &Job) -> Result<()> {
    let mut streams = connect(job)?;
    println!("ready");
    asked()?;
    end_with_input();
    for stream in &mut streams {
        stream.write_all(&(LONGEST as u32).to_be_bytes())?;
    }
    loop {
        thread::sleep(Duration::from_secs(1));
        for stream in &mut streams {
            // Fails once it was cut off, which is as it should be.
            let _ = stream.write(b"x");
        }
    }
}

fn hurried(job: &Job) -> Result<()> {
    println!("ready");
    while let Some(time) = asked()? {
        let end = Instant::now() + time;
        let mut all = times()?;
        thread::scope(|scope| {
            let threads: Vec<_> = (0..job.count).map(|_| scope.spawn(move || hurry(job, end))).collect();
            for thread in threads {
                all.add(thread.join().map_err(|_| "a client panicked")??)?;
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        })?;
        tell(time, &all)?;
    }
    Ok(())
}

fn hurry(job: &Job, end: Instant) -> Result<Histogram<u32>> {
    let mut times = times()?;
    while Instant::now() < end {
        let start = Instant::now();
        let mut stream = match std::net::TcpStream::connect(job.target) {
            Ok(stream) => stream,
            // All ports rest, for a second at most.
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        stream.set_read_timeout(Some(PATIENCE / 2))?;
        stream.write_all(&frame())?;
        stream.read_exact(&mut [0; FRAME])?;
        drop(stream);
        times.saturating_record(start.elapsed().as_nanos() as u64);
    }
    Ok(times)
}
