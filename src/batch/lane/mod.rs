//! One producer's ring and what its two ends agree on.

pub(super) mod barrier;
pub(super) mod ring;
pub(super) mod run;
pub(super) mod shards;
pub(super) mod spin;
pub(super) mod weight;

/// What a full lane needs to take another item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Nothing: there is room now.
    Ready,
    /// A [`Growth`](ring::Growth) of so many slots.
    Grow(usize),
    /// That the reader takes something.
    Full,
}
