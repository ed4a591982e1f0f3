//! Socket options that few need, and a hook for those that have no method.

use super::address::Address;
use super::options::StreamOptions;
use crate::error::{Error, Result};
use socket2::{SockAddr, SockRef, Socket};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// What [`StreamOptions`] has besides the common ones.
#[derive(Clone, Debug, Default)]
pub(super) struct Tuning {
    pub(super) keepalive_interval: Option<Duration>,
    pub(super) keepalive_count: Option<u32>,
    traffic_class: Option<u8>,
    mark: Option<u32>,
    device: Option<String>,
    unsent_lowat: Option<u32>,
    congestion: Option<String>,
    local_addr: Option<SocketAddr>,
    hook: Option<Hook>,
}

#[derive(Clone)]
struct Hook(Arc<HookFn>);

type HookFn = dyn Fn(SockRef<'_>) -> io::Result<()> + Send + Sync;

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

/// Options that few need. Those that are Linux's are ignored elsewhere. A server's are set on its listening sockets, from
/// which its connections inherit them.
impl StreamOptions {
    /// How long to wait between probes of a silent peer (`TCP_KEEPINTVL`); with [`keepalive`](Self::keepalive) only.
    pub fn keepalive_interval(mut self, interval: Duration) -> Self {
        self.tuning.keepalive_interval = Some(interval);
        self
    }

    /// How many probes may go unanswered before the connection fails (`TCP_KEEPCNT`); with [`keepalive`](Self::keepalive) only.
    pub fn keepalive_count(mut self, probes: u32) -> Self {
        self.tuning.keepalive_count = Some(probes);
        self
    }

    /// The class that packets are marked with: DSCP in the upper six bits (`IP_TOS`, `IPV6_TCLASS`). TCP only.
    pub fn traffic_class(mut self, class: u8) -> Self {
        self.tuning.traffic_class = Some(class);
        self
    }

    /// The mark that packets carry within this machine, for routing and filtering (`SO_MARK`); needs `CAP_NET_ADMIN`. Linux only.
    pub fn mark(mut self, mark: u32) -> Self {
        self.tuning.mark = Some(mark);
        self
    }

    /// The network interface to use, whatever the routes say (`SO_BINDTODEVICE`). Linux only.
    pub fn device(mut self, interface: impl Into<String>) -> Self {
        self.tuning.device = Some(interface.into());
        self
    }

    /// Bytes of unsent output in the kernel from which on it takes no more (`TCP_NOTSENT_LOWAT`): the rest waits here, where it
    /// counts against the limits and can still be thrown away. Linux only.
    pub fn unsent_lowat(mut self, bytes: u32) -> Self {
        self.tuning.unsent_lowat = Some(bytes);
        self
    }

    /// The algorithm of congestion control, such as `"bbr"` (`TCP_CONGESTION`). Linux only.
    pub fn congestion(mut self, algorithm: impl Into<String>) -> Self {
        self.tuning.congestion = Some(algorithm.into());
        self
    }

    /// The address to connect from; with port 0, from any free port. For connections that this side makes, over TCP; of several
    /// addresses, only those of the same family are tried with success.
    pub fn local_addr(mut self, address: SocketAddr) -> Self {
        self.tuning.local_addr = Some(address);
        self
    }

    /// Is called with each socket before it is bound or connected, for options that have no method here. An error ends the
    /// attempt to listen or to connect. Not called for connections that were accepted, which inherit what their listener has;
    /// [`Incoming::socket`](crate::reactor::Incoming::socket) is for these.
    pub fn prepare(mut self, hook: impl Fn(SockRef<'_>) -> io::Result<()> + Send + Sync + 'static) -> Self {
        self.tuning.hook = Some(Hook(Arc::new(hook)));
        self
    }

    pub(super) fn check_tuning(&self) -> Result<()> {
        let Tuning { keepalive_interval, keepalive_count, .. } = self.tuning;
        let is_zero = |interval: Duration| interval < Duration::from_secs(1);
        if keepalive_interval.is_some_and(is_zero) || keepalive_count == Some(0) {
            let message = "keepalive probes need an interval of at least a second, and at least one of them";
            return Err(Error::InvalidSetting(message.to_owned()));
        }
        Ok(())
    }

    /// Sets on a new socket what is to be known before it is bound or connected.
    pub(super) fn apply_tuning(&self, socket: &Socket, address: &Address) -> io::Result<()> {
        let Tuning { traffic_class, hook, .. } = &self.tuning;
        if let (Address::Tcp(address), Some(class)) = (address, *traffic_class) {
            match address {
                SocketAddr::V4(_) => socket.set_tos_v4(class.into())?,
                SocketAddr::V6(_) => socket.set_tclass_v6(class.into())?,
            }
        }
        self.apply_linux(socket, address)?;
        hook.as_ref().map_or(Ok(()), |Hook(hook)| hook(SockRef::from(socket)))
    }

    #[cfg(target_os = "linux")]
    fn apply_linux(&self, socket: &Socket, address: &Address) -> io::Result<()> {
        let Tuning { mark, device, unsent_lowat, congestion, .. } = &self.tuning;
        if let Some(mark) = *mark {
            socket.set_mark(mark)?;
        }
        if let Address::Unix(_) = address {
            return Ok(());
        }
        if let Some(device) = device {
            socket.bind_device(Some(device.as_bytes()))?;
        }
        if let Some(bytes) = *unsent_lowat {
            socket.set_tcp_notsent_lowat(bytes)?;
        }
        congestion.as_ref().map_or(Ok(()), |name| socket.set_tcp_congestion(name.as_bytes()))
    }

    #[cfg(not(target_os = "linux"))]
    fn apply_linux(&self, _socket: &Socket, _address: &Address) -> io::Result<()> {
        Ok(())
    }

    /// Binds a socket that is to be connected, if its own address matters.
    pub(super) fn bind_local(&self, socket: &Socket, target: &Address) -> io::Result<()> {
        let (Some(local), Address::Tcp(target)) = (self.tuning.local_addr, target) else { return Ok(()) };
        if local.is_ipv4() != target.is_ipv4() {
            let message = format!("{target} is not of the family of {local}, the address to connect from");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        #[cfg(target_os = "linux")]
        if local.port() == 0 {
            // Until it is known whereto, ports in use would count as taken.
            super::system::set_option(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
        }
        if local.port() != 0 {
            socket.set_reuse_address(true)?;
        }
        socket.bind(&SockAddr::from(local))
    }
}
