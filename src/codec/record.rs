//! Records of one size.

use std::{any::type_name, fmt, marker::PhantomData};

use super::{Decode, DecodeError, Decoded, Encode, EncodeError};

/// A value that takes the same number of bytes each time.
///
/// ```
/// use trochus::codec::{Encode, FixedSize, Records};
///
/// #[derive(Debug)]
/// struct Point {
///     x: i16,
///     y: i16,
/// }
///
/// impl FixedSize for Point {
///     const SIZE: usize = 4;
///
///     fn write(&self, out: &mut [u8]) {
///         out[..2].copy_from_slice(&self.x.to_be_bytes());
///         out[2..].copy_from_slice(&self.y.to_be_bytes());
///     }
///
///     fn read(bytes: &[u8]) -> Option<Self> {
///         let (x, y) = bytes.split_first_chunk()?;
///         Some(Self { x: i16::from_be_bytes(*x), y: i16::from_be_bytes(y.try_into().ok()?) })
///     }
/// }
///
/// let mut wire = Vec::new();
/// Records::<Point>::new().encode(&Point { x: 1, y: -1 }, &mut wire)?;
/// assert_eq!(wire, [0, 1, 0xff, 0xff]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait FixedSize: Sized {
    /// How many bytes; at least one.
    const SIZE: usize;

    /// Writes the value over all of `out`, which has [`SIZE`](Self::SIZE) bytes, all zero.
    fn write(&self, out: &mut [u8]);

    /// Reads the value from `bytes`, which are [`SIZE`](Self::SIZE) long. `None` if they are no value of this type.
    #[must_use]
    fn read(bytes: &[u8]) -> Option<Self>;
}

/// Records of type `T`, one after the other and nothing between them.
pub struct Records<T>(PhantomData<fn(T) -> T>);

impl<T: FixedSize> Records<T> {
    /// The codec; it has no state and no settings. Does not compile for records of no bytes.
    #[must_use]
    pub const fn new() -> Self {
        const { assert!(T::SIZE > 0, "a record must take at least one byte, or decoding would never end") };
        Self(PhantomData)
    }
}

impl<T: FixedSize + Send + 'static> Decode for Records<T> {
    type Item<'a> = T;
    type Owned = T;

    #[inline]
    fn decode(&mut self, input: &[u8]) -> Result<Decoded<T>, DecodeError> {
        let Some(bytes) = input.get(..T::SIZE) else {
            return Ok(Decoded::NeedMore { at_least: T::SIZE - input.len() });
        };
        match T::read(bytes) {
            Some(item) => Ok(Decoded::Item { item, consumed: T::SIZE }),
            None => Err(invalid::<T>(T::SIZE)),
        }
    }

    fn max_item_bytes(&self) -> Option<usize> {
        Some(T::SIZE)
    }

    #[inline]
    fn into_owned(item: T) -> T {
        item
    }
}

impl<T: FixedSize> Encode<T> for Records<T> {
    #[inline]
    fn encode(&mut self, item: &T, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        out.resize(start + T::SIZE, 0);
        item.write(&mut out[start..]);
        Ok(())
    }
}

#[cold]
pub(super) fn invalid<T>(size: usize) -> DecodeError {
    DecodeError::InvalidRecord { type_name: type_name::<T>(), size }
}

impl<T> Copy for Records<T> {}

impl<T> Clone for Records<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: FixedSize> Default for Records<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Records<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Records<{}>", type_name::<T>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Switch {
        id: u16,
        on: bool,
    }

    impl FixedSize for Switch {
        const SIZE: usize = 3;

        fn write(&self, out: &mut [u8]) {
            out[..2].copy_from_slice(&self.id.to_be_bytes());
            out[2] = self.on.into();
        }

        fn read(bytes: &[u8]) -> Option<Self> {
            let (id, on) = bytes.split_first_chunk()?;
            let on = match on {
                [0] => false,
                [1] => true,
                _ => return None,
            };
            Some(Self { id: u16::from_be_bytes(*id), on })
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let (mut codec, mut out) = (Records::<Switch>::new(), vec![7]);
        codec.encode(&Switch { id: 300, on: true }, &mut out).unwrap();
        assert_eq!(out, [7, 1, 44, 1]);
        let item = Switch { id: 300, on: true };
        assert_eq!(codec.decode(&out[1..]).unwrap(), Decoded::Item { item, consumed: 3 });
        assert_eq!(codec.decode(&out[1..2]).unwrap(), Decoded::NeedMore { at_least: 2 });
    }

    #[test]
    fn bytes_that_are_no_value_are_an_error_that_names_the_type() {
        let error = Records::<Switch>::new().decode(&[0, 0, 2]).unwrap_err();
        assert!(matches!(error, DecodeError::InvalidRecord { size: 3, .. }));
        assert!(error.to_string().contains("Switch"), "{error}");
    }
}
