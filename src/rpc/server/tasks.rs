//! Async functions as services: a few futures per connection, polled where the connection lives.

use super::connection::Connection;
use super::service::{Missing, MissingCause};
use crate::codec::{Decode, Protocol, Request, RequestRef, Response};
use crate::rpc::{Reply, Service};
use parking_lot::Mutex;
use slab::Slab;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// A service whose answers are futures.
pub(super) struct Spawning<R, F, M> {
    make: M,
    tasks: Slab<Task<R, F>>,
    ready: Option<Arc<Ready<R>>>,
    /// Kept for its capacity.
    woken: Vec<Arc<TaskWaker<R>>>,
}

struct Task<R, F> {
    future: Pin<Box<F>>,
    reply: Reply<R>,
    waker: Waker,
    _end: End<R>,
}

/// Whoever wakes a task that has ended does nothing, instead of filling the list.
struct End<R>(Arc<TaskWaker<R>>);

impl<R> Drop for End<R> {
    fn drop(&mut self) {
        self.0.state.store(ENDED, Ordering::Relaxed);
    }
}

/// Tasks that were woken, each once, and the connection to tell.
struct Ready<R> {
    woken: Mutex<Vec<Arc<TaskWaker<R>>>>,
    connection: Connection<R>,
}

struct TaskWaker<R> {
    ready: Arc<Ready<R>>,
    key: usize,
    state: AtomicU8,
}

/// It waits to be woken.
const WAITS: u8 = 0;
/// It was woken, and will be polled.
const WOKEN: u8 = 1;
/// There is nothing to poll any more.
const ENDED: u8 = 2;

impl<R: Send + 'static> Wake for TaskWaker<R> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Acquire and release: what the waker saw, the poll sees.
        if self.state.compare_exchange(WAITS, WOKEN, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return;
        }
        let is_first = {
            let mut woken = self.ready.woken.lock();
            woken.push(self.clone());
            woken.len() == 1
        };
        if is_first {
            self.ready.connection.notify();
        }
    }
}

impl<R, F, M> Spawning<R, F, M> {
    pub(super) fn new(make: M) -> Self {
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
        let state = TaskWaker { ready: ready.clone(), key: entry.key(), state: AtomicU8::new(WAITS) };
        let state = Arc::new(state);
        let waker = Waker::from(state.clone());
        // Most are ready at once, or soon: the first poll is made here.
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(response) => {
                state.state.store(ENDED, Ordering::Relaxed);
                reply.send(response);
            }
            Poll::Pending => {
                entry.insert(Task { future, reply, waker, _end: End(state) });
            }
        }
    }

    fn on_open(&mut self, connection: &Connection<Response<P>>) {
        self.ready = Some(Arc::new(Ready { woken: Mutex::default(), connection: connection.clone() }));
    }

    fn on_notify(&mut self) {
        let Some(ready) = &self.ready else { return };
        let mut woken = std::mem::take(&mut self.woken);
        std::mem::swap(&mut *ready.woken.lock(), &mut woken);
        for state in woken.drain(..) {
            // Before the poll, so that a wake during the poll is another one.
            if state.state.compare_exchange(WOKEN, WAITS, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                continue;
            }
            let Some(task) = self.tasks.get_mut(state.key) else { continue };
            let polling =
                AssertUnwindSafe(|| task.future.as_mut().poll(&mut Context::from_waker(&task.waker)));
            let outcome = match catch_unwind(polling) {
                Ok(Poll::Pending) => continue,
                Ok(Poll::Ready(response)) => Some(response),
                Err(_) => None,
            };
            let Task { reply, .. } = self.tasks.remove(state.key);
            match outcome {
                Some(response) => reply.send(response),
                None => reply.panicked(),
            }
        }
        self.woken = woken;
    }

    fn substitute(&mut self, missing: &Missing<'_>) -> Option<Response<P>> {
        if let MissingCause::TimedOut = missing.cause {
            // Nobody waits for it any more.
            self.tasks.retain(|_, task| task.reply.request_number() != missing.request);
        }
        None
    }
}
