//! Where a connection's responses go that are not sent while its service is being called.

use crate::reactor::{Address, Handle};
use crate::rpc::notice::Why;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What is said of a request behind its dispatch.
#[derive(Debug)]
pub(in crate::rpc) enum Said<R> {
    Response(R),
    /// Behind this one the connection closes.
    Last(R),
    /// One of several; or what no request asked for, under the ticket [`UNASKED`].
    Part(R),
    /// Of a request that answered in parts: there are no more.
    End,
    Nothing(Why),
    /// Once everything taken is answered, the connection is to be closed.
    Close,
}

/// The ticket of what no request asked for.
pub(in crate::rpc) const UNASKED: u64 = u64::MAX - 1;

/// Shared by a connection's responder and the replies that left it.
pub(in crate::rpc) struct Later<R> {
    done: Mutex<Done<R>>,
    /// Open requests below this number have had their time.
    expired: AtomicU64,
    /// More is waiting to be sent than should be.
    congested: AtomicBool,
    peer: Address,
    /// None only in tests.
    handle: Option<Handle>,
}

#[derive(Debug)]
struct Done<R> {
    arrived: Vec<(u64, Said<R>)>,
    /// The responder is going to look, or does so right now.
    announced: bool,
    /// The connection has ended: nobody will look.
    closed: bool,
}

impl<R> Later<R> {
    pub(in crate::rpc) fn new(handle: Option<Handle>, peer: Address) -> Arc<Self> {
        let done = Done { arrived: Vec::new(), announced: false, closed: false };
        Arc::new(Later {
            done: Mutex::new(done),
            expired: AtomicU64::new(0),
            congested: AtomicBool::new(false),
            peer,
            handle,
        })
    }

    pub(in crate::rpc) fn peer(&self) -> &Address {
        &self.peer
    }

    /// The connection's own handle.
    pub(in crate::rpc) fn handle(&self) -> Option<&Handle> {
        self.handle.as_ref()
    }

    /// Hands something over. It comes back if the connection has ended.
    pub(in crate::rpc) fn put(&self, ticket: u64, said: Said<R>) -> Result<(), Said<R>> {
        let announces = {
            let mut done = self.done.lock();
            if done.closed {
                return Err(said);
            }
            done.arrived.push((ticket, said));
            !std::mem::replace(&mut done.announced, true)
        };
        if announces && let Some(handle) = &self.handle {
            // If the connection has ended, nobody waits for it.
            let _ = handle.notify();
        }
        Ok(())
    }

    /// The responder is going to [`take`](Self::take) anyway: until then, nobody has to tell it.
    pub(in crate::rpc) fn about_to_take(&self) {
        self.done.lock().announced = true;
    }

    /// Takes what was said.
    pub(in crate::rpc) fn take(&self, into: &mut Vec<(u64, Said<R>)>) {
        let mut done = self.done.lock();
        done.announced = false;
        std::mem::swap(&mut done.arrived, into);
    }

    /// The connection has ended.
    pub(in crate::rpc) fn close(&self) {
        let late = {
            let mut done = self.done.lock();
            done.closed = true;
            std::mem::take(&mut done.arrived)
        };
        // Dropping a response may run anything, so not under the lock.
        drop(late);
    }

    pub(in crate::rpc) fn is_closed(&self) -> bool {
        self.done.lock().closed
    }

    /// Whether the response of this open request will go anywhere.
    pub(in crate::rpc) fn is_wanted(&self, ticket: u64) -> bool {
        ticket >= self.expired.load(Ordering::Relaxed) && !self.is_closed()
    }

    /// Open requests up to this one have had their time.
    pub(in crate::rpc) fn expire(&self, ticket: u64) {
        self.expired.fetch_max(ticket + 1, Ordering::Relaxed);
    }

    pub(in crate::rpc) fn is_congested(&self) -> bool {
        self.congested.load(Ordering::Relaxed)
    }

    pub(in crate::rpc) fn set_congested(&self, congested: bool) {
        self.congested.store(congested, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_behind_the_end_is_given_back() {
        let later = Later::new(None, std::net::SocketAddr::from(([127, 0, 0, 1], 1)).into());
        later.put(1, Said::Response("early")).unwrap();
        assert!(later.is_wanted(1));
        later.close();
        assert!(matches!(later.put(2, Said::Response("late")), Err(Said::Response("late"))));
        assert!(!later.is_wanted(1));
        let mut taken = Vec::new();
        later.take(&mut taken);
        assert!(taken.is_empty(), "nothing is kept for nobody");
    }

    #[test]
    fn those_that_had_their_time_are_not_wanted() {
        let later = Later::<()>::new(None, std::net::SocketAddr::from(([127, 0, 0, 1], 1)).into());
        later.expire(7);
        later.expire(3);
        assert!(!later.is_wanted(7) && later.is_wanted(8));
    }
}
