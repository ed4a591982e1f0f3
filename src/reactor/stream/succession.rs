//! A handler hands its connection over to another one.
//!
//! The old one is replaced when its call has returned, wherever that was made, and never within it. What it was shown and did not
//! consume is shown to the new one where it lies. Whoever hands a connection on and on has had enough of a turn at some time: then
//! a stand-in has its place until the next one.

use super::connection::{Link, Phase};
use super::dispatch::{check_output, panicked, show_to};
use super::handler::{CloseReason, Handler};
use super::io::Io;
use crate::config::HAND_OVERS;
use crate::reactor::table::{ConnectionId, Id};
use crate::reactor::{Reactor, Shared};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Who takes over, for as long as a handler's call lasts; and who has to wait for the next turn.
#[derive(Default)]
pub(in crate::reactor) struct Succession {
    next: Option<(Id, Box<dyn Handler>)>,
    /// The connection that was handed over last in this turn, and how often in a row.
    last: Option<(Id, usize)>,
    waiting: Vec<ConnectionId>,
}

impl Succession {
    /// Whether the handler that was called has handed its connection over.
    #[inline]
    pub(in crate::reactor) fn is_due(&self) -> bool {
        self.next.is_some()
    }

    /// Whether somebody waits for the next turn.
    pub(in crate::reactor) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Who is to take over, or a stand-in for it.
    fn take(&mut self, link: &Link) -> Option<(Box<dyn Handler>, bool)> {
        // Of another connection only if something below the handlers panicked meanwhile.
        let (_, next) = self.next.take().filter(|(id, _)| *id == link.id)?;
        let before = self.last.filter(|(id, _)| *id == link.id).map_or(0, |(_, count)| count);
        if before < HAND_OVERS {
            self.last = Some((link.id, before + 1));
            return Some((next, true));
        }
        self.waiting.push(link.connection);
        Some((Box::new(Waiting { next: Some(next), notified: false }), false))
    }
}

impl Io<'_> {
    /// Hands the connection over to another handler, as soon as this call has returned, however it returns:
    ///
    /// ```
    /// # use trochus::net::{Handler, Io};
    /// # struct Http;
    /// # impl Handler for Http { fn on_bytes(&mut self, _: &mut Io<'_>, bytes: &[u8]) -> usize { bytes.len() } }
    /// # struct Binary;
    /// # impl Handler for Binary { fn on_bytes(&mut self, _: &mut Io<'_>, bytes: &[u8]) -> usize { bytes.len() } }
    /// struct Detect;
    ///
    /// impl Handler for Detect {
    ///     fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
    ///         if bytes.starts_with(b"GET ") {
    ///             io.hand_over(Http);
    ///         } else if bytes.len() >= 4 || !b"GET ".starts_with(bytes) {
    ///             io.hand_over(Binary);
    ///         }
    ///         0 // nothing is consumed: the new one sees it all
    ///     }
    /// }
    /// ```
    ///
    /// The new one begins as every handler does, with [`on_open`](crate::reactor::Handler::on_open), and is then shown what was not
    /// consumed, in the same turn, whether or not more is to come. What `on_bytes` of the old one returns was consumed by the old
    /// one. What the old one was told and what still holds the new one is told as well: that the stream has
    /// [ended](crate::reactor::Handler::on_end), and that the connection is [to end](crate::reactor::Handler::on_shutdown).
    ///
    /// The connection stays as it is: what was written and not sent, whether the output was ended, its options and limits, its
    /// [id](Self::id) and its [handles](Self::handle), whose notifications go to the new one from now on. `on_drained` and `on_room`
    /// tell the new one of output that the old one wrote. What was the old handler's own is gone: its timer, a pause (also one that a
    /// handle asked for), [what it expected](Self::expect), [its claim](Self::claim), and that it was [polled](Self::poll_me).
    ///
    /// The old one is dropped, without `on_close`: that is told to the last one, also if the connection was closed or aborted in
    /// the same call, or if that panicked. Who takes over a connection that is no longer open has `on_close` called and nothing
    /// else. Of several in one call the last one takes over. Those that hand over at once in their turn do so
    /// [`config::HAND_OVERS`](crate::config::HAND_OVERS) times in a row in one turn; the next one begins in the next, and is not
    /// [found](Reactor::with_handler) before. A [relayed](Reactor::relay) connection is its relay's, and stays that: there, `handler` is dropped.
    pub fn hand_over(&mut self, handler: impl Handler) {
        if !self.link.is_relayed() {
            self.shared.succession.next = Some((self.link.id, Box::new(handler)));
        }
    }

    pub(in crate::reactor) fn is_handed_over(&self) -> bool {
        self.shared.succession.is_due()
    }
}

impl Link {
    /// As it is for a handler that has not been called yet.
    pub(super) fn begin_anew(&mut self) {
        (self.paused, self.wanted, self.handler_deadline, self.claimed) = (false, 0, None, 0);
        self.since.consumed();
        self.unread = !self.inbox.is_empty();
        self.end_owed |= self.input_has_ended();
    }
}

/// Whoever is due takes over behind a call that showed no bytes, and so do those that it is handed over to then.
#[cold]
pub(super) fn take_over(handler: &mut Box<dyn Handler>, link: &mut Link, shared: &mut Shared) {
    while succeed(handler, link, shared) {}
    // What the new one said as it was opened, or nothing, in the place of what the old one did.
    link.inbox.expect(link.wanted);
}

/// The same behind a call that was shown `bytes` and did not consume them. How many the new ones did.
#[cold]
pub(super) fn take_over_with(
    handler: &mut Box<dyn Handler>,
    link: &mut Link,
    shared: &mut Shared,
    bytes: &[u8],
) -> usize {
    let mut consumed = 0;
    while succeed(handler, link, shared) {
        let rest = &bytes[consumed..];
        let may_see_it = link.phase == Phase::Open && !link.paused && rest.len() >= link.wanted;
        if may_see_it && !rest.is_empty() && !shared.succession.is_due() {
            consumed += show_to(&mut **handler, link, shared, rest);
        }
    }
    consumed
}

/// Puts whoever is due in the place of its predecessor. `false` if nobody is.
fn succeed(handler: &mut Box<dyn Handler>, link: &mut Link, shared: &mut Shared) -> bool {
    let Some((next, begins)) = shared.succession.take(link) else { return false };
    let predecessor = mem::replace(handler, next);
    if catch_unwind(AssertUnwindSafe(|| drop(predecessor))).is_err() {
        shared.counters.handler_panics.add(1);
        crate::log::handler_panicked(&link.peer);
    }
    link.begin_anew();
    if mem::take(&mut link.polled) {
        shared.new_pollers.retain(|id| *id != link.id);
        shared.former_pollers.push(link.id);
    }
    if !begins {
        link.paused = true;
    } else if link.phase == Phase::Open {
        let mut io = Io { link, shared };
        if catch_unwind(AssertUnwindSafe(|| handler.on_open(&mut io))).is_err() {
            panicked(link, shared);
        }
        check_output(link);
        if link.hurried && link.phase == Phase::Open {
            // Behind what it is shown now: what it does not consume says whether it is in the middle of something.
            let connection = link.connection;
            shared.deferred.push(Box::new(move |reactor| reactor.ask_successor_to_end(connection)));
        }
    }
    true
}

impl Reactor {
    /// From now on those go on who had enough of the last turn.
    pub(in crate::reactor) fn go_on_with_succession(&mut self) {
        let Succession { last, waiting, .. } = &mut self.shared.succession;
        *last = None;
        for connection in waiting.drain(..) {
            self.shared.deferred.push(Box::new(move |reactor| {
                reactor.with_handler(connection, |waiting: &mut Waiting, io| waiting.give_way(io));
            }));
        }
    }

    fn ask_successor_to_end(&mut self, connection: ConnectionId) {
        let id = connection.place();
        if self.connections.get(id).is_some_and(|found| found.link.connection == connection) {
            self.stop_connection(id);
        }
    }
}

/// In the place of a handler that takes over in the next turn. It is shown nothing, and what it is told the next one is told again.
struct Waiting {
    next: Option<Box<dyn Handler>>,
    notified: bool,
}

impl Waiting {
    fn give_way(&mut self, io: &mut Io<'_>) {
        if self.notified {
            // Only what has ended cannot be notified.
            let _ = io.handle().notify();
        }
        io.shared.succession.next = self.next.take().map(|next| (io.link.id, next));
    }
}

impl Handler for Waiting {
    fn on_bytes(&mut self, io: &mut Io<'_>, _bytes: &[u8]) -> usize {
        // Somebody has a handle and went on with reading.
        io.pause_reading();
        0
    }

    fn on_end(&mut self, _io: &mut Io<'_>) {}

    fn on_notify(&mut self, _io: &mut Io<'_>) {
        self.notified = true;
    }

    fn on_shutdown(&mut self, _io: &mut Io<'_>) {}

    fn on_close(&mut self, reason: &CloseReason, reactor: &mut Reactor) {
        if let Some(mut next) = self.next.take() {
            next.on_close(reason, reactor);
        }
    }
}
