//! Servers: listening sockets and the connections that come from them.

use super::address::{Address, ToAddresses};
use super::incoming::{Accepted, Incoming};
use super::listener::{Bound, Destination, Entrance, Listener, Place, bind};
use super::newcomer::{Newcomer, boxed};
use super::options::ListenOptions;
use super::seats::{Refused, Seat, Seats};
use crate::config::ACCEPT_BACKOFF;
use crate::driver::{self, Kind, Op};
use crate::error::{Error, Result};
use crate::reactor::Reactor;
use crate::reactor::carrier::carried::{Carrier, Carrying};
use crate::reactor::pace::timers::Due;
use crate::reactor::stream::connection::Connection;
use crate::reactor::stream::deadlines::Since;
use crate::reactor::table::Id;
use socket2::Socket;
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

/// Connections that are taken over from a socket that closes. No system queues more, and a flood of new ones is not
/// followed for ever.
const QUEUED_AT_MOST: u32 = 1 << 16;

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
    /// Listens on `address`; `accept` makes the handler of each connection, or refuses it.
    pub fn listen<A: Accepted>(
        &mut self,
        address: impl ToAddresses,
        accept: impl FnMut(&Incoming<'_>) -> A + 'static,
    ) -> Result<ListenerId> {
        self.listen_with(&ListenOptions::default(), address, accept)
    }

    /// Listens on `address` with options.
    pub fn listen_with<A: Accepted>(
        &mut self,
        options: &ListenOptions,
        address: impl ToAddresses,
        accept: impl FnMut(&Incoming<'_>) -> A + 'static,
    ) -> Result<ListenerId> {
        options.check()?;
        let bound = bind(&address.to_addresses()?, options)?;
        self.serve(bound, options, Seats::new(options), accept)
    }

    /// Serves a socket that listens already, with others that share its seats.
    pub(crate) fn serve<A: Accepted>(
        &mut self,
        bound: Bound,
        options: &ListenOptions,
        seats: Arc<Seats>,
        mut accept: impl FnMut(&Incoming<'_>) -> A + 'static,
    ) -> Result<ListenerId> {
        self.add_listener(
            bound,
            options,
            seats,
            Destination::Here(Rc::new(RefCell::new(move |incoming: &Incoming<'_>| boxed(accept(incoming))))),
        )
    }

    /// Accepts on a socket that listens already, and hands the connections to `share_out`.
    pub(crate) fn accept_for_others(
        &mut self,
        bound: Bound,
        options: &ListenOptions,
        seats: Arc<Seats>,
        share_out: impl FnMut(Socket, Address, Seat) + 'static,
    ) -> Result<ListenerId> {
        self.add_listener(bound, options, seats, Destination::Elsewhere(Box::new(share_out)))
    }

    fn add_listener(
        &mut self,
        bound: Bound,
        options: &ListenOptions,
        seats: Arc<Seats>,
        destination: Destination,
    ) -> Result<ListenerId> {
        let Bound { place, address, file, shared } = bound;
        let cannot = |source| Error::listen(&address, source);
        if self.drain_deadline.is_some() {
            return Err(cannot(io::Error::other("this reactor is draining")));
        }
        let needs_blocking = self.accepts_only_while_blocking();
        let entrance = match place {
            Place::Memory(name) => Entrance::Memory(name),
            Place::Socket(socket) => {
                if shared && needs_blocking {
                    // Elsewhere the mode stays as it is, for somebody who relies on it may accept there at this moment.
                    socket.set_nonblocking(false).map_err(cannot)?;
                }
                let socket = Rc::new(socket);
                self.driver.attach(&socket).map_err(cannot)?;
                Entrance::Socket(socket)
            }
        };
        let listener = Listener {
            entrance,
            address: address.clone(),
            file,
            stream: Rc::new(options.accepted()),
            destination: Some(destination),
            _door: seats.open_door(),
            seats,
            on_error: options.on_error.clone(),
            armed: false,
            closing: false,
            cancelled: false,
            looking: false,
            looks: if needs_blocking { QUEUED_AT_MOST } else { 0 },
            rest_timer: None,
        };
        let id = self.listeners.insert(|_| listener);
        self.open_name(id);
        self.settle_listener(id);
        self.disturbed();
        Ok(ListenerId { id, address })
    }

    /// Stops accepting there, behind what the kernel has accepted by now. Connections live on.
    pub fn close_listener(&mut self, listener: &ListenerId) {
        self.end_listener(listener.id);
        self.disturbed();
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
        if std::mem::take(&mut listener.looking) && result.is_err() {
            listener.looks = 0;
        }
        match result {
            // Also while it closes: the peer has been told that it is connected.
            Ok(socket) => self.admit_socket(id, socket),
            Err(error) if driver::is_cancelled(&error) || is_the_peers_fault(&error) => {}
            Err(error) => self.rest(id, &error),
        }
        self.settle_listener(id);
    }

    fn admit_socket(&mut self, id: Id, socket: Socket) {
        // A peer without an address has gone already.
        let Ok(peer) = socket.peer_addr() else { return };
        self.admit(id, Newcomer::Socket(socket), Address::from_sock_addr(&peer).to_canonical());
    }

    /// Lets in a stream that something else than a socket carries.
    pub(in crate::reactor) fn admit_stream(&mut self, id: Id, carrier: impl Carrier) {
        let peer = carrier.peer_addr();
        self.admit(id, Newcomer::Stream(Carrying::new(Box::new(carrier))), peer);
    }

    fn admit(&mut self, id: Id, newcomer: Newcomer, peer: Address) {
        if self.has_no_memory_for_one_more() {
            self.shared.counters.memory_refused.add(1);
            return self.refuse(newcomer);
        }
        let Some(listener) = self.listeners.get_mut(id) else { return };
        // Of a proxy's client nothing is known yet.
        let name = listener.stream.filters.header.is_none().then_some(&peer);
        let seat = match listener.seats.take(name, self.shared.now) {
            Ok(seat) => seat,
            Err(Refused::Full) => return self.refuse(newcomer),
            Err(Refused::Peer) => {
                self.shared.counters.peers_over_limit.add(1);
                crate::log::peer_refused(&peer);
                return self.refuse(newcomer);
            }
        };
        let stream = listener.stream.clone();
        // Taken out while it is called, which takes the reactor.
        let Some(mut destination) = listener.destination.take() else { return };
        self.contain(|reactor, _| match (&mut destination, newcomer) {
            (Destination::Elsewhere(share_out), Newcomer::Socket(socket)) => share_out(socket, peer, seat),
            (Destination::Here(make), newcomer) => {
                let make = make.clone();
                reactor.take_in(newcomer, peer, stream, move |incoming| make.borrow_mut()(incoming), seat);
            }
            // Each reactor has an entrance of its own.
            (Destination::Elsewhere(_), newcomer @ Newcomer::Stream(_)) => reactor.refuse(newcomer),
        });
        if let Some(listener) = self.listeners.get_mut(id) {
            listener.destination = Some(destination);
        }
    }

    pub(in crate::reactor) fn opened(&mut self, id: Id) {
        if !self.welcome(id) {
            return;
        }
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        link.opened = true;
        (link.since, link.last_input) = (Since::new(self.shared.now), self.shared.now);
        let seat = link.seat.as_ref();
        let (stops, is_cut) = (seat.is_some_and(Seat::is_stopping), seat.is_some_and(Seat::is_cut));
        self.shared.counters.connections_opened.add(1);
        self.call(id, |handler, io| handler.on_open(io));
        if self.connections.get(id).is_some_and(|connection| connection.link.filter.is_some()) {
            // What others wanted of it during the handshake.
            self.look_into_outbox(id);
        }
        if let Some(race) = self.connections.get_mut(id).and_then(|connection| connection.link.race.take()) {
            self.tell_winner(id, &race);
        }
        if self.drain_deadline.is_some() || stops {
            self.stop_connection(id);
        } else {
            self.settle(id);
        }
        if is_cut {
            self.cut_off(id);
        }
    }

    /// The process is out of something that only time brings back.
    fn rest(&mut self, id: Id, error: &io::Error) {
        let Some(listener) = self.listeners.get_mut(id) else { return };
        self.shared.counters.accept_backoffs.add(1);
        crate::log::accept_backs_off(&listener.address, error);
        if let Some(on_error) = listener.on_error.clone() {
            let address = listener.address.clone();
            self.guarded(move |_| on_error.call(&address, error));
        }
        let Some(listener) = self.listeners.get_mut(id) else { return };
        let until = self.shared.now + ACCEPT_BACKOFF;
        self.timers.change(&mut listener.rest_timer, Due::Accept(id), Some(until));
    }

    pub(in crate::reactor) fn end_rest(&mut self, id: Id) {
        if let Some(listener) = self.listeners.get_mut(id) {
            listener.rest_timer = None;
            self.settle_listener(id);
        }
    }

    pub(in crate::reactor) fn settle_listener(&mut self, id: Id) {
        let Some(listener) = self.listeners.get_mut(id) else { return };
        let descriptor = listener.entrance.descriptor();
        let accepts = listener.entrance.socket().is_some();
        if accepts && !listener.closing && !listener.armed && listener.rest_timer.is_none() {
            self.driver.submit(id.token(Kind::Accept), Op::Accept { listener: descriptor });
            listener.armed = true;
            self.unsubmitted = true;
        }
        if listener.closing && listener.armed && !listener.cancelled {
            self.driver.cancel(id.token(Kind::Accept), descriptor);
            listener.cancelled = true;
            self.unsubmitted = true;
        }
        if listener.closing && !listener.armed && self.close_name(id) {
            let Some(listener) = self.listeners.get_mut(id) else { return };
            self.timers.change(&mut listener.rest_timer, Due::Accept(id), None);
            // Nobody finds the way any more.
            listener.file = None;
            if listener.looks > 0 {
                return self.look_for_queued(id);
            }
            self.admit_queued(id);
            if let Some(Listener { entrance: Entrance::Socket(socket), .. }) = self.listeners.remove(id) {
                self.driver.detach(&socket);
            }
        }
    }

    /// Takes in what the kernel has accepted and nobody was told of: closing the socket would reset it. Where somebody else has the
    /// same socket, the kernel may have told of it the accept that has just ended, and nobody else.
    fn admit_queued(&mut self, id: Id) {
        if self.accepts_only_while_blocking() {
            return;
        }
        let Some(listener) = self.listeners.get(id) else { return };
        let Some(socket) = listener.entrance.socket().cloned() else { return };
        if socket.set_nonblocking(true).is_err() {
            return;
        }
        for _ in 0..QUEUED_AT_MOST {
            match socket.accept() {
                Ok((socket, _)) => self.admit_socket(id, socket),
                Err(error) if is_the_peers_fault(&error) && error.kind() != io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }

    /// Old rings say at once that nobody is there, instead of waiting for somebody, where the socket does not block.
    fn accepts_only_while_blocking(&self) -> bool {
        let capabilities = self.driver.capabilities();
        capabilities.batched_submission && !capabilities.multishot_accept
    }

    /// As `admit_queued`, one at a time, where the mode must stay as it is: if somebody else who has the same socket made it
    /// block again at this moment, a call would wait for the next connection, and this reactor with it.
    fn look_for_queued(&mut self, id: Id) {
        let Some(listener) = self.listeners.get_mut(id) else { return };
        let (token, descriptor) = (id.token(Kind::Accept), listener.entrance.descriptor());
        self.driver.submit(token, Op::Accept { listener: descriptor });
        // It looks before it waits, so what is there is taken before this comes.
        self.driver.cancel(token, descriptor);
        (listener.armed, listener.cancelled, listener.looking) = (true, true, true);
        listener.looks -= 1;
        self.unsubmitted = true;
    }
}

/// A connection that was gone before it was accepted, or an interruption: the next one may be fine.
fn is_the_peers_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | WouldBlock)
        || error.raw_os_error() == Some(libc::EPROTO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_gone_before_being_accepted_does_not_make_the_listener_rest() {
        let is_the_peers = |code| is_the_peers_fault(&io::Error::from_raw_os_error(code));
        for code in [libc::ECONNABORTED, libc::ECONNRESET, libc::EPROTO, libc::EINTR, libc::EAGAIN] {
            assert!(is_the_peers(code), "{}", io::Error::from_raw_os_error(code));
        }
        for code in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EPERM] {
            assert!(!is_the_peers(code), "{}", io::Error::from_raw_os_error(code));
        }
    }
}
