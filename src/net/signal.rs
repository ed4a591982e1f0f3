//! The signals that ask a process to stop.

use crate::error::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Blocks until SIGINT or SIGTERM arrives. The next one ends the process, in case that draining takes too long.
pub(super) fn wait_for_interrupt() -> Result<()> {
    wait().map_err(|source| Error::System { action: "watch for the signals that ask to stop", source })
}

fn wait() -> io::Result<()> {
    let impatient = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, impatient.clone())?;
    }
    Signals::new([SIGINT, SIGTERM])?.forever().next();
    impatient.store(true, Ordering::SeqCst);
    Ok(())
}
