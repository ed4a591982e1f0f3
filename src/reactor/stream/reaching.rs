//! How a connection is reached from elsewhere: by handles, whose wishes lie in its outbox, and from other handlers of its reactor.

use super::connection::{Connection, Phase};
use super::handler::{CloseReason, Handler};
use super::io::Io;
use crate::reactor::Reactor;
use crate::reactor::table::{ConnectionId, Id};
use crate::reactor::threads::outbox::Wish;
use std::any::Any;

impl Reactor {
    pub(in crate::reactor) fn look_into_outbox(&mut self, id: Id) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        // First, for from here on what is written is announced again.
        let wishes = link.remote.as_ref().map(|handle| handle.remote().take_wishes());
        if link.wants_outbox() {
            link.collect_outbox(&mut self.shared.spare);
        }
        for wish in wishes.unwrap_or_default() {
            self.fulfil_in_time(id, wish);
        }
        self.settle(id);
    }

    /// What concerns the stream has to wait until it is there, but for its end at once.
    fn fulfil_in_time(&mut self, id: Id, wish: Wish) {
        match self.connections.get(id) {
            Some(Connection { link, .. }) if link.phase == Phase::Handshaking && wish != Wish::Abort => {
                link.remote.iter().for_each(|handle| handle.remote().keep_wish(wish));
            }
            _ => self.fulfil(id, wish),
        }
    }

    fn fulfil(&mut self, id: Id, wish: Wish) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        match wish {
            Wish::Notify if link.phase == Phase::Open => self.call(id, |handler, io| handler.on_notify(io)),
            Wish::Notify => {}
            Wish::Pause => link.paused = true,
            Wish::Resume => link.paused = false,
            Wish::EndOutput => link.shutdown_write(&mut self.shared.spare),
            Wish::Close => link.begin_close(&mut self.shared.spare),
            Wish::Abort => link.fail(CloseReason::Aborted),
        }
        self.settle(id);
    }

    /// Does something with a connection of this reactor as its handler could: the way from one handler to another, without
    /// the locks and the commands that a [`Handle`](crate::reactor::Handle) needs. `None` if there is no such connection, if it
    /// is being closed, or if that panicked, which closes it.
    ///
    /// A handler gets here by [`Io::defer`](crate::reactor::Io::defer). If this ends the connection, its handler's `on_close` is
    /// called before it returns: what that borrows must not be borrowed meanwhile.
    pub fn with_connection<R>(
        &mut self,
        connection: ConnectionId,
        act: impl FnOnce(&mut Io<'_>) -> R,
    ) -> Option<R> {
        self.with_any_handler(connection, |_, io| act(io))
    }

    /// The same, with the connection's handler, if it is an `H`.
    pub fn with_handler<H: Handler, R>(
        &mut self,
        connection: ConnectionId,
        act: impl FnOnce(&mut H, &mut Io<'_>) -> R,
    ) -> Option<R> {
        self.with_any_handler(connection, |handler, io| {
            let handler: &mut dyn Any = handler;
            handler.downcast_mut().map(|handler| act(handler, io))
        })?
    }

    fn with_any_handler<R>(
        &mut self,
        connection: ConnectionId,
        act: impl FnOnce(&mut dyn Handler, &mut Io<'_>) -> R,
    ) -> Option<R> {
        let id = connection.place();
        self.connections
            .get(id)
            .filter(|Connection { link, .. }| link.connection == connection && link.phase == Phase::Open)?;
        let mut result = None;
        self.call(id, |handler, io| result = Some(act(handler, io)));
        self.contain(|reactor, _| reactor.settle(id));
        self.disturbed();
        result
    }
}
