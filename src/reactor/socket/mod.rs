//! What a connection comes from: addresses, socket options, listening, accepting, connecting.

pub(super) mod accept;
pub(super) mod address;
pub(super) mod connect;
pub(super) mod file;
pub(super) mod foreign;
pub(super) mod incoming;
pub(super) mod listener;
pub(super) mod lookup;
pub(super) mod newcomer;
pub(super) mod options;
pub(super) mod peers;
pub(super) mod proxied;
pub(super) mod race;
pub(super) mod seats;
pub(super) mod stop;
pub(super) mod system;
pub(super) mod tuning;
