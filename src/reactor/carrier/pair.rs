//! Two streams that are each other's peer, in memory.
//!
//! What one sends, the other is shown where it lies: its memory passes from one to the other, and comes back. Nothing is kept in
//! between but the one piece of output that is on its way, which counts as the sender's.

use super::carried::{Carrier, CarrierIo};
use super::output::Output;
use crate::reactor::Reactor;
use crate::reactor::socket::address::Address;
use crate::reactor::table::ConnectionId;
use crate::reactor::threads::reactor_handle::ReactorHandle;
use bytes::Buf;
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;

/// Two ends of a stream that needs no system: what is written to one is read from the other. For tests of a protocol, and between parts
/// of one program.
///
/// ```
/// use trochus::net::{self, Handler, Io, StreamOptions};
/// use trochus::Runtime;
/// # struct Echo;
/// # impl Handler for Echo {
/// #     fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize { io.write(bytes); bytes.len() }
/// # }
/// let runtime = Runtime::new()?;
/// let (client, server) = net::pair();
/// runtime.carry(&StreamOptions::default(), server, || Echo)?;
/// let client = runtime.carry(&StreamOptions::default(), client, || Echo)?;
/// client.abort();
/// # Ok::<(), trochus::Error>(())
/// ```
///
/// An end is taken in by [`Runtime::carry`](crate::Runtime::carry) or [`Reactor::carry`], the two of them by the same reactor, which is
/// fastest, or by different ones, of different runtimes as well. What the first one sends waits until the other is there. An end that is
/// dropped before resets the other one.
pub fn pair() -> (PairEnd, PairEnd) {
    named_pair(String::new().into(), String::new().into())
}

/// The same between two addresses: first the one's, then the other's.
pub(in crate::reactor) fn named_pair(first: Arc<str>, second: Arc<str>) -> (PairEnd, PairEnd) {
    let between = Arc::new(Between::default());
    let end = |side: usize, local: &Arc<str>, peer: &Arc<str>| PairEnd {
        side,
        between: between.clone(),
        local: local.clone(),
        peer: peer.clone(),
    };
    (end(0, &first, &second), end(1, &second, &first))
}

/// One of two ends: see [`pair`].
#[derive(Debug)]
pub struct PairEnd {
    side: usize,
    between: Arc<Between>,
    local: Arc<str>,
    peer: Arc<str>,
}

#[derive(Debug, Default)]
struct Between([Mutex<Side>; 2]);

/// What one end has said.
#[derive(Debug, Default)]
struct Side {
    /// Which stream it is, once it has been taken in.
    at: Option<(ReactorHandle, ConnectionId)>,
    /// On its way to the other end.
    output: Option<Output>,
    /// There is no more behind that.
    ended: bool,
    /// It has ended, whether with a reset or not.
    closed: Option<bool>,
    /// Bytes from the other end are welcome.
    reads: bool,
    /// It was told that the other end sends no more.
    end_told: bool,
    /// It is to look what there is for it, and has not yet.
    called: bool,
}

impl Between {
    /// Has this end look what there is for it, soon. Not under a lock.
    fn call(self: &Arc<Self>, side: usize, io: Option<&mut CarrierIo<'_>>) {
        let reactor = {
            let mut this = self.0[side].lock();
            if this.closed.is_some() || this.called {
                return;
            }
            let Some((reactor, _)) = &this.at else { return };
            let reactor = reactor.clone();
            this.called = true;
            reactor
        };
        let between = self.clone();
        match io {
            Some(io) if io.is_at(&reactor) => io.soon(move |reactor| between.look(side, reactor)),
            // One that has stopped has dropped its end.
            _ => _ = reactor.run(move |reactor| between.look(side, reactor)),
        }
    }

    /// Brings this end what the other one has for it, on this end's reactor.
    fn look(self: &Arc<Self>, side: usize, reactor: &mut Reactor) {
        let stream = {
            let mut this = self.0[side].lock();
            this.called = false;
            match &this.at {
                Some((_, stream)) if this.closed.is_none() => *stream,
                _ => return,
            }
        };
        self.bring(side, stream, reactor);
        self.tell_end(side, stream, reactor);
    }

    /// Brings output, as much of a piece as one turn has for a stream.
    fn bring(self: &Arc<Self>, side: usize, stream: ConnectionId, reactor: &mut Reactor) {
        if !self.0[side].lock().reads {
            return;
        }
        let (mut output, back) = {
            let mut other = self.0[1 - side].lock();
            let Some(output) = other.output.take() else { return };
            (output, other.at.clone())
        };
        let mut brought = 0;
        while let Some(mut carried) = reactor.carried(stream).filter(|_| output.has_remaining()) {
            match carried.receive(output.chunk()) {
                0 => break,
                taken => output.advance(taken),
            }
            brought += 1;
        }
        if brought == 0 && output.has_remaining() {
            self.0[1 - side].lock().output = Some(output);
            let (is_closed, reads) = {
                let this = self.0[side].lock();
                (this.closed.is_some(), this.reads)
            };
            if is_closed {
                // It was not there when the other end looked what had become of it.
                self.call(1 - side, None);
            } else if reads {
                // This turn has no more for it.
                self.look_again(side, reactor);
            }
            return;
        }
        // Its memory goes back with what is left, so that its progress shows. The rest comes again.
        let Some((at, other)) = back else { return };
        let sent = move |reactor: &mut Reactor| {
            if let Some(mut carried) = reactor.carried(other) {
                carried.sent(output);
            }
        };
        if at.is_of(&reactor.shared.mailbox) { sent(reactor) } else { _ = at.run(sent) }
    }

    fn look_again(self: &Arc<Self>, side: usize, reactor: &mut Reactor) {
        if !std::mem::replace(&mut self.0[side].lock().called, true) {
            let between = self.clone();
            reactor.shared.soon.push(Box::new(move |reactor| between.look(side, reactor)));
        }
    }

    /// Tells this end how the other one has ended, if it has, behind all that came from it.
    fn tell_end(&self, side: usize, stream: ConnectionId, reactor: &mut Reactor) {
        let (ended, closed) = {
            let other = self.0[1 - side].lock();
            // Its output has all come back by the time that it ends.
            (other.ended, other.closed)
        };
        let Some(mut carried) = reactor.carried(stream) else { return };
        if closed == Some(true) {
            return carried.fail(io::ErrorKind::ConnectionReset.into());
        }
        let refused = {
            let mut this = self.0[side].lock();
            if closed.is_some() { this.output.take() } else { None }
        };
        if let Some(output) = refused {
            carried.refuse(output, io::ErrorKind::BrokenPipe.into());
        }
        if ended && !std::mem::replace(&mut self.0[side].lock().end_told, true) {
            carried.end();
        }
    }
}

impl PairEnd {
    fn other(&self) -> usize {
        1 - self.side
    }

    fn change<R>(&self, change: impl FnOnce(&mut Side) -> R) -> R {
        change(&mut self.between.0[self.side].lock())
    }
}

impl Carrier for PairEnd {
    fn start(&mut self, io: &mut CarrierIo<'_>) {
        let at = (io.reactor(), io.stream());
        self.change(|this| this.at = Some(at));
        self.between.call(self.side, Some(io));
    }

    fn send(&mut self, io: &mut CarrierIo<'_>, output: Output) {
        self.change(|this| this.output = Some(output));
        let is_closed = self.between.0[self.other()].lock().closed.is_some();
        // Who sends to nobody hears of it.
        self.between.call(if is_closed { self.side } else { self.other() }, Some(io));
    }

    fn receive(&mut self, io: &mut CarrierIo<'_>, most: usize) {
        let reads = most > 0;
        self.change(|this| this.reads = reads);
        let there = self.between.0[self.other()].lock().output.is_some();
        if reads && there {
            self.between.call(self.side, Some(io));
        }
    }

    fn end_output(&mut self, io: &mut CarrierIo<'_>) {
        self.change(|this| this.ended = true);
        self.between.call(self.other(), Some(io));
    }

    fn close(&mut self, io: &mut CarrierIo<'_>, resets: bool) {
        let output = self.change(|this| {
            this.closed = Some(resets);
            this.output.take()
        });
        drop(output);
        self.between.call(self.other(), Some(io));
    }

    fn peer_addr(&self) -> Address {
        Address::Memory(self.peer.clone())
    }

    fn local_addr(&self) -> Address {
        Address::Memory(self.local.clone())
    }
}

/// Whoever goes without a word leaves the other end with a reset.
impl Drop for PairEnd {
    fn drop(&mut self) {
        let gone = self.change(|this| {
            let gone = this.closed.is_none();
            this.closed.get_or_insert(true);
            this.at = None;
            gone.then(|| this.output.take())
        });
        if gone.is_some() {
            self.between.call(self.other(), None);
        }
    }
}
