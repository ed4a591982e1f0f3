//! A TCP proxy that does to connections what networks do to them, and worse. It is made of plain sockets and one thread, so it
//! does not share the faults of what is tested; what it does to a connection follows from a plan alone.
#![allow(dead_code, unused_imports, reason = "the tests and the soak use some of it each")]

mod plan;
mod way;

pub(crate) use plan::{Fate, Faults, Plan};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use way::{Next, Way};

/// A proxy that runs until it is stopped or dropped; connections that it has then are reset.
pub(crate) struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    upstream: Mutex<SocketAddr>,
    stops: AtomicBool,
    resets: AtomicBool,
    counts: Mutex<Counts>,
    open: AtomicU64,
}

/// What it has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) connections: u64,
    /// There was no upstream.
    pub(crate) refused: u64,
    /// Directions that met each fate.
    pub(crate) cuts: u64,
    pub(crate) resets: u64,
    pub(crate) stalls: u64,
    pub(crate) holes: u64,
    /// Connections that one of their ends, or this proxy when it was told so, broke.
    pub(crate) broken: u64,
    /// Bytes of the connections that have ended: what came from an end, and what the other one's kernel took.
    pub(crate) forth_taken: u64,
    pub(crate) forth_passed: u64,
    pub(crate) back_taken: u64,
    pub(crate) back_passed: u64,
}

impl Shared {
    fn to(upstream: SocketAddr) -> Self {
        Shared {
            upstream: Mutex::new(upstream),
            stops: AtomicBool::new(false),
            resets: AtomicBool::new(false),
            counts: Mutex::default(),
            open: AtomicU64::new(0),
        }
    }
}

impl FaultProxy {
    /// Listens on a port of its own; `plan` says what is to become of each connection, by its number.
    pub(crate) fn start(
        upstream: SocketAddr,
        plan: impl FnMut(u64) -> Plan + Send + 'static,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let (address, shared) = (listener.local_addr()?, Arc::new(Shared::to(upstream)));
        let plan = Box::new(plan);
        let work = Work { poll, listener, plan, shared: shared.clone(), pairs: HashMap::new(), next: 0 };
        let thread = thread::Builder::new().name("fault-proxy".to_owned()).spawn(move || work.run())?;
        Ok(FaultProxy { address, shared, waker, thread: Some(thread) })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn counts(&self) -> Counts {
        *self.shared.counts.lock().unwrap()
    }

    /// Connections that are made from now on go there.
    pub(crate) fn set_upstream(&self, upstream: SocketAddr) {
        *self.shared.upstream.lock().unwrap() = upstream;
    }

    /// Connections at the moment.
    pub(crate) fn open(&self) -> u64 {
        self.shared.open.load(Relaxed)
    }

    /// Resets all connections that there are.
    pub(crate) fn reset_all(&self) {
        self.shared.resets.store(true, Relaxed);
        self.waker.wake().unwrap();
    }

    /// Ends it, and waits for that.
    pub(crate) fn stop(mut self) -> Counts {
        self.end();
        self.counts()
    }

    fn end(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.shared.stops.store(true, Relaxed);
        self.waker.wake().unwrap();
        // Whoever drops it in a panic of theirs does not want another one.
        if thread.join().is_err() && !thread::panicking() {
            panic!("the fault proxy panicked");
        }
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.end();
    }
}

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);

/// The first of the tokens of pairs: each has two.
const PAIRS: usize = 2;

/// How long a listener rests that found no descriptor.
const REST: Duration = Duration::from_millis(20);

struct Work {
    poll: Poll,
    listener: TcpListener,
    plan: Box<dyn FnMut(u64) -> Plan + Send>,
    shared: Arc<Shared>,
    pairs: HashMap<usize, Pair>,
    next: u64,
}

/// Both ends of a connection.
struct Pair {
    near: TcpStream,
    far: TcpStream,
    forth: Way,
    back: Way,
    /// The upstream has answered.
    connected: bool,
    /// When to look again; for an event if `None`.
    due: Option<Instant>,
}

impl Work {
    fn run(mut self) {
        let mut events = Events::with_capacity(256);
        let mut rests_until = None;
        while !self.shared.stops.load(Relaxed) {
            let due = self.pairs.values().filter_map(|pair| pair.due).chain(rests_until).min();
            let timeout = due.map(|due| due.saturating_duration_since(Instant::now()));
            if let Err(error) = self.poll.poll(&mut events, timeout) {
                assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
                continue;
            }
            let now = Instant::now();
            if self.shared.resets.swap(false, Relaxed) {
                let all: Vec<usize> = self.pairs.keys().copied().collect();
                all.into_iter().for_each(|key| self.finish(key, true));
            }
            let mut accepts = rests_until.is_some_and(|until| until <= now);
            for event in &events {
                match event.token() {
                    LISTENER => accepts = true,
                    WAKER => {}
                    Token(token) => self.heard(token, event, now),
                }
            }
            if accepts {
                rests_until = self.accept().err().map(|_| now + REST);
            }
            let due = |pair: &Pair| pair.due.is_some_and(|due| due <= now);
            let due: Vec<usize> =
                self.pairs.iter().filter(|(_, pair)| due(pair)).map(|(key, _)| *key).collect();
            due.into_iter().for_each(|key| self.step(key));
        }
        let left: Vec<usize> = self.pairs.keys().copied().collect();
        left.into_iter().for_each(|key| self.finish(key, true));
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let mut near = match self.listener.accept() {
                Ok((near, _)) => near,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                    return Err(error);
                }
                // That one connection has gone again.
                Err(_) => continue,
            };
            let number = self.next;
            self.next += 1;
            self.count(|counts| counts.connections += 1);
            let plan = (self.plan)(number);
            let Ok(mut far) = TcpStream::connect(*self.shared.upstream.lock().unwrap()) else {
                self.count(|counts| counts.refused += 1);
                reset(&near);
                continue;
            };
            let key = PAIRS + 2 * number as usize;
            let both = Interest::READABLE | Interest::WRITABLE;
            let registry = self.poll.registry();
            registry.register(&mut near, Token(key), both)?;
            registry.register(&mut far, Token(key + 1), both)?;
            for stream in [&near, &far] {
                // One that is broken already shows when it is read.
                let _ = stream.set_nodelay(true);
            }
            let (forth, back) = (Way::new(plan.forth), Way::new(plan.back));
            self.pairs.insert(key, Pair { near, far, forth, back, connected: false, due: None });
            self.shared.open.fetch_add(1, Relaxed);
        }
    }

    fn heard(&mut self, token: usize, event: &mio::event::Event, now: Instant) {
        let far = !token.is_multiple_of(2);
        let key = token - usize::from(far);
        let Some(pair) = self.pairs.get_mut(&key) else { return };
        if far && !pair.connected {
            if let Ok(Some(_)) | Err(_) = pair.far.take_error() {
                self.count(|counts| counts.refused += 1);
                return self.finish(key, true);
            }
            pair.connected = pair.far.peer_addr().is_ok();
        }
        if event.is_error() {
            if far { pair.back.source_broke() } else { pair.forth.source_broke() }
        }
        pair.due = Some(now);
    }

    fn step(&mut self, key: usize) {
        let Some(pair) = self.pairs.get_mut(&key) else { return };
        pair.due = None;
        if !pair.connected {
            return;
        }
        let now = Instant::now();
        let forth = pair.forth.step(&mut pair.near, &mut pair.far, now);
        let back = pair.back.step(&mut pair.far, &mut pair.near, now);
        let times = [forth, back].map(|next| match next {
            Next::Reset => Err(()),
            Next::At(due) => Ok(Some(due)),
            Next::Wait => Ok(None),
        });
        let [Ok(forth), Ok(back)] = times else { return self.finish(key, true) };
        if pair.forth.is_done() && pair.back.is_done() {
            return self.finish(key, false);
        }
        pair.due = [forth, back].into_iter().flatten().min();
    }

    fn finish(&mut self, key: usize, broken: bool) {
        let Some(pair) = self.pairs.remove(&key) else { return };
        if broken {
            reset(&pair.near);
            reset(&pair.far);
        }
        let fates = [pair.forth.met, pair.back.met];
        let met = |fate| fates.iter().filter(|met| **met == Some(fate)).count() as u64;
        self.count(|counts| {
            counts.cuts += met(Fate::Cut);
            counts.resets += met(Fate::Reset);
            counts.stalls += met(Fate::Stall);
            counts.holes += met(Fate::Hole);
            counts.broken += u64::from(broken && met(Fate::Reset) == 0);
            counts.forth_taken += pair.forth.taken;
            counts.forth_passed += pair.forth.passed;
            counts.back_taken += pair.back.taken;
            counts.back_passed += pair.back.passed;
        });
        // What is counted as gone is gone.
        drop(pair);
        self.shared.open.fetch_sub(1, Relaxed);
    }

    fn count(&self, what: impl FnOnce(&mut Counts)) {
        what(&mut self.shared.counts.lock().unwrap());
    }
}

/// What closes it next is a reset.
fn reset(stream: &TcpStream) {
    // It may be broken already.
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
