//! A service that forwards, with back-pressure from end to end: what the server behind it has no room for waits here, what waits
//! here counts as in progress, and a connection with too much in progress is not read.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use trochus::codec::{Matching, Protocol, Request, RequestRef, Response};
use trochus::rpc::{Callback, Client, Connection, Reply, Service};

/// One client's connection to the proxy.
pub(crate) struct Forward<P: Protocol> {
    upstream: Client<P>,
    /// Found no room at the upstream yet.
    waiting: VecDeque<(Request<P>, Callback<Response<P>>)>,
    connection: Option<Connection<Response<P>>>,
    /// Whether the upstream will tell of room.
    asked: Arc<AtomicBool>,
}

impl<P: Protocol> Forward<P>
where
    P::Correlation: Matching,
{
    pub(crate) fn new(upstream: Client<P>) -> Self {
        Forward { upstream, waiting: VecDeque::new(), connection: None, asked: Arc::default() }
    }

    fn forward(&mut self) {
        while let Some((request, callback)) = self.waiting.pop_front() {
            // Never waits: this is the reactor's thread. What finds no room comes back, in one piece.
            if let Err(refused) = self.upstream.try_send(request, callback) {
                self.waiting.push_front(refused.into_parts());
                return self.ask_for_room();
            }
        }
    }

    fn ask_for_room(&self) {
        let Some(connection) = self.connection.clone().filter(|_| !self.asked.swap(true, Ordering::SeqCst))
        else {
            return;
        };
        let asked = self.asked.clone();
        self.upstream.when_room(move || {
            asked.store(false, Ordering::SeqCst);
            connection.notify();
        });
    }
}

impl<P: Protocol> Service<P> for Forward<P>
where
    P::Correlation: Matching,
    for<'a> RequestRef<'a, P>: Into<Request<P>>,
{
    fn on_open(&mut self, connection: &Connection<Response<P>>) {
        self.connection = Some(connection.clone());
    }

    fn call(&mut self, request: RequestRef<'_, P>, reply: Reply<Response<P>>) {
        let callback = move |outcome| {
            // Without a response, dropping the reply tells the client that there is none.
            if let Ok(response) = outcome {
                reply.send(response);
            }
        };
        self.waiting.push_back((request.into(), Box::new(callback)));
        if self.waiting.len() == 1 {
            self.forward();
        }
    }

    fn on_notify(&mut self) {
        self.forward();
    }
}
