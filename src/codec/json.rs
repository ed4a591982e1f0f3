//! One JSON value a line.

use std::{any::type_name, fmt, marker::PhantomData};

use serde::{Serialize, de::DeserializeOwned};

use super::{
    ByMember, ByteLines, Correlated, Decode, DecodeError, Decoded, Encode, EncodeError, InOrder, Protocol,
};

/// A protocol whose requests and responses are one JSON value a line each.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use trochus::codec::JsonLines;
///
/// #[derive(Serialize, Deserialize)]
/// struct Question { text: String }
/// #[derive(Serialize, Deserialize)]
/// struct Answer { number: i64 }
///
/// let protocol = JsonLines::<Question, Answer>::new().max_line_bytes(4096);
/// # let _ = protocol;
/// ```
pub struct JsonLines<Req, Res> {
    lines: ByteLines,
    types: PhantomData<fn() -> (Req, Res)>,
}

impl<Req, Res> JsonLines<Req, Res> {
    /// Lines of up to [`DEFAULT_MAX_LINE_BYTES`](super::DEFAULT_MAX_LINE_BYTES).
    #[must_use]
    pub const fn new() -> Self {
        Self { lines: ByteLines::new(), types: PhantomData }
    }

    /// The longest line that is received or sent, in bytes, without its end.
    #[must_use]
    pub fn max_line_bytes(self, bytes: usize) -> Self {
        Self { lines: self.lines.max_line_bytes(bytes), ..self }
    }

    /// Each value is an object, and its `"id"` member says which response belongs to which request: so peers in any language
    /// can answer out of order, as with JSON-RPC 2.0. See [`ByMember`].
    ///
    /// ```
    /// use serde::{Deserialize, Serialize};
    /// use trochus::codec::{ByMember, Correlation, JsonId, JsonLines, Protocol};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// #[serde(tag = "method", content = "params", rename_all = "snake_case")]
    /// enum Request { Add(i64, i64) }
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Response { result: i64 }
    ///
    /// let protocol = JsonLines::<Request, Response>::new().by_member();
    /// let mut wire = Vec::new();
    /// let id = JsonId::Number(7);
    /// ByMember::encode(&mut protocol.request_codec(), id.clone(), &Request::Add(1, 2), &mut wire)?;
    /// ByMember::encode(&mut protocol.response_codec(), id, &Response { result: 3 }, &mut wire)?;
    /// assert_eq!(wire, b"{\"id\":7,\"method\":\"add\",\"params\":[1,2]}\n{\"id\":7,\"result\":3}\n");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn by_member(self) -> Correlated<Self, ByMember> {
        Correlated::new(self)
    }
}

impl<Req, Res> Protocol for JsonLines<Req, Res>
where
    Req: Serialize + DeserializeOwned + Send + 'static,
    Res: Serialize + DeserializeOwned + Send + 'static,
{
    type RequestCodec = Json<Req>;
    type ResponseCodec = Json<Res>;
    type Correlation = InOrder;

    fn request_codec(&self) -> Json<Req> {
        Json { lines: self.lines.clone(), item: PhantomData }
    }

    fn response_codec(&self) -> Json<Res> {
        Json { lines: self.lines.clone(), item: PhantomData }
    }
}

impl<Req, Res> Clone for JsonLines<Req, Res> {
    fn clone(&self) -> Self {
        Self { lines: self.lines.clone(), types: PhantomData }
    }
}

impl<Req, Res> Default for JsonLines<Req, Res> {
    fn default() -> Self {
        Self::new()
    }
}

impl<Req, Res> fmt::Debug for JsonLines<Req, Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = format_args!("JsonLines<{}, {}>", type_name::<Req>(), type_name::<Res>()).to_string();
        f.debug_struct(&name).field("lines", &self.lines).finish()
    }
}

/// One direction of [`JsonLines`]: values of `T`, one a line. Both LF and CRLF end a line; LF is written.
///
/// An empty line is an error, since it is no JSON value. Values may be nested up to 127 deep.
///
/// With the feature `json-simd` sonic-rs does the work; the values and the wire are the same, the texts of errors are not. It is worth
/// it for long strings, which it writes several times faster; short values are not read faster. Measure with one's own:
/// `cargo bench --bench codec -- json-parser`.
pub struct Json<T> {
    lines: ByteLines,
    item: PhantomData<fn() -> T>,
}

impl<T> Json<T> {
    /// Lines of up to [`DEFAULT_MAX_LINE_BYTES`](super::DEFAULT_MAX_LINE_BYTES).
    #[must_use]
    pub const fn new() -> Self {
        Self { lines: ByteLines::new(), item: PhantomData }
    }

    /// The longest line that is received or sent, in bytes, without its end.
    #[must_use]
    pub fn max_line_bytes(self, bytes: usize) -> Self {
        Self { lines: self.lines.max_line_bytes(bytes), ..self }
    }
}

impl<T: DeserializeOwned + Send + 'static> Decode for Json<T> {
    type Item<'a> = T;
    type Owned = T;

    fn decode(&mut self, input: &[u8]) -> Result<Decoded<T>, DecodeError> {
        match self.lines.decode(input)? {
            Decoded::Item { item: line, consumed } => {
                Ok(Decoded::Item { item: parser::parse(line)?, consumed })
            }
            Decoded::NeedMore { at_least } => Ok(Decoded::NeedMore { at_least }),
        }
    }

    fn max_item_bytes(&self) -> Option<usize> {
        self.lines.max_item_bytes()
    }

    #[inline]
    fn into_owned(item: T) -> T {
        item
    }
}

impl<T: Serialize> Encode<T> for Json<T> {
    fn encode(&mut self, item: &T, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        match parser::write(item, out) {
            // A value that brings its own JSON text may hold line feeds, so this is checked as for any line.
            Ok(()) => self.lines.end_line(start, out),
            Err(error) => {
                out.truncate(start);
                Err(error)
            }
        }
    }
}

impl<T> Clone for Json<T> {
    fn clone(&self) -> Self {
        Self { lines: self.lines.clone(), item: PhantomData }
    }
}

impl<T> Default for Json<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Json<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = format_args!("Json<{}>", type_name::<T>()).to_string();
        f.debug_struct(&name).field("lines", &self.lines).finish()
    }
}

#[cfg(not(feature = "json-simd"))]
mod parser {
    use super::*;

    #[inline]
    pub(super) fn parse<T: DeserializeOwned>(line: &[u8]) -> Result<T, DecodeError> {
        serde_json::from_slice(line).map_err(|error| DecodeError::Json(error.into()))
    }

    #[inline]
    pub(super) fn write<T: Serialize>(item: &T, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        serde_json::to_writer(out, item).map_err(|error| EncodeError::Json(error.into()))
    }
}

#[cfg(feature = "json-simd")]
mod parser {
    use memchr::memchr2_iter;

    use super::*;

    /// How deep values may be nested: the depth at which `serde_json` stops.
    const MAX_DEPTH: usize = 127;

    #[inline]
    pub(super) fn parse<T: DeserializeOwned>(line: &[u8]) -> Result<T, DecodeError> {
        // sonic-rs descends without a limit when it skips what `T` has no field for, so a long row of brackets would overflow
        // the stack. A line that has too few brackets to be deep is safe; the others go to the parser that counts.
        if line.len() > MAX_DEPTH && memchr2_iter(b'[', b'{', line).nth(MAX_DEPTH).is_some() {
            return serde_json::from_slice(line).map_err(|error| DecodeError::Json(error.into()));
        }
        sonic_rs::from_slice(line).map_err(|error| DecodeError::Json(error.into()))
    }

    #[inline]
    pub(super) fn write<T: Serialize>(item: &T, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        sonic_rs::to_writer(out, item).map_err(|error| EncodeError::Json(error.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    struct Entry {
        text: String,
        next: Option<Box<Entry>>,
    }

    fn entry(text: &str) -> Entry {
        Entry { text: text.to_owned(), next: None }
    }

    #[test]
    fn a_value_is_a_line() {
        let (mut codec, mut out) = (Json::<Entry>::new(), Vec::new());
        codec.encode(&entry("two\nlines"), &mut out).unwrap();
        assert_eq!(out, b"{\"text\":\"two\\nlines\",\"next\":null}\n");
        let consumed = out.len();
        assert_eq!(codec.decode(&out).unwrap(), Decoded::Item { item: entry("two\nlines"), consumed });
        assert_eq!(Json::<i32>::new().decode(b" 7 \r\n").unwrap(), Decoded::Item { item: 7, consumed: 5 });
    }

    #[test]
    fn what_is_not_the_json_expected_is_an_error() {
        let lines: [&[u8]; 6] = [
            b"\n",
            b"{\"text\":1}\n",
            b"{\"text\":\"\xff\"}\n",
            b"{\"text\":\"a\"} {}\n",
            b"{\"text\":\"a\n",
            b"nonsense\n",
        ];
        for line in lines {
            let error = Json::<Entry>::new().decode(line).unwrap_err();
            assert!(matches!(error, DecodeError::Json(_)), "{line:?}: {error}");
        }
    }

    fn nested(depth: usize, open: &str, close: &str) -> String {
        format!("{}null{}\n", open.repeat(depth), close.repeat(depth))
    }

    #[test]
    fn deep_json_is_an_error_and_not_a_crash() {
        let open = r#"{"text":"","next":"#;
        assert!(Json::<Entry>::new().decode(nested(127, open, "}").as_bytes()).is_ok());
        for depth in [128, 200, 1000, 1_000_000] {
            let line = nested(depth, open, "}");
            let error = Json::<Entry>::new().max_line_bytes(usize::MAX).decode(line.as_bytes()).unwrap_err();
            assert!(matches!(error, DecodeError::Json(_)), "{depth}: {error}");
        }
        // What no field takes is skipped, at any depth; and brackets in strings are text.
        let skipped = format!(r#"{{"text":"{}","other":{}"#, "[".repeat(200), nested(1_000_000, "[", "]"));
        let line = skipped.trim_end().to_owned() + "}\n";
        let decoded = Json::<Entry>::new().max_line_bytes(usize::MAX).decode(line.as_bytes()).unwrap();
        assert_eq!(decoded, Decoded::Item { item: entry(&"[".repeat(200)), consumed: line.len() });
    }

    #[test]
    fn what_cannot_be_written_leaves_nothing_behind() {
        let mut out = b"before".to_vec();
        let no_string_keys = HashMap::from([((1, 2), 3)]);
        let error = Json::new().encode(&no_string_keys, &mut out).unwrap_err();
        assert!(matches!(error, EncodeError::Json(_)), "{error}");
        let error = Json::new().max_line_bytes(5).encode(&"long text", &mut out).unwrap_err();
        assert!(matches!(error, EncodeError::LineTooLong { length: 11, limit: 5 }), "{error}");
        assert_eq!(out, b"before");
    }

    #[test]
    fn the_limit_of_a_line_counts_both_ways() {
        let protocol = JsonLines::<String, String>::new().max_line_bytes(20);
        let (fits, does_not) = ("x".repeat(18), "x".repeat(19));
        for mut codec in [protocol.request_codec(), protocol.response_codec()] {
            let mut out = Vec::new();
            codec.encode(&fits, &mut out).unwrap();
            assert_eq!(codec.decode(&out).unwrap(), Decoded::Item { item: fits.clone(), consumed: 21 });
            let error = codec.encode(&does_not, &mut out).unwrap_err();
            assert!(matches!(error, EncodeError::LineTooLong { length: 21, limit: 20 }), "{error}");
            let error = codec.decode(format!("\"{does_not}\"\n").as_bytes()).unwrap_err();
            assert!(matches!(error, DecodeError::LineTooLong { limit: 20 }), "{error}");
            assert_eq!(codec.max_item_bytes(), Some(22));
        }
    }

    /// Whichever parser is built in, what it accepts, reads and writes is what `serde_json` does.
    #[test]
    fn the_parser_built_in_agrees_with_the_reference() {
        let lines = [
            r#"{"text":"a","next":null}"#,
            r#"{"text":"\u00e9\n\ud83d\ude00\/\u0000"}"#,
            r#"{"text":"\ud83d"}"#,
            r#"{"text":"","text":""}"#,
            r#"{"text":"","unknown":[1.5e3,{"a":"\""}]}"#,
            r#"{"text":"",}"#,
            r#"{"next":null}"#,
            r#"["a",null]"#,
            "{\"text\":\"a\tb\"}",
            " \t{ \"text\" : \"\u{10ffff}\" } ",
        ];
        for line in lines {
            let ours = Json::<Entry>::new().decode(format!("{line}\n").as_bytes());
            match (ours, serde_json::from_str::<Entry>(line)) {
                (Ok(Decoded::Item { item, .. }), Ok(reference)) => assert_eq!(item, reference, "{line}"),
                (Err(_), Err(_)) => {}
                (ours, reference) => panic!("{line}: {ours:?}, but {reference:?}"),
            }
        }
        let numbers = [0.0, -0.0, 0.1, 1.5e300, 5e-324, 1e16, 123_456_789.0, f64::MAX, f64::NAN];
        for number in numbers {
            let mut out = Vec::new();
            Json::new().encode(&(number, number as i64, "\u{7f}\u{1}\"\\/é"), &mut out).unwrap();
            let reference = serde_json::to_string(&(number, number as i64, "\u{7f}\u{1}\"\\/é")).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), reference + "\n");
        }
    }
}
