//! What a look at the input is about, how long it may take, and why it ended.

use crate::codec::DecodeError;
use std::time::{Duration, Instant};

/// Why no more requests are served for now.
pub(super) enum Stop {
    /// The next one is not whole. So many bytes are missing at least.
    NeedMore(usize),
    /// Too much waits to be answered or to be sent.
    NoRoom,
    /// It is the others' turn.
    SliceOver,
    /// What comes next is no request.
    Undecodable(DecodeError),
    /// No more are to be taken from this connection.
    Finishing,
}

/// A request, and how its response finds back.
#[derive(Clone)]
pub(super) struct At<Id> {
    pub(super) ticket: u64,
    pub(super) id: Id,
}

/// How much of the current turn went to this connection.
#[derive(Debug, Default)]
pub(super) struct Slice {
    pub(super) turn: Option<Instant>,
    pub(super) spent: Duration,
}
