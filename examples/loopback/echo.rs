//! `echo4`, `echo4-shared` and `echo276`: small messages of fixed size, each of them a call and a callback.

use crate::experiment::Experiment;
use crate::load::Load;
use crate::options::Options;
use crate::pattern::Pattern;
use crate::report::{Progress, Report};
use crate::requests::{Drive, Plan, Shape, run};
use crate::{Result, requests};
use trochus::codec::{Decode, DecodeError, Decoded, Encode, EncodeError, Int32};

pub(crate) const ECHO4: Experiment = Experiment {
    name: "echo4",
    about: "int32 requests over 512 connections, by a producer for each; or --drive reactor, threads",
    run: echo4,
    client: None,
};

pub(crate) const ECHO4_SHARED: Experiment = Experiment {
    name: "echo4-shared",
    about: "int32 requests from 512 threads through one connection",
    run: echo4_shared,
    client: None,
};

pub(crate) const ECHO276: Experiment = Experiment {
    name: "echo276",
    about: "requests of an int32, two int64 and 256 bytes over 12 connections",
    run: echo276,
    client: None,
};

fn echo4(options: &Options, progress: &mut Progress, report: Report<'_>) -> Result<()> {
    run(options, &Plan::new(ECHO4.name, Numbers, 4, ECHO4_SHAPE, options)?, progress, report)
}

fn echo4_shared(options: &Options, progress: &mut Progress, report: Report<'_>) -> Result<()> {
    let shape = Shape { connections: 1, drive: Drive::Shared, ..ECHO4_SHAPE };
    run(options, &Plan::new(ECHO4_SHARED.name, Numbers, 4, shape, options)?, progress, report)
}

fn echo276(options: &Options, progress: &mut Progress, report: Report<'_>) -> Result<()> {
    let load = Records(Pattern::new());
    run(options, &Plan::new(ECHO276.name, load, RECORD_BYTES, ECHO276_SHAPE, options)?, progress, report)
}

const ECHO4_SHAPE: Shape = Shape {
    connections: 512,
    producers: 512,
    drive: Drive::Producers,
    burst: 5120,
    batch: 16_384,
    lane: 10_240,
    output_bytes: requests::OUTPUT_BYTES,
    // 64 000 bytes: one segment on the loopback interface, where 2^14 would be two.
    outstanding: 16_000,
};

const ECHO276_SHAPE: Shape = Shape {
    connections: 12,
    producers: 12,
    drive: Drive::Producers,
    burst: SEGMENT_276,
    batch: SEGMENT_276,
    lane: 1024,
    output_bytes: requests::OUTPUT_BYTES,
    outstanding: 4 * SEGMENT_276 as u64,
};

/// So many records fill a segment on the loopback interface.
const SEGMENT_276: usize = 65_483 / RECORD_BYTES;

/// Numbers whose upper bits are the producer, and the lower ones its own count.
#[derive(Clone, Copy, Debug)]
struct Numbers;

const COUNT_BITS: u32 = 22;

#[inline]
fn number(producer: u32, number: u64) -> i32 {
    (producer << COUNT_BITS | (number as u32 & ((1 << COUNT_BITS) - 1))) as i32
}

impl Load for Numbers {
    type Protocol = Int32;

    const MOST_PRODUCERS: usize = 1 << (i32::BITS - COUNT_BITS);

    fn protocol(&self) -> Int32 {
        Int32
    }

    #[inline]
    fn request(&self, producer: u32, count: u64) -> i32 {
        number(producer, count)
    }

    /// The next number: with the same one, decoding and encoding could cancel each other out.
    #[inline]
    fn answer(request: i32) -> i32 {
        request.wrapping_add(1)
    }

    #[inline]
    fn producer(response: &i32) -> u32 {
        response.wrapping_sub(1) as u32 >> COUNT_BITS
    }

    #[inline]
    fn is_right(&self, producer: u32, count: u64, response: &i32) -> bool {
        *response == number(producer, count).wrapping_add(1)
    }
}

/// The struct of `echo276`: as it is sent, with the content its own, and as it is received, with the content where it lies.
#[derive(Clone, Copy, Debug)]
struct Record<B> {
    producer: i32,
    number: i64,
    check: i64,
    content: B,
}

type Content = [u8; 256];
const RECORD_BYTES: usize = size_of::<i32>() + 2 * size_of::<i64>() + size_of::<Content>();

/// The fields one after the other, integers in network byte order.
#[derive(Clone, Copy, Debug)]
struct RecordCodec;

impl Decode for RecordCodec {
    type Item<'a> = Record<&'a Content>;
    type Owned = Record<Content>;

    #[inline]
    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Decoded<Record<&'a Content>>, DecodeError> {
        let Some(bytes) = input.first_chunk::<RECORD_BYTES>() else {
            return Ok(Decoded::NeedMore { at_least: RECORD_BYTES - input.len() });
        };
        let (integers, content) = bytes.split_last_chunk().expect("a record is longer than its content");
        let (producer, rest) = integers.split_first_chunk().expect("there are 20 bytes");
        let (number, check) = rest.split_first_chunk().expect("there are 16 bytes");
        let item = Record {
            producer: i32::from_be_bytes(*producer),
            number: i64::from_be_bytes(*number),
            check: i64::from_be_bytes(check.try_into().expect("there are 8 bytes")),
            content,
        };
        Ok(Decoded::Item { item, consumed: RECORD_BYTES })
    }

    #[inline]
    fn into_owned(item: Record<&Content>) -> Record<Content> {
        let Record { producer, number, check, content } = item;
        Record { producer, number, check, content: *content }
    }
}

impl Encode<Record<Content>> for RecordCodec {
    #[inline]
    fn encode(&mut self, item: &Record<Content>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.reserve(RECORD_BYTES);
        out.extend_from_slice(&item.producer.to_be_bytes());
        out.extend_from_slice(&item.number.to_be_bytes());
        out.extend_from_slice(&item.check.to_be_bytes());
        out.extend_from_slice(&item.content);
        Ok(())
    }
}

#[derive(Clone, Debug)]
struct Records(Pattern);

impl Records {
    /// Differs from one record to the next, and from one producer to the other.
    #[inline]
    fn content(&self, producer: u32, number: u64) -> &Content {
        let position =
            number.wrapping_mul(size_of::<Content>() as u64).wrapping_add(u64::from(producer) * 977);
        self.0.bytes(position, size_of::<Content>()).try_into().expect("the slice is as long as the array")
    }
}

impl Load for Records {
    type Protocol = RecordCodec;

    fn protocol(&self) -> RecordCodec {
        RecordCodec
    }

    #[inline]
    fn request(&self, producer: u32, number: u64) -> Record<Content> {
        Record {
            producer: producer as i32,
            number: number as i64,
            check: !(number as i64),
            content: *self.content(producer, number),
        }
    }

    #[inline]
    fn answer(request: Record<&Content>) -> Record<Content> {
        RecordCodec::into_owned(request)
    }

    #[inline]
    fn producer(response: &Record<&Content>) -> u32 {
        response.producer as u32
    }

    #[inline]
    fn is_right(&self, producer: u32, number: u64, response: &Record<&Content>) -> bool {
        response.producer == producer as i32
            && response.number == number as i64
            && response.check == !(number as i64)
            && response.content == self.content(producer, number)
    }
}
