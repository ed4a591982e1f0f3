//! The server's handler of one connection: requests in, responses out, in whatever order the protocol wants.

use super::Service;
use super::options::ServerOptions;
use super::order::{Order, Turn};
use super::reply::{Answer, Dispatch, Later, Slot};
use crate::codec::{Correlation, CorrelationKind, Decoded, Encode, Protocol, Response};
use crate::reactor::{Handler, Io};
use std::collections::HashMap;
use std::sync::Arc;

pub(super) struct Responder<P: Protocol, S> {
    requests: P::RequestCodec,
    responses: P::ResponseCodec,
    service: S,
    options: ServerOptions,
    slot: Slot<Response<P>>,
    later: Option<Arc<Later<Response<P>>>>,
    /// The number of the next request.
    next_ticket: u64,
    open: OpenRequests<P>,
    /// Kept for its capacity.
    done: Vec<(u64, Option<Response<P>>)>,
    /// No more requests; closes once the last one is answered.
    finishing: bool,
}

/// Requests without a response yet.
enum OpenRequests<P: Protocol> {
    InOrder(Order<Response<P>>),
    /// The id that goes with each response, by ticket; with no correlation there is none, and only the number counts.
    AnyOrder(HashMap<u64, <P::Correlation as Correlation>::Id>),
}

/// Something made going on impossible; what came before is still answered.
struct Broken;

impl<P: Protocol, S: Service<P>> Responder<P, S> {
    pub(super) fn new(protocol: &P, service: S, options: ServerOptions) -> Self {
        let open = match P::Correlation::KIND {
            CorrelationKind::InOrder => OpenRequests::InOrder(Order::new()),
            CorrelationKind::ById | CorrelationKind::Uncorrelated => OpenRequests::AnyOrder(HashMap::new()),
        };
        Responder {
            requests: protocol.request_codec(),
            responses: protocol.response_codec(),
            service,
            options,
            slot: Slot::new(),
            later: None,
            next_ticket: 0,
            open,
            done: Vec::new(),
            finishing: false,
        }
    }

    /// Serves as many whole requests as there are and as there is room for; how many bytes they were, and how many more
    /// the next one needs at least.
    fn serve_all(
        &mut self,
        out: &mut Vec<u8>,
        room: usize,
        bytes: &[u8],
    ) -> Result<(usize, usize), (usize, Broken)> {
        let Some(later) = &self.later else { return Ok((0, 0)) };
        let mut dispatch = Dispatch::begin(&self.slot);
        // Beyond the limit by one response: then reading pauses, and what is left comes again once there is room.
        let full = out.len().saturating_add(room);
        let mut consumed = 0;
        // In variables, because the compiler would read them anew for each request.
        let (mut open, most) = (self.open.len(), self.options.requests_in_progress);
        let mut next_ticket = self.next_ticket;
        while out.len() <= full && open < most {
            let decoded = P::Correlation::decode(&mut self.requests, &bytes[consumed..]);
            let ((id, request), taken) = match decoded {
                Ok(Decoded::Item { item, consumed }) => (item, consumed),
                Ok(Decoded::NeedMore { at_least }) => {
                    return Ok((consumed, bytes.len() - consumed + at_least));
                }
                Err(_) => return Err((bytes.len(), Broken)),
            };
            consumed += taken;
            let ticket = next_ticket;
            next_ticket += 1;
            self.next_ticket = next_ticket;
            let answer = dispatch.serve(ticket, later, |reply| self.service.call(request, reply));
            match answer {
                Answer::Now(_) => {}
                Answer::Later => {
                    self.open.push(ticket, id);
                    open += 1;
                    continue;
                }
                Answer::Dropped => match self.service.substitute() {
                    Some(response) => *answer = Answer::Now(response),
                    None if P::Correlation::KIND == CorrelationKind::Uncorrelated => continue,
                    None => {
                        self.open.push_gone(ticket);
                        return Err((bytes.len(), Broken));
                    }
                },
            }
            if open > 0
                && let OpenRequests::InOrder(order) = &mut self.open
                && let Answer::Now(response) = answer.take()
            {
                order.push(ticket, Some(Turn::Ready(response)));
                open += 1;
            } else if let Answer::Now(response) = answer
                && P::Correlation::encode(&mut self.responses, id, response, out).is_err()
            {
                return Err((bytes.len(), Broken));
            }
        }
        Ok((consumed, 0))
    }

    /// Encodes the responses that came from elsewhere and whose turn it is.
    fn answer_later(&mut self, out: &mut Vec<u8>) -> Result<(), Broken> {
        let Some(later) = &self.later else { return Ok(()) };
        let mut done = std::mem::take(&mut self.done);
        later.take(&mut done);
        let mut result = Ok(());
        for (ticket, response) in done.drain(..) {
            let response = response.or_else(|| self.service.substitute());
            let answered = match &mut self.open {
                OpenRequests::InOrder(order) => {
                    order.settle(ticket, response.map_or(Turn::Gone, Turn::Ready));
                    Ok(())
                }
                OpenRequests::AnyOrder(ids) => match (ids.remove(&ticket), response) {
                    (Some(id), Some(response)) => {
                        P::Correlation::encode(&mut self.responses, id, &response, out).map_err(|_| Broken)
                    }
                    (Some(_), None) if P::Correlation::KIND == CorrelationKind::ById => Err(Broken),
                    _ => Ok(()),
                },
            };
            result = result.and(answered);
        }
        self.done = done;
        result.and_then(|()| self.release_in_order(out))
    }

    fn release_in_order(&mut self, out: &mut Vec<u8>) -> Result<(), Broken> {
        let OpenRequests::InOrder(order) = &mut self.open else { return Ok(()) };
        while let Some(turn) = order.pop() {
            let Turn::Ready(response) = turn else {
                // Nothing that comes behind it may be sent.
                *order = Order::new();
                return Err(Broken);
            };
            self.responses.encode(&response, out).map_err(|_| Broken)?;
        }
        Ok(())
    }

    /// No more requests are taken; what is open is still answered.
    fn finish(&mut self, io: &mut Io<'_>) {
        self.finishing = true;
        io.pause_reading();
        self.close_if_finished(io);
    }

    fn close_if_finished(&mut self, io: &mut Io<'_>) {
        if self.finishing && self.open.len() == 0 {
            io.close();
        }
    }
}

impl<P: Protocol, S: Service<P>> Handler for Responder<P, S> {
    fn on_open(&mut self, io: &mut Io<'_>) {
        self.later = Some(Later::new(io.handle()));
        self.service.on_open(io.handle());
    }

    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        let room = io.room();
        match self.serve_all(io.out(), room, bytes) {
            Ok((consumed, wanted)) => {
                if self.open.len() >= self.options.requests_in_progress {
                    io.pause_reading();
                }
                io.expect(wanted);
                consumed
            }
            Err((consumed, Broken)) => {
                if self.release_in_order(io.out()).is_err() {
                    self.open = OpenRequests::AnyOrder(HashMap::new());
                }
                self.finish(io);
                consumed
            }
        }
    }

    fn on_notify(&mut self, io: &mut Io<'_>) {
        self.service.on_notify();
        if self.answer_later(io.out()).is_err() {
            self.finishing = true;
            self.open = OpenRequests::AnyOrder(HashMap::new());
        }
        if !self.finishing && self.open.len() < self.options.requests_in_progress.div_ceil(2) {
            io.resume_reading();
        }
        self.close_if_finished(io);
    }

    fn on_end(&mut self, io: &mut Io<'_>) {
        self.finish(io);
    }

    fn on_shutdown(&mut self, io: &mut Io<'_>) {
        self.finish(io);
    }
}

impl<P: Protocol> OpenRequests<P> {
    fn len(&self) -> usize {
        match self {
            OpenRequests::InOrder(order) => order.len(),
            OpenRequests::AnyOrder(ids) => ids.len(),
        }
    }

    fn push(&mut self, ticket: u64, id: <P::Correlation as Correlation>::Id) {
        match self {
            OpenRequests::InOrder(order) => order.push(ticket, None),
            OpenRequests::AnyOrder(ids) => {
                ids.insert(ticket, id);
            }
        }
    }

    fn push_gone(&mut self, ticket: u64) {
        if let OpenRequests::InOrder(order) = self {
            order.push(ticket, Some(Turn::Gone));
        }
    }
}
