//! Lines, of text or of any bytes.

use bytes::Bytes;
use memchr::memchr;

use super::{DEFAULT_MAX_LINE_BYTES, Decode, DecodeError, Decoded, Encode, EncodeError};

/// Lines of any bytes but the line feed. Both LF and CRLF end a line; LF is written.
///
/// An item is the line in place, without its end. A line that comes in many pieces is searched once.
///
/// ```
/// use trochus::codec::{ByteLines, Decode, Decoded};
///
/// let mut codec = ByteLines::new();
/// assert_eq!(codec.decode(b"GET x\r\nGET")?, Decoded::Item { item: &b"GET x"[..], consumed: 7 });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ByteLines {
    max_line_bytes: usize,
    /// How much of the unconsumed input is known to hold no line feed.
    scanned: usize,
}

impl ByteLines {
    /// Lines of up to [`DEFAULT_MAX_LINE_BYTES`].
    #[must_use]
    pub const fn new() -> Self {
        Self { max_line_bytes: DEFAULT_MAX_LINE_BYTES, scanned: 0 }
    }

    /// The longest line that is received or sent, in bytes, without its end.
    #[must_use]
    pub const fn max_line_bytes(mut self, bytes: usize) -> Self {
        self.max_line_bytes = bytes;
        self
    }

    /// Ends what was appended to `out` from `start` on as a line, or takes it back.
    #[inline]
    pub(super) fn end_line(&self, start: usize, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let line = &out[start..];
        let error = if line.len() > self.max_line_bytes {
            EncodeError::LineTooLong { length: line.len(), limit: self.max_line_bytes }
        } else if line.last() == Some(&b'\r') || memchr(b'\n', line).is_some() {
            EncodeError::LineBreak
        } else {
            out.push(b'\n');
            return Ok(());
        };
        out.truncate(start);
        Err(error)
    }
}

impl Default for ByteLines {
    fn default() -> Self {
        Self::new()
    }
}

impl Decode for ByteLines {
    type Item<'a> = &'a [u8];
    type Owned = Bytes;

    #[inline]
    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Decoded<&'a [u8]>, DecodeError> {
        // A line feed further away than the longest line and its CR is of no interest; nor is what comes before `from`.
        let end = input.len().min(self.max_line_bytes.saturating_add(2));
        let from = self.scanned.min(end);
        let Some(found) = memchr(b'\n', &input[from..end]) else {
            if end > self.max_line_bytes.saturating_add(1) {
                return Err(DecodeError::LineTooLong { limit: self.max_line_bytes });
            }
            self.scanned = end;
            return Ok(Decoded::NeedMore { at_least: 1 });
        };
        let line_feed = from + found;
        self.scanned = 0;
        let line = &input[..line_feed];
        let item = line.strip_suffix(b"\r").unwrap_or(line);
        if item.len() > self.max_line_bytes {
            return Err(DecodeError::LineTooLong { limit: self.max_line_bytes });
        }
        Ok(Decoded::Item { item, consumed: line_feed + 1 })
    }

    fn max_item_bytes(&self) -> Option<usize> {
        Some(self.max_line_bytes.saturating_add(b"\r\n".len()))
    }

    fn into_owned(item: &[u8]) -> Bytes {
        Bytes::copy_from_slice(item)
    }
}

impl<T: AsRef<[u8]> + ?Sized> Encode<T> for ByteLines {
    #[inline]
    fn encode(&mut self, item: &T, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        out.extend_from_slice(item.as_ref());
        self.end_line(start, out)
    }
}

/// Lines of UTF-8. Both LF and CRLF end a line; LF is written.
///
/// An item is the line in place, without its end. Use [`ByteLines`] where lines may be anything.
#[derive(Clone, Debug, Default)]
pub struct Lines(ByteLines);

impl Lines {
    /// Lines of up to [`DEFAULT_MAX_LINE_BYTES`].
    #[must_use]
    pub const fn new() -> Self {
        Self(ByteLines::new())
    }

    /// The longest line that is received or sent, in bytes, without its end.
    #[must_use]
    pub const fn max_line_bytes(self, bytes: usize) -> Self {
        Self(self.0.max_line_bytes(bytes))
    }
}

impl Decode for Lines {
    type Item<'a> = &'a str;
    type Owned = String;

    #[inline]
    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Decoded<&'a str>, DecodeError> {
        match self.0.decode(input)? {
            Decoded::Item { item, consumed } => {
                let item = std::str::from_utf8(item).map_err(DecodeError::InvalidUtf8)?;
                Ok(Decoded::Item { item, consumed })
            }
            Decoded::NeedMore { at_least } => Ok(Decoded::NeedMore { at_least }),
        }
    }

    fn max_item_bytes(&self) -> Option<usize> {
        self.0.max_item_bytes()
    }

    fn into_owned(item: &str) -> String {
        item.to_owned()
    }
}

impl<T: AsRef<str> + ?Sized> Encode<T> for Lines {
    #[inline]
    fn encode(&mut self, item: &T, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.0.encode(item.as_ref(), out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_are_accepted_and_removed() {
        let mut codec = Lines::new();
        assert_eq!(codec.decode(b"a\nb\r\n").unwrap(), Decoded::Item { item: "a", consumed: 2 });
        assert_eq!(codec.decode(b"b\r\n").unwrap(), Decoded::Item { item: "b", consumed: 3 });
        assert_eq!(codec.decode(b"\n").unwrap(), Decoded::Item { item: "", consumed: 1 });
        assert_eq!(codec.decode(b"\r\r\n").unwrap(), Decoded::Item { item: "\r", consumed: 3 });
        assert_eq!(codec.decode(b"c\r").unwrap(), Decoded::NeedMore { at_least: 1 });
        assert_eq!(codec.decode(b"c\r\n").unwrap(), Decoded::Item { item: "c", consumed: 3 });
    }

    #[test]
    fn what_was_scanned_is_not_scanned_again() {
        let mut codec = ByteLines::new();
        let mut input = vec![b'x'; 1000];
        assert_eq!(codec.decode(&input).unwrap(), Decoded::NeedMore { at_least: 1 });
        // A decoder that began again would find this one.
        input[500] = b'\n';
        input.push(b'\n');
        let Decoded::Item { consumed, .. } = codec.decode(&input).unwrap() else { panic!("no line") };
        assert_eq!(consumed, 1001);
        let Decoded::Item { consumed, .. } = codec.decode(&input).unwrap() else { panic!("no line") };
        assert_eq!(consumed, 501, "the next line is searched from its start");
    }

    #[test]
    fn the_limit_does_not_count_the_end_of_the_line() {
        for (input, line) in [(&b"abc\n"[..], Some("abc")), (b"abc\r\n", Some("abc")), (b"abcd\n", None)] {
            let result = Lines::new().max_line_bytes(3).decode(input);
            match (result, line) {
                (Ok(Decoded::Item { item, .. }), Some(line)) => assert_eq!(item, line),
                (Err(DecodeError::LineTooLong { limit: 3 }), None) => {}
                (other, _) => panic!("{input:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_line_without_end_is_an_error_as_soon_as_it_is_too_long() {
        let mut codec = ByteLines::new().max_line_bytes(3);
        assert_eq!(codec.decode(b"abc\r").unwrap(), Decoded::NeedMore { at_least: 1 });
        let error = codec.decode(b"abc\rx").unwrap_err();
        assert!(matches!(error, DecodeError::LineTooLong { limit: 3 }));
        assert!(error.to_string().contains("max_line_bytes"), "{error}");
        let mut unlimited = ByteLines::new().max_line_bytes(usize::MAX);
        assert_eq!(unlimited.decode(b"abc").unwrap(), Decoded::NeedMore { at_least: 1 });
    }

    #[test]
    fn invalid_utf8_is_an_error_for_text_only() {
        assert!(matches!(Lines::new().decode(b"\xff\n"), Err(DecodeError::InvalidUtf8(_))));
        let bytes = ByteLines::new().decode(b"\xff\n").unwrap();
        assert_eq!(bytes, Decoded::Item { item: &b"\xff"[..], consumed: 2 });
    }

    #[test]
    fn a_line_that_would_arrive_as_another_is_not_sent() {
        let mut out = b"before".to_vec();
        for line in ["a\nb", "a\n", "a\r"] {
            let error = Lines::new().encode(line, &mut out).unwrap_err();
            assert!(matches!(error, EncodeError::LineBreak), "{line:?}: {error}");
        }
        let error = Lines::new().max_line_bytes(2).encode("abc", &mut out).unwrap_err();
        assert!(matches!(error, EncodeError::LineTooLong { length: 3, limit: 2 }));
        assert_eq!(out, b"before");
        Lines::new().encode("a\rb", &mut out).unwrap();
        assert_eq!(out, b"beforea\rb\n");
    }
}
