//! Where platforms differ, and the error numbers that decide something.

use mio::Interest;
use socket2::Socket;
use std::io::{self, IoSlice};
use std::time::Duration;

/// No SIGPIPE: by flag where there is one; elsewhere (Apple) `prepare` sets the socket option.
#[cfg(not(target_vendor = "apple"))]
pub(crate) const SEND_FLAGS: libc::c_int = libc::MSG_NOSIGNAL;
#[cfg(target_vendor = "apple")]
pub(crate) const SEND_FLAGS: libc::c_int = 0;

/// Both directions at once, so that no operation ever has to change a registration.
pub(crate) fn interest() -> Interest {
    let both = Interest::READABLE | Interest::WRITABLE;
    // Urgent data splits reads; see `short_read_drains`.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let both = both | Interest::PRIORITY;
    both
}

/// Sleeps through a short timeout unless there is readiness before, and says what the selector has still to wait for.
///
/// `mio` asks epoll in milliseconds, rounded up. To poll the selector's descriptor first, in nanoseconds, costs one more
/// system call for each short sleep, and none for others.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn sleep_exactly(selector: &mio::Registry, timeout: Option<Duration>) -> Option<Duration> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    const SHORT: Duration = Duration::from_millis(10);
    let Some(short) = timeout.filter(|timeout| (Duration::from_nanos(1)..SHORT).contains(timeout)) else {
        return timeout;
    };
    let nanoseconds = Timespec { tv_sec: 0, tv_nsec: short.subsec_nanos().into() };
    // An interruption ends the sleep, as readiness does; a selector that is broken says so to the next call.
    let _ = poll(&mut [PollFd::new(selector, PollFlags::IN)], Some(&nanoseconds));
    Some(Duration::ZERO)
}
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn sleep_exactly(_selector: &mio::Registry, timeout: Option<Duration>) -> Option<Duration> {
    timeout
}

/// Makes a socket fit for the proactor.
pub(crate) fn prepare(socket: &Socket) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    #[cfg(target_vendor = "apple")]
    socket.set_nosigpipe(true)?;
    Ok(())
}

/// Whether a read that returns less than it had room for proves that nothing was left to read, which saves
/// the read that would say so.
///
/// True for TCP on epoll (epoll(7) says so for stream sockets), as long as no event has told of an end, an
/// error or urgent data: what arrives after the read raises a new event, and what had arrived before the
/// event was read or is named in it. Not true of Unix-domain sockets, where descriptors and credentials sent
/// along split reads; not relied on elsewhere.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn short_read_drains(socket: &Socket) -> bool {
    matches!(socket.protocol(), Ok(Some(socket2::Protocol::TCP)))
}
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn short_read_drains(_socket: &Socket) -> bool {
    false
}

/// How many of the slices go into one system call: Apple's kernel refuses more than 2 GiB, others send less than they
/// were given. One alone always does, for `send` is asked for no more than that.
pub(crate) fn fit_one_call(slices: &[IoSlice<'_>]) -> usize {
    const MOST_BYTES: usize = i32::MAX as usize;
    let mut bytes = 0usize;
    let fits = |slice: &&IoSlice<'_>| {
        bytes = bytes.saturating_add(slice.len());
        bytes <= MOST_BYTES
    };
    slices.iter().take_while(fits).count().max(slices.len().min(1))
}

/// Accepts a connection as a socket that is non-blocking and closed on exec.
#[cfg(any(
    target_os = "android",
    target_os = "dragonfly",
    target_os = "freebsd",
    target_os = "illumos",
    target_os = "linux",
    target_os = "netbsd",
    target_os = "openbsd",
))]
pub(crate) fn accept(listener: &Socket) -> io::Result<Socket> {
    listener.accept4(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC).map(|(socket, _peer)| socket)
}
#[cfg(not(any(
    target_os = "android",
    target_os = "dragonfly",
    target_os = "freebsd",
    target_os = "illumos",
    target_os = "linux",
    target_os = "netbsd",
    target_os = "openbsd",
)))]
pub(crate) fn accept(listener: &Socket) -> io::Result<Socket> {
    let (socket, _peer) = listener.accept_raw()?;
    // Apple's kernel refuses options on a socket whose peer has gone: that connection was aborted.
    socket
        .set_cloexec(true)
        .and_then(|()| prepare(&socket))
        .map_err(|_| io::Error::from_raw_os_error(libc::ECONNABORTED))?;
    Ok(socket)
}

/// Whether an accept failed because of that one connection and not because of the listener or the process.
pub(crate) fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ECONNABORTED | libc::EPROTO | libc::EINTR))
}

/// Whether a connect goes on in the background.
pub(crate) fn connect_goes_on(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINPROGRESS | libc::EINTR))
}

/// How a connect ended that went on in the background; `None` when it still does.
pub(crate) fn connect_outcome(socket: &Socket) -> Option<io::Result<()>> {
    match socket.take_error() {
        Ok(None) => {}
        Ok(Some(error)) | Err(error) => return Some(Err(error)),
    }
    match socket.peer_addr().map_err(|error| error.raw_os_error()) {
        Ok(_) => Some(Ok(())),
        Err(Some(libc::ENOTCONN)) => None,
        // Apple's kernel: it was established, and the peer has gone already. The first receive will say so.
        Err(Some(libc::EINVAL)) => Some(Ok(())),
        Err(Some(number)) => Some(Err(io::Error::from_raw_os_error(number))),
        Err(None) => Some(Err(io::ErrorKind::NotConnected.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aborted_connection_does_not_disarm_its_listener() {
        let concerns = |number| concerns_one_connection(&io::Error::from_raw_os_error(number));
        assert!(concerns(libc::ECONNABORTED) && concerns(libc::EPROTO) && concerns(libc::EINTR));
        assert!(!concerns(libc::EMFILE) && !concerns(libc::ENFILE) && !concerns(libc::EINVAL));
    }

    #[test]
    fn a_full_unix_backlog_is_no_connect_in_progress() {
        let goes_on = |number| connect_goes_on(&io::Error::from_raw_os_error(number));
        assert!(goes_on(libc::EINPROGRESS) && goes_on(libc::EINTR));
        assert!(!goes_on(libc::EAGAIN) && !goes_on(libc::ECONNREFUSED));
    }

    #[test]
    fn one_call_gets_no_more_than_every_kernel_takes() {
        let half = vec![0; 1 << 30];
        let slices = |count: usize| vec![IoSlice::new(&half); count];
        assert_eq!(fit_one_call(&slices(0)), 0);
        assert_eq!(fit_one_call(&slices(1)), 1);
        assert_eq!(fit_one_call(&slices(2)), 1, "2 GiB are one byte too many");
        assert_eq!(fit_one_call(&[IoSlice::new(&half), IoSlice::new(&half[1..]), IoSlice::new(&half)]), 2);
        let whole = vec![0; 1 << 31];
        assert_eq!(fit_one_call(&[IoSlice::new(&whole), IoSlice::new(&half)]), 1);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn only_tcp_takes_a_short_read_as_the_end() {
        use socket2::{Domain, Type};
        let socket = |domain, kind| Socket::new(domain, kind, None).unwrap();
        assert!(short_read_drains(&socket(Domain::IPV4, Type::STREAM)));
        assert!(!short_read_drains(&socket(Domain::UNIX, Type::STREAM)));
        assert!(!short_read_drains(&socket(Domain::IPV4, Type::DGRAM)));
    }
}
