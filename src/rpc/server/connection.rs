//! A connection, in the hands of its service.

use super::later::{Later, Said, UNASKED};
use super::parts::{self, PushRefused};
use crate::reactor::{Address, Handle};
use std::fmt;
use std::sync::Arc;

/// A server's connection, typed. Cheap to clone, and for any thread.
pub struct Connection<R>(pub(super) Arc<Later<R>>);

impl<R> Connection<R> {
    /// The other end.
    pub fn peer(&self) -> &Address {
        self.0.peer()
    }

    /// Sends what no request asked for: a message to a subscriber, or a greeting. Never waits. Responses that are pushed while
    /// the reactor is busy leave together.
    ///
    /// In order and without correlation it goes between responses, as soon as there is room; the client must be able to tell. By
    /// id it carries the largest number but two, which no request has, and comes to
    /// [`ClientBuilder::on_push`](crate::rpc::ClientBuilder::on_push).
    pub fn push(&self, response: R) -> Result<(), PushRefused<R>> {
        parts::push(&self.0, UNASKED, response)
    }

    /// Closes the connection once everything that was taken is answered. No more requests are taken.
    pub fn close(&self) {
        // What has ended already needs no closing.
        let _ = self.0.put(UNASKED, Said::Close);
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Has [`Service::on_notify`](crate::rpc::Service::on_notify) called. Calls that come before it ran are one.
    pub fn notify(&self) {
        if let Some(handle) = self.0.handle() {
            // If the connection has ended, there is nobody to notify.
            let _ = handle.notify();
        }
    }

    /// The connection below: for bytes that the codec knows nothing of.
    pub fn handle(&self) -> Option<&Handle> {
        self.0.handle()
    }
}

impl<R> Clone for Connection<R> {
    fn clone(&self) -> Self {
        Connection(self.0.clone())
    }
}

impl<R> fmt::Debug for Connection<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", self.peer()).finish_non_exhaustive()
    }
}
