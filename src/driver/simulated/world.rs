//! What a simulated driver is connected to, and what it does of what it may do.

use fastrand::Rng;
use socket2::Socket;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::RawFd;
use std::time::Duration;

/// The other end of one stream.
#[derive(Debug, Default)]
pub(crate) struct Peer {
    /// For the test to tell them apart.
    pub(crate) number: usize,
    /// What it will send. Behind that, its stream ends.
    pub(crate) sends: VecDeque<u8>,
    /// Sends back what it receives, and ends its stream when the other side has.
    pub(crate) echoes: bool,
    pub(crate) received: Vec<u8>,
    /// The other side has ended its stream.
    pub(crate) saw_end: bool,
    #[expect(dead_code, reason = "keeps the descriptor connected, so that it has a peer's address")]
    pub(crate) other: Option<Socket>,
    /// It goes away after so many more completions.
    pub(crate) resets_after: Option<usize>,
    pub(crate) takes: Takes,
    /// When it took something last.
    pub(crate) took: Duration,
    /// How often it has no room for a connection, until it has.
    pub(crate) full: usize,
}

/// How much a peer takes of what it is sent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Takes {
    #[default]
    Everything,
    /// One byte each time so much time has passed.
    ByteEach(Duration),
    Nothing,
}

/// What a driver does of what it may do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whims {
    /// Everything is done by the next wait, in whole, and never fails.
    pub(crate) prompt: bool,
    /// Of 256 cancellations, so many do not find their operation.
    pub(crate) cancellations_lost: u8,
    /// Of 256 waits, so many are interrupted or refused.
    pub(crate) waits_interrupted: u8,
    /// A receive that is armed while there is no buffer ends at once.
    pub(crate) arming_needs_a_buffer: bool,
}

impl Whims {
    pub(crate) const PROMPT: Whims =
        Whims { prompt: true, cancellations_lost: 0, waits_interrupted: 0, arming_needs_a_buffer: false };

    /// Those of a seed.
    pub(crate) fn of(rng: &mut Rng) -> Whims {
        let up_to = |most: u8, rng: &mut Rng| if rng.bool() { 0 } else { rng.u8(..most) };
        Whims {
            prompt: false,
            cancellations_lost: up_to(220, rng),
            waits_interrupted: up_to(60, rng),
            arming_needs_a_buffer: rng.bool(),
        }
    }
}

/// What other threads do while the reactor waits; `true` if it is to be woken for that.
pub(super) type Meanwhile = Box<dyn FnMut() -> bool>;

/// The simulated world, shared with the test.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) peers: BTreeMap<RawFd, Peer>,
    /// Peers that want to connect to a listener.
    pub(crate) arriving: VecDeque<Peer>,
    /// What answers a connection that the reactor makes, in order; nobody if there is none.
    pub(crate) answering: VecDeque<Peer>,
    /// From now on, nothing at all answers a connection that the reactor makes.
    pub(crate) silent: bool,
    pub(crate) meanwhile: Option<Meanwhile>,
    /// Waits until one fails for good.
    pub(crate) breaks_after: Option<usize>,
    /// Operations that are submitted or cancelled until one of these calls panics.
    pub(crate) panics_after: Option<usize>,
    /// Peers of connections that were closed.
    pub(crate) gone: Vec<Peer>,
    /// Time that has passed in handlers, for they say so here.
    pub(crate) taken: Duration,
    /// Time that passes until the clock is looked at again.
    pub(crate) tick: Duration,
    /// Receives that the reactor has cancelled.
    pub(crate) cancelled_receives: usize,
    /// Reads of files until one fails.
    pub(crate) broken_reads: Option<usize>,
    /// Those that did not.
    pub(crate) reads: usize,
    /// Memory that was not given back: faults of the reactor, found by the driver.
    pub(crate) faults: Vec<String>,
}

impl World {
    /// What has passed besides waiting.
    pub(super) fn look_at_the_clock(&mut self) -> Duration {
        self.taken += self.tick;
        self.taken
    }

    pub(super) fn may_panic(&mut self) {
        let left = self.panics_after.map(|left| left.saturating_sub(1));
        self.panics_after = left.filter(|left| *left > 0);
        assert_ne!(left, Some(0), "intended by the test");
    }
}

impl Peer {
    /// `true` when the time has come to go away.
    pub(super) fn count_down(&mut self) -> bool {
        if let Some(left) = &mut self.resets_after {
            *left = left.saturating_sub(1);
        }
        self.resets_after == Some(0)
    }
}
