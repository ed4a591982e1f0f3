//! Responses find their place: of what was answered at once, elsewhere or later, of pushes, and of times that are over.

use super::later::{Later, Said, UNASKED};
use super::open::OpenRequests;
use super::order::Turn;
use super::responder::Responder;
use super::slice::At;
use crate::codec::{Correlation, CorrelationKind, Encode, EncodeError, Protocol, Response};
use crate::rpc::Service;
use crate::rpc::client::expected::unasked_number;
use crate::rpc::notice::{Notice, Why};
use std::sync::Arc;

impl<P: Protocol, S: Service<P>> Responder<P, S> {
    /// Takes in what was said elsewhere, and moves what can leave into the output as long as there is room. What is left follows
    /// when the kernel has taken the output.
    pub(super) fn answer_later(&mut self, out: &mut Vec<u8>, room: usize) {
        let Some(later) = self.later.clone() else { return };
        let full = out.len().saturating_add(room);
        let mut arrived = std::mem::take(&mut self.arrived);
        later.take(&mut arrived);
        // First what was there before.
        self.release_up_to(out, full);
        for (ticket, said) in arrived.drain(..) {
            self.say(&later, ticket, said, out, full);
            if self.held() > self.server.options.held_hard {
                // It ends with this; the others need not be encoded for that.
                break;
            }
        }
        self.arrived = arrived;
        self.release_up_to(out, full);
    }

    /// Moves what can leave into the output as long as there is room.
    pub(super) fn release(&mut self, out: &mut Vec<u8>, room: usize) {
        let full = out.len().saturating_add(room);
        self.release_up_to(out, full);
    }

    /// Requests that have had their time are given another answer.
    pub(super) fn time_out(&mut self, out: &mut Vec<u8>, room: usize, tickets: &[u64]) {
        let Some(later) = self.later.clone() else { return };
        let full = out.len().saturating_add(room);
        for ticket in tickets {
            later.expire(*ticket);
            self.say(&later, *ticket, Said::Nothing(Why::TimedOut), out, full);
        }
        self.release_up_to(out, full);
    }

    fn say(
        &mut self,
        later: &Arc<Later<Response<P>>>,
        ticket: u64,
        said: Said<Response<P>>,
        out: &mut Vec<u8>,
        full: usize,
    ) {
        if ticket == UNASKED {
            return match said {
                Said::Part(response) => self.push(&response, out, full),
                _ => self.finishing = true,
            };
        }
        // One whose time is over has been answered already.
        let Some((_, since)) = self.open.look(ticket) else { return };
        let (encoded, goes_on) = match &said {
            Said::Response(response) => (self.write(ticket, Some(response), false, out, full), false),
            Said::Last(response) => {
                self.finishing = true;
                (self.write(ticket, Some(response), false, out, full), false)
            }
            Said::Part(response) => (self.write(ticket, Some(response), true, out, full), true),
            Said::End | Said::Close => (self.write(ticket, None, false, out, full), false),
            Said::Nothing(why) => return self.missing_later(later, ticket, *why, None, out, full),
        };
        if let Err(error) = encoded {
            return self.missing_later(later, ticket, Why::NotEncodable, Some(&error), out, full);
        }
        if !goes_on {
            self.trace_late(later, ticket, since);
        }
        if let Some(since) = since
            && !goes_on
        {
            self.server.tallies.mine().late_took(self.clock.age(since, self.now));
        }
        self.release_up_to(out, full);
    }

    /// Encodes something of an open request, and takes note of it.
    fn write(
        &mut self,
        ticket: u64,
        response: Option<&Response<P>>,
        goes_on: bool,
        out: &mut Vec<u8>,
        full: usize,
    ) -> Result<(), EncodeError> {
        let Some((id, _)) = self.open.look(ticket) else { return Ok(()) };
        let codec = &mut self.responses;
        let encode = |out: &mut Vec<u8>| match response {
            None => Ok(0),
            Some(response) => {
                let before = out.len();
                P::Correlation::encode(codec, id, response, out).map(|()| out.len() - before)
            }
        };
        let bytes = match &mut self.open {
            OpenRequests::InOrder(order) if self.backlog.lets_pass(out, full) && order.is_first(ticket) => {
                let bytes = encode(out)?;
                order.say(ticket, Vec::new(), goes_on);
                bytes
            }
            OpenRequests::InOrder(order) => {
                let mut text = Vec::new();
                let bytes = encode(&mut text)?;
                order.say(ticket, text, goes_on);
                bytes
            }
            open @ OpenRequests::AnyOrder(_) => {
                let bytes = self.backlog.put(out, full, encode)?;
                open.said(ticket, goes_on);
                bytes
            }
        };
        if response.is_some() {
            self.server.tallies.mine().responses.add(1);
            self.usual_bytes = match self.usual_bytes {
                0 => bytes,
                usual => (7 * usual + bytes) / 8,
            };
        }
        Ok(())
    }

    /// Puts the response of a request that has just come where it belongs.
    pub(super) fn place(
        &mut self,
        at: &At<<P::Correlation as Correlation>::Id>,
        response: &Response<P>,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let codec = &mut self.responses;
        match &mut self.open {
            OpenRequests::InOrder(order) if order.len() > 0 => {
                order.push_held(at.ticket, |held| codec.encode(response, held))?;
            }
            _ => {
                let encode = |out: &mut Vec<u8>| P::Correlation::encode(codec, at.id.clone(), response, out);
                self.backlog.put(out, usize::MAX, encode)?;
            }
        }
        self.server.tallies.mine().responses.add(1);
        Ok(())
    }

    /// What no request asked for.
    fn push(&mut self, response: &Response<P>, out: &mut Vec<u8>, full: usize) {
        if self.ending.owes && self.open.len() == 0 {
            // The connection is about to be reset, which does not wait for more.
            return;
        }
        let id = P::Correlation::id_from(unasked_number::<P::Correlation>());
        let (codec, tally) = (&mut self.responses, self.server.tallies.mine());
        match self.backlog.put(out, full, |out| P::Correlation::encode(codec, id, response, out)) {
            Ok(()) => tally.pushed.add(1),
            // Nobody waits for it in particular.
            Err(_) => tally.encode_errors.add(1),
        }
    }

    /// An open request will have no response of its own.
    fn missing_later(
        &mut self,
        later: &Arc<Later<Response<P>>>,
        ticket: u64,
        why: Why,
        error: Option<&EncodeError>,
        out: &mut Vec<u8>,
        full: usize,
    ) {
        let Some((id, _)) = self.open.look(ticket) else { return };
        let closes = self.server.options.failures_close;
        if let Some(substitute) = self.substitute(later, ticket, why, error)
            && self.write(ticket, Some(&substitute), false, out, full).is_ok()
        {
            if closes {
                let _ = self.give_up(later, ticket, why, error);
            }
            return self.release_up_to(out, full);
        }
        if self.tells_missing() {
            let id = P::Correlation::number_of(id).unwrap_or_default();
            self.backlog.put(out, full, |out| Notice::WithoutResponse { id, why }.encode(out));
            return self.open.said(ticket, false);
        }
        match &mut self.open {
            // The connection ends once it is this one's turn.
            OpenRequests::InOrder(order) => order.lose(ticket),
            OpenRequests::AnyOrder(_) => self.open.said(ticket, false),
        }
        if P::Correlation::KIND == CorrelationKind::ById || error.is_some() {
            self.ending.owes = true;
            let _ = self.give_up(later, ticket, why, error);
        }
        self.release_up_to(out, full);
    }

    fn release_up_to(&mut self, out: &mut Vec<u8>, full: usize) {
        if self.backlog.len() > 0 {
            self.backlog.move_to(out, full.saturating_sub(out.len()));
        }
        while self.backlog.lets_pass(out, full)
            && let OpenRequests::InOrder(order) = &mut self.open
        {
            match order.pop(out) {
                Turn::Said => {}
                Turn::Waits => break,
                Turn::Gone => {
                    let request = order.first();
                    self.trace_abandoned();
                    // Nothing that comes behind it may be sent.
                    self.open = OpenRequests::AnyOrder(Default::default());
                    if let Some(later) = self.later.clone() {
                        let _ = self.give_up(&later, request, Why::Dropped, None);
                    }
                    self.finishing = true;
                    self.ending.owes = true;
                }
            }
        }
    }
}
