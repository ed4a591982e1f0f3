//! What is done to a connection, and how a seed decides on it.

use std::time::Duration;

/// What is done to both directions of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// From who connects to the upstream.
    pub(crate) forth: Faults,
    pub(crate) back: Faults,
}

/// What is done to one direction. By default nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    /// Everything arrives so much later.
    pub(crate) delay: Duration,
    /// Bytes a second; as fast as it goes if `None`.
    pub(crate) rate: Option<u64>,
    /// Bytes of a write at most: with 1, a segment for each byte.
    pub(crate) chunk: Option<usize>,
    /// Bytes wait until none has come for so long, or [`COALESCED`] are there, and leave as one.
    pub(crate) coalesce: Duration,
    /// What happens once so many bytes were passed on.
    pub(crate) fate: Option<(u64, Fate)>,
}

/// Bytes that are passed on without waiting for more.
pub(crate) const COALESCED: usize = 64 << 10;

/// How a direction goes wrong for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It ends there as if that were all: a lie. What comes behind is thrown away.
    Cut,
    /// The connection is reset, at both ends.
    Reset,
    /// Nothing more is read: who sends finds no room by and by.
    Stall,
    /// Everything behind is taken and thrown away, the end too.
    Hole,
}

impl Plan {
    /// The same in both directions.
    pub(crate) fn both(faults: Faults) -> Self {
        Plan { forth: faults.clone(), back: faults }
    }

    /// Takes everything and passes on nothing.
    pub(crate) fn black_hole() -> Self {
        Plan::both(Faults::fated(0, Fate::Hole))
    }

    /// What a seed has in store for the connection with this number. Fates come within the first `bytes` of a direction, and hit
    /// about half of the connections.
    pub(crate) fn random(seed: u64, connection: u64, bytes: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(mixed(seed, connection));
        let (mut forth, mut back) = (Faults::random(&mut random), Faults::random(&mut random));
        if random.bool() {
            let fate = match random.u32(0..8) {
                0..3 => Fate::Reset,
                3..5 => Fate::Cut,
                5..7 => Fate::Stall,
                _ => Fate::Hole,
            };
            let way = if random.bool() { &mut forth } else { &mut back };
            way.fate = Some((random.u64(0..=bytes), fate));
        }
        Plan { forth, back }
    }
}

impl Faults {
    /// Nothing, until so many bytes were passed on.
    pub(crate) fn fated(bytes: u64, fate: Fate) -> Self {
        Faults { fate: Some((bytes, fate)), ..Faults::default() }
    }

    fn random(random: &mut fastrand::Rng) -> Self {
        let mut faults = Faults::default();
        match random.u32(0..6) {
            0 => faults.delay = Duration::from_micros(random.u64(100..20_000)),
            1 => faults.rate = Some(random.u64(64 << 10..4 << 20)),
            2 => faults.chunk = Some(random.usize(1..8)),
            3 => faults.coalesce = Duration::from_micros(random.u64(100..5_000)),
            _ => {}
        }
        faults
    }
}

/// Numbers that are close together give seeds that are not.
fn mixed(seed: u64, number: u64) -> u64 {
    let mut mixed = seed ^ number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 31)
}
