//! Fixed-width numbers, one after the other and nothing between them.

use std::{fmt, marker::PhantomData};

use super::{Decode, DecodeError, Decoded, Encode, EncodeAllError, EncodeError};

/// 32-bit integers in network byte order: 4 bytes an item. The same as [`Be<i32>`], in a word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Int32;

impl Decode for Int32 {
    type Item<'a> = i32;
    type Owned = i32;

    #[inline]
    fn decode(&mut self, input: &[u8]) -> Result<Decoded<i32>, DecodeError> {
        Be::new().decode(input)
    }

    fn max_item_bytes(&self) -> Option<usize> {
        Some(size_of::<i32>())
    }

    #[inline]
    fn into_owned(item: i32) -> i32 {
        item
    }
}

impl Encode<i32> for Int32 {
    #[inline]
    fn encode(&mut self, item: &i32, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        Be::new().encode(item, out)
    }

    #[inline]
    fn encode_all(&mut self, items: &[i32], out: &mut Vec<u8>) -> Result<(), EncodeAllError> {
        Be::new().encode_all(items, out)
    }
}

/// A number that [`Be`] and [`Le`] can carry: the integers from 8 to 128 bits, `f32` and `f64`.
pub trait Scalar: private::Wire + fmt::Debug + Send + 'static {}

macro_rules! codec {
    ($(#[$doc:meta])* $name:ident, $read:ident, $write:ident, $write_all:ident) => {
        $(#[$doc])*
        pub struct $name<T>(PhantomData<fn(T) -> T>);

        impl<T: Scalar> $name<T> {
            /// The codec; it has no state and no settings.
            #[must_use]
            pub const fn new() -> Self {
                Self(PhantomData)
            }
        }

        impl<T: Scalar> Decode for $name<T> {
            type Item<'a> = T;
            type Owned = T;

            #[inline]
            fn decode(&mut self, input: &[u8]) -> Result<Decoded<T>, DecodeError> {
                Ok(match T::$read(input) {
                    Some(item) => Decoded::Item { item, consumed: size_of::<T>() },
                    None => Decoded::NeedMore { at_least: size_of::<T>() - input.len() },
                })
            }

            fn max_item_bytes(&self) -> Option<usize> {
                Some(size_of::<T>())
            }

            #[inline]
            fn into_owned(item: T) -> T {
                item
            }
        }

        impl<T: Scalar> Encode<T> for $name<T> {
            #[inline]
            fn encode(&mut self, item: &T, out: &mut Vec<u8>) -> Result<(), EncodeError> {
                item.$write(out);
                Ok(())
            }

            #[inline]
            fn encode_all(&mut self, items: &[T], out: &mut Vec<u8>) -> Result<(), EncodeAllError> {
                T::$write_all(items, out);
                Ok(())
            }
        }

        impl<T> Copy for $name<T> {}

        impl<T> Clone for $name<T> {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<T: Scalar> Default for $name<T> {
            fn default() -> Self {
                Self::new()
            }
        }

        impl<T> fmt::Debug for $name<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "<{}>"), std::any::type_name::<T>())
            }
        }
    };
}

codec! {
    /// Numbers in big-endian (network) byte order.
    ///
    /// ```
    /// use trochus::codec::{Be, Encode};
    ///
    /// let mut wire = Vec::new();
    /// Be::<u16>::new().encode_all(&[1, 0xabcd], &mut wire)?;
    /// assert_eq!(wire, [0x00, 0x01, 0xab, 0xcd]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    Be, read_be, write_be, write_all_be
}

codec! {
    /// Numbers in little-endian byte order.
    Le, read_le, write_le, write_all_le
}

mod private {
    /// How a number lies on the wire. Public in a private module: nobody else implements it.
    pub trait Wire: Copy {
        fn read_be(input: &[u8]) -> Option<Self>;
        fn read_le(input: &[u8]) -> Option<Self>;
        fn write_be(self, out: &mut Vec<u8>);
        fn write_le(self, out: &mut Vec<u8>);
        fn write_all_be(items: &[Self], out: &mut Vec<u8>);
        fn write_all_le(items: &[Self], out: &mut Vec<u8>);
    }
}

macro_rules! scalar {
    ($($type:ty)*) => {$(
        impl Scalar for $type {}

        impl private::Wire for $type {
            #[inline]
            fn read_be(input: &[u8]) -> Option<Self> {
                input.first_chunk().map(|bytes| Self::from_be_bytes(*bytes))
            }

            #[inline]
            fn read_le(input: &[u8]) -> Option<Self> {
                input.first_chunk().map(|bytes| Self::from_le_bytes(*bytes))
            }

            #[inline]
            fn write_be(self, out: &mut Vec<u8>) {
                append(out, self.to_be_bytes());
            }

            #[inline]
            fn write_le(self, out: &mut Vec<u8>) {
                append(out, self.to_le_bytes());
            }

            #[inline]
            fn write_all_be(items: &[Self], out: &mut Vec<u8>) {
                write_all(items, out, Self::to_be_bytes);
            }

            #[inline]
            fn write_all_le(items: &[Self], out: &mut Vec<u8>) {
                write_all(items, out, Self::to_le_bytes);
            }
        }
    )*};
}

scalar! { i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 }

/// As `extend_from_slice`, but where there is room nothing has the vector's address: in a loop over many numbers the compiler
/// keeps it in registers.
#[inline]
fn append<const N: usize>(out: &mut Vec<u8>, bytes: [u8; N]) {
    if out.capacity() - out.len() >= N {
        out.extend_from_slice(&bytes);
    } else {
        *out = append_to_full(std::mem::take(out), bytes);
    }
}

#[cold]
#[inline(never)]
fn append_to_full<const N: usize>(mut out: Vec<u8>, bytes: [u8; N]) -> Vec<u8> {
    out.extend_from_slice(&bytes);
    out
}

/// Makes the room once, so that the loop is free of branches and the compiler turns it into vector instructions.
#[inline]
fn write_all<T: Copy, const N: usize>(items: &[T], out: &mut Vec<u8>, bytes: impl Fn(T) -> [u8; N]) {
    let start = out.len();
    out.resize(start + items.len() * N, 0);
    for (slot, &item) in out[start..].as_chunks_mut().0.iter_mut().zip(items) {
        *slot = bytes(item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endianness_is_as_named() {
        let mut wire = Vec::new();
        Int32.encode(&0x0102_0304, &mut wire).unwrap();
        Le::<i16>::new().encode(&0x0506, &mut wire).unwrap();
        Be::<f64>::new().encode(&1.0, &mut wire).unwrap();
        assert_eq!(wire, [1, 2, 3, 4, 6, 5, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Int32.decode(&wire).unwrap(), Decoded::Item { item: 0x0102_0304, consumed: 4 });
        let mut le = Le::<i16>::new();
        assert_eq!(le.decode(&wire[4..]).unwrap(), Decoded::Item { item: 0x0506, consumed: 2 });
    }

    #[test]
    fn too_few_bytes_say_how_many_are_missing() {
        for have in 0..8 {
            let mut codec = Be::<u64>::new();
            assert_eq!(codec.decode(&[7; 8][..have]).unwrap(), Decoded::NeedMore { at_least: 8 - have });
        }
    }

    #[test]
    fn many_at_once_are_what_one_by_one_gives() {
        let items: Vec<i32> = (-40..60).map(|n| n * 0x0101_0101).collect();
        let (mut one_by_one, mut at_once) = (vec![9], vec![9]);
        items.iter().for_each(|item| Int32.encode(item, &mut one_by_one).unwrap());
        Int32.encode_all(&items, &mut at_once).unwrap();
        assert_eq!(at_once, one_by_one);

        let (mut one_by_one, mut at_once) = (vec![9], vec![9]);
        items.iter().for_each(|item| Le::<i32>::new().encode(item, &mut one_by_one).unwrap());
        Le::<i32>::new().encode_all(&items, &mut at_once).unwrap();
        assert_eq!(at_once, one_by_one);
    }

    #[test]
    fn a_codec_costs_no_memory() {
        assert_eq!(size_of::<Int32>(), 0);
        assert_eq!(size_of::<Be<u64>>(), 0);
        assert_eq!(format!("{:?}", Be::<u64>::new()), "Be<u64>");
    }
}
