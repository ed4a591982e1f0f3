//! A request with several responses, as the one who made it sees it.

use super::Call;
use crate::batch::block_until;
use crate::rpc::CallError;
use crate::rpc::client::target::Target;
use crate::waiting;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Tells whether a response is its request's last one.
pub(in crate::rpc) type IsLast<Res> = Box<dyn FnMut(&Res) -> bool + Send>;

/// The responses of one request that have come and that nobody has taken, but for the last one.
pub(in crate::rpc) struct Incoming<Res> {
    /// Foreign code, which runs on the client's reactor only: nobody else takes this lock.
    is_last: Mutex<IsLast<Res>>,
    waiting: Mutex<Waiting<Res>>,
    /// Beyond so many bytes the client stops reading.
    limit: usize,
    target: Arc<Target>,
}

struct Waiting<Res> {
    /// With their bytes on the wire.
    responses: VecDeque<(Res, usize)>,
    bytes: usize,
    /// There are more than there may be, and the client does not read. Changed together with what the target counts, or the one who
    /// takes them could be there before the one who put them.
    is_full: bool,
    /// One has come: whatever the server says from now on, it took the request.
    has_begun: bool,
    /// Nothing more is kept: the call has come to its end.
    is_over: bool,
}

impl<Res> Incoming<Res> {
    pub(in crate::rpc) fn new(is_last: IsLast<Res>, limit: usize, target: Arc<Target>) -> Self {
        let responses = VecDeque::new();
        let waiting = Waiting { responses, bytes: 0, is_full: false, has_begun: false, is_over: false };
        Incoming { is_last: Mutex::new(is_last), waiting: Mutex::new(waiting), limit, target }
    }

    pub(in crate::rpc) fn is_last(&self, response: &Res) -> bool {
        (self.is_last.lock())(response)
    }

    pub(in crate::rpc) fn has_begun(&self) -> bool {
        self.waiting.lock().has_begun
    }

    /// Keeps a response that is not the last one, unless the call is over. Whether the client has to stop reading for that.
    pub(in crate::rpc) fn put(&self, response: Res, bytes: usize) -> bool {
        let mut waiting = self.waiting.lock();
        waiting.has_begun = true;
        if waiting.is_over {
            drop(waiting);
            drop(response);
            return false;
        }
        waiting.responses.push_back((response, bytes));
        waiting.bytes += bytes;
        let fills = !waiting.is_full && waiting.bytes > self.limit;
        if fills {
            waiting.is_full = true;
            self.target.hold_for_parts();
        }
        fills
    }

    fn take(&self) -> Option<Res> {
        let mut waiting = self.waiting.lock();
        let (response, bytes) = waiting.responses.pop_front()?;
        waiting.bytes -= bytes;
        if waiting.responses.is_empty() {
            waiting.responses = VecDeque::new();
        }
        let frees = waiting.is_full && waiting.bytes <= self.limit / 2;
        waiting.is_full &= !frees;
        drop(waiting);
        if frees {
            self.target.resume_for_parts();
        }
        Some(response)
    }

    /// The call has come to its end: what has come can still be taken, and nothing more has to wait for that.
    pub(in crate::rpc) fn end(&self) {
        let mut waiting = self.waiting.lock();
        waiting.is_over = true;
        let frees = std::mem::take(&mut waiting.is_full);
        drop(waiting);
        if frees {
            self.target.resume_for_parts();
        }
    }

    /// Nobody takes what has come.
    fn clear(&self) {
        let mut waiting = self.waiting.lock();
        waiting.is_over = true;
        let responses = std::mem::take(&mut waiting.responses);
        drop(waiting);
        drop(responses);
    }
}

/// A request with several responses: those that have come, in their order, from [`Client::call_in_parts`]. The one that is the last
/// ends it, and so does an error, which comes behind the responses before it.
///
/// What nobody takes is kept up to [`ClientOptions::parts_bytes`]. Beyond that the client stops reading, and all of its other
/// responses wait as well. So whoever is slow should have a client of his own, and whoever does not take these should not wait for
/// anything else of the same client: for another call's response, or for its [`close`](crate::rpc::Client::close).
///
/// Dropping this cancels. The server does not hear of that, nor of a time that is over: what it still sends is thrown away. In
/// order, and with ids of fewer than 64 bits, the call is in flight until the last response or the end of the connection, and counts in
/// [`ClientOptions::calls_in_flight`].
///
/// [`Client::call_in_parts`]: crate::rpc::Client::call_in_parts
/// [`ClientOptions::parts_bytes`]: crate::rpc::ClientOptions::parts_bytes
/// [`ClientOptions::calls_in_flight`]: crate::rpc::ClientOptions::calls_in_flight
#[must_use = "dropping a call cancels it"]
pub struct ResponseParts<Req: Send + 'static, Res: Send + 'static> {
    call: Call<Req, Res>,
    /// What comes behind those that wait.
    last: Option<Result<Res, CallError>>,
    is_over: bool,
}

impl<Req: Send + 'static, Res: Send + 'static> ResponseParts<Req, Res> {
    pub(in crate::rpc) fn of(call: Call<Req, Res>) -> Self {
        ResponseParts { call, last: None, is_over: false }
    }

    /// Fails with [`CallError::TimedOut`] if the last response is not there after this time, counted from now; instead of a time
    /// that was set before. With `Duration::MAX` it waits for ever.
    pub fn timeout(mut self, after: Duration) -> Self {
        self.call.set_timeout(after);
        self
    }

    /// The next response; `None` behind the last one, and behind an error.
    ///
    /// # Errors
    ///
    /// As for a [`Call`]. [`CallError::Lost`] where responses had come before: it is not made again.
    pub async fn next(&mut self) -> Option<Result<Res, CallError>> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// As [`next`](Self::next), for a future of one's own. With the feature `stream`, this is a `Stream`.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Res, CallError>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        // First: what comes from here on wakes the task.
        if self.last.is_none()
            && let Poll::Ready(last) = Pin::new(&mut self.call).poll(context)
        {
            self.last = Some(last);
        }
        if let Some(response) = self.call.state.parts().and_then(Incoming::take) {
            return Poll::Ready(Some(Ok(response)));
        }
        let Some(last) = self.last.take() else { return Poll::Pending };
        self.is_over = true;
        Poll::Ready(Some(last))
    }

    fn give_up(&mut self) {
        self.is_over = true;
        if let Some(parts) = self.call.state.parts() {
            parts.clear();
        }
        // This also says that there is room.
        self.call.give_up();
    }

    /// As [`next`](Self::next), blocking the thread. It keeps the deadline by itself, whatever the reactor does.
    ///
    /// # Errors
    ///
    /// As for [`next`](Self::next); and at once [`CallError::OnReactorThread`] on a reactor's own thread, unless there is one. That is
    /// the end of the call, too.
    pub fn wait_next(&mut self) -> Option<Result<Res, CallError>> {
        while waiting::is_forbidden() {
            if let Poll::Ready(next) = self.poll_next(&mut Context::from_waker(Waker::noop())) {
                return next;
            }
            // Unless something has come since.
            if let Some(sent) = self.call.state.refuse_to_wait() {
                self.call.gate.target().call_given_up(sent);
                let refused = self.call.state.take(None);
                self.give_up();
                return refused;
            }
        }
        let deadline = self.call.deadline.map(|(at, _)| at);
        loop {
            // A deadline that passes behind the last look shows in the next one.
            if let Some(next) = block_until(deadline, self.next()) {
                return next;
            }
        }
    }
}

// Nothing in it is pinned.
impl<Req: Send + 'static, Res: Send + 'static> Unpin for ResponseParts<Req, Res> {}

#[cfg(feature = "stream")]
impl<Req: Send + 'static, Res: Send + 'static> futures_core::Stream for ResponseParts<Req, Res> {
    type Item = Result<Res, CallError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        ResponseParts::poll_next(self.get_mut(), context)
    }
}

impl<Req: Send + 'static, Res: Send + 'static> Drop for ResponseParts<Req, Res> {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl<Req: Send + 'static, Res: Send + 'static> fmt::Debug for ResponseParts<Req, Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseParts").finish_non_exhaustive()
    }
}
