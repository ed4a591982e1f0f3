//! The signals that ask a process to stop, or to read its settings once more.

use super::watch::{FAILURE, Watch};
use crate::error::{Error, Result};
use parking_lot::Mutex;
use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::{pipe, unregister};
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// What a process is told by a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Signal {
    /// To stop: SIGINT, as from Ctrl-C, or SIGTERM.
    Stop,
    /// To read its settings once more: SIGHUP.
    Reload,
}

/// Waits until the process is told to stop: by SIGINT, as from Ctrl-C, or by SIGTERM. A second one, once this has returned,
/// ends the process at once, in case that stopping takes too long.
///
/// A runtime is not needed for it, and is not stopped by it; to notice as well when one of its reactors fails, use
/// [`Runtime::wait_for_interrupt`](crate::Runtime::wait_for_interrupt). On a reactor's own thread this is
/// [`Error::OnReactorThread`].
pub fn wait_for_interrupt() -> Result<()> {
    wait_for_interrupt_or(None)
}

/// The same, but also returns for SIGHUP, which from the first call on does not end the process any more. What comes between two
/// calls is told by the next one.
///
/// ```no_run
/// # use trochus::net::{Signal, wait_for_signal};
/// # fn read_settings() {}
/// while wait_for_signal()? == Signal::Reload {
///     read_settings();
/// }
/// # Ok::<(), trochus::Error>(())
/// ```
pub fn wait_for_signal() -> Result<Signal> {
    wait_for_signal_or(None)
}

/// From now on what [`wait_for_signal`] waits for is kept for it, and does nothing else to the process. Not needed, but for what comes
/// before the first wait.
pub fn keep_signals() -> Result<()> {
    Flags::kept().map(drop).map_err(cannot_watch)
}

/// The same as [`wait_for_interrupt`]; also returns when one of the reactors has failed.
pub(super) fn wait_for_interrupt_or(watch: Option<&Watch>) -> Result<()> {
    Error::if_on_reactor_thread("wait_for_interrupt", "wait on a thread of the program's own")?;
    wait(watch, false).map(drop).map_err(cannot_watch)
}

/// The same as [`wait_for_signal`]; that one of the reactors has failed is a [`Signal::Stop`].
pub(super) fn wait_for_signal_or(watch: Option<&Watch>) -> Result<Signal> {
    Error::if_on_reactor_thread("wait_for_signal", "wait on a thread of the program's own")?;
    Flags::kept().and_then(|_| wait(watch, true)).map_err(cannot_watch)
}

fn cannot_watch(source: io::Error) -> Error {
    Error::System { action: "watch for the signals that ask to stop", source }
}

fn wait(watch: Option<&Watch>, reloads: bool) -> io::Result<Signal> {
    let impatient = impatient()?;
    impatient.store(false, Ordering::SeqCst);
    let (mut bell, ring) = UnixStream::pair()?;
    // Neither a signal nor a reactor that fails may wait for anybody to listen.
    ring.set_nonblocking(true)?;
    let ring = Arc::new(ring);
    let (mut watched, flags) = (Watched(Vec::new()), Flags::default());
    // Several threads may wait: each has flags of its own, and they are set before its bell rings.
    flags.register(reloads, |signal, flag| {
        watched.0.push(signal_hook::flag::register(signal, flag)?);
        watched.0.push(pipe::register(signal, ring.try_clone()?)?);
        Ok(())
    })?;
    if let Some(watch) = watch {
        watch.ring_at_failure(&ring);
    }
    // Behind the registration: what came before it rings no bell.
    let mut signal = KEPT.get().and_then(|kept| kept.take(reloads));
    while signal.is_none() {
        let mut rung = [0];
        match bell.read_exact(&mut rung) {
            Ok(()) if rung == [FAILURE] => signal = Some(Signal::Stop),
            Ok(()) => signal = flags.take(reloads),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let signal = signal.unwrap_or(Signal::Stop);
    // It has been told here.
    KEPT.get().into_iter().for_each(|kept| kept.forget(signal));
    if signal == Signal::Stop {
        impatient.store(true, Ordering::SeqCst);
    }
    Ok(signal)
}

/// What has come and was not told yet.
#[derive(Default)]
struct Flags {
    stop: Arc<AtomicBool>,
    reload: Arc<AtomicBool>,
}

/// What comes while nobody waits, once somebody wants to know it signal by signal.
static KEPT: OnceLock<Flags> = OnceLock::new();

impl Flags {
    fn kept() -> io::Result<&'static Flags> {
        static MAKING: Mutex<()> = Mutex::new(());
        let _making = MAKING.lock();
        if let Some(kept) = KEPT.get() {
            return Ok(kept);
        }
        let flags = Flags::default();
        flags.register(true, |signal, flag| signal_hook::flag::register(signal, flag).map(drop))?;
        Ok(KEPT.get_or_init(|| flags))
    }

    /// Has each signal set its flag.
    fn register(
        &self,
        reloads: bool,
        mut register: impl FnMut(i32, Arc<AtomicBool>) -> io::Result<()>,
    ) -> io::Result<()> {
        register(SIGINT, self.stop.clone())?;
        register(SIGTERM, self.stop.clone())?;
        if reloads { register(SIGHUP, self.reload.clone()) } else { Ok(()) }
    }

    fn forget(&self, signal: Signal) {
        let flag = if signal == Signal::Stop { &self.stop } else { &self.reload };
        flag.store(false, Ordering::SeqCst);
    }

    /// To stop comes first, whichever came first.
    fn take(&self, reloads: bool) -> Option<Signal> {
        let taken = |flag: &AtomicBool| flag.swap(false, Ordering::SeqCst);
        if taken(&self.stop) {
            return Some(Signal::Stop);
        }
        (reloads && taken(&self.reload)).then_some(Signal::Reload)
    }
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
