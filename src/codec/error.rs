//! Why bytes are not an item, and why an item cannot become bytes.

use std::{error::Error, fmt};

type Source = Box<dyn Error + Send + Sync>;

/// The bytes received break the protocol or a limit. The connection cannot go on.
#[derive(Debug)]
#[non_exhaustive]
pub enum DecodeError {
    /// A frame announces more bytes than [`LengthDelimited::max_frame_bytes`](crate::codec::LengthDelimited) allows.
    FrameTooLong {
        /// Bytes announced.
        length: u64,
        /// Bytes allowed.
        limit: usize,
    },
    /// A line is longer than `max_line_bytes` of its codec, or does not end within it.
    LineTooLong {
        /// Bytes allowed, without the end of the line.
        limit: usize,
    },
    /// A line of text is not UTF-8.
    InvalidUtf8(std::str::Utf8Error),
    /// The bytes of a fixed-size record are no value of its type.
    InvalidRecord {
        /// The record's type.
        type_name: &'static str,
        /// Its size in bytes.
        size: usize,
    },
    /// A line is not the JSON that is expected.
    Json(Source),
    /// The peer ended its output in the middle of an item.
    UnexpectedEnd {
        /// Bytes of the item that had arrived.
        bytes: usize,
    },
    /// A codec from outside of this crate says so.
    Custom(Source),
}

impl DecodeError {
    /// An error of a codec from outside of this crate; a string will do.
    #[cold]
    pub fn custom(source: impl Into<Source>) -> Self {
        Self::Custom(source.into())
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FrameTooLong { length, limit } => write!(
                f,
                "the peer announced a frame of {length} bytes, the limit is {limit}: raise \
                 `LengthDelimited::max_frame_bytes` if frames can be that long, or else check that the peer uses the \
                 same length width and endianness"
            ),
            Self::LineTooLong { limit } => write!(
                f,
                "the peer sent a line of more than {limit} bytes: raise the codec's `max_line_bytes` if lines can be \
                 that long"
            ),
            Self::InvalidUtf8(source) => {
                write!(
                    f,
                    "the peer sent a line that is not UTF-8 ({source}): use `ByteLines` to accept any bytes"
                )
            }
            Self::InvalidRecord { type_name, size } => {
                write!(f, "the peer sent {size} bytes that are no value of the record type `{type_name}`")
            }
            Self::Json(source) => write!(f, "the peer sent a line that is not the JSON expected: {source}"),
            Self::UnexpectedEnd { bytes } => write!(
                f,
                "the peer ended its output in the middle of an item, of which {bytes} bytes had arrived: what it sent is cut off"
            ),
            Self::Custom(source) => write!(f, "cannot decode what the peer sent: {source}"),
        }
    }
}

impl Error for DecodeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::InvalidUtf8(source) => Some(source),
            Self::Json(source) | Self::Custom(source) => Some(&**source),
            Self::FrameTooLong { .. }
            | Self::LineTooLong { .. }
            | Self::InvalidRecord { .. }
            | Self::UnexpectedEnd { .. } => None,
        }
    }
}

/// An item cannot be written. Nothing of it was.
#[derive(Debug)]
#[non_exhaustive]
pub enum EncodeError {
    /// The payload is longer than [`LengthDelimited::max_frame_bytes`](crate::codec::LengthDelimited) or than what its
    /// length field can say.
    FrameTooLong {
        /// Bytes of the payload.
        length: usize,
        /// Bytes allowed: the smaller of the two limits.
        limit: usize,
    },
    /// The line is longer than `max_line_bytes` of its codec.
    LineTooLong {
        /// Bytes of the line, without its end.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The item contains the end of a line, so the peer would read something else than what was meant.
    LineBreak,
    /// The item cannot be expressed in JSON.
    Json(Source),
    /// A codec from outside of this crate says so.
    Custom(Source),
}

impl EncodeError {
    /// An error of a codec from outside of this crate; a string will do.
    #[cold]
    pub fn custom(source: impl Into<Source>) -> Self {
        Self::Custom(source.into())
    }
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FrameTooLong { length, limit } => write!(
                f,
                "cannot send a frame of {length} bytes, the limit is {limit}: raise `LengthDelimited::max_frame_bytes` \
                 or the width of the length, on both sides"
            ),
            Self::LineTooLong { length, limit } => write!(
                f,
                "cannot send a line of {length} bytes, the limit is {limit}: raise the codec's `max_line_bytes`, on both \
                 sides"
            ),
            Self::LineBreak => write!(
                f,
                "cannot send a line that contains a line feed or ends with a carriage return: escape it, or use \
                 `LengthDelimited`"
            ),
            Self::Json(source) => write!(f, "cannot express the item in JSON: {source}"),
            Self::Custom(source) => write!(f, "cannot encode the item: {source}"),
        }
    }
}

impl Error for EncodeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Json(source) | Self::Custom(source) => Some(&**source),
            Self::FrameTooLong { .. } | Self::LineTooLong { .. } | Self::LineBreak => None,
        }
    }
}

/// One of several items cannot be written; those before it were, of it and those after it nothing was.
#[derive(Debug)]
#[non_exhaustive]
pub struct EncodeAllError {
    /// Which of the items, from 0: also how many were written.
    pub index: usize,
    /// Why.
    pub error: EncodeError,
}

impl EncodeAllError {
    /// The item with this index cannot be written. For codecs from outside of this crate.
    #[must_use]
    pub fn new(index: usize, error: EncodeError) -> Self {
        Self { index, error }
    }
}

impl fmt::Display for EncodeAllError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "item {} of the batch: {}", self.index, self.error)
    }
}

impl Error for EncodeAllError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.error)
    }
}
