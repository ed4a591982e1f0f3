//! Servers: listening sockets and the connections that come from them.

use super::address::{Address, ToAddresses};
use super::listener::{Bound, Destination, Listener, Seat, Seats, bind};
use super::options::{ListenOptions, StreamOptions};
use crate::config::ACCEPT_BACKOFF;
use crate::driver::{self, Kind, Op};
use crate::error::{Error, Result};
use crate::reactor::pace::timers::Due;
use crate::reactor::stream::connection::{Connection, Link, Phase};
use crate::reactor::stream::handler::Handler;
use crate::reactor::table::Id;
use crate::reactor::{Reactor, Shared};
use socket2::Socket;
use std::io;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

/// A listening socket of one reactor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerId {
    id: Id,
    address: Address,
}

impl ListenerId {
    /// Where it listens: with port 0, the port that the system chose.
    pub fn local_addr(&self) -> &Address {
        &self.address
    }
}

impl Reactor {
    /// Listens on `address`, with a handler from `accept` for each connection.
    pub fn listen<H: Handler>(
        &mut self,
        address: impl ToAddresses,
        accept: impl FnMut(&Address) -> H + 'static,
    ) -> Result<ListenerId> {
        self.listen_with(&ListenOptions::default(), address, accept)
    }

    /// Listens on `address` with options.
    pub fn listen_with<H: Handler>(
        &mut self,
        options: &ListenOptions,
        address: impl ToAddresses,
        mut accept: impl FnMut(&Address) -> H + 'static,
    ) -> Result<ListenerId> {
        options.check()?;
        let bound = bind(&address.to_addresses()?, options, None)?;
        let destination = Destination::Here(Box::new(move |peer| Box::new(accept(peer))));
        self.add_listener(
            bound,
            Rc::new(options.stream.clone()),
            Seats::new(options.connections),
            destination,
        )
    }

    /// Serves a socket that listens already, with others that share its seats.
    pub(crate) fn serve<H: Handler>(
        &mut self,
        bound: Bound,
        options: &ListenOptions,
        seats: Arc<Seats>,
        mut accept: impl FnMut(&Address) -> H + 'static,
    ) -> Result<ListenerId> {
        let destination = Destination::Here(Box::new(move |peer| Box::new(accept(peer))));
        self.add_listener(bound, Rc::new(options.stream.clone()), seats, destination)
    }

    /// Accepts on a socket that listens already, and hands the connections to `share_out`.
    pub(crate) fn accept_for_others(
        &mut self,
        bound: Bound,
        options: &ListenOptions,
        seats: Arc<Seats>,
        share_out: impl FnMut(Socket, Address, Seat) + 'static,
    ) -> Result<ListenerId> {
        let destination = Destination::Elsewhere(Box::new(share_out));
        self.add_listener(bound, Rc::new(options.stream.clone()), seats, destination)
    }

    fn add_listener(
        &mut self,
        bound: Bound,
        stream: Rc<StreamOptions>,
        seats: Arc<Seats>,
        destination: Destination,
    ) -> Result<ListenerId> {
        let Bound { socket, address, path } = bound;
        let socket = Rc::new(socket);
        self.driver.attach(&socket).map_err(|source| Error::listen(&address, source))?;
        let listener = Listener {
            socket,
            address: address.clone(),
            path,
            stream,
            destination,
            seats,
            armed: false,
            closing: false,
            cancelled: false,
            rest_timer: None,
        };
        let id = self.listeners.insert(|_| listener);
        self.settle_listener(id);
        Ok(ListenerId { id, address })
    }

    /// Stops accepting there. Connections that were accepted live on.
    pub fn close_listener(&mut self, listener: &ListenerId) {
        self.end_listener(listener.id);
    }

    pub(in crate::reactor) fn end_listener(&mut self, id: Id) {
        if let Some(listener) = self.listeners.get_mut(id) {
            listener.closing = true;
            self.settle_listener(id);
        }
    }

    pub(in crate::reactor) fn accepted(&mut self, id: Id, result: io::Result<Socket>, more: bool) {
        let Some(listener) = self.listeners.get_mut(id) else { return };
        listener.armed = more;
        match result {
            Ok(socket) => self.admit(id, socket),
            Err(error) if driver::is_cancelled(&error) || is_the_peers_fault(&error) => {}
            Err(error) => self.rest(id, &error),
        }
        self.settle_listener(id);
    }

    fn admit(&mut self, id: Id, socket: Socket) {
        let Some(listener) = self.listeners.get_mut(id) else { return };
        if listener.closing {
            return;
        }
        let Some(seat) = listener.seats.take() else {
            self.shared.counters.connections_refused.add(1);
            return;
        };
        // A peer without an address has gone already.
        let Ok(peer) = socket.peer_addr() else { return };
        let peer = Address::from_sock_addr(&peer);
        match &mut listener.destination {
            Destination::Elsewhere(share_out) => share_out(socket, peer, seat),
            Destination::Here(make) => {
                let handler = make_handler(&self.shared, &peer, make);
                let stream = listener.stream.clone();
                self.adopt(socket, peer, stream, handler, seat);
            }
        }
    }

    /// Takes in a connection that another reactor accepted.
    pub(crate) fn adopt_from_elsewhere(
        &mut self,
        socket: Socket,
        peer: Address,
        options: StreamOptions,
        make: impl FnOnce(&Address) -> Box<dyn Handler>,
        seat: Seat,
    ) {
        let handler = make_handler(&self.shared, &peer, make);
        self.adopt(socket, peer, Rc::new(options), handler, seat);
    }

    /// Takes in a connection, unless it has no handler.
    fn adopt(
        &mut self,
        socket: Socket,
        peer: Address,
        options: Rc<StreamOptions>,
        handler: Option<Box<dyn Handler>>,
        seat: Seat,
    ) {
        let Some(handler) = handler else { return };
        let socket = Rc::new(socket);
        // Fails when the peer has gone already, or when there is no memory for one more.
        let prepared = match peer {
            Address::Tcp(_) => options.apply_tcp((&*socket).into()),
            // Unlike TCP's, these do not inherit the sizes of their buffers from the listener.
            Address::Unix(_) => options.apply_early((&*socket).into()),
        };
        if prepared.and_then(|()| self.driver.attach(&socket)).is_err() {
            self.shared.counters.connections_refused.add(1);
            return self.guarded(|_| drop(handler));
        }
        let id = self.connections.insert(|id| Connection {
            handler,
            link: Link::new(id, socket, peer, options, Phase::Open, Some(seat)),
        });
        self.opened(id);
    }

    pub(in crate::reactor) fn opened(&mut self, id: Id) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        link.opened = true;
        self.shared.counters.connections_opened.add(1);
        self.call(id, |handler, io| handler.on_open(io));
        if self.drain_deadline.is_some() && self.is_open(id) {
            self.call(id, |handler, io| handler.on_shutdown(io));
        }
        self.settle(id);
    }

    /// The process is out of something that only time brings back.
    fn rest(&mut self, id: Id, error: &io::Error) {
        let Some(listener) = self.listeners.get_mut(id) else { return };
        self.shared.counters.accept_backoffs.add(1);
        crate::log::accept_backs_off(&listener.address, error);
        let until = self.shared.now + ACCEPT_BACKOFF;
        self.timers.change(&mut listener.rest_timer, Due::Accept(id), Some(until));
    }

    pub(in crate::reactor) fn end_rest(&mut self, id: Id) {
        if let Some(listener) = self.listeners.get_mut(id) {
            listener.rest_timer = None;
            self.settle_listener(id);
        }
    }

    fn settle_listener(&mut self, id: Id) {
        let Some(listener) = self.listeners.get_mut(id) else { return };
        let descriptor = listener.socket.as_raw_fd();
        if !listener.closing && !listener.armed && listener.rest_timer.is_none() {
            listener.armed = true;
            self.driver.submit(id.token(Kind::Accept), Op::Accept { listener: descriptor });
            self.unsubmitted = true;
        }
        if listener.closing && listener.armed && !std::mem::replace(&mut listener.cancelled, true) {
            self.driver.cancel(id.token(Kind::Accept), descriptor);
            self.unsubmitted = true;
        }
        if listener.closing && !listener.armed {
            self.timers.change(&mut listener.rest_timer, Due::Accept(id), None);
            self.driver.detach(&listener.socket);
            let path: Option<PathBuf> = self.listeners.remove(id).and_then(|listener| listener.path);
            if let Some(path) = path {
                // If somebody has removed it already, so much the better.
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

/// `None` if that panicked, which concerns nobody but this connection.
fn make_handler(
    shared: &Shared,
    peer: &Address,
    make: impl FnOnce(&Address) -> Box<dyn Handler>,
) -> Option<Box<dyn Handler>> {
    let handler = catch_unwind(AssertUnwindSafe(|| make(peer)));
    if handler.is_err() {
        shared.counters.handler_panics.add(1);
        crate::log::handler_panicked(peer);
    }
    handler.ok()
}

/// A connection that was gone before it was accepted, or an interruption: the next one may be fine.
fn is_the_peers_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | WouldBlock)
        || error.raw_os_error() == Some(libc::EPROTO)
}
