//! One server on all reactors.

use super::runtime::Runtime;
use crate::error::{Error, Result};
use crate::reactor::{
    Address, Bound, Handler, ListenOptions, ListenerId, ReactorHandle, Seats, Share, ToAddresses, bind,
};
use std::fmt;
use std::sync::Arc;

/// A listening server. Dropping it changes nothing: it serves until it is closed or its runtime stops.
pub struct Server {
    address: Address,
    seats: Arc<Seats>,
    listeners: Vec<(ReactorHandle, ListenerId)>,
}

impl Server {
    /// Where it listens: with port 0, the port that the system chose.
    pub fn local_addr(&self) -> &Address {
        &self.address
    }

    /// Its connections at the moment.
    pub fn connections(&self) -> usize {
        self.seats.taken()
    }

    /// Stops accepting. Connections that were accepted live on.
    pub fn close(self) {
        for (reactor, listener) in self.listeners {
            // A reactor that has stopped has closed it already.
            let _ = reactor.run(move |reactor| reactor.close_listener(&listener));
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.address)
            .field("connections", &self.connections())
            .finish()
    }
}

impl Runtime {
    /// Listens on `address` on all reactors, with a handler from `accept` for each connection. The handler is made on the
    /// connection's reactor. Not for a reactor's own thread, which would wait for itself.
    pub fn listen<H: Handler>(
        &self,
        address: impl ToAddresses,
        accept: impl Fn(&Address) -> H + Send + Sync + 'static,
    ) -> Result<Server> {
        self.listen_with(&ListenOptions::default(), address, accept)
    }

    /// Listens on `address` with options.
    pub fn listen_with<H: Handler>(
        &self,
        options: &ListenOptions,
        address: impl ToAddresses,
        accept: impl Fn(&Address) -> H + Send + Sync + 'static,
    ) -> Result<Server> {
        Error::if_on_reactor_thread(
            "Runtime::listen",
            "use `Io::defer` or `ReactorHandle::run` with the reactor's own `listen`",
        )?;
        options.check()?;
        let addresses = address.to_addresses()?;
        let kernel_spreads = cfg!(target_os = "linux") && matches!(addresses[0], Address::Tcp(_));
        if self.reactors() > 1 && !kernel_spreads {
            self.hand_round(options, &addresses, Arc::new(accept))
        } else {
            self.share_port(options, addresses, Arc::new(accept))
        }
    }

    /// A listening socket for each reactor, all at one port; the kernel chooses.
    fn share_port<H: Handler>(
        &self,
        options: &ListenOptions,
        mut addresses: Vec<Address>,
        accept: Arc<impl Fn(&Address) -> H + Send + Sync + 'static>,
    ) -> Result<Server> {
        let mut sockets = Vec::new();
        for index in 0..self.reactors() {
            let share = (self.reactors() > 1).then(|| Share { first: index == 0, cpu: self.core(index) });
            let bound = bind(&addresses, options, share)?;
            // The others join the first one where that ended up.
            addresses = vec![bound.address.clone()];
            sockets.push(bound);
        }
        let address = addresses.swap_remove(0);
        let mut server = Server { address, seats: Seats::new(options.connections), listeners: Vec::new() };
        for (index, bound) in sockets.into_iter().enumerate() {
            let (options, seats, accept) = (options.clone(), server.seats.clone(), accept.clone());
            let listener = self.on_reactor(index, move |reactor| {
                reactor.serve(bound, &options, seats, move |peer| accept(peer))
            })??;
            server.listeners.push((self.reactor(index).clone(), listener));
        }
        Ok(server)
    }

    /// One reactor accepts and hands connections to all in turn.
    fn hand_round<H: Handler>(
        &self,
        options: &ListenOptions,
        addresses: &[Address],
        accept: Arc<impl Fn(&Address) -> H + Send + Sync + 'static>,
    ) -> Result<Server> {
        let bound: Bound = bind(addresses, options, None)?;
        let (address, seats) = (bound.address.clone(), Seats::new(options.connections));
        let reactors: Vec<ReactorHandle> =
            (0..self.reactors()).map(|index| self.reactor(index).clone()).collect();
        let (options, their_seats, stream) = (options.clone(), seats.clone(), options.stream.clone());
        let listener = self.on_reactor(0, move |reactor| {
            let mut turn = 0;
            reactor.accept_for_others(bound, &options, their_seats, move |socket, peer, seat| {
                turn = (turn + 1) % reactors.len();
                let (accept, stream) = (accept.clone(), stream.clone());
                // A reactor that has stopped drops the connection, as it has all of its own.
                let _ = reactors[turn].run(move |reactor| {
                    let make = |peer: &Address| -> Box<dyn Handler> { Box::new(accept(peer)) };
                    reactor.adopt_from_elsewhere(socket, peer, stream, make, seat);
                });
            })
        })??;
        Ok(Server { address, seats, listeners: vec![(self.reactor(0).clone(), listener)] })
    }
}
