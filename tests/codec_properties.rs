//! Codecs keep their promises for arbitrary input, and for input that is nearly right.

use proptest::{collection::vec, prelude::*, sample::select};

#[path = "support/codec_harness.rs"]
mod harness;

/// Bytes of which some are significant to a codec.
fn nearly_right() -> impl Strategy<Value = Vec<u8>> {
    let significant = select(vec![
        &b"\n"[..],
        b"\r\n",
        b"\r",
        b"\xff\xff\xff\xff",
        b"\0\0\0\0\0\0\0",
        b"\0\0\0\x02ab",
        b"\x02\0\0\0ab",
        b"\x01\0\0\0\x01",
        "gr\u{fc}n".as_bytes(),
        b"\xc3",
        b"{\"text\":\"a\\n\",\"number\":7}\n",
        b"{\"text\":\"\",\"number\":-1,\"set\":{\"a\":true},\"list\":[]}\r\n",
        b"{\"text\":\"",
        b"\",\"number\":0}",
    ]);
    let piece = prop_oneof![3 => significant.prop_map(<[u8]>::to_vec), 2 => vec(any::<u8>(), 0..12)];
    vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

#[test]
fn every_codec_keeps_its_promises() {
    let config = ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() };
    for (name, check) in harness::TARGETS {
        for limit in [0, 6, 0x14, 0xff] {
            // The first byte is the limit or the kind of length, where the codec has one.
            let input = nearly_right().prop_map(|bytes| [&[limit], &bytes[..]].concat());
            let result = proptest::test_runner::TestRunner::new(config.clone()).run(&input, |bytes| {
                check(&bytes);
                Ok(())
            });
            if let Err(error) = result {
                panic!("{name}: {error}");
            }
        }
    }
}
