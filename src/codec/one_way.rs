//! Codecs that are used in one direction only.

use std::fmt;
use std::marker::PhantomData;

use super::{Decode, DecodeError, Decoded, Encode, EncodeAllError, EncodeError};

/// A codec for what this side only receives: of the codec within, no [`Encode`] is asked.
///
/// A server's requests, a client's responses. Whoever sends through it after all gets an error.
///
/// ```
/// # #[cfg(feature = "json")] {
/// use serde::{Deserialize, Serialize};
/// use trochus::codec::{Json, Pair, Receiving, Sending};
///
/// #[derive(Deserialize)] // a server never writes one
/// struct Question { text: String }
/// #[derive(Serialize)] // and never reads one of these
/// struct Answer { words: usize }
///
/// let served = Pair::new(Receiving::new(Json::<Question>::new()), Sending::<_, Answer>::new(Json::new()));
/// # fn takes_protocol(_: impl trochus::codec::Protocol) {}
/// # takes_protocol(served);
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Receiving<C>(C);

impl<C: Decode> Receiving<C> {
    /// Decodes as `codec` does.
    #[must_use]
    pub const fn new(codec: C) -> Self {
        Self(codec)
    }
}

impl<C: Decode> Decode for Receiving<C> {
    type Item<'a> = C::Item<'a>;
    type Owned = C::Owned;

    const KEEPS_BOUNDARIES: bool = C::KEEPS_BOUNDARIES;

    #[inline]
    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Decoded<C::Item<'a>>, DecodeError> {
        self.0.decode(input)
    }

    fn decode_eof<'a>(&mut self, input: &'a [u8]) -> Result<Option<C::Item<'a>>, DecodeError> {
        self.0.decode_eof(input)
    }

    fn max_item_bytes(&self) -> Option<usize> {
        self.0.max_item_bytes()
    }

    #[inline]
    fn into_owned(item: C::Item<'_>) -> C::Owned {
        C::into_owned(item)
    }
}

impl<C, T: ?Sized> Encode<T> for Receiving<C> {
    fn encode(&mut self, _item: &T, _out: &mut Vec<u8>) -> Result<(), EncodeError> {
        Err(EncodeError::custom("this side only receives such items: its codec is a `Receiving`"))
    }
}

/// A codec for items of type `T` that this side only sends: of the codec within, no [`Decode`] is asked.
///
/// A server's responses, a client's requests; see [`Receiving`]. Whoever receives something through it gets an error.
pub struct Sending<C, T> {
    codec: C,
    items: PhantomData<fn(T)>,
}

impl<C: Encode<T>, T> Sending<C, T> {
    /// Encodes as `codec` does.
    #[must_use]
    pub const fn new(codec: C) -> Self {
        Self { codec, items: PhantomData }
    }
}

impl<C, T: Send + 'static> Decode for Sending<C, T> {
    type Item<'a> = T;
    type Owned = T;

    fn decode(&mut self, input: &[u8]) -> Result<Decoded<T>, DecodeError> {
        if input.is_empty() {
            return Ok(Decoded::NeedMore { at_least: 1 });
        }
        Err(DecodeError::custom("this side only sends such items: its codec is a `Sending`"))
    }

    fn max_item_bytes(&self) -> Option<usize> {
        Some(1)
    }

    fn into_owned(item: T) -> T {
        item
    }
}

impl<C: Encode<T>, T> Encode<T> for Sending<C, T> {
    #[inline]
    fn encode(&mut self, item: &T, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.codec.encode(item, out)
    }

    #[inline]
    fn encode_all(&mut self, items: &[T], out: &mut Vec<u8>) -> Result<(), EncodeAllError> {
        self.codec.encode_all(items, out)
    }
}

impl<C: Clone, T> Clone for Sending<C, T> {
    fn clone(&self) -> Self {
        Self { codec: self.codec.clone(), items: PhantomData }
    }
}

impl<C: fmt::Debug, T> fmt::Debug for Sending<C, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sending").field(&self.codec).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Int32, LengthDelimited, Raw};

    #[test]
    fn each_goes_its_way_and_not_the_other() {
        let (mut receiving, mut sending) = (Receiving::new(Int32), Sending::<_, i32>::new(Int32));
        let mut wire = vec![9];
        sending.encode(&1, &mut wire).unwrap();
        sending.encode_all(&[2, 3], &mut wire).unwrap();
        assert_eq!(wire, [9, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3]);
        assert_eq!(receiving.decode(&wire[1..]).unwrap(), Decoded::Item { item: 1, consumed: 4 });
        assert!(receiving.encode(&1, &mut wire).unwrap_err().to_string().contains("only receives"));
        assert_eq!(wire.len(), 13);
        assert_eq!(sending.decode(b"").unwrap(), Decoded::NeedMore { at_least: 1 });
        assert!(sending.decode(&wire).unwrap_err().to_string().contains("only sends"));
    }

    #[test]
    fn what_the_codec_within_says_is_passed_on() {
        let frames = LengthDelimited::new().max_frame_bytes(10);
        assert_eq!(Receiving::new(frames).max_item_bytes(), Some(14));
        assert!(matches!(
            Receiving::new(frames).decode_eof(b"\0"),
            Err(DecodeError::UnexpectedEnd { bytes: 1 })
        ));
        const { assert!(!Receiving::<Raw>::KEEPS_BOUNDARIES && Receiving::<Int32>::KEEPS_BOUNDARIES) };
    }
}
