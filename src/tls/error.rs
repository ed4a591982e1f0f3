//! Why TLS failed.

use std::fmt;

/// Why a handshake, or a connection later, failed: see [`CloseReason::Tls`](crate::net::CloseReason::Tls).
#[derive(Clone, PartialEq)]
pub struct Error(rustls::Error);

impl Error {
    pub(super) fn new(error: rustls::Error) -> Self {
        Error(error)
    }

    /// The peer's certificate is missing, or is not accepted by this side.
    pub fn is_about_peers_certificate(&self) -> bool {
        matches!(self.0, rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented)
    }

    /// The peer said that it goes no further, with an alert: what is wrong, it found wrong on this side.
    pub fn is_told_by_peer(&self) -> bool {
        matches!(self.0, rustls::Error::AlertReceived(_))
    }

    /// Both sides speak TLS, and have nothing in common that they could agree on: a version, a cipher suite, a protocol (ALPN).
    pub fn is_disagreement(&self) -> bool {
        matches!(self.0, rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            rustls::Error::AlertReceived(alert) => write!(f, "the peer gave up, with the alert {alert:?}"),
            rustls::Error::InvalidMessage(_) => write!(f, "what the peer sent is no TLS: {}", self.0),
            rustls::Error::InvalidCertificate(_) => {
                write!(f, "the peer's certificate is refused: {}", self.0)
            }
            error => error.fmt(f),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Error {}
