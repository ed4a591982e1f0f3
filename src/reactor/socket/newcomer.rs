//! What was accepted, until it is a connection or is turned away.

use super::address::Address;
use super::incoming::{Accepted, Incoming};
use super::options::StreamOptions;
use super::proxied::Expected;
use super::seats::Seat;
use crate::reactor::carrier::Wire;
use crate::reactor::carrier::carried::Carrying;
use crate::reactor::stream::connection::{Connection, Link, Phase};
use crate::reactor::stream::handler::Handler;
use crate::reactor::{Reactor, Shared};
use socket2::Socket;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

/// What was accepted.
pub(super) enum Newcomer {
    Socket(Socket),
    Stream(Box<Carrying>),
}

impl Newcomer {
    fn incoming<'a>(&'a self, peer: &'a Address) -> Incoming<'a> {
        match self {
            Newcomer::Socket(socket) => Incoming::from_socket(peer, socket),
            Newcomer::Stream(carrying) => Incoming::carried(peer, carrying.local_addr()),
        }
    }
}

pub(super) fn boxed(accepted: impl Accepted) -> Option<Box<dyn Handler>> {
    accepted.handler().map(|handler| Box::new(handler) as Box<dyn Handler>)
}

/// `None` if it was refused, or if that panicked, which concerns nobody but this connection.
pub(super) fn make_handler(
    shared: &Shared,
    incoming: &Incoming<'_>,
    make: impl FnOnce(&Incoming<'_>) -> Option<Box<dyn Handler>>,
) -> Option<Box<dyn Handler>> {
    let handler = catch_unwind(AssertUnwindSafe(|| make(incoming)));
    if handler.is_err() {
        shared.counters.handler_panics.add(1);
        crate::log::handler_panicked(incoming.peer());
    }
    handler.ok().flatten()
}

impl Reactor {
    pub(super) fn refuse(&mut self, newcomer: Newcomer) {
        self.shared.counters.connections_refused.add(1);
        // A clean end would look like an answer. What carries a stream knows that as it is dropped.
        if let Newcomer::Socket(socket) = &newcomer {
            let _ = socket.set_linger(Some(Duration::ZERO));
        }
        self.guarded(|_| drop(newcomer));
    }

    /// Takes in a connection that another reactor accepted.
    pub(crate) fn adopt_from_elsewhere<A: Accepted>(
        &mut self,
        socket: Socket,
        peer: Address,
        options: StreamOptions,
        make: impl FnOnce(&Incoming<'_>) -> A + 'static,
        seat: Seat,
    ) {
        let newcomer = Newcomer::Socket(socket);
        self.take_in(newcomer, peer, Rc::new(options), move |incoming| boxed(make(incoming)), seat);
    }

    /// Takes in a connection, unless it is refused.
    pub(super) fn take_in(
        &mut self,
        newcomer: Newcomer,
        peer: Address,
        options: Rc<StreamOptions>,
        make: impl FnOnce(&Incoming<'_>) -> Option<Box<dyn Handler>> + 'static,
        seat: Seat,
    ) {
        let handler = match options.filters.header {
            None => make_handler(&self.shared, &newcomer.incoming(&peer), make),
            // Once the header has come.
            Some(_) => Some(Expected::by(make)),
        };
        let Some(handler) = handler else { return self.refuse(newcomer) };
        let wire = match newcomer {
            Newcomer::Stream(carrying) => Wire::Carried(carrying),
            Newcomer::Socket(socket) => {
                let socket = Rc::new(socket);
                // Fails when the peer has gone already, or when there is no memory for one more.
                if self.prepare_accepted(&socket, &peer, &options).is_err() {
                    self.shared.counters.connections_refused.add(1);
                    let _ = socket.set_linger(Some(Duration::ZERO));
                    return self.guarded(|_| drop(handler));
                }
                Wire::Socket(socket)
            }
        };
        let id = self.connections.insert(|id| Connection {
            handler,
            link: Link::new(id, wire, peer, options, Phase::Connecting, Some(seat), self.shared.now),
        });
        self.start_carrier(id);
        self.established(id);
    }

    fn prepare_accepted(
        &mut self,
        socket: &Rc<Socket>,
        peer: &Address,
        options: &StreamOptions,
    ) -> io::Result<()> {
        match peer {
            Address::Tcp(_) => options.apply_tcp((&**socket).into())?,
            // Unlike TCP's, these do not inherit the sizes of their buffers from the listener.
            _ => options.apply_early((&**socket).into())?,
        }
        self.driver.attach(socket)
    }
}
