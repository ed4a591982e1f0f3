//! The few things that are worth a line, each off the hot path: to `tracing` with that feature, else to standard error.

use parking_lot::Mutex;
use std::fmt;
use std::io;
#[cfg(not(feature = "tracing"))]
use std::io::Write;
#[cfg(feature = "tracing")]
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::time::{Duration, Instant};

/// What can happen again and again is told of once in this time.
const AT_MOST_EVERY: Duration = Duration::from_secs(60);

/// Lets a line through now and then, and counts those that it holds back.
struct Seldom(Mutex<(Option<Instant>, u64)>);

impl Seldom {
    const fn new() -> Self {
        Seldom(Mutex::new((None, 0)))
    }

    /// How many were held back since the last one, if this one may be said.
    fn may_say(&self, now: Instant) -> Option<u64> {
        let (last, held_back) = &mut *self.0.lock();
        if last.is_some_and(|last| now.saturating_duration_since(last) < AT_MOST_EVERY) {
            *held_back += 1;
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(held_back))
    }
}

/// Says once per process why [`Backend::Auto`](crate::Backend::Auto) did not choose io_uring.
pub(crate) fn io_uring_unavailable(error: &io::Error, advice: &str) {
    // Elsewhere its absence is no news.
    if cfg!(target_os = "linux") {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| warn(format_args!("io_uring is not used: {error}; {advice}")));
    }
}

/// Says why a listener rests, once a minute as long as it does.
pub(crate) fn accept_backs_off(address: &impl fmt::Display, error: &io::Error) {
    static SELDOM: Seldom = Seldom::new();
    let Some(held_back) = SELDOM.may_say(Instant::now()) else { return };
    warn(format_args!(
        "cannot accept on {address}: {error}; trying again at intervals (raise `ulimit -n` if descriptors ran out; \
         {held_back} more of these since this was last said)"
    ));
}

/// A limit has closed a connection: once a minute, with how many others there were.
#[cold]
pub(crate) fn over_limit(peer: &impl fmt::Display, reason: &impl fmt::Display) {
    static SELDOM: Seldom = Seldom::new();
    let Some(held_back) = SELDOM.may_say(Instant::now()) else { return };
    warn(format_args!(
        "a limit closed the connection with {peer}: {reason} ({held_back} more of these since this was last said)"
    ));
}

/// A peer has too many connections, or comes too often: once a minute, with how many others there were.
#[cold]
pub(crate) fn peer_refused(peer: &impl fmt::Display) {
    static SELDOM: Seldom = Seldom::new();
    let Some(held_back) = SELDOM.may_say(Instant::now()) else { return };
    warn(format_args!(
        "a connection from {peer} was refused: its peer has too many, or comes too often ({held_back} more of these since this was \
         last said)"
    ));
}

/// A proxy's header is wrong, or comes from somebody who may not say one: once a minute, with how many others there were.
#[cold]
pub(crate) fn proxy_header_refused(peer: &impl fmt::Display, reason: &impl fmt::Display) {
    static SELDOM: Seldom = Seldom::new();
    let Some(held_back) = SELDOM.may_say(Instant::now()) else { return };
    warn(format_args!(
        "the connection with {peer} was closed: {reason} ({held_back} more of these since this was last said)"
    ));
}

/// A reactor has ended that should not have.
pub(crate) fn reactor_failed(failure: &impl fmt::Display) {
    warn(format_args!("{failure}; its connections are lost, the other reactors go on"));
}

/// Says why producers of batchers pay a fence from now on. Called once.
pub(crate) fn membarrier_refused(error: &io::Error) {
    warn(format_args!(
        "membarrier was refused after it had worked: {error}; pushes to batchers pay a memory fence from now on (allow it in the \
         seccomp filter, or have the filter refuse it from the start)"
    ));
}

/// A handler panicked; its connection was closed.
pub(crate) fn handler_panicked(peer: &impl fmt::Display) {
    warn(format_args!("a handler panicked; its connection with {peer} was closed"));
}

/// The callback of a call panicked; everything else goes on.
pub(crate) fn callback_panicked() {
    warn(format_args!("the callback of a call panicked"));
}

/// What was to be called when a reactor fails panicked.
pub(crate) fn on_failure_panicked() {
    warn(format_args!("the callback of `on_failure` panicked"));
}

/// A request that was pushed could not be encoded, and nobody minds: says so once per process.
pub(crate) fn not_encoded(error: &impl fmt::Display) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        warn(format_args!(
            "a pushed request could not be encoded and was not sent: {error} (`Caller::on_refused` gets each of them)"
        ));
    });
}

/// Something that a reactor was told to do panicked.
pub(crate) fn action_panicked() {
    warn(format_args!("an action that was handed to a reactor panicked"));
}

/// Something below the handlers panicked; the connection that it concerned was closed.
pub(crate) fn internal_panic() {
    static SELDOM: Seldom = Seldom::new();
    let Some(held_back) = SELDOM.may_say(Instant::now()) else { return };
    warn(format_args!(
        "trochus itself panicked, which is a bug; the connection that it concerned was closed ({held_back} more of these since \
         this was last said)"
    ));
}

/// Something went wrong with a request. The caller sees to it that these are few.
pub(crate) fn server_fault(peer: &impl fmt::Display, what: fmt::Arguments<'_>, unsaid: u64) {
    match unsaid {
        0 => warn(format_args!("server, peer {peer}: {what}")),
        _ => warn(format_args!("server, peer {peer}: {what} ({unsaid} more like this since the last line)")),
    }
}

#[cfg(feature = "tracing")]
fn warn(message: fmt::Arguments<'_>) {
    // A subscriber is the application's, and may panic; this is called where that would end a reactor.
    let _ = catch_unwind(AssertUnwindSafe(|| tracing::warn!("{message}")));
}

#[cfg(not(feature = "tracing"))]
fn warn(message: fmt::Arguments<'_>) {
    // Whoever has closed standard error, or has no room left behind it, does without the line. `eprintln` would panic.
    let _ = writeln!(io::stderr(), "trochus: {message}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_again_is_told_again_but_not_at_once() {
        let seldom = Seldom::new();
        let start = Instant::now();
        assert_eq!(seldom.may_say(start), Some(0));
        assert_eq!(seldom.may_say(start), None);
        assert_eq!(seldom.may_say(start + AT_MOST_EVERY - Duration::from_millis(1)), None);
        assert_eq!(seldom.may_say(start + AT_MOST_EVERY), Some(2));
        assert_eq!(seldom.may_say(start + AT_MOST_EVERY), None);
    }
}
