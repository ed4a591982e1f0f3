//! What becomes of calls and streams when the network, or the kernel, does its worst. On every backend of this machine.

mod calls;
mod plain;
#[cfg(target_os = "linux")]
mod preload;
#[path = "../../examples/soak/proxy/mod.rs"]
mod proxy;
mod stage;
mod streams;
#[allow(dead_code, reason = "made for more tests than these")]
#[path = "../rpc/support.rs"]
mod support;
