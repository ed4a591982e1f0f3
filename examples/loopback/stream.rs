//! The client's end of a connection that carries a stream.

use crate::pattern::{Check, Pattern, WINDOW};
use crate::watch::Watch;
use crate::wire::{Hello, Mode, VERDICT_BYTES, Verdict};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use trochus::Reactor;
use trochus::net::{CloseReason, Handler, Io};

/// Both directions of a stream of the pattern.
pub(crate) struct Flow {
    pattern: Pattern,
    sent: u64,
    size: usize,
    pub(crate) check: Check,
}

impl Flow {
    pub(crate) fn new(pattern: Pattern, size: usize) -> Self {
        Flow { check: Check::new(pattern.clone()), pattern, sent: 0, size }
    }

    /// Writes one chunk. The next one follows when the kernel has taken it: with two outstanding, 512 KiB of the pattern
    /// pass through the cache at a time, which measured slower.
    pub(crate) fn fill(&mut self, io: &mut Io<'_>) {
        let mut left = self.size;
        while left > 0 {
            let len = left.min(WINDOW);
            io.write_bytes(self.pattern.slice(self.sent, len));
            self.sent += len as u64;
            left -= len;
        }
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }
}

/// What became of a connection, once its content was found to be right.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// Bytes that the other end confirmed, and bytes from there.
    pub(crate) bytes: u64,
    /// Both ends were on one reactor; `None` if that cannot be known.
    pub(crate) local: Option<bool>,
}

pub(crate) type Outcomes = Sender<Result<Outcome, String>>;

pub(crate) struct StreamClient {
    hello: Hello,
    flow: Flow,
    watch: Arc<Watch>,
    /// Told once, at the end.
    outcomes: Option<Outcomes>,
    stopping: bool,
    /// The last bytes from the server: its verdict, in the end.
    tail: Vec<u8>,
}

impl StreamClient {
    pub(crate) fn new(pattern: Pattern, hello: Hello, watch: Arc<Watch>, outcomes: Outcomes) -> Self {
        let flow = Flow::new(pattern, hello.size as usize);
        StreamClient { hello, flow, watch, outcomes: Some(outcomes), stopping: false, tail: Vec::new() }
    }

    fn finish(&mut self, outcome: Result<Outcome, String>) {
        if let Some(outcomes) = self.outcomes.take() {
            // Whoever does not wait for it any more has given up with an error already.
            let _ = outcomes.send(outcome);
        }
    }

    fn fail(&mut self, what: impl std::fmt::Display) {
        let failure = self.watch.fail(self.hello.connection, what);
        self.finish(Err(failure));
    }

    fn judge(&mut self) {
        let Some(verdict) = Verdict::decode(&self.tail) else {
            return self.fail("the server ended the stream without its verdict");
        };
        let expected = Verdict { received: self.flow.sent, sent: self.flow.check.position() };
        if verdict != expected {
            return self.fail(format_args!(
                "{} bytes were sent and {} arrived; {} bytes were sent back and {} arrived",
                expected.received, verdict.received, verdict.sent, expected.sent
            ));
        }
        let local = self.watch.is_local(self.hello.connection);
        self.finish(Ok(Outcome { bytes: verdict.received + verdict.sent, local }));
    }
}

impl Handler for StreamClient {
    fn on_open(&mut self, io: &mut Io<'_>) {
        io.write(&self.hello.encode());
        self.flow.fill(io);
    }

    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        // The verdict comes only after this side's end of stream.
        let body = bytes.len() - if self.stopping { bytes.len().min(VERDICT_BYTES) } else { 0 };
        if self.hello.mode == Mode::Bulk && body > 0 {
            self.fail("the server sent something that nobody asked for");
            io.abort();
        } else if let Err(mismatch) = self.flow.check.take(&bytes[..body]) {
            self.fail(mismatch);
            io.abort();
        }
        self.watch.add_verified(body);
        self.tail.clear();
        self.tail.extend_from_slice(&bytes[body..]);
        body
    }

    fn on_drained(&mut self, io: &mut Io<'_>) {
        if !self.stopping {
            self.flow.fill(io);
        }
    }

    /// The time is up.
    fn on_notify(&mut self, io: &mut Io<'_>) {
        self.stopping = true;
        io.shutdown_write();
    }

    fn on_end(&mut self, io: &mut Io<'_>) {
        self.judge();
        io.close();
    }

    fn on_close(&mut self, reason: &CloseReason, _reactor: &mut Reactor) {
        if self.outcomes.is_some() {
            self.fail(reason);
        }
    }
}
