//! How sockets are set up, and the limits of what they carry.

use super::address::Address;
use super::peers::PeerLimits;
use super::proxied::ProxyProtocol;
use super::tuning::Tuning;
use crate::config::{self, Limits};
use crate::error::{Error, Result};
use crate::reactor::stream::deadlines::Deadlines;
use crate::reactor::stream::filter::Filters;
use socket2::{SockRef, Socket, TcpKeepalive};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Options of a connection, on either side.
#[derive(Clone, Debug)]
#[must_use]
pub struct StreamOptions {
    nodelay: bool,
    receive_buffer: Option<usize>,
    send_buffer: Option<usize>,
    keepalive: Option<Duration>,
    user_timeout: Option<Duration>,
    pub(crate) connect_timeout: Duration,
    pub(crate) handshake_timeout: Duration,
    pub(crate) filters: Filters,
    pub(crate) close_timeout: Duration,
    pub(crate) flush_timeout: Duration,
    pub(in crate::reactor) deadlines: Deadlines,
    pub(crate) limits: Limits,
    pub(super) tuning: Tuning,
}

impl Default for StreamOptions {
    fn default() -> Self {
        StreamOptions {
            nodelay: true,
            receive_buffer: None,
            send_buffer: None,
            keepalive: None,
            user_timeout: None,
            connect_timeout: config::CONNECT_TIMEOUT,
            handshake_timeout: config::HANDSHAKE_TIMEOUT,
            filters: Filters::default(),
            close_timeout: config::CLOSE_TIMEOUT,
            flush_timeout: config::FLUSH_TIMEOUT,
            deadlines: Deadlines::default(),
            limits: Limits::default(),
            tuning: Tuning::default(),
        }
    }
}

impl StreamOptions {
    /// The defaults.
    pub fn new() -> Self {
        StreamOptions::default()
    }

    /// Sends small segments at once (`TCP_NODELAY`). On by default: batching happens before the socket.
    pub fn nodelay(mut self, on: bool) -> Self {
        self.nodelay = on;
        self
    }

    /// The kernel's receive buffer in bytes (`SO_RCVBUF`). Left to the kernel by default, which adapts it.
    pub fn receive_buffer(mut self, bytes: usize) -> Self {
        self.receive_buffer = Some(bytes);
        self
    }

    /// The kernel's send buffer in bytes (`SO_SNDBUF`). Left to the kernel by default, which adapts it.
    pub fn send_buffer(mut self, bytes: usize) -> Self {
        self.send_buffer = Some(bytes);
        self
    }

    /// Probes a peer that has been silent for this long. Off by default. TCP only.
    pub fn keepalive(mut self, idle: Duration) -> Self {
        self.keepalive = Some(idle);
        self
    }

    /// Fails a connection whose output has gone unacknowledged for this long (`TCP_USER_TIMEOUT`). The kernel's own,
    /// much longer, time by default. Linux only; ignored elsewhere.
    pub fn user_timeout(mut self, timeout: Duration) -> Self {
        self.user_timeout = Some(timeout);
        self
    }

    /// How long a connection attempt may take: [`config::CONNECT_TIMEOUT`] unless set.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long what comes before a connection's handler may take, from when the connection is there: the handshake of TLS, and the
    /// header of a [proxy](ListenOptions::proxy_protocol)
    /// ([`CloseReason::HandshakeTimeout`](crate::net::CloseReason::HandshakeTimeout)): [`config::HANDSHAKE_TIMEOUT`] unless set.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// How long a closed connection waits for its peer to finish, counted from when the kernel took the last of the output:
    /// [`config::CLOSE_TIMEOUT`] unless set. `Duration::MAX` for as long as that takes.
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.close_timeout = timeout;
        self
    }

    /// How long the peer of a closed connection may take none of the output that is left, before the connection is reset
    /// ([`CloseReason::FlushTimeout`](crate::net::CloseReason::FlushTimeout)): [`config::FLUSH_TIMEOUT`] unless set. It counts from
    /// the last progress, however long all of it takes.
    pub fn flush_timeout(mut self, timeout: Duration) -> Self {
        self.flush_timeout = timeout;
        self
    }

    /// Bytes of output that may wait for the peer: from `soft` on, input is not read until half of that is left; beyond `hard`,
    /// the connection is closed. A single answer may be larger than `hard`, if nothing else was waiting.
    /// [`config::OUTPUT_SOFT_BYTES`] and [`config::OUTPUT_HARD_BYTES`] unless set. What other threads write through a
    /// [`Handle`](crate::reactor::Handle) counts for neither; [`outbox_limit`](Self::outbox_limit) bounds it.
    pub fn output_limits(mut self, soft: usize, hard: usize) -> Self {
        self.limits.output_soft = soft;
        self.limits.output_hard = hard;
        self
    }

    /// Bytes of output that are left when a handler that had more waiting is told that there is room
    /// ([`Handler::on_room`](crate::reactor::Handler::on_room)): half of the soft limit unless set.
    pub fn low_water(mut self, bytes: usize) -> Self {
        self.limits.low_water = Some(bytes);
        self
    }

    /// Whether output beyond the soft limit keeps input from being read. On by default. Two sides that both write much without
    /// being asked must not both wait until the other one reads: one of them turns this off, and bounds what it writes
    /// by [`Io::room`](crate::reactor::Io::room).
    pub fn throttle_reading(mut self, on: bool) -> Self {
        self.limits.throttles = on;
        self
    }

    /// Bytes of input that the handler may leave unconsumed, which bounds the size of a frame:
    /// [`config::INPUT_BYTES`] unless set. What arrives while reading is paused, or waits for output, does not count; that is
    /// [`config::READ_AHEAD_BYTES`], and what was on its way when it began.
    pub fn input_limit(mut self, bytes: usize) -> Self {
        self.limits.input = bytes;
        self
    }

    /// What is read ahead, and what is received one buffer at a time.
    #[cfg(test)]
    pub(crate) fn reading(mut self, read_ahead: usize, careful: usize) -> Self {
        (self.limits.read_ahead, self.limits.careful) = (read_ahead, careful);
        self
    }

    /// Bytes that other threads may have written through a [`Handle`](crate::reactor::Handle) and the reactor not yet taken
    /// over: [`config::OUTBOX_BYTES`] unless set.
    pub fn outbox_limit(mut self, bytes: usize) -> Self {
        self.limits.outbox = bytes;
        self
    }

    /// Bytes of files that may be read ahead of what is sent of them ([`Io::write_file`](crate::reactor::Io::write_file)):
    /// [`config::FILE_AHEAD_BYTES`] unless set, and no more than half of the soft limit of output. A read brings half of that, and no
    /// more than [`config::FILE_READ_BYTES`].
    pub fn file_ahead(mut self, bytes: usize) -> Self {
        self.limits.file_ahead = bytes.max(1);
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        let Limits { output_soft, output_hard, input, outbox, .. } = self.limits;
        if output_soft == 0 || output_soft > output_hard {
            return Err(Error::InvalidSetting(format!(
                "output limits must be 0 < soft <= hard, not {output_soft} and {output_hard}"
            )));
        }
        if self.limits.low_water() >= output_soft {
            return Err(Error::InvalidSetting(format!(
                "the low-water mark of output must be below the soft limit, not {} with {output_soft}",
                self.limits.low_water()
            )));
        }
        if input == 0 || outbox == 0 {
            return Err(Error::InvalidSetting(
                "input and outbox limits must be at least one byte".to_owned(),
            ));
        }
        self.deadlines.check()?;
        self.check_tuning()
    }

    /// Sets what must be known before the connection is made: the size of the window is agreed on then.
    pub(crate) fn apply_early(&self, socket: SockRef<'_>) -> io::Result<()> {
        if let Some(bytes) = self.receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        if let Some(bytes) = self.send_buffer {
            socket.set_send_buffer_size(bytes)?;
        }
        Ok(())
    }

    /// Sets the rest, on a TCP socket.
    pub(crate) fn apply_tcp(&self, socket: SockRef<'_>) -> io::Result<()> {
        socket.set_tcp_nodelay(self.nodelay)?;
        if let Some(idle) = self.keepalive {
            let mut keepalive = TcpKeepalive::new().with_time(idle);
            if let Some(interval) = self.tuning.keepalive_interval {
                keepalive = keepalive.with_interval(interval);
            }
            if let Some(count) = self.tuning.keepalive_count {
                keepalive = keepalive.with_retries(count);
            }
            socket.set_tcp_keepalive(&keepalive)?;
        }
        #[cfg(target_os = "linux")]
        if let Some(timeout) = self.user_timeout {
            socket.set_tcp_user_timeout(Some(timeout))?;
        }
        Ok(())
    }
}

/// Options of a server.
#[derive(Clone, Debug)]
#[must_use]
pub struct ListenOptions {
    pub(crate) backlog: u32,
    pub(crate) connections: usize,
    pub(crate) only_v6: bool,
    pub(crate) reuse_port: bool,
    pub(crate) defer_accept: Option<Duration>,
    pub(crate) unix_mode: Option<u32>,
    pub(crate) on_error: Option<OnListenError>,
    lifetime: Duration,
    pub(crate) filters: Filters,
    pub(crate) peers: PeerLimits,
    pub(super) proxies: Option<Arc<ProxyProtocol>>,
    pub(crate) stream: StreamOptions,
}

/// What is told of a listener's errors.
#[derive(Clone)]
pub(crate) struct OnListenError(Arc<ListenErrorCallback>);

type ListenErrorCallback = dyn Fn(&Address, &io::Error) + Send + Sync;

impl OnListenError {
    pub(crate) fn call(&self, address: &Address, error: &io::Error) {
        (self.0)(address, error);
    }
}

impl fmt::Debug for OnListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnListenError")
    }
}

impl Default for ListenOptions {
    fn default() -> Self {
        ListenOptions {
            backlog: config::BACKLOG,
            connections: config::CONNECTIONS,
            only_v6: false,
            reuse_port: false,
            defer_accept: None,
            unix_mode: None,
            on_error: None,
            lifetime: Duration::MAX,
            filters: Filters::default(),
            peers: PeerLimits::default(),
            proxies: None,
            stream: StreamOptions::default(),
        }
    }
}

impl ListenOptions {
    /// The defaults.
    pub fn new() -> Self {
        ListenOptions::default()
    }

    /// Connections that may wait to be accepted: [`config::BACKLOG`] unless set.
    pub fn backlog(mut self, connections: u32) -> Self {
        self.backlog = connections;
        self
    }

    /// Connections that the server has at most, on all its reactors: [`config::CONNECTIONS`] unless set. Those beyond
    /// are closed at once and counted as refused.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// Whether an IPv6 socket leaves IPv4 clients to others. Off by default: `[::]` serves both.
    pub fn only_v6(mut self, on: bool) -> Self {
        self.only_v6 = on;
        self
    }

    /// Whether others who ask for the same may listen at the same address at the same time, such as the next version of this
    /// program before the old one goes (`SO_REUSEPORT`). Off by default: an address that is in use is an error. TCP only.
    pub fn reuse_port(mut self, on: bool) -> Self {
        self.reuse_port = on;
        self
    }

    /// Accepts a connection only once its client has sent something, or after this time in whole seconds, which the kernel
    /// rounds up (`TCP_DEFER_ACCEPT`). Not for protocols in which the server speaks first. TCP on Linux only; ignored elsewhere.
    pub fn defer_accept(mut self, timeout: Duration) -> Self {
        self.defer_accept = Some(timeout);
        self
    }

    /// The permissions of a Unix-domain server's file, such as `0o600` for its owner only. Whoever connects needs permission to
    /// write. The process' umask decides unless set.
    pub fn unix_mode(mut self, mode: u32) -> Self {
        self.unix_mode = Some(mode);
        self
    }

    /// Is called when the server cannot accept for a while, with its address and what the system said, as when the process
    /// has run out of descriptors. It tries again at intervals of [`config::ACCEPT_BACKOFF`], and calls this each time that
    /// it fails; [`accept_backoffs`](crate::Metrics::accept_backoffs) counts. On a reactor's thread: it must not wait.
    pub fn on_error(mut self, callback: impl Fn(&Address, &io::Error) + Send + Sync + 'static) -> Self {
        self.on_error = Some(OnListenError(Arc::new(callback)));
        self
    }

    /// How old a connection may become: any age unless set. Then its handler's
    /// [`on_shutdown`](crate::reactor::Handler::on_shutdown) is called, as when the server stops, and it has
    /// [`config::DRAIN_TIMEOUT`] to end in good order before it is reset
    /// ([`CloseReason::LifetimeOver`](crate::net::CloseReason::LifetimeOver)). So clients that keep their connections find their
    /// way to other servers, and to a new version.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// The options of each connection.
    pub fn stream(mut self, options: StreamOptions) -> Self {
        self.stream = options;
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.peers.check()?;
        if let Some(proxies) = &self.proxies {
            proxies.check()?;
        }
        if !self.stream.filters.are_none() {
            return Err(Error::InvalidSetting(
                "TLS of `StreamOptions` is a client's: a server's is `ListenOptions::tls`".to_owned(),
            ));
        }
        self.accepted().check()
    }

    /// The options of an accepted connection.
    pub(crate) fn accepted(&self) -> StreamOptions {
        let mut stream = self.stream.clone().lifetime(self.lifetime);
        stream.filters.clone_from(&self.filters);
        if let Some(proxies) = self.proxies.clone() {
            stream.filters.header = Some(proxies);
        }
        stream
    }

    /// Sets what a listening TCP socket has of its own.
    pub(super) fn apply_listening(&self, socket: &Socket) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        if let Some(timeout) = self.defer_accept {
            let seconds = timeout.as_secs().clamp(1, i32::MAX as u64) as i32;
            super::system::set_option(socket, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, seconds)?;
        }
        let _ = socket;
        Ok(())
    }
}
