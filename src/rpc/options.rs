//! Limits of clients.

use crate::config;
use crate::error::{Error, Result};
use crate::reactor::StreamOptions;
use std::time::Duration;

/// What a client does when its connection is lost. Off unless set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reconnect {
    /// The pause before the first attempt; it doubles with each one that fails.
    pub first_delay: Duration,
    /// The longest pause.
    pub longest_delay: Duration,
    /// Attempts before the client gives up.
    pub attempts: u32,
}

impl Default for Reconnect {
    /// 10 ms, doubling up to 1 s, ten times.
    fn default() -> Self {
        Reconnect {
            first_delay: Duration::from_millis(10),
            longest_delay: Duration::from_secs(1),
            attempts: 10,
        }
    }
}

/// Options of a [`Client`](super::Client).
#[derive(Clone, Debug)]
#[must_use]
pub struct ClientOptions {
    pub(super) stream: StreamOptions,
    pub(super) reactor: Option<usize>,
    pub(super) lane: usize,
    pub(super) batch: usize,
    pub(super) linger: Option<Duration>,
    pub(super) calls_in_flight: usize,
    pub(super) reconnect: Option<Reconnect>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        ClientOptions {
            stream: StreamOptions::default(),
            reactor: None,
            lane: config::LANE_ITEMS,
            batch: config::BATCH_ITEMS,
            linger: None,
            calls_in_flight: config::CALLS_IN_FLIGHT,
            reconnect: None,
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

    /// Requests that a producer's lane holds: [`config::LANE_ITEMS`] unless set. A producer waits when it is full.
    pub fn lane(mut self, requests: usize) -> Self {
        self.lane = requests;
        self
    }

    /// Requests that are taken from the lanes in one turn of the reactor: [`config::BATCH_ITEMS`] unless set.
    pub fn batch(mut self, requests: usize) -> Self {
        self.batch = requests;
        self
    }

    /// Lets requests wait this long for others to travel with, unless [`batch`](Self::batch) of them are there or they are
    /// flushed. Fewer and larger sends for more latency; off unless set, when a request leaves at once if the reactor is
    /// idle, and with the others of its turn if not.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = Some(linger.min(config::LONGEST_LINGER));
        self
    }

    /// Calls that wait for their response at a time: [`config::CALLS_IN_FLIGHT`] unless set. Others wait to be sent.
    pub fn calls_in_flight(mut self, calls: usize) -> Self {
        self.calls_in_flight = calls.max(1);
        self
    }

    /// However many were asked for: the protocol's ids cannot tell more apart.
    pub(super) fn most_calls(mut self, calls: usize) -> Self {
        self.calls_in_flight = self.calls_in_flight.min(calls);
        self
    }

    /// Connects anew when the connection is lost. Calls in flight fail in any case; what was not sent yet is sent then.
    pub fn reconnect(mut self, policy: Reconnect) -> Self {
        self.reconnect = Some(policy);
        self
    }

    /// The connection's options. Its reading never pauses because output waits, or both ends could wait for the other to
    /// read; instead no requests are taken over.
    pub(super) fn connection(&self) -> StreamOptions {
        let mut stream = self.stream.clone();
        stream.limits.output_soft = stream.limits.output_hard;
        stream
    }

    /// Bytes of requests that may still be encoded when so many wait for the peer.
    pub(super) fn room(&self, pending: usize) -> usize {
        self.stream.limits.output_soft.saturating_sub(pending)
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
