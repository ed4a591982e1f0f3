//! Who waits for whom: the consumer for items, producers for room.

pub(super) mod gate;
pub(super) mod list;
pub(super) mod push;
