//! The end: connections finish, then they are cut off, then everything has been given back.

use crate::config::REAP_TIMEOUT;
use crate::driver::Kind;
use crate::error::Result;
use crate::reactor::Reactor;
use crate::reactor::pace::timers;
use crate::reactor::stream::connection::{Connection, Link, Phase};
use crate::reactor::stream::handler::CloseReason;
use crate::reactor::table::Id;
use std::time::{Duration, Instant};

/// Turns that there are behind the end of a drain, for what was handed over. Not without bound, for it may hand itself over again.
const LAST_TURNS: u32 = 64;

impl Reactor {
    /// Begins to stop: listeners close, and each handler's [`on_shutdown`](crate::reactor::Handler::on_shutdown) is called. What has
    /// not finished within `grace` is cut off. Go on with [`turn`](Self::turn) until [`is_drained`](Self::is_drained).
    pub fn begin_drain(&mut self, grace: Duration) {
        let deadline = timers::deadline(self.driver.now(), grace);
        if self.drain_deadline.is_some_and(|earlier| earlier <= deadline) {
            return;
        }
        if self.drain_deadline.replace(deadline).is_none() {
            self.ask_all_to_end();
        }
        self.disturbed();
    }

    fn ask_all_to_end(&mut self) {
        let mut ids = self.listeners.ids().into_iter();
        while !self.contain(|reactor, about| {
            for id in ids.by_ref() {
                *about = Some(id.token(Kind::Accept));
                reactor.end_listener(id);
            }
        }) {}
        let mut ids = self.connections.ids().into_iter();
        while !self.contain(|reactor, _| ids.by_ref().for_each(|id| reactor.ask_to_end(id))) {}
    }

    fn ask_to_end(&mut self, id: Id) {
        // Who was accepted and is in its handshake has its time for that: its request may be on the way.
        let is_attempt = |connection: &Connection| {
            let Link { phase, race, .. } = &connection.link;
            *phase == Phase::Connecting || *phase == Phase::Handshaking && race.is_some()
        };
        match self.connections.get(id).map(is_attempt) {
            Some(true) => self.change(id, |link| link.fail(CloseReason::Shutdown)),
            Some(_) => self.stop_connection(id),
            None => {}
        }
    }

    /// Asks an established connection to finish, or one that is closing not to wait for nothing.
    pub(in crate::reactor) fn stop_connection(&mut self, id: Id) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        link.hurried = true;
        if link.phase == Phase::Open {
            self.call(id, |handler, io| handler.on_shutdown(io));
        }
        self.settle(id);
    }

    /// Whether a drain has begun and everything has ended.
    pub fn is_drained(&self) -> bool {
        let nothing_is_to_be_done =
            self.commands.is_empty() && self.shared.deferred.is_empty() && self.shared.soon.is_empty();
        let nobody_is_left = self.listeners.is_empty() && self.connections.is_empty();
        self.drain_deadline.is_some() && nobody_is_left && nothing_is_to_be_done
    }

    /// Drains and waits for the end of it: at most `grace` for the connections to finish, and then
    /// [`REAP_TIMEOUT`] for the kernel to let go of them.
    pub fn drain(&mut self, grace: Duration) -> Result<()> {
        self.begin_drain(grace);
        self.run_until_drained()
    }

    /// Turns until a drain, begun here or by a command, has ended. What was handed over before that is still done: it may be a
    /// connection that another reactor accepted.
    pub(crate) fn run_until_drained(&mut self) -> Result<()> {
        let mut last_turns = LAST_TURNS;
        loop {
            if self.is_drained() {
                if last_turns == 0 || self.shared.mailbox.close_if_empty() {
                    break;
                }
                last_turns -= 1;
            }
            let limit = self.drain_deadline.map(|deadline| deadline + REAP_TIMEOUT);
            let left = limit.map(|limit| limit.saturating_duration_since(self.driver.now()));
            if left == Some(Duration::ZERO) {
                // The driver leaks what the kernel has not given back.
                break;
            }
            self.step(left)?;
        }
        self.shared.mailbox.close();
        Ok(())
    }

    /// When the drain's deadline has to be looked at, if it still has.
    pub(in crate::reactor) fn next_cut(&self) -> Option<Instant> {
        self.drain_deadline.filter(|_| !self.is_cut() && !self.connections.is_empty())
    }

    /// All connections that there are have been cut off.
    fn is_cut(&self) -> bool {
        self.drain_cut == Some(self.connections.insertions())
    }

    /// Cuts off what has not finished by the drain's deadline.
    pub(in crate::reactor) fn drain_timer(&mut self) {
        if self.is_cut() || self.drain_deadline.is_none_or(|deadline| self.shared.now < deadline) {
            return;
        }
        // Before handlers hear of it, who may connect again.
        self.drain_cut = Some(self.connections.insertions());
        let mut ids = self.connections.ids().into_iter();
        while !self.contain(|reactor, _| ids.by_ref().for_each(|id| reactor.cut_off(id))) {}
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        self.shared.mailbox.close();
        if std::thread::panicking() {
            // What is going on may be in any state: another panic would end the process.
            return self.give_up();
        }
        // Nobody who is on his way to a name arrives any more.
        for id in self.listeners.ids() {
            if self.listeners.get(id).is_some_and(|listener| listener.entrance.socket().is_none()) {
                self.listeners.remove(id);
            }
        }
        // Whoever did not drain wants it to end now. What the handlers still have to say, they may.
        if !self.connections.is_empty() || !self.listeners.is_empty() {
            let _ = self.drain(Duration::ZERO);
        }
    }
}
