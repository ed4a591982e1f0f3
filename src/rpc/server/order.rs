//! Responses that are ready before their turn.

use std::collections::VecDeque;

/// What is known of a request that came in order.
#[derive(Debug)]
enum Entry<R> {
    Open,
    Ready(R),
    /// The reply was dropped.
    Gone,
}

/// The requests of one connection that have no response yet, and the responses behind them that must wait for those.
#[derive(Debug)]
pub(in crate::rpc) struct Order<R> {
    first: u64,
    entries: VecDeque<Entry<R>>,
}

/// The response whose turn it is.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::rpc) enum Turn<R> {
    Ready(R),
    Gone,
}

impl<R> Order<R> {
    pub(in crate::rpc) fn new() -> Self {
        Order { first: 0, entries: VecDeque::new() }
    }

    pub(in crate::rpc) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Takes note of the next request, which has this ticket. `None`: no response yet.
    pub(in crate::rpc) fn push(&mut self, ticket: u64, response: Option<Turn<R>>) {
        if self.entries.is_empty() {
            self.first = ticket;
        }
        debug_assert_eq!(ticket, self.first + self.entries.len() as u64);
        self.entries.push_back(response.into());
    }

    /// The response of an earlier request has come.
    pub(in crate::rpc) fn settle(&mut self, ticket: u64, response: Turn<R>) {
        let place = ticket
            .checked_sub(self.first)
            .and_then(|index| self.entries.get_mut(usize::try_from(index).ok()?));
        if let Some(place) = place {
            *place = Some(response).into();
        }
    }

    /// The next response, if it is there.
    pub(in crate::rpc) fn pop(&mut self) -> Option<Turn<R>> {
        if matches!(self.entries.front()?, Entry::Open) {
            return None;
        }
        self.first += 1;
        match self.entries.pop_front()? {
            Entry::Ready(response) => Some(Turn::Ready(response)),
            Entry::Gone | Entry::Open => Some(Turn::Gone),
        }
    }
}

impl<R> From<Option<Turn<R>>> for Entry<R> {
    fn from(turn: Option<Turn<R>>) -> Self {
        match turn {
            None => Entry::Open,
            Some(Turn::Ready(response)) => Entry::Ready(response),
            Some(Turn::Gone) => Entry::Gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// In whatever order responses come, they leave in the order of their requests, each as soon as it can.
        #[test]
        fn responses_leave_in_order(keys in prop::collection::vec(any::<u32>(), 0..60), start in 0u64..1000) {
            let mut order = Order::new();
            let count = keys.len() as u64;
            (0..count).for_each(|n| order.push(start + n, None));
            let mut arrivals: Vec<u64> = (0..count).collect();
            arrivals.sort_by_key(|n| keys[*n as usize]);
            let mut left = Vec::new();
            for (so_far, n) in arrivals.iter().enumerate() {
                order.settle(start + n, if n % 7 == 3 { Turn::Gone } else { Turn::Ready(*n) });
                while let Some(turn) = order.pop() { left.push(turn) }
                let expected = (0..count).take_while(|n| arrivals[..=so_far].contains(n)).count();
                prop_assert_eq!(left.len(), expected);
            }
            prop_assert_eq!(order.len(), 0);
            for (n, turn) in left.into_iter().enumerate() {
                prop_assert_eq!(turn, if n % 7 == 3 { Turn::Gone } else { Turn::Ready(n as u64) });
            }
        }
    }
}
