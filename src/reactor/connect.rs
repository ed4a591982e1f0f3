//! Clients: connections that this side makes.

use super::Reactor;
use super::address::Address;
use super::connection::{Connection, Link, Phase};
use super::handler::{CloseReason, Handler};
use super::options::StreamOptions;
use super::table::Id;
use super::timers::Due;
use crate::driver::{Kind, Op};
use crate::error::{Error, Result};
use socket2::{Socket, Type};
use std::io;
use std::rc::Rc;

impl Reactor {
    /// Begins to connect. The handler learns of the outcome: `on_open`, or `on_close` with
    /// [`CloseReason::ConnectFailed`]. Fails at once only if there can be no socket.
    pub fn connect<H: Handler>(&mut self, address: &Address, options: &StreamOptions, handler: H) -> Result<()> {
        options.check()?;
        self.begin_connect(address, options, Box::new(handler)).map_err(|source| Error::connect(address, source))
    }

    fn begin_connect(&mut self, address: &Address, options: &StreamOptions, handler: Box<dyn Handler>) -> io::Result<()> {
        let target = address.to_sock_addr()?;
        let socket = Rc::new(Socket::new(address.domain(), Type::STREAM, None)?);
        options.apply_early((&*socket).into())?;
        if let Address::Tcp(_) = address {
            options.apply_tcp((&*socket).into())?;
        }
        self.driver.attach(&socket)?;
        let options = Rc::new(options.clone());
        let deadline = self.shared.now.max(std::time::Instant::now()) + options.connect_timeout;
        let id = self.connections.insert(|id| Connection {
            handler,
            link: Link::new(id, socket, address.clone(), options, Phase::Connecting, None),
        });
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return Ok(()) };
        link.connecting = true;
        self.timers.change(&mut link.phase_timer, Due::Phase(id), Some(deadline));
        self.driver.submit(id.token(Kind::Connect), Op::Connect { socket: link.descriptor(), address: target });
        self.unsubmitted = true;
        Ok(())
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
