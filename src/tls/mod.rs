//! TLS 1.2 and 1.3, as a word in the options of servers and clients: by [rustls](https://docs.rs/rustls), with the features `tls` or
//! `tls-ring`.
//!
//! [`Server`] goes to [`ListenOptions::tls`](crate::net::ListenOptions::tls), [`Client`] to
//! [`StreamOptions::tls`](crate::net::StreamOptions::tls); [`Io::tls`](crate::net::Io::tls) tells a handler what was agreed on. It is
//! explained in [`docs::tls`](crate::docs::tls).

mod client;
mod engine;
mod error;
mod identity;
mod info;
mod layer;
mod server;

pub use client::Client;
pub use error::Error;
pub use identity::{Identity, Roots};
pub use info::Info;
pub use rustls::pki_types::{CertificateDer, PrivateKeyDer};
pub use server::Server;

use crate::error::Result;
use identity::invalid;
use rustls::SupportedProtocolVersion;
use rustls::crypto::CryptoProvider;
#[cfg(feature = "tls")]
use rustls::crypto::aws_lc_rs as cryptography;
#[cfg(not(feature = "tls"))]
use rustls::crypto::ring as cryptography;
use rustls::server::ProducesTickets;
use std::sync::{Arc, OnceLock};

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Version {
    /// TLS 1.2 (RFC 5246).
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

impl Version {
    const ALL: [Version; 2] = [Version::Tls12, Version::Tls13];
}

/// Handed to rustls wherever it wants one: what the process has for a default, or other crates' features, are nobody's concern here.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(cryptography::default_provider())).clone()
}

fn ticketer() -> Result<Arc<dyn ProducesTickets>> {
    cryptography::Ticketer::new().map_err(|error| invalid(format!("session tickets: {error}")))
}

fn versions(wanted: &[Version]) -> Result<Vec<&'static SupportedProtocolVersion>> {
    if wanted.is_empty() {
        return Err(invalid("TLS needs a version that may be spoken"));
    }
    let version = |version: &Version| match version {
        Version::Tls12 => &rustls::version::TLS12,
        Version::Tls13 => &rustls::version::TLS13,
    };
    Ok(wanted.iter().map(version).collect())
}
