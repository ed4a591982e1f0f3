//! Streams that something else than a socket carries: a multiplexer over one connection, or memory.

use super::Wire;
use super::output::Output;
use crate::driver::Kind;
use crate::error::{Error, Result};
use crate::reactor::pace::budget::Work;
use crate::reactor::socket::address::Address;
use crate::reactor::socket::options::StreamOptions;
use crate::reactor::stream::connection::{Connection, Link, Phase};
use crate::reactor::stream::dispatch::panicked;
use crate::reactor::stream::handler::{CloseReason, Handler};
use crate::reactor::stream::reading::Reading;
use crate::reactor::table::{ConnectionId, Id};
use crate::reactor::threads::reactor_handle::ReactorHandle;
use crate::reactor::threads::stream_handle::Handle;
use crate::reactor::{Reactor, Shared};
use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

/// How often what is carried goes on within one step of a turn.
const ROUNDS: usize = 16;

/// What moves a stream's bytes in the place of a socket. The stream is like any other: the same [`Handler`]s, handles, timers, limits,
/// deadlines, metrics and drain; nobody above can tell the difference.
///
/// A carrier is told what the stream wants, by the methods here, and does nothing at once: what it has for the stream it brings
/// through [`Reactor::carried`], for which it asks by [`CarrierIo::soon`], or has a handler of its own, such as that of the connection
/// that carries many streams. If one of its methods panics, its stream ends, with a reset.
///
/// A carrier is dropped when its stream has ended, behind [`close`](Self::close), or without that call when the reactor ends in the
/// middle of things: then, too, the peer has to hear of it.
pub trait Carrier: 'static {
    /// The stream is there: from now on it can be reached by [`CarrierIo::stream`]. The first call, before the handler's `on_open`.
    fn start(&mut self, io: &mut CarrierIo<'_>) {
        let _ = io;
    }

    /// Brings output to the peer. There is one at a time: the next one follows when this has come back by [`Carried::sent`], be it only
    /// in part. Until then it counts as output of the stream, which bounds it.
    fn send(&mut self, io: &mut CarrierIo<'_>, output: Output);

    /// The peer's next bytes are welcome, `most` of them, until it is said anew; 0 while the stream is not read. What comes beyond that
    /// is not taken, and has to wait: with the peer, as far as that is possible.
    fn receive(&mut self, io: &mut CarrierIo<'_>, most: usize);

    /// There is no more output behind what was sent. Input still comes.
    fn end_output(&mut self, io: &mut CarrierIo<'_>);

    /// The stream has ended. Unless it `resets`, the output was ended, and so was the input, or nobody waits for that any more.
    fn close(&mut self, io: &mut CarrierIo<'_>, resets: bool);

    /// Who is at the other end.
    fn peer_addr(&self) -> Address;

    /// Where this end is.
    fn local_addr(&self) -> Address;
}

/// What a [`Carrier`] can do while one of its methods is called.
pub struct CarrierIo<'a> {
    stream: ConnectionId,
    shared: &'a mut Shared,
}

impl CarrierIo<'_> {
    /// The stream that is carried, for [`Reactor::carried`].
    pub fn stream(&self) -> ConnectionId {
        self.stream
    }

    /// Does something with the reactor soon: in this turn, if it goes on for so long, behind what it is doing now.
    pub fn soon(&mut self, action: impl FnOnce(&mut Reactor) + 'static) {
        self.shared.soon.push(Box::new(action));
    }

    /// The reactor, for other threads.
    pub fn reactor(&self) -> ReactorHandle {
        ReactorHandle::new(self.shared.mailbox.clone(), self.shared.counters.clone())
    }

    /// Whether it is this reactor.
    pub(super) fn is_at(&self, reactor: &ReactorHandle) -> bool {
        reactor.is_of(&self.shared.mailbox)
    }
}

impl fmt::Debug for CarrierIo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CarrierIo").field("stream", &self.stream).finish_non_exhaustive()
    }
}

/// A carrier, and what it was told.
pub(in crate::reactor) struct Carrying {
    carrier: Box<dyn Carrier>,
    local: Address,
    /// It was told of the output's end.
    ended: bool,
    /// Bytes that are welcome: what was said last, and how many are left of that.
    told: usize,
    room: usize,
    closed: bool,
}

impl Carrying {
    pub(in crate::reactor) fn new(carrier: Box<dyn Carrier>) -> Box<Self> {
        let local = carrier.local_addr();
        Box::new(Carrying { carrier, local, ended: false, told: 0, room: 0, closed: false })
    }

    pub(in crate::reactor) fn local_addr(&self) -> Address {
        self.local.clone()
    }
}

/// A stream, in the hands of what carries it: the other way of [`Carrier`].
pub struct Carried<'a> {
    reactor: &'a mut Reactor,
    id: Id,
}

impl Carried<'_> {
    /// Bytes that the stream takes now: those that [are welcome](Carrier::receive), as far as this turn has them for one stream. Where
    /// only the turn has no more, [soon](Self::soon) there are some.
    pub fn room(&self) -> usize {
        match self.link().map(|link| (&link.wire, &link.fed)) {
            Some((Wire::Carried(carrying), fed)) => carrying.room.min(self.reactor.budget.left(fed)),
            _ => 0,
        }
    }

    /// Does something with the reactor soon, as [`CarrierIo::soon`] does.
    pub fn soon(&mut self, action: impl FnOnce(&mut Reactor) + 'static) {
        self.reactor.shared.soon.push(Box::new(action));
    }

    /// Gives the stream bytes that came from the peer, of which it takes as many as there is [room](Self::room) for, and says how many
    /// these were. Its handler is called.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let (id, taken) = (self.id, bytes.len().min(self.room()));
        if taken > 0 {
            self.reactor.contain(|reactor, about| {
                *about = Some(id.token(Kind::Receive));
                reactor.use_room(id, taken);
                reactor.feed_carried(id, &bytes[..taken]);
                reactor.settle(id);
            });
        }
        taken
    }

    /// The peer sends no more.
    pub fn end(&mut self) {
        self.reactor.change(self.id, |link| {
            if link.reading != Reading::Ended {
                link.socket_ended();
            }
        });
    }

    /// What became of output that the carrier had: so much as it was [advanced](bytes::Buf::advance) is with the peer, and the rest is
    /// given to the carrier once more. Another stream's is dropped.
    pub fn sent(&mut self, output: Output) {
        let (payload, taken) = output.into_parts(self.link().map(|link| link.connection));
        if let Some(payload) = payload {
            self.reactor.sent(self.id, Ok(taken), payload);
        }
    }

    /// The peer takes no more output. What has come from it is still delivered.
    pub fn refuse(&mut self, output: Output, error: io::Error) {
        let (payload, _) = output.into_parts(self.link().map(|link| link.connection));
        if let Some(payload) = payload {
            self.reactor.sent(self.id, Err(error), payload);
        }
    }

    /// The stream is broken: nothing goes either way any more.
    pub fn fail(&mut self, error: io::Error) {
        self.reactor.change(self.id, |link| {
            link.reading = Reading::Ended;
            link.fail(CloseReason::Failed(error));
        });
    }

    fn link(&self) -> Option<&Link> {
        self.reactor.connections.get(self.id).map(|connection| &connection.link)
    }
}

impl Drop for Carried<'_> {
    /// An outer loop hears of what there is to do now.
    fn drop(&mut self) {
        self.reactor.disturbed();
    }
}

impl fmt::Debug for Carried<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carried").field("room", &self.room()).finish_non_exhaustive()
    }
}

impl Reactor {
    /// Takes in a stream that `carrier` carries. `on_open` is called before this returns. A reactor that drains takes in none.
    ///
    /// Of the options, those that are about sockets have no effect.
    pub fn carry<H: Handler>(
        &mut self,
        options: &StreamOptions,
        carrier: impl Carrier,
        handler: H,
    ) -> Result<Handle> {
        options.check()?;
        if self.drain_deadline.is_some() {
            let source = io::Error::other("this reactor is draining");
            return Err(Error::System { action: "take in a carried stream", source });
        }
        let (options, peer) = (Rc::new(options.clone()), carrier.peer_addr());
        let wire = Wire::Carried(Carrying::new(Box::new(carrier)));
        let id = self.connections.insert(|id| Connection {
            handler: Box::new(handler),
            link: Link::new(id, wire, peer, options, Phase::Connecting, None, self.shared.now),
        });
        let connection = self.connections.get_mut(id).expect("it has just been put there");
        let handle = connection.link.handle(&self.shared.mailbox);
        self.start_carrier(id);
        self.established(id);
        self.disturbed();
        Ok(handle)
    }

    /// A stream that is carried, for its carrier. `None` once it has ended.
    pub fn carried(&mut self, stream: ConnectionId) -> Option<Carried<'_>> {
        let id = stream.place();
        let link = &self.connections.get(id)?.link;
        let is_it = link.connection == stream && link.wire.socket().is_none() && link.phase < Phase::Dead;
        is_it.then_some(Carried { reactor: self, id })
    }

    pub(in crate::reactor) fn start_carrier(&mut self, id: Id) {
        self.tell_carrier(id, |carrier, io| carrier.start(io));
    }

    fn use_room(&mut self, id: Id, bytes: usize) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        if let Wire::Carried(carrying) = &mut link.wire
            && carrying.room < usize::MAX
        {
            carrying.room -= bytes;
        }
    }

    /// The output has ended, behind all of it.
    pub(in crate::reactor) fn end_carried_output(&mut self, id: Id) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        if let Wire::Carried(carrying) = &mut link.wire {
            carrying.ended = true;
            self.tell_carrier(id, |carrier, io| carrier.end_output(io));
        }
    }

    /// Says how much is welcome, if that has changed.
    pub(in crate::reactor) fn settle_carried_reading(&mut self, id: Id) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        let room = if link.reading == Reading::Ended { 0 } else { link.input_room() };
        if room == 0 && link.phase == Phase::Open {
            link.inbox.fit();
        }
        if let Wire::Carried(carrying) = &mut link.wire
            && !carrying.closed
            // That there are none left has to be said as well.
            && (carrying.room != room || room == 0 && carrying.told > 0)
        {
            (carrying.told, carrying.room) = (room, room);
            self.tell_carrier(id, |carrier, io| carrier.receive(io, room));
            // It may have panicked, and what has ended has no limits of time.
            self.settle_phase_timer(id);
        }
    }

    /// The stream has ended, and its carrier hears of it. What it has of the stream is its own to drop.
    pub(in crate::reactor) fn close_carrier(&mut self, id: Id) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        link.sending = 0;
        let resets = link.resets;
        if let Wire::Carried(carrying) = &mut link.wire
            && !std::mem::replace(&mut carrying.closed, true)
        {
            carrying.room = 0;
            let resets = resets || !carrying.ended;
            self.tell_carrier(id, |carrier, io| carrier.close(io, resets));
        }
    }

    /// Tells a stream's carrier something. That it panics costs its stream, and what it panicked with may panic once more.
    pub(in crate::reactor) fn tell_carrier(
        &mut self,
        id: Id,
        tell: impl FnOnce(&mut dyn Carrier, &mut CarrierIo<'_>),
    ) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        let Wire::Carried(carrying) = &mut link.wire else { return };
        let mut io = CarrierIo { stream: link.connection, shared: &mut self.shared };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| tell(&mut *carrying.carrier, &mut io))) {
            drop_panic(panic);
            panicked(link, &self.shared);
            link.resets = true;
        }
    }

    /// Runs what carriers want to be run soon, and sends what comes of that: as often as one answer follows the other, for none of it
    /// needs the kernel, and once in any case. Others have their turn in between.
    pub(in crate::reactor) fn carry_on(&mut self) {
        for _ in 0..ROUNDS {
            if self.shared.soon.is_empty() {
                break;
            }
            let is_late = !self.carry_once();
            self.flush();
            if is_late || self.budget.is_spent_on_carried() {
                break;
            }
        }
    }

    /// Runs what was wanted soon until now. `false` if there was no time for all of it.
    pub(in crate::reactor) fn carry_once(&mut self) -> bool {
        let mut actions = std::mem::take(&mut self.shared.soon).into_iter();
        while actions.len() > 0 && self.may_go_on(Work::Carried) {
            actions.next().into_iter().for_each(|action| self.guarded(action));
        }
        let is_late = actions.len() > 0;
        self.shared.soon.splice(..0, actions);
        self.run_deferred();
        !is_late
    }
}

fn drop_panic(panic: Box<dyn Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        std::mem::forget(again);
    }
}
