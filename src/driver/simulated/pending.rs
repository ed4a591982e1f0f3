//! An operation of the simulated kernel, and what may become of it.

use crate::driver::{Event, Op};
use std::io;
use std::os::fd::RawFd;

pub(super) struct Pending {
    pub(super) op: Op,
    pub(super) cancelled: bool,
}

pub(super) enum Outcome {
    Nothing,
    /// Something happened; whether the operation can stay armed.
    Happened(Event, bool),
    Sent(usize),
    /// So much of a file was read.
    Read(usize),
    Failed(io::Error),
}

/// Of the socket that it is about.
pub(super) fn descriptor(op: &Op) -> Option<RawFd> {
    match op {
        Op::Accept { listener: socket }
        | Op::Connect { socket, .. }
        | Op::Receive { socket, .. }
        | Op::Watch { socket }
        | Op::Send { socket, .. } => Some(*socket),
        Op::Read { .. } => None,
    }
}
