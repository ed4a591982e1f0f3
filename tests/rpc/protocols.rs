//! Every kind of codec, over the network.

use super::support::*;
use bytes::Bytes;
use std::io::{ErrorKind, Read, Write};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;
use trochus::codec::{
    Decode, DecodeError, Decoded, Encode, EncodeError, FixedSize, Int32, LengthDelimited, Lines, Pair,
    Protocol, Records,
};
use trochus::rpc::{CallError, Client, ClientOptions, Reconnect, Reply, Server};

#[test]
fn frames_are_seen_in_place() {
    on_each_ground(|runtime| {
        // Borrowed from what was received, on both sides.
        let service = |frame: &[u8], reply: Reply<Bytes>| reply.send(frame.iter().rev().copied().collect());
        let server = Server::bind(runtime, anywhere(), LengthDelimited::new(), service).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let lengths = seen.clone();
        let callback = move |frame: &[u8]| {
            assert!(frame.first().is_none_or(|byte| *byte == b'z'));
            lengths.lock().unwrap().push(frame.len());
        };
        let (options, protocol) = (ClientOptions::new(), LengthDelimited::new());
        let client =
            Client::connect_with(runtime, &options, server.local_addr(), protocol, callback).unwrap();
        let sizes = [0, 1, 100, 70_000, 1 << 20, 5];
        for size in sizes {
            let mut frame = vec![b'a'; size];
            if let Some(first) = frame.first_mut() {
                *first = b'a' + size as u8 % 26;
            }
            if let Some(last) = frame.last_mut() {
                *last = b'z';
            }
            client.push(frame.into()).unwrap();
        }
        assert_eq!(client.call("stressed".into()).wait().unwrap(), "desserts");
        client.close().unwrap();
        assert_eq!(*seen.lock().unwrap(), sizes);
    });
}

/// Not `Copy`, and not as large on the wire as in memory.
#[derive(Debug, PartialEq)]
struct Order {
    item: u16,
    price: u64,
}

impl FixedSize for Order {
    const SIZE: usize = 10;

    fn write(&self, out: &mut [u8]) {
        out[..2].copy_from_slice(&self.item.to_be_bytes());
        out[2..].copy_from_slice(&self.price.to_be_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (item, price) = bytes.split_first_chunk()?;
        Some(Order { item: u16::from_be_bytes(*item), price: u64::from_be_bytes(price.try_into().ok()?) })
    }
}

#[test]
fn records_are_answered() {
    on_each_ground(|runtime| {
        let protocol = Pair::new(Records::<Order>::new(), Int32).by_id();
        let service =
            |order: Order, reply: Reply<i32>| reply.send(i32::from(order.item) + order.price as i32);
        let server = Server::bind(runtime, anywhere(), protocol, service).unwrap();
        let sum = Arc::new(Mutex::new(0));
        let total = sum.clone();
        let options = ClientOptions::new();
        let callback = move |n: i32| *total.lock().unwrap() += n;
        let client =
            Client::connect_with(runtime, &options, server.local_addr(), protocol, callback).unwrap();
        let mut producer = client.producer();
        producer.push_all((0..1000).map(|item| Order { item, price: 1 })).unwrap();
        drop(producer);
        assert_eq!(client.call(Order { item: 2, price: 40 }).wait().unwrap(), 42);
        client.close().unwrap();
        assert_eq!(*sum.lock().unwrap(), 999 * 500 + 1000);
    });
}

#[test]
fn lines_are_answered_over_a_unix_socket() {
    on_each_ground(|runtime| {
        let folder = tempfile::tempdir().unwrap();
        let path = format!("unix:{}", folder.path().join("socket").display());
        let service = |line: &str, reply: Reply<String>| reply.send(line.to_uppercase());
        let server = Server::bind(runtime, &path, Lines::new(), service).unwrap();
        let client = Client::connect(runtime, server.local_addr(), Lines::new()).unwrap();
        assert_eq!(client.call("whisper".to_owned()).wait().unwrap(), "WHISPER");
        client.close().unwrap();
    });
}

#[cfg(feature = "json")]
#[test]
fn json_lines_are_answered() {
    use serde::{Deserialize, Serialize};
    use std::io::Write;
    use trochus::codec::JsonLines;

    #[derive(Serialize, Deserialize)]
    struct Question {
        text: String,
    }
    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    struct Answer {
        words: usize,
    }

    on_each_backend(|runtime| {
        let protocol = JsonLines::<Question, Answer>::new();
        let service = |question: Question, reply: Reply<Answer>| {
            reply.send(Answer { words: question.text.split_whitespace().count() });
        };
        let server = Server::bind(runtime, anywhere(), protocol.clone(), service).unwrap();
        let client = Client::connect(runtime, server.local_addr(), protocol).unwrap();
        let call = client.call(Question { text: "how many words are these".to_owned() });
        assert_eq!(call.wait().unwrap(), Answer { words: 5 });
        // Not JSON: the connection is closed behind the good line.
        let mut peer = dial(server.local_addr());
        peer.write_all(b"{\"text\":\"one two\"}\n{\"text\":}\n{\"text\":\"\"}\n").unwrap();
        assert_eq!(rest_until_reset(&mut peer), b"{\"words\":2}\n");
        client.close().unwrap();
    });
}

/// Frames whose first byte says how long they are; 255 of one that lasts until the end of the stream.
#[derive(Clone, Copy, Debug)]
struct OpenEnded;

impl Decode for OpenEnded {
    type Item<'a> = &'a [u8];
    type Owned = Vec<u8>;

    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Decoded<&'a [u8]>, DecodeError> {
        match input {
            [] | [255, ..] => Ok(Decoded::NeedMore { at_least: 1 }),
            [len, rest @ ..] => Ok(match rest.get(..usize::from(*len)) {
                Some(item) => Decoded::Item { item, consumed: 1 + item.len() },
                None => Decoded::NeedMore { at_least: usize::from(*len) - rest.len() },
            }),
        }
    }

    fn decode_eof<'a>(&mut self, input: &'a [u8]) -> Result<Option<&'a [u8]>, DecodeError> {
        match input {
            [] => Ok(None),
            [255, item @ ..] => Ok(Some(item)),
            _ => Err(DecodeError::UnexpectedEnd { bytes: input.len() }),
        }
    }

    fn into_owned(item: &[u8]) -> Vec<u8> {
        item.to_vec()
    }
}

impl Encode<Vec<u8>> for OpenEnded {
    fn encode(&mut self, item: &Vec<u8>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.push(item.len() as u8);
        out.extend_from_slice(item);
        Ok(())
    }
}

#[test]
fn the_last_response_may_end_with_the_stream() {
    on_each_ground(|runtime| {
        let (listener, address) = listen();
        let connect = || Client::connect(runtime, address.as_str(), OpenEnded).unwrap();
        // Of a call, which comes as a whole, however large.
        let client = connect();
        let mut peer = accept(&listener);
        let calls = [client.call(vec![1]), client.call(vec![2]), client.call(vec![3])];
        peer.read_exact(&mut [0; 6]).unwrap();
        peer.write_all(&[1, 10, 255]).unwrap();
        peer.write_all(&[20; 100_000]).unwrap();
        end_output(&peer);
        let [first, second, third] = calls.map(|call| call.wait());
        assert_eq!((first.unwrap(), second.unwrap()), (vec![10], vec![20; 100_000]));
        let error = third.unwrap_err();
        assert!(
            matches!(&error, CallError::Lost(cause) if cause.kind() == ErrorKind::UnexpectedEof),
            "{error}"
        );
        // Of a request that was pushed, and nothing is left to be said.
        let (say, said) = mpsc::channel();
        let callback = move |response: &[u8]| say.send(response.to_vec()).unwrap();
        let client =
            Client::connect_with(runtime, &ClientOptions::new(), &address, OpenEnded, callback).unwrap();
        let mut peer = accept(&listener);
        client.push(vec![1]).unwrap();
        peer.read_exact(&mut [0; 2]).unwrap();
        peer.write_all(&[255]).unwrap();
        end_output(&peer);
        // Whoever ends it first.
        let _ = client.close();
        assert_eq!(said.try_iter().collect::<Vec<_>>(), [Vec::<u8>::new()]);
        // What nobody asked for is the server's fault, as it is elsewhere.
        let client = connect();
        let mut peer = accept(&listener);
        peer.write_all(&[255, 1]).unwrap();
        end_output(&peer);
        eventually("it ends", || client.is_closed());
        let error = client.close().unwrap_err();
        assert!(error.to_string().contains("no request"), "{error}");
        // A response that was cut off is none.
        let client = connect();
        let mut peer = accept(&listener);
        let call = client.call(vec![1]);
        peer.read_exact(&mut [0; 2]).unwrap();
        peer.write_all(&[3, 1, 2]).unwrap();
        end_output(&peer);
        let error = call.wait().unwrap_err();
        assert!(error.may_have_been_executed(), "{error}");
        assert!(error.to_string().contains("3 bytes"), "{error}");
    });
}

#[test]
fn without_correlation_a_response_that_was_cut_off_is_no_success() {
    on_each_ground(|runtime| {
        let (listener, address) = listen();
        for (end, ends_well) in [(&[1, 7][..], true), (&[255, 7], true), (&[3, 7], false)] {
            let protocol = OpenEnded.uncorrelated();
            let client = Client::connect(runtime, address.as_str(), protocol).unwrap();
            let mut peer = accept(&listener);
            client.push(vec![1]).unwrap();
            let closing = client.close_async();
            let mut request = Vec::new();
            peer.read_to_end(&mut request).unwrap();
            assert_eq!(request, [1, 1]);
            peer.write_all(end).unwrap();
            end_output(&peer);
            let outcome = block_on(closing);
            assert_eq!(outcome.is_ok(), ends_well, "{end:?}: {outcome:?}");
        }
    });
}

/// An end is a response here, also where there is nothing before it.
#[derive(Clone, Copy, Debug)]
struct UntilTheEnd;

impl Decode for UntilTheEnd {
    type Item<'a> = &'a [u8];
    type Owned = Vec<u8>;

    fn decode<'a>(&mut self, _input: &'a [u8]) -> Result<Decoded<&'a [u8]>, DecodeError> {
        Ok(Decoded::NeedMore { at_least: 1 })
    }

    fn decode_eof<'a>(&mut self, input: &'a [u8]) -> Result<Option<&'a [u8]>, DecodeError> {
        Ok(Some(input))
    }

    fn into_owned(item: &[u8]) -> Vec<u8> {
        item.to_vec()
    }
}

impl Encode<Vec<u8>> for UntilTheEnd {
    fn encode(&mut self, item: &Vec<u8>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(item);
        Ok(())
    }
}

#[test]
fn an_end_that_nobody_waits_for_proves_nothing() {
    on_each_ground(|runtime| {
        let (listener, address) = listen();
        let policy = Reconnect::new().attempts(3).first_delay(Duration::from_millis(1));
        let options = ClientOptions::new().reconnect(policy);
        let client = Client::connect_with(runtime, &options, address, UntilTheEnd, |_: &[u8]| ()).unwrap();
        // It would be dialled again and again, each time as if for the first time.
        thread::spawn(move || listener.incoming().for_each(drop));
        eventually("it gives up", || client.is_closed());
    });
}
