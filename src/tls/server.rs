//! The listening side.

use super::engine::{Engine, note_server_name};
use super::error::Error;
use super::identity::{Identity, Roots, invalid};
use super::layer::Layer;
use super::{Version, provider, ticketer, versions};
use crate::error::Result;
use crate::reactor::{Address, CloseReason, Filter, ListenOptions, MakeFilter};
use parking_lot::RwLock;
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ProducesTickets, ResolvesServerCert};
use rustls::server::{UnbufferedServerConnection, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{KeyLogFile, ServerConfig};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// TLS for those who connect: [`ListenOptions::tls`]. A clone is the same: what is reloaded there is so here.
#[derive(Clone)]
#[must_use]
pub struct Server {
    certificates: Arc<Certificates>,
    ticketer: Arc<dyn ProducesTickets>,
    versions: Vec<Version>,
    clients: Option<(Roots, bool)>,
    config: Arc<ServerConfig>,
}

impl Server {
    /// With a certificate, first, those that certify it, and its private key: the versions 1.2 and 1.3, no protocol (ALPN), and no
    /// certificates of clients.
    ///
    /// # Errors
    /// [`Error::InvalidSetting`](crate::Error::InvalidSetting) says what is wrong with them.
    pub fn new(certificates: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self> {
        Server::of([Identity::new(certificates, key)?])
    }

    /// The same with PEM, as files have it.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self> {
        Server::of([Identity::from_pem(certificates, key)?])
    }

    /// The same with files.
    pub fn from_pem_files(certificates: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self> {
        Server::of([Identity::from_pem_files(certificates, key)?])
    }

    /// With several identities: a client gets the first one whose certificate is for the name that it asks for (SNI) and that it has
    /// the means to check. Who names nobody, or a name that none is for, gets the first one of all that it can check.
    pub fn of(identities: impl IntoIterator<Item = Identity>) -> Result<Self> {
        let certificates = Arc::new(Certificates(RwLock::new(some(identities)?)));
        let (ticketer, versions) = (ticketer()?, Version::ALL.to_vec());
        let config = Arc::new(configure(&certificates, &ticketer, &versions, None)?);
        Ok(Server { certificates, ticketer, versions, clients: None, config })
    }

    /// The protocols that this side speaks, the one that it likes best first, such as `h2` (ALPN). A client that offers others only
    /// is refused.
    pub fn alpn<P: AsRef<[u8]>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        Arc::make_mut(&mut self.config).alpn_protocols =
            protocols.into_iter().map(|protocol| protocol.as_ref().to_vec()).collect();
        self
    }

    /// Only these versions.
    ///
    /// # Errors
    /// [`Error::InvalidSetting`](crate::Error::InvalidSetting) if there are none.
    pub fn versions(mut self, versions: impl IntoIterator<Item = Version>) -> Result<Self> {
        self.versions = versions.into_iter().collect();
        self.rebuild()
    }

    /// Clients have to have a certificate that one of these certifies (mutual TLS): [`Info::peer_certificates`](super::Info).
    pub fn require_client_certificates(mut self, roots: Roots) -> Result<Self> {
        self.clients = Some((roots, true));
        // A ticket stands for what was asked of its client when it was given.
        self.ticketer = ticketer()?;
        self.rebuild()
    }

    /// Clients may have such a certificate. One that has another is refused.
    pub fn accept_client_certificates(mut self, roots: Roots) -> Result<Self> {
        self.clients = Some((roots, false));
        self.ticketer = ticketer()?;
        self.rebuild()
    }

    /// Writes the secrets of each session to the file that `SSLKEYLOGFILE` names, if it does: whoever has it can read everything that was
    /// recorded. For looking for faults.
    pub fn log_keys(mut self) -> Self {
        Arc::make_mut(&mut self.config).key_log = Arc::new(KeyLogFile::new());
        self
    }

    /// Uses other certificates from now on, on all reactors, for connections whose handshake begins. Those that are there go on, and so do
    /// sessions that clients resume. From any thread, at any time: it waits for nobody.
    ///
    /// # Errors
    /// [`Error::InvalidSetting`](crate::Error::InvalidSetting) if there are none; then the ones that there were stay.
    pub fn reload(&self, identities: impl IntoIterator<Item = Identity>) -> Result<()> {
        *self.certificates.0.write() = some(identities)?;
        Ok(())
    }

    /// What can only be set before anything else is set anew.
    fn rebuild(mut self) -> Result<Self> {
        let mut config =
            configure(&self.certificates, &self.ticketer, &self.versions, self.clients.as_ref())?;
        config.alpn_protocols.clone_from(&self.config.alpn_protocols);
        config.key_log = self.config.key_log.clone();
        self.config = Arc::new(config);
        Ok(self)
    }
}

fn some(identities: impl IntoIterator<Item = Identity>) -> Result<Arc<[Identity]>> {
    let identities: Arc<[Identity]> = identities.into_iter().collect();
    if identities.is_empty() { Err(invalid("a server needs a certificate")) } else { Ok(identities) }
}

fn configure(
    certificates: &Arc<Certificates>,
    ticketer: &Arc<dyn ProducesTickets>,
    wanted: &[Version],
    clients: Option<&(Roots, bool)>,
) -> Result<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&versions(wanted)?)
        .map_err(|error| invalid(error.to_string()))?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some((roots, required)) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.0.clone(), provider());
            let verifier = if *required { verifier } else { verifier.allow_unauthenticated() };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| invalid(error.to_string()))?)
        }
    };
    let mut config = builder.with_cert_resolver(certificates.clone());
    // In place of a cache: every reactor, and every server with the same clone of this, takes what any has given.
    config.ticketer = ticketer.clone();
    Ok(config)
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("certificates", &self.certificates)
            .field("versions", &self.versions)
            .field("clients", &self.clients)
            .finish_non_exhaustive()
    }
}

/// Those of a server, which may change.
#[derive(Debug)]
struct Certificates(RwLock<Arc<[Identity]>>);

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        note_server_name(hello.server_name());
        let identities = self.0.read().clone();
        let fits = |identity: &&Identity| identity.0.key.choose_scheme(hello.signature_schemes()).is_some();
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let named = name.filter(|_| identities.len() > 1).and_then(|name| {
            identities.iter().filter(fits).find(|identity| is_for(&identity.0, &name)).cloned()
        });
        let any = || identities.iter().find(fits).cloned();
        named.or_else(any).map(|identity| identity.0)
    }
}

fn is_for(certified: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let parsed = certified.end_entity_cert().ok().and_then(|der| ParsedCertificate::try_from(der).ok());
    parsed.is_some_and(|certificate| verify_server_name(&certificate, name).is_ok())
}

impl MakeFilter for Server {
    fn make(&self, _peer: &Address) -> Result<Box<dyn Filter>, CloseReason> {
        let side = UnbufferedServerConnection::new(self.config.clone())
            .map_err(|error| CloseReason::Tls(Error::new(error)))?;
        Ok(Box::new(Layer::new(Engine::new(side, None))))
    }
}

impl ListenOptions {
    /// Whoever connects has to speak TLS: the handler is called once the handshake is over, and reads and writes what is encrypted on
    /// the way. See [`docs::tls`](crate::docs::tls).
    pub fn tls(mut self, server: Server) -> Self {
        self.filters.cipher = Some(Arc::new(server));
        self
    }
}
