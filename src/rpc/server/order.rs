//! Responses that are ready before their turn.

use std::collections::VecDeque;

/// What is known of a request that came in order.
#[derive(Debug)]
enum Entry {
    Open {
        /// See [`Order::push_open`].
        since: u32,
    },
    /// It has said something already, and will say more.
    Begun(Vec<u8>),
    /// Its response is the next so many bytes of `held`: it was ready at once.
    Held(usize),
    /// Its response came later.
    Late(Vec<u8>),
    /// There is none, and nothing stands for it.
    Gone,
}

/// The requests of one connection that have no response yet, and the responses behind them that must wait for those: encoded,
/// so that it is known what they come to.
#[derive(Debug, Default)]
pub(in crate::rpc) struct Order {
    first: u64,
    entries: VecDeque<Entry>,
    /// Of those that were ready at once, one behind the other.
    held: Vec<u8>,
    /// Bytes at the front of `held` that have left.
    start: usize,
    /// Bytes of the other ones.
    late: usize,
}

/// Why [`Order::pop`] has nothing more to say.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::rpc) enum Turn {
    /// The next one is not ready, or there is none.
    Waits,
    /// A response was moved to the output.
    Said,
    /// The next one will never be ready, and so nothing behind it may leave.
    Gone,
}

impl Order {
    pub(in crate::rpc) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of responses that are held.
    pub(in crate::rpc) fn bytes(&self) -> usize {
        self.held.len() - self.start + self.late
    }

    /// The next request, with this ticket, has no response yet. `since` is when it came, in whatever unit.
    pub(in crate::rpc) fn push_open(&mut self, ticket: u64, since: u32) {
        self.push(ticket, Entry::Open { since });
    }

    /// The next request's response is ready, or nothing will be: it is what `encode` appends, unless that fails.
    pub(in crate::rpc) fn push_held<E>(
        &mut self,
        ticket: u64,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let before = self.held.len();
        encode(&mut self.held)?;
        self.push(ticket, Entry::Held(self.held.len() - before));
        Ok(())
    }

    /// The next request will have no response.
    pub(in crate::rpc) fn push_gone(&mut self, ticket: u64) {
        self.push(ticket, Entry::Gone);
    }

    fn push(&mut self, ticket: u64, entry: Entry) {
        if self.entries.is_empty() {
            self.first = ticket;
        }
        debug_assert_eq!(ticket, self.first + self.entries.len() as u64);
        self.entries.push_back(entry);
    }

    fn entry(&mut self, ticket: u64) -> Option<&mut Entry> {
        let index = ticket.checked_sub(self.first)?;
        self.entries.get_mut(usize::try_from(index).ok()?)
    }

    /// Whether this request is still to be answered.
    pub(in crate::rpc) fn is_open(&mut self, ticket: u64) -> bool {
        matches!(self.entry(ticket), Some(Entry::Open { .. } | Entry::Begun(_)))
    }

    /// Whether what this request says next may leave at once.
    pub(in crate::rpc) fn is_first(&self, ticket: u64) -> bool {
        let first = self.entries.front();
        ticket == self.first
            && first.is_some_and(|entry| match entry {
                Entry::Open { .. } => true,
                Entry::Begun(said) => said.is_empty(),
                Entry::Held(_) | Entry::Late(_) | Entry::Gone => false,
            })
    }

    /// The number of the request whose turn it is.
    pub(in crate::rpc) fn first(&self) -> u64 {
        self.first
    }

    /// When this request came, if it is open and has said nothing yet.
    pub(in crate::rpc) fn since(&mut self, ticket: u64) -> Option<u32> {
        match self.entry(ticket)? {
            Entry::Open { since } => Some(*since),
            _ => None,
        }
    }

    /// An open request has said something, which is not all if `goes_on`.
    pub(in crate::rpc) fn say(&mut self, ticket: u64, mut bytes: Vec<u8>, goes_on: bool) {
        let added = bytes.len();
        let Some(entry) = self.entry(ticket) else { return };
        match entry {
            Entry::Open { .. } => {}
            Entry::Begun(said) => {
                said.append(&mut bytes);
                bytes = std::mem::take(said);
            }
            Entry::Held(_) | Entry::Late(_) | Entry::Gone => return,
        }
        *entry = if goes_on { Entry::Begun(bytes) } else { Entry::Late(bytes) };
        self.late += added;
    }

    /// An open request will not be answered, nor will those behind it.
    pub(in crate::rpc) fn lose(&mut self, ticket: u64) {
        if let Some(entry) = self.entry(ticket) {
            let lost = match entry {
                Entry::Begun(said) => said.len(),
                _ => 0,
            };
            *entry = Entry::Gone;
            self.late -= lost;
        }
    }

    /// Moves the next response into the output, if it is there.
    pub(in crate::rpc) fn pop(&mut self, out: &mut Vec<u8>) -> Turn {
        match self.entries.front_mut() {
            None | Some(Entry::Open { .. }) => return Turn::Waits,
            Some(Entry::Gone) => return Turn::Gone,
            Some(Entry::Begun(said)) => {
                self.late -= said.len();
                out.append(said);
                return Turn::Waits;
            }
            Some(Entry::Held(len)) => {
                let end = self.start + *len;
                out.extend_from_slice(&self.held[self.start..end]);
                self.start = end;
                self.let_go();
            }
            Some(Entry::Late(said)) => {
                self.late -= said.len();
                out.append(said);
            }
        }
        self.entries.pop_front();
        self.first += 1;
        Turn::Said
    }

    /// Gives memory back that a burst needed.
    fn let_go(&mut self) {
        if self.start == self.held.len() {
            self.held = Vec::new();
            self.start = 0;
        } else if self.start > self.held.len() / 2 {
            self.held.drain(..self.start);
            self.start = 0;
            self.held.shrink_to(2 * self.held.len());
        }
    }

    /// The open requests that came at that time or before and have said nothing yet, the oldest first, and when the oldest of
    /// the others came.
    pub(in crate::rpc) fn older_than(&self, time: u32) -> (Vec<u64>, Option<u32>) {
        let mut old = Vec::new();
        for (ticket, entry) in (self.first..).zip(&self.entries) {
            if let Entry::Open { since } = entry {
                if *since > time {
                    return (old, Some(*since));
                }
                old.push(ticket);
            }
        }
        (old, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn response(n: u64) -> Vec<u8> {
        vec![n as u8; n as usize % 5]
    }

    proptest! {
        /// In whatever order responses come, they leave in the order of their requests, each as soon as it can.
        #[test]
        fn responses_leave_in_order(keys in prop::collection::vec(any::<u32>(), 0..60), start in 0u64..1000) {
            let mut order = Order::default();
            let count = keys.len() as u64;
            // Every third one is ready when it comes.
            for n in 0..count {
                if n % 3 == 2 {
                    order.push_held(start + n, |out| { out.extend(response(n)); Ok::<_, ()>(()) }).unwrap();
                } else {
                    order.push_open(start + n, n as u32);
                }
            }
            let mut arrivals: Vec<u64> = (0..count).filter(|n| n % 3 != 2).collect();
            arrivals.sort_by_key(|n| keys[*n as usize]);
            let mut said = Vec::new();
            for (so_far, n) in arrivals.iter().enumerate() {
                prop_assert!(order.is_open(start + n));
                if n % 2 == 0 {
                    order.say(start + n, response(*n), true);
                    order.say(start + n, b"+".to_vec(), false);
                } else {
                    order.say(start + n, response(*n), false);
                }
                prop_assert!(!order.is_open(start + n));
                while order.pop(&mut said) == Turn::Said {}
                let ready = |n: &u64| n % 3 == 2 || arrivals[..=so_far].contains(n);
                let expected: Vec<u8> = (0..count)
                    .take_while(ready)
                    .flat_map(|n| [response(n), if n % 3 != 2 && n % 2 == 0 { b"+".to_vec() } else { Vec::new() }].concat())
                    .collect();
                prop_assert_eq!(&said, &expected);
            }
            if !arrivals.is_empty() {
                prop_assert_eq!((order.len(), order.bytes()), (0, 0));
            }
        }
    }

    #[test]
    fn what_is_held_is_counted() {
        let mut order = Order::default();
        order.push_open(0, 0);
        let encode = |out: &mut Vec<u8>| {
            out.extend([1; 100]);
            Ok::<_, ()>(())
        };
        order.push_held(1, encode).unwrap();
        order.push_open(2, 0);
        assert_eq!(order.bytes(), 100);
        assert_eq!(order.push_held(3, |_| Err("not encodable")), Err("not encodable"));
        assert_eq!((order.len(), order.bytes()), (3, 100));
        order.say(2, vec![2; 50], true);
        order.say(2, vec![2; 7], false);
        assert_eq!(order.bytes(), 157);
        let mut out = Vec::new();
        assert_eq!(order.pop(&mut out), Turn::Waits);
        order.say(0, vec![0; 10], true);
        assert_eq!((order.pop(&mut out), out.len()), (Turn::Waits, 10), "it leaves, being the first");
        order.lose(0);
        assert_eq!(order.pop(&mut out), Turn::Gone);
        assert_eq!(order.bytes(), 157);
    }

    #[test]
    fn what_goes_on_leaves_behind_what_it_said_before() {
        let mut order = Order::default();
        order.push_open(0, 0);
        order.push_open(1, 0);
        assert!(order.is_first(0) && !order.is_first(1));
        order.say(0, vec![1; 3], true);
        assert!(!order.is_first(0), "what it said has not left");
        let mut out = Vec::new();
        assert_eq!((order.pop(&mut out), out.len()), (Turn::Waits, 3));
        assert!(order.is_first(0));
        order.say(1, vec![2; 50], true);
        assert_eq!(order.bytes(), 50);
        order.lose(1);
        assert_eq!(order.bytes(), 0, "what is lost will not leave");
    }

    #[test]
    fn the_old_ones_are_found() {
        let mut order = Order::default();
        for (ticket, since) in [(5, 10), (6, 20), (7, 20), (8, 30)] {
            order.push_open(ticket, since);
        }
        order.say(6, Vec::new(), false);
        assert_eq!(order.older_than(9), (vec![], Some(10)));
        assert_eq!(order.older_than(20), (vec![5, 7], Some(30)));
        assert_eq!(order.older_than(30), (vec![5, 7, 8], None));
    }
}
