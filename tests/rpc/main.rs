//! Typed request-response, on every backend of this machine.

mod calls;
mod closing;
mod deadlines;
mod faults;
#[path = "../../examples/rpc_proxy/forward.rs"]
mod forward;
mod giving_up;
mod idle;
mod lost;
mod memory;
mod on_reactor;
mod order;
mod overload;
mod parts;
mod pausing;
mod peers;
mod pool;
mod protocols;
mod proxy;
mod pushes;
mod reconnect;
mod replies;
mod restart;
mod server_faults;
mod server_limits;
mod server_says;
mod shutdown;
mod streams;
mod stress;
mod support;
mod tasks;
#[cfg(feature = "tower")]
mod tower;
mod truth;
mod waiting;
mod wire;
