//! Byte-stream servers and clients over TCP, Unix-domain sockets, memory, and whatever else [carries](Carrier) streams.
//!
//! A [`Handler`] per connection gets the bytes in place and answers through [`Io`]; other threads reach the connection by
//! its [`Handle`]. [`Runtime`] runs a reactor on each core and spreads servers and clients over them.
//!
//! # Which reactor a connection is on
//!
//! A connection lives and dies on one reactor. Where the system can tell which core handles a connection's packets
//! (Linux, with [`RuntimeBuilder::pin`]), it goes to the reactor of that core: on loopback the client's core, behind a
//! network interface the core of its receive queue. Otherwise the kernel spreads connections over the reactors' listening
//! sockets, and where it cannot do that either (Unix-domain sockets, macOS), one reactor accepts and hands them round. In memory
//! it goes to the reactor that connects, if that listens there, because then no other thread is needed.
//!
//! # Without a socket
//!
//! `"memory:name"` is an address within the process: servers of all kinds listen there, and clients of all kinds connect to it, also
//! those of other runtimes. With no name (`"memory:"`), it is one that nobody has. [`pair`] makes two streams that are each
//! other's peer, without a name. Both keep the promises of sockets, limits and ends among them.

mod builder;
mod carry;
mod connect;
mod inherit;
mod listen;
mod pending;
mod relay;
mod runtime;
mod server;
mod signal;
mod successor;
mod watch;

pub use crate::reactor::{
    Accepted, Address, Carried, Carrier, CarrierIo, CloseReason, ConnectionId, Dialing, FileError, Handle,
    HandleError, Handler, Incoming, Io, ListenOptions, MemoryBudget, Output, PairEnd, Polled, ProxyProtocol,
    Relayed, StreamOptions, ToAddresses, Writable, WriteAsync, pair,
};
pub use builder::RuntimeBuilder;
pub use inherit::{Inherited, inherited};
pub use listen::{Listeners, ToListeners};
pub use pending::Pending;
pub use relay::{Relay, RelayEnd};
pub use runtime::{ReactorInfo, Runtime};
pub use server::Server;
pub use signal::{Signal, keep_signals, wait_for_interrupt, wait_for_signal};
pub use successor::Successor;
pub use watch::ReactorFailure;
