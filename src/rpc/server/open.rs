//! Requests without a response yet.

use super::order::Order;
use crate::codec::{Correlation, CorrelationKind};
use std::collections::HashMap;

/// In the way that the protocol matches them.
pub(super) enum OpenRequests<C: Correlation> {
    InOrder(Order),
    /// By ticket; with no correlation there are no ids, and only the number counts.
    AnyOrder(HashMap<u64, Open<C::Id>>),
}

pub(super) struct Open<Id> {
    /// The id that goes with the response.
    pub(super) id: Id,
    /// When it came, as the clock's milliseconds; `None` once it has said something and may go on as long as it likes.
    since: Option<u32>,
}

impl<C: Correlation> OpenRequests<C> {
    pub(super) fn new() -> Self {
        match C::KIND {
            CorrelationKind::InOrder => OpenRequests::InOrder(Order::default()),
            _ => OpenRequests::AnyOrder(HashMap::new()),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            OpenRequests::InOrder(order) => order.len(),
            OpenRequests::AnyOrder(open) => open.len(),
        }
    }

    /// Bytes of responses that wait for those before them.
    pub(super) fn bytes(&self) -> usize {
        match self {
            OpenRequests::InOrder(order) => order.bytes(),
            OpenRequests::AnyOrder(_) => 0,
        }
    }

    pub(super) fn push(&mut self, ticket: u64, id: C::Id, since: u32) {
        match self {
            OpenRequests::InOrder(order) => order.push_open(ticket, since),
            OpenRequests::AnyOrder(open) => {
                open.insert(ticket, Open { id, since: Some(since) });
            }
        }
    }

    /// The id of this request, if it is open, and when it came, if it has said nothing yet.
    pub(super) fn look(&mut self, ticket: u64) -> Option<(C::Id, Option<u32>)> {
        match self {
            OpenRequests::InOrder(order) => {
                order.is_open(ticket).then(|| (C::id_from(0), order.since(ticket)))
            }
            OpenRequests::AnyOrder(open) => open.get(&ticket).map(|open| (open.id.clone(), open.since)),
        }
    }

    /// Without an order: the request has said something, which was all unless it `goes_on`.
    pub(super) fn said(&mut self, ticket: u64, goes_on: bool) {
        if let OpenRequests::AnyOrder(open) = self {
            if !goes_on {
                open.remove(&ticket);
            } else if let Some(open) = open.get_mut(&ticket) {
                open.since = None;
            }
        }
    }

    /// Those that came at that time or before and have said nothing yet, in the order in which they came, and when the oldest
    /// of the others came.
    pub(super) fn older_than(&self, time: u32) -> (Vec<u64>, Option<u32>) {
        match self {
            OpenRequests::InOrder(order) => order.older_than(time),
            OpenRequests::AnyOrder(open) => {
                let (mut old, mut next) = (Vec::new(), None);
                for (ticket, open) in open {
                    match open.since {
                        Some(since) if since <= time => old.push(*ticket),
                        Some(since) => next = Some(next.map_or(since, |next: u32| next.min(since))),
                        None => {}
                    }
                }
                old.sort_unstable();
                (old, next)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::ById;

    #[test]
    fn the_old_ones_are_found() {
        let mut open = OpenRequests::<ById>::new();
        for (ticket, since) in [(5, 10), (6, 20), (7, 20), (8, 30)] {
            open.push(ticket, 100 + ticket, since);
        }
        open.said(6, true);
        assert_eq!(open.older_than(9), (vec![], Some(10)));
        assert_eq!(open.older_than(20), (vec![5, 7], Some(30)));
        assert_eq!(open.older_than(30), (vec![5, 7, 8], None));
        open.said(5, false);
        assert_eq!((open.len(), open.older_than(30)), (3, (vec![7, 8], None)));
    }
}
