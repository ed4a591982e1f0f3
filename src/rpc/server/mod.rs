//! Servers: a responder for each connection.

mod answers;
mod bind;
mod clock;
pub(super) mod connection;
mod ending;
pub(super) mod fault;
mod handlers;
mod later;
pub(super) mod metrics;
mod open;
pub(super) mod options;
mod order;
pub(super) mod parts;
pub(super) mod reply;
mod responder;
mod serve;
pub(super) mod service;
pub(super) mod slice;
mod spawn;
mod tasks;
mod traced;

pub use handlers::Handlers;
pub use spawn::Spawn;

use crate::codec::{Protocol, Request, RequestRef, Response};
use crate::error::Result;
use crate::metrics::Drained;
use crate::net::{self, Pending, Runtime, ToListeners};
use crate::reactor::Address;
use crate::rpc::{Reply, ServerMetrics, ServerOptions, Service};
use responder::Shared;
use std::fmt;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// A request-response server on all reactors of a runtime. Dropping it stops accepting, as with [`net::Server`]; connections
/// that were accepted live on.
///
/// The ways to begin one are here, and with options at [`ServerOptions`]: [`Server::builder`].
#[must_use = "a server that is dropped stops accepting; `detach` it to let it serve on"]
pub struct Server {
    server: net::Server,
    shared: Arc<Shared>,
}

impl Server {
    /// Options, and then one of the ways to begin: `Server::builder().requests_in_progress(100).bind(…)`.
    pub fn builder() -> ServerOptions {
        ServerOptions::new()
    }

    /// Serves `protocol` on `address`, or on sockets that listen there already: `service` is called for each request, on the reactor of
    /// its connection, and answers through the [`Reply`] at once or later.
    pub fn bind<P: Protocol + Sync>(
        runtime: &Runtime,
        address: impl ToListeners,
        protocol: P,
        service: impl Fn(RequestRef<'_, P>, Reply<Response<P>>) + Send + Sync + 'static,
    ) -> Result<Self> {
        ServerOptions::new().bind(runtime, address, protocol, service)
    }

    /// Serves with a [`Service`] of its own for each connection, which `make` makes on that connection's reactor.
    pub fn bind_each<P: Protocol + Sync, S: Service<P>>(
        runtime: &Runtime,
        options: &ServerOptions,
        address: impl ToListeners,
        protocol: P,
        make: impl Fn(&Address) -> S + Send + Sync + 'static,
    ) -> Result<Self> {
        options.bind_each(runtime, address, protocol, make)
    }

    /// Serves with an `async fn`: see [`ServerOptions::bind_async`].
    pub fn bind_async<P: Protocol + Sync, F: Future<Output = Response<P>> + 'static>(
        runtime: &Runtime,
        address: impl ToListeners,
        protocol: P,
        service: impl Fn(Request<P>) -> F + Send + Sync + 'static,
    ) -> Result<Self> {
        ServerOptions::new().bind_async(runtime, address, protocol, service)
    }

    /// Where it listens: with port 0, the port that the system chose.
    pub fn local_addr(&self) -> &Address {
        self.server.local_addr()
    }

    /// All addresses at which it listens; never none.
    pub fn local_addrs(&self) -> &[Address] {
        self.server.local_addrs()
    }

    /// Its connections at the moment.
    pub fn connections(&self) -> usize {
        self.server.connections()
    }

    /// What it has done so far. Counters of the connections themselves are the runtime's.
    pub fn metrics(&self) -> ServerMetrics {
        self.shared.tallies.read()
    }

    /// Whether it accepts connections: not once it was closed or stopped, and not once its runtime has ended.
    pub fn is_accepting(&self) -> bool {
        self.server.is_accepting()
    }

    /// Lets it serve on without being held, until its runtime stops.
    pub fn detach(self) {
        self.server.detach();
    }

    /// Stops accepting. Connections that were accepted live on. The same as dropping it.
    pub fn close(self) {
        self.server.close();
    }

    /// Stops accepting, and keeps hold of the server: to look at [`connections`](Self::connections), or to
    /// [`stop`](Self::stop) them later.
    pub fn stop_accepting(&self) {
        self.server.stop_accepting();
    }

    /// Copies of its listening sockets, to pass on to another process: see [`net::Server::sockets`].
    ///
    /// Waits for the reactors; on a reactor's own thread this is [`Error::OnReactorThread`](crate::Error::OnReactorThread).
    pub fn sockets(&self) -> Result<Vec<OwnedFd>> {
        self.server.sockets()
    }

    /// What [`sockets`](Self::sockets) returns, without waiting.
    pub fn sockets_async(&self) -> Pending<Vec<OwnedFd>> {
        self.server.sockets_async()
    }

    /// Stops: it accepts no more connections and takes no more requests, answers those that it took, says goodbye where the
    /// protocol has a way to ([`ById`](struct@crate::codec::ById)), and closes. In order, what a client finds unanswered when such a
    /// connection ends was not taken. What has not finished within `grace` is cut off, and then this returns.
    ///
    /// Waits; on a reactor's own thread this is [`Error::OnReactorThread`](crate::Error::OnReactorThread), and nothing was done.
    pub fn stop(&self, grace: Duration) -> Result<Drained> {
        self.server.stop(grace)
    }

    /// Stops, as [`stop`](Self::stop) does, without waiting. It goes on if the result is dropped.
    pub fn stop_async(&self, grace: Duration) -> Pending<Drained> {
        self.server.stop_async(grace)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.server.fmt(f)
    }
}
