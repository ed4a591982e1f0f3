//! Streams that something else than a socket carries.

use super::pending::{Pending, promise};
use super::runtime::Runtime;
use crate::error::{Error, Result};
use crate::reactor::{Carrier, Handle, Handler, StreamOptions};

impl Runtime {
    /// Takes in a stream that `carrier` carries, such as one end of a [`pair`](super::pair), on one of the reactors, and waits for that.
    /// The handler is made there.
    ///
    /// On a reactor's own thread this is [`Error::OnReactorThread`].
    pub fn carry<H: Handler>(
        &self,
        options: &StreamOptions,
        carrier: impl Carrier + Send,
        make: impl FnOnce() -> H + Send + 'static,
    ) -> Result<Handle> {
        self.carry_on(self.next_reactor(), options, carrier, make)
    }

    /// Takes it in on a certain reactor: two ends of a pair are fastest on the same one.
    ///
    /// # Panics
    ///
    /// If `reactor` is not below [`reactors`](Self::reactors).
    pub fn carry_on<H: Handler>(
        &self,
        reactor: usize,
        options: &StreamOptions,
        carrier: impl Carrier + Send,
        make: impl FnOnce() -> H + Send + 'static,
    ) -> Result<Handle> {
        Error::if_on_reactor_thread(
            "Runtime::carry",
            "use `Runtime::carry_async`, or the reactor's own `carry`",
        )?;
        match self.carry_async(reactor, options, carrier, make).wait() {
            Err(Error::Stopped) => Err(self.why_stopped(reactor)),
            result => result,
        }
    }

    /// What [`carry_on`](Self::carry_on) does, without waiting. It is done whether anybody waits for it or not.
    ///
    /// # Panics
    ///
    /// If `reactor` is not below [`reactors`](Self::reactors).
    pub fn carry_async<H: Handler>(
        &self,
        reactor: usize,
        options: &StreamOptions,
        carrier: impl Carrier + Send,
        make: impl FnOnce() -> H + Send + 'static,
    ) -> Pending<Handle> {
        let (promise, pending) = promise();
        let both = ((carrier, make, options.clone()), promise);
        // A reactor that has stopped drops the promise.
        let _ = self.reactor(reactor).run(move |reactor| {
            let ((carrier, make, options), promise) = both;
            promise.keep(reactor.carry(&options, carrier, make()));
        });
        pending
    }
}
