//! Servers: a responder for each connection.

pub(super) mod order;
pub(super) mod reply;
pub(super) mod responder;
pub(super) mod service;
pub(super) mod tasks;

use crate::codec::{Protocol, Request, RequestRef, Response};
use crate::error::Result;
use crate::net::{self, Runtime};
use crate::reactor::{Address, Incoming, ToAddresses};
use crate::rpc::options::ServerOptions;
use crate::rpc::{Reply, Service};
use responder::Responder;
use std::future::Future;
use std::sync::Arc;
use tasks::Spawning;

/// A request-response server on all reactors of a runtime. Dropping it stops accepting, as with [`net::Server`]; connections
/// that were accepted live on.
#[derive(Debug)]
#[must_use = "a server that is dropped stops accepting; `detach` it to let it serve on"]
pub struct Server(net::Server);

impl Server {
    /// Serves `protocol` on `address`: `service` is called for each request, on the reactor of its connection, and answers
    /// through the [`Reply`] at once or later.
    pub fn bind<P: Protocol + Sync>(
        runtime: &Runtime,
        address: impl ToAddresses,
        protocol: P,
        service: impl Fn(RequestRef<'_, P>, Reply<Response<P>>) + Send + Sync + 'static,
    ) -> Result<Self> {
        let service = Arc::new(service);
        Self::bind_each(runtime, &ServerOptions::default(), address, protocol, move |_peer| {
            let service = service.clone();
            move |request: RequestRef<'_, P>, reply: Reply<Response<P>>| service(request, reply)
        })
    }

    /// Serves with a [`Service`] of its own for each connection, which `make` makes on that connection's reactor.
    pub fn bind_each<P: Protocol + Sync, S: Service<P>>(
        runtime: &Runtime,
        options: &ServerOptions,
        address: impl ToAddresses,
        protocol: P,
        make: impl Fn(&Address) -> S + Send + Sync + 'static,
    ) -> Result<Self> {
        let each = options.clone();
        let accept =
            move |incoming: &Incoming<'_>| Responder::new(&protocol, make(incoming.peer()), each.clone());
        runtime.listen_with(&options.listen, address, accept).map(Server)
    }

    /// Serves with an `async fn`. Its futures are polled on the reactor of their connection, so they need not be `Send`, and
    /// must not block; they are woken like any others. A future that needs another executor's I/O belongs there: spawn it with
    /// the reply of [`bind`](Self::bind).
    pub fn bind_async<P: Protocol + Sync, F: Future<Output = Response<P>> + 'static>(
        runtime: &Runtime,
        address: impl ToAddresses,
        protocol: P,
        service: impl Fn(Request<P>) -> F + Send + Sync + 'static,
    ) -> Result<Self> {
        let service = Arc::new(service);
        Self::bind_each(runtime, &ServerOptions::default(), address, protocol, move |_peer| {
            let service = service.clone();
            Spawning::new(move |request| service(request))
        })
    }

    /// Where it listens: with port 0, the port that the system chose.
    pub fn local_addr(&self) -> &Address {
        self.0.local_addr()
    }

    /// Its connections at the moment.
    pub fn connections(&self) -> usize {
        self.0.connections()
    }

    /// Lets it serve on without being held, until its runtime stops.
    pub fn detach(self) {
        self.0.detach();
    }

    /// Stops accepting. Connections that were accepted live on. The same as dropping it.
    pub fn close(self) {
        self.0.close();
    }
}
