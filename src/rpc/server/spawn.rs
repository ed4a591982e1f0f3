//! Somebody else's executor.

use std::future::Future;
use std::pin::Pin;

/// Where futures can be run: any function that takes one and sees to it, such as tokio's `spawn`.
pub trait Spawn: Send + Sync + 'static {
    /// Runs the future. If it is dropped unfinished, so is its reply.
    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>);
}

impl<F: Fn(Pin<Box<dyn Future<Output = ()> + Send>>) + Send + Sync + 'static> Spawn for F {
    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self(task);
    }
}
