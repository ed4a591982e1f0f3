//! Several servers that stand in for each other, as one client.

pub(super) mod call;
mod lot;

use crate::batch::PushError;
use crate::codec::{Matching, Protocol, Request, Response};
use crate::error::{Error, Result};
use crate::net::Runtime;
use crate::reactor::ToAddresses;
use crate::rpc::{Cause, Client, ClientOptions, ClientState, Reconnect, Unfinished};
use call::PoolCall;
use lot::Lot;
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Which of the servers that are connected is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pick {
    /// One after the other.
    #[default]
    RoundRobin,
    /// The one with the fewest of this pool's calls in progress; of several, one after the other. A server that is slow, or
    /// connected and silent, gets fewer.
    LeastLoaded,
}

/// Several servers that stand in for each other: a reconnecting [`Client`] for each, and calls that go to one that is connected.
/// Cheap to clone, and for any number of threads and tasks.
///
/// A call that is known not to have been executed ([`CallError::NotSent`](crate::rpc::CallError::NotSent)) is made again at the
/// next server, for as long as its time limit allows; for that its request is cloned. Any other error is the call's outcome: the
/// server may have executed it, and only the caller knows whether it may be executed twice. A request that has been handed to a
/// connection stays with it, so a server that accepts connections and answers nothing keeps what it was given until
/// [`call_timeout`](ClientOptions::call_timeout), which a pool should have.
///
/// As long as no server is connected, calls wait for the first one that is, as those of one client do. They fail, as not sent, once
/// every server was given up for good: never, unless [`Reconnect::attempts`] says so.
///
/// ```
/// # use trochus::{Runtime, codec, rpc::{Pool, Reply, Server}};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let runtime = Runtime::new()?;
/// # let serve = |n: i32, reply: Reply<i32>| reply.send(n + 1);
/// # let one = Server::bind(&runtime, "127.0.0.1:0", codec::Int32, serve)?;
/// # let other = Server::bind(&runtime, "127.0.0.1:0", codec::Int32, serve)?;
/// let pool = Pool::connect_lazy(&runtime, [one.local_addr(), other.local_addr()], codec::Int32)?;
/// assert_eq!(pool.call(41).wait()?, 42); // or `.await`, on any executor
/// # Ok(())
/// # }
/// ```
///
/// Its connections are closed when the last clone is dropped and the last [`PoolCall`] is over, each as that of a client that is
/// dropped.
pub struct Pool<P: Protocol> {
    members: Arc<Members<P>>,
    #[cfg(feature = "tower")]
    pub(super) readiness: super::tower::Readiness,
}

/// What the clones of a pool and its calls share.
struct Members<P: Protocol> {
    members: Vec<Member<P>>,
    pick: Pick,
    next: AtomicUsize,
    lot: Arc<Lot<Response<P>>>,
    closing: AtomicBool,
    call_timeout: Option<Duration>,
}

struct Member<P: Protocol> {
    client: Client<P>,
    /// Calls of the pool that it has.
    calls: Arc<AtomicUsize>,
}

/// One of a pool's servers, at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolMember {
    /// Where its client is with its connection.
    pub state: ClientState,
    /// Calls of the pool that are in progress there.
    pub calls: usize,
}

/// Sets up a [`Pool`]; from [`Pool::builder`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it connects"]
pub struct PoolBuilder<P> {
    protocol: P,
    options: ClientOptions,
    pick: Pick,
}

impl<P: Protocol> PoolBuilder<P> {
    /// Options of each server's client, with two differences: each reconnects for ever unless set, and
    /// [`calls`](Pool::call) that were not sent when a connection is lost go to another server.
    pub fn options(mut self, options: ClientOptions) -> Self {
        self.options = options;
        self
    }

    /// See [`ClientOptions::reconnect`].
    pub fn reconnect(mut self, policy: Reconnect) -> Self {
        self.options = self.options.reconnect(policy);
        self
    }

    /// See [`ClientOptions::call_timeout`]. It counts for the call, however many servers it is tried at.
    pub fn call_timeout(mut self, after: Duration) -> Self {
        self.options = self.options.call_timeout(after);
        self
    }

    /// Which of the servers that are connected is asked: one after the other, unless set.
    pub fn pick(mut self, pick: Pick) -> Self {
        self.pick = pick;
        self
    }

    /// A pool of these servers, which connects to each of them while it is used already. A server whose name has several
    /// addresses is one server, at the first of them that answers.
    ///
    /// # Errors
    ///
    /// There is no address, a setting is invalid, or the reactor has stopped. That a server cannot be reached is none: it may
    /// come.
    pub fn connect_lazy<A: ToAddresses>(
        mut self,
        runtime: &Runtime,
        servers: impl IntoIterator<Item = A>,
    ) -> Result<Pool<P>> {
        self.options.reconnect.get_or_insert(Reconnect::forever());
        let lot = Arc::new(Lot::default());
        let connect = |server: A| {
            let theirs = lot.clone();
            let watcher = Box::new(move |state| {
                if matches!(state, ClientState::Connected | ClientState::Closed) {
                    theirs.move_all();
                }
            });
            let client = Client::builder(self.protocol.clone()).options(self.options.clone());
            let client = client.one_of_several(watcher).connect_lazy(runtime, server)?;
            Ok(Member { client, calls: Arc::default() })
        };
        let members = servers.into_iter().map(connect).collect::<Result<Vec<_>>>()?;
        if members.is_empty() {
            return Err(Error::InvalidSetting("a pool must have at least one server".to_owned()));
        }
        let PoolBuilder { pick, options, .. } = self;
        #[cfg(feature = "tower")]
        let readiness = super::tower::Readiness::new(options.calls_in_flight.saturating_mul(members.len()));
        let (next, closing) = (AtomicUsize::new(0), AtomicBool::new(false));
        let members = Members { members, pick, next, lot, closing, call_timeout: options.call_timeout };
        Ok(Pool {
            members: Arc::new(members),
            #[cfg(feature = "tower")]
            readiness,
        })
    }
}

impl<P: Protocol> Pool<P> {
    /// A pool of these servers. As [`PoolBuilder::connect_lazy`].
    pub fn connect_lazy<A: ToAddresses>(
        runtime: &Runtime,
        servers: impl IntoIterator<Item = A>,
        protocol: P,
    ) -> Result<Self> {
        Self::builder(protocol).connect_lazy(runtime, servers)
    }

    /// Sets up a pool: options, and how it picks.
    pub fn builder(protocol: P) -> PoolBuilder<P> {
        PoolBuilder { protocol, options: ClientOptions::default(), pick: Pick::default() }
    }

    /// Makes a request at one of the servers that are connected; it is on its way at once, or as soon as one is. That it is made
    /// again at another one takes somebody who awaits the call, or [waits](PoolCall::wait) for it.
    pub fn call(&self, request: Request<P>) -> PoolCall<P>
    where
        P::Correlation: Matching,
        Request<P>: Clone,
    {
        PoolCall::new(&self.members, request)
    }

    /// As [`call`](Self::call), if a server is connected now that has room for it.
    ///
    /// # Errors
    ///
    /// There is none, or the pool is closed. The request comes back.
    pub fn try_call(&self, request: Request<P>) -> std::result::Result<PoolCall<P>, PushError<Request<P>>>
    where
        P::Correlation: Matching,
        Request<P>: Clone,
    {
        PoolCall::try_new(&self.members, request)
    }

    /// Its servers, in the order in which they were given.
    pub fn members(&self) -> impl Iterator<Item = PoolMember> {
        self.members.members.iter().map(|Member { client, calls }| PoolMember {
            state: client.state(),
            calls: calls.load(Ordering::Relaxed),
        })
    }

    /// Connected if one of its servers is; closed if all clients have ended.
    pub fn state(&self) -> ClientState {
        let all = || self.members.members.iter().map(|member| member.client.state());
        [ClientState::Connected, ClientState::Reconnecting, ClientState::Connecting]
            .into_iter()
            .find(|state| all().any(|other| other == *state))
            .unwrap_or(ClientState::Closed)
    }

    /// Makes no more calls, waits until those that were sent are answered, and closes all connections, as [`Client::close`] does.
    /// Calls that wait for a connection fail, as not sent.
    ///
    /// # Errors
    ///
    /// What was not answered, on all connections together, and why the first of them ended.
    pub fn close(&self) -> std::result::Result<(), Unfinished> {
        self.stop_accepting();
        self.members.members.iter().map(|member| member.client.close()).fold(Ok(()), both)
    }

    /// Closes as [`close`](Self::close) does, without blocking the thread. It closes whether this is awaited or not.
    pub fn close_async(&self) -> impl Future<Output = std::result::Result<(), Unfinished>> + Send + use<P> {
        self.stop_accepting();
        let closing: Vec<_> = self.members.members.iter().map(|member| member.client.close_async()).collect();
        async {
            let mut end = Ok(());
            for closing in closing {
                end = both(end, closing.await);
            }
            end
        }
    }

    /// Makes no more calls, and does not wait; what was sent is still answered, and then the connections are closed.
    pub fn stop_accepting(&self) {
        self.members.closing.store(true, Ordering::SeqCst);
        self.members.members.iter().for_each(|member| member.client.stop_accepting());
        self.members.lot.move_all();
    }

    /// Ends all clients at once: see [`Client::abort`].
    pub fn abort(&self) {
        self.stop_accepting();
        self.members.members.iter().for_each(|member| member.client.abort());
    }

    /// Why no call can be made any more, if so.
    #[cfg(feature = "tower")]
    pub(super) fn end(&self) -> Option<Cause> {
        self.members.end()
    }

    /// Whether no more calls are made.
    pub fn is_closing(&self) -> bool {
        self.members.closing.load(Ordering::SeqCst)
    }
}

/// What came of two clients' ends.
fn both(
    one: std::result::Result<(), Unfinished>,
    other: std::result::Result<(), Unfinished>,
) -> std::result::Result<(), Unfinished> {
    match (one, other) {
        (Err(one), Err(other)) => Err(Unfinished {
            cause: one.cause,
            unanswered: one.unanswered + other.unanswered,
            unsent: one.unsent + other.unsent,
            not_encoded: one.not_encoded + other.not_encoded,
        }),
        (Ok(()), end) | (end, Ok(())) => end,
    }
}

impl<P: Protocol> Members<P> {
    /// When a call that is made now has to be over.
    fn deadline(&self) -> Option<Instant> {
        self.call_timeout.and_then(|after| Instant::now().checked_add(after))
    }

    /// Whose timer is used for those who wait for a connection.
    fn first(&self) -> &Client<P> {
        &self.members[0].client
    }

    /// Why nobody will be connected any more, if so.
    fn end(&self) -> Option<Cause> {
        let over = |member: &Member<P>| member.client.is_closing();
        if self.closing.load(Ordering::SeqCst) {
            return Some(Cause::new(io::ErrorKind::NotConnected, "the pool is closed"));
        }
        let text = "all servers of the pool were given up";
        self.members.iter().all(over).then(|| Cause::new(io::ErrorKind::NotConnected, text))
    }

    /// Those that are connected, the one to ask first in front.
    fn picked(&self) -> impl Iterator<Item = &Member<P>> {
        let mut usable: Vec<_> = self.members.iter().filter(|member| member.is_usable()).collect();
        if usable.len() > 1 {
            let first = self.next.fetch_add(1, Ordering::Relaxed) % usable.len();
            usable.rotate_left(first);
            if self.pick == Pick::LeastLoaded {
                usable.sort_by_key(|member| member.calls.load(Ordering::Relaxed));
            }
        }
        usable.into_iter()
    }

    fn is_any_usable(&self) -> bool {
        self.members.iter().any(Member::is_usable)
    }
}

impl<P: Protocol> Member<P> {
    fn is_usable(&self) -> bool {
        !self.client.is_closing() && self.client.state() == ClientState::Connected
    }
}

impl<P: Protocol> Clone for Pool<P> {
    fn clone(&self) -> Self {
        Pool {
            members: self.members.clone(),
            #[cfg(feature = "tower")]
            readiness: self.readiness.clone(),
        }
    }
}

impl<P: Protocol> fmt::Debug for Pool<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("members", &self.members().collect::<Vec<_>>()).finish_non_exhaustive()
    }
}
