//! One connection that speaks in lines.

use std::process::id;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use trochus::codec::{Decode, Decoded, Lines};
use trochus::net::{Handler, Io};

/// Answers each line with the process id and the line.
pub(crate) struct Talk {
    lines: Lines,
    /// By all of them.
    answered: Arc<AtomicU64>,
    /// This one has had an answer.
    was_heard: bool,
    stops: bool,
}

impl Talk {
    pub(crate) fn new(answered: Arc<AtomicU64>) -> Self {
        Talk { lines: Lines::new(), answered, was_heard: false, stops: false }
    }

    /// Ends between two lines. Who has just connected asked this process and no other: its first line is on the way, and nothing in this
    /// protocol could tell it to ask elsewhere.
    fn end_if_done(&self, io: &mut Io<'_>, unconsumed: usize) {
        if self.stops && self.was_heard && unconsumed == 0 {
            io.close();
        }
    }
}

impl Handler for Talk {
    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        let mut consumed = 0;
        loop {
            match self.lines.decode(&bytes[consumed..]) {
                Ok(Decoded::Item { item, consumed: bytes }) => {
                    consumed += bytes;
                    io.write(format!("{} {item}\n", id()).as_bytes());
                    self.answered.fetch_add(1, Relaxed);
                    self.was_heard = true;
                }
                Ok(Decoded::NeedMore { .. }) => break,
                Err(_) => {
                    io.close_unfinished();
                    return bytes.len();
                }
            }
        }
        self.end_if_done(io, bytes.len() - consumed);
        consumed
    }

    fn on_shutdown(&mut self, io: &mut Io<'_>) {
        self.stops = true;
        self.end_if_done(io, io.unconsumed().len());
    }
}
