//! The process' limit on open descriptors.
#![allow(unsafe_code)]

use std::io;

/// The limit as it is, and how far it could be raised.
pub(crate) fn limit() -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a limit that outlives the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// Changes the limit; descriptors beyond it that are open stay open.
pub(crate) fn set_limit(descriptors: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: descriptors, rlim_max: limit()?.1 };
    // SAFETY: the pointer is to a limit that outlives the call.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
