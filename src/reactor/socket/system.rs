//! The few calls to the system that no crate below makes.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;

/// Locks a file or a directory against others who ask for the same lock, until it is closed; `WouldBlock` if one of them
/// has it.
pub(super) fn try_lock(file: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: the call touches no memory, and the descriptor is open as long as it is borrowed.
    match unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(target_os = "linux")]
/// Sets an option of a socket that is a whole number.
pub(super) fn set_option(
    socket: &impl AsRawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let (pointer, len) = ((&raw const value).cast(), size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: the pointer is to a value of that length that outlives the call, and the descriptor is open.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, pointer, len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
