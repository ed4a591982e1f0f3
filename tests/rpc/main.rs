//! Typed request-response, on every backend of this machine.

mod calls;
mod deadlines;
mod idle;
mod lost;
mod overload;
mod peers;
mod protocols;
mod reconnect;
mod replies;
mod server_faults;
mod server_limits;
mod server_says;
mod shutdown;
mod streams;
mod stress;
mod support;
mod tasks;
mod wire;
