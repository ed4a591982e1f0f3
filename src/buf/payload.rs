//! Bytes on their way out of one connection.

use bytes::Bytes;
use std::io::IoSlice;

/// One half of a connection's out double-buffer: bytes that were copied in, and `Bytes` that were handed over and
/// belong between them.
///
/// The copied bytes are one vector, so that small writes append and the usual send is a single slice. A splice only
/// remembers where in that vector it belongs. While an operation is in flight the driver owns the payload, so that
/// nothing can move or free what the kernel reads.
#[derive(Debug, Default)]
pub(crate) struct Payload {
    text: Vec<u8>,
    splices: Vec<Splice>,
    spliced: usize,
    sent: usize,
}

#[derive(Debug)]
struct Splice {
    at: usize,
    bytes: Bytes,
}

impl Payload {
    /// A payload that appends to `text`, which must be empty.
    pub(crate) fn over(text: Vec<u8>) -> Self {
        debug_assert!(text.is_empty());
        Payload { text, ..Payload::default() }
    }

    /// Where encoders append. Bytes that are already there must not change.
    pub(crate) fn text(&mut self) -> &mut Vec<u8> {
        &mut self.text
    }

    pub(crate) fn text_capacity(&self) -> usize {
        self.text.capacity()
    }

    /// Appends `bytes` without a copy.
    pub(crate) fn splice(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        self.spliced += bytes.len();
        self.splices.push(Splice { at: self.text.len(), bytes });
    }

    /// Moves everything of `other` behind what is here.
    pub(crate) fn append(&mut self, other: &mut Payload) {
        debug_assert_eq!(other.sent, 0);
        let mut from = 0;
        for Splice { at, bytes } in other.splices.drain(..) {
            self.text.extend_from_slice(&other.text[from..at]);
            from = at;
            self.spliced += bytes.len();
            self.splices.push(Splice { at: self.text.len(), bytes });
        }
        self.text.extend_from_slice(&other.text[from..]);
        other.text.clear();
        other.spliced = 0;
    }

    /// Bytes that are still to be sent.
    pub(crate) fn len(&self) -> usize {
        self.text.len() + self.spliced - self.sent
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes note that the next `n` bytes were sent.
    pub(crate) fn advance(&mut self, n: usize) {
        debug_assert!(n <= self.len(), "sent {n} of {} bytes", self.len());
        self.sent += n;
    }

    /// The unsent bytes as one slice, if they are one.
    #[cfg(any(test, target_os = "linux"))]
    pub(crate) fn as_single(&self) -> Option<&[u8]> {
        if self.splices.is_empty() {
            return Some(&self.text[self.sent..]);
        }
        let mut slices = [IoSlice::new(&[]); 2];
        if self.slices(0, &mut slices) != 1 {
            return None;
        }
        // The slice must be found again because an `IoSlice` does not give back its lifetime.
        let mut skip = self.sent;
        self.pieces().find_map(|piece| {
            if skip < piece.len() {
                return Some(&piece[skip..]);
            }
            skip -= piece.len();
            None
        })
    }

    /// Fills `into` with the unsent bytes behind the first `skip` of them and says how many slices that took.
    pub(crate) fn slices<'a>(&'a self, skip: usize, into: &mut [IoSlice<'a>]) -> usize {
        let mut skip = self.sent + skip;
        let mut filled = 0;
        for piece in self.pieces() {
            if skip >= piece.len() {
                skip -= piece.len();
                continue;
            }
            let Some(slot) = into.get_mut(filled) else { break };
            *slot = IoSlice::new(&piece[skip..]);
            skip = 0;
            filled += 1;
        }
        filled
    }

    /// Empties the payload and gives back its vector, for another one to use.
    pub(crate) fn into_text(mut self) -> Vec<u8> {
        self.text.clear();
        self.text
    }

    /// Everything in order, empty pieces included, sent or not.
    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let tail = self.splices.last().map_or(0, |splice| splice.at);
        let mut from = 0;
        self.splices
            .iter()
            .flat_map(move |Splice { at, bytes }| {
                let text = &self.text[from..*at];
                from = *at;
                [text, &bytes[..]]
            })
            .chain([&self.text[tail..]])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn collect(payload: &Payload, skip: usize, width: usize) -> Vec<u8> {
        let mut slices = vec![IoSlice::new(&[]); width];
        let n = payload.slices(skip, &mut slices);
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

    proptest! {
        /// Whatever is appended, however it is cut into sends, the same bytes come out in the same order.
        #[test]
        fn sends_see_what_was_appended(
            pieces in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..40)), 0..12),
            cuts in prop::collection::vec(1usize..30, 1..40),
            split in 0usize..12,
        ) {
            let mut payload = Payload::default();
            let mut later = Payload::default();
            let mut expected = Vec::new();
            for (i, (copied, bytes)) in pieces.iter().enumerate() {
                let target = if i < split { &mut payload } else { &mut later };
                if *copied { target.text().extend_from_slice(bytes) } else { target.splice(Bytes::from(bytes.clone())) }
                expected.extend_from_slice(bytes);
            }
            payload.append(&mut later);
            prop_assert!(later.is_empty());
            let mut got = Vec::new();
            let mut cuts = cuts.iter().cycle();
            while !payload.is_empty() {
                let step = (*cuts.next().unwrap()).min(payload.len());
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
