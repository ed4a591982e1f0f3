//! The signals that ask a process to stop.

use super::watch::Watch;
use crate::error::{Error, Result};
use signal_hook::SigId;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::{pipe, unregister};
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Waits until the process is told to stop: by SIGINT, as from Ctrl-C, or by SIGTERM. A second one, once this has returned,
/// ends the process at once, in case that stopping takes too long.
///
/// A runtime is not needed for it, and is not stopped by it; to notice as well when one of its reactors fails, use
/// [`Runtime::wait_for_interrupt`](crate::Runtime::wait_for_interrupt). On a reactor's own thread this is
/// [`Error::OnReactorThread`].
pub fn wait_for_interrupt() -> Result<()> {
    wait_for_interrupt_or(None)
}

/// The same; also returns when one of the reactors has failed.
pub(super) fn wait_for_interrupt_or(watch: Option<&Watch>) -> Result<()> {
    Error::if_on_reactor_thread("wait_for_interrupt", "wait on a thread of the program's own")?;
    wait(watch).map_err(|source| Error::System { action: "watch for the signals that ask to stop", source })
}

fn wait(watch: Option<&Watch>) -> io::Result<()> {
    let impatient = impatient()?;
    impatient.store(false, Ordering::SeqCst);
    let (mut bell, ring) = UnixStream::pair()?;
    // Neither a signal nor a reactor that fails may wait for anybody to listen.
    ring.set_nonblocking(true)?;
    let mut watched = Watched(Vec::new());
    for signal in [SIGINT, SIGTERM] {
        watched.0.push(pipe::register(signal, ring.try_clone()?)?);
    }
    if let Some(watch) = watch {
        watch.ring_at_failure(ring);
    }
    while let Err(error) = bell.read_exact(&mut [0]) {
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    impatient.store(true, Ordering::SeqCst);
    Ok(())
}

/// While it is set, such a signal does what it does to a process that does not care for it.
fn impatient() -> io::Result<&'static AtomicBool> {
    static IMPATIENT: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    if let Some(impatient) = IMPATIENT.get() {
        return Ok(impatient);
    }
    let impatient = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, impatient.clone())?;
    }
    // If two threads come here at once, both flags are watched, and only one of them is ever set.
    Ok(IMPATIENT.get_or_init(|| impatient))
}

/// Signals that are passed on as long as this lives.
struct Watched(Vec<SigId>);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.drain(..).for_each(|id| _ = unregister(id));
    }
}
