//! Sockets that accept, and whom they accept for.

use super::address::{Address, abstract_name};
use super::file::{self, SocketFile};
use super::incoming::Incoming;
use super::options::{ListenOptions, OnListenError, StreamOptions};
use super::seats::{Door, Seat, Seats};
use crate::error::{Error, Result};
use crate::reactor::carrier::names::Name;
use crate::reactor::stream::handler::Handler;
use socket2::{Socket, Type};
use std::cell::RefCell;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// Makes the handler of a connection, or refuses it; never called on two threads at once.
pub(in crate::reactor) type Factory = Rc<RefCell<dyn FnMut(&Incoming<'_>) -> Option<Box<dyn Handler>>>>;

/// How often to look for a port that is free at all addresses of a name.
const PORT_ATTEMPTS: usize = 20;

/// Where accepted connections go.
pub(in crate::reactor) enum Destination {
    /// Into the accepting reactor's own table.
    Here(Factory),
    /// To other reactors, by whoever shares them out.
    Elsewhere(Box<dyn FnMut(Socket, Address, Seat)>),
}

pub(in crate::reactor) struct Listener {
    /// Removed in the end, before the socket is closed.
    pub(in crate::reactor) file: Option<SocketFile>,
    pub(in crate::reactor) entrance: Entrance,
    pub(in crate::reactor) address: Address,
    pub(in crate::reactor) stream: Rc<StreamOptions>,
    /// `None` while it is called.
    pub(in crate::reactor) destination: Option<Destination>,
    pub(in crate::reactor) seats: Arc<Seats>,
    /// Says that this socket is still there.
    pub(in crate::reactor) _door: Door,
    pub(in crate::reactor) on_error: Option<OnListenError>,
    pub(in crate::reactor) armed: bool,
    /// To be removed once the accept has ended.
    pub(in crate::reactor) closing: bool,
    pub(in crate::reactor) cancelled: bool,
    /// The accept that is armed takes what is queued, and nothing that comes later.
    pub(in crate::reactor) looking: bool,
    /// So many more of these there may be, once this closes.
    pub(in crate::reactor) looks: u32,
    /// Rests until then, because the process ran out of something.
    pub(in crate::reactor) rest_timer: Option<Instant>,
}

/// Where connections come in.
#[derive(Debug)]
pub(in crate::reactor) enum Entrance {
    Socket(Rc<Socket>),
    /// From this process.
    Memory(Name),
}

impl Entrance {
    pub(in crate::reactor) fn socket(&self) -> Option<&Rc<Socket>> {
        match self {
            Entrance::Socket(socket) => Some(socket),
            Entrance::Memory(_) => None,
        }
    }

    /// What operations are submitted for. There are none where there is no socket.
    pub(in crate::reactor) fn descriptor(&self) -> RawFd {
        self.socket().map_or(-1, |socket| socket.as_raw_fd())
    }
}

/// Somewhere to listen, by a socket that does already or by a name, and where that is.
#[derive(Debug)]
pub(crate) struct Bound {
    /// Removed in the end, before the socket is closed.
    pub(crate) file: Option<SocketFile>,
    pub(in crate::reactor) place: Place,
    pub(crate) address: Address,
    /// It comes from outside.
    pub(crate) shared: bool,
}

/// What an [`Entrance`] is made of.
#[derive(Debug)]
pub(in crate::reactor) enum Place {
    Socket(Socket),
    Memory(Name),
}

/// Which of several sockets at one address this is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    /// The first one makes sure that nobody else has the address; the others join it.
    pub(crate) first: bool,
    /// Connections whose packets this processor handles come to this socket.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only Linux can be asked for that"))]
    pub(crate) cpu: Option<usize>,
}

/// Binds to the first of `addresses` that works.
pub(crate) fn bind(addresses: &[Address], options: &ListenOptions) -> Result<Bound> {
    let mut failure = None;
    for address in addresses {
        match bind_one(address, options, None) {
            Ok(bound) => return Ok(bound),
            Err(source) => failure = Some(Error::listen(address, source)),
        }
    }
    Err(failure.expect("`ToAddresses` never gives none"))
}

/// Binds to all of `addresses`, but for those that no interface of this machine has; if that is none of them, it fails. Where the port is left to the system,
/// all get the one that the first got.
pub(crate) fn bind_all(
    addresses: &[Address],
    options: &ListenOptions,
    share: &dyn Fn(&Address) -> Option<Share>,
) -> Result<Vec<Bound>> {
    let mut failure = None;
    'attempts: for _ in 0..PORT_ATTEMPTS {
        let mut all: Vec<Bound> = Vec::new();
        for address in addresses {
            let chosen = all.iter().find_map(|bound| bound.address.port());
            let wanted = address.with_port_if_open(chosen);
            if all.iter().any(|bound| bound.address == wanted) {
                // Some resolvers say everything twice.
                continue;
            }
            match bind_one(&wanted, options, share(address)) {
                Ok(bound) => all.push(bound),
                // The port that was free at one address is not at the next.
                Err(source) if source.kind() == io::ErrorKind::AddrInUse && wanted != *address => {
                    failure = Some(Error::listen(&wanted, source));
                    continue 'attempts;
                }
                Err(source) if is_nobodys(&source) => {
                    failure = Some(Error::listen(address, source));
                }
                Err(source) => return Err(Error::listen(&wanted, source)),
            }
        }
        if !all.is_empty() {
            return Ok(all);
        }
        break;
    }
    Err(failure.expect("`ToAddresses` never gives none"))
}

/// The machine has no such address, or not that family of addresses.
fn is_nobodys(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

/// A socket that somebody else has bound and that listens.
pub(crate) fn take_over(socket: OwnedFd) -> Result<Bound> {
    let socket = Socket::from(socket);
    let cannot = |source| Error::System { action: "serve a socket from outside", source };
    let address = is_served_at(&socket).map_err(cannot)?;
    socket.set_cloexec(true).map_err(cannot)?;
    Ok(Bound { file: None, place: Place::Socket(socket), address, shared: true })
}

/// Where it listens, if that is a stream socket's, over TCP or Unix-domain.
pub(crate) fn is_served_at(socket: &Socket) -> io::Result<Address> {
    let wrong = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    if socket.r#type()? != Type::STREAM {
        return wrong("it is no stream socket");
    }
    #[cfg(target_os = "linux")]
    if !socket.is_listener()? {
        return wrong("it does not listen");
    }
    let address = socket.local_addr()?;
    if !address.is_unix() && address.as_socket().is_none() {
        return wrong("it is neither a TCP nor a Unix-domain socket");
    }
    Ok(Address::from_sock_addr(&address))
}

fn bind_one(address: &Address, options: &ListenOptions, share: Option<Share>) -> io::Result<Bound> {
    if let Address::Memory(name) = address {
        let name = Name::take(name, share.is_some_and(|share| !share.first), options.backlog)?;
        let address = Address::Memory(name.name().clone());
        return Ok(Bound { place: Place::Memory(name), address, file: None, shared: false });
    }
    let target = address.to_sock_addr()?;
    let socket = Socket::new(target.domain(), Type::STREAM, None)?;
    let backlog = options.backlog.min(i32::MAX as u32) as i32;
    options.stream.apply_early((&socket).into())?;
    options.stream.apply_tuning(&socket, address)?;
    let mut file = None;
    match address {
        Address::Tcp(tcp) => {
            socket.set_reuse_address(true)?;
            if tcp.is_ipv6() {
                socket.set_only_v6(options.only_v6)?;
            }
            // Bound without sharing, the first socket fails when anybody listens there, another trochus included.
            if options.reuse_port || share.is_some_and(|share| !share.first) {
                socket.set_reuse_port(true)?;
            }
            socket.bind(&target)?;
            if share.is_some() {
                socket.set_reuse_port(true)?;
            }
            #[cfg(target_os = "linux")]
            if let Some(cpu) = share.and_then(|share| share.cpu) {
                socket.set_cpu_affinity(cpu)?;
            }
            options.apply_listening(&socket)?;
            socket.listen(backlog)?;
        }
        // It needs no file.
        Address::Unix(path) if abstract_name(path).is_some() => {
            socket.bind(&target)?;
            socket.listen(backlog)?;
        }
        Address::Memory(_) => {}
        Address::Unix(path) => file = Some(file::listen_at(&socket, path, backlog, options.unix_mode)?),
    }
    let address = match file {
        // The socket was bound elsewhere at first.
        Some(_) => address.clone(),
        None => Address::from_sock_addr(&socket.local_addr()?),
    };
    Ok(Bound { place: Place::Socket(socket), address, file, shared: false })
}
