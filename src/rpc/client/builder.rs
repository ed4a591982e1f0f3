//! How a client is set up.

use super::call::deadlines::Deadlines;
use super::call::state::Pending;
use super::caller::{Caller, NoCaller, WithPushes};
use super::connect::Told;
use super::engine::{Engine, Parts};
use super::expected::Numbers;
use super::gate::Gate;
use super::target::{Target, Watcher};
use super::{Client, StopsOnDrop};
use crate::batch::Batcher;
use crate::codec::{Correlation, CorrelationKind, Protocol, Request, Response, ResponseRef};
use crate::error::{Error, Result};
use crate::net::Runtime;
use crate::reactor::ToAddresses;
use crate::rpc::Reconnect;
use crate::rpc::options::ClientOptions;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// Sets up a [`Client`]; from [`Client::builder`].
#[must_use = "a builder does nothing until it connects"]
pub struct ClientBuilder<P: Protocol, K = NoCaller> {
    protocol: P,
    options: ClientOptions,
    caller: K,
    weigh: Option<Weigh<Request<P>>>,
    watcher: Option<Watcher>,
}

/// How many bytes a request keeps alive.
type Weigh<Req> = Arc<dyn Fn(&Req) -> usize + Send + Sync>;

impl<P: Protocol> ClientBuilder<P> {
    pub(in crate::rpc) fn new(protocol: P) -> Self {
        ClientBuilder {
            protocol,
            options: ClientOptions::default(),
            caller: NoCaller,
            weigh: None,
            watcher: None,
        }
    }
}

impl<P: Protocol, K: Caller<P>> ClientBuilder<P, K> {
    /// All options at once, instead of those that were set before.
    pub fn options(mut self, options: ClientOptions) -> Self {
        self.options = options;
        self
    }

    /// `callback` is called on the reactor for each response that is not a call's; unless set, these are thrown away.
    pub fn on_response<F>(self, callback: F) -> ClientBuilder<P, F>
    where
        F: FnMut(ResponseRef<'_, P>) + Send + 'static,
    {
        self.caller(callback)
    }

    /// As [`on_response`](Self::on_response), with a [`Caller`] that can make requests on the reactor itself.
    pub fn caller<C: Caller<P>>(self, caller: C) -> ClientBuilder<P, C> {
        let ClientBuilder { protocol, options, weigh, watcher, .. } = self;
        ClientBuilder { protocol, options, caller, weigh, watcher }
    }

    /// By id: `callback` is called on the reactor for what the server sends unasked
    /// ([`Connection::push`](crate::rpc::Connection::push)); unless set, it is thrown away. To be set behind
    /// [`on_response`](Self::on_response) or [`caller`](Self::caller), whose [`Caller::on_push`] is not called then. It holds for
    /// every connection that the client makes; what was sent while it had none is lost.
    pub fn on_push<F>(self, callback: F) -> ClientBuilder<P, WithPushes<K, F>>
    where
        F: FnMut(ResponseRef<'_, P>) + Send + 'static,
    {
        const {
            assert!(
                matches!(P::Correlation::KIND, CorrelationKind::ById),
                "only by id can a client tell what was not asked for from a response"
            );
        }
        let ClientBuilder { protocol, options, caller, weigh, watcher } = self;
        let caller = WithPushes { caller, on_push: callback };
        ClientBuilder { protocol, options, caller, weigh, watcher }
    }

    /// How many bytes a request keeps alive, with what it owns: then a lane is full, too, when its requests weigh
    /// [`ClientOptions::lane_bytes`]. Without, only their number counts. For requests whose size others decide on, say
    /// `|request: &Bytes| request.len()`.
    pub fn weigh(mut self, weigh: impl Fn(&Request<P>) -> usize + Send + Sync + 'static) -> Self {
        self.weigh = Some(Arc::new(weigh));
        self
    }

    /// One of several clients that stand in for each other: who is told of its states, and what it cannot send at once is not sent.
    pub(in crate::rpc) fn one_of_several(mut self, watcher: Watcher) -> Self {
        self.watcher = Some(watcher);
        self.options.moves_on = true;
        self
    }

    /// See [`ClientOptions::reconnect`].
    pub fn reconnect(mut self, policy: Reconnect) -> Self {
        self.options = self.options.reconnect(policy);
        self
    }

    /// See [`ClientOptions::call_timeout`].
    pub fn call_timeout(mut self, after: Duration) -> Self {
        self.options = self.options.call_timeout(after);
        self
    }

    /// Connects to the first of `address`'s addresses that answers, and waits for that.
    ///
    /// # Errors
    ///
    /// None answers; or this is a reactor's own thread, where [`connect_async`](Self::connect_async) or
    /// [`connect_lazy`](Self::connect_lazy) do not wait.
    pub fn connect(self, runtime: &Runtime, address: impl ToAddresses) -> Result<Client<P>> {
        Error::if_on_reactor_thread(
            "Client::connect",
            "await Client::builder(..).connect_async(..), or use connect_lazy",
        )?;
        let told = Arc::new(Told::default());
        let client = self.start(runtime, address, Some(told.clone()))?;
        told.wait()?;
        Ok(client)
    }

    /// Connects without blocking the thread: await it on any executor. Connecting goes on by itself; dropping this ends it.
    pub fn connect_async(self, runtime: &Runtime, address: impl ToAddresses) -> Connecting<P> {
        let told = Arc::new(Told::default());
        let client = match self.start(runtime, address, Some(told.clone())) {
            Ok(client) => Some(client),
            Err(error) => {
                told.tell(Err(error));
                None
            }
        };
        Connecting { client, told }
    }

    /// A client that connects while it is used already: requests wait for the connection, as they do when it was lost. It tries as
    /// the policy of [`reconnect`](Self::reconnect) says, [`Reconnect::new`]'s unless set.
    ///
    /// # Errors
    ///
    /// A setting is invalid, or the reactor has stopped.
    pub fn connect_lazy(mut self, runtime: &Runtime, address: impl ToAddresses) -> Result<Client<P>> {
        self.options.reconnect.get_or_insert_default();
        self.start(runtime, address, None)
    }

    fn start(
        self,
        runtime: &Runtime,
        address: impl ToAddresses,
        first: Option<Arc<Told>>,
    ) -> Result<Client<P>> {
        let ClientBuilder { protocol, options, caller, weigh, watcher } = self;
        options.check()?;
        let index = options.reactor.unwrap_or_else(|| runtime.next_reactor());
        if index >= runtime.reactors() {
            let reactors = runtime.reactors();
            return Err(Error::InvalidSetting(format!(
                "there is no reactor {index}: the runtime has {reactors}, counted from 0 (`ClientOptions::reactor`)"
            )));
        }
        let options = options.most_calls(Numbers::of::<P::Correlation>().most_calls());
        let (most, limit) =
            (P::Correlation::max_item_bytes(&protocol.response_codec()), options.input_limit());
        if let Some(bytes) = most.filter(|bytes| *bytes > limit) {
            return Err(Error::InvalidSetting(format!(
                "the protocol allows responses of {bytes} bytes, and a connection holds {limit}: raise \
                 `StreamOptions::input_limit`, or lower the codec's limit"
            )));
        }
        let target = Arc::new(Target::default());
        if let Some(watcher) = watcher {
            target.watch(watcher);
        }
        let notify = || {
            let target = target.clone();
            Arc::new(move || target.notify())
        };
        let mut queue = Batcher::builder().lane(options.lane);
        let mut streamed = Batcher::builder().lane(options.lane).batch(options.batch);
        if let Some(weigh) = weigh {
            let weighs = weigh.clone();
            let of_request = move |pending: &Pending<Request<P>, Response<P>>| weighs(&pending.request);
            queue = queue.weigh(of_request).lane_bytes(options.lane_bytes);
            streamed = streamed.weigh(move |request| weigh(request)).lane_bytes(options.lane_bytes);
        }
        let (queue, queue_consumer) = queue.build_with_notify(notify());
        if let Some(linger) = options.linger {
            // The engine minds the time; the batcher has to know that there may be something to flush.
            streamed = streamed.linger(linger);
        }
        let (streamed, streamed_consumer) = streamed.build_with_notify(notify());
        let reactor = runtime.reactor(index).clone();
        let deadlines = Deadlines::new(reactor.clone(), target.clone());
        let gate = Gate::new(queue, deadlines, target.clone(), options.close_timeout);
        let client = Client {
            gate: gate.clone(),
            streamed,
            lingers: options.linger.is_some(),
            call_timeout: options.call_timeout,
            parts_bytes: options.parts_bytes,
            #[cfg(feature = "tower")]
            readiness: crate::rpc::tower::Readiness::new(options.calls_in_flight),
            _closes: Arc::new(StopsOnDrop(gate.clone())),
        };
        let (queue, streamed, lookup) = (queue_consumer, streamed_consumer, address.to_lookup());
        let parts =
            Parts { protocol, caller, queue, streamed, gate, target, options, lookup, reactor, first };
        Engine::new(parts).connect_after(Duration::ZERO);
        Ok(client)
    }
}

impl<P: Protocol, K> fmt::Debug for ClientBuilder<P, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder").field("options", &self.options).finish_non_exhaustive()
    }
}

/// A client that is on its way to its connection; from [`ClientBuilder::connect_async`].
#[must_use = "dropping this ends the attempt to connect"]
pub struct Connecting<P: Protocol> {
    client: Option<Client<P>>,
    told: Arc<Told>,
}

impl<P: Protocol> Unpin for Connecting<P> {}

impl<P: Protocol> Future for Connecting<P> {
    type Output = Result<Client<P>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = self.told.poll(context.waker());
        outcome.map(|outcome| {
            outcome.map(|()| self.client.take().expect("a connection is told once, and of a client"))
        })
    }
}

impl<P: Protocol> fmt::Debug for Connecting<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connecting").finish_non_exhaustive()
    }
}
