//! Limits of servers.

use crate::config;
use crate::error::{Error, Result};
use crate::reactor::ListenOptions;
use std::time::Duration;

/// Options of a [`Server`](crate::rpc::Server), and the ways to begin one with them:
///
/// ```
/// use std::time::Duration;
/// use trochus::{Runtime, codec, rpc::{Reply, Server}};
///
/// # fn main() -> trochus::Result<()> {
/// let runtime = Runtime::new()?;
/// let server = Server::builder()
///     .requests_in_progress(1000)
///     .request_timeout(Duration::from_secs(5))
///     .bind(&runtime, "127.0.0.1:0", codec::Int32, |n: i32, reply: Reply<i32>| reply.send(n + 1))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct ServerOptions {
    pub(super) listen: ListenOptions,
    pub(super) requests_in_progress: usize,
    pub(super) held_soft: usize,
    pub(super) held_hard: usize,
    pub(super) request_timeout: Option<Duration>,
    pub(super) half_request_timeout: Option<Duration>,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) failures_close: bool,
    pub(super) notices: bool,
}

impl Default for ServerOptions {
    fn default() -> Self {
        ServerOptions {
            listen: ListenOptions::default(),
            requests_in_progress: config::REQUESTS_IN_PROGRESS,
            held_soft: config::HELD_SOFT_BYTES,
            held_hard: config::HELD_HARD_BYTES,
            request_timeout: Some(config::REQUEST_TIMEOUT),
            half_request_timeout: Some(config::HALF_REQUEST_TIMEOUT),
            idle_timeout: None,
            failures_close: false,
            notices: true,
        }
    }
}

impl ServerOptions {
    /// The defaults.
    pub fn new() -> Self {
        ServerOptions::default()
    }

    /// Options of the listening socket and its connections.
    pub fn listen(mut self, options: ListenOptions) -> Self {
        self.listen = options;
        self
    }

    /// Requests of one connection that may wait for a late reply, or in order for those before them:
    /// [`config::REQUESTS_IN_PROGRESS`] unless set, and at least one. Beyond that, the connection is not read, and back-pressure
    /// reaches its client.
    pub fn requests_in_progress(mut self, requests: usize) -> Self {
        self.requests_in_progress = requests.max(1);
        self
    }

    /// Responses of one connection that wait, for the peer to read or in order for those before them, in bytes. Beyond `soft`
    /// ([`config::HELD_SOFT_BYTES`] unless set) no more requests are taken until half of that is left; beyond `hard`
    /// ([`config::HELD_HARD_BYTES`]) the connection is closed. The hard limit is for requests that were taken before it was
    /// known how large their responses are: once it is, no more are taken than there will be room for.
    pub fn held_limits(mut self, soft: usize, hard: usize) -> Self {
        (self.held_soft, self.held_hard) = (soft, hard);
        self
    }

    /// How long a request may be in progress, to within a sixteenth: [`config::REQUEST_TIMEOUT`] unless set, `None` for as long as
    /// it takes. Behind that the service is asked for a [substitute](crate::rpc::Service::substitute), and what its reply sends
    /// goes nowhere. So a reply that was forgotten does not hold up an in-order connection for good.
    pub fn request_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.request_timeout = timeout.into();
        self
    }

    /// How long a peer may take for the rest of a request that it has begun to send: [`config::HALF_REQUEST_TIMEOUT`] unless set,
    /// `None` for as long as it takes. Behind that the connection is closed.
    pub fn half_request_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.half_request_timeout = timeout.into();
        self
    }

    /// How long a peer may send nothing while nothing is in progress for it; off unless set, because clients keep connections that
    /// they will need again, and a peer that has vanished is noticed by [keep-alive](crate::reactor::StreamOptions). Behind that
    /// the connection is closed, by id with a goodbye.
    pub fn idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.idle_timeout = timeout.into();
        self
    }

    /// Whether a request that has no response ends its connection, also where that is not needed: by id, or when the service has
    /// a [substitute](crate::rpc::Service::substitute). Off unless set. For services whose state a panic may have broken.
    pub fn failures_close_connections(mut self, yes: bool) -> Self {
        self.failures_close = yes;
        self
    }

    /// Whether clients by id are told when a request has no response, and before the server stops what it has taken; see
    /// [`ById`](struct@crate::codec::ById). On unless set. Off for clients that do not know of it: then a request without a
    /// response ends the connection.
    pub fn notices(mut self, yes: bool) -> Self {
        self.notices = yes;
        self
    }

    /// What a peer takes its time for is looked after by the server itself, which knows whose turn it is.
    pub(super) fn with_own_patience(&self) -> Self {
        let mut options = self.clone();
        let (stream, idle) = self.listen.stream.clone().without_own_patience();
        options.listen = options.listen.stream(stream);
        options.idle_timeout = options.idle_timeout.or(idle);
        options
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.held_soft == 0 || self.held_soft >= self.held_hard {
            return Err(Error::InvalidSetting(format!(
                "the soft limit of held responses ({} bytes) must be positive and less than the hard one ({} bytes)",
                self.held_soft, self.held_hard
            )));
        }
        let timeouts = [self.request_timeout, self.half_request_timeout, self.idle_timeout];
        if timeouts.contains(&Some(Duration::ZERO)) {
            return Err(Error::InvalidSetting(
                "a server's timeouts must be longer than nothing; `None` switches them off".to_owned(),
            ));
        }
        Ok(())
    }
}
