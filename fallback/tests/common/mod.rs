//! What the tests share: a proactor with a queue of completions, and connected sockets.

#![allow(dead_code)] // Every test program uses a part of it.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use trochus_fallback::socket2::{Domain, SockAddr, Socket, Type};
use trochus_fallback::{Completion, Event, Payload, Proactor, Settings};

/// No test waits longer for something that must happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Harness<P = Vec<u8>> {
    pub(crate) proactor: Proactor<P>,
    pub(crate) buffers: u16,
    completions: VecDeque<Completion<P>>,
}

impl<P: Payload> Harness<P> {
    pub(crate) fn new(buffers: u16, settings: Settings) -> Self {
        let proactor = Proactor::new(settings.buffers(buffers)).unwrap();
        Self { proactor, buffers, completions: VecDeque::new() }
    }

    pub(crate) fn attach(&mut self, socket: Socket) -> RawFd {
        let fd = socket.as_raw_fd();
        self.proactor.attach(Rc::new(socket)).unwrap();
        fd
    }

    /// One wait; what completed in it is returned by `next` and `take`.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> usize {
        let before = self.completions.len();
        self.proactor.wait(timeout, &mut |completion| self.completions.push_back(completion)).unwrap();
        self.completions.len() - before
    }

    /// The completions of one wait that does not sleep.
    pub(crate) fn turn(&mut self) -> Vec<Completion<P>> {
        self.wait(Some(Duration::ZERO));
        self.completions.drain(..).collect()
    }

    /// The next completion, however many waits it takes.
    pub(crate) fn next(&mut self) -> Completion<P> {
        let start = Instant::now();
        loop {
            if let Some(completion) = self.completions.pop_front() {
                return completion;
            }
            let left = DEADLINE.checked_sub(start.elapsed()).expect("nothing completed before the deadline");
            self.wait(Some(left));
        }
    }

    /// Nothing completes of what could by now. Loopback delivers within the system call that sends.
    #[track_caller]
    pub(crate) fn assert_quiet(&mut self) {
        for _ in 0..5 {
            self.wait(Some(Duration::ZERO));
        }
        assert!(self.completions.is_empty(), "{:?}", tokens(&self.completions));
        assert!(!self.proactor.has_work(), "a wait would not sleep");
    }

    /// Everything that was submitted has completed, and every buffer is back.
    #[track_caller]
    pub(crate) fn assert_settled(&mut self) {
        self.assert_quiet();
        assert_eq!(self.proactor.pending(), 0);
        assert_eq!(self.proactor.free_buffers(), usize::from(self.buffers));
    }

    /// The bytes of a receive, its buffer released; `None` at the end of the stream. Panics on anything else.
    #[track_caller]
    pub(crate) fn bytes_of(&mut self, completion: Completion<P>) -> Option<Vec<u8>> {
        let Event::Received(received) = completion.event else {
            panic!("not a receive: {}", completion.token)
        };
        let received = received.expect("a receive failed");
        assert_eq!(completion.more, received.buffer.is_some());
        assert_eq!(received.len == 0, received.buffer.is_none());
        let bytes = self.proactor.bytes(received.buffer?, received.len).to_vec();
        self.proactor.release(received.buffer?);
        Some(bytes)
    }

    /// Receives exactly this many bytes by an armed receive that is the only operation to complete.
    #[track_caller]
    pub(crate) fn gather(&mut self, count: usize) -> Vec<u8> {
        let mut gathered = Vec::new();
        while gathered.len() < count {
            let completion = self.next();
            gathered.extend(self.bytes_of(completion).expect("the stream ended early"));
        }
        assert_eq!(gathered.len(), count, "more arrived than was sent");
        gathered
    }
}

pub(crate) fn harness(buffers: u16) -> Harness {
    harness_with(buffers, Settings::default())
}

pub(crate) fn harness_with(buffers: u16, settings: Settings) -> Harness {
    Harness::new(buffers, settings)
}

fn tokens<P>(completions: &VecDeque<Completion<P>>) -> Vec<u64> {
    completions.iter().map(|completion| completion.token).collect()
}

/// The kinds of stream sockets there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp,
    Unix,
}

pub(crate) const KINDS: [Kind; 2] = [Kind::Tcp, Kind::Unix];

/// A listener, and the address to reach it.
pub(crate) fn listener(kind: Kind, backlog: i32) -> (Socket, SockAddr) {
    let socket = unconnected(kind);
    match kind {
        Kind::Tcp => socket.bind(&SockAddr::from("127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap())),
        Kind::Unix => socket.bind(&unix_address()),
    }
    .unwrap();
    socket.listen(backlog).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

pub(crate) fn unconnected(kind: Kind) -> Socket {
    let domain = match kind {
        Kind::Tcp => Domain::IPV4,
        Kind::Unix => Domain::UNIX,
    };
    Socket::new(domain, Type::STREAM, None).unwrap()
}

/// A name that no other socket has.
pub(crate) fn unix_address() -> SockAddr {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("trochus-fallback-{}-{number}", std::process::id());
    // Where there is an abstract namespace, nothing is left behind in the file system.
    #[cfg(target_os = "linux")]
    return SockAddr::unix(format!("\0{name}")).unwrap();
    #[cfg(not(target_os = "linux"))]
    return SockAddr::unix(std::env::temp_dir().join(name)).unwrap();
}

/// Two connected sockets, both blocking: one for the proactor, one for the test.
pub(crate) fn pair(kind: Kind) -> (Socket, Socket) {
    match kind {
        Kind::Unix => Socket::pair(Domain::UNIX, Type::STREAM, None).unwrap(),
        Kind::Tcp => {
            let (listener, address) = listener(kind, 1);
            let here = unconnected(kind);
            here.connect(&address).unwrap();
            let (there, _) = listener.accept().unwrap();
            there.set_tcp_nodelay(true).unwrap();
            (here, there)
        }
    }
}

/// Bytes of which no two neighbourhoods are alike, so that loss and disorder show.
pub(crate) fn pattern(start: usize, len: usize) -> Vec<u8> {
    (start..start + len).map(pattern_at).collect()
}

pub(crate) fn pattern_at(position: usize) -> u8 {
    ((position as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

pub(crate) fn error_number<P>(completion: &Completion<P>) -> Option<i32> {
    assert!(!completion.more, "an error is final");
    match &completion.event {
        Event::Accepted(Err(error))
        | Event::Connected(Err(error))
        | Event::Received(Err(error))
        | Event::Sent(Err(error), _) => error.raw_os_error(),
        _ => None,
    }
}
