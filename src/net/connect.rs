//! Connections that a runtime makes.

use super::pending::{Pending, promise};
use super::runtime::Runtime;
use crate::error::{Error, Result};
use crate::reactor::{Contender, Handle, Handler, Reactor, ReactorHandle, StreamOptions, ToAddresses};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

impl Runtime {
    /// Connects to whichever of `address`'s addresses answers first, and waits for that. The handler is made on the
    /// connection's reactor once there is a connection.
    ///
    /// Several addresses are tried at intervals of [`CONNECT_STAGGER`](crate::config::CONNECT_STAGGER), or as soon as one has
    /// failed, the families in turn (RFC 8305, "Happy Eyeballs").
    ///
    /// On a reactor's own thread this is [`Error::OnReactorThread`].
    pub fn connect<H: Handler>(
        &self,
        address: impl ToAddresses,
        make: impl FnOnce() -> H + Send + 'static,
    ) -> Result<Handle> {
        self.connect_on(self.next_reactor(), &StreamOptions::default(), address, make)
    }

    /// Connects with options.
    pub fn connect_with<H: Handler>(
        &self,
        options: &StreamOptions,
        address: impl ToAddresses,
        make: impl FnOnce() -> H + Send + 'static,
    ) -> Result<Handle> {
        self.connect_on(self.next_reactor(), options, address, make)
    }

    /// Connects from a certain reactor.
    ///
    /// # Panics
    ///
    /// If `reactor` is not below [`reactors`](Self::reactors).
    pub fn connect_on<H: Handler>(
        &self,
        reactor: usize,
        options: &StreamOptions,
        address: impl ToAddresses,
        make: impl FnOnce() -> H + Send + 'static,
    ) -> Result<Handle> {
        Error::if_on_reactor_thread(
            "Runtime::connect",
            "use `Runtime::connect_async`, or `Io::defer` or `ReactorHandle::run` with the reactor's own `connect`",
        )?;
        match self.connect_async_on(reactor, options, address, make).wait() {
            Err(Error::Stopped) => Err(self.why_stopped(reactor)),
            result => result,
        }
    }

    /// Connects without waiting for it; dropping the result before it is known ends the attempt.
    ///
    /// A name is looked up by the system before this returns, which may take its time: give addresses where that matters.
    pub fn connect_async<H: Handler>(
        &self,
        options: &StreamOptions,
        address: impl ToAddresses,
        make: impl FnOnce() -> H + Send + 'static,
    ) -> Pending<Handle> {
        self.connect_async_on(self.next_reactor(), options, address, make)
    }

    /// Connects from a certain reactor without waiting for it.
    ///
    /// # Panics
    ///
    /// If `reactor` is not below [`reactors`](Self::reactors).
    pub fn connect_async_on<H: Handler>(
        &self,
        reactor: usize,
        options: &StreamOptions,
        address: impl ToAddresses,
        make: impl FnOnce() -> H + Send + 'static,
    ) -> Pending<Handle> {
        let addresses = options.check().and_then(|()| address.to_addresses());
        let addresses = match addresses {
            Ok(addresses) => addresses,
            Err(error) => return Pending::done(Err(error)),
        };
        let (promise, pending) = promise();
        let unwanted = Arc::new(AtomicBool::new(false));
        let (options, theirs) = (options.clone(), unwanted.clone());
        let begin = move |reactor: &mut Reactor| {
            let contender = Contender::ToBeMade(Box::new(move || Box::new(make())));
            let tell = Box::new(move |outcome: Result<Handle, _>| {
                promise.keep(outcome.map_err(|(address, source)| Error::connect(&address, source)));
            });
            reactor.race(&options, &addresses, contender, tell, theirs);
        };
        let handle = self.reactor(reactor).clone();
        // A reactor that has stopped drops the promise.
        if handle.run(begin).is_err() {
            return Pending::done(Err(self.why_stopped(reactor)));
        }
        pending.on_drop(move || cancel(&handle, &unwanted))
    }
}

fn cancel(reactor: &ReactorHandle, unwanted: &AtomicBool) {
    unwanted.store(true, Ordering::Relaxed);
    // A reactor that has stopped has ended it.
    let _ = reactor.run(Reactor::end_unwanted_races);
}
