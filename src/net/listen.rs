//! Listening on all reactors.

use super::pending::Pending;
use super::runtime::Runtime;
use super::server::{Server, Starting};
use crate::error::{Error, Result};
use crate::reactor::{
    Accepted, Address, Bound, Incoming, ListenOptions, ReactorHandle, Seats, SentAction, Share, ToAddresses,
    bind_all, take_over,
};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Where a server listens.
#[derive(Debug)]
#[non_exhaustive]
pub enum Listeners {
    /// At these addresses.
    At(Vec<Address>),
    /// On these sockets, which listen already: see [`Runtime::listen_on`].
    On(Vec<OwnedFd>),
}

/// What a server can listen on: whatever has addresses ([`ToAddresses`]), or sockets that listen already.
pub trait ToListeners {
    /// The addresses, or the sockets. A name is looked up by the system, which may block.
    fn to_listeners(self) -> Result<Listeners>;
}

impl<A: ToAddresses> ToListeners for A {
    fn to_listeners(self) -> Result<Listeners> {
        self.to_addresses().map(Listeners::At)
    }
}

impl ToListeners for Vec<OwnedFd> {
    fn to_listeners(self) -> Result<Listeners> {
        Ok(Listeners::On(self))
    }
}

impl ToListeners for Listeners {
    fn to_listeners(self) -> Result<Listeners> {
        Ok(self)
    }
}

impl Runtime {
    /// Listens on `address` on all reactors. `accept` makes the handler of each connection, on the connection's reactor, or
    /// refuses it; see [`Accepted`].
    ///
    /// A name with several addresses, such as `localhost`, is listened on at each of them that this machine has, all with the
    /// same port.
    ///
    /// Waits for the reactors; on a reactor's own thread this is [`Error::OnReactorThread`].
    pub fn listen<A: Accepted>(
        &self,
        address: impl ToListeners,
        accept: impl Fn(&Incoming<'_>) -> A + Send + Sync + 'static,
    ) -> Result<Server> {
        self.listen_with(&ListenOptions::default(), address, accept)
    }

    /// Listens on `address` with options.
    pub fn listen_with<A: Accepted>(
        &self,
        options: &ListenOptions,
        address: impl ToListeners,
        accept: impl Fn(&Incoming<'_>) -> A + Send + Sync + 'static,
    ) -> Result<Server> {
        Error::if_on_reactor_thread(
            "Runtime::listen",
            "use `Runtime::listen_async`, or `Io::defer` or `ReactorHandle::run` with the reactor's own `listen`",
        )?;
        self.listen_async(options, address, accept).wait()
    }

    /// Listens on `address` without waiting for the reactors, or on sockets. These are bound before this returns; a name is looked up
    /// by the system, which may take its time, so give addresses where that matters.
    ///
    /// If the result is dropped, so is the server, and accepts no more.
    pub fn listen_async<A: Accepted>(
        &self,
        options: &ListenOptions,
        address: impl ToListeners,
        accept: impl Fn(&Incoming<'_>) -> A + Send + Sync + 'static,
    ) -> Pending<Server> {
        address
            .to_listeners()
            .and_then(|listeners| self.begin_to_listen(options, listeners, Arc::new(accept)))
            .unwrap_or_else(|error| Pending::done(Err(error)))
    }

    /// Serves on sockets that listen already, such as those that a service manager or a predecessor has passed on
    /// ([`inherited`](super::inherited)): each on one of the reactors, which keeps its connections if there are as many sockets
    /// at that address as reactors, and hands them round otherwise.
    ///
    /// A [`TcpListener`](std::net::TcpListener) or a [`UnixListener`](std::os::unix::net::UnixListener) of the standard library
    /// can be given as it is. Of the options, those that are about listening itself have no effect. A socket file stays where it
    /// is in the end.
    ///
    /// Waits for the reactors; on a reactor's own thread this is [`Error::OnReactorThread`].
    pub fn listen_on<A: Accepted, S: Into<OwnedFd>>(
        &self,
        options: &ListenOptions,
        sockets: impl IntoIterator<Item = S>,
        accept: impl Fn(&Incoming<'_>) -> A + Send + Sync + 'static,
    ) -> Result<Server> {
        Error::if_on_reactor_thread("Runtime::listen_on", "use the reactor's own `listen_on`")?;
        let sockets: Vec<OwnedFd> = sockets.into_iter().map(Into::into).collect();
        self.listen_async(options, sockets, accept).wait()
    }

    fn begin_to_listen<A: Accepted>(
        &self,
        options: &ListenOptions,
        listeners: Listeners,
        accept: Arc<impl Fn(&Incoming<'_>) -> A + Send + Sync + 'static>,
    ) -> Result<Pending<Server>> {
        options.check()?;
        let reactors = self.live_reactors()?;
        match listeners {
            Listeners::At(addresses) => self.serve_at(&addresses, options, &reactors, accept),
            Listeners::On(sockets) => self.serve_on(sockets, options, &reactors, accept),
        }
    }

    fn serve_at<A: Accepted>(
        &self,
        addresses: &[Address],
        options: &ListenOptions,
        reactors: &[usize],
        accept: Arc<impl Fn(&Incoming<'_>) -> A + Send + Sync + 'static>,
    ) -> Result<Pending<Server>> {
        // For each reactor, the sockets that it serves.
        let mut sockets: Vec<Vec<Bound>> = reactors.iter().map(|_| Vec::new()).collect();
        let shares = reactors.len() > 1;
        let first = bind_all(addresses, options, &|address| {
            (shares && spreads(address)).then(|| Share { first: true, cpu: self.core(reactors[0]) })
        })?;
        let addresses: Vec<Address> = first.iter().map(|bound| bound.address.clone()).collect();
        // Where the kernel does not spread them, the first reactor hands them round.
        for address in addresses.iter().filter(|address| shares && spreads(address)) {
            for (sockets, reactor) in sockets.iter_mut().zip(reactors).skip(1) {
                let share = Some(Share { first: false, cpu: self.core(*reactor) });
                // They join the first one where that ended up.
                sockets.extend(bind_all(std::slice::from_ref(address), options, &|_| share)?);
            }
        }
        sockets[0] = first;
        let server = Server::new(addresses, Seats::new(options), self);
        Ok(self.serve(options, server, reactors, sockets, &spreads, accept))
    }

    fn serve_on<A: Accepted>(
        &self,
        sockets: Vec<OwnedFd>,
        options: &ListenOptions,
        reactors: &[usize],
        accept: Arc<impl Fn(&Incoming<'_>) -> A + Send + Sync + 'static>,
    ) -> Result<Pending<Server>> {
        if sockets.is_empty() {
            return Err(Error::InvalidSetting("there is no socket to serve on".to_owned()));
        }
        // How many there are at each address, in the order in which those came.
        let mut addresses: Vec<(Address, usize)> = Vec::new();
        let mut served: Vec<Vec<Bound>> = reactors.iter().map(|_| Vec::new()).collect();
        for socket in sockets {
            let bound = take_over(socket)?;
            let known = addresses.iter().position(|(address, _)| *address == bound.address);
            let place = known.unwrap_or_else(|| {
                addresses.push((bound.address.clone(), 0));
                addresses.len() - 1
            });
            let (_, count) = &mut addresses[place];
            served[*count % reactors.len()].push(bound);
            *count += 1;
        }
        let enough: Vec<Address> = addresses
            .iter()
            .filter(|(_, count)| *count >= reactors.len())
            .map(|(at, _)| at.clone())
            .collect();
        let addresses = addresses.into_iter().map(|(address, _)| address).collect();
        let server = Server::new(addresses, Seats::new(options), self);
        let direct = move |address: &Address| enough.contains(address);
        Ok(self.serve(options, server, reactors, served, &direct, accept))
    }

    fn serve<A: Accepted>(
        &self,
        options: &ListenOptions,
        server: Server,
        reactors: &[usize],
        sockets: Vec<Vec<Bound>>,
        direct: &(impl Fn(&Address) -> bool + Clone + Send + 'static),
        accept: Arc<impl Fn(&Incoming<'_>) -> A + Send + Sync + 'static>,
    ) -> Pending<Server> {
        let seats = server.seats().clone();
        let round = Round::new(reactors.iter().map(|index| self.reactor(*index).clone()).collect());
        let (parts, pending) = Starting::begin(server, reactors.len());
        for ((index, sockets), part) in reactors.iter().zip(sockets).zip(parts) {
            let (options, seats, accept, round) =
                (options.clone(), seats.clone(), accept.clone(), round.clone());
            let direct = direct.clone();
            // A reactor that has ended drops its part, which counts as its failure.
            let _ = self.reactor(*index).run(move |reactor| {
                let served = sockets.into_iter().try_for_each(|bound| {
                    let (accept, seats) = (accept.clone(), seats.clone());
                    if round.is_alone() || direct(&bound.address) {
                        reactor.serve(bound, &options, seats, move |incoming| accept(incoming))?;
                    } else {
                        round.clone().serve(reactor, bound, &options, seats, accept)?;
                    }
                    Ok(())
                });
                part.finish(served);
            });
        }
        pending
    }
}

/// Whether the connections at this address find their way to several reactors that listen there by themselves.
fn spreads(address: &Address) -> bool {
    matches!(address, Address::Memory(_)) || cfg!(target_os = "linux") && matches!(address, Address::Tcp(_))
}

/// The reactors that get connections in turn.
#[derive(Clone)]
struct Round(Arc<[ReactorHandle]>);

impl Round {
    fn new(reactors: Vec<ReactorHandle>) -> Self {
        Round(reactors.into())
    }

    fn is_alone(&self) -> bool {
        self.0.len() == 1
    }

    /// One reactor accepts and hands connections to all in turn.
    fn serve<A: Accepted>(
        self,
        reactor: &mut crate::Reactor,
        bound: Bound,
        options: &ListenOptions,
        seats: Arc<Seats>,
        accept: Arc<impl Fn(&Incoming<'_>) -> A + Send + Sync + 'static>,
    ) -> Result<()> {
        let (mut turn, stream) = (0, options.accepted());
        let share_out = move |socket, peer, seat| {
            let (accept, stream) = (accept.clone(), stream.clone());
            let mut adopt: SentAction = Box::new(move |reactor| {
                reactor.adopt_from_elsewhere(socket, peer, stream, move |incoming| accept(incoming), seat);
            });
            // One that has ended gives it back, for the next one. This reactor is among them and has not.
            for _ in 0..self.0.len() {
                turn = (turn + 1) % self.0.len();
                match self.0[turn].run_or_give_back(adopt) {
                    Ok(()) => return,
                    Err(back) => adopt = back,
                }
            }
        };
        reactor.accept_for_others(bound, options, seats, share_out).map(drop)
    }
}
