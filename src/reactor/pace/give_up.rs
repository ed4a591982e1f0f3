//! The end of a reactor that has failed: nothing that it holds goes on pretending.

use crate::reactor::Reactor;
use crate::reactor::stream::handler::CloseReason;
use crate::reactor::table::Id;
use socket2::Socket;
use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

impl Reactor {
    /// Lets go of everything without the help of the driver, which may be what has failed. Peers see resets; handlers and
    /// handles are told; what other threads hand over from now on is refused.
    pub(crate) fn give_up(&mut self) {
        self.shared.counters.reactor_failures.set(1);
        // First, so that nobody hands anything to it any more.
        contained(|| self.shared.mailbox.close());
        let commands = std::mem::take(&mut self.commands);
        contained(|| drop(commands));
        // The kernel may hold what is in flight for a while: it must not count as listening meanwhile.
        for id in self.listeners.ids() {
            let Some(listener) = self.listeners.remove(id) else { continue };
            let _ = listener.entrance.socket().map(|socket| socket.shutdown(Shutdown::Both));
            contained(|| drop(listener));
        }
        contained(|| self.abandon_races());
        for id in self.connections.ids() {
            self.abandon(id);
        }
        // Whoever connected again in `on_close` hears no more.
        for id in self.connections.ids() {
            let connection = self.forget(id);
            contained(|| drop(connection));
        }
    }

    fn abandon(&mut self, id: Id) {
        contained(|| {
            if let Some(connection) = self.connections.get_mut(id) {
                connection.link.wire.socket().into_iter().for_each(|socket| reset(socket));
                connection.link.fail(CloseReason::Shutdown);
                if connection.link.opened {
                    self.shared.counters.connections_closed.add(1);
                }
            }
            self.tell_closed(id, &CloseReason::Shutdown);
        });
        let connection = self.forget(id);
        contained(|| drop(connection));
    }
}

/// The close that follows sends a reset.
fn reset(socket: &Socket) {
    let _ = socket.set_linger(Some(Duration::ZERO));
}

/// Nothing that it calls can stop the rest. What it panicked with is left alone: that may panic as well.
fn contained(action: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(action)) {
        std::mem::forget(panic);
    }
}
