//! Addresses that are looked up when they are needed, and anew each time.

use super::address::{Address, ToAddresses};
use crate::error::{Error, Result, copy};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

/// Where to connect to, found out anew each time: a name that moved is found where it is now.
///
/// Every [`ToAddresses`] makes one; [`by`](Self::by) makes one of a function, such as a service directory's.
#[derive(Clone)]
pub struct Lookup(Kind);

#[derive(Clone)]
enum Kind {
    Fixed(Vec<Address>),
    Wrong(Arc<Error>),
    Name(String),
    All(Vec<Lookup>),
    By(Arc<dyn Fn() -> Result<Vec<Address>> + Send + Sync>),
}

impl Lookup {
    /// Asks `find` each time. It may block: it is called on a thread where it may.
    pub fn by(find: impl Fn() -> Result<Vec<Address>> + Send + Sync + 'static) -> Self {
        Lookup(Kind::By(Arc::new(find)))
    }

    /// What was found once and for all, be it an error.
    pub(super) fn fixed(found: Result<Vec<Address>>) -> Self {
        match found {
            Ok(addresses) => Lookup(Kind::Fixed(addresses)),
            Err(error) => Lookup(Kind::Wrong(Arc::new(error))),
        }
    }

    pub(super) fn name(name: String) -> Self {
        match name.parse::<SocketAddr>() {
            Ok(address) => Lookup(Kind::Fixed(vec![Address::Tcp(address)])),
            Err(_) => Lookup(Kind::Name(name)),
        }
    }

    pub(super) fn all(lookups: Vec<Lookup>) -> Self {
        Lookup(Kind::All(lookups))
    }

    /// Whether the answer is there without asking anybody.
    pub(crate) fn is_immediate(&self) -> bool {
        match &self.0 {
            Kind::Fixed(_) | Kind::Wrong(_) => true,
            Kind::Name(_) | Kind::By(_) => false,
            Kind::All(lookups) => lookups.iter().all(Lookup::is_immediate),
        }
    }

    /// The addresses as of now; never none. May block unless it [is immediate](Self::is_immediate).
    pub(crate) fn resolve(&self) -> Result<Vec<Address>> {
        let addresses = match &self.0 {
            Kind::Fixed(addresses) => addresses.clone(),
            Kind::Wrong(error) => return Err(again(error)),
            Kind::Name(name) => name.to_addresses()?,
            Kind::By(find) => find()?,
            Kind::All(lookups) => {
                let found: Result<Vec<_>> = lookups.iter().map(Lookup::resolve).collect();
                found?.concat()
            }
        };
        if addresses.is_empty() {
            let source = io::Error::new(io::ErrorKind::NotFound, "there is no address");
            return Err(Error::Address { address: "[]".to_owned(), source });
        }
        Ok(addresses)
    }
}

/// The same error once more.
fn again(error: &Error) -> Error {
    match error {
        Error::Address { address, source } => {
            Error::Address { address: address.clone(), source: copy(source) }
        }
        error => Error::InvalidSetting(error.to_string()),
    }
}

impl ToAddresses for Lookup {
    fn to_addresses(&self) -> Result<Vec<Address>> {
        self.resolve()
    }

    fn to_lookup(&self) -> Lookup {
        self.clone()
    }
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Fixed(addresses) => f.debug_tuple("Lookup").field(addresses).finish(),
            Kind::Wrong(error) => f.debug_tuple("Lookup").field(error).finish(),
            Kind::Name(name) => f.debug_tuple("Lookup").field(name).finish(),
            Kind::All(lookups) => f.debug_tuple("Lookup").field(lookups).finish(),
            Kind::By(_) => f.write_str("Lookup(by a function)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU16, Ordering};

    #[test]
    fn what_needs_nobody_is_immediate() {
        for immediate in ["127.0.0.1:80", "[::1]:80", "unix:/tmp/s"] {
            assert!(immediate.to_lookup().is_immediate(), "{immediate}");
            assert_eq!(immediate.to_lookup().resolve().unwrap(), immediate.to_addresses().unwrap());
        }
        assert!(!"localhost:80".to_lookup().is_immediate());
        assert!(!vec!["127.0.0.1:80", "localhost:80"].to_lookup().is_immediate());
        assert!(!("localhost", 80).to_lookup().is_immediate());
        assert_eq!(vec!["127.0.0.1:80", "[::1]:80"].to_lookup().resolve().unwrap().len(), 2);
    }

    #[test]
    fn a_function_is_asked_each_time() {
        let port = Arc::new(AtomicU16::new(1));
        let asked = port.clone();
        let lookup = Lookup::by(move || {
            ("127.0.0.1".parse::<std::net::IpAddr>().unwrap(), asked.fetch_add(1, Ordering::Relaxed))
                .to_addresses()
        });
        assert_eq!(lookup.resolve().unwrap()[0].port(), Some(1));
        assert_eq!(lookup.clone().resolve().unwrap()[0].port(), Some(2));
        assert!(!lookup.is_immediate());
    }

    #[test]
    fn no_address_is_an_error() {
        assert!(Lookup::by(|| Ok(Vec::new())).resolve().is_err());
        assert!(Vec::<String>::new().to_lookup().resolve().is_err());
    }
}
