//! What can go wrong above the sockets.

use crate::config::Backend;
use std::fmt;
use std::io;

/// The result of most calls of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a runtime, a server or a connection could not be set up. Each message says what was attempted and what to do.
///
/// `Debug` prints the same message as `Display`, which is what a `main` that returns it shows.
#[non_exhaustive]
pub enum Error {
    /// A backend that was asked for by name does not work here.
    BackendUnavailable {
        /// The one that was asked for.
        backend: Backend,
        /// What would make it work.
        advice: String,
        /// What the system said.
        source: io::Error,
    },
    /// A backend's name that is none of `auto`, `io_uring` and `fallback`.
    UnknownBackend(String),
    /// A name in `TROCHUS_IO_URING_WITHOUT` that is no feature's.
    UnknownFeature(String),
    /// A setting that cannot work; the message says which and why.
    InvalidSetting(String),
    /// An address that is not one, or a name that does not resolve.
    Address {
        /// As it was given.
        address: String,
        /// Why it is none.
        source: io::Error,
    },
    /// A server that could not listen.
    Listen {
        /// Where.
        address: String,
        /// What would help.
        advice: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A connection that was not established.
    Connect {
        /// To whom; with several addresses, the last one that was tried.
        address: String,
        /// What would help.
        advice: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A thread could not be started, a signal not be watched, or a reactor not be driven.
    System {
        /// What was being done.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The reactor that should do this has stopped.
    Stopped,
    /// A reactor ended without being asked to, and what it had is lost; see [`ReactorFailure`](crate::net::ReactorFailure).
    ReactorFailed {
        /// Which of the runtime's reactors.
        reactor: usize,
        /// What happened.
        reason: String,
    },
    /// A call that waits was made on a reactor's own thread, where it would wait for what only that thread can do. Nothing was
    /// done.
    OnReactorThread {
        /// The call.
        call: &'static str,
        /// The one that does the same without waiting.
        instead: &'static str,
    },
}

impl Error {
    /// For the first line of every call that waits.
    pub(crate) fn if_on_reactor_thread(call: &'static str, instead: &'static str) -> Result<()> {
        if crate::waiting::is_forbidden() { Err(Error::OnReactorThread { call, instead }) } else { Ok(()) }
    }

    pub(crate) fn listen(address: &impl fmt::Display, source: io::Error) -> Self {
        let advice = match source.kind() {
            io::ErrorKind::AddrInUse => "another socket listens there: stop it, or listen on another port",
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need CAP_NET_BIND_SERVICE, a path needs write permission"
            }
            io::ErrorKind::AddrNotAvailable => "no interface of this machine has that address",
            io::ErrorKind::NotFound => "the directory does not exist",
            _ => advice_about_descriptors(&source),
        };
        Error::Listen { address: address.to_string(), advice, source }
    }

    pub(crate) fn connect(address: &impl fmt::Display, source: io::Error) -> Self {
        let advice = match source.kind() {
            io::ErrorKind::ConnectionRefused => "nobody listens there: start the server, or check the port",
            io::ErrorKind::TimedOut => {
                "nobody answered in time: check the address, the firewall and the connect timeout"
            }
            io::ErrorKind::NotFound => "there is no such socket: start the server, or check the path",
            io::ErrorKind::PermissionDenied => "the socket's permissions or a firewall forbid it",
            _ => advice_about_descriptors(&source),
        };
        Error::Connect { address: address.to_string(), advice, source }
    }
}

/// An error once more, for it has no `Clone`: one of the system is the same, of any other one kind and text are.
pub(crate) fn copy(error: &io::Error) -> io::Error {
    let other = || io::Error::new(error.kind(), error.to_string());
    error.raw_os_error().map_or_else(other, io::Error::from_raw_os_error)
}

fn advice_about_descriptors(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EMFILE) => "this process is out of descriptors: raise `ulimit -n`",
        Some(libc::ENFILE) => "this system is out of descriptors: raise fs.file-max",
        _ => "check the address and the network",
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::BackendUnavailable { backend, advice, source } => {
                write!(f, "cannot use the backend {backend}: {source}; {advice}")
            }
            Error::UnknownBackend(name) => {
                write!(f, "there is no backend {name:?}: choose auto, io_uring or fallback")
            }
            Error::UnknownFeature(name) => {
                write!(f, "there is no io_uring feature {name:?} to go without:")?;
                crate::config::UringFeature::ALL.iter().try_for_each(|(_, known)| write!(f, " {known}"))
            }
            Error::InvalidSetting(reason) => f.write_str(reason),
            Error::Address { address, source } => {
                write!(f, "cannot make out the address {address:?}: {source}")
            }
            Error::Listen { address, advice, source } => {
                write!(f, "cannot listen on {address}: {source}; {advice}")
            }
            Error::Connect { address, advice, source } => {
                write!(f, "cannot connect to {address}: {source}; {advice}")
            }
            Error::System { action, source } => write!(f, "cannot {action}: {source}"),
            Error::Stopped => f.write_str("the reactor has stopped: nothing can be handed to it any more"),
            Error::ReactorFailed { reactor, reason } => write!(f, "reactor {reactor} has ended: {reason}"),
            Error::OnReactorThread { call, instead } => {
                write!(
                    f,
                    "{call} would wait on a reactor's own thread, for what only that thread can do: {instead}"
                )
            }
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::BackendUnavailable { source, .. }
            | Error::Address { source, .. }
            | Error::Listen { source, .. }
            | Error::Connect { source, .. }
            | Error::System { source, .. } => Some(source),
            Error::UnknownBackend(_)
            | Error::UnknownFeature(_)
            | Error::InvalidSetting(_)
            | Error::Stopped
            | Error::ReactorFailed { .. }
            | Error::OnReactorThread { .. } => None,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::BackendUnavailable { .. } => io::ErrorKind::Unsupported,
            Error::Address { source, .. }
            | Error::Listen { source, .. }
            | Error::Connect { source, .. }
            | Error::System { source, .. } => source.kind(),
            Error::UnknownBackend(_) | Error::UnknownFeature(_) | Error::InvalidSetting(_) => {
                io::ErrorKind::InvalidInput
            }
            Error::Stopped | Error::ReactorFailed { .. } => io::ErrorKind::NotConnected,
            Error::OnReactorThread { .. } => io::ErrorKind::Deadlock,
        };
        io::Error::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_main_that_returns_it_shows_the_message() {
        let error = Error::UnknownBackend("uring".to_owned());
        assert_eq!(format!("{error:?}"), "there is no backend \"uring\": choose auto, io_uring or fallback");
        let error = Error::listen(&"127.0.0.1:80", io::Error::from_raw_os_error(libc::EADDRINUSE));
        let text = format!("{error:?}");
        assert!(text.contains("127.0.0.1:80") && text.contains("listen on another port"), "{text}");
    }
}
