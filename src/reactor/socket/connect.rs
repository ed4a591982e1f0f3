//! Clients: connections that this side makes.

use super::address::Address;
use super::options::StreamOptions;
use crate::config::CONNECT_RETRY;
use crate::driver::{Kind, Op};
use crate::reactor::Reactor;
use crate::reactor::pace::timers::{Due, deadline};
use crate::reactor::stream::connection::{Connection, Link, Phase};
use crate::reactor::stream::handler::{CloseReason, Handler};
use crate::reactor::table::Id;
use socket2::{SockAddr, Socket, Type};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

impl Reactor {
    /// Begins to connect. The handler learns of the outcome, here at the latest once this call has returned: `on_open`, or
    /// `on_close` with [`CloseReason::ConnectFailed`].
    pub fn connect<H: Handler>(&mut self, address: &Address, options: &StreamOptions, handler: H) {
        let mut handler = Box::new(handler);
        match self.prepare_connect(address, options) {
            Ok((socket, target)) => self.begin_connect(socket, address, target, options, handler),
            Err(error) => {
                self.shared.counters.connects_failed.add(1);
                let reason = CloseReason::ConnectFailed(error);
                if catch_unwind(AssertUnwindSafe(|| handler.on_close(&reason))).is_err() {
                    self.shared.counters.handler_panics.add(1);
                    crate::log::handler_panicked(address);
                }
                self.guarded(|_| drop(handler));
            }
        }
        self.disturbed();
    }

    fn prepare_connect(
        &mut self,
        address: &Address,
        options: &StreamOptions,
    ) -> io::Result<(Rc<Socket>, SockAddr)> {
        let target = address.to_sock_addr()?;
        let socket = Rc::new(Socket::new(address.domain(), Type::STREAM, None)?);
        options.apply_early((&*socket).into())?;
        if let Address::Tcp(_) = address {
            options.apply_tcp((&*socket).into())?;
        }
        self.driver.attach(&socket)?;
        Ok((socket, target))
    }

    fn begin_connect(
        &mut self,
        socket: Rc<Socket>,
        address: &Address,
        target: SockAddr,
        options: &StreamOptions,
        handler: Box<dyn Handler>,
    ) {
        let options = Rc::new(options.clone());
        let deadline = deadline(self.driver.now(), options.connect_timeout);
        let id = self.connections.insert(|id| Connection {
            handler,
            link: Link::new(id, socket, address.clone(), options, Phase::Connecting, None),
        });
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        self.timers.change(&mut link.phase_timer, Due::Phase(id), Some(deadline));
        self.submit_connect(id, target);
    }

    fn submit_connect(&mut self, id: Id, target: SockAddr) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        link.connecting = true;
        self.driver
            .submit(id.token(Kind::Connect), Op::Connect { socket: link.descriptor(), address: target });
        self.unsubmitted = true;
    }

    /// Tries once more where the backlog was full.
    pub(in crate::reactor) fn connect_again(&mut self, id: Id) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        link.retry_timer = None;
        if let Ok(target) = link.peer.to_sock_addr() {
            self.submit_connect(id, target);
        }
    }

    pub(in crate::reactor) fn connected(&mut self, id: Id, result: io::Result<()>) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        link.connecting = false;
        match result {
            Ok(()) if link.phase == Phase::Connecting => {
                link.phase = Phase::Open;
                self.opened(id);
            }
            Ok(()) => self.settle(id),
            // A Unix-domain server's backlog is full. On TCP the kernel tries again by itself; here nothing tells when
            // that is worth it.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && link.phase == Phase::Connecting => {
                let again = Some(self.shared.now + CONNECT_RETRY);
                self.timers.change(&mut link.retry_timer, Due::Connect(id), again);
            }
            Err(error) => {
                link.fail(CloseReason::ConnectFailed(error));
                self.settle(id);
            }
        }
    }
}
