//! What is told of each request, where somebody listens: see [`trace`].

use super::later::Later;
use super::responder::Responder;
use crate::codec::{Protocol, Response};
use crate::rpc::notice::Why;
use crate::rpc::{Service, trace};
use std::time::Duration;

impl<P: Protocol, S: Service<P>> Responder<P, S> {
    /// A request was answered while its service was being called, or is to be answered in its turn.
    #[inline]
    pub(super) fn trace_answered(&self, later: &Later<Response<P>>, request: u64) {
        if trace::is_on() {
            trace::request(later.peer(), request, "answered", self.began.map(|began| began.elapsed()));
        }
    }

    /// A request was answered later.
    pub(super) fn trace_late(&self, later: &Later<Response<P>>, request: u64, since: Option<u32>) {
        if trace::is_on() {
            trace::request(later.peer(), request, "answered", self.took(since));
        }
    }

    /// A request has no response of its own.
    pub(super) fn trace_missing(&mut self, later: &Later<Response<P>>, request: u64, why: Why) {
        if !trace::is_on() {
            return;
        }
        let outcome = match why {
            Why::Dropped => "dropped",
            Why::Panicked => "panicked",
            Why::TimedOut => "timed out",
            Why::NotEncodable => "not encodable",
        };
        let took = match self.open.look(request) {
            Some((_, since)) => self.took(since),
            None => self.began.map(|began| began.elapsed()),
        };
        trace::request(later.peer(), request, outcome, took);
    }

    /// The connection ends, and nobody waits for those that have said nothing yet.
    pub(super) fn trace_abandoned(&mut self) {
        if !trace::is_on() {
            return;
        }
        let (open, _) = self.open.older_than(u32::MAX);
        let Some(later) = self.later.clone() else { return };
        for request in open {
            let since = self.open.look(request).and_then(|(_, since)| since);
            trace::request(later.peer(), request, "abandoned", self.took(since));
        }
    }

    /// To the millisecond; unknown of one that answers in parts.
    fn took(&self, since: Option<u32>) -> Option<Duration> {
        since.map(|since| self.clock.age(since, self.now))
    }
}
