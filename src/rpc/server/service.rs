//! What a server does with a request.

use crate::codec::{Protocol, RequestRef, Response};
use crate::reactor::Handle;
use crate::rpc::Reply;

/// The server's side of one connection: called once for each request.
///
/// A closure `Fn(request, reply)` is one. Implement it by hand for state of one's own per connection, or to answer in place
/// of a reply that was dropped.
pub trait Service<P: Protocol>: 'static {
    /// A request came. Answer through `reply`, now or later.
    fn call(&mut self, request: RequestRef<'_, P>, reply: Reply<Response<P>>);

    /// The connection is established. The handle lets other threads have [`on_notify`](Self::on_notify) called.
    fn on_open(&mut self, handle: Handle) {
        let _ = handle;
    }

    /// [`Handle::notify`] was called.
    fn on_notify(&mut self) {}

    /// A reply was dropped without being sent. What to send instead, if the protocol has words for that; otherwise the
    /// connection is closed behind the responses before it.
    fn substitute(&mut self) -> Option<Response<P>> {
        None
    }
}

impl<P: Protocol, F> Service<P> for F
where
    F: FnMut(RequestRef<'_, P>, Reply<Response<P>>) + 'static,
{
    #[inline]
    fn call(&mut self, request: RequestRef<'_, P>, reply: Reply<Response<P>>) {
        self(request, reply);
    }
}
