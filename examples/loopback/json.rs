//! `json`: one JSON object a line, read into and written from structs that own their strings.

use crate::Result;
use crate::experiment::Experiment;
use crate::load::Load;
use crate::options::Options;
use crate::report::{Progress, Report};
use crate::requests::{Drive, OUTPUT_BYTES, Plan, Shape, run};
use serde::{Deserialize, Serialize};
use trochus::codec::{ByteLines, Decode, DecodeError, Decoded, Encode, EncodeError};

pub(crate) const JSON: Experiment =
    Experiment { name: "json", about: "objects of six fields over 32 connections", run: json, client: None };

const SHAPE: Shape = Shape {
    connections: 32,
    producers: 32,
    drive: Drive::Producers,
    burst: 5120,
    batch: 5120,
    lane: 1024,
    output_bytes: OUTPUT_BYTES,
    outstanding: 256,
};

fn json(options: &Options, progress: &mut Progress, report: Report<'_>) -> Result<()> {
    // On average, of numbers as large as they become in seconds.
    const SOME: u64 = 16 * 53;
    let mut lines = Vec::new();
    (0..SOME).try_for_each(|number| {
        JsonLines::new().encode(&Objects.request(0, (1 << 20) + number), &mut lines)
    })?;
    let size = lines.len() / SOME as usize;
    run(options, &Plan::new(JSON.name, Objects, size, SHAPE, options)?, progress, report)
}

#[derive(Debug, Serialize, Deserialize)]
struct Object {
    msg: String,
    bla: i64,
    foo: String,
    bar: i64,
    go_routine_index: u32,
    is_final_message: bool,
}

#[derive(Clone, Copy, Debug)]
struct Objects;

const TEXT: &str = "The quick brown fox jumps over the lazy dog, and the five boxing wizards jump quickly.";

/// Pieces of the text, of 10 to 25 bytes.
#[inline]
fn text(number: u64) -> &'static str {
    let (start, length) = (number % 53, 10 + number % 16);
    &TEXT[start as usize..(start + length) as usize]
}

impl Load for Objects {
    type Protocol = JsonLines;

    fn protocol(&self) -> JsonLines {
        JsonLines::new()
    }

    #[inline]
    fn request(&self, producer: u32, number: u64) -> Object {
        Object {
            msg: text(number).to_owned(),
            bla: number as i64,
            foo: text(number.wrapping_add(u64::from(producer))).to_owned(),
            bar: !(number as i64),
            go_routine_index: producer,
            is_final_message: number.is_multiple_of(5),
        }
    }

    #[inline]
    fn answer(request: Object) -> Object {
        request
    }

    #[inline]
    fn producer(response: &Object) -> u32 {
        response.go_routine_index
    }

    #[inline]
    fn is_right(&self, producer: u32, number: u64, response: &Object) -> bool {
        response.msg == text(number)
            && response.bla == number as i64
            && response.foo == text(number.wrapping_add(u64::from(producer)))
            && response.bar == !(number as i64)
            && response.go_routine_index == producer
            && response.is_final_message == number.is_multiple_of(5)
    }
}

/// What `trochus::codec::JsonLines` is, for this one type, so that the example needs no feature of the library.
#[derive(Clone, Debug)]
struct JsonLines(ByteLines);

impl JsonLines {
    const fn new() -> Self {
        JsonLines(ByteLines::new())
    }
}

impl Decode for JsonLines {
    type Item<'a> = Object;
    type Owned = Object;

    #[inline]
    fn decode(&mut self, input: &[u8]) -> Result<Decoded<Object>, DecodeError> {
        Ok(match self.0.decode(input)? {
            Decoded::Item { item, consumed } => {
                Decoded::Item { item: serde_json::from_slice(item).map_err(DecodeError::custom)?, consumed }
            }
            Decoded::NeedMore { at_least } => Decoded::NeedMore { at_least },
        })
    }

    #[inline]
    fn into_owned(item: Object) -> Object {
        item
    }
}

impl Encode<Object> for JsonLines {
    #[inline]
    fn encode(&mut self, item: &Object, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        // Nothing that writes these fields fails half-way, and none of them brings a line feed of its own.
        serde_json::to_writer(&mut *out, item).map_err(EncodeError::custom)?;
        out.push(b'\n');
        Ok(())
    }
}
