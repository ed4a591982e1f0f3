//! Receives: into buffers of which group, and what the kernel made of them.

use super::Uring;
use super::entry::{self, Internal, Length, Raw, Wire};
use crate::buf::BufferId;
use crate::config::SMALL_AFTER;
use crate::driver::{self, BufferGroup, Completion, Event, Lent, Received, Token};
use std::io;
use std::os::fd::RawFd;

/// What is known of a connection's receives, by its index.
#[derive(Debug)]
pub(super) struct Receiver {
    /// Tells it from the one that had the index before.
    generation: u32,
    socket: RawFd,
    /// Bytes of a receive that the caller wants only once; 0 if they are not limited.
    once: Option<u32>,
    /// The group whose buffers the receive that is armed takes.
    armed: BufferGroup,
    /// The one that it should take.
    wanted: BufferGroup,
    small_in_a_row: u8,
    /// It was told to end, to be armed again for the other group.
    switching: bool,
    /// The caller wants it to end.
    cancelled: bool,
    incoming: Incoming,
}

/// What is armed where it is not a receive into a buffer that the kernel picks.
#[derive(Debug, Default)]
enum Incoming {
    #[default]
    Nothing,
    /// Waits for something to receive.
    Waiting,
    Into(BufferId),
    /// For the connection to break.
    Watching,
    /// The same, but the kernel has said all that a poll tells: that the peer has ended its stream. Another poll would say so again
    /// at once.
    Watched,
}

impl Receiver {
    fn new(generation: u32) -> Self {
        Receiver {
            generation,
            socket: -1,
            once: None,
            armed: BufferGroup::Small,
            wanted: BufferGroup::Small,
            small_in_a_row: 0,
            switching: false,
            cancelled: false,
            incoming: Incoming::Nothing,
        }
    }

    /// A buffer of `small_bytes` would have done, or would not: whether that calls for the other group.
    fn took(&mut self, bytes: usize, small_bytes: usize) {
        self.wanted = match self.armed {
            BufferGroup::Small if bytes >= small_bytes => BufferGroup::Large,
            BufferGroup::Small => BufferGroup::Small,
            BufferGroup::Large => {
                self.small_in_a_row =
                    if bytes > small_bytes { 0 } else { self.small_in_a_row.saturating_add(1) };
                if self.small_in_a_row < SMALL_AFTER { BufferGroup::Large } else { BufferGroup::Small }
            }
        };
    }
}

impl Uring {
    /// Waits for the bytes, or lets the kernel do that and pick a buffer then.
    pub(super) fn arm_receive(&mut self, token: Token, socket: RawFd, once: Option<usize>) {
        let provided = self.capabilities.provided_buffers;
        let receiver = self.begin(token, socket);
        // More than a kernel takes for a length is more than a buffer holds, which is no limit.
        receiver.once = once.map(|most| i32::try_from(most).map_or(0, |most| most as u32));
        if provided {
            self.arm_for_wanted(token);
        } else {
            receiver.incoming = Incoming::Waiting;
            self.push(Wire::Readable { socket }, Internal::Readable(token).bits());
        }
    }

    /// Waits for the connection to break.
    pub(super) fn watch(&mut self, token: Token, socket: RawFd) {
        self.begin(token, socket).incoming = Incoming::Watching;
        self.push(Wire::Broken { socket }, Internal::Watched(token).bits());
    }

    fn begin(&mut self, token: Token, socket: RawFd) -> &mut Receiver {
        let index = token.index() as usize;
        if self.receivers.len() <= index {
            self.receivers.resize_with(index + 1, || Receiver::new(0));
        }
        let receiver = &mut self.receivers[index];
        if receiver.generation != token.generation() {
            *receiver = Receiver::new(token.generation());
        }
        (receiver.socket, receiver.cancelled) = (socket, false);
        receiver
    }

    fn arm_for_wanted(&mut self, token: Token) {
        let receiver = &mut self.receivers[token.index() as usize];
        if self.pool.small_bytes().is_none() {
            receiver.wanted = BufferGroup::Large;
        }
        if receiver.armed != receiver.wanted {
            receiver.small_in_a_row = 0;
        }
        (receiver.armed, receiver.switching) = (receiver.wanted, false);
        let (socket, group) = (receiver.socket, receiver.armed);
        // Into small buffers one at a time, so that the first one that is full ends it: a receive that stays armed is not found by
        // a cancellation as long as there is more to receive, because the kernel has it on its way then.
        let length = match receiver.once {
            None if self.capabilities.multishot_receive && group == BufferGroup::Large => Length::Repeatedly,
            once => Length::Once(once.unwrap_or(0)),
        };
        self.push(Wire::Receive { socket, group, length }, token.bits());
    }

    pub(super) fn cancel_receive(&mut self, token: Token) {
        let provided = self.capabilities.provided_buffers;
        let Some(receiver) = self.receiver(token) else { return };
        receiver.cancelled = true;
        let target = match receiver.incoming {
            Incoming::Watching => Internal::Watched(token).bits(),
            Incoming::Watched => {
                receiver.incoming = Incoming::Nothing;
                let event = Event::Received(Err(driver::cancelled()));
                return self.decided.push(Completion { token, event, more: false });
            }
            // Where there are two steps, the second ends by itself, without waiting.
            _ if provided => token.bits(),
            _ => Internal::Readable(token).bits(),
        };
        self.push(Wire::Cancel { target }, Internal::Cancelled(Some(token)).bits());
    }

    pub(super) fn group_of(&self, token: Token) -> BufferGroup {
        match self.receivers.get(token.index() as usize) {
            Some(receiver) if self.pool.small_bytes().is_some() => receiver.wanted,
            _ => BufferGroup::Large,
        }
    }

    fn receiver(&mut self, token: Token) -> Option<&mut Receiver> {
        let receiver = self.receivers.get_mut(token.index() as usize)?;
        (receiver.generation == token.generation()).then_some(receiver)
    }

    /// A receive completed, or one of several times.
    pub(super) fn received(&mut self, token: Token, raw: Raw, into: &mut Vec<Completion>) {
        let result = self.translate_receive(token, raw);
        let mut more = raw.more();
        if let Some(small_bytes) = self.pool.small_bytes()
            && let Some(receiver) = self.receivers.get_mut(token.index() as usize)
        {
            if let Ok(Received::Data(lent)) = &result {
                receiver.took(lent.len, small_bytes);
            }
            let goes_on = match &result {
                Ok(Received::Data(_)) => true,
                Ok(Received::End) => false,
                Err(error) => driver::is_cancelled(error) || driver::is_out_of_buffers(error),
            };
            if more && receiver.wanted != receiver.armed && !receiver.switching {
                receiver.switching = true;
                self.push(Wire::Cancel { target: token.bits() }, Internal::Switched(token).bits());
            } else if !more && receiver.switching && !receiver.cancelled && goes_on {
                // Nobody but this driver wanted it to end.
                self.arm_for_wanted(token);
                more = true;
            } else if !more {
                receiver.switching = false;
            }
        }
        self.in_flight -= usize::from(!more);
        if !(more && result.is_err()) {
            into.push(Completion { token, event: Event::Received(result), more });
        }
    }

    /// A receive that was to change its group was not found: it is tried again when the next bytes say so.
    pub(super) fn not_switched(&mut self, token: Token) {
        if let Some(receiver) = self.receiver(token) {
            receiver.switching = false;
        }
    }

    fn translate_receive(&mut self, token: Token, raw: Raw) -> io::Result<Received> {
        let index = token.index() as usize;
        let buffer = match raw.buffer() {
            Some(buffer) => {
                self.pool.taken_by_kernel(buffer);
                Some(buffer)
            }
            None => match std::mem::take(&mut self.receivers[index].incoming) {
                Incoming::Into(buffer) => Some(buffer),
                _ => None,
            },
        };
        let result = raw.bytes();
        if result.as_ref().is_err_and(driver::is_out_of_buffers) {
            self.pool.note_shortage(self.receivers[index].armed);
        }
        match (result, buffer) {
            (Ok(0), buffer) => {
                buffer.into_iter().for_each(|buffer| self.pool.release(buffer));
                Ok(Received::End)
            }
            (Ok(len), Some(buffer)) => Ok(Received::Data(Lent { buffer, start: 0, len })),
            (Ok(len), None) => unreachable!("{len} bytes received into no buffer"),
            (Err(error), buffer) => {
                buffer.into_iter().for_each(|buffer| self.pool.release(buffer));
                Err(error)
            }
        }
    }

    /// The second half of a receive without provided buffers: the bytes are there, so now it may have a buffer.
    pub(super) fn receive_readable(&mut self, token: Token, raw: Raw, into: &mut Vec<Completion>) {
        let receiver = &mut self.receivers[token.index() as usize];
        let Incoming::Waiting = std::mem::take(&mut receiver.incoming) else {
            unreachable!("{token:?} was not waiting");
        };
        let (socket, once) = (receiver.socket, receiver.once);
        match raw.bytes().and_then(|_| self.pool.take().ok_or_else(driver::out_of_buffers)) {
            Ok(buffer) => {
                let (address, len) = self.pool.target(buffer);
                let len = once.filter(|most| *most > 0).map_or(len, |most| len.min(most as usize));
                self.receivers[token.index() as usize].incoming = Incoming::Into(buffer);
                self.push(Wire::ReceiveInto { socket, address, len }, token.bits());
            }
            Err(error) => {
                self.in_flight -= 1;
                into.push(Completion { token, event: Event::Received(Err(error)), more: false });
            }
        }
    }

    /// The poll of a watch has ended.
    pub(super) fn watched(&mut self, token: Token, raw: Raw, into: &mut Vec<Completion>) {
        let receiver = &mut self.receivers[token.index() as usize];
        // A poll that fails tells nothing of the connection.
        let error = match raw.bytes().map(|_| entry::take_error(receiver.socket)) {
            Ok(Ok(Some(error)) | Err(error)) => error,
            _ if receiver.cancelled => driver::cancelled(),
            _ => {
                self.in_flight -= 1;
                receiver.incoming = Incoming::Watched;
                return;
            }
        };
        receiver.incoming = Incoming::Nothing;
        self.in_flight -= 1;
        into.push(Completion { token, event: Event::Received(Err(error)), more: false });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_small_buffer_calls_for_large_ones_and_a_row_of_small_messages_for_small_ones() {
        let mut receiver = Receiver::new(1);
        receiver.took(2047, 2048);
        assert_eq!(receiver.wanted, BufferGroup::Small);
        receiver.took(2048, 2048);
        assert_eq!(receiver.wanted, BufferGroup::Large);
        receiver.armed = BufferGroup::Large;
        for _ in 1..SMALL_AFTER {
            receiver.took(2048, 2048);
        }
        // One that a small buffer would not have held begins the row anew.
        receiver.took(2049, 2048);
        for _ in 1..SMALL_AFTER {
            receiver.took(1, 2048);
            assert_eq!(receiver.wanted, BufferGroup::Large);
        }
        receiver.took(2048, 2048);
        assert_eq!(receiver.wanted, BufferGroup::Small);
    }
}
