//! Codecs: what turns bytes into items and items into bytes.
//!
//! A codec knows nothing of sockets. [`Decode`] looks at the bytes that have arrived and answers with an item, with
//! *need more*, or with an error; [`Encode`] appends an item to the output. What is on the wire is exactly what the
//! codec writes, so a peer in any language can be on the other side.
//!
//! One value that does both is a [`Codec`]; a [`Protocol`] pairs the codecs of the two directions of request-response and
//! says how a response finds its request ([`InOrder`], [`ById`], [`Uncorrelated`], or ids of one's own: [`Correlation`]).
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

mod correlation;
mod decode;
mod error;
mod frame;
#[cfg(feature = "json")]
mod json;
mod lines;
#[cfg(feature = "json")]
mod member;
mod one_way;
mod protocol;
mod raw;
mod record;
mod scalar;
#[cfg(feature = "zerocopy")]
mod view;

pub use correlation::{ById, Correlation, CorrelationKind, InOrder, Matching, Tagged, Uncorrelated};
pub use decode::{Codec, Decode, Decoded, Encode};
pub use error::{DecodeError, EncodeAllError, EncodeError};
pub use frame::{LengthDelimited, LengthWidth};
#[cfg(feature = "json")]
pub use json::{Json, JsonLines};
pub use lines::{ByteLines, Lines};
#[cfg(feature = "json")]
pub use member::{ByMember, JsonId};
pub use one_way::{Receiving, Sending};
pub use protocol::{Correlated, Pair, Protocol, Request, RequestRef, Response, ResponseRef};
pub use raw::Raw;
pub use record::{FixedSize, Records};
pub use scalar::{Be, Int32, Le, Scalar};
#[cfg(feature = "zerocopy")]
pub use view::View;

/// The longest frame that [`LengthDelimited`] accepts unless told otherwise: 1 MiB, without its length field.
pub const DEFAULT_MAX_FRAME_BYTES: usize = 1 << 20;

/// The longest line that [`Lines`], [`ByteLines`] and `Json` accept unless told otherwise: 64 KiB, without its end.
pub const DEFAULT_MAX_LINE_BYTES: usize = 64 << 10;
