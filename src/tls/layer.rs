//! TLS as a filter of one connection.

use super::engine::{Progress, Records};
use super::error::Error;
use super::info::Info;
use crate::reactor::CloseReason;
use crate::reactor::{Filter, State, Through};
use rustls::InvalidMessage;
use std::any::Any;

/// Bytes in front of each record, the last two of which are its length.
const HEADER_BYTES: usize = 5;

/// The largest handshake message, and the largest record behind it, with what they are wrapped in: rustls looks at the message's own
/// length alone, and it may come in very many records that hold next to nothing.
const MOST_HELD: usize = (64 << 10) + 2 * (18 << 10);

pub(super) struct Layer<R> {
    records: R,
    /// What is not used up of what was received: the beginning of a record, or of a message that is in several of them.
    held: Vec<u8>,
    info: Option<Box<Info>>,
}

impl<R: Records> Layer<R> {
    pub(super) fn new(records: R) -> Self {
        Layer { records, held: Vec::new(), info: None }
    }

    fn feed(&mut self, mut bytes: &mut [u8], through: &mut Through<'_>) -> Result<(), rustls::Error> {
        while !self.held.is_empty() && !bytes.is_empty() {
            // No more than completes what is held, so that what lies behind is opened where it is.
            let some = missing(&self.held).min(bytes.len());
            let (completing, rest) = bytes.split_at_mut(some);
            self.held.extend_from_slice(completing);
            bytes = rest;
            let used = self.records.feed(&mut self.held, through.plain, through.said)?;
            if used == self.held.len() {
                self.held = Vec::new();
            } else {
                self.held.drain(..used);
            }
        }
        if !bytes.is_empty() {
            let used = self.records.feed(bytes, through.plain, through.said)?;
            // As they were left: some of it may have been opened.
            self.held.extend_from_slice(&bytes[used..]);
        }
        if self.held.len() > MOST_HELD {
            return Err(InvalidMessage::HandshakePayloadTooLarge.into());
        }
        Ok(())
    }

    fn state(&mut self) -> State {
        match self.records.progress() {
            Progress::Handshaking => State::Handshaking,
            progress => {
                if self.info.is_none() {
                    self.info = Some(Box::new(self.records.info()));
                }
                if progress == Progress::Open {
                    return State::Open;
                }
                self.held = Vec::new();
                State::Ended
            }
        }
    }
}

/// Bytes that complete the record that `held` begins with, or its header; any number, if it is all there.
fn missing(held: &[u8]) -> usize {
    let Some(header) = held.get(..HEADER_BYTES) else { return HEADER_BYTES - held.len() };
    let record = HEADER_BYTES + usize::from(u16::from_be_bytes([header[3], header[4]]));
    if held.len() < record { record - held.len() } else { usize::MAX }
}

fn failed(error: rustls::Error) -> CloseReason {
    CloseReason::Tls(Error::new(error))
}

impl<R: Records> Filter for Layer<R> {
    fn begin(&mut self, through: &mut Through<'_>) -> Result<State, CloseReason> {
        self.records.feed(&mut [], through.plain, through.said).map_err(failed)?;
        Ok(self.state())
    }

    fn receive(&mut self, bytes: &mut [u8], through: &mut Through<'_>) -> Result<State, CloseReason> {
        self.feed(bytes, through).map_err(failed)?;
        Ok(self.state())
    }

    fn seal(&mut self, plain: &[u8], into: &mut Vec<u8>) -> Result<(), CloseReason> {
        self.records.seal(&mut self.held, plain, into).map_err(failed)
    }

    fn end_output(&mut self, into: &mut Vec<u8>) {
        self.records.close(&mut self.held, into);
    }

    fn held_input(&self) -> usize {
        self.held.len()
    }

    fn info(&self) -> Option<&dyn Any> {
        self.info.as_deref().map(|info| info as &dyn Any)
    }
}
