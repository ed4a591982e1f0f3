//! The server's handler of one connection: requests in, responses out, in whatever order the protocol wants.

use super::order::{Order, Turn};
use super::reply::{Answer, Dispatch, Later, Slot};
use crate::codec::{Correlation, CorrelationKind, Decoded, Encode, Protocol, Response};
use crate::reactor::{Handler, Io};
use crate::rpc::Service;
use crate::rpc::notice::Notice;
use crate::rpc::options::ServerOptions;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

pub(in crate::rpc) struct Responder<P: Protocol, S> {
    requests: P::RequestCodec,
    responses: P::ResponseCodec,
    service: S,
    options: ServerOptions,
    later: Option<Arc<Later<Response<P>>>>,
    /// The number of the next request.
    next_ticket: u64,
    open: OpenRequests<P>,
    /// Responses that came from elsewhere and were not looked at yet.
    done: VecDeque<(u64, Option<Response<P>>)>,
    /// Kept for its capacity.
    arrived: Vec<(u64, Option<Response<P>>)>,
    /// No more requests; closes once the last one is answered.
    finishing: bool,
    /// Not everything that was taken will be answered.
    is_at_fault: bool,
    /// Once everything is answered, the client is told what was taken.
    says_goodbye: bool,
}

/// Requests without a response yet.
enum OpenRequests<P: Protocol> {
    InOrder(Order<Response<P>>),
    /// The id that goes with each response, by ticket; with no correlation there is none, and only the number counts.
    AnyOrder(HashMap<u64, <P::Correlation as Correlation>::Id>),
}

/// Responses up to this many bytes are taken out of the reply's slot, for then the compiler keeps them in registers; larger
/// ones are encoded where they lie.
const IN_REGISTERS: usize = 16;

/// Something made going on impossible; what came before is still answered.
struct Broken;

impl<P: Protocol, S: Service<P>> Responder<P, S> {
    pub(in crate::rpc) fn new(protocol: &P, service: S, options: ServerOptions) -> Self {
        let open = match P::Correlation::KIND {
            CorrelationKind::InOrder => OpenRequests::InOrder(Order::new()),
            CorrelationKind::ById | CorrelationKind::Uncorrelated => OpenRequests::AnyOrder(HashMap::new()),
        };
        Responder {
            requests: protocol.request_codec(),
            responses: protocol.response_codec(),
            service,
            options,
            later: None,
            next_ticket: 0,
            open,
            done: VecDeque::new(),
            arrived: Vec::new(),
            finishing: false,
            is_at_fault: false,
            says_goodbye: false,
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
        let slot = Slot::new(later);
        let mut dispatch = Dispatch::begin(&slot, later);
        // Beyond the limit by one response: then reading pauses, and what is left comes again once there is room.
        let full = out.len().saturating_add(room);
        let mut consumed = 0;
        // In variables, because the compiler would read and write them in memory for each request. A service that panics
        // takes the output with it, as it does the connection.
        let (mut open, most) = (self.open.len(), self.options.requests_in_progress);
        let mut next_ticket = self.next_ticket;
        let mut buffer = std::mem::take(out);
        let result = loop {
            if buffer.len() > full || open >= most {
                break Ok((consumed, 0));
            }
            let decoded = P::Correlation::decode(&mut self.requests, &bytes[consumed..]);
            let ((id, request), taken) = match decoded {
                Ok(Decoded::Item { item, consumed }) => (item, consumed),
                Ok(Decoded::NeedMore { at_least }) => {
                    break Ok((consumed, (bytes.len() - consumed).saturating_add(at_least)));
                }
                Err(_) => break Err((bytes.len(), Broken)),
            };
            consumed += taken;
            let ticket = next_ticket;
            next_ticket += 1;
            let mut answer = dispatch.serve(ticket, |reply| self.service.call(request, reply));
            let mut small;
            if const { size_of::<Response<P>>() <= IN_REGISTERS } {
                small = std::mem::replace(answer, Answer::Later);
                answer = &mut small;
            }
            let waits = open > 0 && P::Correlation::KIND == CorrelationKind::InOrder;
            if let Answer::Dropped = answer
                && let Some(substitute) = self.service.substitute()
            {
                *answer = Answer::Now(substitute);
            }
            match answer {
                Answer::Now(response) if !waits => {
                    if P::Correlation::encode(&mut self.responses, id, response, &mut buffer).is_err() {
                        break Err((bytes.len(), Broken));
                    }
                }
                Answer::Dropped if P::Correlation::KIND == CorrelationKind::Uncorrelated => {}
                Answer::Dropped => {
                    self.open.push_gone(ticket);
                    break Err((bytes.len(), Broken));
                }
                answer => {
                    match std::mem::replace(answer, Answer::Later) {
                        Answer::Now(response) => self.open.push_ready(ticket, response),
                        _ => self.open.push(ticket, id),
                    }
                    open += 1;
                }
            }
        };
        *out = buffer;
        self.next_ticket = next_ticket;
        result
    }

    /// Encodes the responses that came from elsewhere and whose turn it is, as long as there is room. What is left follows
    /// when the kernel has taken the output.
    fn answer_later(&mut self, out: &mut Vec<u8>, room: usize) {
        let Some(later) = &self.later else { return };
        later.take(&mut self.arrived);
        self.done.extend(self.arrived.drain(..));
        let full = out.len().saturating_add(room);
        while out.len() <= full
            && let Some((ticket, response)) = self.done.pop_front()
        {
            let response = response.or_else(|| self.service.substitute());
            match &mut self.open {
                OpenRequests::InOrder(order) => {
                    order.settle(ticket, response.map_or(Turn::Gone, Turn::Ready));
                    self.release_in_order(out, full);
                }
                OpenRequests::AnyOrder(ids) => match (ids.remove(&ticket), response) {
                    (Some(id), Some(response)) => {
                        let encoded = P::Correlation::encode(&mut self.responses, id, &response, out);
                        self.is_at_fault |= encoded.is_err();
                    }
                    (Some(_), None) => self.is_at_fault |= P::Correlation::KIND == CorrelationKind::ById,
                    (None, _) => {}
                },
            }
        }
        self.release_in_order(out, full);
    }

    fn release_in_order(&mut self, out: &mut Vec<u8>, full: usize) {
        let OpenRequests::InOrder(order) = &mut self.open else { return };
        while out.len() <= full
            && let Some(turn) = order.pop()
        {
            let encoded = match turn {
                Turn::Ready(response) => self.responses.encode(&response, out).is_ok(),
                Turn::Gone => false,
            };
            if !encoded {
                // Nothing that comes behind it may be sent.
                self.is_at_fault = true;
                self.open = OpenRequests::AnyOrder(HashMap::new());
                return;
            }
        }
    }

    /// Answers what can be answered, and reads again once there is little left.
    fn go_on(&mut self, io: &mut Io<'_>) {
        let room = io.room();
        self.answer_later(io.out(), room);
        if self.finishing || self.is_at_fault {
            self.finish(io);
        } else if self.open.len() < self.options.requests_in_progress.div_ceil(2) {
            io.resume_reading();
        }
    }

    /// No more requests are taken; what is open is still answered.
    fn finish(&mut self, io: &mut Io<'_>) {
        self.finishing = true;
        io.pause_reading();
        if self.open.len() == 0 {
            if self.says_goodbye && !self.is_at_fault {
                Notice::Goodbye { taken: self.next_ticket }.encode(io.out());
            }
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
                self.is_at_fault = true;
                let room = io.room();
                let out = io.out();
                let full = out.len().saturating_add(room);
                self.release_in_order(out, full);
                self.finish(io);
                consumed
            }
        }
    }

    fn on_notify(&mut self, io: &mut Io<'_>) {
        self.service.on_notify();
        self.go_on(io);
    }

    fn on_drained(&mut self, io: &mut Io<'_>) {
        if !self.done.is_empty() || self.open.len() > 0 {
            self.go_on(io);
        }
    }

    fn on_end(&mut self, io: &mut Io<'_>) {
        self.finish(io);
    }

    fn on_shutdown(&mut self, io: &mut Io<'_>) {
        // A connection that ends for a fault ends without a word: not everything that was taken has been answered.
        self.says_goodbye = P::Correlation::HAS_NOTICES && !self.is_at_fault;
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

    /// A response that waits for those before it.
    fn push_ready(&mut self, ticket: u64, response: Response<P>) {
        if let OpenRequests::InOrder(order) = self {
            order.push(ticket, Some(Turn::Ready(response)));
        }
    }

    fn push_gone(&mut self, ticket: u64) {
        if let OpenRequests::InOrder(order) = self {
            order.push(ticket, Some(Turn::Gone));
        }
    }
}
