//! TLS against peers that know nothing of trochus: rustls over plain sockets here, and the programs that everybody has.
#![cfg(any(feature = "tls", feature = "tls-ring"))]

mod carried;
mod certificates;
mod flow;
mod handshakes;
// Elsewhere, what goes by these names are other programs.
#[cfg(target_os = "linux")]
mod programs;
mod records;
mod streams;
mod support;
