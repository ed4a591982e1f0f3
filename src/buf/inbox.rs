//! Received bytes that a handler has not consumed yet.

use super::spare::is_wasteful;
use super::{HasSpare, Spare};

/// How many bytes of a fresh buffer are first put behind a split frame's beginning. Small, because most frames that
/// are split are small; it grows with each attempt that was not enough.
const FIRST_STEP: usize = 256;

/// Room that is made for a frame on the strength of its announced length alone.
const MOST_RESERVED: usize = 1 << 20;

/// Memory that what is kept for a while may leave unused. Not nothing, or short waits would have each one allocate anew.
const MOST_UNUSED: usize = 256 << 10;

/// A connection's spill: the beginning of a frame whose end has not arrived.
///
/// Bytes are offered to the handler where the kernel put them. Only what is left over is copied here, and when more
/// arrives, only as much of it as completes the frame; what lies behind is offered in place again.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    spill: Vec<u8>,
    /// Consumed bytes at the front of `spill`.
    start: usize,
    /// The handler said it has no use for less than this many bytes in all.
    wanted: usize,
}

/// What the handler did with the bytes it was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offered {
    pub(crate) consumed: usize,
    /// No use to call before this many bytes are there, the unconsumed ones included. 0 if unknown.
    pub(crate) wanted: usize,
    /// Stop offering: the handler paused, closed or panicked.
    pub(crate) stop: bool,
}

impl Inbox {
    pub(crate) fn len(&self) -> usize {
        self.spill.len() - self.start
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.spill[self.start..]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The handler has no use for less than so many bytes in all.
    pub(crate) fn expect(&mut self, wanted: usize) {
        self.wanted = wanted;
    }

    /// Shows `bytes`, behind what was left over, to `handler`; keeps what it does not consume.
    pub(crate) fn offer<C: HasSpare>(
        &mut self,
        mut bytes: &[u8],
        context: &mut C,
        mut handler: impl FnMut(&mut C, &[u8]) -> Offered,
    ) {
        let mut step = FIRST_STEP;
        while !self.is_empty() {
            let before = self.len();
            let missing = self.wanted.saturating_sub(before);
            let shown = missing.max(step).min(bytes.len());
            self.spill.extend_from_slice(&bytes[..shown]);
            if missing > shown {
                return;
            }
            let offered = handler(context, &self.spill[self.start..]);
            self.wanted = offered.wanted;
            let nothing_unseen = shown == bytes.len();
            if offered.consumed < before {
                // The frame goes on behind what was shown.
                self.start += offered.consumed;
                bytes = &bytes[shown..];
                step *= 4;
            } else {
                self.release(context.spare());
                bytes = &bytes[offered.consumed - before..];
            }
            if offered.stop || nothing_unseen {
                return self.keep(bytes, context.spare());
            }
        }
        let offered = handler(context, bytes);
        self.wanted = offered.wanted;
        self.keep(&bytes[offered.consumed..], context.spare());
    }

    /// Shows what was left over once more, with nothing new behind it, unless the handler has no use for so little.
    pub(crate) fn offer_again<C: HasSpare>(
        &mut self,
        context: &mut C,
        handler: impl FnOnce(&mut C, &[u8]) -> Offered,
    ) {
        if self.is_empty() || self.len() < self.wanted {
            return;
        }
        let offered = handler(context, &self.spill[self.start..]);
        self.wanted = offered.wanted;
        self.start += offered.consumed;
        self.keep(&[], context.spare());
    }

    /// Drops everything.
    pub(crate) fn release(&mut self, spare: &mut Spare) {
        spare.give(std::mem::take(&mut self.spill));
        self.start = 0;
    }

    /// Holds not much more memory than what is kept needs, for nothing is expected behind it for a while.
    pub(crate) fn fit(&mut self) {
        if self.spill.capacity() - self.len() > MOST_UNUSED {
            self.spill.drain(..self.start);
            self.start = 0;
            self.spill.shrink_to_fit();
        }
    }

    /// Keeps `bytes` without showing them to anybody yet.
    pub(crate) fn keep(&mut self, bytes: &[u8], spare: &mut Spare) {
        let held = self.len();
        if held == 0 {
            self.release(spare);
            if bytes.is_empty() {
                return;
            }
        }
        // A peer's word for a length is worth no more than this before its bytes arrive.
        let expected = self.wanted.min(MOST_RESERVED).max(held + bytes.len());
        if held == 0 || is_wasteful(self.spill.capacity(), expected) {
            let mut spill = spare.take_for(expected);
            spill.extend_from_slice(&self.spill[self.start..]);
            self.release(spare);
            self.spill = spill;
        } else if self.start > self.spill.len() / 2 {
            self.spill.drain(..self.start);
            self.start = 0;
        }
        self.spill.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Frames of one length byte and as many bytes; a handler that takes `most` whole frames a call.
    fn take_frames(bytes: &[u8], most: usize, hint: bool, seen: &mut Vec<Vec<u8>>) -> Offered {
        let mut consumed = 0;
        let mut wanted = 0;
        for _ in 0..most {
            let Some((&length, rest)) = bytes[consumed..].split_first() else { break };
            let Some(frame) = rest.get(..usize::from(length)) else {
                wanted = if hint { usize::from(length) + 1 } else { 0 };
                break;
            };
            seen.push(frame.to_vec());
            consumed += 1 + frame.len();
        }
        Offered { consumed, wanted, stop: false }
    }

    proptest! {
        /// However the stream is cut and however greedy the handler is, it sees every frame once, in order.
        #[test]
        fn every_frame_is_seen_once(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..255), 0..40),
            cuts in prop::collection::vec(1usize..1500, 1..20),
            most in prop::sample::select(vec![1usize, 3, usize::MAX]),
            hint in any::<bool>(),
        ) {
            let stream: Vec<u8> = frames.iter().flat_map(|f| [&[f.len() as u8], &f[..]].concat()).collect();
            let (mut inbox, mut spare, mut seen) = (Inbox::default(), Spare::new(1 << 20), Vec::new());
            let (mut rest, mut cuts) = (&stream[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (now, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                inbox.offer(now, &mut spare, |_, bytes| take_frames(bytes, most, hint, &mut seen));
                rest = later;
            }
            let mut before = usize::MAX;
            while inbox.len() < before {
                before = inbox.len();
                inbox.offer_again(&mut spare, |_, bytes| take_frames(bytes, most, hint, &mut seen));
            }
            prop_assert!(inbox.is_empty());
            prop_assert_eq!(seen, frames);
        }
    }

    #[test]
    fn a_handler_that_wants_more_is_not_called_with_less() {
        let (mut inbox, mut spare, mut calls) = (Inbox::default(), Spare::new(1 << 20), Vec::new());
        for byte in 0..10u8 {
            inbox.offer(&[byte], &mut spare, |_, bytes| {
                calls.push(bytes.len());
                Offered { consumed: if bytes.len() < 10 { 0 } else { 10 }, wanted: 10, stop: false }
            });
        }
        assert_eq!(calls, [1, 10]);
        assert!(inbox.is_empty());
    }

    #[test]
    fn a_handler_that_wants_more_is_not_called_with_less_when_it_reads_on() {
        let (mut inbox, mut spare, mut calls) = (Inbox::default(), Spare::new(1 << 20), Vec::new());
        // It pauses behind its first look, with a hint of what it needs to go on.
        let paused = Offered { consumed: 1, wanted: 4, stop: true };
        inbox.offer(b"1ab", &mut spare, |_, _| paused);
        let mut read_on = |inbox: &mut Inbox, spare: &mut Spare| {
            inbox.offer_again(spare, |_, bytes| {
                calls.push(bytes.to_vec());
                Offered { consumed: bytes.len(), wanted: 0, stop: false }
            });
        };
        read_on(&mut inbox, &mut spare);
        inbox.keep(b"c", &mut spare);
        read_on(&mut inbox, &mut spare);
        assert_eq!(inbox.len(), 3);
        inbox.keep(b"d", &mut spare);
        read_on(&mut inbox, &mut spare);
        // Less is enough once nothing more is asked for.
        inbox.keep(b"e", &mut spare);
        read_on(&mut inbox, &mut spare);
        assert_eq!(calls, [&b"abcd"[..], b"e"]);
    }

    #[test]
    fn a_short_rest_does_not_hold_the_memory_of_a_long_frame() {
        const LARGE: usize = 1 << 20;
        let take_but = |rest: usize| {
            move |_: &mut Spare, bytes: &[u8]| Offered {
                consumed: bytes.len() - rest,
                wanted: 0,
                stop: false,
            }
        };
        let (mut inbox, mut spare) = (Inbox::default(), Spare::new(16 << 20));
        spare.give(Vec::with_capacity(LARGE));
        inbox.offer(&[7; 10], &mut spare, take_but(5));
        assert!(inbox.spill.capacity() < SHORT, "of a fragment: {}", inbox.spill.capacity());
        inbox.keep(&vec![8; LARGE], &mut spare);
        inbox.offer_again(&mut spare, take_but(5));
        assert!(inbox.spill.capacity() < SHORT, "of what was left: {}", inbox.spill.capacity());
        assert_eq!(inbox.len(), 5);
        inbox.offer(&[9; 10], &mut spare, |_, bytes| {
            assert_eq!(bytes, [8, 8, 8, 8, 8, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]);
            Offered { consumed: bytes.len(), wanted: 0, stop: false }
        });
        assert!(inbox.is_empty());
    }

    #[test]
    fn what_is_kept_for_a_while_holds_little_more_than_it_needs() {
        let (mut inbox, mut spare) = (Inbox::default(), Spare::new(16 << 20));
        spare.give(Vec::with_capacity(1 << 20));
        inbox.keep(&[7; 200 << 10], &mut spare);
        assert!(inbox.spill.capacity() >= 1 << 20, "it took what there was");
        inbox.offer_again(&mut spare, |_, _| Offered { consumed: 100 << 10, wanted: 0, stop: true });
        inbox.fit();
        assert_eq!(inbox.bytes(), [7; 100 << 10]);
        assert!(inbox.spill.capacity() <= inbox.len() + MOST_UNUSED, "{}", inbox.spill.capacity());
    }

    /// No connection that waits for more should hold this.
    const SHORT: usize = 64 << 10;
}
