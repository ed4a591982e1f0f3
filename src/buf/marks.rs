//! Which bytes of an output are answers to input, and which other threads wrote.

use std::collections::VecDeque;
use std::ops::Range;

/// The foreign bytes among those that wait to be sent, in the order in which everything is sent.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    /// Positions in the stream, counted from where it was when there was nothing foreign last.
    ranges: VecDeque<Range<u64>>,
    sent: u64,
    foreign: usize,
}

impl Marks {
    /// Foreign bytes that are still to be sent.
    #[inline]
    pub(crate) fn foreign(&self) -> usize {
        self.foreign
    }

    /// `len` foreign bytes come behind `before` others that are still to be sent, some of which may have to be read first.
    pub(crate) fn add(&mut self, before: u64, len: usize) {
        if len == 0 {
            return;
        }
        self.foreign += len;
        let start = self.sent.saturating_add(before);
        let end = start + len as u64;
        match self.ranges.back_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => self.ranges.push_back(start..end),
        }
    }

    /// The next `n` bytes have been sent.
    #[inline]
    pub(crate) fn advance(&mut self, n: usize) {
        if self.foreign > 0 {
            self.pass(n);
        }
    }

    fn pass(&mut self, n: usize) {
        self.sent += n as u64;
        while let Some(first) = self.ranges.front_mut() {
            let passed = self.sent.min(first.end).saturating_sub(first.start);
            self.foreign -= passed as usize;
            first.start += passed;
            if !first.is_empty() {
                return;
            }
            self.ranges.pop_front();
        }
        // What comes next is counted from here: nobody asks for it while everything is the connection's own.
        *self = Marks::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However own and foreign bytes alternate and are cut into sends, each send takes off what was foreign in it.
        #[test]
        fn each_send_takes_its_own(steps in prop::collection::vec((0usize..20, 0usize..20, 0usize..30), 1..40)) {
            let (mut marks, mut pending) = (Marks::default(), VecDeque::new());
            for (own, foreign, sent) in steps {
                pending.extend(std::iter::repeat_n(false, own));
                marks.add(pending.len() as u64, foreign);
                pending.extend(std::iter::repeat_n(true, foreign));
                let sent = sent.min(pending.len());
                pending.drain(..sent);
                marks.advance(sent);
                prop_assert_eq!(marks.foreign(), pending.iter().filter(|foreign| **foreign).count());
                prop_assert_eq!(marks.foreign() == 0, marks.ranges.is_empty());
            }
        }
    }
}
