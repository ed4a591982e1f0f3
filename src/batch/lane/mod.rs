//! One producer's ring and what its two ends agree on.

pub(super) mod barrier;
pub(super) mod ring;
pub(super) mod run;
pub(super) mod shards;
pub(super) mod spin;
pub(super) mod weight;
