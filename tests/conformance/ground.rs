//! Where tests run: a backend, a transport, a runtime on them, and raw sockets at the other end.

use crate::accounts::{DEADLINE, wait_until};
use crate::bridge;
use socket2::{Domain, SockAddr, Socket, Type};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;
use trochus::config::UringFeature;
use trochus::net::{Accepted, Address, Incoming, ListenOptions, RuntimeBuilder, Server, StreamOptions};
use trochus::reactor::{ReactorBuilder, ReactorHandle};
use trochus::{Backend, Metrics, Reactor, Runtime};

/// How streams travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp4,
    Tcp6,
    Unix,
    /// Streams in memory. The sockets of the tests reach them over a relay.
    Memory,
}

/// A backend, what it does without, and a transport.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ground {
    pub(crate) backend: Backend,
    /// What is masked, for the test's name.
    mask: &'static str,
    without: &'static [UringFeature],
    pub(crate) transport: Transport,
}

/// What older kernels lack.
const MASKS: [(&str, &[UringFeature]); 5] = [
    ("no_multishot_receive", &[UringFeature::MultishotReceive]),
    ("no_multishot_accept", &[UringFeature::MultishotAccept]),
    ("no_buffer_ring", &[UringFeature::BufferRing]),
    ("no_defer_taskrun", &[UringFeature::DeferTaskRun, UringFeature::SingleIssuer, UringFeature::NoSqArray]),
    (
        "minimal",
        &[
            UringFeature::NoSqArray,
            UringFeature::DeferTaskRun,
            UringFeature::SingleIssuer,
            UringFeature::CoopTaskRun,
            UringFeature::SubmitAll,
            UringFeature::MultishotReceive,
            UringFeature::MultishotAccept,
            UringFeature::BufferRing,
            UringFeature::FileRead,
        ],
    ),
];

/// Every ground that this machine has.
pub(crate) fn all() -> Vec<Ground> {
    use Transport::{Memory, Tcp4, Tcp6, Unix};
    let mut grounds = Vec::new();
    for backend in Backend::available() {
        let ground = |mask, without, transport| Ground { backend, mask, without, transport };
        grounds.extend([Tcp4, Tcp6, Unix, Memory].map(|transport| ground("", &[], transport)));
        if backend == Backend::IoUring {
            for (mask, without) in MASKS {
                grounds.push(ground(mask, without, Tcp4));
            }
            grounds.push(ground(MASKS[4].0, MASKS[4].1, Unix));
        }
    }
    grounds
}

impl fmt::Display for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = match self.transport {
            Transport::Tcp4 => "tcp4",
            Transport::Tcp6 => "tcp6",
            Transport::Unix => "unix",
            Transport::Memory => "memory",
        };
        match self.mask {
            "" => write!(f, "{}::{transport}", self.backend),
            mask => write!(f, "{}-{mask}::{transport}", self.backend),
        }
    }
}

/// Receive buffers of most tests: small, so that streams are cut in many places.
const POOL: (u16, usize) = (16, 16 << 10);

impl Ground {
    pub(crate) fn is_tcp(&self) -> bool {
        matches!(self.transport, Transport::Tcp4 | Transport::Tcp6)
    }

    pub(crate) fn is_unix(&self) -> bool {
        self.transport == Transport::Unix
    }

    /// Sockets of the system, with options, backlogs and files.
    pub(crate) fn has_sockets(&self) -> bool {
        self.transport != Transport::Memory
    }

    /// An end that is not in order can be told.
    pub(crate) fn has_resets(&self) -> bool {
        !self.is_unix()
    }

    /// Nothing is masked, so that costly tests are worth it.
    pub(crate) fn is_plain(&self) -> bool {
        self.mask.is_empty()
    }

    pub(crate) fn runtime_builder(&self) -> RuntimeBuilder {
        let builder = Runtime::builder().backend(self.backend).pool(POOL.0, POOL.1).reactors(2);
        self.without.iter().fold(builder, |builder, feature| builder.without(*feature))
    }

    pub(crate) fn reactor_builder(&self) -> ReactorBuilder {
        let builder = Reactor::builder().backend(self.backend).pool(POOL.0, POOL.1);
        self.without.iter().fold(builder, |builder, feature| builder.without(*feature))
    }

    /// A runtime of two reactors.
    pub(crate) fn stage(&self) -> Stage {
        self.stage_with(self.runtime_builder())
    }

    /// A runtime of one reactor, for tests about connections that share one.
    pub(crate) fn single(&self) -> Stage {
        self.stage_with(self.runtime_builder().reactors(1))
    }

    pub(crate) fn stage_with(&self, builder: RuntimeBuilder) -> Stage {
        let runtime = builder.build().unwrap();
        let reactors = (0..runtime.reactors()).map(|index| runtime.reactor(index).clone()).collect();
        Stage { ground: *self, runtime, reactors }
    }

    /// An address to listen on that nobody uses.
    pub(crate) fn fresh_address(&self) -> Address {
        match self.transport {
            Transport::Tcp4 => Address::Tcp("127.0.0.1:0".parse().unwrap()),
            Transport::Tcp6 => Address::Tcp("[::1]:0".parse().unwrap()),
            Transport::Unix => Address::Unix(fresh_path()),
            Transport::Memory => Address::Memory("".into()),
        }
    }

    /// An address that nobody listens at.
    pub(crate) fn dead_address(&self) -> Address {
        if self.transport == Transport::Memory {
            return Address::Memory("nobody".into());
        }
        let (gone, address) = self.listener(1);
        drop(gone);
        if let Address::Unix(path) = &address {
            std::fs::remove_file(path).unwrap();
        }
        address
    }

    /// A listening socket that is not trochus'.
    pub(crate) fn listener(&self, backlog: i32) -> (Socket, Address) {
        if self.transport == Transport::Memory {
            return bridge::listener(backlog);
        }
        let address = self.fresh_address();
        let socket = Socket::new(domain(&address), Type::STREAM, None).unwrap();
        socket.bind(&to_sock_addr(&address)).unwrap();
        socket.listen(backlog).unwrap();
        let address = match address {
            Address::Tcp(_) => Address::Tcp(socket.local_addr().unwrap().as_socket().unwrap()),
            unix => unix,
        };
        (socket, address)
    }
}

/// A path in `/tmp` that is not there.
pub(crate) fn fresh_path() -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("trochus-conformance-{}-{number}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

/// A runtime that is tested.
pub(crate) struct Stage {
    pub(crate) ground: Ground,
    pub(crate) runtime: Runtime,
    reactors: Vec<ReactorHandle>,
}

impl Stage {
    pub(crate) fn listen<A: Accepted>(
        &self,
        accept: impl Fn(&Incoming<'_>) -> A + Send + Sync + 'static,
    ) -> Server {
        self.listen_with(&ListenOptions::new(), accept)
    }

    /// With options for each connection.
    pub(crate) fn listen_stream<A: Accepted>(
        &self,
        options: StreamOptions,
        accept: impl Fn(&Incoming<'_>) -> A + Send + Sync + 'static,
    ) -> Server {
        self.listen_with(&ListenOptions::new().stream(options), accept)
    }

    pub(crate) fn listen_with<A: Accepted>(
        &self,
        options: &ListenOptions,
        accept: impl Fn(&Incoming<'_>) -> A + Send + Sync + 'static,
    ) -> Server {
        self.runtime.listen_with(options, self.ground.fresh_address(), accept).unwrap()
    }

    pub(crate) fn metrics(&self) -> Metrics {
        self.runtime.metrics()
    }

    /// Closes the servers, waits until all connections have ended, and checks that nothing is left.
    #[track_caller]
    pub(crate) fn finish(self, servers: impl IntoIterator<Item = Server>) -> Metrics {
        let metrics = self.finish_after_panics(servers);
        assert_eq!(metrics.handler_panics, 0);
        metrics
    }

    /// The same where handlers panicked on purpose.
    #[track_caller]
    pub(crate) fn finish_after_panics(self, servers: impl IntoIterator<Item = Server>) -> Metrics {
        servers.into_iter().for_each(Server::close);
        for reactor in &self.reactors {
            let mut last = None;
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                wait_until("everything has ended", || {
                    last = Some(outstanding(reactor));
                    last == Some(Default::default())
                });
            }));
            assert!(ended.is_ok(), "still outstanding: {last:?}");
        }
        self.shutdown(Duration::from_secs(5))
    }

    /// Shuts the runtime down, whatever it is doing, and checks that every connection's end was counted.
    #[track_caller]
    pub(crate) fn shutdown(self, grace: Duration) -> Metrics {
        let Stage { runtime, reactors, .. } = self;
        runtime.shutdown(grace).unwrap();
        let mut metrics = Metrics::default();
        reactors.iter().for_each(|reactor| metrics.merge(&reactor.metrics()));
        assert_eq!(metrics.internal_panics, 0);
        assert_eq!(metrics.connections_opened, metrics.connections_closed);
        metrics
    }
}

fn outstanding(reactor: &ReactorHandle) -> trochus::reactor::Outstanding {
    let (send, result) = mpsc::channel();
    reactor.run(move |reactor| _ = send.send(reactor.outstanding())).unwrap();
    result.recv_timeout(DEADLINE).unwrap()
}

/// The other end: a plain blocking socket, which knows nothing of trochus.
#[derive(Debug)]
pub(crate) struct Peer(pub(crate) Socket);

impl Peer {
    pub(crate) fn connect(address: &Address) -> Self {
        Peer::try_connect(address).unwrap()
    }

    pub(crate) fn try_connect(address: &Address) -> io::Result<Self> {
        Peer::try_prepared(address, |_| ())
    }

    /// With options that are to be set before it is connected, such as the sizes of its buffers.
    pub(crate) fn prepared(address: &Address, prepare: impl Fn(&Socket)) -> Self {
        Peer::try_prepared(address, prepare).unwrap()
    }

    fn try_prepared(address: &Address, prepare: impl Fn(&Socket)) -> io::Result<Self> {
        if let Address::Memory(_) = address {
            return bridge::connect(address, prepare).map(Peer::over);
        }
        let peer = Peer::unconnected(address);
        prepare(&peer.0);
        let target = to_sock_addr(address);
        let mut result = peer.0.connect(&target);
        // Before Linux 5.19 a ring interrupts what its thread waits in; the connect goes on meanwhile.
        while result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::Interrupted) {
            result = match peer.0.connect(&target) {
                Err(error) if error.raw_os_error() == Some(libc::EISCONN) => Ok(()),
                Err(error) if error.raw_os_error() == Some(libc::EALREADY) => {
                    Err(io::ErrorKind::Interrupted.into())
                }
                result => result,
            };
        }
        result.map(|()| peer)
    }

    /// Not yet connected.
    pub(crate) fn unconnected(address: &Address) -> Self {
        Peer::over(Socket::new(domain(address), Type::STREAM, None).unwrap())
    }

    /// Over a socket that was accepted.
    pub(crate) fn over(socket: Socket) -> Self {
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.set_write_timeout(Some(DEADLINE)).unwrap();
        Peer(socket)
    }

    pub(crate) fn send(&self, bytes: &[u8]) {
        (&self.0).write_all(bytes).unwrap();
    }

    /// Exactly `len` bytes.
    #[track_caller]
    pub(crate) fn receive(&self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        (&self.0).read_exact(&mut bytes).unwrap();
        bytes
    }

    #[track_caller]
    pub(crate) fn receive_to_end(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        (&self.0).read_to_end(&mut bytes).unwrap();
        bytes
    }

    pub(crate) fn end_output(&self) {
        self.0.shutdown(Shutdown::Write).unwrap();
    }

    /// Closes with a reset. A Unix-domain socket knows none: there the peer sees the end, or a broken pipe.
    pub(crate) fn reset(self) {
        let _ = self.0.set_linger(Some(Duration::ZERO));
    }

    /// Sees the end of the stream, clean or not, with nothing before it.
    #[track_caller]
    pub(crate) fn sees_the_end(&self) {
        match (&self.0).read(&mut [0; 16]) {
            Ok(0) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            other => panic!("expected the end of the stream, got {other:?}"),
        }
    }

    /// Is turned away as soon as it is accepted, which may be before it has heard that it was connected.
    #[track_caller]
    pub(crate) fn is_refused_at(address: &Address) {
        match Peer::try_connect(address) {
            Ok(peer) => peer.sees_the_end(),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
        }
    }
}

fn domain(address: &Address) -> Domain {
    match address {
        Address::Tcp(address) => Domain::for_address(*address),
        _ => Domain::UNIX,
    }
}

pub(crate) fn to_sock_addr(address: &Address) -> SockAddr {
    match address {
        Address::Tcp(address) => SockAddr::from(*address),
        Address::Unix(path) => SockAddr::unix(path).unwrap(),
        other => panic!("{other} is of a kind that this suite does not know"),
    }
}

/// Bytes whose position can be told: what is lost, doubled or swapped shows.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    // A prime length, so that no buffer's size is a multiple of it.
    let block: Vec<u8> = (0..1021u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut bytes = block.repeat(len.div_ceil(block.len()));
    bytes.truncate(len);
    bytes
}
