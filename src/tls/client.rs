//! The connecting side.

use super::engine::Engine;
use super::error::Error;
use super::identity::{Identity, Roots, invalid};
use super::layer::Layer;
use super::{Version, provider, versions};
use crate::error::Result;
use crate::reactor::{Address, CloseReason, Filter, MakeFilter, StreamOptions};
use rustls::client::{ResolvesClientCert, Resumption, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, KeyLogFile, SignatureScheme};
use std::fmt;
use std::sync::Arc;

/// TLS for those to whom one connects: [`StreamOptions::tls`]. A clone is the same, and resumes its sessions.
#[derive(Clone)]
#[must_use]
pub struct Client {
    roots: Roots,
    name: Option<ServerName<'static>>,
    versions: Vec<Version>,
    identity: Option<Identity>,
    resumes: bool,
    config: Arc<ClientConfig>,
}

impl Client {
    /// Servers have to have a certificate that one of these certifies: the versions 1.2 and 1.3, no protocol (ALPN), no certificate of
    /// its own, and sessions are resumed where servers take part.
    ///
    /// # Errors
    /// [`Error::InvalidSetting`](crate::Error::InvalidSetting).
    pub fn new(roots: Roots) -> Result<Self> {
        let versions = Version::ALL.to_vec();
        let config = Arc::new(configure(&roots, &versions, None)?);
        Ok(Client { roots, name: None, versions, identity: None, resumes: true, config })
    }

    /// The same with those that the [system](Roots::native) trusts.
    pub fn native_roots() -> Result<Self> {
        Client::new(Roots::native()?)
    }

    /// Whom the server's certificate has to be for, which it is also asked for (SNI): a name such as `example.org`, or an address.
    /// Without one, it is the address that is connected to, which Unix-domain sockets have none of.
    ///
    /// # Errors
    /// [`Error::InvalidSetting`](crate::Error::InvalidSetting) if it is neither.
    pub fn server_name(mut self, name: &str) -> Result<Self> {
        let name = ServerName::try_from(name)
            .map_err(|_| invalid(format!("{name:?} is neither a server's name nor an address")))?;
        self.name = Some(name.to_owned());
        Ok(self)
    }

    /// The protocols that this side speaks, the one that it likes best first (ALPN).
    pub fn alpn<P: AsRef<[u8]>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        Arc::make_mut(&mut self.config).alpn_protocols =
            protocols.into_iter().map(|protocol| protocol.as_ref().to_vec()).collect();
        self
    }

    /// What it shows a server that asks for a certificate (mutual TLS).
    pub fn identity(mut self, identity: Identity) -> Result<Self> {
        self.identity = Some(identity);
        self.rebuild()
    }

    /// Only these versions.
    ///
    /// # Errors
    /// [`Error::InvalidSetting`](crate::Error::InvalidSetting) if there are none.
    pub fn versions(mut self, versions: impl IntoIterator<Item = Version>) -> Result<Self> {
        self.versions = versions.into_iter().collect();
        self.rebuild()
    }

    /// Whether sessions are resumed, which saves time on both sides. On by default; of 256 servers at most.
    pub fn resumption(mut self, on: bool) -> Self {
        self.resumes = on;
        Arc::make_mut(&mut self.config).resumption = resumption(on);
        self
    }

    /// As [`Server::log_keys`](super::Server::log_keys).
    pub fn log_keys(mut self) -> Self {
        Arc::make_mut(&mut self.config).key_log = Arc::new(KeyLogFile::new());
        self
    }

    /// What can only be set before anything else is set anew.
    fn rebuild(mut self) -> Result<Self> {
        let mut config = configure(&self.roots, &self.versions, self.identity.as_ref())?;
        config.alpn_protocols.clone_from(&self.config.alpn_protocols);
        config.key_log = self.config.key_log.clone();
        // With none of the sessions that there were: those were another client's.
        config.resumption = resumption(self.resumes);
        self.config = Arc::new(config);
        Ok(self)
    }

    fn name_of(&self, peer: &Address) -> Option<ServerName<'static>> {
        match (&self.name, peer) {
            (Some(name), _) => Some(name.clone()),
            (None, Address::Tcp(address)) => Some(ServerName::IpAddress(address.ip().into())),
            (None, Address::Unix(_) | Address::Memory(_)) => None,
        }
    }
}

fn resumption(on: bool) -> Resumption {
    if on { Resumption::default() } else { Resumption::disabled() }
}

fn configure(roots: &Roots, wanted: &[Version], identity: Option<&Identity>) -> Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&versions(wanted)?)
        .map_err(|error| invalid(error.to_string()))?
        .with_root_certificates(roots.0.clone());
    Ok(match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder.with_client_cert_resolver(Arc::new(Shows(identity.clone()))),
    })
}

/// Shows what it has to whoever asks.
#[derive(Debug)]
struct Shows(Identity);

impl ResolvesClientCert for Shows {
    fn resolve(&self, _issuers: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.0.key.choose_scheme(schemes).map(|_| self.0.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("roots", &self.roots)
            .field("server_name", &self.name)
            .field("versions", &self.versions)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl MakeFilter for Client {
    fn make(&self, peer: &Address) -> Result<Box<dyn Filter>, CloseReason> {
        let failed = |error| CloseReason::Tls(Error::new(error));
        let name = self
            .name_of(peer)
            .ok_or_else(|| failed(rustls::Error::General("no server_name for this address".into())))?;
        let asked_for = match &name {
            ServerName::DnsName(name) => Some(name.as_ref().to_owned()),
            _ => None,
        };
        let side = UnbufferedClientConnection::new(self.config.clone(), name).map_err(failed)?;
        Ok(Box::new(Layer::new(Engine::new(side, asked_for))))
    }
}

impl StreamOptions {
    /// Speaks TLS as a client: the handler is called once the handshake is over. What
    /// [`connect_timeout`](Self::connect_timeout) is for connecting, [`handshake_timeout`](Self::handshake_timeout) is for that. A server
    /// has [`ListenOptions::tls`](crate::reactor::ListenOptions::tls). See [`docs::tls`](crate::docs::tls).
    pub fn tls(mut self, client: Client) -> Self {
        self.filters.cipher = Some(Arc::new(client));
        self
    }
}
