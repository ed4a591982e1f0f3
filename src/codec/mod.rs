//! Codecs: what turns bytes into items and items into bytes.
//!
//! A codec knows nothing of sockets. [`Decode`] looks at the bytes that have arrived and answers with an item, with
//! *need more*, or with an error; [`Encode`] appends an item to the output. What is on the wire is exactly what the
//! codec writes, so a peer in any language can be on the other side.
//!
//! One value that does both is a [`Codec`]; a [`Protocol`] pairs the codecs of the two directions of request-response and
//! says how a response finds its request ([`InOrder`], [`ById`], [`Uncorrelated`]).
//!
//! | codec | items as decoded | owned items | on the wire |
//! | --- | --- | --- | --- |
//! | [`Int32`], [`Be`], [`Le`] | the number | the number | 1 to 16 bytes, the endianness named |
//! | [`Records`] | a [`FixedSize`] value | the same | [`FixedSize::SIZE`] bytes |
//! | `View` (feature `zerocopy`) | `&T`, in place | `T` | `size_of::<T>()` bytes |
//! | [`LengthDelimited`] | `&[u8]` | [`Bytes`](bytes::Bytes) | a length, then as many bytes |
//! | [`Lines`] | `&str` | `String` | UTF-8, ends with LF or CRLF |
//! | [`ByteLines`] | `&[u8]` | [`Bytes`](bytes::Bytes) | any bytes, ends with LF or CRLF |
//! | `JsonLines`, `Json` (feature `json`) | a serde value | the same | one JSON value a line |
//! | [`Raw`] | `&[u8]` | [`Bytes`](bytes::Bytes) | as it comes, without boundaries |
//!
//! # Decoding a buffer
//!
//! ```
//! use trochus::codec::{Decode, Decoded, Encode, Int32};
//!
//! let mut codec = Int32;
//! let mut wire = Vec::new();
//! codec.encode(&1, &mut wire)?;
//! codec.encode(&2, &mut wire)?;
//! wire.extend([0, 0]); // half of the next one
//!
//! let (mut input, mut items) = (&wire[..], Vec::new());
//! while let Decoded::Item { item, consumed } = codec.decode(input)? {
//!     items.push(item);
//!     input = &input[consumed..];
//! }
//! assert_eq!(items, [1, 2]);
//! assert_eq!(input, [0, 0]); // stays until more arrives
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # A codec of one's own
//!
//! ```
//! use trochus::codec::{Decode, DecodeError, Decoded, Encode, EncodeError};
//!
//! /// Strings that end with a zero byte.
//! #[derive(Clone, Debug, Default)]
//! struct ZeroTerminated {
//!     scanned: usize, // so that a long string that comes in small pieces is not searched from its start each time
//! }
//!
//! impl Decode for ZeroTerminated {
//!     type Item<'a> = &'a [u8];
//!     type Owned = Vec<u8>;
//!
//!     fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Decoded<&'a [u8]>, DecodeError> {
//!         const LIMIT: usize = 1024;
//!         let from = self.scanned.min(input.len());
//!         let Some(found) = input[from..].iter().position(|&byte| byte == 0) else {
//!             if input.len() > LIMIT {
//!                 return Err(DecodeError::custom("a string of more than 1024 bytes"));
//!             }
//!             self.scanned = input.len();
//!             return Ok(Decoded::NeedMore { at_least: 1 });
//!         };
//!         self.scanned = 0;
//!         Ok(Decoded::Item { item: &input[..from + found], consumed: from + found + 1 })
//!     }
//!
//!     fn into_owned(item: &[u8]) -> Vec<u8> {
//!         item.to_vec()
//!     }
//! }
//!
//! impl Encode<Vec<u8>> for ZeroTerminated {
//!     fn encode(&mut self, item: &Vec<u8>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
//!         if item.contains(&0) {
//!             return Err(EncodeError::custom("a zero byte inside of a string"));
//!         }
//!         out.extend_from_slice(item);
//!         out.push(0);
//!         Ok(())
//!     }
//! }
//!
//! // Being both, it is a `Codec`, and so a `Protocol` whose requests and responses are such strings.
//! fn takes_protocol(_: impl trochus::codec::Protocol) {}
//! takes_protocol(ZeroTerminated::default());
//! ```

mod error;
mod frame;
#[cfg(feature = "json")]
mod json;
mod lines;
mod protocol;
mod raw;
mod record;
mod scalar;
#[cfg(feature = "zerocopy")]
mod view;

pub use error::{DecodeError, EncodeAllError, EncodeError};
pub use frame::{LengthDelimited, LengthWidth};
#[cfg(feature = "json")]
pub use json::{Json, JsonLines};
pub use lines::{ByteLines, Lines};
pub use protocol::{
    ById, Correlated, Correlation, CorrelationKind, InOrder, Matching, Pair, Protocol, Request, RequestRef,
    Response, ResponseRef, Tagged, Uncorrelated,
};
pub use raw::Raw;
pub use record::{FixedSize, Records};
pub use scalar::{Be, Int32, Le, Scalar};
#[cfg(feature = "zerocopy")]
pub use view::View;

/// The longest frame that [`LengthDelimited`] accepts unless told otherwise: 1 MiB, without its length field.
pub const DEFAULT_MAX_FRAME_BYTES: usize = 1 << 20;

/// The longest line that [`Lines`], [`ByteLines`] and `Json` accept unless told otherwise: 64 KiB, without its end.
pub const DEFAULT_MAX_LINE_BYTES: usize = 64 << 10;

/// Turns the bytes of one direction of one connection into items.
///
/// A decoder may keep state between calls (where it stopped scanning, for example), so each direction of each connection
/// has its own.
pub trait Decode {
    /// What one item is; it may borrow from the input.
    type Item<'a>;

    /// An item that borrows from nothing, for those who keep it beyond the call or send it to another thread.
    type Owned: Send + 'static;

    /// Whether items come out as they were put in, whatever pieces the stream was cut into on its way. Only [`Raw`]
    /// has no boundaries.
    const KEEPS_BOUNDARIES: bool = true;

    /// Decodes the first item of `input`.
    ///
    /// The caller passes what was not consumed again, with more bytes behind it; the address may have changed. What was
    /// answered with [`Decoded::NeedMore`] may be asked again with fewer new bytes than it named. Nothing is
    /// allocated for bytes that have not arrived.
    ///
    /// # Errors
    ///
    /// The bytes break the protocol or a limit of this decoder. The decoder's state is unspecified from then on,
    /// and the connection should be closed.
    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Decoded<Self::Item<'a>>, DecodeError>;

    /// Copies what the item borrows.
    fn into_owned(item: Self::Item<'_>) -> Self::Owned;
}

/// What [`Decode::decode`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Decoded<T> {
    /// An item, and how many bytes of the input it took: at least one.
    Item {
        /// The item.
        item: T,
        /// Bytes to skip before the next call.
        consumed: usize,
    },
    /// The input ends before the item does.
    NeedMore {
        /// A lower bound of the bytes that are missing: at least one.
        at_least: usize,
    },
}

impl<T> Decoded<T> {
    /// Changes the item, if there is one.
    #[inline]
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Decoded<U> {
        match self {
            Self::Item { item, consumed } => Decoded::Item { item: change(item), consumed },
            Self::NeedMore { at_least } => Decoded::NeedMore { at_least },
        }
    }
}

/// Turns items of type `T` into the bytes of one direction of one connection.
pub trait Encode<T: ?Sized> {
    /// Appends the item to `out`.
    ///
    /// # Errors
    ///
    /// The item cannot be written, or breaks a limit that the peer's decoder would enforce. `out` is then as it was
    /// before the call.
    fn encode(&mut self, item: &T, out: &mut Vec<u8>) -> Result<(), EncodeError>;

    /// Appends all items, in order; a codec of fixed-size items does this several times faster than one by one.
    ///
    /// # Errors
    ///
    /// The first item that cannot be written, with its index. Those before it are in `out`; of it and those after it
    /// nothing is.
    fn encode_all(&mut self, items: &[T], out: &mut Vec<u8>) -> Result<(), EncodeAllError>
    where
        T: Sized,
    {
        for (index, item) in items.iter().enumerate() {
            self.encode(item, out).map_err(|error| EncodeAllError { index, error })?;
        }
        Ok(())
    }
}

/// Both directions in one value: decodes items, and encodes the owned form of the same items.
///
/// Implemented for everything that can do so. A clone is made for each direction of each connection, from a value that
/// has not decoded anything.
pub trait Codec: Decode + Encode<<Self as Decode>::Owned> + Clone + Send + 'static {}

impl<C> Codec for C where C: Decode + Encode<<C as Decode>::Owned> + Clone + Send + 'static {}
