//! A ring-driven networking runtime.

pub mod batch;
pub mod codec;
