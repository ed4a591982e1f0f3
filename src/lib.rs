//! A ring-driven networking runtime.

pub mod batch;
mod buf;
pub mod codec;
pub mod config;
mod driver;
mod error;
mod log;
mod metrics;
pub mod net;
pub mod reactor;
pub mod rpc;

pub use config::BusyPoll;
pub use driver::{Backend, Capabilities};
pub use error::{Error, Result};
pub use metrics::Metrics;
pub use net::Runtime;
pub use reactor::Reactor;
