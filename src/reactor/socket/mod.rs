//! What a connection comes from: addresses, socket options, listening, accepting, connecting.

pub(super) mod accept;
pub(super) mod address;
pub(super) mod connect;
pub(super) mod listener;
pub(super) mod options;
