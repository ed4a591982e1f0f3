//! When things happen: how much of it in one turn, looking for work before sleeping, polled handlers, timers, what is done after
//! a time, the drain.

pub(super) mod after;
pub(super) mod budget;
pub(super) mod busy;
pub(super) mod contain;
pub(super) mod drain;
mod gauge;
pub(super) mod give_up;
mod machine;
pub(super) mod memory;
pub(super) mod pollers;
pub(super) mod timers;
mod work;

#[cfg(all(test, not(loom)))]
mod tests;
