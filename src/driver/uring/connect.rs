//! Connecting, without a queue in front of it.
//!
//! A connect that the kernel waits for itself comes back behind all other completion work, of which there is a lot where
//! thousands of connections are busy. But over loopback it is established as soon as it has begun. So a connect is begun
//! by a system call of its own, which tells; a poll waits for what takes longer.

use super::Uring;
use super::entry::{self, Raw, Wire};
use super::operations::Memory;
use crate::driver::{Completion, Event, Token};
use socket2::SockAddr;
use std::os::fd::RawFd;

/// What a connect holds until it has ended.
#[derive(Debug)]
pub(super) enum Connecting {
    /// It is going on at this socket.
    Begun(RawFd),
    /// The kernel does it all.
    Whole(#[expect(dead_code, reason = "held for the kernel, which reads it")] Box<SockAddr>),
}

impl Uring {
    pub(super) fn connect(&mut self, token: Token, socket: RawFd, address: SockAddr) {
        if address.is_unix() {
            // It is there at once, or the server's backlog is full, for which only the kernel can wait.
            let address = Box::new(address);
            let entry = Wire::Connect { socket, address: &address }.entry();
            self.push_owner(token, entry, Memory::Connect(Connecting::Whole(address)));
            return;
        }
        let result = match entry::begin_connect(socket, &address) {
            Ok(true) => Ok(()),
            Ok(false) => {
                let memory = Memory::Connect(Connecting::Begun(socket));
                return self.push_owner(token, Wire::Writable { socket }.entry(), memory);
            }
            Err(error) => Err(error),
        };
        self.in_flight -= 1;
        self.decided.push(Completion { token, event: Event::Connected(result), more: false });
    }

    pub(super) fn connected(&mut self, key: Token, raw: Raw, into: &mut Vec<Completion>) {
        let (token, memory) = self.operations.remove(key);
        let Memory::Connect(connecting) = memory else { unreachable!("{token:?} was no connect") };
        let result = match connecting {
            Connecting::Whole(_) => raw.bytes().map(drop),
            Connecting::Begun(socket) => {
                raw.bytes().and_then(|_| entry::take_error(socket)?.map_or(Ok(()), Err))
            }
        };
        self.in_flight -= 1;
        into.push(Completion { token, event: Event::Connected(result), more: false });
    }
}
