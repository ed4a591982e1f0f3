//! Ids inside of JSON values.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{
    Correlation, CorrelationKind, Decode, DecodeError, Decoded, Encode, EncodeError, Matching, Tagged,
};

/// The longest id that is a string, in bytes. A server keeps one for each request in progress.
const MAX_TEXT_BYTES: usize = 128;

/// The largest integer that every language's JSON numbers hold exactly.
const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

/// Request and response are JSON objects with the same `"id"` member, as in JSON-RPC 2.0; made by
/// [`JsonLines::by_member`](super::JsonLines::by_member).
///
/// The id is beside the value's own members, so the type of a request or response has none of that name, and does not deny unknown
/// fields. What is no object (a number, a list, a unit) cannot be sent. A client of trochus numbers its calls; a server
/// answers with the id that came, whatever [`JsonId`] it is, and answers nothing to a request without one.
#[derive(Clone, Copy, Debug)]
pub struct ByMember;

/// The `"id"` of a JSON object: an integer, a string of up to 128 bytes, or `null`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum JsonId {
    /// There is none: the request is a notification, to which there is no response.
    Absent,
    /// `null`.
    Null,
    /// An integer from 0.
    Number(u64),
    /// An integer below 0.
    Negative(i64),
    /// A string.
    Text(Box<str>),
}

impl Correlation for ByMember {
    type Id = JsonId;

    const KIND: CorrelationKind = CorrelationKind::ById;
    const MAX_NUMBER: u64 = MAX_SAFE_INTEGER;

    fn id_from(number: u64) -> JsonId {
        JsonId::Number(number)
    }

    fn number_of(id: JsonId) -> Option<u64> {
        match id {
            JsonId::Number(number) if number <= MAX_SAFE_INTEGER => Some(number),
            _ => None,
        }
    }

    fn decode<'a, D: Decode>(
        decoder: &mut D,
        input: &'a [u8],
    ) -> Result<Decoded<Tagged<'a, Self, D>>, DecodeError> {
        match decoder.decode(input)? {
            Decoded::Item { item, consumed } => {
                let Envelope { id } = serde_json::from_slice(&input[..consumed])
                    .map_err(|error| DecodeError::Json(error.into()))?;
                Ok(Decoded::Item { item: (id, item), consumed })
            }
            Decoded::NeedMore { at_least } => Ok(Decoded::NeedMore { at_least }),
        }
    }

    fn encode<T: ?Sized, E: Encode<T>>(
        encoder: &mut E,
        id: JsonId,
        item: &T,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        if id == JsonId::Absent {
            return Ok(()); // nobody waits for it
        }
        let start = out.len();
        let result = write(encoder, &id, item, out);
        if result.is_err() {
            out.truncate(start);
        }
        result
    }
}

impl Matching for ByMember {}

/// `{"id":7` and then the item, its opening brace turned into a comma.
fn write<T: ?Sized, E: Encode<T>>(
    encoder: &mut E,
    id: &JsonId,
    item: &T,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    out.extend_from_slice(br#"{"id":"#);
    serde_json::to_writer(&mut *out, id).map_err(|error| EncodeError::Json(error.into()))?;
    let brace = out.len();
    encoder.encode(item, out)?;
    match &mut out[brace..] {
        [b'{', b'}', ..] => drop(out.remove(brace)),
        [opening @ b'{', ..] => *opening = b',',
        _ => {
            return Err(EncodeError::custom("an id needs a JSON object to be a member of, and this is none"));
        }
    }
    Ok(())
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(default = "absent")]
    id: JsonId,
}

fn absent() -> JsonId {
    JsonId::Absent
}

impl Serialize for JsonId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Absent | Self::Null => serializer.serialize_unit(),
            Self::Number(number) => serializer.serialize_u64(*number),
            Self::Negative(number) => serializer.serialize_i64(*number),
            Self::Text(text) => serializer.serialize_str(text),
        }
    }
}

impl<'de> Deserialize<'de> for JsonId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyId)
    }
}

struct AnyId;

impl de::Visitor<'_> for AnyId {
    type Value = JsonId;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an id: an integer, a string of up to {MAX_TEXT_BYTES} bytes, or null")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<JsonId, E> {
        Ok(JsonId::Number(number))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<JsonId, E> {
        Ok(u64::try_from(number).map_or(JsonId::Negative(number), JsonId::Number))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<JsonId, E> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(E::invalid_length(text.len(), &self));
        }
        Ok(JsonId::Text(text.into()))
    }

    fn visit_unit<E: de::Error>(self) -> Result<JsonId, E> {
        Ok(JsonId::Null)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::codec::Json;

    type Object = BTreeMap<String, i32>;

    fn object<const N: usize>(members: [(&str, i32); N]) -> Object {
        members.map(|(name, value)| (name.to_owned(), value)).into()
    }

    fn encoded(id: JsonId, item: &Object) -> String {
        let mut out = b"before".to_vec();
        ByMember::encode(&mut Json::<Object>::new(), id, item, &mut out).unwrap();
        String::from_utf8(out).unwrap().strip_prefix("before").unwrap().to_owned()
    }

    #[derive(Debug, PartialEq, Deserialize, Serialize)]
    struct Line {
        method: String,
    }

    fn decoded(line: &str) -> Result<JsonId, DecodeError> {
        let mut codec = Json::<Line>::new();
        match ByMember::decode(&mut codec, line.as_bytes())? {
            Decoded::Item { item: (id, item), consumed } => {
                assert_eq!((item.method.as_str(), consumed), ("add", line.len()));
                Ok(id)
            }
            Decoded::NeedMore { .. } => panic!("no line: {line:?}"),
        }
    }

    #[test]
    fn an_id_is_a_member_beside_the_others() {
        assert_eq!(encoded(JsonId::Number(7), &object([("a", 1), ("b", 2)])), "{\"id\":7,\"a\":1,\"b\":2}\n");
        assert_eq!(encoded(JsonId::Number(7), &object([])), "{\"id\":7}\n");
        assert_eq!(encoded(JsonId::Null, &object([])), "{\"id\":null}\n");
        assert_eq!(encoded(JsonId::Negative(-7), &object([])), "{\"id\":-7}\n");
        assert_eq!(
            encoded(JsonId::Text("a\"\n".into()), &object([("a", 1)])),
            "{\"id\":\"a\\\"\\n\",\"a\":1}\n"
        );
    }

    #[test]
    fn to_a_notification_there_is_no_response() {
        assert_eq!(encoded(JsonId::Absent, &object([("a", 1)])), "");
    }

    #[test]
    fn an_id_is_read_wherever_it_stands() {
        let lines = [
            (r#"{"jsonrpc":"2.0","id":7,"method":"add"}"#, JsonId::Number(7)),
            (r#" { "method" : "add" , "id" : 18446744073709551615 } "#, JsonId::Number(u64::MAX)),
            (r#"{"method":"add","id":-1}"#, JsonId::Negative(-1)),
            (r#"{"method":"add","params":{"id":3},"id":"\u0061b"}"#, JsonId::Text("ab".into())),
            (r#"{"method":"add","id":null}"#, JsonId::Null),
            (r#"{"method":"add","params":{"id":3}}"#, JsonId::Absent),
        ];
        for (line, id) in lines {
            assert_eq!(decoded(&format!("{line}\r\n")).unwrap(), id, "{line}");
        }
        let longest = "x".repeat(MAX_TEXT_BYTES);
        let line = |id: &str| format!("{{\"method\":\"add\",\"id\":\"{id}\"}}\n");
        assert_eq!(decoded(&line(&longest)).unwrap(), JsonId::Text(longest.clone().into()));
        assert!(decoded(&line(&(longest + "x"))).unwrap_err().to_string().contains("128 bytes"));
    }

    #[test]
    fn what_is_no_id_is_an_error() {
        for id in ["1.5", "true", "[]", "{}", "1,\"id\":2"] {
            let error = decoded(&format!("{{\"method\":\"add\",\"id\":{id}}}\n")).unwrap_err();
            assert!(matches!(error, DecodeError::Json(_)), "{id}: {error}");
        }
        // A value of its own is fine, but it has no member.
        let error = ByMember::decode(&mut Json::<i32>::new(), b"5\n").map(drop).unwrap_err();
        assert!(matches!(error, DecodeError::Json(_)), "{error}");
    }

    #[test]
    fn what_cannot_be_written_leaves_nothing_behind() {
        let mut out = b"before".to_vec();
        let error = ByMember::encode(&mut Json::<i32>::new(), JsonId::Number(7), &5, &mut out).unwrap_err();
        assert!(error.to_string().contains("object"), "{error}");
        let mut short = Json::<Object>::new().max_line_bytes(5);
        assert!(ByMember::encode(&mut short, JsonId::Number(7), &object([("a", 1)]), &mut out).is_err());
        assert_eq!(out, b"before");
    }

    #[test]
    fn a_clients_ids_come_back_as_their_numbers() {
        for number in [0, 1, MAX_SAFE_INTEGER] {
            assert_eq!(ByMember::number_of(ByMember::id_from(number)), Some(number));
        }
        for id in [
            JsonId::Absent,
            JsonId::Null,
            JsonId::Negative(-1),
            JsonId::Number(1 << 53),
            JsonId::Text("1".into()),
        ] {
            assert_eq!(ByMember::number_of(id), None);
        }
    }
}
