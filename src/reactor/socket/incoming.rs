//! A connection that was accepted and has no handler yet.

use super::address::Address;
use crate::reactor::stream::handler::Handler;
use socket2::{SockRef, Socket};
use std::fmt;
use std::io;

/// A connection that has just been accepted, for whoever decides what becomes of it.
pub struct Incoming<'a> {
    peer: &'a Address,
    from: From<'a>,
}

enum From<'a> {
    Socket(&'a Socket),
    /// To this address.
    Carried(Address),
}

impl<'a> Incoming<'a> {
    pub(in crate::reactor) fn from_socket(peer: &'a Address, socket: &'a Socket) -> Self {
        Incoming { peer, from: From::Socket(socket) }
    }

    pub(in crate::reactor) fn carried(peer: &'a Address, local: Address) -> Self {
        Incoming { peer, from: From::Carried(local) }
    }

    /// Who connects. An IPv4 client of an IPv6 socket has its IPv4 address here.
    pub fn peer(&self) -> &'a Address {
        self.peer
    }

    /// The address that it connected to.
    pub fn local_addr(&self) -> io::Result<Address> {
        match &self.from {
            From::Socket(socket) => {
                socket.local_addr().map(|address| Address::from_sock_addr(&address).to_canonical())
            }
            From::Carried(local) => Ok(local.clone()),
        }
    }

    /// The socket, for options that have no method here. Reading or writing it breaks the connection. `None` if
    /// [something else](crate::reactor::Carrier) carries the stream.
    pub fn socket(&self) -> Option<SockRef<'a>> {
        match self.from {
            From::Socket(socket) => Some(SockRef::from(socket)),
            From::Carried(_) => None,
        }
    }
}

impl fmt::Debug for Incoming<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// What a server says to a connection: a handler for it, or `None` to refuse it. A [`Result`] refuses with any error.
///
/// One that is refused is closed at once, with a reset, and counted as
/// [`connections_refused`](crate::Metrics::connections_refused).
pub trait Accepted {
    /// The handler of those that are not refused.
    type Handler: Handler;

    /// The handler, if there is one.
    fn handler(self) -> Option<Self::Handler>;
}

impl<H: Handler> Accepted for H {
    type Handler = H;

    fn handler(self) -> Option<H> {
        Some(self)
    }
}

impl<H: Handler> Accepted for Option<H> {
    type Handler = H;

    fn handler(self) -> Option<H> {
        self
    }
}

impl<H: Handler, E> Accepted for Result<H, E> {
    type Handler = H;

    fn handler(self) -> Option<H> {
        self.ok()
    }
}
