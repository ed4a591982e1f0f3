//! Sockets that accept, and whom they accept for.

use super::address::Address;
use super::options::{ListenOptions, StreamOptions};
use crate::error::{Error, Result};
use crate::reactor::stream::handler::Handler;
use socket2::{Socket, Type};
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Makes the handler of a connection; never called on two threads at once.
pub(in crate::reactor) type Factory = Box<dyn FnMut(&Address) -> Box<dyn Handler>>;

/// Where accepted connections go.
pub(in crate::reactor) enum Destination {
    /// Into the accepting reactor's own table.
    Here(Factory),
    /// To other reactors, by whoever shares them out.
    Elsewhere(Box<dyn FnMut(Socket, Address, Seat)>),
}

pub(in crate::reactor) struct Listener {
    pub(in crate::reactor) socket: Rc<Socket>,
    pub(in crate::reactor) address: Address,
    pub(in crate::reactor) stream: Rc<StreamOptions>,
    pub(in crate::reactor) destination: Destination,
    pub(in crate::reactor) seats: Arc<Seats>,
    pub(in crate::reactor) armed: bool,
    /// To be removed once the accept has ended.
    pub(in crate::reactor) closing: bool,
    pub(in crate::reactor) cancelled: bool,
    /// The file to remove in the end.
    pub(in crate::reactor) path: Option<PathBuf>,
    /// Rests until then, because the process ran out of something.
    pub(in crate::reactor) rest_timer: Option<Instant>,
}

/// How many connections a server has, on all its reactors together.
#[derive(Debug)]
pub(crate) struct Seats {
    taken: AtomicUsize,
    most: usize,
}

/// A connection's place at its server.
#[derive(Debug)]
pub(crate) struct Seat(Arc<Seats>);

impl Seats {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Seats { taken: AtomicUsize::new(0), most })
    }

    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    pub(in crate::reactor) fn take(self: &Arc<Self>) -> Option<Seat> {
        let taken = |taken| (taken < self.most).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).ok()?;
        Some(Seat(self.clone()))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A socket that listens already, and where.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) socket: Socket,
    pub(crate) address: Address,
    /// The file to remove in the end.
    pub(crate) path: Option<PathBuf>,
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

/// Binds one of several sockets to the first of `addresses` that works.
pub(crate) fn bind(addresses: &[Address], options: &ListenOptions, share: Option<Share>) -> Result<Bound> {
    let mut failure = None;
    for address in addresses {
        match bind_one(address, options, share) {
            Ok(bound) => return Ok(bound),
            Err(source) => failure = Some(Error::listen(address, source)),
        }
    }
    Err(failure.expect("`ToAddresses` never gives none"))
}

fn bind_one(address: &Address, options: &ListenOptions, share: Option<Share>) -> io::Result<Bound> {
    let socket = Socket::new(address.domain(), Type::STREAM, None)?;
    let mut path = None;
    match address {
        Address::Tcp(tcp) => {
            socket.set_reuse_address(true)?;
            if tcp.is_ipv6() {
                socket.set_only_v6(options.only_v6)?;
            }
            // Bound without sharing, the first socket fails when anybody listens there, another trochus included.
            if share.is_some_and(|share| !share.first) {
                socket.set_reuse_port(true)?;
            }
            socket.bind(&address.to_sock_addr()?)?;
            if share.is_some() {
                socket.set_reuse_port(true)?;
            }
            #[cfg(target_os = "linux")]
            if let Some(cpu) = share.and_then(|share| share.cpu) {
                socket.set_cpu_affinity(cpu)?;
            }
        }
        Address::Unix(unix) => {
            remove_stale(address)?;
            socket.bind(&address.to_sock_addr()?)?;
            path = Some(unix.clone());
        }
    }
    options.stream.apply_early((&socket).into())?;
    socket.listen(options.backlog.min(i32::MAX as u32) as i32)?;
    let address = Address::from_sock_addr(&socket.local_addr()?);
    Ok(Bound { socket, address, path })
}

/// Removes the socket file of a server that has gone: nobody accepts there any more.
fn remove_stale(address: &Address) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let Address::Unix(path) = address else { return Ok(()) };
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "a file that is not a socket is there"));
    }
    // Linux says EAGAIN when a server's queue is full. Others say that nobody listens, so they are asked for a while.
    let attempts = if cfg!(target_os = "linux") { 1 } else { 20 };
    for attempt in 0..attempts {
        if attempt > 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let probe = Socket::new(address.domain(), Type::STREAM, None)?;
        probe.set_nonblocking(true)?;
        match probe.connect(&address.to_sock_addr()?) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            _ => return Err(io::ErrorKind::AddrInUse.into()),
        }
    }
    std::fs::remove_file(path)
}
