//! Frames that begin with their length.

use bytes::Bytes;

use super::{DEFAULT_MAX_FRAME_BYTES, Decode, DecodeError, Decoded, Encode, EncodeError};

/// Frames of any bytes: a length, then as many bytes. An item is the frame's payload, in place.
///
/// The length counts the payload alone. Unless told otherwise it is 4 bytes wide and big-endian, and a frame has at most
/// [`DEFAULT_MAX_FRAME_BYTES`]. A length beyond the limit is an error as soon as it is read; no memory is set aside for it.
///
/// ```
/// use trochus::codec::{Decode, Decoded, Encode, LengthDelimited, LengthWidth};
///
/// let mut codec = LengthDelimited::new().length_width(LengthWidth::Two).max_frame_bytes(4096);
/// let mut wire = Vec::new();
/// codec.encode("hello", &mut wire)?;
/// assert_eq!(wire, b"\x00\x05hello");
/// assert_eq!(codec.decode(&wire)?, Decoded::Item { item: &b"hello"[..], consumed: 7 });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LengthDelimited {
    width: LengthWidth,
    little_endian: bool,
    max_frame_bytes: usize,
}

/// How many bytes the length of a frame has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LengthWidth {
    /// `u8`: frames of up to 255 bytes.
    One = 1,
    /// `u16`: frames of up to 64 KiB.
    Two = 2,
    /// `u32`: frames of up to 4 GiB.
    Four = 4,
    /// `u64`.
    Eight = 8,
}

impl LengthDelimited {
    /// Lengths of 4 bytes, big-endian, frames of up to [`DEFAULT_MAX_FRAME_BYTES`].
    #[must_use]
    pub const fn new() -> Self {
        Self { width: LengthWidth::Four, little_endian: false, max_frame_bytes: DEFAULT_MAX_FRAME_BYTES }
    }

    /// How many bytes the length has.
    #[must_use]
    pub const fn length_width(mut self, width: LengthWidth) -> Self {
        self.width = width;
        self
    }

    /// The length's least significant byte comes first.
    #[must_use]
    pub const fn little_endian(mut self) -> Self {
        self.little_endian = true;
        self
    }

    /// The longest payload that is received or sent, in bytes.
    #[must_use]
    pub const fn max_frame_bytes(mut self, bytes: usize) -> Self {
        self.max_frame_bytes = bytes;
        self
    }

    /// The length that `input` begins with; `None` if it is not whole.
    #[inline]
    fn length(&self, input: &[u8]) -> Option<u64> {
        Some(match (self.width, self.little_endian) {
            (LengthWidth::One, _) => (*input.first()?).into(),
            (LengthWidth::Two, false) => u16::from_be_bytes(*input.first_chunk()?).into(),
            (LengthWidth::Two, true) => u16::from_le_bytes(*input.first_chunk()?).into(),
            (LengthWidth::Four, false) => u32::from_be_bytes(*input.first_chunk()?).into(),
            (LengthWidth::Four, true) => u32::from_le_bytes(*input.first_chunk()?).into(),
            (LengthWidth::Eight, false) => u64::from_be_bytes(*input.first_chunk()?),
            (LengthWidth::Eight, true) => u64::from_le_bytes(*input.first_chunk()?),
        })
    }

    /// Writes the length, which fits the width.
    #[inline]
    fn write_length(&self, length: usize, out: &mut Vec<u8>) {
        match (self.width, self.little_endian) {
            (LengthWidth::One, _) => out.push(length as u8),
            (LengthWidth::Two, false) => out.extend_from_slice(&(length as u16).to_be_bytes()),
            (LengthWidth::Two, true) => out.extend_from_slice(&(length as u16).to_le_bytes()),
            (LengthWidth::Four, false) => out.extend_from_slice(&(length as u32).to_be_bytes()),
            (LengthWidth::Four, true) => out.extend_from_slice(&(length as u32).to_le_bytes()),
            (LengthWidth::Eight, false) => out.extend_from_slice(&(length as u64).to_be_bytes()),
            (LengthWidth::Eight, true) => out.extend_from_slice(&(length as u64).to_le_bytes()),
        }
    }

    /// The longest payload that can be sent: what both the limit and the width of the length allow.
    #[inline]
    fn max_sent_bytes(&self) -> usize {
        let of_width = match self.width {
            LengthWidth::One => u8::MAX.into(),
            LengthWidth::Two => u16::MAX.into(),
            LengthWidth::Four => u32::MAX.try_into().unwrap_or(usize::MAX),
            LengthWidth::Eight => usize::MAX,
        };
        self.max_frame_bytes.min(of_width)
    }
}

impl Default for LengthDelimited {
    fn default() -> Self {
        Self::new()
    }
}

impl Decode for LengthDelimited {
    type Item<'a> = &'a [u8];
    type Owned = Bytes;

    #[inline]
    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Decoded<&'a [u8]>, DecodeError> {
        let header = self.width as usize;
        let Some(announced) = self.length(input) else {
            return Ok(Decoded::NeedMore { at_least: header - input.len() });
        };
        let length = match usize::try_from(announced) {
            Ok(length) if length <= self.max_frame_bytes => length,
            _ => return Err(DecodeError::FrameTooLong { length: announced, limit: self.max_frame_bytes }),
        };
        // Compared with what is there, so that no sum can overflow, whatever the limit.
        let body = &input[header..];
        match body.get(..length) {
            Some(item) => Ok(Decoded::Item { item, consumed: header + length }),
            None => Ok(Decoded::NeedMore { at_least: length - body.len() }),
        }
    }

    fn max_item_bytes(&self) -> Option<usize> {
        Some(self.max_sent_bytes().saturating_add(self.width as usize))
    }

    fn into_owned(item: &[u8]) -> Bytes {
        Bytes::copy_from_slice(item)
    }
}

impl<T: AsRef<[u8]> + ?Sized> Encode<T> for LengthDelimited {
    #[inline]
    fn encode(&mut self, item: &T, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let payload = item.as_ref();
        let limit = self.max_sent_bytes();
        if payload.len() > limit {
            return Err(EncodeError::FrameTooLong { length: payload.len(), limit });
        }
        self.write_length(payload.len(), out);
        out.extend_from_slice(payload);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_and_endianness_lies_on_the_wire_as_named() {
        let cases: [(LengthWidth, &[u8], &[u8]); 4] = [
            (LengthWidth::One, &[2], &[2]),
            (LengthWidth::Two, &[0, 2], &[2, 0]),
            (LengthWidth::Four, &[0, 0, 0, 2], &[2, 0, 0, 0]),
            (LengthWidth::Eight, &[0, 0, 0, 0, 0, 0, 0, 2], &[2, 0, 0, 0, 0, 0, 0, 0]),
        ];
        for (width, big, little) in cases {
            let big_endian = LengthDelimited::new().length_width(width);
            for (mut codec, header) in [(big_endian, big), (big_endian.little_endian(), little)] {
                let mut out = vec![9];
                codec.encode("ab", &mut out).unwrap();
                assert_eq!(out[1..], [header, b"ab"].concat());
                let consumed = header.len() + 2;
                assert_eq!(codec.decode(&out[1..]).unwrap(), Decoded::Item { item: &b"ab"[..], consumed });
                assert_eq!(codec.decode(&header[1..]).unwrap(), Decoded::NeedMore { at_least: 1 });
                assert_eq!(codec.decode(header).unwrap(), Decoded::NeedMore { at_least: 2 });
            }
        }
    }

    #[test]
    fn a_length_of_all_ones_is_an_error_at_once() {
        let four = LengthDelimited::new().decode(&[0xff; 4]).unwrap_err();
        assert!(matches!(
            four,
            DecodeError::FrameTooLong { length: 0xffff_ffff, limit: DEFAULT_MAX_FRAME_BYTES }
        ));
        assert!(four.to_string().contains("max_frame_bytes"), "{four}");

        let eight = LengthDelimited::new().length_width(LengthWidth::Eight);
        let error = { eight }.decode(&[0xff; 8]).unwrap_err();
        assert!(matches!(error, DecodeError::FrameTooLong { length: u64::MAX, .. }));
        // Without a limit there is nothing to complain about, and nothing to overflow.
        let unlimited = eight.max_frame_bytes(usize::MAX).decode(&[0xff; 9]).unwrap();
        assert_eq!(unlimited, Decoded::NeedMore { at_least: usize::MAX - 1 });
    }

    #[test]
    fn the_limit_itself_is_allowed_and_one_more_is_not() {
        let mut codec = LengthDelimited::new().length_width(LengthWidth::One).max_frame_bytes(3);
        assert_eq!(codec.decode(b"\x03abc").unwrap(), Decoded::Item { item: &b"abc"[..], consumed: 4 });
        assert!(matches!(codec.decode(b"\x04"), Err(DecodeError::FrameTooLong { length: 4, limit: 3 })));

        let mut out = vec![9];
        let error = codec.encode("abcd", &mut out).unwrap_err();
        assert!(matches!(error, EncodeError::FrameTooLong { length: 4, limit: 3 }));
        assert_eq!(out, [9]);
    }

    #[test]
    fn each_width_sends_what_it_can_say_and_not_more() {
        let widths = [(LengthWidth::One, usize::from(u8::MAX)), (LengthWidth::Two, usize::from(u16::MAX))];
        for (width, most) in widths {
            let mut codec = LengthDelimited::new().length_width(width);
            let payload = vec![7; most + 1];
            let mut out = Vec::new();
            let error = codec.encode(&payload, &mut out).unwrap_err();
            assert!(
                matches!(error, EncodeError::FrameTooLong { length, limit } if (length, limit) == (most + 1, most))
            );
            assert!(out.is_empty());
            codec.encode(&payload[..most], &mut out).unwrap();
            let consumed = width as usize + most;
            assert_eq!(codec.decode(&out).unwrap(), Decoded::Item { item: &payload[..most], consumed });
            assert_eq!(codec.max_item_bytes(), Some(consumed));
        }
        let four = LengthDelimited::new();
        assert_eq!(four.max_item_bytes(), Some(4 + DEFAULT_MAX_FRAME_BYTES));
        assert_eq!(four.max_frame_bytes(usize::MAX).max_sent_bytes(), u32::MAX as usize);
        let eight = four.length_width(LengthWidth::Eight);
        assert_eq!(eight.max_frame_bytes(9).max_item_bytes(), Some(17));
    }

    #[test]
    fn what_the_width_cannot_say_is_not_sent() {
        let mut codec = LengthDelimited::new().length_width(LengthWidth::One);
        let mut out = Vec::new();
        let error = codec.encode(&[0; 256][..], &mut out).unwrap_err();
        assert!(matches!(error, EncodeError::FrameTooLong { length: 256, limit: 255 }));
        assert!(out.is_empty());
        codec.encode(&[0; 255][..], &mut out).unwrap();
        assert_eq!(out.len(), 256);
    }

    #[test]
    fn an_empty_frame_is_a_frame() {
        let mut out = Vec::new();
        LengthDelimited::new().encode("", &mut out).unwrap();
        assert_eq!(
            LengthDelimited::new().decode(&out).unwrap(),
            Decoded::Item { item: &b""[..], consumed: 4 }
        );
    }
}
