//! What the two sides of a connection agreed on.

use super::Version;
use crate::reactor::Io;
use rustls::unbuffered::UnbufferedConnectionCommon;
use rustls::{HandshakeKind, ProtocolVersion};
use std::fmt;

/// What the two sides of a connection agreed on: [`Io::tls`].
#[derive(Clone)]
pub struct Info {
    version: Version,
    cipher_suite: String,
    alpn: Option<Vec<u8>>,
    server_name: Option<String>,
    peer_certificates: Vec<rustls::pki_types::CertificateDer<'static>>,
    is_resumed: bool,
}

impl Info {
    pub(super) fn new<D>(common: &UnbufferedConnectionCommon<D>, server_name: Option<String>) -> Self {
        let is_old = common.protocol_version() == Some(ProtocolVersion::TLSv1_2);
        let suite = common.negotiated_cipher_suite().map(|suite| suite.suite());
        Info {
            version: if is_old { Version::Tls12 } else { Version::Tls13 },
            cipher_suite: suite.and_then(|suite| suite.as_str()).unwrap_or_default().to_owned(),
            alpn: common.alpn_protocol().map(<[u8]>::to_vec),
            server_name,
            peer_certificates: common.peer_certificates().unwrap_or_default().to_vec(),
            is_resumed: common.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }

    /// The version of TLS.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The cipher suite, by the name that IANA gave it, such as `TLS13_AES_128_GCM_SHA256`.
    pub fn cipher_suite(&self) -> &str {
        &self.cipher_suite
    }

    /// The protocol that was agreed on (ALPN), if one was.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.alpn.as_deref()
    }

    /// Whom the client asked for (SNI): `None` if it named nobody, as with an address.
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// The peer's certificate in DER, and those that it sent to certify it; empty for a client that has none. They have been checked.
    /// Of a session that is resumed, those of its first connection.
    pub fn peer_certificates(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.peer_certificates.iter().map(|certificate| certificate.as_ref())
    }

    /// The session of an earlier connection goes on, so that neither side has proved anew who it is.
    pub fn is_resumed(&self) -> bool {
        self.is_resumed
    }
}

impl fmt::Debug for Info {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Info")
            .field("version", &self.version)
            .field("cipher_suite", &self.cipher_suite)
            .field("alpn", &self.alpn.as_ref().map(|alpn| String::from_utf8_lossy(alpn)))
            .field("server_name", &self.server_name)
            .field("peer_certificates", &self.peer_certificates.len())
            .field("is_resumed", &self.is_resumed)
            .finish()
    }
}

impl Io<'_> {
    /// What was agreed on, on a connection with TLS.
    pub fn tls(&self) -> Option<&Info> {
        self.filter_info()?.downcast_ref()
    }
}
