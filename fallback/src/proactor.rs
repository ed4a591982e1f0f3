//! The proactor: attached sockets by descriptor, the queue of those that can run, and the wait.

use crate::files::{FileRead, FileReader};
use crate::pool::Pool;
use crate::settings::Settings;
use crate::source::{Source, Turn};
use crate::sys;
use crate::{BufferId, Completion, Event, Payload, Waker};
use mio::unix::SourceFd;
use mio::{Events, Poll, Token};
use socket2::{SockAddr, Socket};
use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// No descriptor has this number.
const WAKER: Token = Token(usize::MAX);

/// Runs operations on non-blocking stream sockets and hands over their completions.
///
/// Every operation is submitted with a token of the caller's, makes no system call before
/// [`wait`](Proactor::wait), and has exactly one final completion (`more == false`) there. The proactor is
/// not `Send`: it lives on one thread, and others reach it through its [`Waker`].
pub struct Proactor<P> {
    poll: Poll,
    events: Events,
    waker: Waker,
    /// By descriptor. Descriptors are small and dense, so that a look-up is an index.
    slots: Vec<Slot<P>>,
    /// Sources to run in the next pass.
    queue: VecDeque<RawFd>,
    /// Sources that had their turn in this wait and have work left.
    later: Vec<RawFd>,
    /// Completions that were decided without a system call and wait to be handed over.
    decided: VecDeque<Completion<P>>,
    pool: Pool,
    /// There from the first read on.
    files: Option<FileReader>,
    settings: Settings,
    pending: usize,
}

struct Slot<P> {
    source: Option<Source<P>>,
    /// Whether the descriptor is in `queue` or `later`. Outlives the source, as its entry there does.
    queued: bool,
}

impl<P: Payload> Proactor<P> {
    /// A proactor with a selector, a waker and a pool of its own.
    ///
    /// # Errors
    ///
    /// `InvalidInput` when a setting is 0 or the pool too large, naming it; what the system says when it
    /// refuses a descriptor.
    pub fn new(settings: Settings) -> io::Result<Self> {
        settings.pool_bytes()?;
        let poll = Poll::new()?;
        let waker = Waker::new(mio::Waker::new(poll.registry(), WAKER)?);
        Ok(Self {
            poll,
            events: Events::with_capacity(settings.events_per_turn),
            waker,
            slots: Vec::new(),
            queue: VecDeque::new(),
            later: Vec::new(),
            decided: VecDeque::new(),
            pool: Pool::new(settings.buffers, settings.buffer_bytes),
            files: None,
            settings,
            pending: 0,
        })
    }

    /// Makes a stream socket non-blocking and registers it for both directions. Operations name it by its
    /// descriptor, which stays open at least until [`detach`](Proactor::detach).
    ///
    /// # Errors
    ///
    /// `AlreadyExists` when the descriptor is attached; what the system says when it refuses.
    pub fn attach(&mut self, socket: Rc<Socket>) -> io::Result<()> {
        let fd = socket.as_raw_fd();
        let index = usize::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
        if self.slots.get(index).is_some_and(|slot| slot.source.is_some()) {
            return Err(io::Error::new(
                ErrorKind::AlreadyExists,
                format!("descriptor {fd} is attached already"),
            ));
        }
        sys::prepare(&socket)?;
        self.poll.registry().register(&mut SourceFd(&fd), Token(index), sys::interest())?;
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || Slot { source: None, queued: false });
        }
        self.slots[index].source = Some(Source::new(socket));
        Ok(())
    }

    /// Deregisters a socket and lets go of it; nothing when it is not attached.
    ///
    /// No operation may be pending on it: cancel first, and wait for the final completions. An operation that
    /// is pending nevertheless (a panic in debug builds) never completes, and its payload is dropped.
    pub fn detach(&mut self, fd: RawFd) {
        let Some(source) = self.slot(fd).and_then(|slot| slot.source.take()) else { return };
        debug_assert_eq!(source.pending(), 0, "descriptor {fd} was detached with operations pending");
        self.pending -= source.pending();
        // Cannot fail in a way that matters: the socket is open, and closing it deregisters it as well.
        let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
    }

    /// Accepts connections until an error or a cancellation: one [`Event::Accepted`] each.
    ///
    /// At most one accept or receive is armed on a socket: another is a panic in debug builds, and otherwise
    /// completes with `EBUSY`. On a descriptor that is not attached it completes with `EBADF`, as all
    /// operations do.
    pub fn accept(&mut self, listener: RawFd, token: u64) {
        let outcome = self.source(listener).map(|source| source.accept(token));
        self.submitted(listener, token, outcome, |error| Event::Accepted(Err(error)));
    }

    /// Connects to `address`. One [`Event::Connected`] when the connection is established or failed. Until
    /// then, other operations on the socket wait.
    pub fn connect(&mut self, socket: RawFd, address: &SockAddr, token: u64) {
        let outcome = self.source(socket).map(|source| source.connect(address, token));
        self.submitted(socket, token, outcome, |error| Event::Connected(Err(error)));
    }

    /// Receives into buffers of the pool until the end of the stream, an error, a pool without a
    /// free buffer (`ENOBUFS`) or a cancellation: one [`Event::Received`] per buffer filled.
    ///
    /// At most one accept or receive is armed on a socket, as for [`accept`](Proactor::accept). A socket on
    /// which no receive is armed is not read: that is how to push back on a peer.
    pub fn receive(&mut self, socket: RawFd, token: u64) {
        let outcome = self.source(socket).map(|source| source.receive(token));
        self.submitted(socket, token, outcome, |error| Event::Received(Err(error)));
    }

    /// Receives once, no more than `most` bytes (at least 1): one final [`Event::Received`]. Otherwise as
    /// [`receive`](Proactor::receive).
    pub fn receive_once(&mut self, socket: RawFd, most: usize, token: u64) {
        let outcome = self.source(socket).map(|source| source.receive_once(most.max(1), token));
        self.submitted(socket, token, outcome, |error| Event::Received(Err(error)));
    }

    /// Receives nothing, and waits until the connection has broken: one [`Event::Received`] with the socket's
    /// error. An orderly end does not complete it.
    ///
    /// It takes the place of a receive, of which at most one is armed on a socket: so somebody who pushes back on a
    /// peer hears of its reset.
    pub fn watch(&mut self, socket: RawFd, token: u64) {
        let outcome = self.source(socket).map(|source| source.watch(token));
        self.submitted(socket, token, outcome, |error| Event::Received(Err(error)));
    }

    /// Sends the payload, however many attempts that takes. One [`Event::Sent`] when all is sent, or as much as
    /// [`bytes_per_send`](Settings::bytes_per_send) says, or when an error ended it; it gives the payload back.
    ///
    /// At most one send is pending on a socket: another is a panic in debug builds, and otherwise completes
    /// with `EBUSY`.
    pub fn send(&mut self, socket: RawFd, payload: P, token: u64) {
        let (payload, number) = match self.source(socket) {
            Some(source) => match source.send(payload, token) {
                Ok(()) => {
                    self.pending += 1;
                    return self.enqueue(socket);
                }
                Err(payload) => (payload, libc::EBUSY),
            },
            None => (payload, libc::EBADF),
        };
        debug_assert_ne!(number, libc::EBUSY, "a send is pending on descriptor {socket} already");
        self.pending += 1;
        self.decide(token, Event::Sent(Err(io::Error::from_raw_os_error(number)), payload));
    }

    /// Ends the operation with this token that is pending on the descriptor; nothing when there is none (any
    /// more). Its final completion carries `ECANCELED`, or for a send that has made progress the count of
    /// bytes sent, and arrives in the next [`wait`](Proactor::wait).
    ///
    /// The kernel knows nothing of it: a connect goes on in the background until the socket is closed.
    pub fn cancel(&mut self, fd: RawFd, token: u64) {
        if let Some(event) = self.source(fd).and_then(|source| source.cancel(token)) {
            self.decide(token, event);
            self.enqueue(fd); // A cancelled connect may have held others back.
        }
    }

    /// Reads a range of a regular file, as much of it as `memory` has room for, on one of a few threads that are there for that.
    /// One [`Event::Read`] gives the memory back.
    pub fn read_file(&mut self, file: Arc<File>, range: Range<u64>, memory: Vec<u8>, token: u64) {
        self.pending += 1;
        let (threads, waker) = (self.settings.file_threads, self.waker.clone());
        // A wake fails only when the selector is gone, and then nobody waits.
        let reader = || FileReader::new(threads, move || drop(waker.wake()));
        let files = self.files.get_or_insert_with(reader);
        files.read(token, file, range, memory);
    }

    /// Ends the read with this token if no thread has begun it; one that was begun completes as if nothing had been said.
    pub fn cancel_read(&mut self, token: u64) {
        if let Some(files) = &mut self.files {
            files.cancel(token);
        }
    }

    /// Does what can be done, then waits for readiness and does what became possible. Completions go to
    /// `sink`, in order per socket and direction.
    ///
    /// Sleeps only when nothing completed and nothing is left to do, and then until there is readiness, a
    /// wake or the timeout (`None`: for ever; from 10 ms on, fractions of a millisecond are rounded up on epoll). May return
    /// without any completion: after the timeout, a wake, a signal, or readiness that led to nothing.
    ///
    /// `sink` should only collect: what it panics with is lost together with the completion, and the socket
    /// concerned may miss its turn until its next event.
    ///
    /// # Errors
    ///
    /// What the system says when the selector fails, which only a closed or broken selector does.
    /// Interruption by a signal is no error.
    pub fn wait(
        &mut self,
        timeout: Option<Duration>,
        sink: &mut impl FnMut(Completion<P>),
    ) -> io::Result<()> {
        let completed = self.hand_over_decided(sink) + self.hand_over_read(sink) + self.run_queue(sink);
        let idle = completed == 0 && self.later.is_empty();
        let timeout = if idle { timeout } else { Some(Duration::ZERO) };
        let timeout = sys::sleep_exactly(self.poll.registry(), timeout);
        let polled = self.poll.poll(&mut self.events, timeout);
        if polled.is_ok() {
            self.note_events();
            self.hand_over_read(sink);
            self.run_queue(sink);
        }
        self.queue.extend(self.later.drain(..));
        match polled {
            Err(error) if error.kind() != ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    /// A handle with which any thread ends the current or the next [`wait`](Proactor::wait).
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Whether the next [`wait`](Proactor::wait) has something to do before it sleeps. To be asked before an
    /// outer selector that holds the proactor's descriptor goes to sleep, for the descriptor does not show
    /// it.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.queue.is_empty()
            || !self.decided.is_empty()
            || self.files.as_ref().is_some_and(FileReader::has_done)
    }

    /// The first `len` bytes of a buffer that a completion lent.
    ///
    /// # Panics
    ///
    /// When the pool has no such buffer or the buffer fewer bytes; in debug builds also when it is not on
    /// loan.
    #[must_use]
    pub fn bytes(&self, buffer: BufferId, len: usize) -> &[u8] {
        debug_assert!(self.pool.is_lent(buffer), "{buffer:?} is not on loan");
        &self.pool.bytes(buffer)[..len]
    }

    /// The same bytes to be changed in place.
    ///
    /// # Panics
    ///
    /// As [`bytes`](Proactor::bytes).
    pub fn bytes_mut(&mut self, buffer: BufferId, len: usize) -> &mut [u8] {
        debug_assert!(self.pool.is_lent(buffer), "{buffer:?} is not on loan");
        &mut self.pool.bytes_mut(buffer)[..len]
    }

    /// Gives a buffer back to the pool. A buffer that is not on loan is a panic in debug builds, and
    /// otherwise ignored.
    pub fn release(&mut self, buffer: BufferId) {
        let released = self.pool.release(buffer);
        debug_assert!(released, "{buffer:?} was released but is not on loan");
    }

    /// Buffers of the pool that are not on loan.
    #[must_use]
    pub fn free_buffers(&self) -> usize {
        self.pool.free()
    }

    /// Operations that have yet to complete for the last time.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending
    }

    fn submitted(
        &mut self,
        fd: RawFd,
        token: u64,
        outcome: Option<bool>,
        failed: impl FnOnce(io::Error) -> Event<P>,
    ) {
        debug_assert_ne!(outcome, Some(false), "such an operation is pending on descriptor {fd} already");
        self.pending += 1;
        match outcome {
            Some(true) => self.enqueue(fd),
            Some(false) => self.decide(token, failed(io::Error::from_raw_os_error(libc::EBUSY))),
            None => self.decide(token, failed(io::Error::from_raw_os_error(libc::EBADF))),
        }
    }

    fn decide(&mut self, token: u64, event: Event<P>) {
        self.decided.push_back(Completion { token, event, more: false });
    }

    fn enqueue(&mut self, fd: RawFd) {
        let Some(slot) = self.slot(fd) else { return };
        if slot.becomes_queued() {
            self.queue.push_back(fd);
        }
    }

    fn hand_over_decided(&mut self, sink: &mut impl FnMut(Completion<P>)) -> usize {
        let mut completed = 0;
        while let Some(completion) = self.decided.pop_front() {
            self.pending -= 1;
            completed += 1;
            sink(completion);
        }
        completed
    }

    fn hand_over_read(&mut self, sink: &mut impl FnMut(Completion<P>)) -> usize {
        let Some(files) = &mut self.files else { return 0 };
        let pending = &mut self.pending;
        files.take(&mut |FileRead { token, result, memory }| {
            *pending -= 1;
            sink(Completion { token, event: Event::Read(result, memory), more: false });
        })
    }

    /// Gives each queued source one turn; those with work left go to `later`.
    fn run_queue(&mut self, sink: &mut impl FnMut(Completion<P>)) -> usize {
        let Self { pool, settings, pending, .. } = self;
        let mut turn = Turn { pool, settings, pending, completed: 0, share: 0, sink };
        while let Some(fd) = self.queue.pop_front() {
            let Some(slot) = usize::try_from(fd).ok().and_then(|index| self.slots.get_mut(index)) else {
                continue;
            };
            slot.queued = false;
            if let Some(source) = &mut slot.source {
                turn.share = turn.pool.free() / (self.queue.len() + 1);
                source.run(&mut turn);
            }
            if slot.becomes_queued() {
                self.later.push(fd);
            }
        }
        turn.completed
    }

    fn note_events(&mut self) {
        for event in &self.events {
            let Token(index) = event.token();
            // The waker has no slot: that the wait returns is all it is for.
            let Some(slot) = self.slots.get_mut(index) else { continue };
            if let Some(source) = &mut slot.source {
                source.note(event);
            }
            if slot.becomes_queued() {
                self.queue.push_back(index as RawFd);
            }
        }
    }

    fn slot(&mut self, fd: RawFd) -> Option<&mut Slot<P>> {
        self.slots.get_mut(usize::try_from(fd).ok()?)
    }

    fn source(&mut self, fd: RawFd) -> Option<&mut Source<P>> {
        self.slot(fd)?.source.as_mut()
    }
}

impl<P: Payload> Slot<P> {
    /// Whether the source has to be put in a queue now; from then on it counts as queued.
    fn becomes_queued(&mut self) -> bool {
        let becomes = !self.queued && self.source.as_ref().is_some_and(Source::is_runnable);
        self.queued |= becomes;
        becomes
    }
}

/// The selector's descriptor: readable when a wait would find readiness or a wake, so that an outer selector
/// can hold the proactor. See [`Proactor::has_work`].
impl<P> AsRawFd for Proactor<P> {
    fn as_raw_fd(&self) -> RawFd {
        self.poll.as_raw_fd()
    }
}

impl<P> fmt::Debug for Proactor<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proactor")
            .field("fd", &self.poll.as_raw_fd())
            .field("pool", &self.pool)
            .field("pending", &self.pending)
            .field("queued", &self.queue.len())
            .finish_non_exhaustive()
    }
}
