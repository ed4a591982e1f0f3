//! How many connections one peer may have at a server, and how often it may come.

use super::address::Address;
use super::options::ListenOptions;
use crate::config::{NEVER, PEERS_REMEMBERED};
use crate::error::{Error, Result};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// The limits of each peer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PeerLimits {
    connections: Option<usize>,
    rate: Option<Rate>,
}

/// So many connections at once, and as many again in each period.
#[derive(Clone, Copy, Debug)]
struct Rate {
    connections: u32,
    period: Duration,
}

/// Limits for each peer, so that one of them cannot take what there is for all. A peer is an IPv4 address, or the first 64 bits of an
/// IPv6 address: who has a network of that size has all of its addresses (RFC 4291, 2.5.1). Many users may be behind one address, and
/// everybody is behind that of a proxy. Peers of Unix-domain sockets have none, and no such limits.
impl ListenOptions {
    /// Connections that one peer may have at a time. Those beyond are closed at once, and counted as refused and in
    /// [`peers_over_limit`](crate::Metrics::peers_over_limit). As many as the server has, unless set.
    pub fn max_connections_per_peer(mut self, connections: usize) -> Self {
        self.peers.connections = Some(connections);
        self
    }

    /// New connections that one peer may make at once, and one more in each `period / connections` behind that, until it may make
    /// all of them at once again. Those beyond are closed at once, and counted as those beyond
    /// [`max_connections_per_peer`](Self::max_connections_per_peer) are. Any number, unless set.
    pub fn max_rate_per_peer(mut self, connections: u32, period: Duration) -> Self {
        self.peers.rate = Some(Rate { connections, period });
        self
    }
}

impl PeerLimits {
    pub(crate) fn check(&self) -> Result<()> {
        let is_none = |rate: Rate| rate.connections == 0 || rate.period.is_zero() || rate.period >= NEVER;
        if self.connections == Some(0) || self.rate.is_some_and(is_none) {
            return Err(Error::InvalidSetting(
                "a peer must be allowed at least one connection, and a rate needs a period of less than `NEVER`".to_owned(),
            ));
        }
        Ok(())
    }

    fn are_none(&self) -> bool {
        self.connections.is_none() && self.rate.is_none()
    }
}

/// Whom a limit is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Peer(IpAddr);

impl Peer {
    fn of(address: &Address) -> Option<Self> {
        let Address::Tcp(address) = address else { return None };
        Some(Peer(match address.ip() {
            IpAddr::V6(ip) => {
                let network = u128::from(ip) >> 64 << 64;
                IpAddr::V6(Ipv6Addr::from(network))
            }
            v4 => v4,
        }))
    }
}

/// The peers of one server that have connections, or had some lately.
#[derive(Debug)]
pub(super) struct Peers {
    limits: PeerLimits,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<Peer, Entry>,
    /// Forgets when there are so many.
    sweep_at: usize,
}

#[derive(Debug)]
struct Entry {
    connections: usize,
    /// When all that it was allowed at once is allowed again: the generic cell rate algorithm's theoretical arrival time (ITU-T I.371).
    restored: Instant,
}

impl Peers {
    pub(super) fn new(limits: PeerLimits) -> Self {
        Peers { limits, table: Mutex::default() }
    }

    /// Counts a new connection, and for whom it was counted. An error if it is one too many.
    pub(super) fn admit(&self, address: &Address, now: Instant) -> Result<Option<Peer>, TooMany> {
        if self.limits.are_none() {
            return Ok(None);
        }
        let Some(peer) = Peer::of(address) else { return Ok(None) };
        let mut table = self.table.lock();
        table.sweep(now);
        let entry = table.entries.entry(peer).or_insert(Entry { connections: 0, restored: now });
        if self.limits.connections.is_some_and(|most| entry.connections >= most) {
            return Err(TooMany);
        }
        if let Some(rate) = self.limits.rate {
            let restored = entry.restored.max(now) + rate.period / rate.connections;
            if restored.saturating_duration_since(now) > rate.period {
                return Err(TooMany);
            }
            entry.restored = restored;
        }
        entry.connections += 1;
        Ok(Some(peer))
    }

    pub(super) fn leave(&self, peer: Peer) {
        if let Some(entry) = self.table.lock().entries.get_mut(&peer) {
            entry.connections -= 1;
        }
    }
}

/// A peer has too many connections, or comes too often.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooMany;

impl Table {
    /// Now and then forgets those that have no connection and may make all of theirs again; and if that is not enough, those that
    /// have no connection.
    fn sweep(&mut self, now: Instant) {
        if self.entries.len() < self.sweep_at.max(64) {
            return;
        }
        self.entries.retain(|_, entry| entry.connections > 0 || entry.restored > now);
        if self.entries.len() >= PEERS_REMEMBERED {
            self.entries.retain(|_, entry| entry.connections > 0);
        }
        self.entries.shrink_to(2 * self.entries.len());
        self.sweep_at = 2 * self.entries.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn tcp(text: &str) -> Address {
        Address::Tcp(text.parse().unwrap())
    }

    fn numbered(n: u32) -> Address {
        Address::Tcp((n.to_be_bytes(), 1).into())
    }

    #[test]
    fn each_peer_has_so_many_and_gives_them_back() {
        let options = ListenOptions::new().max_connections_per_peer(2);
        let (peers, now) = (Peers::new(options.peers), Instant::now());
        let admit = |address: &Address| peers.admit(address, now);
        let (one, other) = (tcp("192.0.2.1:1"), tcp("192.0.2.2:1"));
        let seat = admit(&one).unwrap().unwrap();
        admit(&tcp("192.0.2.1:2")).unwrap();
        assert_eq!(admit(&one), Err(TooMany));
        admit(&other).unwrap();
        peers.leave(seat);
        admit(&one).unwrap();
        assert_eq!(admit(&one), Err(TooMany));
        for _ in 0..9 {
            assert_eq!(admit(&Address::Unix("/tmp/x".into())), Ok(None));
        }
    }

    #[test]
    fn a_network_of_64_bits_is_one_peer() {
        let peers = Peers::new(ListenOptions::new().max_connections_per_peer(1).peers);
        let admit = |text: &str| peers.admit(&tcp(text), Instant::now()).map(drop);
        assert_eq!(admit("[2001:db8:1:2::1]:1"), Ok(()));
        assert_eq!(admit("[2001:db8:1:2:ffff::]:1"), Err(TooMany));
        assert_eq!(admit("[2001:db8:1:3::1]:1"), Ok(()));
    }

    #[test]
    fn a_rate_allows_a_burst_and_then_one_at_a_time() {
        let peers = Peers::new(ListenOptions::new().max_rate_per_peer(4, 8 * SECOND).peers);
        let (start, one) = (Instant::now(), tcp("192.0.2.1:1"));
        let come = |at: Duration| {
            peers.admit(&one, start + at).map(|peer| peers.leave(peer.expect("it is counted"))).is_ok()
        };
        assert!((0..4).all(|_| come(Duration::ZERO)));
        assert!(!come(Duration::ZERO) && !come(2 * SECOND - Duration::from_nanos(1)));
        assert!(come(2 * SECOND) && !come(2 * SECOND));
        // What was refused is not counted, and what was not used is kept for one period.
        assert!((0..4).all(|_| come(100 * SECOND)) && !come(100 * SECOND));
    }

    #[test]
    fn who_has_gone_is_forgotten() {
        let options = ListenOptions::new().max_rate_per_peer(1, SECOND);
        let (peers, start) = (Peers::new(options.peers), Instant::now());
        let len = || peers.table.lock().entries.len();
        let stays = peers.admit(&numbered(0), start).unwrap().unwrap();
        for n in 1..1000 {
            let peer = peers.admit(&numbered(n), start).unwrap().unwrap();
            peers.leave(peer);
        }
        assert_eq!(len(), 1000, "nothing is forgotten that would be allowed too early");
        assert_eq!(peers.admit(&numbered(7), start), Err(TooMany));
        for n in 1000..3000 {
            let peer = peers.admit(&numbered(n), start + 2 * SECOND).unwrap().unwrap();
            peers.leave(peer);
        }
        assert!(len() < 2600, "{}", len());
        // However many come at once.
        for n in 0..3 * PEERS_REMEMBERED as u32 {
            let peer = peers.admit(&numbered(10_000 + n), start + 3 * SECOND).unwrap().unwrap();
            peers.leave(peer);
        }
        assert!(len() <= 2 * PEERS_REMEMBERED, "{}", len());
        assert!(peers.table.lock().entries.contains_key(&stays), "it has a connection");
    }
}
