//! With the feature `tracing`, an event at the level `debug` for each request at a server and each call of a client. Without it, and
//! where no subscriber wants that level, nothing is measured.

use crate::reactor::Address;
#[cfg(feature = "tracing")]
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Whether anybody may want to hear. Asks no subscriber.
#[inline(always)]
pub(in crate::rpc) fn is_on() -> bool {
    #[cfg(feature = "tracing")]
    return tracing::level_enabled!(tracing::Level::DEBUG);
    #[cfg(not(feature = "tracing"))]
    return false;
}

/// The time, if it is going to be told how long something took.
#[inline]
pub(in crate::rpc) fn began() -> Option<Instant> {
    is_on().then(Instant::now)
}

/// What came of a request at a server.
#[cfg_attr(not(feature = "tracing"), expect(unused_variables, reason = "nobody hears"))]
#[cold]
#[inline(never)]
pub(in crate::rpc) fn request(peer: &Address, request: u64, outcome: &str, took: Option<Duration>) {
    // A subscriber is the application's, and may panic.
    #[cfg(feature = "tracing")]
    let _ = catch_unwind(AssertUnwindSafe(|| {
        tracing::debug!(target: "trochus::rpc::server", request, %peer, outcome, micros = took.map(micros));
    }));
}

/// What came of a call of a client.
#[cfg_attr(not(feature = "tracing"), expect(unused_variables, reason = "nobody hears"))]
#[cold]
#[inline(never)]
pub(in crate::rpc) fn call(id: Option<u64>, outcome: &str, took: Duration) {
    #[cfg(feature = "tracing")]
    let _ = catch_unwind(AssertUnwindSafe(|| {
        tracing::debug!(target: "trochus::rpc::client", id, outcome, micros = micros(took));
    }));
}

#[cfg(feature = "tracing")]
fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
