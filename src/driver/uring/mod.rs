//! The io_uring backend: operations become ring entries, ring entries become completions.
//!
//! `setup` opens the best ring that the kernel allows and finds out what it can do, `pool` is the memory that receives
//! land in, `entry` translates operations. Here is the life of an operation: who holds its memory, and when it ends.

mod entry;
mod event;
mod operations;
mod pool;
mod probe;
mod setup;
#[cfg(test)]
mod tests;

pub(crate) use event::Bell;

use super::{Capabilities, Completion, DriverStats, DriverWaker, Event, Kind, Lent, Op, Received, Token};
use crate::buf::{BufferId, Payload};
use crate::config::{PoolConfig, REAP_TIMEOUT, UringFeature, UringFeatures};
use entry::{Internal, Message, Raw, Wire};
use operations::{Memory, Operations};
use pool::Pool;
use setup::Ring;
use socket2::Socket;
use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A ring, its buffers, and what its operations hold.
pub(crate) struct Uring {
    ring: Ring,
    pool: Pool,
    bell: Arc<Bell>,
    /// Those that own memory.
    operations: Operations,
    /// Receives without provided buffers, by the index of their token.
    incoming: Vec<Incoming>,
    in_flight: usize,
    capabilities: Capabilities,
    /// Those that are not in use; never more than there were vectored sends in flight at a time.
    #[expect(clippy::vec_box, reason = "the kernel has a message's address while it is in use")]
    messages: Vec<Box<Message>>,
    /// Completions on their way from the queue; kept for its capacity.
    raw: Vec<Raw>,
    stats: DriverStats,
}

/// A receive without provided buffers.
#[derive(Debug, Default)]
enum Incoming {
    #[default]
    Nothing,
    /// Waits for something to receive on this descriptor.
    Waiting(RawFd),
    Into(BufferId),
}

impl Uring {
    pub(crate) fn new(pool: &PoolConfig, without: UringFeatures) -> io::Result<Self> {
        let mut ring = Ring::open(without)?;
        let pool = Pool::new(pool, !without.contains(UringFeature::BufferRing), &mut ring)?;
        let provided_buffers = pool.is_provided();
        let capabilities = Capabilities {
            batched_submission: true,
            deferred_task_work: ring.is_deferred(),
            provided_buffers,
            // Both came with Linux 5.19.
            multishot_accept: provided_buffers && !without.contains(UringFeature::MultishotAccept),
            multishot_receive: false,
        };
        let mut uring = Uring {
            ring,
            pool,
            capabilities,
            bell: Arc::new(Bell::new()?),
            operations: Operations::default(),
            incoming: Vec::new(),
            messages: Vec::new(),
            raw: Vec::new(),
            in_flight: 0,
            stats: DriverStats::default(),
        };
        if provided_buffers && !without.contains(UringFeature::MultishotReceive) {
            uring.capabilities.multishot_receive = uring.can_receive_repeatedly()?;
        }
        uring.watch_wake();
        Ok(uring)
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// Nothing to do: the kernel retries what would block, and the ring needs no registration.
    pub(crate) fn attach(&mut self, _socket: &Rc<Socket>) -> io::Result<()> {
        Ok(())
    }

    pub(crate) fn detach(&mut self, _socket: RawFd) {}

    pub(crate) fn submit(&mut self, token: Token, op: Op) {
        self.in_flight += 1;
        match op {
            Op::Accept { listener } => {
                let multishot = self.capabilities.multishot_accept;
                self.push(Wire::Accept { listener, multishot }, token.bits());
            }
            Op::Connect { socket, address } => {
                let address = Box::new(address);
                let wire = Wire::Connect { socket, address: &address };
                let entry = wire.entry();
                self.push_owner(token, entry, Memory::Connect(address));
            }
            Op::Receive { socket } => self.arm_receive(token, socket),
            Op::Send { socket, payload } => {
                let message = payload.as_single().is_none().then(|| self.describe(&payload));
                let wire = match (&message, payload.as_single()) {
                    (None, Some(bytes)) => Wire::Send { socket, bytes },
                    (message, _) => {
                        Wire::SendMessage { socket, message: message.as_ref().expect("made above") }
                    }
                };
                let entry = wire.entry();
                self.push_owner(token, entry, Memory::Send(payload, message));
            }
        }
    }

    pub(crate) fn cancel(&mut self, token: Token, _socket: RawFd) {
        let cancellation = Internal::Cancelled(Some(token)).bits();
        match token.kind() {
            Kind::Send | Kind::Connect => {
                let keys: Vec<Token> = self.operations.keys(token).collect();
                for key in keys {
                    self.push(Wire::Cancel { target: key.bits() }, cancellation);
                }
            }
            Kind::Receive if !self.capabilities.provided_buffers => {
                // The receive that follows ends by itself, without waiting.
                self.push(Wire::Cancel { target: Internal::Readable(token).bits() }, cancellation);
            }
            Kind::Receive | Kind::Accept => self.push(Wire::Cancel { target: token.bits() }, cancellation),
        }
    }

    pub(crate) fn wait(&mut self, timeout: Option<Duration>, into: &mut Vec<Completion>) -> io::Result<()> {
        self.pool.publish();
        self.stats.enters += 1;
        self.ring.enter(timeout)?;
        self.reap(into);
        self.stats.completion_overflows = u64::from(self.ring.overflows());
        Ok(())
    }

    pub(crate) fn waker(&self) -> DriverWaker {
        DriverWaker::Event(self.bell.clone())
    }

    pub(crate) fn bytes(&mut self, lent: Lent) -> &mut [u8] {
        self.pool.bytes(lent)
    }

    pub(crate) fn release(&mut self, buffer: BufferId) {
        self.pool.release(buffer);
    }

    pub(crate) fn free_buffers(&self) -> usize {
        self.pool.free()
    }

    pub(crate) fn loaned_buffers(&self) -> usize {
        self.pool.loaned()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(crate) fn has_work(&mut self) -> bool {
        self.ring.has_work()
    }

    pub(crate) fn announce(&self) {
        self.bell.ring();
    }

    pub(crate) fn stats(&self) -> DriverStats {
        self.stats
    }

    /// The ring's own descriptor polls readable when completions are there. Where the kernel defers completion work until
    /// somebody enters, an outer selector that waits for that misses some of it (seen on Linux 6.12 and 6.18).
    pub(crate) fn descriptor(&self) -> RawFd {
        self.ring.descriptor()
    }

    /// Waits for the bytes, or lets the kernel do that and pick a buffer then.
    fn arm_receive(&mut self, token: Token, socket: RawFd) {
        let capabilities = self.capabilities;
        if capabilities.provided_buffers {
            let multishot = capabilities.multishot_receive;
            self.push(Wire::Receive { socket, multishot }, token.bits());
        } else {
            let index = token.index() as usize;
            if self.incoming.len() <= index {
                self.incoming.resize_with(index + 1, Incoming::default);
            }
            self.incoming[index] = Incoming::Waiting(socket);
            self.push(Wire::Readable { socket }, Internal::Readable(token).bits());
        }
    }

    fn describe(&mut self, payload: &Payload) -> Box<Message> {
        let mut message = self.messages.pop().unwrap_or_else(Message::new);
        message.describe(payload);
        message
    }

    fn watch_wake(&mut self) {
        let socket = self.bell.descriptor();
        self.push(Wire::Watch { socket }, Internal::Wake.bits());
    }

    fn push(&mut self, wire: Wire<'_>, user_data: u64) {
        self.push_entry(wire.entry().user_data(user_data));
    }

    /// Submits an operation that owns memory.
    fn push_owner(&mut self, token: Token, entry: entry::Entry, memory: Memory) {
        let key = self.operations.insert(token, memory);
        self.push_entry(entry.user_data(key.bits()));
    }

    fn push_entry(&mut self, entry: entry::Entry) {
        self.ring.push(entry, &mut self.stats.enters);
    }

    fn reap(&mut self, into: &mut Vec<Completion>) {
        let mut raw = std::mem::take(&mut self.raw);
        self.ring.reap(&mut raw);
        for raw in raw.drain(..) {
            if let Some(token) = Token::from_bits(raw.user_data) {
                self.complete(token, raw, into);
            } else {
                self.complete_internal(raw, into);
            }
        }
        self.raw = raw;
    }

    fn complete(&mut self, key: Token, raw: Raw, into: &mut Vec<Completion>) {
        let (token, event) = match key.kind() {
            Kind::Accept => (key, Event::Accepted(raw.accepted())),
            Kind::Receive => (key, self.received(key, raw)),
            Kind::Connect => {
                let (token, _address) = self.operations.remove(key);
                (token, Event::Connected(raw.bytes().map(drop)))
            }
            // The result of a send whose memory the kernel goes on reading.
            Kind::Send if raw.more() => (self.operations.token(key), Event::Sent(raw.bytes(), None)),
            Kind::Send => {
                let (token, memory) = self.operations.remove(key);
                let Memory::Send(payload, message) = memory else {
                    unreachable!("{token:?} held no payload")
                };
                self.messages.extend(message);
                let event = if raw.only_releases() {
                    Event::Released(payload)
                } else {
                    Event::Sent(raw.bytes(), Some(payload))
                };
                (token, event)
            }
        };
        self.in_flight -= usize::from(!raw.more());
        into.push(Completion { token, event, more: raw.more() });
    }

    fn received(&mut self, token: Token, raw: Raw) -> Event {
        let buffer = match raw.buffer() {
            Some(buffer) => {
                self.pool.taken_by_kernel(buffer);
                Some(buffer)
            }
            None => match self.incoming.get_mut(token.index() as usize).map(std::mem::take) {
                Some(Incoming::Into(buffer)) => Some(buffer),
                Some(Incoming::Nothing | Incoming::Waiting(_)) | None => None,
            },
        };
        let result = raw.bytes();
        if result.as_ref().is_err_and(super::is_out_of_buffers) {
            self.pool.widen();
        }
        Event::Received(match (result, buffer) {
            (Ok(0), buffer) => {
                buffer.into_iter().for_each(|buffer| self.pool.release(buffer));
                Ok(Received::End)
            }
            (Ok(len), Some(buffer)) => Ok(Received::Data(Lent { buffer, start: 0, len })),
            (Ok(len), None) => unreachable!("{len} bytes received into no buffer"),
            (Err(error), buffer) => {
                buffer.into_iter().for_each(|buffer| self.pool.release(buffer));
                Err(error)
            }
        })
    }

    fn complete_internal(&mut self, raw: Raw, into: &mut Vec<Completion>) {
        match Internal::from_bits(raw.user_data) {
            Internal::Cancelled(Some(token)) if raw.found_nothing() => {
                into.push(Completion { token, event: Event::NotCancelled, more: true });
            }
            Internal::Cancelled(_) | Internal::Probe => {}
            Internal::Wake => {
                if !raw.more() {
                    self.bell.clear();
                    self.watch_wake();
                }
            }
            Internal::Readable(token) => self.receive_readable(token, raw, into),
        }
    }

    /// The second half of a receive without provided buffers: the bytes are there, so now it may have a buffer.
    fn receive_readable(&mut self, token: Token, raw: Raw, into: &mut Vec<Completion>) {
        let Incoming::Waiting(socket) = std::mem::take(&mut self.incoming[token.index() as usize]) else {
            unreachable!("{token:?} was not waiting");
        };
        let buffer = raw.bytes().and_then(|_| self.pool.take().ok_or_else(super::out_of_buffers));
        match buffer {
            Ok(buffer) => {
                let (address, len) = self.pool.target(buffer);
                self.incoming[token.index() as usize] = Incoming::Into(buffer);
                self.push(Wire::ReceiveInto { socket, address, len }, token.bits());
            }
            Err(error) => {
                self.in_flight -= 1;
                into.push(Completion { token, event: Event::Received(Err(error)), more: false });
            }
        }
    }

    /// Ends everything and waits until the kernel has let go of all memory. `false` if it did not.
    fn reap_to_zero(&mut self) -> bool {
        let deadline = Instant::now() + REAP_TIMEOUT;
        let mut ended = Vec::new();
        while self.in_flight > 0 {
            // More than once: an operation that is just being moved from one of the kernel's lists to another is not found.
            self.push(Wire::CancelAll, Internal::Cancelled(None).bits());
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            if self.wait(Some(left.min(Duration::from_millis(100))), &mut ended).is_err() {
                return false;
            }
            ended.clear();
        }
        true
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        if self.in_flight > 0 && !self.reap_to_zero() {
            // Memory that the kernel may still write to is worth less than a process that may be corrupted.
            std::mem::forget(std::mem::take(&mut self.operations));
            self.pool.leak();
        }
    }
}

impl fmt::Debug for Uring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uring")
            .field("capabilities", &self.capabilities())
            .field("in_flight", &self.in_flight)
            .field("loaned_buffers", &self.pool.loaned())
            .finish_non_exhaustive()
    }
}
