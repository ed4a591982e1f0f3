//! The process' limit on open descriptors.
#![allow(unsafe_code)]
// The numbers are signed on FreeBSD.
#![allow(clippy::unnecessary_cast)]

use std::io;

/// The limit as it is, and how far it could be raised.
pub(crate) fn limit() -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a limit that outlives the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((limit.rlim_cur as u64, limit.rlim_max as u64))
}

/// Changes the limit; descriptors beyond it that are open stay open.
pub(crate) fn set_limit(descriptors: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: descriptors as libc::rlim_t, rlim_max: limit()?.1 as libc::rlim_t };
    // SAFETY: the pointer is to a limit that outlives the call.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
