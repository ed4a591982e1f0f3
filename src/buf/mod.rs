//! Memory that moves between a connection and its driver: what is going out, what came in, and spare vectors.

mod inbox;
mod marks;
mod payload;
mod reads;
mod spare;

pub(crate) use inbox::{Inbox, Offered};
pub(crate) use marks::Marks;
pub(crate) use payload::Payload;
pub(crate) use reads::ReadMemory;
pub(crate) use spare::{HasSpare, Spare};

/// A buffer of the receive pool, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BufferId(pub(crate) u16);
