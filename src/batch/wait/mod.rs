//! Who waits for whom: the consumer for items, producers for room, anybody for the end.

pub(super) mod block;
pub(super) mod end;
pub(super) mod gate;
pub(super) mod list;
pub(super) mod push;
