//! A driver for tests: no kernel, but everything that a kernel may do, at the whim of a seed.
//!
//! Each stream has a simulated peer that sends a given sequence of bytes, ends its stream behind them, and keeps what it
//! receives. Completions come late, in any order across operations, and in pieces of any size; operations end early,
//! are interrupted, find no buffer, or fail; cancellations do not find them; waits end for nothing. Other threads do
//! something while the reactor waits. Time passes when nothing else can happen, and as a test says.

mod files;
mod pending;
mod shared;
mod world;

pub(crate) use world::{Peer, Takes, Whims, World};

use pending::{Outcome, Pending, descriptor};

use super::{
    BufferGroup, Capabilities, Completion, DriverStats, DriverWaker, Event, Kind, Lent, Op, Received, Token,
};
use crate::buf::{BufferId, Payload};
use fastrand::Rng;
use socket2::{Domain, Socket, Type};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub(crate) struct Simulated {
    rng: Rng,
    world: Rc<RefCell<World>>,
    pool: Vec<Vec<u8>>,
    free: Vec<BufferId>,
    returned: shared::Returned,
    whims: Whims,
    operations: BTreeMap<u64, Pending>,
    /// The socket of each operation whose final completion has not been handed over.
    in_flight: BTreeMap<u64, Option<RawFd>>,
    attached: BTreeMap<RawFd, Rc<Socket>>,
    /// Completions that have happened and are on their way, each after so many more waits.
    late: Vec<(usize, Completion)>,
    woken: Arc<AtomicBool>,
    start: Instant,
    elapsed: Duration,
}

impl Simulated {
    pub(crate) fn new(seed: u64, world: Rc<RefCell<World>>, buffers: u16, buffer_bytes: usize) -> Self {
        Simulated {
            rng: Rng::with_seed(seed),
            world,
            pool: vec![vec![0; buffer_bytes]; usize::from(buffers)],
            free: (0..buffers).map(BufferId).collect(),
            returned: shared::Returned::default(),
            whims: Whims::of(&mut Rng::with_seed(!seed)),
            operations: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            attached: BTreeMap::new(),
            late: Vec::new(),
            woken: Arc::default(),
            start: Instant::now(),
            elapsed: Duration::ZERO,
        }
    }

    pub(crate) fn with(mut self, whims: Whims) -> Self {
        self.whims = whims;
        self
    }

    pub(crate) fn now(&self) -> Instant {
        self.start + self.elapsed + self.world.borrow_mut().look_at_the_clock()
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    pub(crate) fn attach(&mut self, socket: &Rc<Socket>) -> io::Result<()> {
        self.attached.insert(socket.as_raw_fd(), socket.clone());
        Ok(())
    }

    pub(crate) fn detach(&mut self, socket: RawFd) {
        let mut world = self.world.borrow_mut();
        if self.in_flight.values().any(|in_flight| *in_flight == Some(socket)) {
            world.faults.push(format!("descriptor {socket} was detached with an operation in flight"));
        }
        if let Some(peer) = world.peers.remove(&socket) {
            world.gone.push(peer);
        }
        self.attached.remove(&socket);
    }

    pub(crate) fn submit(&mut self, token: Token, op: Op) {
        self.world.borrow_mut().may_panic();
        if descriptor(&op).is_some_and(|socket| !self.attached.contains_key(&socket)) {
            self.fault(format!("{token:?} on a descriptor that is not attached"));
        }
        if self.in_flight.insert(token.bits(), descriptor(&op)).is_some() {
            self.fault(format!("{token:?} is in flight twice"));
        }
        if matches!(&op, Op::Send { payload, .. } if payload.is_wasteful()) {
            self.fault(format!("{token:?} holds much more memory than it sends"));
        }
        if self.whims.arming_needs_a_buffer && self.free.is_empty() && matches!(op, Op::Receive { .. }) {
            let event = Event::Received(Err(super::out_of_buffers()));
            return self.complete(Completion { token, event, more: false });
        }
        self.operations.insert(token.bits(), Pending { op, cancelled: false });
    }

    pub(crate) fn cancel(&mut self, token: Token, socket: RawFd) {
        self.world.borrow_mut().may_panic();
        if !self.attached.contains_key(&socket) {
            self.fault(format!("{token:?} was cancelled on a descriptor that is not attached"));
        }
        self.world.borrow_mut().cancelled_receives += usize::from(token.kind() == Kind::Receive);
        let lost = self.rng.u8(..) < self.whims.cancellations_lost;
        match self.operations.get_mut(&token.bits()) {
            Some(pending) if !lost => pending.cancelled = true,
            // It has completed, or is just being moved about.
            _ => self.complete(Completion { token, event: Event::NotCancelled, more: true }),
        }
    }

    pub(crate) fn wait(&mut self, timeout: Option<Duration>, into: &mut Vec<Completion>) -> io::Result<()> {
        if let Some(left) = &mut self.world.borrow_mut().breaks_after {
            *left = left.saturating_sub(1);
            if *left == 0 {
                return Err(io::Error::from_raw_os_error(libc::EBADF));
            }
        }
        self.take_back();
        let may_sleep = timeout != Some(Duration::ZERO);
        self.run_others(may_sleep);
        if self.rng.u8(..) < self.whims.waits_interrupted {
            // By a signal; or what was submitted was not taken, for something has to be reaped first.
            return Ok(());
        }
        let mut tokens: Vec<u64> = self.operations.keys().copied().collect();
        if !self.whims.prompt {
            self.rng.shuffle(&mut tokens);
        }
        for bits in tokens {
            if self.whims.prompt {
                while self.progress(bits) {}
            } else if self.rng.u8(..) < 100 {
                self.progress(bits);
            }
        }
        self.deliver(into);
        let woken = self.woken.swap(false, Ordering::Relaxed);
        if into.is_empty() && self.late.is_empty() && !woken {
            // Nothing else can happen, or it did not this time: some time passes, at most up to the timer.
            let step = Duration::from_millis(self.rng.u64(1..20));
            self.elapsed += timeout.map_or(step, |timeout| timeout.min(step * 10));
        }
        Ok(())
    }

    /// Other threads do what they have to do; one that needs the reactor must have woken it if it sleeps.
    fn run_others(&mut self, asleep: bool) {
        if self.rng.bool() {
            return;
        }
        let Some(mut meanwhile) = self.world.borrow_mut().meanwhile.take() else { return };
        let wants_it = meanwhile();
        if wants_it && asleep && !self.woken.load(Ordering::Relaxed) {
            self.fault("the reactor sleeps and was not woken".to_owned());
        }
        self.world.borrow_mut().meanwhile.get_or_insert(meanwhile);
    }

    /// Hands over what is due. What one operation completed stays in order.
    fn deliver(&mut self, into: &mut Vec<Completion>) {
        self.late.iter_mut().for_each(|(waits, _)| *waits = waits.saturating_sub(1));
        let mut held_back = Vec::new();
        for (waits, completion) in std::mem::take(&mut self.late) {
            let token = completion.token;
            if waits == 0
                && !held_back.iter().any(|(_, earlier): &(usize, Completion)| earlier.token == token)
            {
                if !completion.more {
                    self.in_flight.remove(&token.bits());
                }
                into.push(completion);
            } else {
                held_back.push((waits, completion));
            }
        }
        self.late = held_back;
        if self.whims.prompt {
            return;
        }
        // Across operations there is no order.
        let mut rest: Vec<Completion> = std::mem::take(into);
        while !rest.is_empty() {
            let token = rest[self.rng.usize(..rest.len())].token;
            let first =
                rest.iter().position(|completion| completion.token == token).expect("it was just seen");
            into.push(rest.remove(first));
        }
    }

    /// `true` if something happened.
    fn progress(&mut self, bits: u64) -> bool {
        let Some(mut pending) = self.operations.remove(&bits) else { return false };
        let token = Token::from_bits(bits).expect("only tokens were submitted");
        // A cancellation may come too late: then the operation completes as if it had not been cancelled.
        let cancelled = pending.cancelled && self.rng.u8(..) < 200;
        let outcome = match &mut pending.op {
            _ if cancelled => Outcome::Failed(super::cancelled()),
            _ if !self.whims.prompt && self.rng.u8(..) < 8 => {
                Outcome::Failed(io::ErrorKind::Interrupted.into())
            }
            Op::Accept { .. } => self.accept(),
            Op::Connect { socket, .. } => self.connect(*socket),
            Op::Receive { socket, once } => self.receive(*socket, *once),
            Op::Watch { socket } => self.watch(*socket),
            Op::Send { socket, payload } => self.send(*socket, payload),
            Op::Read { file, range, memory } => self.read_file(file, range, memory),
        };
        let (event, more) = match outcome {
            Outcome::Nothing => {
                self.operations.insert(bits, pending);
                return false;
            }
            Outcome::Happened(event, stays_armed) => {
                (event, stays_armed && (self.whims.prompt || self.rng.u8(..) < 220))
            }
            Outcome::Sent(sent) => {
                let Op::Send { payload, .. } = pending.op else { unreachable!("only a send sends") };
                if self.whims.prompt || self.rng.u8(..) < 200 {
                    self.complete(Completion {
                        token,
                        event: Event::Sent(Ok(sent), Some(payload)),
                        more: false,
                    });
                } else {
                    // The kernel still reads it for a while.
                    self.complete(Completion { token, event: Event::Sent(Ok(sent), None), more: true });
                    self.complete(Completion { token, event: Event::Released(payload), more: false });
                }
                return true;
            }
            Outcome::Read(read) => {
                let Op::Read { memory, .. } = pending.op else { unreachable!("only a read reads") };
                self.complete(Completion { token, event: Event::Read(Ok(read), memory), more: false });
                return true;
            }
            Outcome::Failed(error) => {
                let event = match pending.op {
                    Op::Accept { .. } => Event::Accepted(Err(error)),
                    Op::Connect { .. } => Event::Connected(Err(error)),
                    Op::Receive { .. } | Op::Watch { .. } => Event::Received(Err(error)),
                    Op::Send { payload, .. } => Event::Sent(Err(error), Some(payload)),
                    Op::Read { memory, .. } => Event::Read(Err(error), memory),
                };
                self.complete(Completion { token, event, more: false });
                return true;
            }
        };
        if more {
            self.operations.insert(bits, pending);
        }
        self.complete(Completion { token, event, more });
        true
    }

    fn complete(&mut self, completion: Completion) {
        let waits = if self.whims.prompt || self.rng.bool() { 0 } else { self.rng.usize(0..6) };
        self.late.push((waits, completion));
    }

    fn accept(&mut self) -> Outcome {
        if !self.whims.prompt && self.rng.u8(..) < 16 {
            return Outcome::Failed(io::Error::from_raw_os_error(libc::EMFILE));
        }
        let Some(peer) = self.world.borrow_mut().arriving.pop_front() else { return Outcome::Nothing };
        // A real descriptor, so that the number is nobody else's; a connected one, so that it has a peer.
        let (socket, other) =
            Socket::pair(Domain::UNIX, Type::STREAM, None).expect("a descriptor for the test");
        self.world.borrow_mut().peers.insert(socket.as_raw_fd(), Peer { other: Some(other), ..peer });
        Outcome::Happened(Event::Accepted(Ok(socket)), true)
    }

    fn connect(&mut self, socket: RawFd) -> Outcome {
        let mut world = self.world.borrow_mut();
        if world.silent {
            return Outcome::Nothing;
        }
        if let Some(Peer { full: full @ 1.., .. }) = world.answering.front_mut() {
            *full -= 1;
            return Outcome::Failed(io::ErrorKind::WouldBlock.into());
        }
        match world.answering.pop_front() {
            Some(peer) => {
                world.peers.insert(socket, peer);
                Outcome::Happened(Event::Connected(Ok(())), false)
            }
            None => Outcome::Failed(io::ErrorKind::ConnectionRefused.into()),
        }
    }

    fn watch(&mut self, socket: RawFd) -> Outcome {
        let mut world = self.world.borrow_mut();
        let broken = world.peers.get_mut(&socket).is_some_and(Peer::count_down);
        if broken { Outcome::Failed(io::ErrorKind::ConnectionReset.into()) } else { Outcome::Nothing }
    }

    fn receive(&mut self, socket: RawFd, once: Option<usize>) -> Outcome {
        let mut world = self.world.borrow_mut();
        let Some(peer) = world.peers.get_mut(&socket) else { return Outcome::Nothing };
        if peer.count_down() {
            return Outcome::Failed(io::ErrorKind::ConnectionReset.into());
        }
        if peer.sends.is_empty() {
            let ended = !peer.echoes || peer.saw_end;
            return if ended {
                Outcome::Happened(Event::Received(Ok(Received::End)), false)
            } else {
                Outcome::Nothing
            };
        }
        let Some(buffer) = self.free.pop() else { return Outcome::Failed(super::out_of_buffers()) };
        let memory = &mut self.pool[usize::from(buffer.0)];
        let start = if self.whims.prompt { 0 } else { self.rng.usize(..memory.len()) };
        let len = if self.whims.prompt { memory.len() } else { self.rng.usize(1..=memory.len() - start) };
        let len = len.min(peer.sends.len()).min(once.unwrap_or(usize::MAX));
        peer.sends.drain(..len).zip(memory[start..].iter_mut()).for_each(|(byte, place)| *place = byte);
        Outcome::Happened(Event::Received(Ok(Received::Data(Lent { buffer, start, len }))), once.is_none())
    }

    fn send(&mut self, socket: RawFd, payload: &Payload) -> Outcome {
        let mut world = self.world.borrow_mut();
        let Some(peer) = world.peers.get_mut(&socket) else { return Outcome::Nothing };
        if peer.count_down() {
            return Outcome::Failed(io::ErrorKind::BrokenPipe.into());
        }
        let mut slices = [IoSlice::new(&[]); 4];
        let filled = payload.slices(0, &mut slices);
        let bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
        let sent = match peer.takes {
            Takes::Nothing => return Outcome::Nothing,
            Takes::ByteEach(time) if self.elapsed < peer.took + time => return Outcome::Nothing,
            Takes::ByteEach(_) => 1,
            Takes::Everything if self.whims.prompt || self.rng.bool() => bytes.len(),
            Takes::Everything => self.rng.usize(1..=bytes.len()),
        };
        peer.took = self.elapsed;
        peer.received.extend_from_slice(&bytes[..sent]);
        if peer.echoes {
            peer.sends.extend(&bytes[..sent]);
        }
        Outcome::Sent(sent)
    }

    fn fault(&self, fault: String) {
        self.world.borrow_mut().faults.push(fault);
    }

    pub(crate) fn end_output(&mut self, socket: &Socket) {
        if let Some(peer) = self.world.borrow_mut().peers.get_mut(&socket.as_raw_fd()) {
            peer.saw_end = true;
        }
    }

    pub(crate) fn waker(&self) -> DriverWaker {
        DriverWaker::Simulated(self.woken.clone())
    }

    pub(crate) fn bytes(&mut self, Lent { buffer, start, len }: Lent) -> &mut [u8] {
        &mut self.pool[usize::from(buffer.0)][start..start + len]
    }

    pub(crate) fn release(&mut self, buffer: BufferId) {
        if self.free.contains(&buffer) {
            self.fault(format!("{buffer:?} was released twice"));
        }
        // Whoever still looks at it will notice.
        self.pool[usize::from(buffer.0)].fill(0xee);
        self.free.push(buffer);
    }

    /// All buffers are of one size.
    pub(crate) fn group(&self, _receive: Token) -> BufferGroup {
        BufferGroup::Large
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    pub(crate) fn may_have_completed(&self) -> bool {
        true
    }

    pub(crate) fn has_work(&self) -> bool {
        true
    }

    /// Nobody watches its descriptor.
    pub(crate) fn announce(&self) {}

    pub(crate) fn stats(&self) -> DriverStats {
        DriverStats::default()
    }

    pub(crate) fn descriptor(&self) -> RawFd {
        -1
    }
}
