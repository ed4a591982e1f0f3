//! A connection that was accepted and has no handler yet.

use super::address::Address;
use crate::reactor::stream::handler::Handler;
use socket2::{SockRef, Socket};
use std::fmt;
use std::io;

/// A connection that has just been accepted, for whoever decides what becomes of it.
pub struct Incoming<'a> {
    peer: &'a Address,
    socket: &'a Socket,
}

impl<'a> Incoming<'a> {
    pub(in crate::reactor) fn new(peer: &'a Address, socket: &'a Socket) -> Self {
        Incoming { peer, socket }
    }

    /// Who connects. An IPv4 client of an IPv6 socket has its IPv4 address here.
    pub fn peer(&self) -> &'a Address {
        self.peer
    }

    /// The address that it connected to.
    pub fn local_addr(&self) -> io::Result<Address> {
        self.socket.local_addr().map(|address| Address::from_sock_addr(&address).to_canonical())
    }

    /// The socket, for options that have no method here. Reading or writing it breaks the connection.
    pub fn socket(&self) -> SockRef<'a> {
        SockRef::from(self.socket)
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
