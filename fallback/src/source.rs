//! One attached socket: what is pending on it, what is known about its readiness, and one turn of work.
//!
//! Edge-triggered selectors say once that something changed, so readiness is remembered here: a flag is set
//! by an event (or optimistically, when nothing is known) and cleared only by proof that the socket would
//! block.

use crate::payload::MAX_SLICES;
use crate::pool::Pool;
use crate::settings::Settings;
use crate::sys;
use crate::{Completion, Event, Payload, Received};
use mio::event::Event as Readiness;
use socket2::{SockAddr, Socket};
use std::io::{self, ErrorKind, IoSlice, Read};
use std::rc::Rc;

pub(crate) struct Source<P> {
    socket: Rc<Socket>,
    readable: bool,
    writable: bool,
    /// The selector has reported an error that nobody was told of.
    failed: bool,
    /// A short read proves that nothing is left, unless an event said `read_until_blocked`.
    short_read_drains: bool,
    read_until_blocked: bool,
    connect: Option<Connect>,
    input: Option<Input>,
    send: Option<Send<P>>,
}

struct Connect {
    token: u64,
    /// Taken when the system call is made.
    address: Option<Box<SockAddr>>,
}

#[derive(Clone, Copy)]
enum Input {
    Accept {
        token: u64,
    },
    /// No more than so many bytes at a time; until cancelled, or once.
    Receive {
        token: u64,
        most: usize,
        once: bool,
    },
    Watch {
        token: u64,
    },
}

struct Send<P> {
    token: u64,
    payload: P,
    sent: usize,
}

/// What a source needs of its proactor during a turn.
pub(crate) struct Turn<'a, S> {
    pub(crate) pool: &'a mut Pool,
    pub(crate) settings: &'a Settings,
    pub(crate) pending: &'a mut usize,
    pub(crate) completed: usize,
    /// Buffers for this source, so that those behind it in the queue get some as well.
    pub(crate) share: usize,
    pub(crate) sink: &'a mut S,
}

impl<S> Turn<'_, S> {
    pub(crate) fn complete<P>(&mut self, token: u64, event: Event<P>, more: bool)
    where
        S: FnMut(Completion<P>),
    {
        *self.pending -= usize::from(!more);
        self.completed += 1;
        (self.sink)(Completion { token, event, more });
    }
}

impl<P: Payload> Source<P> {
    pub(crate) fn new(socket: Rc<Socket>) -> Self {
        Self {
            short_read_drains: sys::short_read_drains(&socket),
            socket,
            // Unknown: one attempt costs less than waiting for an event.
            readable: true,
            writable: true,
            failed: false,
            read_until_blocked: false,
            connect: None,
            input: None,
            send: None,
        }
    }

    /// False (and no effect) when a connect is pending already.
    pub(crate) fn connect(&mut self, address: &SockAddr, token: u64) -> bool {
        let vacant = self.connect.is_none();
        if vacant {
            self.connect = Some(Connect { token, address: Some(Box::new(address.clone())) });
        }
        vacant
    }

    /// False (and no effect) when an accept or a receive is armed already.
    pub(crate) fn accept(&mut self, token: u64) -> bool {
        self.arm(Input::Accept { token })
    }

    /// False (and no effect) when an accept or a receive is armed already.
    pub(crate) fn receive(&mut self, token: u64) -> bool {
        self.arm(Input::Receive { token, most: usize::MAX, once: false })
    }

    /// False (and no effect) when an accept or a receive is armed already.
    pub(crate) fn receive_once(&mut self, most: usize, token: u64) -> bool {
        self.arm(Input::Receive { token, most, once: true })
    }

    /// False (and no effect) when an accept or a receive is armed already.
    pub(crate) fn watch(&mut self, token: u64) -> bool {
        self.arm(Input::Watch { token })
    }

    fn arm(&mut self, input: Input) -> bool {
        let vacant = self.input.is_none();
        if vacant {
            self.input = Some(input);
        }
        vacant
    }

    /// Hands the payload back when a send is pending already.
    pub(crate) fn send(&mut self, payload: P, token: u64) -> Result<(), P> {
        if self.send.is_some() {
            return Err(payload);
        }
        self.send = Some(Send { token, payload, sent: 0 });
        Ok(())
    }

    /// Takes the pending operation with this token off the source; returns what it completes with.
    pub(crate) fn cancel(&mut self, token: u64) -> Option<Event<P>> {
        let cancelled = || io::Error::from_raw_os_error(libc::ECANCELED);
        if self.connect.take_if(|connect| connect.token == token).is_some() {
            return Some(Event::Connected(Err(cancelled())));
        }
        match self.input {
            Some(Input::Accept { token: armed }) if armed == token => {
                self.input = None;
                return Some(Event::Accepted(Err(cancelled())));
            }
            Some(Input::Receive { token: armed, .. } | Input::Watch { token: armed }) if armed == token => {
                self.input = None;
                return Some(Event::Received(Err(cancelled())));
            }
            _ => {}
        }
        let send = self.send.take_if(|send| send.token == token)?;
        Some(send.ended_by(cancelled()))
    }

    /// Operations that have not completed.
    pub(crate) fn pending(&self) -> usize {
        usize::from(self.connect.is_some())
            + usize::from(self.input.is_some())
            + usize::from(self.send.is_some())
    }

    /// Remembers what the selector said.
    pub(crate) fn note(&mut self, readiness: &Readiness) {
        // An end or an error is not announced twice: read until it shows, not merely until a read falls
        // short.
        let unusual = readiness.is_read_closed() || readiness.is_error() || readiness.is_priority();
        self.read_until_blocked |= unusual;
        self.failed |= readiness.is_error();
        self.readable |= readiness.is_readable() || unusual;
        self.writable |= readiness.is_writable() || readiness.is_write_closed() || readiness.is_error();
    }

    /// Whether a turn may get something done.
    pub(crate) fn is_runnable(&self) -> bool {
        match &self.connect {
            Some(connect) => connect.address.is_some() || self.writable,
            None => self.has_input() || self.writable && self.send.is_some(),
        }
    }

    /// Whether there may be something for what is armed.
    fn has_input(&self) -> bool {
        match self.input {
            Some(Input::Watch { .. }) => self.failed,
            Some(_) => self.readable,
            None => false,
        }
    }

    /// Does what can be done now, within the bounds of one turn.
    pub(crate) fn run<S: FnMut(Completion<P>)>(&mut self, turn: &mut Turn<'_, S>) {
        if self.connect.is_some() {
            self.run_connect(turn);
        }
        if self.connect.is_some() {
            return; // What else is pending needs the connection.
        }
        // Output first: it gives back memory, while input asks for some.
        if self.writable && self.send.is_some() {
            self.run_send(turn);
        }
        if self.has_input() {
            match self.input {
                Some(Input::Accept { token }) => self.run_accept(token, turn),
                Some(Input::Receive { token, most, once }) => self.run_receive(token, most, once, turn),
                Some(Input::Watch { token }) => self.run_watch(token, turn),
                None => {}
            }
        }
    }

    fn run_connect<S: FnMut(Completion<P>)>(&mut self, turn: &mut Turn<'_, S>) {
        let Some(connect) = &mut self.connect else { return };
        let token = connect.token;
        let outcome = match connect.address.take() {
            Some(address) => match self.socket.connect(&address) {
                // Over loopback it is established by now, as a rule; to see that costs less than to wait for it.
                Err(error) if sys::connect_goes_on(&error) => sys::connect_outcome(&self.socket),
                outcome => Some(outcome),
            },
            None if self.writable => sys::connect_outcome(&self.socket),
            None => return,
        };
        if let Some(outcome) = outcome {
            self.connect = None;
            self.readable = true;
            self.writable = true;
            turn.complete(token, Event::Connected(outcome), false);
        } else {
            // What was known was about the socket before it had a connection, which selectors call hung up.
            self.readable = false;
            self.writable = false;
            self.failed = false;
            self.read_until_blocked = false;
        }
    }

    fn run_send<S: FnMut(Completion<P>)>(&mut self, turn: &mut Turn<'_, S>) {
        for _ in 0..turn.settings.sends_per_turn {
            let Some(send) = &mut self.send else { return };
            match send.transmit(&self.socket, turn.settings.bytes_per_send - send.sent) {
                Ok(Some(0)) => self.end_send(Some(ErrorKind::WriteZero.into()), turn),
                Ok(Some(sent)) => {
                    send.sent += sent;
                    if send.sent >= turn.settings.bytes_per_send {
                        return self.end_send(None, turn);
                    }
                }
                Ok(None) => self.end_send(None, turn),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.writable = false;
                    return;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => self.end_send(Some(error), turn),
            }
        }
    }

    fn end_send<S: FnMut(Completion<P>)>(&mut self, error: Option<io::Error>, turn: &mut Turn<'_, S>) {
        let Some(send) = self.send.take() else { return };
        let token = send.token;
        let event = match error {
            Some(error) => send.ended_by(error),
            None => Event::Sent(Ok(send.sent), send.payload),
        };
        turn.complete(token, event, false);
    }

    fn run_accept<S: FnMut(Completion<P>)>(&mut self, token: u64, turn: &mut Turn<'_, S>) {
        for _ in 0..turn.settings.accepts_per_turn {
            match sys::accept(&self.socket) {
                Ok(socket) => turn.complete(token, Event::Accepted(Ok(socket)), true),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    return;
                }
                Err(error) if sys::concerns_one_connection(&error) => {}
                Err(error) => {
                    self.input = None;
                    turn.complete(token, Event::Accepted(Err(error)), false);
                    return;
                }
            }
        }
    }

    fn run_receive<S: FnMut(Completion<P>)>(
        &mut self,
        token: u64,
        most: usize,
        once: bool,
        turn: &mut Turn<'_, S>,
    ) {
        let most = most.min(turn.pool.buffer_bytes());
        for _ in 0..turn.settings.receives_per_turn.min(turn.share.max(1)) {
            let Some(buffer) = turn.pool.take() else {
                let error = io::Error::from_raw_os_error(libc::ENOBUFS);
                return self.end_receive(token, Err(error), turn);
            };
            let outcome = (&*self.socket).read(&mut turn.pool.bytes_mut(buffer)[..most]);
            if let Ok(len @ 1..) = outcome {
                if len < most && self.short_read_drains && !self.read_until_blocked {
                    self.readable = false;
                }
                let received = Ok(Received { buffer: Some(buffer), len });
                if once {
                    return self.end_receive(token, received, turn);
                }
                turn.complete(token, Event::Received(received), true);
                if !self.readable {
                    return;
                }
                continue;
            }
            turn.pool.release(buffer);
            match outcome {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    self.read_until_blocked = false;
                    return;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                end => {
                    let end = end.map(|len| Received { buffer: None, len });
                    return self.end_receive(token, end, turn);
                }
            }
        }
    }

    fn run_watch<S: FnMut(Completion<P>)>(&mut self, token: u64, turn: &mut Turn<'_, S>) {
        self.failed = false;
        // There is none if somebody was told meanwhile, a send that failed for example.
        if let Some(error) = self.socket.take_error().unwrap_or_else(Some) {
            self.end_receive(token, Err(error), turn);
        }
    }

    fn end_receive<S: FnMut(Completion<P>)>(
        &mut self,
        token: u64,
        end: io::Result<Received>,
        turn: &mut Turn<'_, S>,
    ) {
        self.input = None;
        turn.complete(token, Event::Received(end), false);
    }
}

impl<P: Payload> Send<P> {
    /// One system call with `most` bytes at most: how many the socket took, or `None` when none are left.
    fn transmit(&self, socket: &Socket, most: usize) -> io::Result<Option<usize>> {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let filled = self.payload.slices(self.sent, &mut slices);
        let fitting = sys::fit_one_call(&slices[..filled]);
        let mut bytes = 0;
        let within = slices[..fitting].iter().take_while(|slice| {
            bytes += slice.len();
            bytes <= most
        });
        // A slice that is longer than that goes alone, and not as a whole.
        let within = within.count().max(fitting.min(1));
        match &slices[..within] {
            [] => Ok(None),
            [single] => socket.send_with_flags(&single[..single.len().min(most)], sys::SEND_FLAGS).map(Some),
            several => socket.send_vectored_with_flags(several, sys::SEND_FLAGS).map(Some),
        }
    }

    /// What was sent is told first; the error shows when the rest is sent.
    fn ended_by(self, error: io::Error) -> Event<P> {
        let outcome = if self.sent > 0 { Ok(self.sent) } else { Err(error) };
        Event::Sent(outcome, self.payload)
    }
}
