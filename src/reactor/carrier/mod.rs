//! What moves a stream's bytes: a socket, by operations of the driver, or whatever else implements [`Carrier`](carried::Carrier).

pub(in crate::reactor) mod carried;
pub(in crate::reactor) mod names;
pub(in crate::reactor) mod output;
pub(in crate::reactor) mod pair;

use super::socket::address::Address;
use super::socket::incoming::Incoming;
use carried::Carrying;
use socket2::Socket;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;

/// What a connection's bytes travel by.
pub(in crate::reactor) enum Wire {
    Socket(Rc<Socket>),
    Carried(Box<Carrying>),
}

impl Wire {
    /// The socket, if it is one.
    #[inline]
    pub(in crate::reactor) fn socket(&self) -> Option<&Rc<Socket>> {
        match self {
            Wire::Socket(socket) => Some(socket),
            Wire::Carried(_) => None,
        }
    }

    /// What operations are submitted for. There are none where there is no socket.
    #[inline]
    pub(in crate::reactor) fn descriptor(&self) -> RawFd {
        self.socket().map_or(-1, |socket| socket.as_raw_fd())
    }

    /// The connection, for whoever decides what becomes of it.
    pub(in crate::reactor) fn incoming<'a>(&'a self, peer: &'a Address) -> Incoming<'a> {
        match self {
            Wire::Socket(socket) => Incoming::from_socket(peer, socket),
            Wire::Carried(carrying) => Incoming::carried(peer, carrying.local_addr()),
        }
    }

    /// This side's address.
    pub(in crate::reactor) fn local_addr(&self) -> io::Result<Address> {
        match self {
            Wire::Socket(socket) => socket.local_addr().map(|address| Address::from_sock_addr(&address)),
            Wire::Carried(carrying) => Ok(carrying.local_addr()),
        }
    }
}
