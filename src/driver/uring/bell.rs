//! The descriptor by which other threads wake a ring.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// An eventfd that rings when a reactor has something to do. Its ring watches it with a multishot poll, which answers every
/// signal without anybody reading it.
#[derive(Debug)]
pub(crate) struct Bell(OwnedFd);

impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: no pointers are passed.
        let descriptor = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is fresh and nothing else owns it.
        Ok(Bell(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    /// By any thread: ends the ring's wait. Never blocks; a full counter is a signal already.
    pub(crate) fn ring(&self) {
        let one = 1u64;
        // SAFETY: the pointer is to eight readable bytes for the time of the call.
        unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    /// Takes all signals, so that a poll that starts now waits for the next one.
    pub(super) fn clear(&self) {
        let mut count = 0u64;
        // SAFETY: the pointer is to eight writable bytes for the time of the call.
        unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), 8) };
    }

    pub(super) fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
