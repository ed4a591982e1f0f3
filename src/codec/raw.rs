//! Bytes as they come.

use bytes::Bytes;

use super::{Decode, DecodeError, Decoded, Encode, EncodeError};

/// A stream of bytes without boundaries: an item is whatever has arrived.
///
/// What was sent as one item may arrive as several, and several as one. A server that answers bytes with bytes can use it;
/// responses cannot be told apart, so there is no [`by_id`](crate::codec::Protocol::by_id):
///
/// ```compile_fail,E0080
/// use trochus::codec::{Protocol, Raw};
/// let protocol = Raw.by_id();
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Raw;

impl Decode for Raw {
    type Item<'a> = &'a [u8];
    type Owned = Bytes;

    const KEEPS_BOUNDARIES: bool = false;

    #[inline]
    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Decoded<&'a [u8]>, DecodeError> {
        Ok(match input.len() {
            0 => Decoded::NeedMore { at_least: 1 },
            consumed => Decoded::Item { item: input, consumed },
        })
    }

    fn max_item_bytes(&self) -> Option<usize> {
        Some(1)
    }

    fn into_owned(item: &[u8]) -> Bytes {
        Bytes::copy_from_slice(item)
    }
}

impl<T: AsRef<[u8]> + ?Sized> Encode<T> for Raw {
    #[inline]
    fn encode(&mut self, item: &T, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(item.as_ref());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_what_there_is() {
        assert_eq!(Raw.decode(b"").unwrap(), Decoded::NeedMore { at_least: 1 });
        assert_eq!(Raw.decode(b"abc").unwrap(), Decoded::Item { item: &b"abc"[..], consumed: 3 });
        let mut out = b"x".to_vec();
        Raw.encode("yz", &mut out).unwrap();
        assert_eq!(out, b"xyz");
    }
}
