//! How a response finds its request, and the ids by which it does.

use std::fmt::Debug;

use super::{Decode, DecodeError, Decoded, Encode, EncodeError, decode::end_of_stream};

/// How a response finds its request: [`InOrder`], [`ById`], [`Uncorrelated`], `ByMember` (feature `json`), or one's own.
///
/// Request-response decodes and encodes through it; where there is no id on the wire, this is the codec itself and costs
/// nothing.
///
/// # Ids of one's own
///
/// Implement this and [`Matching`] for a type that has no values, and name it with
/// [`Protocol::correlated`](super::Protocol::correlated). The codec knows nothing of it: an id may lie before the frame, behind
/// it, or within. Here it is the two bytes with which each payload begins, for which its sender leaves room:
///
/// ```
/// use trochus::codec::{
///     Correlation, CorrelationKind, Decode, DecodeError, Decoded, Encode, EncodeError, LengthDelimited,
///     LengthWidth, Matching, Protocol, Tagged,
/// };
///
/// #[derive(Clone, Copy, Debug)]
/// struct Opaque;
///
/// const LENGTH: usize = 4; // the frame's length field, then the id
///
/// impl Correlation for Opaque {
///     type Id = u32;
///     const KIND: CorrelationKind = CorrelationKind::ById;
///     const MAX_NUMBER: u64 = u32::MAX as u64;
///
///     fn id_from(number: u64) -> u32 {
///         number as u32 // never more than `MAX_NUMBER`
///     }
///
///     fn number_of(id: u32) -> Option<u64> {
///         Some(id.into())
///     }
///
///     fn decode<'a, D: Decode>(
///         decoder: &mut D,
///         input: &'a [u8],
///     ) -> Result<Decoded<Tagged<'a, Self, D>>, DecodeError> {
///         let Decoded::Item { item, consumed } = decoder.decode(input)? else {
///             return Ok(Decoded::NeedMore { at_least: 1 });
///         };
///         let Some(id) = input[LENGTH..consumed].first_chunk() else {
///             return Err(DecodeError::custom("a frame too short for its id"));
///         };
///         Ok(Decoded::Item { item: (u32::from_be_bytes(*id), item), consumed })
///     }
///
///     fn encode<T: ?Sized, E: Encode<T>>(
///         encoder: &mut E,
///         id: u32,
///         item: &T,
///         out: &mut Vec<u8>,
///     ) -> Result<(), EncodeError> {
///         let start = out.len();
///         encoder.encode(item, out)?;
///         match out[start..].get_mut(LENGTH..LENGTH + 4) {
///             Some(room) => room.copy_from_slice(&id.to_be_bytes()),
///             None => {
///                 out.truncate(start);
///                 return Err(EncodeError::custom("a frame too short for its id"));
///             }
///         }
///         Ok(())
///     }
/// }
///
/// impl Matching for Opaque {}
///
/// let protocol = LengthDelimited::new().correlated::<Opaque>();
/// let mut wire = Vec::new();
/// Opaque::encode(&mut protocol.request_codec(), 7, b"\0\0\0\0text", &mut wire)?;
/// assert_eq!(wire, b"\0\0\0\x08\0\0\0\x07text");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Correlation: Copy + Debug + Send + 'static {
    /// What goes with each frame on the wire, for example `u64`; `()` for nothing. A server keeps it until it answers,
    /// one for each request in progress: an id that a peer could make large needs a limit in [`decode`](Self::decode).
    type Id: Clone + Debug + Eq + Send + 'static;

    /// Which way of matching it is, whatever the ids look like.
    const KIND: CorrelationKind;

    /// Whether a server may say something that is no response, under an id that no request has. A client expects it then.
    #[doc(hidden)]
    const HAS_NOTICES: bool = false;

    /// The largest number that an id can carry, all ones in binary and at least 2³² − 1. With fewer than
    /// 44 bits a client has at most 2²⁰ calls in flight.
    const MAX_NUMBER: u64 = u64::MAX;

    /// A client's id with this number, at most [`MAX_NUMBER`](Self::MAX_NUMBER).
    fn id_from(number: u64) -> Self::Id;

    /// The number of an id that [`id_from`](Self::id_from) made. `None`: no client makes such an id, so a response that
    /// carries it belongs to no request. 0 where there are no ids.
    fn number_of(id: Self::Id) -> Option<u64>;

    /// Decodes the first item of `input` and its id.
    ///
    /// # Errors
    ///
    /// As for [`Decode::decode`].
    fn decode<'a, D: Decode>(
        decoder: &mut D,
        input: &'a [u8],
    ) -> Result<Decoded<Tagged<'a, Self, D>>, DecodeError>;

    /// The last item, when the peer has ended its output. As [`Decode::decode_eof`]; by default there is none, and bytes that
    /// are left are an error.
    ///
    /// # Errors
    ///
    /// As for [`Decode::decode_eof`].
    fn decode_eof<'a, D: Decode>(
        decoder: &mut D,
        input: &'a [u8],
    ) -> Result<Option<Tagged<'a, Self, D>>, DecodeError> {
        let _ = decoder;
        end_of_stream(input)
    }

    /// The most bytes that an item and its id take on the wire. As [`Decode::max_item_bytes`], which it is by default.
    #[must_use]
    fn max_item_bytes<D: Decode>(decoder: &D) -> Option<usize> {
        decoder.max_item_bytes()
    }

    /// Appends the id and the item to `out`.
    ///
    /// # Errors
    ///
    /// As for [`Encode::encode`]: nothing is then left in `out`.
    fn encode<T: ?Sized, E: Encode<T>>(
        encoder: &mut E,
        id: Self::Id,
        item: &T,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError>;
}

/// A correlation by which a response finds its request without the application's help. With it, a client has calls.
pub trait Matching: Correlation {}

impl Matching for InOrder {}
impl Matching for ById {}

/// An item of decoder `D`, and the id that came with it.
pub type Tagged<'a, C, D> = (<C as Correlation>::Id, <D as Decode>::Item<'a>);

/// The [`Correlation`] as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CorrelationKind {
    /// See [`InOrder`](struct@InOrder).
    InOrder,
    /// The same id on request and response, see [`ById`](struct@ById).
    ById,
    /// See [`Uncorrelated`](struct@Uncorrelated).
    Uncorrelated,
}

/// The n-th response of a connection belongs to its n-th request.
#[derive(Clone, Copy, Debug)]
pub struct InOrder;

/// Request and response carry the same 64-bit id, 8 bytes big-endian before the frame.
///
/// One id, 2^64 - 2, is no request's: behind it a server says something that is no response, in ten bytes. The first one is 1 for
/// a goodbye, or 2 for a request that has no response; the second says why it has none (1 its reply was dropped, 2 the service
/// panicked, 3 it took too long, 4 the response cannot be encoded); then come 8 bytes, big-endian: how many of the connection's
/// requests were taken, or the id of the request. Behind a goodbye nothing follows, and what was not taken by then never is.
#[derive(Clone, Copy, Debug)]
pub struct ById;

/// The application matches responses with requests, if it has to.
#[derive(Clone, Copy, Debug)]
pub struct Uncorrelated;

macro_rules! without_id {
    ($($name:ident)*) => {$(
        impl Correlation for $name {
            type Id = ();

            const KIND: CorrelationKind = CorrelationKind::$name;

            #[inline]
            fn id_from(_number: u64) {}

            #[inline]
            fn number_of((): ()) -> Option<u64> {
                Some(0)
            }

            #[inline]
            fn decode<'a, D: Decode>(
                decoder: &mut D,
                input: &'a [u8],
            ) -> Result<Decoded<Tagged<'a, Self, D>>, DecodeError> {
                Ok(decoder.decode(input)?.map(|item| ((), item)))
            }

            fn decode_eof<'a, D: Decode>(
                decoder: &mut D,
                input: &'a [u8],
            ) -> Result<Option<Tagged<'a, Self, D>>, DecodeError> {
                Ok(decoder.decode_eof(input)?.map(|item| ((), item)))
            }

            #[inline]
            fn encode<T: ?Sized, E: Encode<T>>(
                encoder: &mut E,
                (): (),
                item: &T,
                out: &mut Vec<u8>,
            ) -> Result<(), EncodeError> {
                encoder.encode(item, out)
            }
        }
    )*};
}

without_id! { InOrder Uncorrelated }

impl Correlation for ById {
    type Id = u64;

    const KIND: CorrelationKind = CorrelationKind::ById;
    const HAS_NOTICES: bool = true;

    #[inline]
    fn id_from(number: u64) -> u64 {
        number
    }

    #[inline]
    fn number_of(id: u64) -> Option<u64> {
        Some(id)
    }

    #[inline]
    fn decode<'a, D: Decode>(
        decoder: &mut D,
        input: &'a [u8],
    ) -> Result<Decoded<Tagged<'a, Self, D>>, DecodeError> {
        let Some((id, frame)) = input.split_first_chunk() else {
            return Ok(Decoded::NeedMore { at_least: size_of::<u64>() - input.len() });
        };
        Ok(match decoder.decode(frame)? {
            Decoded::Item { item, consumed } => {
                Decoded::Item { item: (u64::from_be_bytes(*id), item), consumed: size_of::<u64>() + consumed }
            }
            Decoded::NeedMore { at_least } => Decoded::NeedMore { at_least },
        })
    }

    fn decode_eof<'a, D: Decode>(
        decoder: &mut D,
        input: &'a [u8],
    ) -> Result<Option<Tagged<'a, Self, D>>, DecodeError> {
        if let Some((id, frame)) = input.split_first_chunk()
            && let Some(item) = decoder.decode_eof(frame)?
        {
            return Ok(Some((u64::from_be_bytes(*id), item)));
        }
        end_of_stream(input) // an id without its frame is the beginning of one
    }

    fn max_item_bytes<D: Decode>(decoder: &D) -> Option<usize> {
        Some(decoder.max_item_bytes()?.saturating_add(size_of::<u64>()))
    }

    #[inline]
    fn encode<T: ?Sized, E: Encode<T>>(
        encoder: &mut E,
        id: u64,
        item: &T,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let start = out.len();
        out.extend_from_slice(&id.to_be_bytes());
        encoder.encode(item, out).inspect_err(|_| out.truncate(start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{LengthDelimited, LengthWidth, Lines};

    #[test]
    fn an_id_goes_before_its_frame() {
        let (mut codec, mut out) = (LengthDelimited::new(), Vec::new());
        ById::encode(&mut codec, 0x0102, "x", &mut out).unwrap();
        assert_eq!(out, b"\0\0\0\0\0\0\x01\x02\0\0\0\x01x");
        for have in 0..out.len() {
            let Decoded::NeedMore { at_least } = ById::decode(&mut codec, &out[..have]).unwrap() else {
                panic!("an item of {have} bytes");
            };
            assert!((1..=out.len() - have).contains(&at_least), "{at_least} after {have}");
        }
        let item = (0x0102, &b"x"[..]);
        assert_eq!(ById::decode(&mut codec, &out).unwrap(), Decoded::Item { item, consumed: 13 });
    }

    #[test]
    fn an_id_does_not_stay_behind_when_its_item_fails() {
        let mut out = b"before".to_vec();
        let mut codec = LengthDelimited::new().max_frame_bytes(2);
        assert!(ById::encode(&mut codec, 1, "too long", &mut out).is_err());
        assert_eq!(out, b"before");
    }

    #[test]
    fn a_line_feed_inside_of_an_id_ends_no_line() {
        let (mut codec, mut out) = (Lines::new(), Vec::new());
        ById::encode(&mut codec, 0x0a0a_0a0a, "text", &mut out).unwrap();
        let item = (0x0a0a_0a0a, "text");
        for have in 0..out.len() {
            assert!(matches!(ById::decode(&mut codec, &out[..have]), Ok(Decoded::NeedMore { .. })));
        }
        assert_eq!(ById::decode(&mut codec, &out).unwrap(), Decoded::Item { item, consumed: 13 });
    }

    #[test]
    fn an_id_without_its_frame_is_no_clean_end() {
        let mut codec = LengthDelimited::new();
        assert!(matches!(ById::decode_eof(&mut codec, b""), Ok(None)));
        for input in [&b"\0"[..], &[0; 7], &[0; 8], &[0; 11]] {
            let error = ById::decode_eof(&mut codec, input).unwrap_err();
            assert!(matches!(error, DecodeError::UnexpectedEnd { .. }), "{input:?}: {error}");
        }
        for input in [&b"\0"[..], &[0; 3]] {
            let error = InOrder::decode_eof(&mut codec, input).unwrap_err();
            assert!(matches!(error, DecodeError::UnexpectedEnd { bytes } if bytes == input.len()));
        }
        assert!(matches!(Uncorrelated::decode_eof(&mut codec, b""), Ok(None)));
    }

    #[test]
    fn an_id_counts_in_the_largest_item() {
        let codec = LengthDelimited::new().max_frame_bytes(100);
        assert_eq!(InOrder::max_item_bytes(&codec), Some(104));
        assert_eq!(ById::max_item_bytes(&codec), Some(112));
        let unlimited = codec.length_width(LengthWidth::Eight).max_frame_bytes(usize::MAX);
        assert_eq!(ById::max_item_bytes(&unlimited), Some(usize::MAX));
    }
}
