//! Clients: connections that this side makes.

use super::Reactor;
use super::address::Address;
use super::connection::{Connection, Link, Phase};
use super::handler::{CloseReason, Handler};
use super::options::StreamOptions;
use super::table::Id;
use super::timers::Due;
use crate::driver::{Kind, Op};
use socket2::{SockAddr, Socket, Type};
use std::io;
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
                handler.on_close(&CloseReason::ConnectFailed(error));
            }
        }
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
        let deadline = self.driver.now() + options.connect_timeout;
        let id = self.connections.insert(|id| Connection {
            handler,
            link: Link::new(id, socket, address.clone(), options, Phase::Connecting, None),
        });
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        link.connecting = true;
        self.timers.change(&mut link.phase_timer, Due::Phase(id), Some(deadline));
        self.driver
            .submit(id.token(Kind::Connect), Op::Connect { socket: link.descriptor(), address: target });
        self.unsubmitted = true;
    }

    pub(super) fn connected(&mut self, id: Id, result: io::Result<()>) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        link.connecting = false;
        match result {
            Ok(()) if link.phase == Phase::Connecting => {
                link.phase = Phase::Open;
                self.opened(id);
            }
            Ok(()) => self.settle(id),
            Err(error) => {
                link.fail(CloseReason::ConnectFailed(error));
                self.settle(id);
            }
        }
    }
}
