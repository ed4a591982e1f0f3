//! Clients: connections that this side makes.

use super::address::Address;
use super::options::StreamOptions;
use super::race::{Dialing, SharedRace};
use crate::config::CONNECT_RETRY;
use crate::driver::{Kind, Op};
use crate::reactor::Reactor;
use crate::reactor::pace::timers::{Due, deadline};
use crate::reactor::stream::connection::{Connection, Link, Phase};
use crate::reactor::stream::handler::{CloseReason, Handler};
use crate::reactor::table::Id;
use socket2::{SockAddr, Socket, Type};
use std::io;
use std::rc::Rc;

impl Reactor {
    /// Begins to connect. The handler learns of the outcome, here at the latest once this call has returned: `on_open`, or
    /// `on_close` with [`CloseReason::ConnectFailed`]. A reactor that drains connects no more.
    ///
    /// Dropping the result changes nothing; [`Dialing::cancel`] ends the attempt.
    pub fn connect<H: Handler>(&mut self, options: &StreamOptions, address: &Address, handler: H) -> Dialing {
        self.connect_any(options, std::slice::from_ref(address), handler)
    }

    /// Begins one attempt, or says why not.
    pub(super) fn begin_attempt(
        &mut self,
        options: &StreamOptions,
        address: &Address,
        handler: Box<dyn Handler>,
    ) -> io::Result<Id> {
        let (socket, target) = self.prepare_connect(options, address)?;
        let id = self.insert_attempt(options, address, socket, handler);
        if self.contain(|reactor, _| reactor.submit_connect(id, target)) {
            return Ok(id);
        }
        if let Some(Connection { mut link, .. }) = self.forget(id) {
            self.timers.change(&mut link.phase_timer, Due::Phase(id), None);
            self.driver.detach(&link.socket);
        }
        Err(io::Error::other(CloseReason::Internal.to_string()))
    }

    fn prepare_connect(
        &mut self,
        options: &StreamOptions,
        address: &Address,
    ) -> io::Result<(Rc<Socket>, SockAddr)> {
        if self.drain_deadline.is_some() {
            return Err(io::Error::other("this reactor is draining"));
        }
        options.check()?;
        let target = address.to_sock_addr()?;
        let socket = Rc::new(Socket::new(address.domain(), Type::STREAM, None)?);
        options.apply_early((&*socket).into())?;
        if let Address::Tcp(_) = address {
            options.apply_tcp((&*socket).into())?;
        }
        options.apply_tuning(&socket, address)?;
        options.bind_local(&socket, address)?;
        self.driver.attach(&socket)?;
        Ok((socket, target))
    }

    fn insert_attempt(
        &mut self,
        options: &StreamOptions,
        address: &Address,
        socket: Rc<Socket>,
        handler: Box<dyn Handler>,
    ) -> Id {
        let options = Rc::new(options.clone());
        let now = self.driver.now();
        let due = Some(deadline(now, options.connect_timeout));
        let id = self.connections.insert(|id| Connection {
            handler,
            link: Link::new(id, socket, address.clone(), options, Phase::Connecting, None, now),
        });
        if let Some(Connection { link, .. }) = self.connections.get_mut(id) {
            link.phase_deadline = due;
            self.timers.change(&mut link.phase_timer, Due::Phase(id), due);
        }
        id
    }

    fn submit_connect(&mut self, id: Id, target: SockAddr) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        self.driver
            .submit(id.token(Kind::Connect), Op::Connect { socket: link.descriptor(), address: target });
        link.connecting = true;
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

    /// Of several attempts one has succeeded.
    pub(in crate::reactor) fn open_first(&mut self, id: Id, race: &SharedRace) {
        if !self.win_race(id, race) {
            return self.change(id, |link| link.fail(CloseReason::Aborted));
        }
        self.opened(id);
    }

    pub(in crate::reactor) fn connected(&mut self, id: Id, result: io::Result<()>) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        link.connecting = false;
        match result {
            Ok(()) if link.phase == Phase::Connecting => {
                // A handler that closes at once has the time of a close, not what is left of this.
                self.timers.change(&mut link.phase_timer, Due::Phase(id), None);
                self.established(id);
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
