//! The client as the application holds it.

pub(super) mod builder;
pub(super) mod call;
pub(super) mod caller;
pub(super) mod connect;
mod end;
mod engine;
pub(super) mod expected;
pub(super) mod gate;
pub(super) mod receive;
pub(super) mod requester;
pub(super) mod sender;
pub(super) mod target;
pub(super) mod waiters;

use crate::batch::{Batcher, Producer, PushError};
use crate::codec::{Matching, Protocol, Request, Response, ResponseRef};
use crate::error::Result;
use crate::net::Runtime;
use crate::reactor::ToAddresses;
use crate::rpc::options::ClientOptions;
use crate::rpc::{CallError, Cause, SendError, Unfinished};
use crate::waiting;
use builder::ClientBuilder;
use call::Call;
use call::parts::{Incoming, ResponseParts};
use call::state::CallState;
use caller::Caller;
use gate::{Gate, Ticket, boxed};
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use target::ClientState;
use waiters::Push;

/// A connection to a [`Server`](crate::rpc::Server), for any number of threads and tasks. Cheap to clone.
///
/// | way in | where the response goes | when there is no room |
/// | --- | --- | --- |
/// | [`call`](Self::call), [`try_call`](Self::try_call) | to the [`Call`], which is awaited, or [waited](Call::wait) for | it is on its way all the same; handed back |
/// | [`call_in_parts`](Self::call_in_parts) | several, to the [`ResponseParts`] | it is on its way all the same |
/// | [`send`](Self::send), [`try_send`](Self::try_send) | to a callback of its own | waits, hands it back |
/// | [`push`](Self::push), [`push_async`](Self::push_async), [`try_push`](Self::try_push) | to the client's callback or [`Caller`] | waits, awaits, hands it back |
/// | [`producer`](Self::producer) | to the client's callback or [`Caller`] | as for pushes |
/// | [`Requests`](crate::rpc::Requests), on the reactor itself | to the [`Caller`] | see there |
///
/// What one thread asks for through the client, in all of these ways but the last two, goes out in its order. A producer has an
/// order of its own: between it and anything else there is none.
///
/// On a reactor's own thread nothing here waits: what would, returns an error there at once.
///
/// When the last clone and the last producer are dropped, the connection is closed behind what was accepted, within
/// [`ClientOptions::close_timeout`].
pub struct Client<P: Protocol> {
    gate: Arc<Gate<Request<P>, Response<P>>>,
    streamed: Batcher<Request<P>>,
    lingers: bool,
    call_timeout: Option<Duration>,
    parts_bytes: usize,
    #[cfg(feature = "tower")]
    pub(in crate::rpc) readiness: crate::rpc::tower::Readiness,
    _closes: Arc<StopsOnDrop<P>>,
}

/// Stops the queue when the last client is gone; the batcher of producers does that by itself.
struct StopsOnDrop<P: Protocol>(Arc<Gate<Request<P>, Response<P>>>);

impl<P: Protocol> Drop for StopsOnDrop<P> {
    fn drop(&mut self) {
        self.0.stop_accepting();
        self.0.target().notify();
    }
}

impl<P: Protocol> Client<P> {
    /// Connects to the first of `address`'s addresses that answers, and waits for that. Responses that are not a call's are
    /// thrown away. As [`ClientBuilder::connect`].
    pub fn connect(runtime: &Runtime, address: impl ToAddresses, protocol: P) -> Result<Self> {
        Self::builder(protocol).connect(runtime, address)
    }

    /// Connects; `callback` is called on the reactor for each response that is not a call's. As [`ClientBuilder::connect`].
    pub fn connect_with(
        runtime: &Runtime,
        options: &ClientOptions,
        address: impl ToAddresses,
        protocol: P,
        callback: impl FnMut(ResponseRef<'_, P>) + Send + 'static,
    ) -> Result<Self> {
        Self::builder(protocol).options(options.clone()).on_response(callback).connect(runtime, address)
    }

    /// Connects, with a [`Caller`] that can make requests on the reactor itself. As [`ClientBuilder::connect`].
    pub fn connect_caller(
        runtime: &Runtime,
        options: &ClientOptions,
        address: impl ToAddresses,
        protocol: P,
        caller: impl Caller<P>,
    ) -> Result<Self> {
        Self::builder(protocol).options(options.clone()).caller(caller).connect(runtime, address)
    }

    /// Sets up a client: options, callbacks, and ways to connect.
    pub fn builder(protocol: P) -> ClientBuilder<P> {
        ClientBuilder::new(protocol)
    }

    /// Makes a request, which is on its way at once, and returns the future of its response: await it on any executor, or
    /// [`wait`](Call::wait) for it. Calls of several threads share batches.
    ///
    /// It fails at [`ClientOptions::call_timeout`], unless [`Call::timeout`] says otherwise.
    pub fn call(&self, request: Request<P>) -> Call<Request<P>, Response<P>>
    where
        P::Correlation: Matching,
    {
        Call::new(self.gate.clone(), request, self.call_timeout)
    }

    /// Makes a request as [`call`](Self::call) does, if there is room now.
    ///
    /// # Errors
    ///
    /// There is no room, or the client is closed. The request comes back; [`when_room`](Self::when_room) tells when to try again.
    #[expect(clippy::type_complexity, reason = "a call, or the request")]
    pub fn try_call(
        &self,
        request: Request<P>,
    ) -> std::result::Result<Call<Request<P>, Response<P>>, PushError<Request<P>>>
    where
        P::Correlation: Matching,
    {
        Call::try_new(self.gate.clone(), request, self.call_timeout)
    }

    /// Makes a request that is answered by several responses, if the protocol knows such; at a trochus server, by
    /// [`Reply::in_parts`](crate::rpc::Reply::in_parts). They come out of what this returns, in their order.
    ///
    /// `is_last` says of each whether it is the last one, on the client's reactor. If it panics, the client ends. It is asked of every
    /// response, also when nobody wants them any more. Where none is the last one, the request is in flight for ever, and in order all
    /// that comes behind is taken for its responses.
    ///
    /// ```
    /// # use trochus::{Runtime, codec::{ByteLines, Protocol}, rpc::{Client, Reply, Server}};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let runtime = Runtime::new()?;
    /// // Says a word letter by letter; an empty line is the end.
    /// let server = Server::bind(&runtime, "127.0.0.1:0", ByteLines::new(), |word: &[u8], reply: Reply<bytes::Bytes>| {
    ///     let parts = reply.in_parts();
    ///     for letter in word.chunks(1) {
    ///         let _ = parts.push(bytes::Bytes::copy_from_slice(letter));
    ///     }
    ///     let _ = parts.push(bytes::Bytes::new());
    ///     parts.finish();
    /// })?;
    /// let client = Client::connect(&runtime, server.local_addr(), ByteLines::new())?;
    /// let mut letters = client.call_in_parts("abc".into(), |line| line.is_empty());
    /// let mut word = Vec::new();
    /// while let Some(letter) = letters.wait_next() { // or `next().await`
    ///     word.extend_from_slice(&letter?);
    /// }
    /// assert_eq!(word, b"abc");
    /// # Ok(())
    /// # }
    /// ```
    pub fn call_in_parts(
        &self,
        request: Request<P>,
        is_last: impl FnMut(&Response<P>) -> bool + Send + 'static,
    ) -> ResponseParts<Request<P>, Response<P>>
    where
        P::Correlation: Matching,
    {
        let incoming = Incoming::new(Box::new(is_last), self.parts_bytes, self.gate.target().clone());
        let state = CallState::in_parts(incoming);
        ResponseParts::of(Call::of(state, self.gate.clone(), request, self.call_timeout))
    }

    pub(in crate::rpc) fn gate(&self) -> &Arc<Gate<Request<P>, Response<P>>> {
        &self.gate
    }

    /// Makes a request, and calls `callback` with what comes of it, on the reactor; here and now if the client is closed. Waits while
    /// there is no room. [`ClientOptions::call_timeout`] is its time limit.
    ///
    /// # Errors
    ///
    /// On a reactor's own thread it returns at once with the request and the callback: there, use
    /// [`try_send`](Self::try_send).
    pub fn send(
        &self,
        request: Request<P>,
        callback: impl FnOnce(std::result::Result<Response<P>, CallError>) + Send + 'static,
    ) -> std::result::Result<(), SendError<Request<P>, Response<P>>>
    where
        P::Correlation: Matching,
    {
        self.gate.send(request, boxed(callback), self.call_timeout, true)
    }

    /// As [`send`](Self::send), if there is room now: for services that forward, and other callbacks on a reactor.
    ///
    /// # Errors
    ///
    /// There is no room: the request and its callback come back, and [`when_room`](Self::when_room) tells when to try again.
    /// The callback of an earlier attempt can be given as it is.
    pub fn try_send(
        &self,
        request: Request<P>,
        callback: impl FnOnce(std::result::Result<Response<P>, CallError>) + Send + 'static,
    ) -> std::result::Result<(), SendError<Request<P>, Response<P>>>
    where
        P::Correlation: Matching,
    {
        self.gate.send(request, boxed(callback), self.call_timeout, false)
    }

    /// Calls `action` once, on the client's reactor, when there may be room for what [`try_send`](Self::try_send) or
    /// [`try_push`](Self::try_push) refused; here and now if the client has ended. Others may be faster: then ask again. It is meant
    /// for a [`Handle::notify`](crate::reactor::Handle::notify), a waker or the like.
    pub fn when_room(&self, action: impl FnOnce() + Send + 'static) {
        self.gate.when_room(Box::new(action));
    }

    /// A way in for one thread: a push is a store, with no lock and no atomic read-modify-write. The responses go to the
    /// client's callback. It keeps the connection open, as a clone of the client does.
    pub fn producer(&self) -> Producer<Request<P>> {
        let producer = self.streamed.producer();
        if self.lingers {
            // One more lane over which a batch may be spread.
            self.gate.target().notify();
        }
        producer
    }

    /// Makes a request whose response goes to the client's callback, from any thread. Waits while there is no room. A
    /// [`producer`](Self::producer) is faster.
    ///
    /// # Errors
    ///
    /// The client is closed; or this is a reactor's own thread, where [`try_push`](Self::try_push) and
    /// [`push_async`](Self::push_async) do not wait. The request comes back.
    #[inline]
    pub fn push(&self, request: Request<P>) -> std::result::Result<(), PushError<Request<P>>> {
        if waiting::is_forbidden() {
            return Err(PushError::WouldDeadlock(request));
        }
        self.gate.push(request)
    }

    /// Makes a request as [`push`](Self::push) does, without blocking the thread.
    pub fn push_async(&self, request: Request<P>) -> Push<Request<P>, Response<P>> {
        Push::new(self.gate.clone(), request)
    }

    /// Makes a request as [`push`](Self::push) does, if there is room now.
    ///
    /// # Errors
    ///
    /// There is no room, or the client is closed. The request comes back.
    pub fn try_push(&self, request: Request<P>) -> std::result::Result<(), PushError<Request<P>>> {
        self.gate.try_push(request)
    }

    /// Makes all of these requests in their order, as [`push`](Self::push) does.
    ///
    /// # Errors
    ///
    /// As for [`push`](Self::push), with the first request that was not accepted; those behind it are still in the iterator
    /// (pass it by reference to keep them).
    pub fn push_all(
        &self,
        requests: impl IntoIterator<Item = Request<P>>,
    ) -> std::result::Result<(), PushError<Request<P>>> {
        requests.into_iter().try_for_each(|request| self.push(request))
    }

    /// Lets requests that linger leave now.
    pub fn flush(&self) {
        self.streamed.flush();
    }

    /// Stops reading: responses wait at the server, which by and by takes no more requests. Holds for the connections to come as
    /// well, until [`resume_responses`](Self::resume_responses). Those that have arrived may still be handed out; on the reactor
    /// itself, [`Requests::pause_responses`](crate::rpc::Requests::pause_responses) has the very next one wait.
    pub fn pause_responses(&self) {
        self.gate.target().pause(true);
    }

    /// Reads again.
    pub fn resume_responses(&self) {
        self.gate.target().pause(false);
    }

    /// Accepts no more requests, waits until everything accepted was answered, or says what was not. The output is not ended
    /// before the last response has come. After [`ClientOptions::close_timeout`] the connection is cut off.
    ///
    /// # Errors
    ///
    /// What was not sent, or not answered. On a reactor's own thread it does not wait: the client closes, and the error is of the
    /// kind [`Deadlock`](io::ErrorKind::Deadlock) unless it has ended already. There, await
    /// [`close_async`](Self::close_async), or use [`stop_accepting`](Self::stop_accepting).
    pub fn close(&self) -> std::result::Result<(), Unfinished> {
        self.stop_accepting();
        if waiting::is_forbidden() && !self.gate.has_ended() {
            let text = "Client::close would wait on a reactor's own thread, for what only that thread can do: await \
                        Client::close_async, or use Client::stop_accepting";
            let cause = Cause::new(io::ErrorKind::Deadlock, text);
            return Err(Unfinished { cause, unanswered: 0, unsent: 0, not_encoded: 0 });
        }
        self.gate.wait_for_end()
    }

    /// Closes as [`close`](Self::close) does, without blocking the thread. It closes whether this is awaited or not.
    pub fn close_async(&self) -> Closing<P> {
        self.stop_accepting();
        Closing { gate: self.gate.clone(), ticket: None }
    }

    /// Accepts no more requests, and does not wait; what was accepted is still sent and answered, and then the connection is
    /// closed.
    pub fn stop_accepting(&self) {
        self.gate.stop_accepting();
        self.streamed.stop_accepting();
    }

    /// Ends the client at once: the connection is reset, calls fail, and what was not sent can be
    /// [taken back](Self::take_unsent). [`close`](Self::close) tells when that is done.
    pub fn abort(&self) {
        self.stop_accepting();
        self.gate.target().abort();
    }

    /// Once the client has ended: the pushed requests that were accepted and never sent.
    pub fn take_unsent(&self) -> Vec<Request<P>> {
        self.gate.take_unsent()
    }

    /// Where it is with its connection.
    pub fn state(&self) -> ClientState {
        if self.is_closed() { ClientState::Closed } else { self.gate.target().state() }
    }

    /// Whether no more requests are accepted.
    pub fn is_closing(&self) -> bool {
        self.gate.is_closed()
    }

    /// Whether the client has ended for good.
    pub fn is_closed(&self) -> bool {
        self.gate.has_ended()
    }
}

impl<P: Protocol> Clone for Client<P> {
    fn clone(&self) -> Self {
        Client {
            gate: self.gate.clone(),
            streamed: self.streamed.clone(),
            lingers: self.lingers,
            call_timeout: self.call_timeout,
            parts_bytes: self.parts_bytes,
            #[cfg(feature = "tower")]
            readiness: self.readiness.clone(),
            _closes: self._closes.clone(),
        }
    }
}

impl<P: Protocol> fmt::Debug for Client<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("state", &self.state()).finish_non_exhaustive()
    }
}

/// A client that closes; from [`Client::close_async`].
#[must_use = "whoever drops this does not hear how it ended"]
pub struct Closing<P: Protocol> {
    gate: Arc<Gate<Request<P>, Response<P>>>,
    ticket: Option<Ticket>,
}

impl<P: Protocol> Unpin for Closing<P> {}

impl<P: Protocol> Future for Closing<P> {
    type Output = std::result::Result<(), Unfinished>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Closing { gate, ticket } = &mut *self;
        gate.poll_end(ticket, context.waker()).map_or(Poll::Pending, Poll::Ready)
    }
}

impl<P: Protocol> Drop for Closing<P> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.gate.stop_waiting_for_end(ticket);
        }
    }
}

impl<P: Protocol> fmt::Debug for Closing<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Closing").field("ended", &self.gate.has_ended()).finish_non_exhaustive()
    }
}
