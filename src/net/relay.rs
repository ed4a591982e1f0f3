//! A handler that passes everything on to somebody else.

use crate::config::RELAY_BYTES;
use crate::reactor::{
    Address, CloseReason, ConnectionId, Dialing, Handler, Io, Reactor, Relayed, StreamOptions,
};
use std::fmt;

/// Connects to an upstream, and then passes on what the client sends to it, and what it sends to the client, until both have
/// ended their streams. For servers that stand in front of others:
///
/// ```no_run
/// # use trochus::{Runtime, net::{Relay, ToAddresses}};
/// # fn main() -> trochus::Result<()> {
/// let runtime = Runtime::new()?;
/// let upstreams = ["10.0.0.1:80".to_addresses()?, "10.0.0.2:80".to_addresses()?].concat();
/// let proxy = runtime.listen("[::]:8080", move |_peer| {
///     Relay::to(upstreams.clone()).on_end(|end| println!("{end}"))
/// })?;
/// runtime.run_until_interrupted()
/// # }
/// ```
///
/// The upstreams are tried in this order, as [`Reactor::connect_any`] does: the next one when one has failed, or has not answered
/// for a while. Meanwhile the client is not read. If none answers, the client is reset, and if the client goes away, the
/// attempts end. From then on [`Reactor::relay`] says what holds: memory, half-closed streams, and ends that are none.
pub struct Relay {
    upstreams: Vec<Address>,
    options: StreamOptions,
    bytes: usize,
    on_end: Option<Box<dyn FnOnce(RelayEnd)>>,
    client: Option<Address>,
    dialing: Option<Dialing>,
    failure: Option<CloseReason>,
}

/// What became of a [`Relay`].
#[derive(Debug)]
#[non_exhaustive]
pub struct RelayEnd {
    /// The client's address.
    pub client: Address,
    /// The upstream's, if one answered.
    pub upstream: Option<Address>,
    /// How it went; the client is the first of the two.
    pub relayed: Relayed,
}

impl Relay {
    /// To the first of `upstreams` that answers.
    pub fn to(upstreams: impl Into<Vec<Address>>) -> Self {
        Relay {
            upstreams: upstreams.into(),
            options: StreamOptions::new(),
            bytes: RELAY_BYTES,
            on_end: None,
            client: None,
            dialing: None,
            failure: None,
        }
    }

    /// Options of the connection with the upstream. Those of the client's connection are the server's.
    pub fn options(mut self, options: &StreamOptions) -> Self {
        self.options = options.clone();
        self
    }

    /// Bytes of each direction that may wait for the peer that they go to:
    /// [`config::RELAY_BYTES`](crate::config::RELAY_BYTES) unless set.
    pub fn bytes(mut self, bytes: usize) -> Self {
        self.bytes = bytes;
        self
    }

    /// Is called once, on the reactor's thread, when both connections have ended, or when there was no upstream.
    pub fn on_end(mut self, callback: impl FnOnce(RelayEnd) + 'static) -> Self {
        self.on_end = Some(Box::new(callback));
        self
    }
}

impl Handler for Relay {
    fn on_open(&mut self, io: &mut Io<'_>) {
        io.pause_reading();
        let (client, options) = (io.id(), self.options.clone());
        let upstreams = std::mem::take(&mut self.upstreams);
        self.client = Some(io.peer_addr().clone());
        io.defer(move |reactor| {
            let dialing = reactor.connect_any(&options, &upstreams, Upstream { client });
            let kept =
                reactor.with_handler(client, |relay: &mut Relay, _| relay.dialing = Some(dialing.clone()));
            if kept.is_none() {
                dialing.cancel();
            }
        });
    }

    fn on_bytes(&mut self, _io: &mut Io<'_>, _bytes: &[u8]) -> usize {
        0
    }

    fn on_shutdown(&mut self, _io: &mut Io<'_>) {
        // It may still be connected, and then relayed.
    }

    fn on_close(&mut self, reason: &CloseReason, _reactor: &mut Reactor) {
        if let Some(dialing) = self.dialing.take() {
            dialing.cancel();
        }
        if let (Some(on_end), Some(client)) = (self.on_end.take(), self.client.take()) {
            let second = self.failure.take().unwrap_or(CloseReason::Aborted);
            let relayed = Relayed { forth: 0, back: 0, first: reason.clone(), second };
            on_end(RelayEnd { client, upstream: None, relayed });
        }
    }
}

/// The other connection, until the two are joined.
struct Upstream {
    client: ConnectionId,
}

impl Handler for Upstream {
    fn on_open(&mut self, io: &mut Io<'_>) {
        io.pause_reading();
        let (client, this, address) = (self.client, io.id(), io.peer_addr().clone());
        io.defer(move |reactor| join(reactor, client, this, address));
    }

    fn on_bytes(&mut self, _io: &mut Io<'_>, _bytes: &[u8]) -> usize {
        0
    }

    fn on_close(&mut self, reason: &CloseReason, reactor: &mut Reactor) {
        reactor.with_handler(self.client, |relay: &mut Relay, io| {
            relay.failure = Some(reason.clone());
            io.abort();
        });
    }
}

fn join(reactor: &mut Reactor, client: ConnectionId, upstream: ConnectionId, address: Address) {
    if reactor.with_connection(upstream, |_| ()).is_none() {
        return;
    }
    let taken = reactor.with_handler(client, |relay: &mut Relay, io| {
        relay.dialing = None;
        (relay.bytes, relay.on_end.take(), io.peer_addr().clone())
    });
    let is_joined = taken.is_some_and(|(bytes, on_end, client_address)| {
        reactor.relay(client, upstream, bytes, move |relayed, _| {
            if let Some(on_end) = on_end {
                on_end(RelayEnd { client: client_address, upstream: Some(address), relayed });
            }
        })
    });
    if !is_joined {
        reactor.with_connection(upstream, |io| io.abort());
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay")
            .field("client", &self.client)
            .field("upstreams", &self.upstreams)
            .finish_non_exhaustive()
    }
}

/// A line for a log.
impl fmt::Display for RelayEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Relayed { forth, back, first, second } = &self.relayed;
        match &self.upstream {
            Some(upstream) => write!(
                f,
                "{} with {upstream}: {forth} bytes forth, {back} back; client: {first}; upstream: {second}",
                self.client
            ),
            None => write!(f, "{}: no upstream: {second}; client: {first}", self.client),
        }
    }
}
