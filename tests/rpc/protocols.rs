//! Every kind of codec, over the network.

use super::support::*;
use bytes::Bytes;
use std::sync::{Arc, Mutex};
use trochus::codec::{FixedSize, Int32, LengthDelimited, Lines, Pair, Protocol, Records};
use trochus::rpc::{Client, ClientOptions, Reply, Server};

#[test]
fn frames_are_seen_in_place() {
    on_each_backend(|runtime| {
        // Borrowed from what was received, on both sides.
        let service = |frame: &[u8], reply: Reply<Bytes>| reply.send(frame.iter().rev().copied().collect());
        let server = Server::bind(runtime, "127.0.0.1:0", LengthDelimited::new(), service).unwrap();
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
    on_each_backend(|runtime| {
        let protocol = Pair::new(Records::<Order>::new(), Int32).by_id();
        let service =
            |order: Order, reply: Reply<i32>| reply.send(i32::from(order.item) + order.price as i32);
        let server = Server::bind(runtime, "127.0.0.1:0", protocol, service).unwrap();
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
    on_each_backend(|runtime| {
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
        let server = Server::bind(runtime, "127.0.0.1:0", protocol.clone(), service).unwrap();
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
