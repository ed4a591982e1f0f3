//! Streams through the proxy: what arrives is a prefix of what was written, and the end is told truly at both ends.

use crate::proxy::{Fate, FaultProxy, Faults, Plan};
use crate::stage::is_at_rest;
use crate::support::{PATIENCE, on_each_backend, plain};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;
use trochus::net::{CloseReason, Handler, Io, ListenOptions, StreamOptions};
use trochus::{Reactor, Runtime};

/// What a connection came to.
#[derive(Debug)]
struct Told {
    /// Bytes that arrived, all of them right; at the end that writes, none.
    bytes: usize,
    /// The peer's end was seen, in good order.
    ended: bool,
    reason: String,
    /// Whether all that was written is known to have been taken, and the peer to have ended its side.
    clean: bool,
}

fn byte(position: usize) -> u8 {
    (position.wrapping_mul(2_654_435_761) >> 13) as u8
}

/// Writes so many bytes and closes, or reads them.
struct Stream {
    writes: usize,
    written: usize,
    read: usize,
    ended: bool,
    tell: Sender<Told>,
}

impl Stream {
    fn new(writes: usize, tell: &Sender<Told>) -> Self {
        Stream { writes, written: 0, read: 0, ended: false, tell: tell.clone() }
    }

    fn fill(&mut self, io: &mut Io<'_>) {
        while self.written < self.writes && io.room() > 0 {
            let len = (self.writes - self.written).min(16 << 10);
            let bytes: Vec<u8> = (self.written..self.written + len).map(byte).collect();
            io.write(&bytes);
            self.written += len;
        }
        if self.written == self.writes {
            io.close();
        }
    }
}

impl Handler for Stream {
    fn on_open(&mut self, io: &mut Io<'_>) {
        if self.writes > 0 {
            self.fill(io);
        }
    }

    fn on_bytes(&mut self, _io: &mut Io<'_>, bytes: &[u8]) -> usize {
        let right = bytes.iter().enumerate().all(|(index, found)| *found == byte(self.read + index));
        assert!(right, "wrong bytes behind {}", self.read);
        self.read += bytes.len();
        bytes.len()
    }

    fn on_room(&mut self, io: &mut Io<'_>) {
        if self.writes > 0 {
            self.fill(io);
        }
    }

    fn on_end(&mut self, io: &mut Io<'_>) {
        self.ended = true;
        io.close();
    }

    fn on_close(&mut self, reason: &CloseReason, _reactor: &mut Reactor) {
        let clean = matches!(reason, CloseReason::Closed | CloseReason::ByPeer);
        let told = Told { bytes: self.read, ended: self.ended, reason: reason.to_string(), clean };
        self.tell.send(told).unwrap();
    }
}

/// What both ends were told: the one that wrote, and the one that read. `forth`: the client writes.
fn transfer(runtime: &Runtime, bytes: usize, forth: bool, faults: &Faults) -> (Told, Told) {
    let time = Duration::from_millis(300);
    let options = StreamOptions::new().close_timeout(time).write_stall_timeout(time).flush_timeout(time);
    let (tell_server, server_told) = mpsc::channel();
    let (tell_client, client_told) = mpsc::channel();
    let (servers, clients) = if forth { (0, bytes) } else { (bytes, 0) };
    let listen = ListenOptions::new().stream(options.clone());
    let server = runtime
        .listen_with(&listen, "127.0.0.1:0", move |_: &trochus::net::Incoming<'_>| {
            Stream::new(servers, &tell_server)
        })
        .unwrap();
    let mut plan = Plan::default();
    *(if forth { &mut plan.forth } else { &mut plan.back }) = faults.clone();
    let proxy = FaultProxy::start(plain(server.local_addr()), move |_| plan.clone()).unwrap();
    let address = proxy.address().to_string();
    let connected = runtime.connect_with(&options, address, move || Stream::new(clients, &tell_client));
    drop(connected);
    let (writer, reader) = if forth { (&client_told, &server_told) } else { (&server_told, &client_told) };
    let wrote = told(writer);
    // Who reads from a stall or a hole is told of no end by anybody, until the network is there again.
    if faults.fate.is_some_and(|(_, fate)| matches!(fate, Fate::Stall | Fate::Hole)) {
        proxy.reset_all();
    }
    server.close();
    is_at_rest(runtime);
    proxy.stop();
    (wrote, told(reader))
}

/// One that was reset before its server accepted it has had no handler.
fn told(of: &Receiver<Told>) -> Told {
    let never = Told { bytes: 0, ended: false, reason: "never accepted".to_owned(), clean: false };
    match of.recv_timeout(PATIENCE) {
        Ok(told) => told,
        Err(RecvTimeoutError::Disconnected) => never,
        Err(RecvTimeoutError::Timeout) => panic!("a connection did not end"),
    }
}

#[test]
fn streams_arrive_whole_over_a_slow_network() {
    on_each_backend(|runtime| {
        let crumbs = Faults { chunk: Some(3), ..Faults::default() };
        let slow = Faults { delay: Duration::from_millis(5), ..Faults::default() };
        let throttled = Faults { rate: Some(4 << 20), ..Faults::default() };
        let gathered = Faults { coalesce: Duration::from_millis(3), ..Faults::default() };
        let cases = [(crumbs, 100_000), (slow, 4 << 20), (throttled, 1 << 20), (gathered, 4 << 20)];
        for (faults, bytes) in cases {
            for forth in [true, false] {
                let (wrote, read) = transfer(runtime, bytes, forth, &faults);
                assert!(read.ended && read.bytes == bytes && read.clean, "{faults:?}: {read:?}");
                // An end that is on its way for longer than the writer waits for it is no clean one there.
                assert!(wrote.clean || wrote.reason.contains("did not end"), "{faults:?}: {wrote:?}");
            }
        }
    });
}

#[test]
fn a_part_is_never_taken_for_the_whole() {
    /// More than all that is on the way can hold; into a hole everything goes.
    const MANY: usize = 32 << 20;
    const FEW: usize = 1 << 20;
    on_each_backend(|runtime| {
        for at in [1, 1000, 300_000] {
            for fate in [Fate::Reset, Fate::Stall, Fate::Hole] {
                let bytes = if fate == Fate::Hole { FEW } else { MANY };
                for forth in [true, false] {
                    let (wrote, read) = transfer(runtime, bytes, forth, &Faults::fated(at, fate));
                    let (what, both) = (format!("{fate:?} at {at}"), (&wrote, &read));
                    assert!(read.bytes <= at as usize && !read.ended && !read.clean, "{what}: {both:?}");
                    assert!(!wrote.clean, "{what}: {both:?}");
                }
            }
        }
    });
}

/// A network that lies about the end is found out by who counts: it is exactly where it is.
#[test]
fn what_comes_before_a_cut_comes_all() {
    on_each_backend(|runtime| {
        for at in [0, 1, 1000, 300_000] {
            for forth in [true, false] {
                let (_, read) = transfer(runtime, 1 << 20, forth, &Faults::fated(at, Fate::Cut));
                assert_eq!((read.bytes, read.ended), (at as usize, true), "{read:?}");
            }
        }
    });
}
