//! Requests are decoded and served, one behind the other: the hot half of a responder.

use super::fault::{self, Fault};
use super::later::Later;
use super::open::OpenRequests;
use super::reply::{Answer, Dispatch, Lent, Slot};
use super::responder::Responder;
use super::service::{Missing, MissingCause};
use super::slice::{At, Stop};
use crate::codec::{Correlation, CorrelationKind, DecodeError, Decoded, EncodeError, Protocol, Response};
use crate::config::SERVE_SLICE;
use crate::rpc::notice::{Notice, Why};
use crate::rpc::{Service, trace};
use std::mem::ManuallyDrop;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Responses up to this many bytes are taken out of the reply's slot, for then the compiler keeps them in registers; larger
/// ones are encoded where they lie.
const IN_REGISTERS: usize = 16;

/// The clock is read behind so many requests, then behind twice as many, and so on up to [`MOST_BETWEEN_LOOKS`]: so a slow service
/// is noticed soon, and a fast one does not pay for it.
const FIRST_LOOK: u64 = 16;
const MOST_BETWEEN_LOOKS: u64 = 4096;

/// How far one look at the input came; a panic of the service does not make it forgotten. What changes with each request is in
/// variables of the loop, because the compiler would read and write it in memory otherwise, and is written back by the guards.
struct Kept<Id, R> {
    consumed: usize,
    next_ticket: u64,
    /// Of the request that is being served.
    id: Option<Id>,
    /// What is written here is written over, not dropped: empty while it is lent.
    buffer: ManuallyDrop<Vec<u8>>,
    slot: Slot<R>,
}

/// What is lent, without the slot.
struct Progress<'p, Id> {
    home: Home<'p, Id>,
    consumed: usize,
    next_ticket: u64,
    id: Option<Id>,
    buffer: ManuallyDrop<Vec<u8>>,
}

struct Home<'p, Id> {
    consumed: &'p mut usize,
    next_ticket: &'p mut u64,
    id: &'p mut Option<Id>,
    buffer: &'p mut ManuallyDrop<Vec<u8>>,
}

impl<Id> Drop for Progress<'_, Id> {
    #[inline(always)]
    fn drop(&mut self) {
        *self.home.consumed = self.consumed;
        *self.home.next_ticket = self.next_ticket;
        std::mem::forget(std::mem::replace(self.home.id, self.id.take()));
        *self.home.buffer = std::mem::take(&mut self.buffer);
    }
}

impl<P: Protocol, S: Service<P>> Responder<P, S> {
    /// Serves as many whole requests as there are and as there is room and time for: how many bytes they were, and why not
    /// more.
    pub(super) fn serve_all(
        &mut self,
        out: &mut Vec<u8>,
        room: usize,
        now: Instant,
        bytes: &[u8],
    ) -> (usize, Stop) {
        let Some(later) = self.later.take() else { return (0, Stop::NoRoom) };
        if self.slice.turn.replace(now) != Some(now) {
            self.slice.spent = Duration::ZERO;
        }
        self.now = now;
        let first = self.next_ticket;
        let mut kept = Kept {
            consumed: 0,
            next_ticket: first,
            id: None,
            buffer: ManuallyDrop::new(std::mem::take(out)),
            slot: Slot::new(&later),
        };
        // Beyond the limit by one response: then reading pauses, and what is left comes again once there is room.
        let full = kept.buffer.len().saturating_add(room);
        self.unusual = 0;
        let stop = loop {
            let serving = AssertUnwindSafe(|| self.serve_some(&later, full, bytes, &mut kept));
            let panic = match catch_unwind(serving) {
                Ok(stop) => break stop,
                Err(panic) => panic,
            };
            self.next_ticket = kept.next_ticket;
            let panicked = kept.slot.take_panicked(&later);
            let goes_on = match (panicked, kept.id.take()) {
                (Some((ticket, answer)), Some(id)) => catch_unwind(AssertUnwindSafe(|| {
                    self.after_panic(&later, At { ticket, id }, answer, &mut kept.buffer)
                })),
                // Not the service: nobody knows what is in the output.
                _ => Err(panic),
            };
            match goes_on {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => break Stop::Finishing,
                Err(panic) => {
                    *out = ManuallyDrop::into_inner(kept.buffer);
                    self.later = Some(later);
                    resume_unwind(panic);
                }
            }
        };
        *out = ManuallyDrop::into_inner(kept.buffer);
        self.next_ticket = kept.next_ticket;
        let (served, tally) = (kept.next_ticket - first, self.server.tallies.mine());
        if served > 0 {
            tally.requests.add(served);
            tally.responses.add(served - self.unusual);
        }
        self.later = Some(later);
        (kept.consumed, stop)
    }

    fn serve_some(
        &mut self,
        later: &Arc<Later<Response<P>>>,
        full: usize,
        bytes: &[u8],
        kept: &mut Kept<<P::Correlation as Correlation>::Id, Response<P>>,
    ) -> Stop {
        if self.is_blocked() {
            return Stop::NoRoom;
        }
        let lent = Lent::new(&mut kept.slot);
        let mut dispatch = Dispatch::begin(&lent.slot, later);
        let mut open = self.open.len();
        let first = kept.next_ticket;
        let mut progress = Progress {
            consumed: kept.consumed,
            next_ticket: first,
            id: None,
            buffer: std::mem::take(&mut kept.buffer),
            home: Home {
                consumed: &mut kept.consumed,
                next_ticket: &mut kept.next_ticket,
                id: &mut kept.id,
                buffer: &mut kept.buffer,
            },
        };
        let (mut began, mut look_at) = (None, first + FIRST_LOOK);
        loop {
            if progress.buffer.len() > full {
                break Stop::NoRoom;
            }
            if progress.next_ticket >= look_at {
                match self.look(began, first, progress.next_ticket) {
                    ControlFlow::Continue((since, next)) => (began, look_at) = (Some(since), next),
                    ControlFlow::Break(stop) => break stop,
                }
            }
            let decoded = P::Correlation::decode(&mut self.requests, &bytes[progress.consumed..]);
            let ((id, request), taken) = match decoded {
                Ok(Decoded::Item { item, consumed }) => (item, consumed),
                Ok(Decoded::NeedMore { at_least }) => break Stop::NeedMore(at_least),
                Err(error) => break Stop::Undecodable(error),
            };
            progress.consumed += taken;
            let ticket = progress.next_ticket;
            progress.next_ticket += 1;
            progress.id = Some(id);
            if trace::is_on() {
                self.began = trace::began();
            }
            let mut answer = dispatch.serve(ticket, |reply| self.service.call(request, reply));
            let Some(id) = progress.id.take() else { unreachable!("it was put there a moment ago") };
            let mut small;
            if const { size_of::<Response<P>>() <= IN_REGISTERS } {
                small = std::mem::replace(answer, Answer::Later);
                answer = &mut small;
            }
            let waits = open > 0 && P::Correlation::KIND == CorrelationKind::InOrder;
            let unusual = match answer {
                Answer::Now(response) if !waits => {
                    // A plain number is copied, another id costs what its clone does.
                    let (its_id, buffer) = (id.clone(), &mut progress.buffer);
                    match P::Correlation::encode(&mut self.responses, its_id, response, buffer) {
                        Ok(()) => {
                            self.trace_answered(later, ticket);
                            continue;
                        }
                        Err(error) => Unusual::NotEncodable(error),
                    }
                }
                answer => Unusual::Answer(std::mem::replace(answer, Answer::Later)),
            };
            // Moved there and back, so that the one of the other requests has no address.
            let mut buffer = std::mem::take(&mut progress.buffer);
            let goes_on = self.go_on_with(later, At { ticket, id }, unusual, &mut buffer);
            progress.buffer = buffer;
            if goes_on.is_break() {
                break Stop::Finishing;
            }
            open = self.open.len();
            if self.is_blocked() {
                break Stop::NoRoom;
            }
        }
    }

    /// Serves the request that lasted until the end of the stream, if the codec knows such.
    pub(super) fn serve_end(
        &mut self,
        out: &mut Vec<u8>,
        now: Instant,
        rest: &[u8],
    ) -> Result<(), DecodeError> {
        let Some(later) = self.later.clone() else { return Ok(()) };
        let Some((id, request)) = P::Correlation::decode_eof(&mut self.requests, rest)? else {
            return Ok(());
        };
        self.now = now;
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.began = trace::began();
        let slot = Slot::new(&later);
        let mut dispatch = Dispatch::begin(&slot, &later);
        let answer = dispatch.serve(ticket, |reply| self.service.call(request, reply));
        let answer = std::mem::replace(answer, Answer::Later);
        drop(dispatch);
        self.server.tallies.mine().requests.add(1);
        let _ = self.go_on_with(&later, At { ticket, id }, Unusual::Answer(answer), out);
        Ok(())
    }

    /// Whether the connection's slice of the turn is over; otherwise since when it is measured, and at which request to look again.
    #[cold]
    #[inline(never)]
    fn look(&mut self, began: Option<Instant>, first: u64, next: u64) -> ControlFlow<Stop, (Instant, u64)> {
        let (now, next) = (Instant::now(), next + (next - first).clamp(FIRST_LOOK, MOST_BETWEEN_LOOKS));
        let Some(began) = began else { return ControlFlow::Continue((now, next)) };
        let spent = now.saturating_duration_since(began);
        if self.slice.spent + spent >= SERVE_SLICE {
            self.slice.spent += spent;
            return ControlFlow::Break(Stop::SliceOver);
        }
        ControlFlow::Continue((began, next))
    }

    #[cold]
    #[inline(never)]
    fn go_on_with(
        &mut self,
        later: &Later<Response<P>>,
        at: At<<P::Correlation as Correlation>::Id>,
        unusual: Unusual<Response<P>>,
        out: &mut Vec<u8>,
    ) -> ControlFlow<()> {
        self.unusual += 1;
        match unusual {
            Unusual::NotEncodable(error) => self.missing(later, at, Why::NotEncodable, Some(&error), out),
            Unusual::Answer(Answer::Later) => {
                self.server.tallies.mine().late.add(1);
                self.open.push(at.ticket, at.id, self.clock.millis(self.now));
                ControlFlow::Continue(())
            }
            Unusual::Answer(Answer::Dropped) => self.missing(later, at, Why::Dropped, None, out),
            Unusual::Answer(Answer::Now(response)) => self.answer_now(later, at, &response, out),
            Unusual::Answer(Answer::Last(response)) => {
                self.finishing = true;
                let _ = self.answer_now(later, at, &response, out);
                ControlFlow::Break(())
            }
        }
    }

    /// A service panicked, but the connection need not end for that.
    #[cold]
    fn after_panic(
        &mut self,
        later: &Later<Response<P>>,
        at: At<<P::Correlation as Correlation>::Id>,
        answer: Answer<Response<P>>,
        out: &mut Vec<u8>,
    ) -> ControlFlow<()> {
        if let Answer::Dropped = answer {
            self.unusual += 1;
            return self.missing(later, at, Why::Panicked, None, out);
        }
        // It panicked behind its answer, or another thread has its reply.
        fault::report_missing(Why::Panicked, None, later.peer(), self.server.tallies.mine());
        let ticket = at.ticket;
        let goes_on = self.go_on_with(later, at, Unusual::Answer(answer), out);
        if self.server.options.failures_close {
            return self.give_up(later, ticket, Why::Panicked, None);
        }
        goes_on
    }

    /// Answers a request that has just come, which may have to wait for its turn.
    fn answer_now(
        &mut self,
        later: &Later<Response<P>>,
        at: At<<P::Correlation as Correlation>::Id>,
        response: &Response<P>,
        out: &mut Vec<u8>,
    ) -> ControlFlow<()> {
        match self.place(&at, response, out) {
            Ok(()) => {
                self.trace_answered(later, at.ticket);
                ControlFlow::Continue(())
            }
            Err(error) => self.missing(later, at, Why::NotEncodable, Some(&error), out),
        }
    }

    /// A request that has just come has no response: finds another way to tell, or gives the connection up.
    fn missing(
        &mut self,
        later: &Later<Response<P>>,
        at: At<<P::Correlation as Correlation>::Id>,
        why: Why,
        error: Option<&EncodeError>,
        out: &mut Vec<u8>,
    ) -> ControlFlow<()> {
        if let Some(substitute) = self.substitute(later, at.ticket, why, error)
            && self.place(&at, &substitute, out).is_ok()
        {
            return if self.server.options.failures_close {
                self.give_up(later, at.ticket, why, error)
            } else {
                ControlFlow::Continue(())
            };
        }
        if P::Correlation::KIND == CorrelationKind::Uncorrelated && error.is_none() && why == Why::Dropped {
            return ControlFlow::Continue(());
        }
        if self.tells_missing() {
            let id = P::Correlation::number_of(at.id).unwrap_or_default();
            self.backlog.put(out, usize::MAX, |out| Notice::WithoutResponse { id, why }.encode(out));
            return ControlFlow::Continue(());
        }
        if let OpenRequests::InOrder(order) = &mut self.open {
            order.push_gone(at.ticket);
        }
        self.ending.owes = true;
        self.give_up(later, at.ticket, why, error)
    }

    /// Counts a request without a response, and asks for another one.
    pub(super) fn substitute(
        &mut self,
        later: &Later<Response<P>>,
        request: u64,
        why: Why,
        error: Option<&EncodeError>,
    ) -> Option<Response<P>> {
        if P::Correlation::KIND != CorrelationKind::Uncorrelated || why != Why::Dropped {
            fault::report_missing(why, error, later.peer(), self.server.tallies.mine());
        }
        self.trace_missing(later, request, why);
        let cause = match (why, error) {
            (Why::Dropped, _) => MissingCause::Dropped,
            (Why::Panicked, _) => MissingCause::Panicked,
            (Why::NotEncodable, Some(error)) => MissingCause::NotEncodable(error),
            (Why::TimedOut | Why::NotEncodable, _) => MissingCause::TimedOut,
        };
        self.service.substitute(&Missing { request, peer: later.peer(), cause })
    }

    /// Whether the client is told that a request has no response, and all goes on.
    pub(super) fn tells_missing(&self) -> bool {
        P::Correlation::HAS_NOTICES && self.server.options.notices && !self.server.options.failures_close
    }

    /// Ends the connection behind what came before this request: in good order only if it was answered after all.
    pub(super) fn give_up(
        &mut self,
        later: &Later<Response<P>>,
        request: u64,
        why: Why,
        error: Option<&EncodeError>,
    ) -> ControlFlow<()> {
        let reason = error.map_or_else(|| why.text().to_owned(), ToString::to_string);
        self.fail(later, Fault::NoResponse { request, reason });
        ControlFlow::Break(())
    }
}

/// What the hot loop leaves to others.
enum Unusual<R> {
    Answer(Answer<R>),
    NotEncodable(EncodeError),
}
