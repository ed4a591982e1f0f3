//! What the handlers of a process tell about their connections.

use crossbeam_utils::CachePadded;
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, ThreadId};

/// Shared by all handlers of a measurement.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    verified: CachePadded<AtomicU64>,
    server_threads: Mutex<HashMap<u32, ThreadId>>,
    failures: Mutex<Vec<String>>,
}

impl Watch {
    /// Counts bytes that arrived and were right.
    pub(crate) fn add_verified(&self, bytes: usize) {
        self.verified.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn verified(&self) -> u64 {
        self.verified.load(Ordering::Relaxed)
    }

    /// The server's end of a connection is on this thread.
    pub(crate) fn server_is_here(&self, connection: u32) {
        self.server_threads.lock().unwrap().insert(connection, thread::current().id());
    }

    /// Whether the server's end is on this thread too; unknown when the server is another process.
    pub(crate) fn is_local(&self, connection: u32) -> Option<bool> {
        self.server_threads.lock().unwrap().get(&connection).map(|server| *server == thread::current().id())
    }

    /// Content was wrong, or a count.
    pub(crate) fn fail(&self, connection: u32, what: impl std::fmt::Display) -> String {
        let failure = format!("connection {connection}: {what}");
        eprintln!("loopback: {failure}");
        self.failures.lock().unwrap().push(failure.clone());
        failure
    }

    pub(crate) fn failures(&self) -> Vec<String> {
        self.failures.lock().unwrap().clone()
    }
}
