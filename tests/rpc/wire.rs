//! What peers make of the wire: lengths meant to hurt, ids of one's own.

use super::support::*;
use bytes::Bytes;
use std::io::{Read, Write};
use trochus::codec::{
    Correlation, CorrelationKind, Decode, DecodeError, Decoded, Encode, EncodeError, LengthDelimited,
    LengthWidth, Matching, Protocol, Tagged,
};
use trochus::rpc::{Client, Reply, Server};

fn echo(frame: &[u8], reply: Reply<Bytes>) {
    reply.send(Bytes::copy_from_slice(frame));
}

/// Lengths that no sum and no allocation must be made of, behind a good frame (an empty one).
fn hostile_lengths() -> Vec<(LengthDelimited, Vec<u8>)> {
    let frames = LengthDelimited::new();
    let widths = [(LengthWidth::Two, 2), (LengthWidth::Four, 4), (LengthWidth::Eight, 8)];
    let mut cases = Vec::new();
    for (width, bytes) in widths {
        for codec in [frames.length_width(width), frames.length_width(width).max_frame_bytes(usize::MAX)] {
            for codec in [codec, codec.little_endian()] {
                let mut wire = vec![0; bytes];
                wire.resize(2 * bytes, 0xff);
                cases.push((codec, [&wire[..], b"and some of it"].concat()));
            }
        }
    }
    cases
}

#[test]
fn a_hostile_length_costs_its_connection_at_most_at_a_server() {
    on_each_backend(|runtime| {
        for (codec, wire) in hostile_lengths() {
            let Ok(server) = Server::bind(runtime, anywhere(), codec, echo) else {
                continue; // a limit that the connection's own cannot keep may be refused
            };
            let Ok(client) = Client::connect(runtime, server.local_addr(), codec) else { continue };
            let mut peer = dial(server.local_addr());
            peer.write_all(&wire).unwrap();
            end_output(&peer);
            let mut responses = Vec::new();
            // Reset or ended, but not served.
            let _ = peer.read_to_end(&mut responses);
            let empty = wire.iter().take_while(|byte| **byte == 0).count();
            assert_eq!(responses, wire[..empty], "{codec:?}");
            assert_eq!(client.call("fine".into()).wait().unwrap(), "fine");
        }
    });
}

#[test]
fn a_hostile_length_costs_its_connection_at_most_at_a_client() {
    on_each_ground(|runtime| {
        for (codec, wire) in hostile_lengths() {
            let (listener, address) = listen();
            let Ok(client) = Client::connect(runtime, address, codec) else { continue };
            let mut server = accept(&listener);
            let (first, second) = (client.call("".into()), client.call("".into()));
            let empty = wire.iter().take_while(|byte| **byte == 0).count();
            let mut requests = vec![1; 2 * empty];
            server.read_exact(&mut requests).unwrap();
            assert!(requests.iter().all(|byte| *byte == 0), "{requests:?}");
            server.write_all(&wire).unwrap();
            drop(server);
            assert_eq!(first.wait().unwrap(), "");
            let error = second.wait().unwrap_err();
            assert!(!error.to_string().contains("panic"), "{error}");
        }
    });
}

/// Four bytes at the beginning of each payload, for which the sender leaves room.
#[derive(Clone, Copy, Debug)]
struct Opaque;

const LENGTH: usize = 4;

impl Correlation for Opaque {
    type Id = u32;
    const KIND: CorrelationKind = CorrelationKind::ById;
    const MAX_NUMBER: u64 = u32::MAX as u64;

    fn id_from(number: u64) -> u32 {
        number.try_into().expect("no number is larger than the largest")
    }

    fn number_of(id: u32) -> Option<u64> {
        Some(id.into())
    }

    fn decode<'a, D: Decode>(
        decoder: &mut D,
        input: &'a [u8],
    ) -> Result<Decoded<Tagged<'a, Self, D>>, DecodeError> {
        let (item, consumed) = match decoder.decode(input)? {
            Decoded::Item { item, consumed } => (item, consumed),
            Decoded::NeedMore { at_least } => return Ok(Decoded::NeedMore { at_least }),
        };
        let id = input[LENGTH..consumed].first_chunk();
        let id = id.ok_or_else(|| DecodeError::custom("a frame too short for its id"))?;
        Ok(Decoded::Item { item: (u32::from_be_bytes(*id), item), consumed })
    }

    fn encode<T: ?Sized, E: Encode<T>>(
        encoder: &mut E,
        id: u32,
        item: &T,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let start = out.len();
        encoder.encode(item, out)?;
        out[start + LENGTH..][..4].copy_from_slice(&id.to_be_bytes());
        Ok(())
    }
}

impl Matching for Opaque {}

#[test]
fn ids_of_ones_own_find_their_calls() {
    on_each_ground(|runtime| {
        let protocol = LengthDelimited::new().correlated::<Opaque>();
        let (keep, kept) = std::sync::mpsc::channel();
        let keep = std::sync::Mutex::new(keep);
        let service = move |frame: &[u8], reply: Reply<Bytes>| {
            let _ = keep.lock().unwrap().send((Bytes::copy_from_slice(&frame[4..]), reply));
        };
        let server = Server::bind(runtime, anywhere(), protocol, service).unwrap();
        let client = Client::connect(runtime, server.local_addr(), protocol).unwrap();
        for round in 0..300 {
            let text = |n: i32| Bytes::from(format!("\0\0\0\0{round} {n}"));
            let calls: Vec<_> = (0..3).map(|n| client.call(text(n))).collect();
            let mut requests: Vec<_> = (0..3).map(|_| kept.recv_timeout(PATIENCE).unwrap()).collect();
            requests.rotate_left(round % 3);
            for (text, reply) in requests.into_iter().rev() {
                reply.send(Bytes::from([b"\0\0\0\0", &text[..]].concat()));
            }
            for (n, call) in (0..3).zip(calls) {
                assert_eq!(call.wait().unwrap()[4..], text(n)[4..]);
            }
        }
        client.close().unwrap();
    });
}

#[cfg(feature = "json")]
mod json {
    use super::*;
    use serde::{Deserialize, Serialize};
    use std::io::{BufRead, BufReader};
    use trochus::codec::JsonLines;

    #[derive(Debug, Serialize, Deserialize)]
    struct Request {
        method: String,
    }

    #[derive(Debug, Serialize, Deserialize, PartialEq)]
    struct Response {
        result: String,
    }

    /// As somebody would type it.
    #[test]
    fn a_peer_that_writes_text_finds_its_answers_by_the_id_in_them() {
        on_each_backend(|runtime| {
            let protocol = JsonLines::<Request, Response>::new().by_member();
            let (keep, kept) = std::sync::mpsc::channel();
            let keep = std::sync::Mutex::new(keep);
            let service = move |request: Request, reply: Reply<Response>| {
                let response = Response { result: request.method.to_uppercase() };
                if request.method == "slow" {
                    let _ = keep.lock().unwrap().send((reply, response));
                } else {
                    reply.send(response);
                }
            };
            let server = Server::bind(runtime, anywhere(), protocol.clone(), service).unwrap();
            let mut peer = dial(server.local_addr());
            let lines = [
                r#"{"jsonrpc":"2.0","id":"first","method":"slow"}"#,
                r#"{"jsonrpc":"2.0","method":"notification"}"#,
                r#"{"jsonrpc":"2.0","method":"fast","id":-2}"#,
                "",
            ];
            peer.write_all(lines.join("\r\n").as_bytes()).unwrap();
            let mut answers = BufReader::new(peer).lines().map(Result::unwrap);
            assert_eq!(answers.next().unwrap(), r#"{"id":-2,"result":"FAST"}"#);
            let (reply, response) = kept.recv_timeout(PATIENCE).unwrap();
            reply.send(response);
            assert_eq!(answers.next().unwrap(), r#"{"id":"first","result":"SLOW"}"#);

            let client = Client::connect(runtime, server.local_addr(), protocol.clone()).unwrap();
            let call = |method: &str| client.call(Request { method: method.to_owned() });
            let (slow, fast) = (call("slow"), call("fast"));
            assert_eq!(fast.wait().unwrap().result, "FAST");
            let (reply, response) = kept.recv_timeout(PATIENCE).unwrap();
            reply.send(response);
            assert_eq!(slow.wait().unwrap().result, "SLOW");
            client.close().unwrap();
        });
    }
}
