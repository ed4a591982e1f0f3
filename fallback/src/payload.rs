//! What a send owns until it completes.

use std::io::IoSlice;

/// Most slices that one send call is given. Longer payloads take several calls.
pub const MAX_SLICES: usize = 64;

/// Bytes to send, in one piece or in several. The proactor owns the payload from
/// [`send`](crate::Proactor::send) until the completion, which gives it back.
///
/// The bytes must not change in between, which is a matter of correct output, not of memory safety.
pub trait Payload {
    /// Puts the bytes that follow the first `skip` into `into`, in order, and returns how many slices it
    /// filled: fewer than all are fine as long as it is at least one while bytes are left, and 0 when none
    /// are left. No slice may be empty. [`fill`] does this for any sequence of parts.
    fn slices<'a>(&'a self, skip: usize, into: &mut [IoSlice<'a>]) -> usize;
}

/// [`Payload::slices`] for a payload that consists of `parts`: skips `skip` bytes and every empty part.
///
/// ```
/// use std::io::IoSlice;
/// use trochus_fallback::{Payload, fill};
///
/// struct Message {
///     header: [u8; 4],
///     body: Vec<u8>,
/// }
///
/// impl Payload for Message {
///     fn slices<'a>(&'a self, skip: usize, into: &mut [IoSlice<'a>]) -> usize {
///         fill([&self.header[..], &self.body[..]], skip, into)
///     }
/// }
///
/// let message = Message { header: [0, 0, 0, 5], body: b"hello".to_vec() };
/// let mut slices = [IoSlice::new(&[]); 2];
/// assert_eq!(message.slices(6, &mut slices), 1);
/// assert_eq!(&*slices[0], b"llo");
/// ```
#[inline]
pub fn fill<'a>(
    parts: impl IntoIterator<Item = &'a [u8]>,
    mut skip: usize,
    into: &mut [IoSlice<'a>],
) -> usize {
    let mut filled = 0;
    for part in parts {
        if filled == into.len() {
            break;
        }
        if skip >= part.len() {
            skip -= part.len();
            continue;
        }
        into[filled] = IoSlice::new(&part[skip..]);
        skip = 0;
        filled += 1;
    }
    filled
}

macro_rules! payload_in_one_piece {
    ($($kind:ty),*) => {$(
        impl Payload for $kind {
            #[inline]
            fn slices<'a>(&'a self, skip: usize, into: &mut [IoSlice<'a>]) -> usize {
                fill([&self[..]], skip, into)
            }
        }
    )*};
}

payload_in_one_piece!(Vec<u8>, Box<[u8]>, &'static [u8], std::rc::Rc<[u8]>, std::sync::Arc<[u8]>);

impl Payload for Vec<Vec<u8>> {
    #[inline]
    fn slices<'a>(&'a self, skip: usize, into: &mut [IoSlice<'a>]) -> usize {
        fill(self.iter().map(Vec::as_slice), skip, into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Walking a payload by arbitrary steps yields its bytes, whatever its parts and the room for slices.
        #[test]
        fn walking_yields_every_byte_once(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..12),
            room in 1..5usize,
            steps in prop::collection::vec(1..7usize, 1..20),
        ) {
            let expected = parts.concat();
            let mut steps = steps.into_iter().cycle();
            let mut seen = Vec::new();
            loop {
                let mut slices = vec![IoSlice::new(&[]); room];
                let filled = parts.slices(seen.len(), &mut slices);
                prop_assert!(slices[..filled].iter().all(|slice| !slice.is_empty()));
                let offered: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
                prop_assert_eq!(offered.is_empty(), seen.len() == expected.len());
                if offered.is_empty() {
                    break;
                }
                let taken = steps.next().unwrap().min(offered.len());
                seen.extend_from_slice(&offered[..taken]);
            }
            prop_assert_eq!(seen, expected);
        }
    }

    #[test]
    fn a_skip_past_the_end_yields_nothing() {
        let payload = vec![1u8, 2];
        let mut slices = [IoSlice::new(&[]); 2];
        assert_eq!(payload.slices(2, &mut slices), 0);
        assert_eq!(payload.slices(9, &mut slices), 0);
    }
}
