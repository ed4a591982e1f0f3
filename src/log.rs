//! The few things that are worth a line, each off the hot path: to `tracing` with that feature, else to standard error.

use std::fmt;
use std::io;
#[cfg(not(feature = "tracing"))]
use std::io::Write;
use std::sync::Once;

/// Says once per process why [`Backend::Auto`](crate::Backend::Auto) did not choose io_uring.
pub(crate) fn io_uring_unavailable(error: &io::Error, advice: &str) {
    // Elsewhere its absence is no news.
    if cfg!(target_os = "linux") {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| warn(format_args!("io_uring is not used: {error}; {advice}")));
    }
}

/// Says why a listener rests, when it begins to.
pub(crate) fn accept_backs_off(address: &impl fmt::Display, error: &io::Error) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        warn(format_args!(
            "cannot accept on {address}: {error}; trying again at intervals (raise `ulimit -n` if descriptors ran out)"
        ));
    });
}

/// A handler panicked; its connection was closed.
pub(crate) fn handler_panicked(peer: &impl fmt::Display) {
    warn(format_args!("a handler panicked; its connection with {peer} was closed"));
}

/// The callback of a call panicked; everything else goes on.
pub(crate) fn callback_panicked() {
    warn(format_args!("the callback of a call panicked"));
}

/// Something that a reactor was told to do panicked.
pub(crate) fn action_panicked() {
    warn(format_args!("an action that was handed to a reactor panicked"));
}

#[cfg(feature = "tracing")]
fn warn(message: fmt::Arguments<'_>) {
    tracing::warn!("{message}");
}

#[cfg(not(feature = "tracing"))]
fn warn(message: fmt::Arguments<'_>) {
    // Whoever has closed standard error, or has no room left behind it, does without the line. `eprintln` would panic.
    let _ = writeln!(io::stderr(), "trochus: {message}");
}
