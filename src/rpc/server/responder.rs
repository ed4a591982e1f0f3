//! The server's handler of one connection: requests in, responses out, in whatever order the protocol wants. The rooms: `serve`,
//! where requests are served; `answers`, what is said of them later; `ending`, how it ends; this one, when to read and to go on.

use super::clock::{Clock, Over};
use super::connection::Connection;
use super::ending::Ending;
use super::fault::{self, Fault};
use super::later::{Later, Said};
use super::metrics::Tallies;
use super::open::OpenRequests;
use super::options::ServerOptions;
use super::slice::{At, Slice, Stop};
use crate::codec::{Correlation, CorrelationKind, DecodeError, Protocol, Response};
use crate::reactor::{CloseReason, Handler, Io, Reactor};
use crate::rpc::Service;
use crate::rpc::notice::Notice;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(in crate::rpc) struct Responder<P: Protocol, S> {
    pub(super) requests: P::RequestCodec,
    pub(super) responses: P::ResponseCodec,
    pub(super) service: S,
    pub(super) server: Arc<Shared>,
    pub(super) later: Option<Arc<Later<Response<P>>>>,
    /// The number of the next request.
    pub(super) next_ticket: u64,
    pub(super) open: OpenRequests<P::Correlation>,
    /// Responses whose turn it is and that find no room in the output.
    pub(super) backlog: Backlog,
    /// Kept for its capacity.
    pub(super) arrived: Vec<(u64, Said<Response<P>>)>,
    /// About how many bytes a late response has; 0 as long as there was none.
    pub(super) usual_bytes: usize,
    /// No more requests; closes once the last one is answered.
    pub(super) finishing: bool,
    pub(super) clock: Clock,
    /// When this turn began.
    pub(super) now: Instant,
    pub(super) slice: Slice,
    /// When the service was called last, if that is told.
    pub(super) began: Option<Instant>,
    /// Requests of the current look at the input that were not simply answered.
    pub(super) unusual: u64,
    fault: Option<Fault>,
    /// Waits for the others' turn to be over.
    sliced: bool,
    /// More responses were held than should be, and half of that is not gone yet.
    over_soft: bool,
    /// Waits for room in the output.
    no_room: bool,
    pub(super) ending: Ending,
}

/// What the responders of a server share.
pub(in crate::rpc) struct Shared {
    pub(super) options: ServerOptions,
    pub(super) tallies: Tallies,
}

/// Encoded responses, in the order in which they leave: never a part of one, for others may write between them.
#[derive(Default)]
pub(super) struct Backlog {
    bytes: Vec<u8>,
    start: usize,
    /// The lengths of blocks of whole responses.
    blocks: VecDeque<usize>,
}

/// Responses of up to so many bytes together count as one.
const BLOCK_BYTES: usize = 4 << 10;

impl<P: Protocol, S: Service<P>> Responder<P, S> {
    pub(in crate::rpc) fn new(protocol: &P, service: S, server: Arc<Shared>) -> Self {
        let now = Instant::now();
        Responder {
            requests: protocol.request_codec(),
            responses: protocol.response_codec(),
            service,
            server,
            later: None,
            next_ticket: 0,
            open: OpenRequests::new(),
            backlog: Backlog::default(),
            arrived: Vec::new(),
            usual_bytes: 0,
            finishing: false,
            clock: Clock::new(now),
            now,
            slice: Slice::default(),
            began: None,
            unusual: 0,
            fault: None,
            sliced: false,
            over_soft: false,
            no_room: false,
            ending: Ending::default(),
        }
    }

    /// Bytes of responses that wait.
    pub(super) fn held(&self) -> usize {
        self.backlog.len() + self.open.bytes()
    }

    /// Requests that may be in progress: no more than their responses will find room, if they are as large as they were.
    fn most_open(&self) -> usize {
        let most = self.server.options.requests_in_progress;
        match self.usual_bytes {
            0 => most,
            usual => most.min((self.server.options.held_hard.saturating_sub(self.held()) / usual).max(1)),
        }
    }

    /// Whether no more requests may be taken until some are answered, and what was answered before has left: an answer that
    /// comes at once must not pass it.
    pub(super) fn is_blocked(&self) -> bool {
        self.backlog.len() > 0
            || (self.open.len() > 0 && self.open.len() >= self.most_open())
            || self.held() > self.server.options.held_soft
    }

    /// Takes note of what is wrong; the first one counts.
    pub(super) fn fail(&mut self, later: &Later<Response<P>>, fault: Fault) {
        self.finishing = true;
        if self.fault.is_none() {
            fault::report(&fault, later.peer(), self.server.tallies.mine());
            self.fault = Some(fault);
        }
    }

    pub(super) fn is_at_fault(&self) -> bool {
        self.fault.is_some()
    }

    /// Answers what can be answered, and reads again as soon as there is room: what is in progress may wait for what comes next.
    fn go_on(&mut self, io: &mut Io<'_>) {
        self.now = io.now();
        let room = io.room();
        self.answer_later(io.out(), room);
        let (held, options) = (self.held(), &self.server.options);
        let (soft, hard) = (options.held_soft, options.held_hard);
        if let Some(later) = self.later.clone() {
            if held > hard {
                self.fail(&later, Fault::HeldLimit { pending: held, limit: hard });
                return io.abort();
            }
            later.set_congested(held > soft);
        }
        self.over_soft = held > if self.over_soft { soft / 2 } else { soft };
        if self.finishing {
            self.finish(io);
        } else if !self.sliced && !self.over_soft && !self.is_blocked() {
            self.no_room = io.room() == 0;
            if !self.no_room {
                io.resume_reading();
            }
        }
        self.arm(io);
    }

    /// Sees to it that whatever is waited for has an end, and says what waits.
    fn arm(&mut self, io: &mut Io<'_>) {
        io.claim(self.held());
        self.clock.arm(io, &self.server.options, self.open.len() > 0);
    }

    /// The peer sent what is no request: the service may have words for that.
    fn answer_undecodable(&mut self, io: &mut Io<'_>, error: DecodeError) {
        let Some(later) = self.later.clone() else { return };
        let answer = self.service.on_decode_error(&error, later.peer());
        // A part of a request was not taken, and whoever ended his output there knows that.
        let is_part = matches!(error, DecodeError::UnexpectedEnd { .. });
        if let Some(response) = answer
            && P::Correlation::KIND != CorrelationKind::ById
        {
            let at = At { ticket: self.next_ticket, id: P::Correlation::id_from(0) };
            // What cannot be encoded either is not sent; the connection ends in any case.
            self.ending.owes |= self.place(&at, &response, io.out()).is_err() && !is_part;
        } else {
            self.ending.owes |= !is_part;
        }
        self.fail(&later, Fault::Decode(error));
    }

    /// Ends requests that have had their time. How long from now the next look is due.
    fn look_after_requests(&mut self, io: &mut Io<'_>) -> Option<Duration> {
        let limit = self.server.options.request_timeout?;
        let past = self.now.checked_sub(limit).filter(|_| self.open.len() > 0);
        let (old, next) = match past {
            Some(past) if self.clock.has_begun(past) => self.open.older_than(self.clock.millis(past)),
            _ => (Vec::new(), None),
        };
        let room = io.room();
        self.time_out(io.out(), room, &old);
        if self.open.len() == 0 {
            return None;
        }
        let left = next.map_or(limit, |since| limit.saturating_sub(self.clock.age(since, self.now)));
        Some(left.max(limit / 16))
    }

    /// Looks after everything that may take too long.
    fn look_after_time(&mut self, io: &mut Io<'_>) {
        let requests = self.look_after_requests(io);
        let pending = io.pending() + self.backlog.len();
        if pending > 0 || self.is_blocked() {
            // As long as the peer is not read, the rest cannot come.
            self.clock.forgive(self.now);
        }
        let is_idle = self.open.len() == 0 && pending == 0;
        match (self.clock.look(self.now, &self.server.options, is_idle), self.later.clone()) {
            (Ok(next), _) => {
                if let Some(next) = [requests, next].into_iter().flatten().min() {
                    // Not too often, however the clock is cut.
                    self.clock.arm_after(io, next.max(Duration::from_millis(1)));
                }
            }
            (Err(Over::HalfRequest(limit)), Some(later)) => {
                self.fail(&later, Fault::HalfRequest { limit });
            }
            // It ends already, and what it waits for has its own time.
            (Err(Over::Idle(_)), _) if self.finishing => {}
            (Err(Over::Idle(limit)), Some(later)) => {
                // Everything was answered, so there is nothing to be sorry for.
                if P::Correlation::HAS_NOTICES && self.server.options.notices {
                    Notice::Goodbye { taken: self.next_ticket }.encode(io.out());
                }
                self.fail(&later, Fault::Idle { limit });
            }
            (Err(_), None) => {}
        }
    }
}

impl<P: Protocol, S> Responder<P, S> {
    /// Nobody hears what is answered from now on.
    fn refuse_replies(&self) {
        if let Some(later) = &self.later {
            later.close();
        }
    }
}

impl<P: Protocol, S: Service<P>> Handler for Responder<P, S> {
    fn on_open(&mut self, io: &mut Io<'_>) {
        let later = Later::new(Some(io.handle()), io.peer_addr().clone());
        self.later = Some(later.clone());
        self.now = io.now();
        self.clock = Clock::new(self.now);
        self.service.on_open(&Connection(later));
        self.arm(io);
    }

    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        let (room, now) = (io.room(), io.now());
        let (consumed, stop) = self.serve_all(io.out(), room, now, bytes);
        let mut half = false;
        match stop {
            Stop::NeedMore(at_least) => {
                let left = bytes.len() - consumed;
                half = left > 0;
                io.expect(left.saturating_add(at_least));
            }
            Stop::NoRoom => {
                self.no_room = true;
                io.pause_reading();
            }
            Stop::SliceOver => {
                self.sliced = true;
                io.pause_reading();
                self.clock.arm_after(io, Duration::ZERO);
            }
            Stop::Undecodable(error) => self.answer_undecodable(io, error),
            Stop::Finishing => {}
        }
        self.clock.heard(now, consumed > 0, half);
        if self.finishing {
            let room = io.room();
            self.release(io.out(), room);
            self.finish(io);
            self.arm(io);
            return bytes.len();
        }
        if self.is_blocked() {
            self.over_soft |= self.held() > self.server.options.held_soft;
            io.pause_reading();
        }
        self.arm(io);
        consumed
    }

    fn on_notify(&mut self, io: &mut Io<'_>) {
        if let Some(later) = &self.later {
            later.about_to_take();
        }
        self.service.on_notify();
        self.go_on(io);
    }

    fn on_room(&mut self, io: &mut Io<'_>) {
        if self.no_room {
            self.go_on(io);
        }
    }

    fn on_drained(&mut self, io: &mut Io<'_>) {
        if self.no_room || self.backlog.len() > 0 || self.open.len() > 0 {
            self.go_on(io);
        }
    }

    fn on_timer(&mut self, io: &mut Io<'_>) {
        self.clock.fired();
        self.sliced = false;
        self.now = io.now();
        self.look_after_time(io);
        self.go_on(io);
    }

    fn on_end(&mut self, io: &mut Io<'_>) {
        if !self.finishing {
            let (rest, now) = (io.unconsumed().to_vec(), io.now());
            if let Err(error) = self.serve_end(io.out(), now, &rest) {
                self.answer_undecodable(io, error);
            }
            let room = io.room();
            self.release(io.out(), room);
        }
        self.finish(io);
        self.arm(io);
    }

    fn on_shutdown(&mut self, io: &mut Io<'_>) {
        // A connection that ends for a fault ends without a word: not everything that was taken has been answered.
        self.ending.says_goodbye = P::Correlation::HAS_NOTICES;
        self.finish(io);
    }

    fn on_close(&mut self, reason: &CloseReason, _reactor: &mut Reactor) {
        self.trace_abandoned();
        self.refuse_replies();
        self.service.on_close(reason, self.fault.as_ref());
    }
}

/// Also where another handler has taken over: what is answered later goes nowhere.
impl<P: Protocol, S> Drop for Responder<P, S> {
    fn drop(&mut self) {
        self.refuse_replies();
    }
}

impl Backlog {
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Whether something may go into the output: nothing waits that it would pass, and there is room.
    pub(super) fn lets_pass(&self, out: &[u8], full: usize) -> bool {
        self.len() == 0 && out.len() < full
    }

    /// Encodes something into the output, or behind what waits already if that does or the output is full.
    pub(super) fn put<T>(
        &mut self,
        out: &mut Vec<u8>,
        full: usize,
        encode: impl FnOnce(&mut Vec<u8>) -> T,
    ) -> T {
        if self.lets_pass(out, full) {
            return encode(out);
        }
        let before = self.bytes.len();
        let result = encode(&mut self.bytes);
        let added = self.bytes.len() - before;
        match self.blocks.back_mut() {
            Some(last) if *last + added <= BLOCK_BYTES => *last += added,
            _ if added == 0 => {}
            _ => self.blocks.push_back(added),
        }
        result
    }

    /// Moves so many bytes, and the rest of the response with which they end.
    pub(super) fn move_to(&mut self, out: &mut Vec<u8>, least: usize) {
        let before = self.start;
        while self.start - before < least
            && let Some(block) = self.blocks.pop_front()
        {
            self.start += block;
        }
        out.extend_from_slice(&self.bytes[before..self.start]);
        if self.start == self.bytes.len() {
            // Gives memory back that a burst needed.
            *self = Backlog::default();
        } else if self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
            self.bytes.shrink_to(2 * self.bytes.len());
        }
    }
}
