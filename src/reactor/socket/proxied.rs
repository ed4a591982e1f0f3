//! Servers behind proxies that say, in front of everything else, for whom they speak.

use super::address::Address;
use super::incoming::Incoming;
use super::newcomer::make_handler;
use super::options::ListenOptions;
use crate::error::{Error, Result};
use crate::reactor::stream::connection::{Connection, Link};
use crate::reactor::stream::filter::{Filter, MakeFilter};
use crate::reactor::stream::handler::{CloseReason, Handler};
use crate::reactor::stream::io::Io;
use crate::reactor::stream::proxy_header::{Expects, ExpectsNothing, refused};
use crate::reactor::table::Id;
use crate::reactor::{Reactor, Shared};
use std::any::Any;
use std::net::IpAddr;
use std::sync::Arc;

/// Which peers are proxies that say for whom they speak, by the
/// [PROXY protocol](https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt), versions 1 and 2.
///
/// ```
/// # use trochus::net::{ListenOptions, ProxyProtocol};
/// let options = ListenOptions::new().proxy_protocol(ProxyProtocol::new().trust("10.1.0.0/16").trust("::1"));
/// ```
///
/// Whether a header comes is decided by who connects, and never guessed from what comes: whoever is trusted has to send one, and
/// from everybody else it would be data. What a proxy says is believed, so only proxies should be trusted.
#[derive(Clone, Debug, Default)]
pub struct ProxyProtocol {
    networks: Vec<Network>,
    unix: bool,
    others: bool,
    wrong: Option<String>,
}

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u32,
}

impl ProxyProtocol {
    /// Nobody is trusted yet.
    pub fn new() -> Self {
        ProxyProtocol::default()
    }

    /// Trusts an address (`192.0.2.1`, `::1`), all addresses of a network (`10.0.0.0/8`, `2001:db8::/32`), or, with `unix`, whoever
    /// connects to a Unix-domain socket. Listening fails with [`Error::InvalidSetting`] if it is none of these.
    pub fn trust(mut self, who: &str) -> Self {
        match Network::parse(who) {
            _ if who == "unix" => self.unix = true,
            Some(network) => self.networks.push(network),
            None => self.wrong = Some(who.to_owned()),
        }
        self
    }

    /// Serves whoever is not trusted as well, under its own address and without a header. Unless set, it is turned away.
    pub fn others_without(mut self) -> Self {
        self.others = true;
        self
    }

    fn trusts(&self, peer: &Address) -> bool {
        match peer {
            Address::Tcp(address) => self.networks.iter().any(|network| network.contains(address.ip())),
            Address::Unix(_) => self.unix,
            Address::Memory(_) => false,
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        if let Some(wrong) = &self.wrong {
            return Err(Error::InvalidSetting(format!(
                "`{wrong}` is no address, no network and not `unix`, and cannot be trusted as a proxy"
            )));
        }
        if self.networks.is_empty() && !self.unix {
            return Err(Error::InvalidSetting(
                "no proxy is trusted: `ProxyProtocol::trust` says which".to_owned(),
            ));
        }
        Ok(())
    }
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let all = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            // `parse` takes a sign.
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => bits.parse().ok()?,
            Some(_) => return None,
            None => all,
        };
        (bits <= all).then_some(())?;
        // As peers are named.
        match address.to_canonical() {
            canonical if canonical.is_ipv4() && all == 128 && bits >= 96 => {
                Some(Network { address: canonical, bits: bits - 96 })
            }
            _ => Some(Network { address, bits }),
        }
    }

    fn contains(&self, ip: IpAddr) -> bool {
        // Of no bits at all there is nothing to shift.
        match (self.address, ip) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => {
                let differ = u32::from(own) ^ u32::from(ip);
                differ.checked_shr(32 - self.bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(ip)) => {
                let differ = u128::from(own) ^ u128::from(ip);
                differ.checked_shr(128 - self.bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl MakeFilter for ProxyProtocol {
    fn make(&self, peer: &Address) -> std::result::Result<Box<dyn Filter>, CloseReason> {
        match self.trusts(peer) {
            true => Ok(Box::new(Expects::default())),
            false if self.others => Ok(Box::new(ExpectsNothing)),
            false => Err(refused(peer, "its peer is not trusted to say one")),
        }
    }
}

impl ListenOptions {
    /// Takes the peers' addresses from the headers of proxies in front of this server. Off unless set.
    ///
    /// What a header says of the client is from then on the [peer](crate::reactor::Io::peer_addr) of the connection, for its
    /// handler, its handles, the [limits of each peer](Self::max_connections_per_peer) and the log; and the server decides about it
    /// ([`Incoming`]) when it has come. Where a proxy speaks for itself (`LOCAL`), or does not know (`UNKNOWN`), or where its client
    /// has no address of IP, the peer is the proxy. The proxy's own address is always that of the
    /// [socket](crate::reactor::Io::socket). What else a header of version 2 tells (TLVs) is passed over.
    ///
    /// A header that is wrong, or that does not come within
    /// [`handshake_timeout`](crate::reactor::StreamOptions::handshake_timeout), ends the connection with a reset
    /// ([`CloseReason::ProxyHeader`], [`CloseReason::HandshakeTimeout`]), as does a peer that is not trusted. No handler hears of it,
    /// for there is none yet: these are logged, at most once a minute, and counted
    /// ([`proxy_headers_refused`](crate::Metrics::proxy_headers_refused),
    /// [`handshake_timeouts`](crate::Metrics::handshake_timeouts)).
    pub fn proxy_protocol(mut self, proxies: ProxyProtocol) -> Self {
        self.proxies = Some(Arc::new(proxies));
        self
    }
}

type Make = Box<dyn FnOnce(&Incoming<'_>) -> Option<Box<dyn Handler>>>;

/// In the place of a handler that is made once its peer is known.
pub(super) struct Expected(Option<Make>);

impl Expected {
    pub(super) fn by(
        make: impl FnOnce(&Incoming<'_>) -> Option<Box<dyn Handler>> + 'static,
    ) -> Box<dyn Handler> {
        Box::new(Expected(Some(Box::new(make))))
    }
}

impl Handler for Expected {
    fn on_bytes(&mut self, _io: &mut Io<'_>, _bytes: &[u8]) -> usize {
        0
    }
}

/// Notes whose connection it is, once a header has said that. `false` if that one has too many.
fn name_seat(link: &mut Link, shared: &Shared) -> bool {
    let is_admitted = link.seat.as_mut().is_none_or(|seat| seat.name(&link.peer, shared.now));
    if !is_admitted {
        shared.counters.peers_over_limit.add(1);
        crate::log::peer_refused(&link.peer);
    }
    is_admitted
}

impl Reactor {
    /// The header has come, and a handshake is still to follow: whose connection it is counts from now on. `false` if it is refused.
    pub(in crate::reactor) fn name_client(&mut self, id: Id) -> bool {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return false };
        let is_admitted = name_seat(link, &self.shared);
        if !is_admitted {
            self.shared.counters.connections_refused.add(1);
            self.change(id, |link| link.fail(CloseReason::Aborted));
        }
        is_admitted
    }

    /// Makes the handler of a connection whose peer was not known before. `false` if it is refused.
    pub(super) fn welcome(&mut self, id: Id) -> bool {
        let Some(Connection { handler, link }) = self.connections.get_mut(id) else { return false };
        if link.options.filters.header.is_none() {
            return true;
        }
        let expected: &mut dyn Any = &mut **handler;
        let Some(make) = expected.downcast_mut().and_then(|Expected(make)| make.take()) else { return true };
        if !name_seat(link, &self.shared) {
            // Too many.
        } else if let Some(made) = make_handler(&self.shared, &link.wire.incoming(&link.peer), make) {
            *handler = made;
            return true;
        }
        self.shared.counters.connections_refused.add(1);
        self.change(id, |link| link.fail(CloseReason::Aborted));
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_what_begins_as_they_do() {
        let contains = |network: &str, ip: &str| {
            let network = Network::parse(network).unwrap_or_else(|| panic!("{network}"));
            network.contains(ip.parse().unwrap())
        };
        for (network, ip) in [
            ("0.0.0.0/0", "255.1.2.3"),
            ("10.0.0.0/8", "10.255.0.1"),
            ("10.1.2.3/8", "10.255.0.1"),
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.0/31", "192.0.2.1"),
            ("::ffff:10.0.0.0/104", "10.9.9.9"),
            ("::/0", "2001:db8::1"),
            ("2001:db8::/33", "2001:db8:7fff::1"),
            ("::1", "::1"),
        ] {
            assert!(contains(network, ip), "{network} {ip}");
        }
        for (network, ip) in [
            ("10.0.0.0/8", "11.0.0.0"),
            ("192.0.2.0/31", "192.0.2.2"),
            ("192.0.2.1", "192.0.2.0"),
            ("0.0.0.0/0", "::1"),
            ("::/0", "10.0.0.1"),
            ("2001:db8::/33", "2001:db8:8000::1"),
            ("::1", "::2"),
        ] {
            assert!(!contains(network, ip), "{network} {ip}");
        }
        for wrong in
            ["", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/", "10.0.0.0/+8", "host", "10.0.0.0/8/8"]
        {
            assert_eq!(Network::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn who_is_to_be_trusted_has_to_be_said() {
        let fails = |proxies: ProxyProtocol| proxies.check().is_err();
        assert!(fails(ProxyProtocol::new()) && fails(ProxyProtocol::new().others_without()));
        assert!(fails(ProxyProtocol::new().trust("::1").trust("nobody")));
        assert!(!fails(ProxyProtocol::new().trust("unix")) && !fails(ProxyProtocol::new().trust("::/0")));
    }
}
