//! Records seen in place, without copying their fields.

use std::{any::type_name, fmt, marker::PhantomData};

use zerocopy::{Immutable, IntoBytes, KnownLayout, TryFromBytes, Unaligned};

use super::{Decode, DecodeError, Decoded, Encode, EncodeError, record::invalid};

/// Structs whose memory is what is on the wire; items are references into the received bytes.
///
/// `T` derives the traits of the [`zerocopy`] crate, which check that every byte is accounted for. Its fields have no alignment
/// and name their endianness (`zerocopy::big_endian::I32` and the like), so the wire is the same on every machine. Types
/// that not all bytes are a value of (`bool`, an `enum`) are checked.
///
/// ```
/// use trochus::codec::{Decode, Decoded, Encode, View};
/// use zerocopy::{Immutable, IntoBytes, KnownLayout, TryFromBytes, Unaligned, big_endian::I32};
///
/// #[derive(Clone, TryFromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
/// #[repr(C)]
/// struct Reading {
///     sensor: I32,
///     valid: bool,
/// }
///
/// let (mut codec, mut wire) = (View::<Reading>::new(), Vec::new());
/// codec.encode(&Reading { sensor: I32::new(7), valid: true }, &mut wire)?;
/// assert_eq!(wire, [0, 0, 0, 7, 1]);
/// let Decoded::Item { item, .. } = codec.decode(&wire)? else { unreachable!() };
/// assert_eq!(item.sensor.get(), 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct View<T>(PhantomData<fn(T) -> T>);

impl<T> View<T> {
    /// The codec; it has no state and no settings. Does not compile for types of no bytes.
    #[must_use]
    pub const fn new() -> Self {
        const { assert!(size_of::<T>() > 0, "a record must take at least one byte, or decoding would never end") };
        Self(PhantomData)
    }
}

impl<T> Decode for View<T>
where
    T: TryFromBytes + KnownLayout + Immutable + Unaligned + Clone + Send + 'static,
{
    type Item<'a> = &'a T;
    type Owned = T;

    #[inline]
    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Decoded<&'a T>, DecodeError> {
        let Some(bytes) = input.get(..size_of::<T>()) else {
            return Ok(Decoded::NeedMore { at_least: size_of::<T>() - input.len() });
        };
        match T::try_ref_from_bytes(bytes) {
            Ok(item) => Ok(Decoded::Item { item, consumed: size_of::<T>() }),
            Err(_) => Err(invalid::<T>(size_of::<T>())),
        }
    }

    fn max_item_bytes(&self) -> Option<usize> {
        Some(size_of::<T>())
    }

    #[inline]
    fn into_owned(item: &T) -> T {
        item.clone()
    }
}

impl<T: IntoBytes + Immutable> Encode<T> for View<T> {
    #[inline]
    fn encode(&mut self, item: &T, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(item.as_bytes());
        Ok(())
    }

    #[inline]
    fn encode_all(&mut self, items: &[T], out: &mut Vec<u8>) -> Result<(), super::EncodeAllError> {
        out.extend_from_slice(items.as_bytes());
        Ok(())
    }
}

impl<T> Copy for View<T> {}

impl<T> Clone for View<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Default for View<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for View<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "View<{}>", type_name::<T>())
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::big_endian::{I32, I64};

    use super::*;

    #[derive(Clone, Debug, PartialEq, TryFromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
    #[repr(C)]
    struct Sample {
        id: I32,
        at: I64,
        last: bool,
    }

    fn sample(id: i32) -> Sample {
        Sample { id: I32::new(id), at: I64::new(-2), last: true }
    }

    #[test]
    fn an_item_lies_where_its_bytes_are() {
        let (mut codec, mut out) = (View::<Sample>::new(), vec![0]);
        codec.encode(&sample(5), &mut out).unwrap();
        let Decoded::Item { item, consumed } = codec.decode(&out[1..]).unwrap() else { panic!("{out:?}") };
        assert_eq!((item, consumed), (&sample(5), 13));
        assert!(std::ptr::addr_eq(item, &raw const out[1]));
        assert_eq!(codec.decode(&out[2..]).unwrap(), Decoded::NeedMore { at_least: 1 });
    }

    #[test]
    fn a_bool_that_is_neither_is_an_error() {
        let mut out = Vec::new();
        View::<Sample>::new().encode(&sample(5), &mut out).unwrap();
        out[12] = 2;
        let error = View::<Sample>::new().decode(&out).unwrap_err();
        assert!(matches!(error, DecodeError::InvalidRecord { size: 13, .. }), "{error}");
    }

    #[test]
    fn many_at_once_are_what_one_by_one_gives() {
        let items: Vec<Sample> = (0..5).map(sample).collect();
        let (mut one_by_one, mut at_once) = (vec![9], vec![9]);
        items.iter().for_each(|item| View::new().encode(item, &mut one_by_one).unwrap());
        View::new().encode_all(&items, &mut at_once).unwrap();
        assert_eq!(at_once, one_by_one);
    }
}
