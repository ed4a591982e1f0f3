//! Translation: an operation to its 64-byte submission entry, a completion entry to its parts.
#![allow(unsafe_code)]

use crate::buf::{BufferId, Payload};
use crate::config::{FILE_READ_BYTES, SEND_BYTES};
use crate::driver::{BufferGroup, Kind, Token};
use io_uring::{cqueue, opcode, squeue, types};
use socket2::{SockAddr, SockRef, Socket};
use std::io::{self, IoSlice};
use std::os::fd::{BorrowedFd, FromRawFd, RawFd};
use std::ptr;

pub(super) use squeue::Entry;

/// Slices of one `sendmsg`. A payload of more pieces is sent in several goes, like any short send.
const MESSAGE_SLICES: usize = 64;

/// Send flags: a broken pipe is an error and not a signal, and the kernel retries a short send by itself.
const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;

/// What goes over the wire to the kernel. The lifetimes are the submitter's promise: the memory stays put, and is kept
/// by a slot of the ring until the final completion.
pub(super) enum Wire<'a> {
    Accept {
        listener: RawFd,
        multishot: bool,
    },
    Connect {
        socket: RawFd,
        address: &'a SockAddr,
    },
    /// Into a buffer that the kernel picks.
    Receive {
        socket: RawFd,
        group: BufferGroup,
        length: Length,
    },
    /// Completes when the connection has broken, or when its peer has ended it.
    Broken {
        socket: RawFd,
    },
    /// Completes when there is something to receive.
    Readable {
        socket: RawFd,
    },
    /// Completes when a connect has ended, or anything can be sent.
    Writable {
        socket: RawFd,
    },
    ReceiveInto {
        socket: RawFd,
        address: *mut u8,
        len: usize,
    },
    Send {
        socket: RawFd,
        bytes: &'a [u8],
    },
    SendMessage {
        socket: RawFd,
        message: &'a Message,
    },
    /// From a file.
    Read {
        file: RawFd,
        offset: u64,
        address: *mut u8,
        len: usize,
    },
    Watch {
        socket: RawFd,
    },
    Cancel {
        target: u64,
    },
    CancelAll,
}

/// How long a receive goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// It stays armed.
    Repeatedly,
    /// It ends with the first bytes, no more than so many; 0 means as many as the buffer holds.
    Once(u32),
}

impl Wire<'_> {
    pub(super) fn entry(&self) -> Entry {
        use types::Fd;
        match *self {
            Wire::Accept { listener, multishot: true } => {
                opcode::AcceptMulti::new(Fd(listener)).flags(libc::SOCK_CLOEXEC).build()
            }
            Wire::Accept { listener, multishot: false } => {
                opcode::Accept::new(Fd(listener), ptr::null_mut(), ptr::null_mut())
                    .flags(libc::SOCK_CLOEXEC)
                    .build()
            }
            Wire::Connect { socket, address } => {
                opcode::Connect::new(Fd(socket), address.as_ptr().cast(), address.len()).build()
            }
            Wire::Receive { socket, group, length: Length::Repeatedly } => {
                opcode::RecvMulti::new(Fd(socket), group.id()).build()
            }
            Wire::Receive { socket, group, length: Length::Once(most) } => {
                opcode::Recv::new(Fd(socket), ptr::null_mut(), most)
                    .buf_group(group.id())
                    .build()
                    .flags(squeue::Flags::BUFFER_SELECT)
            }
            Wire::Readable { socket } => opcode::PollAdd::new(Fd(socket), libc::POLLIN as u32).build(),
            // An error and a hang-up are told without being asked for.
            Wire::Broken { socket } => opcode::PollAdd::new(Fd(socket), 0).build(),
            Wire::Writable { socket } => opcode::PollAdd::new(Fd(socket), libc::POLLOUT as u32).build(),
            Wire::ReceiveInto { socket, address, len } => {
                opcode::Recv::new(Fd(socket), address, len as u32).flags(libc::MSG_DONTWAIT).build()
            }
            Wire::Send { socket, bytes } => {
                // A longer payload is sent in several goes, like any short send: with `MSG_WAITALL` nothing would show
                // of its progress.
                let len = bytes.len().min(SEND_BYTES) as u32;
                opcode::Send::new(Fd(socket), bytes.as_ptr(), len).flags(SEND_FLAGS).build()
            }
            Wire::SendMessage { socket, message } => {
                opcode::SendMsg::new(Fd(socket), &message.header).flags(SEND_FLAGS as u32).build()
            }
            Wire::Read { file, offset, address, len } => {
                // More than that is no use to anybody, and what is left is read by the next one.
                let len = len.min(FILE_READ_BYTES) as u32;
                opcode::Read::new(Fd(file), address, len).offset(offset).build()
            }
            Wire::Watch { socket } => {
                opcode::PollAdd::new(Fd(socket), libc::POLLIN as u32).multi(true).build()
            }
            Wire::Cancel { target } => opcode::AsyncCancel::new(target).build(),
            Wire::CancelAll => opcode::AsyncCancel2::new(types::CancelBuilder::any().all()).build(),
        }
    }
}

/// The header of a vectored send, and the slices that it points to.
pub(super) struct Message {
    header: libc::msghdr,
    slices: Vec<IoSlice<'static>>,
}

impl Message {
    pub(super) fn new() -> Box<Self> {
        // SAFETY: `msghdr` is a C struct of integers and pointers, for which zeroes are valid.
        let header: libc::msghdr = unsafe { std::mem::zeroed() };
        Box::new(Message { header, slices: Vec::with_capacity(MESSAGE_SLICES) })
    }

    /// Describes the unsent bytes of `payload`, as far as they go in one send. They must neither change nor be dropped before the kernel is done with it.
    pub(super) fn describe(&mut self, payload: &Payload) {
        let mut slices = [IoSlice::new(&[]); MESSAGE_SLICES];
        let filled = payload.slices(0, &mut slices);
        self.slices.clear();
        let mut room = SEND_BYTES;
        for slice in &slices[..filled] {
            let shown = &slice[..slice.len().min(room)];
            room -= shown.len();
            let shown = IoSlice::new(shown);
            // SAFETY: the lifetime is cut loose from the payload. A slot of the ring keeps payload and message together
            // until the kernel's final completion, and nothing but the kernel reads these slices.
            self.slices.push(unsafe { std::mem::transmute::<IoSlice<'_>, IoSlice<'static>>(shown) });
            if room == 0 {
                break;
            }
        }
        // `IoSlice` is guaranteed to have the layout of `iovec`, which the kernel does not write to.
        self.header.msg_iov = self.slices.as_ptr().cast_mut().cast();
        self.header.msg_iovlen = self.slices.len() as _;
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Message").field("slices", &self.slices.len()).finish_non_exhaustive()
    }
}

/// User data of entries that are no caller's operation. The top byte tells them from a [`Token`], whose kinds are few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Internal {
    Wake,
    /// A cancellation. With a token, somebody wants to know if it found nothing.
    Cancelled(Option<Token>),
    Probe,
    /// A receive is made to end, to go on with buffers of the other group.
    Switched(Token),
    /// The poll that comes before a one-shot receive.
    Readable(Token),
    /// The poll that takes the place of a receive.
    Watched(Token),
}

const WAKE: u64 = 0xff << 56;
const CANCELLED: u64 = 0xfe << 56;
const PROBE: u64 = 0xfd << 56;
const READABLE: u64 = 0x80 << 56;
const CANCELLED_TOKEN: u64 = 0x40 << 56;
const SWITCHED: u64 = 0x20 << 56;
const WATCHED: u64 = 0x10 << 56;

impl Internal {
    pub(super) fn bits(self) -> u64 {
        match self {
            Internal::Wake => WAKE,
            Internal::Cancelled(None) => CANCELLED,
            Internal::Cancelled(Some(token)) => token.bits() | CANCELLED_TOKEN,
            Internal::Probe => PROBE,
            Internal::Switched(token) => token.bits() | SWITCHED,
            Internal::Readable(token) => token.bits() | READABLE,
            Internal::Watched(token) => token.bits() | WATCHED,
        }
    }

    pub(super) fn from_bits(bits: u64) -> Internal {
        match bits {
            WAKE => Internal::Wake,
            CANCELLED => Internal::Cancelled(None),
            PROBE => Internal::Probe,
            _ => {
                let token = Token::from_bits(bits & !(READABLE | CANCELLED_TOKEN | SWITCHED | WATCHED));
                let token = token.expect("only this module makes such bits");
                if bits & READABLE != 0 {
                    Internal::Readable(token)
                } else if bits & SWITCHED != 0 {
                    Internal::Switched(token)
                } else if bits & WATCHED != 0 {
                    Internal::Watched(token)
                } else {
                    Internal::Cancelled(Some(token))
                }
            }
        }
    }
}

/// A socket that an operation is in flight on.
fn socket_in_flight<T>(socket: RawFd, ask: impl FnOnce(SockRef<'_>) -> io::Result<T>) -> io::Result<T> {
    // SAFETY: who submits an operation keeps its descriptor open until the final completion.
    let descriptor = unsafe { BorrowedFd::borrow_raw(socket) };
    ask(SockRef::from(&descriptor))
}

/// Begins to connect, and does not wait for it. `true` if the connection is there.
pub(super) fn begin_connect(socket: RawFd, address: &SockAddr) -> io::Result<bool> {
    socket_in_flight(socket, |socket| {
        socket.set_nonblocking(true)?;
        let begun = socket.connect(address);
        // For what comes next on this socket the kernel is to wait.
        socket.set_nonblocking(false)?;
        match begun {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => match socket.take_error()? {
                Some(error) => Err(error),
                None => Ok(socket.peer_addr().is_ok()),
            },
            begun => begun.map(|()| true),
        }
    })
}

/// The error that waits at the socket.
pub(super) fn take_error(socket: RawFd) -> io::Result<Option<io::Error>> {
    socket_in_flight(socket, |socket| socket.take_error())
}

/// A completion entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Raw {
    pub(super) user_data: u64,
    result: i32,
    flags: u32,
}

impl Raw {
    pub(super) fn more(&self) -> bool {
        cqueue::more(self.flags)
    }

    /// Says nothing but that the kernel lets go of memory; the result came before.
    pub(super) fn only_releases(&self) -> bool {
        cqueue::notif(self.flags)
    }

    pub(super) fn buffer(&self) -> Option<BufferId> {
        cqueue::buffer_select(self.flags).map(BufferId)
    }

    /// The result as a count.
    pub(super) fn bytes(&self) -> io::Result<usize> {
        usize::try_from(self.result).map_err(|_| io::Error::from_raw_os_error(-self.result))
    }

    /// The result of a cancellation whose target the kernel did not find.
    pub(super) fn found_nothing(&self) -> bool {
        self.result == -libc::ENOENT
    }

    /// The result of an accept as the connection, which is the caller's from here on.
    pub(super) fn accepted(&self) -> io::Result<Socket> {
        debug_assert_eq!(Token::from_bits(self.user_data).map(Token::kind), Some(Kind::Accept));
        let descriptor = self.bytes()? as RawFd;
        // SAFETY: the result of an accept is a fresh descriptor that nothing else owns, and each completion entry is
        // translated once.
        Ok(unsafe { Socket::from_raw_fd(descriptor) })
    }
}

impl From<cqueue::Entry> for Raw {
    fn from(entry: cqueue::Entry) -> Self {
        Raw { user_data: entry.user_data(), result: entry.result(), flags: entry.flags() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_there_was_not_found() {
        let found_nothing = |result| Raw { user_data: 0, result, flags: 0 }.found_nothing();
        assert!(found_nothing(-libc::ENOENT));
        // One that is being executed is found, and may go on all the same.
        assert!(
            [0, 1, -libc::EALREADY, -libc::EINVAL, -libc::ECANCELED]
                .into_iter()
                .all(|result| !found_nothing(result))
        );
    }

    #[test]
    fn internal_bits_are_no_tokens() {
        let token = Token::new(Kind::Receive, 7, 9);
        let cancelled = [Internal::Cancelled(None), Internal::Cancelled(Some(token))];
        let marked = [Internal::Readable, Internal::Switched, Internal::Watched].map(|mark| mark(token));
        let others = [Internal::Wake, Internal::Probe].into_iter().chain(marked);
        for internal in cancelled.into_iter().chain(others) {
            assert_eq!(Token::from_bits(internal.bits()), None);
            assert_eq!(Internal::from_bits(internal.bits()), internal);
        }
    }
}
