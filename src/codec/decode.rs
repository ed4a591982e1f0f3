//! The two halves of a codec.

use super::{DecodeError, EncodeAllError, EncodeError};

/// Turns the bytes of one direction of one connection into items.
///
/// A decoder may keep state between calls (where it stopped scanning, for example), so each direction of each connection
/// has its own.
pub trait Decode {
    /// What one item is; it may borrow from the input.
    type Item<'a>;

    /// An item that borrows from nothing, for those who keep it beyond the call or send it to another thread.
    type Owned: Send + 'static;

    /// Whether items come out as they were put in, whatever pieces the stream was cut into on its way. Only [`Raw`](super::Raw)
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

    /// The last item, when the peer has ended its output: called once, with what [`decode`](Self::decode) did not consume,
    /// after it answered [`NeedMore`](Decoded::NeedMore) to that (or there was nothing). An item takes all of `input`.
    ///
    /// By default there is none: that nothing is left is the clean end, and anything else is the beginning of an item
    /// that was cut off. For a codec of which an item may last until the end of the stream.
    ///
    /// # Errors
    ///
    /// [`UnexpectedEnd`](DecodeError::UnexpectedEnd): the stream ended within an item.
    fn decode_eof<'a>(&mut self, input: &'a [u8]) -> Result<Option<Self::Item<'a>>, DecodeError> {
        end_of_stream(input)
    }

    /// The most bytes of input that may have to lie there before [`decode`](Self::decode) answers with an item or an error: the
    /// largest item that this decoder's limits allow, with its framing. `None`: it does not know.
    ///
    /// A connection keeps so much of what has arrived and was not consumed, so its `input_limit` must not be smaller. Where both
    /// are known, binding and connecting compare them.
    #[must_use]
    fn max_item_bytes(&self) -> Option<usize> {
        None
    }

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

/// What is left of a stream that has ended, where only whole items count.
#[inline]
pub(super) fn end_of_stream<T>(rest: &[u8]) -> Result<Option<T>, DecodeError> {
    if rest.is_empty() { Ok(None) } else { Err(DecodeError::UnexpectedEnd { bytes: rest.len() }) }
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
            self.encode(item, out).map_err(|error| EncodeAllError::new(index, error))?;
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
