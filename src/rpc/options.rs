//! Limits of clients.

use crate::codec::Correlation;
use crate::config;
use crate::error::{Error, Result};
use crate::reactor::StreamOptions;
use std::time::Duration;

/// What a client does when its connection is lost. Off unless set.
///
/// It goes through the server's addresses in turn, one round an attempt, and rests between rounds: twice as long each time, and
/// a random part of up to half of it less, so that a thousand clients do not come back at once. Names are resolved anew
/// for each round. A connection counts as found once it has brought a response, or has lasted for the longest pause: a
/// server that accepts and closes is not dialled more often for that. Ends when the client is closed or dropped with nothing
/// left to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Reconnect {
    first_delay: Duration,
    longest_delay: Duration,
    attempts: Option<u32>,
}

impl Default for Reconnect {
    fn default() -> Self {
        Reconnect {
            first_delay: config::RECONNECT_FIRST_DELAY,
            longest_delay: config::RECONNECT_LONGEST_DELAY,
            attempts: Some(config::RECONNECT_ATTEMPTS),
        }
    }
}

impl Reconnect {
    /// [`config::RECONNECT_ATTEMPTS`] attempts, with pauses from [`config::RECONNECT_FIRST_DELAY`] to
    /// [`config::RECONNECT_LONGEST_DELAY`].
    pub fn new() -> Self {
        Reconnect::default()
    }

    /// The same, without end.
    pub fn forever() -> Self {
        Reconnect { attempts: None, ..Reconnect::default() }
    }

    /// The pause before the first attempt; it doubles with each one that fails. At most [`config::LONGEST_WAIT`].
    pub fn first_delay(mut self, delay: Duration) -> Self {
        self.first_delay = delay.min(config::LONGEST_WAIT);
        self
    }

    /// The longest pause; at most [`config::LONGEST_WAIT`].
    pub fn longest_delay(mut self, delay: Duration) -> Self {
        self.longest_delay = delay.min(config::LONGEST_WAIT);
        self
    }

    /// Attempts without success before the client gives up.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = Some(attempts);
        self
    }

    /// Whether there is another attempt after so many.
    pub(super) fn allows(&self, attempt: u32) -> bool {
        self.attempts.is_none_or(|most| attempt < most)
    }

    /// The pause before the attempt with that number, from 0; `random` says how much of it.
    pub(super) fn delay(&self, attempt: u32, random: u32) -> Duration {
        let doubled = self.first_delay.saturating_mul(1 << attempt.min(20)).min(self.longest_delay);
        doubled - (doubled / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// A connection that lasted so long counts as found.
    pub(super) fn proves_itself_after(&self) -> Duration {
        self.longest_delay
    }
}

/// Options of a [`Client`](super::Client).
#[derive(Clone, Debug)]
#[must_use]
pub struct ClientOptions {
    pub(super) stream: StreamOptions,
    pub(super) reactor: Option<usize>,
    pub(super) lane: usize,
    pub(super) lane_bytes: usize,
    pub(super) batch: usize,
    pub(super) linger: Option<Duration>,
    pub(super) calls_in_flight: usize,
    pub(super) reconnect: Option<Reconnect>,
    pub(super) call_timeout: Option<Duration>,
    pub(super) close_timeout: Duration,
    pub(super) peer_drains_cleanly: bool,
    pub(super) resend_bytes: usize,
    pub(super) parts_bytes: usize,
    /// Calls that were not sent fail when the connection is lost, instead of waiting for another one.
    pub(super) moves_on: bool,
}

impl Default for ClientOptions {
    fn default() -> Self {
        ClientOptions {
            stream: StreamOptions::default(),
            reactor: None,
            lane: config::LANE_ITEMS,
            lane_bytes: config::LANE_BYTES,
            batch: config::BATCH_ITEMS,
            linger: None,
            calls_in_flight: config::CALLS_IN_FLIGHT,
            reconnect: None,
            call_timeout: None,
            close_timeout: config::CLIENT_CLOSE_TIMEOUT,
            peer_drains_cleanly: false,
            resend_bytes: config::RESEND_BYTES,
            parts_bytes: config::PARTS_BYTES,
            moves_on: false,
        }
    }
}

impl ClientOptions {
    /// The defaults, which are [`balanced`](Self::balanced).
    pub fn new() -> Self {
        ClientOptions::default()
    }

    /// For the most requests a second from producers: long lanes, so that a producer seldom waits, and large batches. The cost:
    /// memory for each producer, and requests that queue for longer when the server is the slower one.
    pub fn throughput() -> Self {
        ClientOptions::default().lane(4 * config::LANE_ITEMS).batch(4 * config::BATCH_ITEMS)
    }

    /// Requests leave at once when the reactor is idle and with the others of its turn when it is not.
    pub fn balanced() -> Self {
        ClientOptions::default()
    }

    /// For the shortest queues: short lanes, so that back-pressure is felt before requests grow old. The cost: producers wait
    /// more often.
    pub fn latency() -> Self {
        ClientOptions::default().lane(config::LANE_ITEMS / 16).batch(config::BATCH_ITEMS / 16)
    }

    /// Options of the connection. The soft limit of output is the one from which on no more requests are taken from
    /// calls and producers; responses are read all the same.
    pub fn stream(mut self, options: StreamOptions) -> Self {
        self.stream = options;
        self
    }

    /// Which of the runtime's reactors makes the connection; one after the other unless set.
    pub fn reactor(mut self, index: usize) -> Self {
        self.reactor = Some(index);
        self
    }

    /// Requests that a lane holds, of each producer and of each thread that calls or pushes through the client:
    /// [`config::LANE_ITEMS`] unless set. Who pushes waits when it is full.
    pub fn lane(mut self, requests: usize) -> Self {
        self.lane = requests;
        self
    }

    /// Bytes that a lane holds, where requests are weighed (see [`ClientBuilder::weigh`](super::ClientBuilder::weigh)):
    /// [`config::LANE_BYTES`] unless set. A request that weighs more passes alone.
    pub fn lane_bytes(mut self, bytes: usize) -> Self {
        self.lane_bytes = bytes;
        self
    }

    /// Requests that are taken from the lanes in one turn of the reactor: [`config::BATCH_ITEMS`] unless set.
    pub fn batch(mut self, requests: usize) -> Self {
        self.batch = requests;
        self
    }

    /// Lets pushed requests wait this long for others to travel with, unless [`batch`](Self::batch) of them are there, in whatever
    /// lanes, or they are flushed, or a call is made. Fewer and larger sends for more latency; off unless set, when a request leaves at once if the reactor is
    /// idle, and with the others of its turn if not.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = Some(linger.min(config::LONGEST_LINGER));
        self
    }

    /// Calls that wait for their response at a time: [`config::CALLS_IN_FLIGHT`] unless set. Others wait to be sent. One that timed
    /// out or was dropped counts until its last response in order, and, where it has several, with ids of fewer than 64 bits.
    pub fn calls_in_flight(mut self, calls: usize) -> Self {
        self.calls_in_flight = calls.max(1);
        self
    }

    /// However many were asked for: the protocol's ids cannot tell more apart.
    pub(super) fn most_calls(mut self, calls: usize) -> Self {
        self.calls_in_flight = self.calls_in_flight.min(calls);
        self
    }

    /// Connects anew when the connection is lost. What was not sent yet is sent then. Calls in flight fail, but for those of which
    /// the server said that it did not take them ([`resend_bytes`](Self::resend_bytes)).
    pub fn reconnect(mut self, policy: Reconnect) -> Self {
        self.reconnect = Some(policy);
        self
    }

    /// How long a call may take, unless it says otherwise with [`Call::timeout`](super::Call::timeout). No limit unless set.
    pub fn call_timeout(mut self, after: Duration) -> Self {
        self.call_timeout = Some(after);
        self
    }

    /// How long a client that was closed, or dropped, may take until everything is sent and answered:
    /// [`config::CLIENT_CLOSE_TIMEOUT`] unless set, at most [`config::LONGEST_WAIT`]. Then the connection is cut off.
    pub fn close_timeout(mut self, limit: Duration) -> Self {
        self.close_timeout = limit.min(config::LONGEST_WAIT);
        self
    }

    /// The server promises that before it ends its output in good order it answers every request that it has taken, and that
    /// a connection which it ends for any other reason is reset. Then calls without a response at such an end were not executed:
    /// they are sent again if the client reconnects, and are [`NotSent`](super::CallError::NotSent) if not.
    ///
    /// Off unless set, for nobody knows who the server is. A [`Server`](super::Server) keeps the promise over TCP: where a
    /// request in order gets no response and no substitute (its reply was dropped, its service panicked or took too long), or
    /// cannot be decoded, it resets the connection behind the responses before. Unix-domain sockets have no resets, so a connection
    /// that was cut off looks like one that ended in good order there, and with this option such a request would be sent again, and
    /// again: there, this is for services that answer every request. Where the protocol has ids of trochus' own
    /// ([`ById`](struct@crate::codec::ById)), the server says by itself what it took, and none of this matters.
    pub fn peer_drains_cleanly(mut self, on: bool) -> Self {
        self.peer_drains_cleanly = on;
        self
    }

    /// Bytes of requests that wait for their response, as they are on the wire, which a client that reconnects keeps to send
    /// them again if the server turns out not to have taken them: [`config::RESEND_BYTES`] unless set. Calls beyond that are
    /// [`NotSent`](super::CallError::NotSent) then.
    pub fn resend_bytes(mut self, bytes: usize) -> Self {
        self.resend_bytes = bytes;
        self
    }

    /// Bytes of responses, as they are on the wire, that may wait to be taken out of one
    /// [`ResponseParts`](super::ResponseParts): [`config::PARTS_BYTES`] unless set. Beyond that, by one response, the client stops
    /// reading until half of them are taken, or the call has ended.
    pub fn parts_bytes(mut self, bytes: usize) -> Self {
        self.parts_bytes = bytes;
        self
    }

    /// The connection's options. Its reading never pauses because output waits, or both ends could wait for the other to
    /// read; instead no requests are taken over.
    pub(super) fn connection(&self) -> StreamOptions {
        // How long a response may take is for its call to say, and a client that is idle is needed again.
        let (mut stream, _) = self.stream.clone().without_own_patience();
        stream.limits.output_soft = stream.limits.output_hard;
        stream.throttle_reading(false).opening_timeout(Duration::MAX)
    }

    /// Bytes of requests that may still be encoded when so many wait for the peer.
    pub(super) fn room(&self, pending: usize) -> usize {
        self.stream.limits.output_soft.saturating_sub(pending)
    }

    pub(super) fn input_limit(&self) -> usize {
        self.stream.limits.input
    }

    /// Whether requests in flight are kept, to be sent again if the server turns out not to have taken them.
    pub(super) fn keeps<C: Correlation>(&self) -> bool {
        self.reconnect.is_some() && !self.moves_on && (self.peer_drains_cleanly || C::HAS_NOTICES)
    }

    pub(super) fn check(&self) -> Result<()> {
        self.stream.check()?;
        if self.lane == 0 || self.batch == 0 {
            return Err(Error::InvalidSetting(
                "a lane and a batch must hold at least one request".to_owned(),
            ));
        }
        Ok(())
    }
}
