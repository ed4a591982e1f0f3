//! What filters mean for a link: where its bytes are, and how its streams end.

use super::{Filter, MOST_SAID, SEAL_BYTES, State, WORTH_SEALING};
use crate::buf::{Payload, Spare};
use crate::reactor::stream::connection::{Link, Phase};
use crate::reactor::stream::ending::Cut;
use crate::reactor::stream::handler::CloseReason;
use crate::reactor::stream::reading::Reading;
#[cfg(any(feature = "tls", feature = "tls-ring"))]
use std::any::Any;
use std::io::IoSlice;

impl Link {
    #[cfg(any(feature = "tls", feature = "tls-ring"))]
    pub(in crate::reactor) fn filter_info(&self) -> Option<&dyn Any> {
        self.filter.as_ref()?.filter.info()
    }

    /// The peer's output is over, as far as anybody here is concerned.
    #[inline]
    pub(in crate::reactor) fn input_has_ended(&self) -> bool {
        self.reading == Reading::Ended || self.filter.as_ref().is_some_and(|filter| filter.ended)
    }

    /// The socket has no more input.
    pub(in crate::reactor) fn socket_ended(&mut self) {
        self.reading = Reading::Ended;
        match &mut self.filter {
            None if self.phase == Phase::Handshaking => self.fail(CloseReason::Truncated),
            None => self.end_input(),
            Some(filter) if filter.ended || filter.broken => {}
            Some(_) if self.phase == Phase::Handshaking => self.fail(CloseReason::Truncated),
            Some(filter) => {
                filter.truncated = true;
                self.end_owed = true;
            }
        }
    }

    pub(super) fn end_input(&mut self) {
        self.end_owed = true;
        self.ended_by_peer = self.accepts_output();
    }

    /// What was received is not all that the peer had to say.
    pub(in crate::reactor) fn is_truncated(&self) -> bool {
        self.filter.as_ref().is_some_and(|filter| filter.truncated)
    }

    /// Bytes that arrived and that nobody has consumed.
    #[inline]
    pub(in crate::reactor) fn unconsumed(&self) -> usize {
        self.inbox.len() + self.filter.as_ref().map_or(0, |filter| filter.filter.held_input())
    }

    /// Output that other threads wrote.
    #[inline]
    pub(in crate::reactor) fn foreign_output(&self) -> usize {
        self.marks.foreign() + self.filter.as_ref().map_or(0, |filter| filter.foreign)
    }

    /// So many bytes were sent, and `left` of them are still to be.
    #[inline]
    pub(in crate::reactor) fn note_sent(&mut self, sent: usize, left: usize) {
        match &mut self.filter {
            None => self.marks.advance(sent),
            Some(filter) => filter.foreign = filter.foreign.min(left),
        }
    }

    /// Forgets all output that is not on its way.
    pub(in crate::reactor) fn drop_output(&mut self) {
        self.forget_written();
        if let Some(filter) = &mut self.filter {
            filter.drop_output();
        }
        self.filtered = 0;
    }

    fn forget_written(&mut self) {
        self.discard_output();
        if let Some(filter) = &mut self.filter {
            filter.sealing = Payload::default();
            self.filtered = filter.pending();
        }
    }

    /// Whether nothing is in flight but the filter's last words, whose loss is nobody's.
    pub(in crate::reactor) fn sends_farewell(&self) -> bool {
        self.filter.as_ref().is_some_and(|filter| filter.farewell)
    }

    /// Whether there is nothing that a filter has to say behind all output.
    pub(in crate::reactor) fn has_taken_leave(&self) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.farewell)
    }

    /// Has the filter say its last words, once all that was written is sent and nothing follows.
    pub(in crate::reactor) fn take_leave(&mut self) {
        if !self.is_asked_to_end_output() || self.phase < Phase::Open || self.has_output() {
            return;
        }
        if let Some(filter) = &mut self.filter
            && !std::mem::replace(&mut filter.farewell, true)
        {
            filter.filter.end_output(&mut filter.said);
            self.filtered = filter.pending();
        }
    }

    pub(super) fn pass_filter(
        &mut self,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
    ) -> Result<State, CloseReason> {
        match self.filter.as_deref_mut() {
            // Nobody hears what follows an end.
            Some(filter) if !filter.broken && !filter.ended && self.phase < Phase::Dead => {
                filter.receive(bytes, plain, &mut self.peer)
            }
            _ => Ok(State::Open),
        }
    }

    pub(super) fn note_state(&mut self, outcome: Result<State, CloseReason>) {
        let Some(filter) = &mut self.filter else { return };
        match outcome {
            Ok(State::Handshaking | State::Open) => {}
            Ok(State::Ended) if filter.ended => {}
            Ok(State::Ended) => {
                filter.ended = true;
                self.end_input();
            }
            Ok(State::Gone(_)) => {
                debug_assert_eq!(filter.pending(), 0, "whoever goes has said everything");
                (self.filter, self.filtered) = (None, 0);
            }
            Err(reason) => self.break_off(reason),
        }
    }

    /// The end, because the filter does not go on: what it has to say about that is sent first.
    fn break_off(&mut self, reason: CloseReason) {
        let Some(filter) = &mut self.filter else { return };
        (filter.broken, filter.place) = (true, None);
        if self.phase >= Phase::Lingering || self.send_error.is_some() || self.has_ended_output() {
            return self.fail(reason);
        }
        self.reason.get_or_insert(reason);
        self.forget_written();
        (self.phase, self.cut) = (Phase::Flushing, Some(Cut::Stop));
        if let Some(handle) = &self.remote {
            handle.remote().refuse_all();
        }
    }

    /// The next part of the output as it is to be sent. `None` if there is nothing.
    pub(super) fn seal(&mut self, spare: &mut Spare) -> Result<Option<Payload>, CloseReason> {
        let Some(filter) = self.filter.as_deref_mut() else { return Ok(None) };
        if self.phase >= Phase::Open && filter.sealing.is_empty() && self.has_sendable() {
            let next = self.take_sendable();
            let Some(filter) = self.filter.as_deref_mut() else { return Ok(None) };
            spare.give_payload(std::mem::replace(&mut filter.sealing, next));
        }
        let Some(filter) = self.filter.as_deref_mut() else { return Ok(None) };
        if filter.pending() == 0 {
            return Ok(None);
        }
        let mut payload = spare.take_payload();
        let into = payload.text();
        into.append(&mut filter.said);
        filter.said.shrink_to(MOST_SAID);
        if self.phase >= Phase::Open && !filter.sealing.is_empty() {
            let before = into.len();
            let len = seal_some(&mut *filter.filter, &mut filter.sealing, spare, into)?;
            let foreign = self.marks.foreign();
            self.marks.advance(len);
            // What it is sealed in counts for those who wrote all of it.
            let (foreign, sealed) = (foreign - self.marks.foreign(), into.len() - before);
            filter.foreign = if foreign == len { sealed } else { foreign.min(sealed) };
            if filter.sealing.is_empty() {
                spare.give_payload(std::mem::take(&mut filter.sealing));
            }
        }
        self.filtered = filter.pending();
        spare.fit(&mut payload);
        Ok(Some(payload))
    }
}

/// Seals the beginning of `plain`, and says how much of it that was.
fn seal_some(
    filter: &mut dyn Filter,
    plain: &mut Payload,
    spare: &mut Spare,
    into: &mut Vec<u8>,
) -> Result<usize, CloseReason> {
    let mut first = [IoSlice::new(&[])];
    plain.slices(0, &mut first);
    let most = plain.len().min(SEAL_BYTES);
    let first = &first[0][..first[0].len().min(most)];
    let len = if first.len() >= most.min(WORTH_SEALING) {
        filter.seal(first, into)?;
        first.len()
    } else {
        let mut gathered = spare.take_for(most);
        while gathered.len() < most {
            let mut slices = [IoSlice::new(&[]); 16];
            let count = plain.slices(gathered.len(), &mut slices);
            for slice in &slices[..count] {
                gathered.extend_from_slice(&slice[..slice.len().min(most - gathered.len())]);
            }
        }
        filter.seal(&gathered, into)?;
        spare.give(gathered);
        most
    };
    plain.advance(len);
    Ok(len)
}
