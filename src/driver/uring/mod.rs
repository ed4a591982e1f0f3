//! The io_uring backend: operations become ring entries, ring entries become completions.
//!
//! `setup` opens the best ring that the kernel allows and finds out what it can do, `pool` is the memory that receives
//! land in, `entry` translates operations. Here is the life of an operation: who holds its memory, and when it ends.

mod bell;
mod connect;
mod entry;
mod files;
mod operations;
mod pool;
mod probe;
mod receive;
mod setup;
#[cfg(test)]
mod tests;
mod window;

pub(crate) use bell::Bell;

use bytes::Bytes;

use super::{BufferGroup, Capabilities, Completion, DriverStats, DriverWaker, Event, Kind, Lent, Op, Token};
use crate::buf::{BufferId, Payload};
use crate::config::{PoolConfig, REAP_TIMEOUT, RingEntries, UringFeature, UringFeatures};
use entry::{Internal, Message, Raw, Wire};
use operations::{Memory, Operations};
use pool::Pool;
use receive::Receiver;
use setup::Ring;
use socket2::Socket;
use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use trochus_fallback::FileReader;

/// A ring, its buffers, and what its operations hold.
pub(crate) struct Uring {
    ring: Ring,
    pool: Pool,
    bell: Arc<Bell>,
    /// Those that own memory.
    operations: Operations,
    /// By the index of a receive's token.
    receivers: Vec<Receiver>,
    in_flight: usize,
    capabilities: Capabilities,
    /// Those that are not in use; never more than there were vectored sends in flight at a time.
    #[expect(clippy::vec_box, reason = "the kernel has a message's address while it is in use")]
    messages: Vec<Box<Message>>,
    /// Completions that were taken from the queue and are not translated yet.
    raw: Vec<Raw>,
    /// Kept for its capacity.
    translated: Vec<Raw>,
    /// Completions that were decided when the operation was submitted.
    decided: Vec<Completion>,
    /// Reads files if the ring is not to: the reader itself is there from the first read on.
    reader: Option<FileReader>,
    reads_files: bool,
    stats: DriverStats,
}

impl Uring {
    pub(crate) fn new(pool: &PoolConfig, entries: RingEntries, without: UringFeatures) -> io::Result<Self> {
        let mut ring = Ring::open(entries, without)?;
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
            receivers: Vec::new(),
            messages: Vec::new(),
            raw: Vec::new(),
            translated: Vec::new(),
            decided: Vec::new(),
            in_flight: 0,
            reader: None,
            reads_files: !without.contains(UringFeature::FileRead),
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
            Op::Connect { socket, address } => self.connect(token, socket, address),
            Op::Receive { socket, once } => self.arm_receive(token, socket, once),
            Op::Watch { socket } => self.watch(token, socket),
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
            Op::Read { file, range, memory } => self.read_file(token, file, range, memory),
        }
    }

    pub(crate) fn cancel(&mut self, token: Token, _socket: RawFd) {
        let cancellation = Internal::Cancelled(Some(token)).bits();
        match token.kind() {
            Kind::Send | Kind::Connect | Kind::Read => {
                if let Some(reader) = &mut self.reader {
                    reader.cancel(token.bits());
                }
                let keys: Vec<Token> = self.operations.keys(token).collect();
                for key in keys {
                    self.push(Wire::Cancel { target: key.bits() }, cancellation);
                }
            }
            Kind::Receive => self.cancel_receive(token),
            Kind::Accept => self.push(Wire::Cancel { target: token.bits() }, cancellation),
        }
    }

    pub(crate) fn wait(&mut self, timeout: Option<Duration>, into: &mut Vec<Completion>) -> io::Result<()> {
        self.pool.publish();
        self.stats.enters += 1;
        let late = self.ring.has_overflowed();
        let at_once = !self.raw.is_empty() || !self.decided.is_empty();
        self.ring.enter(if at_once { Some(Duration::ZERO) } else { timeout })?;
        self.stats.completion_overflows += u64::from(late || self.ring.has_overflowed());
        self.ring.reap(&mut self.raw);
        into.append(&mut self.decided);
        self.take_read(into);
        self.translate(into);
        Ok(())
    }

    pub(crate) fn take_decided(&mut self, into: &mut Vec<Completion>) {
        into.append(&mut self.decided);
    }

    pub(crate) fn waker(&self) -> DriverWaker {
        DriverWaker::Event(self.bell.clone())
    }

    pub(crate) fn bytes(&mut self, lent: Lent) -> &mut [u8] {
        self.pool.bytes(lent)
    }

    pub(crate) fn share(&mut self, lent: Lent) -> Option<Bytes> {
        self.pool.share(lent)
    }

    pub(crate) fn release(&mut self, buffer: BufferId) {
        self.pool.release(buffer);
    }

    pub(crate) fn group(&self, receive: Token) -> BufferGroup {
        self.group_of(receive)
    }

    pub(crate) fn free_buffers(&self, group: BufferGroup) -> usize {
        self.pool.free(group)
    }

    pub(crate) fn loaned_buffers(&self) -> usize {
        self.pool.loaned()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(crate) fn has_work(&mut self) -> bool {
        !self.raw.is_empty() || !self.decided.is_empty() || self.ring.has_work()
    }

    pub(crate) fn may_have_completed(&mut self) -> bool {
        !self.raw.is_empty() || !self.decided.is_empty() || self.ring.may_have_completed()
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

    /// A full queue is submitted first. So that the completions of what goes in find room, those that are there are taken
    /// out; they are translated in the next wait.
    fn push_entry(&mut self, entry: entry::Entry) {
        while !self.ring.push(&entry) {
            self.stats.enters += 1;
            // What fails here fails in the next wait as well, which reports it.
            let broken = self.ring.enter(Some(Duration::ZERO)).is_err();
            self.stats.completion_overflows += u64::from(self.ring.has_overflowed());
            self.ring.reap(&mut self.raw);
            assert!(!broken || !self.ring.is_full(), "the kernel takes no operations any more");
        }
    }

    fn translate(&mut self, into: &mut Vec<Completion>) {
        // What is pushed meanwhile may take more completions from the queue.
        while !self.raw.is_empty() {
            let mut raw = std::mem::replace(&mut self.raw, std::mem::take(&mut self.translated));
            for raw in raw.drain(..) {
                match Token::from_bits(raw.user_data) {
                    Some(key) => self.complete(key, raw, into),
                    None => self.complete_internal(raw, into),
                }
            }
            self.translated = raw;
        }
    }

    fn complete(&mut self, key: Token, raw: Raw, into: &mut Vec<Completion>) {
        let (token, event) = match key.kind() {
            Kind::Receive => return self.received(key, raw, into),
            Kind::Accept => (key, Event::Accepted(raw.accepted())),
            Kind::Connect => return self.connected(key, raw, into),
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
            Kind::Read => self.file_read(key, raw),
        };
        self.in_flight -= usize::from(!raw.more());
        into.push(Completion { token, event, more: raw.more() });
    }

    fn complete_internal(&mut self, raw: Raw, into: &mut Vec<Completion>) {
        match Internal::from_bits(raw.user_data) {
            Internal::Cancelled(Some(token)) if raw.found_nothing() => {
                into.push(Completion { token, event: Event::NotCancelled, more: true });
            }
            Internal::Switched(token) if raw.found_nothing() => self.not_switched(token),
            Internal::Switched(_) | Internal::Cancelled(_) | Internal::Probe => {}
            Internal::Wake => {
                if !raw.more() {
                    self.bell.clear();
                    self.watch_wake();
                }
            }
            Internal::Readable(token) => self.receive_readable(token, raw, into),
            Internal::Watched(token) => self.watched(token, raw, into),
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
