//! What a handler has in its hands, from its first completion to its last.

pub(super) mod connection;
pub(super) mod deadlines;
pub(super) mod dispatch;
pub(super) mod ending;
pub(super) mod files;
pub(super) mod filter;
pub(super) mod handler;
pub(super) mod io;
pub(super) mod proxy_header;
pub(super) mod reaching;
pub(super) mod reading;
pub(super) mod relay;
pub(super) mod settle;
pub(super) mod succession;
