//! Connections that a runtime makes.

use super::runtime::Runtime;
use crate::error::{Error, Result};
use crate::reactor::{CloseReason, Handle, Handler, Io, StreamOptions, ToAddresses};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};

impl Runtime {
    /// Connects to the first of `address`'s addresses that answers, and waits for that. The handler is made on the
    /// connection's reactor once there is a connection. Not for a reactor's own thread, which would wait for itself; there,
    /// [`Reactor::connect`](crate::Reactor::connect) does not wait.
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
            "use `Io::defer` or `ReactorHandle::run` with the reactor's own `connect`",
        )?;
        options.check()?;
        let make = Arc::new(Mutex::new(Some(make)));
        let mut failure = None;
        for address in address.to_addresses()? {
            let (outcome, result) = mpsc::channel();
            let (make, options, target) = (make.clone(), options.clone(), address.clone());
            self.reactor(reactor)
                .run(move |reactor| {
                    reactor.connect(&target, &options, Dial { make, handler: None, outcome: Some(outcome) });
                })
                .map_err(|_| self.why_stopped(reactor))?;
            match result.recv().map_err(|_| self.why_stopped(reactor))? {
                Ok(handle) => return Ok(handle),
                Err(source) => failure = Some(Error::connect(&address, source)),
            }
        }
        Err(failure.expect("`ToAddresses` never gives none"))
    }
}

/// Tells the one who connects how that went; is then the handler that was meant.
struct Dial<F, H> {
    make: Arc<Mutex<Option<F>>>,
    handler: Option<H>,
    outcome: Option<Sender<io::Result<Handle>>>,
}

impl<F: FnOnce() -> H + 'static, H: Handler> Handler for Dial<F, H> {
    fn on_open(&mut self, io: &mut Io<'_>) {
        let Some(make) = self.make.lock().take() else { return io.abort() };
        self.handler.insert(make()).on_open(io);
        if let Some(outcome) = self.outcome.take() {
            // Whoever connected may have lost interest; the handler has not.
            let _ = outcome.send(Ok(io.handle()));
        }
    }

    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        self.handler.as_mut().map_or(0, |handler| handler.on_bytes(io, bytes))
    }

    fn on_end(&mut self, io: &mut Io<'_>) {
        if let Some(handler) = &mut self.handler {
            handler.on_end(io);
        }
    }

    fn on_drained(&mut self, io: &mut Io<'_>) {
        if let Some(handler) = &mut self.handler {
            handler.on_drained(io);
        }
    }

    fn on_notify(&mut self, io: &mut Io<'_>) {
        if let Some(handler) = &mut self.handler {
            handler.on_notify(io);
        }
    }

    fn on_poll(&mut self, io: &mut Io<'_>) -> bool {
        self.handler.as_mut().is_some_and(|handler| handler.on_poll(io))
    }

    fn prepare_sleep(&mut self) {
        if let Some(handler) = &mut self.handler {
            handler.prepare_sleep();
        }
    }

    fn is_ready(&self) -> bool {
        self.handler.as_ref().is_some_and(Handler::is_ready)
    }

    fn on_timer(&mut self, io: &mut Io<'_>) {
        if let Some(handler) = &mut self.handler {
            handler.on_timer(io);
        }
    }

    fn on_shutdown(&mut self, io: &mut Io<'_>) {
        match &mut self.handler {
            Some(handler) => handler.on_shutdown(io),
            None => io.abort(),
        }
    }

    fn on_close(&mut self, reason: &CloseReason) {
        if let Some(handler) = &mut self.handler {
            handler.on_close(reason);
        }
        if let Some(outcome) = self.outcome.take() {
            let _ = outcome.send(Err(refusal(reason)));
        }
    }
}

/// An attempt's end, for the one who made it.
fn refusal(reason: &CloseReason) -> io::Error {
    match reason {
        CloseReason::ConnectFailed(error) => {
            error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
        }
        reason => io::Error::other(reason.to_string()),
    }
}
