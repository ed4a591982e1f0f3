//! Sockets that were made elsewhere: listening ones, connected ones, and copies for others.

use super::accept::ListenerId;
use super::address::Address;
use super::incoming::{Accepted, Incoming};
use super::listener::take_over;
use super::options::{ListenOptions, StreamOptions};
use super::seats::Seats;
use crate::error::{Error, Result};
use crate::reactor::Reactor;
use crate::reactor::stream::connection::{Connection, Link, Phase};
use crate::reactor::stream::handler::Handler;
use crate::reactor::threads::stream_handle::Handle;
use socket2::Socket;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

impl Reactor {
    /// Serves on a socket that listens already; of the options, those that are about listening itself have no effect. A socket
    /// file stays where it is in the end.
    pub fn listen_on<A: Accepted>(
        &mut self,
        options: &ListenOptions,
        socket: impl Into<OwnedFd>,
        accept: impl FnMut(&Incoming<'_>) -> A + 'static,
    ) -> Result<ListenerId> {
        options.check()?;
        self.serve(take_over(socket.into())?, options, Seats::new(options), accept)
    }

    /// Takes in a stream socket that is connected already, whoever made it. `on_open` is called before this returns. A reactor
    /// that drains takes in none.
    pub fn adopt<H: Handler>(
        &mut self,
        options: &StreamOptions,
        socket: impl Into<OwnedFd>,
        handler: H,
    ) -> Result<Handle> {
        options.check()?;
        let cannot = |source| Error::System { action: "take in a socket from outside", source };
        if self.drain_deadline.is_some() {
            return Err(cannot(io::Error::other("this reactor is draining")));
        }
        let (socket, peer) = self.prepare_foreign(options, socket.into()).map_err(cannot)?;
        let options = Rc::new(options.clone());
        let id = self.connections.insert(|id| Connection {
            handler: Box::new(handler),
            link: Link::new(id, socket, peer, options, Phase::Connecting, None, self.shared.now),
        });
        let connection = self.connections.get_mut(id).expect("it has just been put there");
        let handle = connection.link.handle(&self.shared.mailbox);
        self.established(id);
        self.disturbed();
        Ok(handle)
    }

    fn prepare_foreign(
        &mut self,
        options: &StreamOptions,
        socket: OwnedFd,
    ) -> io::Result<(Rc<Socket>, Address)> {
        let socket = Rc::new(Socket::from(socket));
        let peer = Address::from_sock_addr(&socket.peer_addr()?).to_canonical();
        if socket.r#type()? != socket2::Type::STREAM {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no stream socket"));
        }
        // As those that are made here: each backend does with them what it needs.
        socket.set_nonblocking(false)?;
        socket.set_cloexec(true)?;
        options.apply_early((&*socket).into())?;
        if let Address::Tcp(_) = peer {
            options.apply_tcp((&*socket).into())?;
        }
        self.driver.attach(&socket)?;
        Ok((socket, peer))
    }

    /// Copies of one server's sockets here.
    pub(crate) fn copy_doors(&mut self, seats: &Arc<Seats>) -> io::Result<Vec<OwnedFd>> {
        let mut copies = Vec::new();
        for id in self.listeners.ids() {
            let Some(listener) = self.listeners.get_mut(id) else { continue };
            if Arc::ptr_eq(&listener.seats, seats) && !listener.closing {
                copies.push(listener.socket.try_clone()?.into());
                listener.file.iter_mut().for_each(|file| file.keep());
            }
        }
        Ok(copies)
    }
}
