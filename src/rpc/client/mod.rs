//! The client as the application holds it.

pub(super) mod call;
pub(super) mod caller;
pub(super) mod deadlines;
pub(super) mod engine;
pub(super) mod expected;
pub(super) mod gate;
pub(super) mod requester;
pub(super) mod sender;
pub(super) mod target;

use crate::batch::{Batcher, CloseError, Producer, PushError};
use crate::codec::{Matching, Protocol, Request, Response, ResponseRef};
use crate::error::Result;
use crate::net::Runtime;
use crate::reactor::ToAddresses;
use crate::rpc::options::ClientOptions;
use crate::rpc::{CallError, Unfinished};
use call::Call;
use caller::{Caller, NoCaller};
use deadlines::Deadlines;
use engine::Engine;
use expected::Numbers;
use gate::Gate;
use requester::Requester;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use target::Target;

/// A connection to a [`Server`](crate::rpc::Server), for any number of threads and tasks. Cheap to clone.
///
/// Three ways to make requests, which can be mixed: [`call`](Self::call) for a response that one waits for,
/// [`producer`](Self::producer) and [`push`](Self::push) for streams of requests whose responses go to the callback, and a
/// [`Caller`] on the reactor itself.
///
/// When the last clone and the last producer are dropped, the connection is closed behind what was accepted.
pub struct Client<P: Protocol> {
    gate: Arc<Gate<Request<P>, Response<P>>>,
    streamed: Batcher<Request<P>>,
    _closes: Arc<StopsOnDrop<P>>,
}

/// Stops the calls' side when the last client is gone; the batcher of streamed requests does that by itself.
struct StopsOnDrop<P: Protocol>(Arc<Gate<Request<P>, Response<P>>>);

impl<P: Protocol> Drop for StopsOnDrop<P> {
    fn drop(&mut self) {
        self.0.stop_accepting();
    }
}

impl<P: Protocol> Client<P> {
    /// Connects to the first of `address`'s addresses that answers, and waits for that. Responses that are not a call's are
    /// thrown away.
    pub fn connect(runtime: &Runtime, address: impl ToAddresses, protocol: P) -> Result<Self> {
        Self::connect_caller(runtime, &ClientOptions::default(), address, protocol, NoCaller)
    }

    /// Connects; `callback` is called on the reactor for each response that is not a call's.
    pub fn connect_with(
        runtime: &Runtime,
        options: &ClientOptions,
        address: impl ToAddresses,
        protocol: P,
        callback: impl FnMut(ResponseRef<'_, P>) + Send + 'static,
    ) -> Result<Self> {
        Self::connect_caller(runtime, options, address, protocol, callback)
    }

    /// Connects, with a [`Caller`] that can make requests on the reactor itself.
    pub fn connect_caller(
        runtime: &Runtime,
        options: &ClientOptions,
        address: impl ToAddresses,
        protocol: P,
        caller: impl Caller<P>,
    ) -> Result<Self> {
        options.check()?;
        let addresses = address.to_addresses()?;
        let target = Arc::new(Target::default());
        let notify = || {
            let target = target.clone();
            Arc::new(move || target.notify())
        };
        let (calls, calls_consumer) = Batcher::builder().lane(CALL_LANE).build_with_notify(notify());
        let mut queue = Batcher::builder().lane(options.lane).batch(options.batch);
        if let Some(linger) = options.linger {
            // The engine minds the time; the batcher has to know that there may be something to flush.
            queue = queue.linger(linger);
        }
        let (streamed, streamed_consumer) = queue.build_with_notify(notify());
        let index = options.reactor.unwrap_or_else(|| runtime.next_reactor());
        let reactor = runtime.reactor(index).clone();
        let gate = Gate::new(calls, Deadlines::new(reactor.clone(), target.clone()), target.clone());
        let engine = Engine {
            protocol,
            caller,
            calls: calls_consumer,
            streamed: streamed_consumer,
            gate: gate.clone(),
            target,
            options: options.clone().most_calls(Numbers::of::<P::Correlation>().most_calls()),
            addresses: addresses.clone(),
            reactor,
            attempt: 0,
            stopping: false,
            lingers_until: None,
            flushing: false,
            unsent_calls: VecDeque::new(),
            unsent: Vec::new(),
            lost: 0,
            loss: None,
            ended: false,
        };
        runtime.connect_on(index, &options.connection(), addresses, move || Requester::new(engine))?;
        Ok(Client { gate: gate.clone(), streamed, _closes: Arc::new(StopsOnDrop(gate)) })
    }

    /// Makes a request, which is on its way at once, and returns the future of its response: await it on any executor, or
    /// [`wait`](Call::wait) for it. Calls of several threads share batches.
    pub fn call(&self, request: Request<P>) -> Call<Request<P>, Response<P>>
    where
        P::Correlation: Matching,
    {
        Call::new(self.gate.clone(), request)
    }

    /// Makes a request, and calls `callback` with what comes of it, on the reactor; at once if the client is closed. Waits while
    /// there is no room.
    pub fn send(
        &self,
        request: Request<P>,
        callback: impl FnOnce(std::result::Result<Response<P>, CallError>) + Send + 'static,
    ) where
        P::Correlation: Matching,
    {
        self.gate.send(request, Box::new(callback));
    }

    /// A way in for one thread: a push is a store, with no lock and no atomic read-modify-write. The responses go to the
    /// client's callback.
    pub fn producer(&self) -> Producer<Request<P>> {
        self.streamed.producer()
    }

    /// Makes a request whose response goes to the client's callback, from any thread. Waits while there is no room. A
    /// [`producer`](Self::producer) is faster.
    pub fn push(&self, request: Request<P>) -> std::result::Result<(), PushError<Request<P>>> {
        self.streamed.push(request)
    }

    /// Makes a request as [`push`](Self::push) does, if there is room now.
    pub fn try_push(&self, request: Request<P>) -> std::result::Result<(), PushError<Request<P>>> {
        self.streamed.try_push(request)
    }

    /// The queue behind [`push`](Self::push) and [`producer`](Self::producer), for its other ways in.
    pub fn batcher(&self) -> &Batcher<Request<P>> {
        &self.streamed
    }

    /// Lets requests that linger leave now.
    pub fn flush(&self) {
        self.streamed.flush();
    }

    /// Accepts no more requests, waits until everything accepted was answered and the connection has ended, or says what was
    /// not. Not for a reactor's own thread.
    pub fn close(&self) -> std::result::Result<(), Unfinished> {
        self.gate.stop_accepting();
        self.streamed.stop_accepting();
        self.gate.wait_for_end()
    }

    /// After a [`close`](Self::close) that failed: the pushed requests that were accepted and never sent.
    pub fn take_unsent(&self) -> Vec<Request<P>> {
        if !self.gate.has_ended() {
            return Vec::new();
        }
        self.streamed.close().map_or_else(CloseError::into_undelivered, |()| Vec::new())
    }

    /// Whether the connection has ended for good.
    pub fn is_closed(&self) -> bool {
        self.gate.has_ended()
    }
}

/// Calls that wait to be taken by the reactor, of each thread.
const CALL_LANE: usize = 4096;

impl<P: Protocol> Clone for Client<P> {
    fn clone(&self) -> Self {
        Client { gate: self.gate.clone(), streamed: self.streamed.clone(), _closes: self._closes.clone() }
    }
}

impl<P: Protocol> fmt::Debug for Client<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("closed", &self.is_closed()).finish_non_exhaustive()
    }
}
