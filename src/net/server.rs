//! One server on all reactors.

use super::pending::{Pending, Promise, promise};
use super::runtime::Runtime;
use crate::error::{Error, Result};
use crate::metrics::Drained;
use crate::reactor::{Address, ReactorHandle, Seats};
use parking_lot::Mutex;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// A listening server. Dropping it stops accepting; connections that were accepted live on.
///
/// To serve for as long as the runtime lives, [`detach`](Self::detach) it. To end its connections as well,
/// [`stop`](Self::stop) it.
#[must_use = "a server that is dropped stops accepting; `detach` it to let it serve on"]
pub struct Server {
    addresses: Vec<Address>,
    seats: Arc<Seats>,
    reactors: Vec<ReactorHandle>,
    detached: bool,
}

impl Server {
    pub(super) fn new(addresses: Vec<Address>, seats: Arc<Seats>, runtime: &Runtime) -> Self {
        let reactors = (0..runtime.reactors()).map(|index| runtime.reactor(index).clone()).collect();
        Server { addresses, seats, reactors, detached: false }
    }

    pub(super) fn seats(&self) -> &Arc<Seats> {
        &self.seats
    }

    /// Where it listens: with port 0, the port that the system chose. With several addresses, the first of them.
    pub fn local_addr(&self) -> &Address {
        &self.addresses[0]
    }

    /// All addresses at which it listens; never none.
    pub fn local_addrs(&self) -> &[Address] {
        &self.addresses
    }

    /// Its connections at the moment.
    pub fn connections(&self) -> usize {
        self.seats.taken()
    }

    /// Whether it accepts on any reactor. Not once it was closed or stopped, and not once the reactors on which it listened have
    /// ended.
    pub fn is_accepting(&self) -> bool {
        self.seats.are_open()
    }

    /// Lets it serve on without being held, until its runtime stops.
    pub fn detach(mut self) {
        self.detached = true;
    }

    /// Stops accepting, behind what the kernel has accepted by now. Connections live on. The same as dropping it.
    pub fn close(self) {}

    /// Stops accepting, as [`close`](Self::close) does, and keeps hold of the server: to look at
    /// [`connections`](Self::connections), or to [`stop`](Self::stop) them later.
    pub fn stop_accepting(&self) {
        for reactor in &self.reactors {
            let seats = self.seats.clone();
            // A reactor that has stopped has closed its sockets already.
            let _ = reactor.run(move |reactor| reactor.close_doors(&seats));
        }
    }

    /// Copies of its listening sockets, to pass on to another process ([`Successor`](super::Successor)), which serves on with
    /// [`Runtime::listen_on`]. While a copy is open, connections queue up there; a socket file stays from now on, whoever
    /// closes what. Both may accept for a while; each connection comes to one of them.
    ///
    /// Waits for the reactors; on a reactor's own thread this is [`Error::OnReactorThread`].
    pub fn sockets(&self) -> Result<Vec<OwnedFd>> {
        Error::if_on_reactor_thread("Server::sockets", "use `Server::sockets_async`")?;
        self.sockets_async().wait()
    }

    /// What [`sockets`](Self::sockets) returns, without waiting.
    pub fn sockets_async(&self) -> Pending<Vec<OwnedFd>> {
        let (promise, pending) = promise();
        let gathered = Arc::new(Gathered(Mutex::new((Ok(Vec::new()), Some(promise)))));
        for reactor in &self.reactors {
            let (seats, gathered) = (self.seats.clone(), gathered.clone());
            // One that has stopped has none.
            let _ = reactor.run(move |reactor| gathered.add(reactor.copy_doors(&seats)));
        }
        pending
    }

    /// Stops: it accepts no more, its handlers' [`on_shutdown`](super::Handler::on_shutdown) is called, what has not finished
    /// within `grace` is cut off, and then this returns. Other servers of the runtime are not concerned. May be called again
    /// with a shorter grace.
    ///
    /// Waits; on a reactor's own thread this is [`Error::OnReactorThread`], and nothing was done.
    pub fn stop(&self, grace: Duration) -> Result<Drained> {
        Error::if_on_reactor_thread("Server::stop", "use `Server::stop_async`")?;
        self.stop_async(grace).wait()
    }

    /// Stops, as [`stop`](Self::stop) does, without waiting. It goes on if the result is dropped.
    pub fn stop_async(&self, grace: Duration) -> Pending<Drained> {
        let (promise, pending) = promise();
        let seats = &self.seats;
        let before = seats.drained();
        // Those that are on their way to another reactor find this when they open.
        seats.stop();
        for reactor in &self.reactors {
            let seats = seats.clone();
            // A reactor that has stopped has ended its connections already.
            let _ = reactor.run(move |reactor| reactor.stop_server(&seats, grace));
        }
        let theirs = Arc::downgrade(seats);
        seats.when_empty(move || {
            let after = theirs.upgrade().map(|seats| seats.drained()).unwrap_or_default();
            promise.keep(Ok(Drained::new(after.closed - before.closed, after.cut_off - before.cut_off)));
        });
        pending
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.detached {
            self.stop_accepting();
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("addresses", &self.addresses)
            .field("connections", &self.connections())
            .finish_non_exhaustive()
    }
}

/// The sockets that reactors have copied; told when the last one has.
struct Gathered(Mutex<Gathering>);

type Gathering = (Result<Vec<OwnedFd>>, Option<Promise<Vec<OwnedFd>>>);

impl Gathered {
    fn add(&self, copies: io::Result<Vec<OwnedFd>>) {
        let (all, _) = &mut *self.0.lock();
        match (&mut *all, copies) {
            (Ok(all), Ok(copies)) => all.extend(copies),
            (_, Err(source)) => *all = Err(Error::System { action: "copy a listening socket", source }),
            (Err(_), Ok(_)) => {}
        }
    }
}

impl Drop for Gathered {
    fn drop(&mut self) {
        let (all, promise) = self.0.get_mut();
        if let Some(promise) = promise.take() {
            promise.keep(std::mem::replace(all, Ok(Vec::new())));
        }
    }
}

/// A server that some reactors still have to begin to serve. When the last of them has, or has failed, the promise is
/// kept; a server that did not come up on all of them leaves nothing behind.
pub(super) struct Starting(Mutex<StartingState>);

struct StartingState {
    left: usize,
    server: Option<Server>,
    failure: Option<Error>,
    promise: Option<Promise<Server>>,
}

/// One reactor's part. If it is dropped, that reactor has stopped.
pub(super) struct Part(Option<Arc<Starting>>);

impl Starting {
    pub(super) fn begin(server: Server, parts: usize) -> (Vec<Part>, Pending<Server>) {
        let (promise, pending) = promise();
        let state =
            StartingState { left: parts, server: Some(server), failure: None, promise: Some(promise) };
        let starting = Arc::new(Starting(Mutex::new(state)));
        ((0..parts).map(|_| Part(Some(starting.clone()))).collect(), pending)
    }
}

impl Part {
    pub(super) fn finish(mut self, result: Result<()>) {
        self.end(result);
    }

    fn end(&mut self, result: Result<()>) {
        let Some(starting) = self.0.take() else { return };
        let mut state = starting.0.lock();
        state.left -= 1;
        state.failure = state.failure.take().or(result.err());
        if state.left > 0 {
            return;
        }
        let (server, failure, promise) = (state.server.take(), state.failure.take(), state.promise.take());
        drop(state);
        let outcome = match (server, failure) {
            (Some(server), None) => Ok(server),
            // Dropping the server closes the sockets that came up.
            (_, failure) => Err(failure.unwrap_or(Error::Stopped)),
        };
        if let Some(promise) = promise {
            promise.keep(outcome);
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.end(Err(Error::Stopped));
    }
}
