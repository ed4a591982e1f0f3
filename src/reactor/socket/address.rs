//! Where a stream goes to: TCP over IPv4 or IPv6, a Unix-domain path, or a name within the process.

use super::lookup::Lookup;
use crate::error::{Error, Result};
use socket2::SockAddr;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
#[cfg(target_os = "linux")]
use std::{ffi::OsString, os::unix::ffi::OsStringExt};

/// The address of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix-domain stream socket at a path; the path is empty for a client's end, which has none. On Linux, a path that begins
    /// with a zero byte is a name in the abstract namespace, which needs no file.
    Unix(PathBuf),
    /// A name within this process, which needs no system: `"memory:name"`. It is empty for a client's end, which has none, and for
    /// both ends of a [`pair`](crate::reactor::pair).
    Memory(Arc<str>),
}

impl Address {
    /// The TCP port, if it is a TCP address.
    pub fn port(&self) -> Option<u16> {
        match self {
            Address::Tcp(address) => Some(address.port()),
            Address::Unix(_) | Address::Memory(_) => None,
        }
    }

    /// An IPv4 address that is written as an IPv6 one (`::ffff:192.0.2.1`, as the clients of an IPv6 socket are seen) as
    /// what it is; any other as it is.
    pub fn to_canonical(&self) -> Address {
        match self {
            Address::Tcp(address) => Address::Tcp(canonical(*address)),
            other => other.clone(),
        }
    }

    /// With this port, where it is left to the system.
    pub(crate) fn with_port_if_open(&self, port: Option<u16>) -> Address {
        let mut with = self.clone();
        if let (Address::Tcp(address), Some(port)) = (&mut with, port)
            && address.port() == 0
        {
            address.set_port(port);
        }
        with
    }

    /// A number for those that are reached in the same way.
    pub(super) fn family(&self) -> u8 {
        match self {
            Address::Tcp(SocketAddr::V4(_)) => 0,
            Address::Tcp(SocketAddr::V6(_)) => 1,
            Address::Unix(_) => 2,
            Address::Memory(_) => 3,
        }
    }

    pub(crate) fn to_sock_addr(&self) -> io::Result<SockAddr> {
        match self {
            Address::Tcp(address) => Ok(SockAddr::from(*address)),
            Address::Unix(path) => SockAddr::unix(path),
            Address::Memory(_) => {
                Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no socket's address"))
            }
        }
    }

    pub(crate) fn from_sock_addr(address: &SockAddr) -> Self {
        match address.as_socket() {
            Some(address) => Address::Tcp(address),
            None => {
                Address::Unix(address.as_pathname().map(Path::to_path_buf).unwrap_or_else(|| name(address)))
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => match abstract_name(path) {
                Some(name) => write!(f, "unix:@{}", String::from_utf8_lossy(name)),
                None => write!(f, "unix:{}", path.display()),
            },
            Address::Memory(name) => write!(f, "memory:{name}"),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Address::Tcp(address)
    }
}

/// What can be listened on or connected to: `"host:port"`, `"[::1]:7000"`, `"unix:/path"`, on Linux `"unix:@name"` for a name in
/// the abstract namespace, `"memory:name"` for a name within this process, a `SocketAddr`, a `(host, port)` pair, a `Path`, or an
/// [`Address`].
pub trait ToAddresses {
    /// The addresses in the order in which they should be tried; never none. A name is resolved by the system, which
    /// may block.
    fn to_addresses(&self) -> Result<Vec<Address>>;

    /// The same, to be looked up later, and as often as it is needed. Unless defined otherwise, what it is now.
    fn to_lookup(&self) -> Lookup {
        Lookup::fixed(self.to_addresses())
    }
}

impl ToAddresses for str {
    fn to_addresses(&self) -> Result<Vec<Address>> {
        if let Some(name) = self.strip_prefix("memory:") {
            return Ok(vec![Address::Memory(name.into())]);
        }
        match self.strip_prefix("unix:") {
            Some(path) => match path.strip_prefix('@') {
                Some(name) if cfg!(target_os = "linux") => Path::new(&format!("\0{name}")).to_addresses(),
                _ => Path::new(path).to_addresses(),
            },
            None => resolve(self, self),
        }
    }

    fn to_lookup(&self) -> Lookup {
        if self.starts_with("unix:") || self.starts_with("memory:") {
            return Lookup::fixed(self.to_addresses());
        }
        Lookup::name(self.to_owned())
    }
}

impl ToAddresses for String {
    fn to_addresses(&self) -> Result<Vec<Address>> {
        self.as_str().to_addresses()
    }

    fn to_lookup(&self) -> Lookup {
        self.as_str().to_lookup()
    }
}

impl ToAddresses for (&str, u16) {
    fn to_addresses(&self) -> Result<Vec<Address>> {
        resolve(*self, &format!("{}:{}", self.0, self.1))
    }

    fn to_lookup(&self) -> Lookup {
        match self.0.parse::<IpAddr>() {
            Ok(address) => Lookup::fixed((address, self.1).to_addresses()),
            Err(_) => Lookup::name(format!("{}:{}", self.0, self.1)),
        }
    }
}

impl ToAddresses for (IpAddr, u16) {
    fn to_addresses(&self) -> Result<Vec<Address>> {
        Ok(vec![Address::Tcp((*self).into())])
    }
}

impl ToAddresses for SocketAddr {
    fn to_addresses(&self) -> Result<Vec<Address>> {
        Ok(vec![Address::Tcp(*self)])
    }
}

impl ToAddresses for Address {
    fn to_addresses(&self) -> Result<Vec<Address>> {
        Ok(vec![self.clone()])
    }
}

impl ToAddresses for Path {
    fn to_addresses(&self) -> Result<Vec<Address>> {
        match SockAddr::unix(self) {
            Ok(_) => Ok(vec![Address::Unix(self.to_path_buf())]),
            Err(source) => Err(Error::Address { address: format!("unix:{}", self.display()), source }),
        }
    }
}

impl ToAddresses for PathBuf {
    fn to_addresses(&self) -> Result<Vec<Address>> {
        self.as_path().to_addresses()
    }
}

/// All of them, in order.
impl<A: ToAddresses> ToAddresses for [A] {
    fn to_addresses(&self) -> Result<Vec<Address>> {
        let mut addresses = Vec::new();
        for some in self {
            addresses.append(&mut some.to_addresses()?);
        }
        if addresses.is_empty() {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "the list of addresses is empty");
            return Err(Error::Address { address: "[]".to_owned(), source });
        }
        Ok(addresses)
    }

    fn to_lookup(&self) -> Lookup {
        Lookup::all(self.iter().map(ToAddresses::to_lookup).collect())
    }
}

impl<A: ToAddresses> ToAddresses for Vec<A> {
    fn to_addresses(&self) -> Result<Vec<Address>> {
        self.as_slice().to_addresses()
    }

    fn to_lookup(&self) -> Lookup {
        self.as_slice().to_lookup()
    }
}

impl<A: ToAddresses + ?Sized> ToAddresses for &A {
    fn to_addresses(&self) -> Result<Vec<Address>> {
        (**self).to_addresses()
    }

    fn to_lookup(&self) -> Lookup {
        (**self).to_lookup()
    }
}

/// The name of a socket in the abstract namespace.
pub(super) fn abstract_name(path: &Path) -> Option<&[u8]> {
    path.as_os_str().as_bytes().strip_prefix(&[0])
}

#[cfg(target_os = "linux")]
fn name(address: &SockAddr) -> PathBuf {
    let name = address.as_abstract_namespace().map(|name| [&[0], name].concat());
    PathBuf::from(OsString::from_vec(name.unwrap_or_default()))
}

#[cfg(not(target_os = "linux"))]
fn name(_address: &SockAddr) -> PathBuf {
    PathBuf::new()
}

fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => (ip, address.port()).into(),
        // As it was: it may have a scope.
        IpAddr::V6(_) => address,
    }
}

fn resolve(name: impl ToSocketAddrs, shown: &str) -> Result<Vec<Address>> {
    let nothing = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    name.to_socket_addrs()
        .and_then(|addresses| {
            let addresses: Vec<Address> = addresses.map(Address::Tcp).collect();
            if addresses.is_empty() { Err(nothing()) } else { Ok(addresses) }
        })
        .map_err(|source| Error::Address { address: shown.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_every_form() {
        let v6: SocketAddr = "[::1]:7000".parse().unwrap();
        assert_eq!("[::1]:7000".to_addresses().unwrap(), [Address::Tcp(v6)]);
        assert_eq!(("127.0.0.1", 80).to_addresses().unwrap()[0].to_string(), "127.0.0.1:80");
        assert_eq!("unix:/tmp/s".to_addresses().unwrap(), [Address::Unix("/tmp/s".into())]);
        assert_eq!(Path::new("/tmp/s").to_addresses().unwrap()[0].to_string(), "unix:/tmp/s");
    }

    #[test]
    fn only_what_is_mapped_becomes_ipv4() {
        let canonical = |text: &str| Address::Tcp(text.parse().unwrap()).to_canonical().to_string();
        assert_eq!(canonical("[::ffff:192.0.2.1]:80"), "192.0.2.1:80");
        for other in ["[::1]:80", "[fe80::1%3]:80", "192.0.2.1:80", "[::]:80"] {
            assert_eq!(canonical(other), other);
        }
    }

    #[test]
    fn what_is_no_address_says_so() {
        for wrong in ["nonsense", "127.0.0.1", "127.0.0.1:99999", &format!("unix:/{}", "x".repeat(200))] {
            let error = wrong.to_addresses().unwrap_err().to_string();
            assert!(error.contains(wrong), "{error}");
        }
    }
}
