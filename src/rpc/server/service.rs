//! What a server does with a request.

use super::connection::Connection;
use super::fault::Fault;
use crate::codec::{DecodeError, EncodeError, Protocol, RequestRef, Response};
use crate::reactor::{Address, CloseReason};
use crate::rpc::Reply;

/// The server's side of one connection: called once for each request.
///
/// A closure `Fn(request, reply)` is one. Implement it by hand for state of one's own per connection, or to have words for what
/// goes wrong.
pub trait Service<P: Protocol>: 'static {
    /// A request came. Answer through `reply`, now or later.
    fn call(&mut self, request: RequestRef<'_, P>, reply: Reply<Response<P>>);

    /// The connection is established. Clones of it, on any thread, can send what no request asked for, close the connection,
    /// and have [`on_notify`](Self::on_notify) called.
    fn on_open(&mut self, connection: &Connection<Response<P>>) {
        let _ = connection;
    }

    /// [`Connection::notify`] was called, or replies were sent from elsewhere.
    fn on_notify(&mut self) {}

    /// A request has no response. What to send instead, if the protocol has words for that. Otherwise, by id, its caller is
    /// told that there is none, and everything else goes on; in order, the connection is reset behind the responses before it, so that
    /// nobody takes the request for one that was not executed (a Unix-domain socket knows no reset: there it ends).
    /// Without correlation nothing happens.
    fn substitute(&mut self, missing: &Missing<'_>) -> Option<Response<P>> {
        let _ = missing;
        None
    }

    /// The peer sent what is no request. The connection is closed behind the responses to those before it and behind what
    /// this returns, if the protocol has words for that; otherwise it is reset there. By id there are none: nobody asked.
    fn on_decode_error(&mut self, error: &DecodeError, peer: &Address) -> Option<Response<P>> {
        let _ = (error, peer);
        None
    }

    /// The connection has ended: the last call. `fault` is what this side found wrong, if that is why.
    fn on_close(&mut self, reason: &CloseReason, fault: Option<&Fault>) {
        let _ = (reason, fault);
    }
}

impl<P: Protocol, F> Service<P> for F
where
    F: FnMut(RequestRef<'_, P>, Reply<Response<P>>) + 'static,
{
    #[inline]
    fn call(&mut self, request: RequestRef<'_, P>, reply: Reply<Response<P>>) {
        self(request, reply);
    }
}

/// A request that has no response.
#[derive(Debug)]
#[non_exhaustive]
pub struct Missing<'a> {
    /// Its number on the connection: see [`Reply::request_number`].
    pub request: u64,
    /// Who asked.
    pub peer: &'a Address,
    /// Why there is none.
    pub cause: MissingCause<'a>,
}

/// Why a request has no response.
#[derive(Debug)]
#[non_exhaustive]
pub enum MissingCause<'a> {
    /// Its reply was dropped.
    Dropped,
    /// The service, or its future, panicked.
    Panicked,
    /// It took longer than [`ServerOptions::request_timeout`](crate::rpc::ServerOptions::request_timeout).
    TimedOut,
    /// Its response cannot be encoded.
    NotEncodable(&'a EncodeError),
}
