//! A handler that tells the test what happens to it, and does what the test says.

use crate::accounts::DEADLINE;
use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use trochus::Reactor;
use trochus::net::{CloseReason, Handle, Handler, Io};

/// What happened to a connection.
#[derive(Debug)]
pub(crate) enum Event {
    Opened(Handle),
    Bytes(Vec<u8>),
    Ended,
    Room,
    Drained,
    Notified,
    Timer,
    Asked,
    Closed(Ending),
}

/// A [`CloseReason`], to be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Closed,
    ByPeer,
    CloseTimeout,
    FlushTimeout,
    WriteStalled { text: String },
    TooSlow,
    Opening,
    Message { pending: usize },
    Idle,
    LifetimeOver,
    Aborted,
    Failed(io::ErrorKind),
    ConnectFailed(io::ErrorKind),
    OutputLimit { pending: usize, limit: usize, text: String },
    InputLimit { pending: usize, limit: usize, text: String },
    MemoryBudget { held: usize },
    FileFailed { missing: u64, kind: io::ErrorKind, text: String },
    OutputDamaged,
    Panicked,
    Shutdown,
}

impl From<&CloseReason> for Ending {
    fn from(reason: &CloseReason) -> Self {
        let text = reason.to_string();
        match *reason {
            CloseReason::Closed => Ending::Closed,
            CloseReason::ByPeer => Ending::ByPeer,
            CloseReason::CloseTimeout { .. } => Ending::CloseTimeout,
            CloseReason::FlushTimeout { .. } => Ending::FlushTimeout,
            CloseReason::WriteStalled { .. } => Ending::WriteStalled { text },
            CloseReason::WriteTooSlow { .. } => Ending::TooSlow,
            CloseReason::OpeningTimeout { .. } => Ending::Opening,
            CloseReason::MessageTimeout { pending, .. } => Ending::Message { pending },
            CloseReason::IdleTimeout { .. } => Ending::Idle,
            CloseReason::LifetimeOver { .. } => Ending::LifetimeOver,
            CloseReason::Aborted => Ending::Aborted,
            CloseReason::Failed(ref error) => Ending::Failed(error.kind()),
            CloseReason::ConnectFailed(ref error) => Ending::ConnectFailed(error.kind()),
            CloseReason::OutputLimit { pending, limit } => Ending::OutputLimit { pending, limit, text },
            CloseReason::InputLimit { pending, limit } => Ending::InputLimit { pending, limit, text },
            CloseReason::MemoryBudget { held, .. } => Ending::MemoryBudget { held },
            CloseReason::FileFailed { missing, ref error } => {
                Ending::FileFailed { missing, kind: error.kind(), text }
            }
            CloseReason::OutputDamaged => Ending::OutputDamaged,
            CloseReason::Panicked => Ending::Panicked,
            CloseReason::Shutdown => Ending::Shutdown,
            ref other => panic!("a reason that this suite does not know: {other}"),
        }
    }
}

/// The test's end of what probes tell.
pub(crate) struct Log(Receiver<Event>);

/// Makes probes.
#[derive(Clone)]
pub(crate) struct Recorder(Sender<Event>);

pub(crate) fn log() -> (Log, Recorder) {
    let (send, receive) = mpsc::channel();
    (Log(receive), Recorder(send))
}

impl Log {
    #[track_caller]
    pub(crate) fn next(&self) -> Event {
        match self.0.recv_timeout(DEADLINE) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => panic!("nothing happened within {DEADLINE:?}"),
            Err(RecvTimeoutError::Disconnected) => panic!("the probes have gone"),
        }
    }

    /// Skips everything up to what `wanted` picks.
    #[track_caller]
    pub(crate) fn find<T>(&self, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(self.next()) {
                return found;
            }
        }
    }

    #[track_caller]
    pub(crate) fn opened(&self) -> Handle {
        self.find(|event| if let Event::Opened(handle) = event { Some(handle) } else { None })
    }

    #[track_caller]
    pub(crate) fn closed(&self) -> Ending {
        self.find(|event| if let Event::Closed(ending) = event { Some(ending) } else { None })
    }

    /// Collects received bytes until there are `len`; nothing else may happen in between, except that output drains.
    #[track_caller]
    pub(crate) fn bytes(&self, len: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < len {
            match self.next() {
                Event::Bytes(bytes) => all.extend(bytes),
                Event::Drained | Event::Room => {}
                other => panic!("expected bytes ({} of {len} so far), got {other:?}", all.len()),
            }
        }
        all
    }

    /// The same for a connection that opens first.
    #[track_caller]
    pub(crate) fn bytes_after_open(&self, len: usize) -> Vec<u8> {
        self.opened();
        self.bytes(len)
    }

    /// What has happened that nobody asked about.
    pub(crate) fn rest(&self) -> Vec<Event> {
        self.0.try_iter().collect()
    }
}

type Hook = Box<dyn FnMut(&mut Io<'_>) + Send>;
type OnBytes = Box<dyn FnMut(&mut Io<'_>, &[u8]) -> usize + Send>;
type OnClose = Box<dyn FnMut(&mut Reactor) + Send>;

/// A handler made of closures. Without one, `on_bytes` consumes everything and the others do what they do by default.
pub(crate) struct Probe {
    log: Sender<Event>,
    bytes: Option<OnBytes>,
    open: Option<Hook>,
    end: Option<Hook>,
    room: Option<Hook>,
    drained: Option<Hook>,
    notify: Option<Hook>,
    timer: Option<Hook>,
    shutdown: Option<Hook>,
    close: Option<OnClose>,
}

impl Recorder {
    pub(crate) fn probe(&self) -> Probe {
        Probe {
            log: self.0.clone(),
            bytes: None,
            open: None,
            end: None,
            room: None,
            drained: None,
            notify: None,
            timer: None,
            shutdown: None,
            close: None,
        }
    }

    /// A probe that sends back what it gets.
    pub(crate) fn echo(&self) -> Probe {
        self.probe().bytes(|io, bytes| {
            io.write(bytes);
            bytes.len()
        })
    }
}

macro_rules! hooks {
    ($($name:ident),*) => {$(
        pub(crate) fn $name(mut self, hook: impl FnMut(&mut Io<'_>) + Send + 'static) -> Self {
            self.$name = Some(Box::new(hook));
            self
        }
    )*};
}

impl Probe {
    hooks!(open, end, room, drained, notify, timer, shutdown);

    pub(crate) fn bytes(mut self, hook: impl FnMut(&mut Io<'_>, &[u8]) -> usize + Send + 'static) -> Self {
        self.bytes = Some(Box::new(hook));
        self
    }

    pub(crate) fn close(mut self, hook: impl FnMut(&mut Reactor) + Send + 'static) -> Self {
        self.close = Some(Box::new(hook));
        self
    }

    fn tell(&self, event: Event) {
        // The test may have seen enough.
        let _ = self.log.send(event);
    }
}

fn run(hook: &mut Option<Hook>, io: &mut Io<'_>, otherwise: impl FnOnce(&mut Io<'_>)) {
    match hook {
        Some(hook) => hook(io),
        None => otherwise(io),
    }
}

impl Handler for Probe {
    fn on_open(&mut self, io: &mut Io<'_>) {
        self.tell(Event::Opened(io.handle()));
        run(&mut self.open, io, |_| {});
    }

    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        self.tell(Event::Bytes(bytes.to_vec()));
        self.bytes.as_mut().map_or(bytes.len(), |hook| hook(io, bytes))
    }

    fn on_end(&mut self, io: &mut Io<'_>) {
        self.tell(Event::Ended);
        run(&mut self.end, io, |io| io.close());
    }

    fn on_room(&mut self, io: &mut Io<'_>) {
        self.tell(Event::Room);
        run(&mut self.room, io, |_| {});
    }

    fn on_drained(&mut self, io: &mut Io<'_>) {
        self.tell(Event::Drained);
        run(&mut self.drained, io, |_| {});
    }

    fn on_notify(&mut self, io: &mut Io<'_>) {
        self.tell(Event::Notified);
        run(&mut self.notify, io, |_| {});
    }

    fn on_timer(&mut self, io: &mut Io<'_>) {
        self.tell(Event::Timer);
        run(&mut self.timer, io, |_| {});
    }

    fn on_shutdown(&mut self, io: &mut Io<'_>) {
        self.tell(Event::Asked);
        run(&mut self.shutdown, io, |io| io.close());
    }

    fn on_close(&mut self, reason: &CloseReason, reactor: &mut Reactor) {
        self.tell(Event::Closed(reason.into()));
        if let Some(hook) = &mut self.close {
            hook(reactor);
        }
    }
}

/// The plain echo server, which tells nobody anything.
pub(crate) struct Echo;

impl Handler for Echo {
    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        io.write(bytes);
        bytes.len()
    }
}
