//! What each codec costs, on buffers in memory: no socket, no thread.
//!
//! `cargo bench --bench codec`, with `--features json-simd,zerocopy` for all of them.

use std::{hint::black_box, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use trochus::codec::{
    Be, ById, Codec, Correlation, CorrelationKind, Decode, Decoded, Encode, InOrder, Int32, Le,
    LengthDelimited, Lines,
};

/// As much as a large receive buffer holds.
const BUFFER_BYTES: usize = 64 << 10;

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(20);
    targets = numbers, records, frames, lines, json
}
criterion_main!(benches);

fn numbers(c: &mut Criterion) {
    let items: Vec<i32> = (0..(BUFFER_BYTES / 4) as i32).collect();
    codec::<_, InOrder>(c, "int32", Int32, (), &items);
    codec::<_, InOrder>(c, "int32-le", Le::<i32>::new(), (), &items);
    codec::<_, ById>(c, "int32-by-id", Int32, 7, &items[..BUFFER_BYTES / 12]);
    let wide: Vec<u64> = (0..(BUFFER_BYTES / 8) as u64).collect();
    codec::<_, InOrder>(c, "uint64", Be::<u64>::new(), (), &wide);

    let (mut codec, mut wire, mut out) = (Int32, Vec::new(), Vec::with_capacity(BUFFER_BYTES));
    codec.encode_all(&items, &mut wire).unwrap();
    let mut group = c.benchmark_group("codec/int32");
    group.throughput(Throughput::Elements(items.len() as u64));
    group.bench_function("decode, add, encode", |b| {
        b.iter(|| {
            out.clear();
            answer_all(&mut codec, black_box(&wire), &mut out);
            black_box(&mut out);
        });
    });
    group.finish();
}

/// What a server does with its requests when the service is an addition.
#[inline(never)]
fn answer_all(codec: &mut Int32, mut input: &[u8], out: &mut Vec<u8>) {
    while let Decoded::Item { item, consumed } = codec.decode(input).unwrap() {
        input = &input[consumed..];
        codec.encode(&item.wrapping_add(1), out).unwrap();
    }
}

/// The record of 276 bytes: a number, two long numbers, and 256 bytes.
fn records(c: &mut Criterion) {
    let items = vec![record::Hand { id: 1, from: 2, to: 3, payload: [4; 256] }; BUFFER_BYTES / 276];
    codec::<_, InOrder>(c, "record-276", trochus::codec::Records::new(), (), &items);
    #[cfg(feature = "zerocopy")]
    {
        let one = record::InPlace { id: 1.into(), from: 2.into(), to: 3.into(), payload: [4; 256] };
        codec::<_, InOrder>(c, "view-276", trochus::codec::View::new(), (), &vec![one; BUFFER_BYTES / 276]);
    }
}

fn frames(c: &mut Criterion) {
    for payload_bytes in [16, 1024] {
        let items = vec![bytes::Bytes::from(vec![7; payload_bytes]); BUFFER_BYTES / (payload_bytes + 4)];
        codec::<_, InOrder>(
            c,
            &format!("length-delimited-{payload_bytes}"),
            LengthDelimited::new(),
            (),
            &items,
        );
    }
}

fn lines(c: &mut Criterion) {
    for line_bytes in [16, 124] {
        let items = vec!["x".repeat(line_bytes); BUFFER_BYTES / (line_bytes + 1)];
        codec::<_, InOrder>(c, &format!("lines-{line_bytes}"), Lines::new(), (), &items);
    }
}

#[cfg(not(feature = "json"))]
fn json(_: &mut Criterion) {}

#[cfg(feature = "json")]
fn json(c: &mut Criterion) {
    use serde::{Deserialize, Serialize};

    #[derive(Clone, Serialize, Deserialize)]
    struct Message {
        msg: String,
        bla: String,
        foo: i64,
        bar: i64,
        go_routine_index: i64,
        is_final_message: bool,
    }

    let of = |msg: &str, bla: &str| Message {
        msg: msg.to_owned(),
        bla: bla.to_owned(),
        foo: 123_456,
        bar: -77,
        go_routine_index: 31,
        is_final_message: false,
    };
    let short = of("hello from the client", "some more text");
    let long = of(&"hello from the client ".repeat(20), &"some more text ".repeat(20));
    for (name, message) in [("short", short), ("long", long)] {
        let line_bytes = serde_json::to_vec(&message).unwrap().len() + 1;
        let items = vec![message.clone(); BUFFER_BYTES / line_bytes];
        codec::<_, InOrder>(c, &format!("json-{name}"), trochus::codec::Json::new(), (), &items);

        // The parsers that `Json` may be built on, without lines around them.
        let text = serde_json::to_vec(&message).unwrap();
        let mut out = Vec::with_capacity(4 << 10);
        let mut group = c.benchmark_group(format!("json-parser/{name}"));
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function("serde_json/parse", |b| {
            b.iter(|| serde_json::from_slice::<Message>(black_box(&text)).unwrap());
        });
        group.bench_function("serde_json/write", |b| {
            b.iter(|| {
                out.clear();
                serde_json::to_writer(&mut out, black_box(&message)).unwrap();
            });
        });
        group.bench_function("sonic-rs/parse", |b| {
            b.iter(|| sonic_rs::from_slice::<Message>(black_box(&text)).unwrap());
        });
        group.bench_function("sonic-rs/write", |b| {
            b.iter(|| {
                out.clear();
                sonic_rs::to_writer(&mut out, black_box(&message)).unwrap();
            });
        });
        let (mut buffers, mut scratch) =
            (simd_json::Buffers::new(text.len()), Vec::with_capacity(text.len()));
        group.bench_function("simd-json/parse", |b| {
            b.iter(|| {
                // It writes into what it parses, which received bytes do not allow.
                scratch.clear();
                scratch.extend_from_slice(black_box(&text));
                simd_json::serde::from_slice_with_buffers::<Message>(&mut scratch, &mut buffers).unwrap()
            });
        });
        group.bench_function("simd-json/write", |b| {
            b.iter(|| {
                out.clear();
                simd_json::serde::to_writer(&mut out, black_box(&message)).unwrap();
            });
        });
        group.finish();
    }
}

/// Encodes the items one by one, encodes them at once, decodes them.
fn codec<C: Codec, K: Correlation>(c: &mut Criterion, name: &str, codec: C, id: K::Id, items: &[C::Owned]) {
    let (mut encoder, mut decoder) = (codec.clone(), codec);
    let mut wire = Vec::new();
    for item in items {
        K::encode(&mut encoder, id.clone(), item, &mut wire).unwrap();
    }
    let mut out = Vec::with_capacity(wire.len());
    let mut group = c.benchmark_group(format!("codec/{name}"));
    group.throughput(Throughput::ElementsAndBytes { elements: items.len() as u64, bytes: wire.len() as u64 });
    group.bench_function("encode", |b| {
        b.iter(|| {
            out.clear();
            for item in black_box(items) {
                K::encode(&mut encoder, id.clone(), item, &mut out).unwrap();
            }
            black_box(&mut out);
        });
    });
    // A batch has no ids, so there is nothing to compare with where each item has one.
    if K::KIND != CorrelationKind::ById {
        group.bench_function("encode_all", |b| {
            b.iter(|| {
                out.clear();
                encoder.encode_all(black_box(items), &mut out).unwrap();
                black_box(&mut out);
            });
        });
    }
    group.bench_function("decode", |b| {
        b.iter(|| {
            let mut input = black_box(&wire[..]);
            while let Decoded::Item { item, consumed } = K::decode(&mut decoder, input).unwrap() {
                input = &input[consumed..];
                black_box(item);
            }
        });
    });
    group.finish();
}

mod record {
    use trochus::codec::FixedSize;

    #[derive(Clone)]
    pub(crate) struct Hand {
        pub(crate) id: i32,
        pub(crate) from: i64,
        pub(crate) to: i64,
        pub(crate) payload: [u8; 256],
    }

    impl FixedSize for Hand {
        const SIZE: usize = 276;

        fn write(&self, out: &mut [u8]) {
            out[..4].copy_from_slice(&self.id.to_be_bytes());
            out[4..12].copy_from_slice(&self.from.to_be_bytes());
            out[12..20].copy_from_slice(&self.to.to_be_bytes());
            out[20..276].copy_from_slice(&self.payload);
        }

        fn read(bytes: &[u8]) -> Option<Self> {
            let (id, rest) = bytes.split_first_chunk()?;
            let (from, rest) = rest.split_first_chunk()?;
            let (to, payload) = rest.split_first_chunk()?;
            Some(Self {
                id: i32::from_be_bytes(*id),
                from: i64::from_be_bytes(*from),
                to: i64::from_be_bytes(*to),
                payload: payload.try_into().ok()?,
            })
        }
    }

    #[cfg(feature = "zerocopy")]
    #[derive(
        Clone,
        zerocopy::FromBytes,
        zerocopy::IntoBytes,
        zerocopy::Immutable,
        zerocopy::KnownLayout,
        zerocopy::Unaligned,
    )]
    #[repr(C)]
    pub(crate) struct InPlace {
        pub(crate) id: zerocopy::big_endian::I32,
        pub(crate) from: zerocopy::big_endian::I64,
        pub(crate) to: zerocopy::big_endian::I64,
        pub(crate) payload: [u8; 256],
    }
}
