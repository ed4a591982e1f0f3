//! A ring-driven networking runtime: io_uring on Linux, the same behaviour on epoll and kqueue.
//!
//! Bytes and small messages, moved as fast as the machine can. A program written once runs on io_uring where the kernel has it,
//! and on readiness elsewhere: macOS, old kernels, containers that forbid it.
//!
//! ```
//! use trochus::{Runtime, net::{Handler, Io}};
//!
//! struct Echo;
//!
//! impl Handler for Echo {
//!     // `bytes` lie where the kernel put them. Return how many were consumed; the rest comes again with more behind it.
//!     fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
//!         io.write(bytes);
//!         bytes.len()
//!     }
//! }
//!
//! # fn main() -> trochus::Result<()> {
//! let runtime = Runtime::new()?; // a reactor per core, the best backend there is
//! let server = runtime.listen("127.0.0.1:0", |_peer| Echo)?;
//! println!("listening on {} via {}", server.local_addr(), runtime.backend());
//! // Dropped, it accepts no more; `runtime.run_until_interrupted()` serves until Ctrl-C, and drains.
//! # Ok(())
//! # }
//! ```
//!
//! # The layers
//!
//! Each is public and usable without those above it:
//!
//! - [`rpc`]: typed request-response. Calls that are awaited, producers that push a hundred million requests a second, replies
//!   now or later.
//! - [`net`]: byte-stream servers and clients over TCP, Unix-domain sockets and memory, on all cores.
//! - [`reactor`]: one thread's run loop, to embed in a loop of one's own.
//! - [`codec`]: bytes to items and back, with no sockets in it.
//! - [`batch`]: the n-buffer batcher, for anything that is cheaper by the thousand.
//!
//! [`config`] has the limits and defaults, [`Metrics`] what was done, [`Gauges`] what there is. [`docs::tuning`] tells what to turn
//! for throughput or latency, what it costs, and which option sets which limit; [`docs::coming_from`] tells those who know tokio, epoll
//! or kqueue what is what here, and those who write a proxy what to see to.
//!
//! # Features
//!
//! None is on unless asked for. `json`: JSON lines. `json-simd`: the same with a SIMD parser. `zerocopy`: records that are seen
//! in place. `tls`: TLS by rustls, with aws-lc-rs; `tls-ring`: the same with ring. `stream`: several responses to one request are a `Stream`. `tower`: clients and pools are services of `tower`.
//! `tracing`: log lines go to `tracing` instead of standard error, and so does an event for each request at a server
//! (target `trochus::rpc::server`, with its number, the peer, the outcome and how long it took) and each call of a client
//! (`trochus::rpc::client`), at the level `debug`.

pub mod batch;
mod buf;
pub mod codec;
pub mod config;
pub mod docs;
mod driver;
mod error;
mod gauges;
mod log;
mod metrics;
pub mod net;
pub mod reactor;
pub mod rpc;
#[cfg(any(feature = "tls", feature = "tls-ring"))]
pub mod tls;
mod waiting;

pub use config::{BusyPoll, UringFeature};
pub use driver::{Backend, Capabilities};
pub use error::{Error, Result};
pub use gauges::Gauges;
pub use metrics::{Drained, Metrics};
pub use net::Runtime;
pub use reactor::Reactor;

/// The README's examples are compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
