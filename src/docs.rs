//! Longer texts: nothing here is code.

#[doc = include_str!("../docs/tuning.md")]
pub mod tuning {}
