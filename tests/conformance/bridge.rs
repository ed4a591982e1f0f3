//! The way from the tests' sockets to streams in memory, and back: relays, on a reactor that is not tested.

use crate::accounts::wait_until;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Mutex, OnceLock};
use std::thread;
use trochus::net::{Address, CloseReason, Handler, Incoming, Io, Relay, StreamOptions};
use trochus::reactor::{ListenerId, ReactorHandle};
use trochus::{Backend, Reactor};

/// Bytes that a relay keeps in each direction.
const KEPT: usize = 64 << 10;

/// What the system keeps for the far end of a socket, in each direction.
const BUFFER: usize = 64 << 10;

struct Bridge {
    reactor: ReactorHandle,
    listeners: Mutex<Vec<ListenerId>>,
}

fn bridge() -> &'static Bridge {
    static BRIDGE: OnceLock<Bridge> = OnceLock::new();
    BRIDGE.get_or_init(|| {
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let mut reactor = Reactor::builder().backend(Backend::Fallback).build().unwrap();
            tell.send(reactor.handle()).unwrap();
            while reactor.turn(None).is_ok() {}
        });
        Bridge { reactor: told.recv().unwrap(), listeners: Mutex::default() }
    })
}

/// Is there from now on, with the descriptors that it needs.
pub(crate) fn build() {
    bridge();
}

/// Waits until nobody is on it.
pub(crate) fn clear() {
    for listener in bridge().listeners.lock().unwrap().drain(..) {
        on_reactor(move |reactor| reactor.close_listener(&listener));
    }
    wait_until("the bridge is clear", || on_reactor(|reactor| reactor.connections() == 0));
}

fn on_reactor<R: Send + 'static>(action: impl FnOnce(&mut Reactor) -> R + Send + 'static) -> R {
    let (send, result) = mpsc::channel();
    bridge().reactor.run(move |reactor| send.send(action(reactor)).unwrap()).unwrap();
    result.recv().unwrap()
}

/// A socket that is relayed to a stream in memory.
pub(crate) fn connect(address: &Address, prepare: impl Fn(&Socket)) -> io::Result<Socket> {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    // What is on its way counts as taken; it is not to be much more than over one socket.
    listener.set_recv_buffer_size(BUFFER)?;
    listener.set_send_buffer_size(BUFFER)?;
    listener.bind(&SockAddr::from(SocketAddr::from(([127, 0, 0, 1], 0))))?;
    listener.listen(1)?;
    let near = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    prepare(&near);
    near.connect(&listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    let (tell, told) = mpsc::sync_channel(1);
    let address = address.clone();
    let far = Far { socket: Some(far.into()), tell };
    on_reactor(move |reactor| drop(reactor.connect(&StreamOptions::new(), &address, far)));
    told.recv().unwrap().map(|()| near)
}

/// The stream in memory, until it is relayed.
struct Far {
    socket: Option<OwnedFd>,
    tell: SyncSender<io::Result<()>>,
}

impl Handler for Far {
    fn on_open(&mut self, io: &mut Io<'_>) {
        io.pause_reading();
        let (Some(socket), this, tell) = (self.socket.take(), io.id(), self.tell.clone()) else { return };
        io.defer(move |reactor| {
            let near = reactor.adopt(&StreamOptions::new(), socket, Near).unwrap();
            // If the stream has gone meanwhile, then so does the socket, with a reset.
            if !reactor.relay(near.id(), this, KEPT, |_, _| ()) {
                let _ = near.abort();
            }
            let _ = tell.send(Ok(()));
        });
    }

    fn on_bytes(&mut self, _io: &mut Io<'_>, _bytes: &[u8]) -> usize {
        0
    }

    fn on_close(&mut self, reason: &CloseReason, _reactor: &mut Reactor) {
        let error = match reason {
            CloseReason::ConnectFailed(error) => error.kind().into(),
            reason => io::Error::other(reason.to_string()),
        };
        let _ = self.tell.try_send(Err(error));
    }
}

/// The socket, until it is relayed.
struct Near;

impl Handler for Near {
    fn on_bytes(&mut self, _io: &mut Io<'_>, _bytes: &[u8]) -> usize {
        0
    }
}

/// A listening socket that streams in memory are relayed to, and the address that they are to connect to.
pub(crate) fn listener(backlog: i32) -> (Socket, Address) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SockAddr::from(SocketAddr::from(([127, 0, 0, 1], 0)))).unwrap();
    socket.listen(backlog).unwrap();
    let there = Address::Tcp(socket.local_addr().unwrap().as_socket().unwrap());
    let relay = move |_: &Incoming<'_>| Relay::to([there.clone()]).bytes(KEPT);
    let listener = on_reactor(|reactor| reactor.listen("memory:", relay).unwrap());
    let address = listener.local_addr().clone();
    bridge().listeners.lock().unwrap().push(listener);
    (socket, address)
}
