//! The descriptors by which other threads wake a ring, and a ring an outer selector.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

/// What rings when a reactor has something to do.
#[derive(Debug)]
pub(crate) struct Bell {
    /// The ring watches it with a multishot poll, which answers every signal without anybody reading it.
    wake: EventFd,
    /// What an outer selector watches, once there has been one. Nothing if there cannot be one.
    outer: OnceLock<Option<EventFd>>,
}

impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Bell { wake: EventFd::new()?, outer: OnceLock::new() })
    }

    /// By any thread: ends the ring's wait, and that of an outer selector.
    pub(crate) fn ring(&self) {
        self.wake.signal();
        // The kernel passes a signal on from one eventfd to another only once (seen on Linux 6.18).
        self.ring_outside();
    }

    /// Makes the outer descriptor readable, if there is one.
    pub(super) fn ring_outside(&self) -> bool {
        let outer = self.outer.get().and_then(Option::as_ref);
        outer.inspect(|outer| outer.signal()).is_some()
    }

    /// After the ring was looked at.
    pub(super) fn clear_outside(&self) {
        if let Some(Some(outer)) = self.outer.get() {
            outer.clear();
        }
    }

    /// The outer descriptor, which `register` makes the ring signal. Readable at first, for what has completed already.
    pub(super) fn outside(&self, register: impl FnOnce(RawFd) -> io::Result<()>) -> Option<RawFd> {
        let outer = self.outer.get_or_init(|| {
            let outer = EventFd::new().ok()?;
            register(outer.descriptor()).ok()?;
            outer.signal();
            Some(outer)
        });
        outer.as_ref().map(EventFd::descriptor)
    }

    /// Takes all signals, so that a poll that starts now waits for the next one.
    pub(super) fn clear(&self) {
        self.wake.clear();
    }

    pub(super) fn descriptor(&self) -> RawFd {
        self.wake.descriptor()
    }
}

#[derive(Debug)]
struct EventFd(OwnedFd);

impl EventFd {
    fn new() -> io::Result<Self> {
        // SAFETY: no pointers are passed.
        let descriptor = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is fresh and nothing else owns it.
        Ok(EventFd(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    /// Adds one, which never blocks; a full counter is a signal already.
    fn signal(&self) {
        let one = 1u64;
        // SAFETY: the pointer is to eight readable bytes for the time of the call.
        unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    /// Takes all signals.
    fn clear(&self) {
        let mut count = 0u64;
        // SAFETY: the pointer is to eight writable bytes for the time of the call.
        unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), 8) };
    }

    fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
