//! Longer texts: nothing here is code.

#[doc = include_str!("../docs/tuning.md")]
pub mod tuning {}

#[doc = include_str!("../docs/limits.md")]
pub mod limits {}

#[doc = include_str!("../docs/protocols.md")]
pub mod protocols {}
#[cfg(any(feature = "tls", feature = "tls-ring"))]
#[doc = include_str!("../docs/tls.md")]
pub mod tls {}

#[doc = include_str!("../docs/reliability.md")]
pub mod reliability {}

#[doc = include_str!("../docs/coming_from.md")]
pub mod coming_from {}
