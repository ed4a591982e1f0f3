//! Bytes on their way out of one connection.

use super::spare::{Spare, is_wasteful};
use bytes::Bytes;
use std::collections::VecDeque;
use std::io::IoSlice;

/// Copied bytes that [`Payload::append`] copies once more; more than this is handed over instead.
const MOST_COPIED: usize = 16 << 10;

/// Capacity that a payload which was appended to another may keep.
const MOST_KEPT: usize = 4 << 10;

/// One half of a connection's out double-buffer: bytes that were copied in, and `Bytes` that were handed over and
/// belong between them.
///
/// The copied bytes are one vector, so that small writes append and the usual send is a single slice. A splice only
/// remembers where in that vector it belongs. While an operation is in flight the driver owns the payload, so that
/// nothing can move or free what the kernel reads.
#[derive(Debug, Default)]
pub(crate) struct Payload {
    text: Vec<u8>,
    /// Those of which something is still to be sent, in order; the others were let go of.
    splices: VecDeque<Splice>,
    /// Bytes of all splices there ever were.
    spliced: usize,
    sent: usize,
    /// A splice has its place before an earlier one.
    disordered: bool,
}

/// `Bytes` between copied ones. That it knows its place in the whole stream lets a send that goes on find it without
/// walking there.
#[derive(Debug)]
pub(super) struct Splice {
    /// Its place in the copied bytes.
    at: usize,
    /// Its place among all bytes of the payload.
    start: usize,
    /// Never empty.
    bytes: Bytes,
}

impl Splice {
    fn end(&self) -> usize {
        self.start + self.bytes.len()
    }
}

impl Payload {
    /// A payload that appends to `text` and `splices`, which must be empty.
    pub(super) fn over(text: Vec<u8>, splices: VecDeque<Splice>) -> Self {
        debug_assert!(text.is_empty() && splices.is_empty());
        Payload { text, splices, ..Payload::default() }
    }

    /// Where encoders append. Bytes that are already there must not change.
    pub(crate) fn text(&mut self) -> &mut Vec<u8> {
        &mut self.text
    }

    pub(crate) fn text_capacity(&self) -> usize {
        self.text.capacity()
    }

    /// Whether every splice still has its place. `false` once somebody has taken away, through [`text`](Self::text), bytes
    /// in front of one: then nothing else may be done with the payload.
    #[inline]
    pub(crate) fn is_intact(&self) -> bool {
        self.splices.back().is_none_or(|last| last.at <= self.text.len() && !self.disordered)
            && self.sent <= self.text.len() + self.spliced
    }

    /// Appends `bytes` without a copy.
    pub(crate) fn splice(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        let at = self.text.len();
        let start = at + self.spliced;
        self.disordered |= self.splices.back().is_some_and(|last| last.at > at);
        self.spliced += bytes.len();
        self.splices.push_back(Splice { at, start, bytes });
    }

    /// Moves everything of `other` behind what is here, without copying much. `other` keeps next to no memory.
    pub(crate) fn append(&mut self, other: &mut Payload) {
        debug_assert_eq!(other.sent, 0);
        if self.is_empty() {
            std::mem::swap(self, other);
        } else if other.text.len() <= MOST_COPIED {
            let mut from = 0;
            for Splice { at, bytes, .. } in other.splices.drain(..) {
                self.text.extend_from_slice(&other.text[from..at]);
                from = at;
                self.splice(bytes);
            }
            self.text.extend_from_slice(&other.text[from..]);
        } else {
            let text = Bytes::from(std::mem::take(&mut other.text));
            let mut from = 0;
            for Splice { at, bytes, .. } in other.splices.drain(..) {
                self.splice(text.slice(from..at));
                from = at;
                self.splice(bytes);
            }
            self.splice(text.slice(from..));
        }
        other.clear();
        if other.text.capacity() > MOST_KEPT {
            other.text = Vec::new();
        }
        other.splices.shrink_to(MOST_KEPT / size_of::<Splice>());
    }

    fn clear(&mut self) {
        self.text.clear();
        self.splices.clear();
        (self.spliced, self.sent, self.disordered) = (0, 0, false);
    }

    /// Bytes that are still to be sent.
    pub(crate) fn len(&self) -> usize {
        self.text.len() + self.spliced - self.sent
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes note that the next `n` bytes were sent, and lets go of the `Bytes` among them.
    pub(crate) fn advance(&mut self, n: usize) {
        debug_assert!(n <= self.len(), "sent {n} of {} bytes", self.len());
        self.sent += n;
        while self.splices.front().is_some_and(|first| first.end() <= self.sent) {
            self.splices.pop_front();
        }
    }

    /// The unsent bytes as one slice, if they are one.
    #[cfg(any(test, target_os = "linux"))]
    pub(crate) fn as_single(&self) -> Option<&[u8]> {
        if self.splices.is_empty() {
            return Some(&self.text[self.sent - self.spliced..]);
        }
        self.piece(self.sent, 0).filter(|piece| piece.len() == self.len())
    }

    /// Fills `into` with the unsent bytes behind the first `skip` of them and says how many slices that took.
    pub(crate) fn slices<'a>(&'a self, skip: usize, into: &mut [IoSlice<'a>]) -> usize {
        let mut from = self.sent + skip;
        let mut splice = self.splices.partition_point(|splice| splice.end() <= from);
        let mut filled = 0;
        while let Some(slot) = into.get_mut(filled)
            && let Some(piece) = self.piece(from, splice)
        {
            *slot = IoSlice::new(piece);
            from += piece.len();
            splice += usize::from(self.splices.get(splice).is_some_and(|splice| splice.end() == from));
            filled += 1;
        }
        filled
    }

    /// The unsent bytes behind the first `skip` of them that lie in one place; empty at the end.
    pub(crate) fn chunk(&self, skip: usize) -> &[u8] {
        let from = self.sent + skip;
        self.piece(from, self.splices.partition_point(|splice| splice.end() <= from)).unwrap_or(&[])
    }

    /// The bytes from `from` on that lie in one place; `splice` is the first that ends behind that. `None` at the end.
    fn piece(&self, from: usize, splice: usize) -> Option<&[u8]> {
        match self.splices.get(splice) {
            Some(splice) if from < splice.start => {
                Some(&self.text[splice.at - (splice.start - from)..splice.at])
            }
            Some(splice) => Some(&splice.bytes[from - splice.start..]),
            None => self.text.get(from - self.spliced..).filter(|rest| !rest.is_empty()),
        }
    }

    /// Lets go of what is there and gives back the memory, for another payload to use.
    pub(super) fn into_parts(mut self) -> (Vec<u8>, VecDeque<Splice>) {
        self.clear();
        (self.text, self.splices)
    }

    /// Moves what was copied in to a vector that `spare` has for so much, if the one where it lies is much too large.
    pub(super) fn fit(&mut self, spare: &mut Spare) {
        if is_wasteful(self.text.capacity(), self.text.len()) {
            let mut fitting = spare.take_for(self.text.len());
            fitting.extend_from_slice(&self.text);
            spare.give(std::mem::replace(&mut self.text, fitting));
        }
    }

    /// Whether it holds much more memory than becomes it.
    #[cfg(test)]
    pub(crate) fn is_wasteful(&self) -> bool {
        is_wasteful(self.text.capacity(), self.text.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn collect(payload: &Payload, skip: usize, width: usize) -> Vec<u8> {
        let mut slices = vec![IoSlice::new(&[]); width];
        let n = payload.slices(skip, &mut slices);
        assert!(slices[..n].iter().all(|slice| !slice.is_empty()));
        slices[..n].iter().flat_map(|slice| slice.to_vec()).collect()
    }

    #[test]
    fn text_and_splices_keep_their_order() {
        let mut payload = Payload::default();
        payload.text().extend_from_slice(b"one ");
        payload.splice(Bytes::from_static(b"two "));
        payload.splice(Bytes::from_static(b"three "));
        payload.text().extend_from_slice(b"four");
        assert_eq!(collect(&payload, 0, 8), b"one two three four");
        assert_eq!(payload.len(), 18);
        assert!(payload.as_single().is_none());
        payload.advance(9);
        assert_eq!(collect(&payload, 0, 8), b"hree four");
        payload.advance(5);
        assert_eq!(payload.as_single(), Some(&b"four"[..]));
    }

    fn shared(byte: u8, len: usize) -> Bytes {
        Bytes::from(vec![byte; len].into_boxed_slice())
    }

    #[test]
    fn what_was_sent_is_let_go_of_at_once() {
        let mut payload = Payload::default();
        let parts: Vec<Bytes> = (0..3).map(|byte| shared(byte, 10)).collect();
        payload.text().extend_from_slice(b"ab");
        parts.iter().for_each(|part| payload.splice(part.clone()));
        let held = || parts.iter().map(|part| !part.is_unique()).collect::<Vec<_>>();
        payload.advance(11);
        assert_eq!(held(), [true, true, true], "a byte of the first is unsent");
        payload.advance(1);
        assert_eq!(held(), [false, true, true]);
        payload.advance(20);
        assert_eq!(held(), [false, false, false]);
        assert!(payload.is_empty());
        assert_eq!(collect(&payload, 0, 4), b"");
        assert_eq!(payload.as_single(), Some(&b""[..]));
    }

    /// A send that goes on finds its place without walking there, or many small pieces would cost their square.
    #[test]
    fn a_hundred_thousand_small_pieces_are_sent_in_time() {
        const PIECES: usize = if cfg!(miri) { 100 } else { 100_000 };
        let mut payload = Payload::default();
        for n in 0..PIECES {
            payload.text().push(b't');
            payload.splice(Bytes::from_static(b"spliced"));
            assert_eq!(payload.len(), (n + 1) * 8);
        }
        let (mut sends, mut looks) = (0, 0);
        while !payload.is_empty() {
            let mut slices = [IoSlice::new(&[]); 2];
            looks += payload.slices(0, &mut slices);
            // The piece in the middle: what comes behind it, as a driver asks that counts by itself.
            assert_eq!(payload.slices(payload.len() / 2, &mut slices[..1]), 1);
            payload.advance(4.min(payload.len()));
            sends += 1;
        }
        assert_eq!((sends, looks), (PIECES * 2, PIECES * 4 - 1));
    }

    #[test]
    fn what_is_appended_is_handed_over_and_not_copied() {
        // To an empty one: memory and all.
        let (mut payload, mut other) = (Payload::default(), Payload::default());
        payload.text().reserve(100_000);
        other.text().extend_from_slice(&[1; 100_000]);
        let place = other.text().as_ptr();
        payload.append(&mut other);
        assert_eq!((payload.text().as_ptr(), payload.len()), (place, 100_000));
        assert_eq!((other.text_capacity(), other.len()), (0, 0));
        // Behind others, much: by reference.
        other.text().extend_from_slice(&[2; 100_000]);
        other.splice(shared(3, 10));
        other.text().extend_from_slice(&[4; 10]);
        let place = other.text().as_ptr();
        payload.append(&mut other);
        assert_eq!((payload.len(), payload.text().len()), (200_020, 100_000));
        let mut slices = [IoSlice::new(&[]); 4];
        assert_eq!(payload.slices(100_000, &mut slices), 3);
        assert_eq!((slices[0].as_ptr(), slices[0].len()), (place, 100_000));
        assert_eq!((other.text_capacity(), other.len()), (0, 0));
        // Behind others, little: by copy, and the vector stays for the next little.
        other.text().reserve_exact(100);
        other.text().push(5);
        payload.append(&mut other);
        assert_eq!((payload.len(), payload.text().len()), (200_021, 100_001));
        assert_eq!((other.text_capacity(), other.len()), (100, 0));
        let bytes = collect(&payload, 0, 8);
        assert!(bytes[..100_000] == [1; 100_000] && bytes[100_000..200_000] == [2; 100_000]);
        assert_eq!(bytes[200_000..], [[3; 10], [4; 10]].concat().into_iter().chain([5]).collect::<Vec<_>>());
    }

    #[test]
    fn a_payload_that_lost_bytes_in_front_of_a_splice_is_noticed() {
        let with_splice = |text: &[u8]| {
            let mut payload = Payload::default();
            payload.text().extend_from_slice(text);
            payload.splice(Bytes::from_static(b"x"));
            payload
        };
        let mut payload = with_splice(b"h");
        assert!(payload.is_intact());
        payload.text().push(b'i');
        payload.text().pop();
        assert!(payload.is_intact(), "what lies behind the splice may be taken back");
        payload.text().clear();
        assert!(!payload.is_intact());
        let mut payload = with_splice(b"hello");
        drop(std::mem::take(payload.text()));
        assert!(!payload.is_intact());
        // It stays noticed when others are put behind what is missing.
        let mut payload = with_splice(b"hello");
        payload.text().clear();
        payload.splice(Bytes::from_static(b"y"));
        assert!(!payload.is_intact());
        payload.text().extend_from_slice(b"world");
        payload.append(&mut with_splice(b"and on"));
        assert!(!payload.is_intact());
        assert!(with_splice(b"").is_intact() && Payload::default().is_intact());
    }

    #[test]
    fn few_bytes_do_not_hold_much_memory_while_they_wait() {
        let mut spare = Spare::new(1 << 24);
        let mut payload = Payload::over(Vec::with_capacity(1 << 20), VecDeque::new());
        payload.text().extend_from_slice(b"hello");
        payload.splice(Bytes::from_static(b" world"));
        payload.fit(&mut spare);
        assert!(payload.text_capacity() <= 64 << 10, "{}", payload.text_capacity());
        assert_eq!(collect(&payload, 0, 4), b"hello world");
        assert_eq!(spare.take().capacity(), 1 << 20, "the large one is there for whoever has much");
        let mut payload = Payload::over(Vec::with_capacity(1 << 20), VecDeque::new());
        payload.text().resize(1 << 17, 0);
        payload.fit(&mut spare);
        assert_eq!(payload.text_capacity(), 1 << 20, "much of it is used");
    }

    proptest! {
        /// Whatever is appended, however it is cut into sends, the same bytes come out in the same order.
        #[test]
        fn sends_see_what_was_appended(
            pieces in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..40)), 0..12),
            cuts in prop::collection::vec(1usize..30, 1..40),
            split in 0usize..12,
            large in any::<bool>(),
        ) {
            let mut payload = Payload::default();
            let mut later = Payload::default();
            let mut expected = Vec::new();
            for (i, (copied, bytes)) in pieces.iter().enumerate() {
                let target = if i < split { &mut payload } else { &mut later };
                if *copied { target.text().extend_from_slice(bytes) } else { target.splice(Bytes::from(bytes.clone())) }
                expected.extend_from_slice(bytes);
            }
            if large {
                // Too much to be copied once more.
                later.text().extend_from_slice(&[7; MOST_COPIED + 1]);
                expected.extend_from_slice(&[7; MOST_COPIED + 1]);
            }
            payload.append(&mut later);
            prop_assert!(later.is_empty() && later.as_single() == Some(&[]));
            let mut got = Vec::new();
            let mut cuts = cuts.iter().cycle();
            while !payload.is_empty() {
                let step = (*cuts.next().unwrap() * if large { 500 } else { 1 }).min(payload.len());
                let bytes = collect(&payload, 0, 64);
                prop_assert_eq!(bytes.len(), payload.len());
                if let Some(single) = payload.as_single() { prop_assert_eq!(single, &bytes[..]) }
                prop_assert_eq!(&collect(&payload, step, 64)[..], &bytes[step..]);
                got.extend_from_slice(&bytes[..step]);
                payload.advance(step);
            }
            prop_assert_eq!(got, expected);
        }
    }
}
