//! What holds for every codec and any bytes. Property tests, the replay of the corpus and the fuzz targets share it.

use std::{fmt::Debug, mem::discriminant};

use trochus::codec::{
    Be, ById, ByteLines, Codec, Correlation, Decode, DecodeError, Decoded, Encode, FixedSize, InOrder, Int32,
    Le, LengthDelimited, LengthWidth, Lines, Raw, Records, Tagged,
};

/// Panics when the codec breaks a promise on these bytes.
type Check = fn(&[u8]);

/// One check for each codec. The names are those of the fuzz targets.
pub(crate) const TARGETS: &[(&str, Check)] = &[
    ("by_id", by_id),
    ("byte_lines", byte_lines),
    #[cfg(feature = "json")]
    ("json", json::check),
    ("length_delimited", length_delimited),
    ("lines", lines),
    ("raw", raw),
    ("records", records),
    ("scalars", scalars),
    #[cfg(feature = "zerocopy")]
    ("view", view::check),
];

/// Numbers of every width; the bytes are the wire and the items.
pub(crate) fn scalars(data: &[u8]) {
    any_input::<Int32, InOrder>(Int32, data);
    any_input::<_, InOrder>(Be::<u8>::new(), data);
    any_input::<_, InOrder>(Le::<i16>::new(), data);
    any_input::<_, InOrder>(Be::<u64>::new(), data);
    any_input::<_, InOrder>(Le::<i128>::new(), data);
    let numbers: Vec<i32> = data.as_chunks().0.iter().map(|bytes| i32::from_ne_bytes(*bytes)).collect();
    round_trip(Int32, &numbers);
    round_trip(Le::<i32>::new(), &numbers);
}

/// Records of which not all bytes are a value.
pub(crate) fn records(data: &[u8]) {
    any_input::<_, InOrder>(Records::<Reading>::new(), data);
    let of = |bytes: &[u8; 5]| Reading {
        sensor: u32::from_ne_bytes(*bytes.first_chunk().unwrap()),
        valid: bytes[4] > 9,
    };
    round_trip(Records::new(), &data.as_chunks().0.iter().map(of).collect::<Vec<Reading>>());
}

/// The first byte chooses width, endianness and limit, the rest is the wire and, cut in pieces, the payloads.
pub(crate) fn length_delimited(data: &[u8]) {
    let Some((&choice, data)) = data.split_first() else { return };
    let widths = [LengthWidth::One, LengthWidth::Two, LengthWidth::Four, LengthWidth::Eight];
    let limit = [0, 3, 300, usize::MAX][usize::from(choice >> 2 & 3)];
    let big = LengthDelimited::new().length_width(widths[usize::from(choice & 3)]).max_frame_bytes(limit);
    let codec = if choice & 16 == 0 { big } else { big.little_endian() };
    any_input::<_, InOrder>(codec, data);
    round_trip(codec, &data.chunks(7).map(LengthDelimited::into_owned).collect::<Vec<_>>());
}

/// The first byte is the longest line allowed.
pub(crate) fn lines(data: &[u8]) {
    let Some((&limit, data)) = data.split_first() else { return };
    let codec = Lines::new().max_line_bytes(limit.into());
    any_input::<_, InOrder>(codec.clone(), data);
    round_trip(
        codec,
        &data.chunks(7).map(|piece| String::from_utf8_lossy(piece).into_owned()).collect::<Vec<_>>(),
    );
}

/// The first byte is the longest line allowed.
pub(crate) fn byte_lines(data: &[u8]) {
    let Some((&limit, data)) = data.split_first() else { return };
    let codec = ByteLines::new().max_line_bytes(limit.into());
    any_input::<_, InOrder>(codec.clone(), data);
    round_trip(codec, &data.chunks(7).map(ByteLines::into_owned).collect::<Vec<_>>());
}

/// An id before numbers, frames and lines.
pub(crate) fn by_id(data: &[u8]) {
    any_input::<_, ById>(Int32, data);
    any_input::<_, ById>(LengthDelimited::new().max_frame_bytes(100), data);
    any_input::<_, ById>(Lines::new().max_line_bytes(30), data);
}

/// Bytes go in and out as they are.
pub(crate) fn raw(data: &[u8]) {
    let mut out = b"before".to_vec();
    for piece in data.chunks(5) {
        let Decoded::Item { item, consumed } = Raw.decode(piece).unwrap() else {
            panic!("no item of {piece:?}")
        };
        assert_eq!(consumed, item.len());
        Raw.encode(item, &mut out).unwrap();
    }
    assert_eq!(out, [b"before", data].concat());
}

#[derive(Clone, Debug, PartialEq)]
struct Reading {
    sensor: u32,
    valid: bool,
}

impl FixedSize for Reading {
    const SIZE: usize = 5;

    fn write(&self, out: &mut [u8]) {
        out[..4].copy_from_slice(&self.sensor.to_le_bytes());
        out[4] = self.valid.into();
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (sensor, valid) = bytes.split_first_chunk()?;
        let valid = match valid {
            [0] => false,
            [1] => true,
            _ => return None,
        };
        Some(Self { sensor: u32::from_le_bytes(*sensor), valid })
    }
}

#[cfg(feature = "json")]
mod json {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Serialize};
    use trochus::codec::Json;

    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Entry {
        text: String,
        number: i64,
        set: Option<BTreeMap<String, bool>>,
        list: Option<Vec<Entry>>,
    }

    /// The bytes are the wire and, cut in pieces, the texts.
    pub(crate) fn check(data: &[u8]) {
        let codec = Json::<Entry>::new().max_line_bytes(400);
        any_input::<_, InOrder>(codec.clone(), data);
        let of = |piece: &[u8]| {
            let text = String::from_utf8_lossy(piece).into_owned();
            let set = (piece.len() > 3).then(|| BTreeMap::from([(text.clone(), true)]));
            Entry { number: piece.len() as i64 - 4, set, list: None, text }
        };
        round_trip(codec, &data.chunks(7).map(of).collect::<Vec<_>>());
    }
}

#[cfg(feature = "zerocopy")]
mod view {
    use trochus::codec::View;
    use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, TryFromBytes, Unaligned, big_endian::I32};

    use super::*;

    #[derive(Clone, Debug, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
    #[repr(C)]
    struct Point {
        x: I32,
        tag: [u8; 3],
    }

    #[derive(Clone, Debug, PartialEq, TryFromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
    #[repr(C)]
    struct Checked {
        flag: bool,
        y: I32,
    }

    pub(crate) fn check(data: &[u8]) {
        any_input::<_, InOrder>(View::<Point>::new(), data);
        any_input::<_, InOrder>(View::<Checked>::new(), data);
        let of = |bytes: &[u8; 7]| Point::read_from_bytes(bytes).unwrap();
        round_trip(View::new(), &data.as_chunks().0.iter().map(of).collect::<Vec<Point>>());
    }
}

/// What a decoder made of a whole stream.
#[derive(Debug)]
struct Outcome<T> {
    items: Vec<T>,
    /// Where the last item ended.
    consumed: usize,
    error: Option<DecodeError>,
}

impl<T: PartialEq + Debug> Outcome<T> {
    fn assert_same(&self, other: &Self, how: &str) {
        let kind = |outcome: &Self| outcome.error.as_ref().map(discriminant);
        assert_eq!((&self.items, self.consumed), (&other.items, other.consumed), "{how}");
        assert_eq!(kind(self), kind(other), "{how}: {:?} and {:?}", self.error, other.error);
    }
}

/// Any bytes: the decoder neither panics nor overreads, and it does not matter in which pieces they come. What is
/// decoded survives encoding and decoding once more.
fn any_input<C: Codec, K: Correlation>(codec: C, data: &[u8])
where
    C::Owned: PartialEq + Debug,
{
    let whole = decode_in_pieces::<C, K>(&codec, data, [data.len()]);
    decode_in_pieces::<C, K>(&codec, data, 0..=data.len()).assert_same(&whole, "byte by byte");
    if data.len() <= 128 {
        for cut in 0..data.len() {
            decode_in_pieces::<C, K>(&codec, data, [cut, data.len()]).assert_same(&whole, "cut in two");
        }
    }
    let items: Vec<C::Owned> = whole.items.into_iter().map(|(_, item)| item).collect();
    round_trip(codec, &items);
}

/// Decodes `data` as a connection would: what arrived up to each of the `ends`, without what was consumed.
fn decode_in_pieces<C: Codec, K: Correlation>(
    codec: &C,
    data: &[u8],
    ends: impl IntoIterator<Item = usize>,
) -> Outcome<(K::Id, C::Owned)> {
    let mut codec = codec.clone();
    let mut outcome = Outcome { items: Vec::new(), consumed: 0, error: None };
    let mut no_item_before = 0;
    for end in ends {
        loop {
            // A copy, so that the bytes lie at another address each time, and reading beyond them can be found.
            let input = data[outcome.consumed..end].to_vec();
            match K::decode(&mut codec, &input) {
                Ok(Decoded::Item { item, consumed }) => {
                    assert!((1..=input.len()).contains(&consumed), "{consumed} of {} bytes", input.len());
                    assert!(end >= no_item_before, "an item at {end}, before {no_item_before}");
                    outcome.items.push(own::<C, K>(item));
                    outcome.consumed += consumed;
                }
                Ok(Decoded::NeedMore { at_least }) => {
                    assert!(at_least >= 1);
                    let most = K::max_item_bytes(&codec).expect("each codec of ours knows");
                    assert!(input.len() < most, "no item after {} bytes, the most are {most}", input.len());
                    no_item_before = end.saturating_add(at_least);
                    break;
                }
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    outcome.error = Some(error);
                    return outcome;
                }
            }
        }
    }
    let rest = &data[outcome.consumed..];
    match K::decode_eof(&mut codec, rest) {
        Ok(last) => assert!(last.is_none() && rest.is_empty(), "{rest:?} at the end"),
        Err(DecodeError::UnexpectedEnd { bytes }) => assert!(bytes > 0 && bytes <= rest.len()),
        Err(error) => panic!("{error}"),
    }
    outcome
}

fn own<C: Codec, K: Correlation>((id, item): Tagged<'_, K, C>) -> (K::Id, C::Owned) {
    (id, C::into_owned(item))
}

/// Items that can be encoded are decoded as they were; those that cannot leave nothing behind. At once is as one by one.
fn round_trip<C: Codec>(mut codec: C, items: &[C::Owned])
where
    C::Owned: PartialEq + Debug,
{
    let decoder = codec.clone();
    let mut wire = Vec::new();
    let mut sent = Vec::new();
    for item in items {
        let before = wire.clone();
        match codec.encode(item, &mut wire) {
            Ok(()) => {
                assert_eq!(wire[..before.len()], before);
                sent.push(((), item));
            }
            Err(error) => assert_eq!(wire, before, "{error}"),
        }
    }
    let received = decode_in_pieces::<C, InOrder>(&decoder, &wire, [wire.len()]);
    assert_eq!((received.consumed, received.items.len()), (wire.len(), sent.len()), "{:?}", received.error);
    assert!(received.items.iter().zip(&sent).all(|((_, received), (_, sent))| received == *sent), "{sent:?}");

    let mut at_once = Vec::new();
    match codec.encode_all(items, &mut at_once) {
        Ok(()) => assert_eq!(at_once, wire),
        Err(error) => {
            assert!(error.index < items.len() && sent.len() < items.len());
            assert!(wire.starts_with(&at_once));
        }
    }
}
