//! The server's end of a connection, whatever its client wants.

use crate::message::{Messages, SEQUENCE_BYTES};
use crate::pattern::{Pattern, WINDOW};
use crate::stream::Flow;
use crate::watch::Watch;
use crate::wire::{HELLO_BYTES, Hello, Mode, Verdict};
use std::sync::Arc;
use trochus::Reactor;
use trochus::net::{CloseReason, Handler, Io};

pub(crate) struct Session {
    pattern: Pattern,
    watch: Arc<Watch>,
    connection: u32,
    state: State,
}

enum State {
    /// The client has not said yet what it wants.
    Greeting,
    Stream {
        flow: Flow,
        answers: bool,
    },
    Echo(Messages),
}

impl Session {
    pub(crate) fn new(pattern: Pattern, watch: Arc<Watch>) -> Self {
        Session { pattern, watch, connection: 0, state: State::Greeting }
    }

    fn greet(&mut self, io: &mut Io<'_>, hello: Hello) -> Result<(), &'static str> {
        self.connection = hello.connection;
        self.watch.server_is_here(hello.connection);
        let size = hello.size as usize;
        self.state = match hello.mode {
            Mode::PingPong if !(SEQUENCE_BYTES..=WINDOW).contains(&size) => {
                return Err("the client asks for messages of less than 8 bytes or more than 256 KiB");
            }
            Mode::PingPong => State::Echo(Messages::new(self.pattern.clone(), size)),
            Mode::Bulk | Mode::Duplex => {
                let mut flow = Flow::new(self.pattern.clone(), size);
                if hello.mode == Mode::Duplex {
                    flow.fill(io);
                }
                State::Stream { flow, answers: hello.mode == Mode::Duplex }
            }
        };
        Ok(())
    }

    fn fail(&mut self, io: &mut Io<'_>, what: impl std::fmt::Display) {
        self.watch.fail(self.connection, what);
        io.abort();
    }
}

impl Handler for Session {
    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        let checked = match &mut self.state {
            State::Greeting => {
                let Some((hello, rest)) = bytes.split_first_chunk::<HELLO_BYTES>() else {
                    io.expect(HELLO_BYTES);
                    return 0;
                };
                if let Err(problem) = Hello::decode(hello).and_then(|hello| self.greet(io, hello)) {
                    eprintln!("loopback: {}: {problem}", io.peer_addr());
                    io.abort();
                    return bytes.len();
                }
                return HELLO_BYTES + if rest.is_empty() { 0 } else { self.on_bytes(io, rest) };
            }
            State::Stream { flow, .. } => flow.check.take(bytes).map(|()| bytes.len()),
            State::Echo(messages) => {
                let whole = bytes.len() - bytes.len() % messages.size();
                if whole < bytes.len() {
                    io.expect(messages.size());
                }
                messages.take(&bytes[..whole]).map(|()| {
                    io.write(&bytes[..whole]);
                    whole
                })
            }
        };
        match checked {
            Ok(taken) => {
                self.watch.add_verified(taken);
                taken
            }
            Err(mismatch) => {
                self.fail(io, mismatch);
                bytes.len()
            }
        }
    }

    fn on_drained(&mut self, io: &mut Io<'_>) {
        if let State::Stream { flow, answers: true } = &mut self.state {
            flow.fill(io);
        }
    }

    fn on_end(&mut self, io: &mut Io<'_>) {
        if let State::Stream { flow, .. } = &self.state {
            io.write(&Verdict { received: flow.check.position(), sent: flow.sent() }.encode());
        }
        io.close();
    }

    fn on_close(&mut self, reason: &CloseReason, _reactor: &mut Reactor) {
        // A client that went away has failed itself; the server goes on.
        if !reason.is_clean() && !matches!(reason, CloseReason::Aborted) {
            eprintln!("loopback: connection {}, at the server: {reason}", self.connection);
        }
    }
}
