//! The ways to begin a server.

use super::Server;
use super::metrics::Tallies;
use super::options::ServerOptions;
use super::responder::{Responder, Shared};
use super::spawn::Spawn;
use super::tasks::Spawning;
use crate::codec::{Correlation, Decode, Protocol, Request, RequestRef, Response};
use crate::error::{Error, Result};
use crate::net::{Runtime, ToListeners};
use crate::reactor::{Address, Incoming};
use crate::rpc::{Reply, Service};
use std::future::Future;
use std::sync::Arc;

impl ServerOptions {
    /// Serves `protocol` on `address`, or on sockets that listen there already: `service` is called for each request, on the reactor of
    /// its connection, and answers through the [`Reply`] at once or later.
    pub fn bind<P: Protocol + Sync>(
        &self,
        runtime: &Runtime,
        address: impl ToListeners,
        protocol: P,
        service: impl Fn(RequestRef<'_, P>, Reply<Response<P>>) + Send + Sync + 'static,
    ) -> Result<Server> {
        let service = Arc::new(service);
        self.bind_each(runtime, address, protocol, move |_peer| {
            let service = service.clone();
            move |request: RequestRef<'_, P>, reply: Reply<Response<P>>| service(request, reply)
        })
    }

    /// Serves with a [`Service`] of its own for each connection, which `make` makes on that connection's reactor.
    pub fn bind_each<P: Protocol + Sync, S: Service<P>>(
        &self,
        runtime: &Runtime,
        address: impl ToListeners,
        protocol: P,
        make: impl Fn(&Address) -> S + Send + Sync + 'static,
    ) -> Result<Server> {
        self.check_for(&protocol)?;
        let shared = Arc::new(Shared { options: self.with_own_patience(), tallies: Tallies::default() });
        let theirs = shared.clone();
        let accept =
            move |incoming: &Incoming<'_>| Responder::new(&protocol, make(incoming.peer()), theirs.clone());
        let server = runtime.listen_with(&shared.options.listen, address, accept)?;
        Ok(Server { server, shared })
    }

    /// Whether these fit together, and with the protocol.
    pub(super) fn check_for<P: Protocol>(&self, protocol: &P) -> Result<()> {
        self.check()?;
        let largest = P::Correlation::max_item_bytes(&protocol.request_codec());
        let limit = self.listen.stream.limits.input;
        if let Some(largest) = largest
            && largest > limit
        {
            return Err(Error::InvalidSetting(format!(
                "the codec takes requests of up to {largest} bytes, of which a connection keeps no more than {limit}: lower \
                 the codec's limit, or raise `StreamOptions::input_limit`"
            )));
        }
        Ok(())
    }

    /// Serves with an `async fn`. Its futures are polled on the reactor of their connection, so they need not be `Send`, and
    /// must not block; they are woken like any others, and polled once for any number of wakes. A future that panics, or takes
    /// too long, costs its own request. A future that needs another executor's I/O or timers belongs there:
    /// [`bind_on`](Self::bind_on).
    pub fn bind_async<P: Protocol + Sync, F: Future<Output = Response<P>> + 'static>(
        &self,
        runtime: &Runtime,
        address: impl ToListeners,
        protocol: P,
        service: impl Fn(Request<P>) -> F + Send + Sync + 'static,
    ) -> Result<Server> {
        let service = Arc::new(service);
        self.bind_async_each(runtime, address, protocol, move |_peer| {
            let service = service.clone();
            move |request| service(request)
        })
    }

    /// Serves with an async closure of its own for each connection, which `make` makes on that connection's reactor: with the
    /// peer's address, and with state that its futures may share by `Rc`.
    pub fn bind_async_each<P, F, M>(
        &self,
        runtime: &Runtime,
        address: impl ToListeners,
        protocol: P,
        make: impl Fn(&Address) -> M + Send + Sync + 'static,
    ) -> Result<Server>
    where
        P: Protocol + Sync,
        F: Future<Output = Response<P>> + 'static,
        M: FnMut(Request<P>) -> F + 'static,
    {
        self.bind_each(runtime, address, protocol, move |peer| Spawning::new(make(peer)))
    }

    /// Serves with an `async fn` whose futures run on another executor, each as a task of its own: for those that need its I/O or
    /// its timers. A function that spawns is an executor; tokio's is
    ///
    /// ```ignore
    /// let handle = tokio::runtime::Handle::current();
    /// let server = Server::builder().bind_on(
    ///     move |task| drop(handle.spawn(task)), &runtime, address, protocol,
    ///     |request| async move { tokio::time::sleep(PAUSE).await; answer(request) },
    /// )?;
    /// ```
    pub fn bind_on<P: Protocol + Sync, F: Future<Output = Response<P>> + Send + 'static>(
        &self,
        executor: impl Spawn,
        runtime: &Runtime,
        address: impl ToListeners,
        protocol: P,
        service: impl Fn(Request<P>) -> F + Send + Sync + 'static,
    ) -> Result<Server> {
        self.bind(runtime, address, protocol, move |request, reply| {
            let response = service(<P::RequestCodec as Decode>::into_owned(request));
            executor.spawn(Box::pin(async move { reply.send(response.await) }));
        })
    }
}
