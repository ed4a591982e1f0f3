//! In steady state, moving small messages allocates nothing, and a flow far less than once a chunk. In a program of its own,
//! because the allocator is the whole process'.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use trochus::net::{Address, Handler, Io};
use trochus::{Backend, Runtime};

#[path = "support/counting.rs"]
mod counting;

use counting::allocations;

struct Echo;

impl Handler for Echo {
    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        io.write(bytes);
        bytes.len()
    }
}

/// So many windows in a row.
const SETTLED: usize = 3;

/// Buffers grow until they fit what passes through them; how soon depends on how the stream is cut. So this looks for windows of
/// messages with no more than `most` allocations each. Whoever allocates per message has none.
fn assert_settles(what: &str, most: usize, backend: Backend, mut window: impl FnMut()) {
    let mut counts = Vec::with_capacity(50);
    while counts.len() < counts.capacity() {
        let before = allocations();
        window();
        counts.push(allocations() - before);
        if counts.len() >= SETTLED && counts.iter().rev().take(SETTLED).all(|count| *count <= most) {
            return println!("{what} on {backend}: allocations per window {counts:?}");
        }
    }
    panic!("{what} on {backend} allocates for ever: {counts:?}");
}

#[test]
fn steady_state_allocates_nothing_per_message() {
    for backend in Backend::available() {
        let runtime = Runtime::builder().backend(backend).reactors(1).build().unwrap();
        let server = runtime.listen("127.0.0.1:0", |_| Echo).unwrap();
        let Address::Tcp(address) = *server.local_addr() else { unreachable!("listens on TCP") };
        ping_pong(backend, &connect(address));
        bulk(backend, &connect(address));
    }
}

fn connect(address: std::net::SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

fn ping_pong(backend: Backend, mut stream: &TcpStream) {
    const MESSAGES: usize = 1000;
    assert_settles("ping-pong of 1000 messages of 64 bytes", 0, backend, || {
        let mut message = [7; 64];
        for _ in 0..MESSAGES {
            stream.write_all(&message).unwrap();
            stream.read_exact(&mut message).unwrap();
        }
    });
}

fn bulk(backend: Backend, stream: &TcpStream) {
    const CHUNK: usize = 64 << 10;
    const CHUNKS: usize = 256;
    let (go, mut chunk) = (Barrier::new(2), vec![0; CHUNK]);
    let stop = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (bytes, mut stream) = (vec![7; CHUNK], stream);
            loop {
                go.wait();
                if stop.load(Ordering::Relaxed) > 0 {
                    break;
                }
                (0..CHUNKS).for_each(|_| stream.write_all(&bytes).unwrap());
            }
        });
        // Ends the other thread also when this one panics.
        struct Stop<'a>(&'a AtomicU64, &'a Barrier);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(1, Ordering::Relaxed);
                self.1.wait();
            }
        }
        let _stop = Stop(&stop, &go);
        // Not none: a vector that grew too large to be kept is one that the next one has to grow.
        assert_settles("a flow of 256 chunks of 64 KiB", CHUNKS / 16, backend, || {
            go.wait();
            (0..CHUNKS).for_each(|_| (&mut &*stream).read_exact(&mut chunk).unwrap());
        });
    });
}
