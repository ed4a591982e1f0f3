//! The readiness backend: the same operations over `trochus-fallback`, where epoll or kqueue is all there is.

use super::{
    BufferGroup, Capabilities, Completion, DriverStats, DriverWaker, Event, Kind, Lent, Op, Received, Token,
};
use crate::buf::{BufferId, Payload};
use crate::config::{
    ACCEPTS_PER_TURN, EVENTS_PER_TURN, FILE_THREADS, PoolConfig, RECEIVES_PER_TURN, SEND_BYTES,
};
use socket2::Socket;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::time::Duration;
use trochus_fallback::{self as fallback, Proactor, Settings};

#[derive(Debug)]
pub(crate) struct Readiness {
    proactor: Proactor<Payload>,
    buffers: usize,
    enters: u64,
}

impl fallback::Payload for Payload {
    fn slices<'a>(&'a self, skip: usize, into: &mut [IoSlice<'a>]) -> usize {
        Payload::slices(self, skip, into)
    }
}

impl Readiness {
    pub(crate) fn new(pool: &PoolConfig) -> io::Result<Self> {
        let settings = Settings::default()
            .buffers(pool.buffers)
            .buffer_bytes(pool.buffer_bytes)
            .receives_per_turn(RECEIVES_PER_TURN)
            .accepts_per_turn(ACCEPTS_PER_TURN)
            .bytes_per_send(SEND_BYTES)
            .events_per_turn(EVENTS_PER_TURN)
            .file_threads(FILE_THREADS);
        Ok(Readiness { proactor: Proactor::new(settings)?, buffers: usize::from(pool.buffers), enters: 0 })
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        // Receives and accepts stay armed, which the upper layers cannot tell from the ring's doing it.
        Capabilities { multishot_receive: true, multishot_accept: true, ..Capabilities::default() }
    }

    pub(crate) fn attach(&mut self, socket: &Rc<Socket>) -> io::Result<()> {
        self.proactor.attach(socket.clone())
    }

    pub(crate) fn detach(&mut self, socket: RawFd) {
        self.proactor.detach(socket);
    }

    pub(crate) fn submit(&mut self, token: Token, op: Op) {
        match op {
            Op::Accept { listener } => self.proactor.accept(listener, token.bits()),
            Op::Connect { socket, address } => self.proactor.connect(socket, &address, token.bits()),
            Op::Receive { socket, once: None } => self.proactor.receive(socket, token.bits()),
            Op::Receive { socket, once: Some(most) } => {
                self.proactor.receive_once(socket, most, token.bits())
            }
            Op::Watch { socket } => self.proactor.watch(socket, token.bits()),
            Op::Send { socket, payload } => self.proactor.send(socket, payload, token.bits()),
            Op::Read { file, range, memory } => self.proactor.read_file(file, range, memory, token.bits()),
        }
    }

    pub(crate) fn cancel(&mut self, token: Token, socket: RawFd) {
        match token.kind() {
            Kind::Read => self.proactor.cancel_read(token.bits()),
            Kind::Accept | Kind::Connect | Kind::Receive | Kind::Send => {
                self.proactor.cancel(socket, token.bits())
            }
        }
    }

    pub(crate) fn wait(&mut self, timeout: Option<Duration>, into: &mut Vec<Completion>) -> io::Result<()> {
        self.enters += 1;
        self.proactor.wait(timeout, &mut |completion| into.push(translate(completion)))
    }

    pub(crate) fn waker(&self) -> DriverWaker {
        DriverWaker::Readiness(self.proactor.waker())
    }

    pub(crate) fn bytes(&mut self, Lent { buffer, start, len }: Lent) -> &mut [u8] {
        &mut self.proactor.bytes_mut(fallback::BufferId::new(buffer.0), start + len)[start..]
    }

    pub(crate) fn release(&mut self, buffer: BufferId) {
        self.proactor.release(fallback::BufferId::new(buffer.0));
    }

    /// All buffers are of one size.
    pub(crate) fn group(&self, _receive: Token) -> BufferGroup {
        BufferGroup::Large
    }

    pub(crate) fn free_buffers(&self, _group: BufferGroup) -> usize {
        self.proactor.free_buffers()
    }

    pub(crate) fn loaned_buffers(&self) -> usize {
        self.buffers - self.proactor.free_buffers()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.proactor.pending()
    }

    pub(crate) fn may_have_completed(&self) -> bool {
        true
    }

    pub(crate) fn has_work(&self) -> bool {
        self.proactor.has_work()
    }

    pub(crate) fn announce(&self) {
        // Fails only when the selector is broken, which the next wait reports.
        let _ = self.proactor.waker().wake();
    }

    pub(crate) fn stats(&self) -> DriverStats {
        DriverStats { enters: self.enters, ..DriverStats::default() }
    }

    pub(crate) fn descriptor(&self) -> RawFd {
        self.proactor.as_raw_fd()
    }
}

fn translate(completion: fallback::Completion<Payload>) -> Completion {
    let fallback::Completion { token, event, more } = completion;
    let event = match event {
        fallback::Event::Accepted(result) => Event::Accepted(result),
        fallback::Event::Connected(result) => Event::Connected(result),
        fallback::Event::Received(result) => Event::Received(result.map(|received| match received.buffer {
            Some(buffer) => {
                Received::Data(Lent { buffer: BufferId(buffer.index()), start: 0, len: received.len })
            }
            None => Received::End,
        })),
        fallback::Event::Sent(result, payload) => Event::Sent(result, Some(payload)),
        fallback::Event::Read(result, memory) => Event::Read(result, memory),
    };
    Completion { token: Token::from_bits(token).expect("only tokens were submitted"), event, more }
}
