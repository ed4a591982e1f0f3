//! Certificates: one's own, and those that are trusted.

use super::provider;
use crate::error::{Error, Result};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Who one is: a certificate, those that certify it, and the key.
#[derive(Clone)]
pub struct Identity(pub(super) Arc<CertifiedKey>);

impl Identity {
    /// A certificate, first, and those that certify it, each one the one before it, and its private key.
    ///
    /// # Errors
    /// [`Error::InvalidSetting`] if there is no certificate, or the key is of no kind that is known, or not the certificate's.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self> {
        if chain.is_empty() {
            return Err(invalid("there is no certificate"));
        }
        CertifiedKey::from_der(chain, key, &provider())
            .map(|certified| Identity(Arc::new(certified)))
            .map_err(|error| invalid(format!("certificate and key cannot be used: {error}")))
    }

    /// The same from PEM, as files have it: one or more `CERTIFICATE`s, and a `PRIVATE KEY`.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self> {
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| invalid(format!("there is no private key in this PEM: {error}")))?;
        Identity::new(certificates(chain)?, key)
    }

    /// The same from files.
    pub fn from_pem_files(chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self> {
        Identity::from_pem(&read(chain.as_ref())?, &read(key.as_ref())?)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("certificates", &self.0.cert.len()).finish_non_exhaustive()
    }
}

/// Who may certify others.
#[derive(Clone)]
pub struct Roots(pub(super) Arc<RootCertStore>);

impl Roots {
    /// Those that the system trusts, as of now. `SSL_CERT_FILE` and `SSL_CERT_DIR` name others.
    ///
    /// # Errors
    /// [`Error::InvalidSetting`] if there are none.
    pub fn native() -> Result<Self> {
        let found = rustls_native_certs::load_native_certs();
        let mut store = RootCertStore::empty();
        // Systems have some that nothing can be made of.
        store.add_parsable_certificates(found.certs);
        match (store.is_empty(), found.errors.first()) {
            (false, _) => Ok(Roots(Arc::new(store))),
            (true, Some(error)) => Err(invalid(format!("the system's root certificates: {error}"))),
            (true, None) => Err(invalid("the system has no root certificates: install `ca-certificates`")),
        }
    }

    /// These, and no others.
    pub fn new(certificates: impl IntoIterator<Item = CertificateDer<'static>>) -> Result<Self> {
        let mut store = RootCertStore::empty();
        for certificate in certificates {
            store
                .add(certificate)
                .map_err(|error| invalid(format!("a root certificate cannot be used: {error}")))?;
        }
        if store.is_empty() {
            return Err(invalid("there is no root certificate, so nobody could be trusted"));
        }
        Ok(Roots(Arc::new(store)))
    }

    /// The same from PEM: all `CERTIFICATE`s in it.
    pub fn from_pem(pem: &[u8]) -> Result<Self> {
        Roots::new(certificates(pem)?)
    }

    /// The same from a file.
    pub fn from_pem_file(path: impl AsRef<Path>) -> Result<Self> {
        Roots::from_pem(&read(path.as_ref())?)
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roots").field("certificates", &self.0.len()).finish()
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| invalid(format!("the PEM of the certificates is damaged: {error}")))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| invalid(format!("cannot read {}: {error}", path.display())))
}

pub(super) fn invalid(reason: impl Into<String>) -> Error {
    Error::InvalidSetting(reason.into())
}
