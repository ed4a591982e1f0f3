//! Typed request-response: write function calls, the machine moves batches.
//!
//! ```
//! use trochus::{Runtime, codec, rpc::{self, Reply}};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let runtime = Runtime::new()?;
//! let server = rpc::Server::bind(&runtime, "127.0.0.1:0", codec::Int32, |n: i32, reply: Reply<i32>| reply.send(n + 1))?;
//! let client = rpc::Client::connect(&runtime, server.local_addr(), codec::Int32)?;
//! assert_eq!(client.call(41).wait()?, 42); // or `.await`, on any executor
//! # Ok(())
//! # }
//! ```
//!
//! The wire is the codec's bytes and nothing else, so that the other side can be written in anything. How a response finds its
//! request is a part of the protocol's type: see [`Protocol`](crate::codec::Protocol).
//!
//! # Replies
//!
//! A [`Reply`] can be sent at once, which costs no lock and no allocation, or moved to another thread or task:
//!
//! ```
//! # use trochus::{Runtime, codec, rpc::{self, Reply}};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let runtime = Runtime::new()?;
//! let server = rpc::Server::bind(&runtime, "127.0.0.1:0", codec::Int32, |n: i32, reply: Reply<i32>| {
//!     std::thread::spawn(move || reply.send(n * 2));
//! })?;
//! # let client = rpc::Client::connect(&runtime, server.local_addr(), codec::Int32)?;
//! # assert_eq!(client.call(21).wait()?, 42);
//! # Ok(())
//! # }
//! ```
//!
//! With [`Server::bind_async`] an `async fn` is a service.
//!
//! # A hundred million a second
//!
//! ```
//! # use trochus::{Runtime, codec, rpc::{self, Reply}};
//! # use std::sync::{Arc, atomic::{AtomicI64, Ordering::Relaxed}};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let runtime = Runtime::new()?;
//! # let server = rpc::Server::bind(&runtime, "127.0.0.1:0", codec::Int32, |n: i32, reply: Reply<i32>| reply.send(n))?;
//! # let sum = Arc::new(AtomicI64::new(0));
//! # let total = sum.clone();
//! let client = rpc::Client::builder(codec::Int32)
//!     .on_response(move |response| { sum.fetch_add(i64::from(response), Relaxed); })
//!     .connect(&runtime, server.local_addr())?;
//! let mut requests = client.producer(); // one per thread
//! for n in 0..10_000 {
//!     requests.push(n)?; // waits when the server is slower than we are
//! }
//! requests.flush();
//! drop(requests);
//! client.close()?; // returns when everything is answered, or says what was not
//! # assert_eq!(total.load(Relaxed), 49_995_000);
//! # Ok(())
//! # }
//! ```

mod client;
mod error;
mod notice;
mod options;
mod pool;
mod server;
#[cfg(feature = "tower")]
mod tower;
mod trace;

pub use client::builder::{ClientBuilder, Connecting};
pub use client::call::Call;
pub use client::call::parts::ResponseParts;
pub use client::caller::{Caller, NoCaller, Requests, WithPushes};
pub use client::target::ClientState;
pub use client::waiters::Push;
pub use client::{Client, Closing};
pub use error::{CallError, Callback, Cause, SendError, Unfinished};
pub use options::{ClientOptions, Reconnect};
pub use pool::call::PoolCall;
pub use pool::{Pick, Pool, PoolBuilder, PoolMember};
pub use server::connection::Connection;
pub use server::fault::Fault;
pub use server::metrics::{Latency, ServerMetrics};
pub use server::options::ServerOptions;
pub use server::parts::{Parts, PushRefused};
pub use server::reply::Reply;
pub use server::service::{Missing, MissingCause, Service};
pub use server::{Handlers, Server, Spawn};
#[cfg(feature = "tower")]
pub use tower::ServiceCall;
