//! Async functions as services: a few futures per connection, polled where the connection lives.

use crate::codec::{Decode, Protocol, Request, RequestRef, Response};
use crate::reactor::Handle;
use crate::rpc::{Reply, Service};
use parking_lot::Mutex;
use slab::Slab;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

/// A service whose answers are futures.
pub(in crate::rpc) struct Spawning<R, F, M> {
    make: M,
    tasks: Slab<Task<R, F>>,
    ready: Option<Arc<Ready>>,
    /// Kept for its capacity.
    woken: Vec<usize>,
}

struct Task<R, F> {
    future: Pin<Box<F>>,
    reply: Reply<R>,
    waker: Waker,
}

/// Tasks that were woken, and the connection to tell.
struct Ready {
    woken: Mutex<Vec<usize>>,
    handle: Handle,
}

struct TaskWaker {
    ready: Arc<Ready>,
    key: usize,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ready.woken.lock().push(self.key);
        // A connection that has ended polls no more.
        let _ = self.ready.handle.notify();
    }
}

impl<R, F, M> Spawning<R, F, M> {
    pub(in crate::rpc) fn new(make: M) -> Self {
        Spawning { make, tasks: Slab::new(), ready: None, woken: Vec::new() }
    }
}

impl<P, F, M> Service<P> for Spawning<Response<P>, F, M>
where
    P: Protocol,
    F: Future<Output = Response<P>> + 'static,
    M: FnMut(Request<P>) -> F + 'static,
{
    fn call(&mut self, request: RequestRef<'_, P>, reply: Reply<Response<P>>) {
        let Some(ready) = &self.ready else { return };
        let mut future = Box::pin((self.make)(<P::RequestCodec as Decode>::into_owned(request)));
        let entry = self.tasks.vacant_entry();
        let waker = Waker::from(Arc::new(TaskWaker { ready: ready.clone(), key: entry.key() }));
        // Most are ready at once, or soon: the first poll is made here.
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(response) => reply.send(response),
            Poll::Pending => {
                entry.insert(Task { future, reply, waker });
            }
        }
    }

    fn on_open(&mut self, handle: Handle) {
        self.ready = Some(Arc::new(Ready { woken: Mutex::default(), handle }));
    }

    fn on_notify(&mut self) {
        let Some(ready) = &self.ready else { return };
        let mut woken = std::mem::take(&mut self.woken);
        std::mem::swap(&mut *ready.woken.lock(), &mut woken);
        for key in woken.drain(..) {
            // A task may be woken more than once, or after it has ended.
            let Some(task) = self.tasks.get_mut(key) else { continue };
            if let Poll::Ready(response) = task.future.as_mut().poll(&mut Context::from_waker(&task.waker)) {
                self.tasks.remove(key).reply.send(response);
            }
        }
        self.woken = woken;
    }
}
