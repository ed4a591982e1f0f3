//! Services as handlers, for connections that somebody else accepted.

use super::metrics::Tallies;
use super::options::ServerOptions;
use super::responder::{Responder, Shared};
use crate::codec::{Protocol, RequestRef, Response};
use crate::error::Result;
use crate::reactor::Handler;
use crate::rpc::{Reply, ServerMetrics, Service};
use std::fmt;
use std::sync::Arc;

/// Makes handlers that serve a protocol on connections of another server, such as one that
/// [hands over](crate::reactor::Io::hand_over) by what comes first. See [`ServerOptions::handlers`].
pub struct Handlers<P: Protocol> {
    protocol: Arc<P>,
    service: Arc<SharedService<P>>,
    shared: Arc<Shared>,
}

type SharedService<P> = dyn for<'r> Fn(RequestRef<'r, P>, Reply<Response<P>>) + Send + Sync;

impl ServerOptions {
    /// Handlers that serve `protocol` as [`bind`](Self::bind) does, on connections of another server:
    ///
    /// ```
    /// # use trochus::{Runtime, codec, net::{Handler, Io}, rpc::{Handlers, Reply, ServerOptions}};
    /// struct Detect(Handlers<codec::Lines>);
    ///
    /// impl Handler for Detect {
    ///     fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
    ///         if bytes[0].is_ascii() {
    ///             io.hand_over(self.0.handler());
    ///         } else {
    ///             io.abort();
    ///         }
    ///         0
    ///     }
    /// }
    ///
    /// # fn main() -> trochus::Result<()> {
    /// let runtime = Runtime::new()?;
    /// let lines = ServerOptions::new().handlers(codec::Lines::new(), |line: &str, reply: Reply<String>| {
    ///     reply.send(line.to_uppercase());
    /// })?;
    /// let server = runtime.listen("127.0.0.1:0", move |_| Detect(lines.clone()))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// These options say how requests are served; those of the connection are what that server was begun with, and beside limits
    /// of time that the handlers keep themselves its own count as well. Its
    /// [`input_limit`](crate::reactor::StreamOptions::input_limit) has to hold the largest request. Fails where `bind` would with
    /// the same options.
    pub fn handlers<P: Protocol + Sync>(
        &self,
        protocol: P,
        service: impl for<'r> Fn(RequestRef<'r, P>, Reply<Response<P>>) + Send + Sync + 'static,
    ) -> Result<Handlers<P>> {
        self.check_for(&protocol)?;
        let shared = Arc::new(Shared { options: self.with_own_patience(), tallies: Tallies::default() });
        Ok(Handlers { protocol: Arc::new(protocol), service: Arc::new(service), shared })
    }
}

impl<P: Protocol + Sync> Handlers<P> {
    /// The handler of one connection.
    pub fn handler(&self) -> impl Handler + use<P> {
        let service = self.service.clone();
        let service = move |request: RequestRef<'_, P>, reply: Reply<Response<P>>| service(request, reply);
        Responder::new(&*self.protocol, service, self.shared.clone())
    }

    /// As [`handler`](Self::handler), with a [`Service`] of its own.
    pub fn handler_of<S: Service<P>>(&self, service: S) -> impl Handler + use<P, S> {
        Responder::new(&*self.protocol, service, self.shared.clone())
    }

    /// What all of them have done so far.
    pub fn metrics(&self) -> ServerMetrics {
        self.shared.tallies.read()
    }
}

impl<P: Protocol> Clone for Handlers<P> {
    fn clone(&self) -> Self {
        Handlers {
            protocol: self.protocol.clone(),
            service: self.service.clone(),
            shared: self.shared.clone(),
        }
    }
}

impl<P: Protocol> fmt::Debug for Handlers<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handlers").finish_non_exhaustive()
    }
}
