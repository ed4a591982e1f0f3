//! The few calls to the system that no crate below makes.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Takes a descriptor that was open when this program began, and that somebody has passed to it.
///
/// What this process has opened since, or has taken already, is not given: it would be somebody else's here. It shows by being closed
/// on exec, which nothing can be that has come over one.
pub(crate) fn inherited_descriptor(descriptor: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call touches no memory, and for a number that is no descriptor it is an error.
    let flags = unsafe { libc::fcntl(descriptor, libc::F_GETFD) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    if flags & libc::FD_CLOEXEC != 0 {
        return Err(io::Error::other("this process did not inherit it, or has taken it already"));
    }
    // SAFETY: the call touches no memory, and the descriptor is open.
    if unsafe { libc::fcntl(descriptor, libc::F_SETFD, flags | libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and as it was not closed on exec, nobody in this process has opened it or taken it before.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Has the processes that the command starts, and no others, inherit these descriptors by the numbers that they have here.
pub(crate) fn pass_descriptors(command: &mut Command, descriptors: Vec<OwnedFd>) {
    let pass = move || {
        for descriptor in &descriptors {
            // SAFETY: the call touches no memory, and the descriptor is open as long as the command is there.
            if unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFD, 0) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: behind the fork it makes one system call for each descriptor, and allocates and locks nothing.
    unsafe { command.pre_exec(pass) };
}

/// Locks a file or a directory against others who ask for the same lock, until it is closed; `WouldBlock` if one of them
/// has it.
pub(super) fn try_lock(file: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: the call touches no memory, and the descriptor is open as long as it is borrowed.
    match unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Bytes that were sent over a TCP socket and that the peer's system has not confirmed; `None` if this one does not tell.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(in crate::reactor) fn unacknowledged(socket: &impl AsRawFd) -> Option<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: this request writes one `int`, to a place that outlives the call, and the descriptor is open.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) } {
        0 => usize::try_from(bytes).ok(),
        _ => None,
    }
}

/// Bytes that were sent over a TCP socket and that the peer's system has not confirmed; `None` if this one does not tell.
#[cfg(target_vendor = "apple")]
pub(in crate::reactor) fn unacknowledged(socket: &impl AsRawFd) -> Option<usize> {
    let (mut bytes, mut len): (libc::c_int, _) = (0, size_of::<libc::c_int>() as libc::socklen_t);
    let (fd, value) = (socket.as_raw_fd(), (&raw mut bytes).cast());
    // SAFETY: the pointers are to an `int` and to its length, both outlive the call, and the descriptor is open.
    match unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_NWRITE, value, &raw mut len) } {
        0 => usize::try_from(bytes).ok(),
        _ => None,
    }
}

/// Bytes that were sent over a TCP socket and that the peer's system has not confirmed; `None` if this one does not tell.
#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
pub(in crate::reactor) fn unacknowledged(_socket: &impl AsRawFd) -> Option<usize> {
    None
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
