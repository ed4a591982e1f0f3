//! Requests that cannot be encoded, and codecs and callers that panic.

use super::support::*;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use trochus::codec::{
    Decode, DecodeError, Decoded, Encode, EncodeError, Int32, LengthDelimited, Protocol, ResponseRef,
};
use trochus::rpc::{CallError, Caller, Client, ClientOptions, Reconnect, Reply, Requests, Server};

/// Notes responses, and what could not be encoded.
struct Notes<P: Protocol> {
    answered: Arc<Mutex<usize>>,
    refused: Arc<Mutex<Vec<<P::RequestCodec as Decode>::Owned>>>,
}

impl<P: Protocol> Caller<P> for Notes<P> {
    fn on_response(&mut self, _requests: &mut Requests<'_, P>, _response: ResponseRef<'_, P>) {
        *self.answered.lock().unwrap() += 1;
    }

    fn on_refused(&mut self, request: <P::RequestCodec as Decode>::Owned, _error: EncodeError) {
        self.refused.lock().unwrap().push(request);
    }
}

fn notes<P: Protocol>() -> Notes<P> {
    Notes { answered: Arc::default(), refused: Arc::default() }
}

#[test]
fn a_request_that_cannot_be_encoded_is_handed_back_and_hurts_no_other() {
    on_each_ground(|runtime| {
        let service = |_: &[u8], reply: Reply<bytes::Bytes>| reply.send("ok".into());
        let server = Server::bind(runtime, anywhere(), LengthDelimited::new(), service).unwrap();
        let protocol = LengthDelimited::new().max_frame_bytes(5);
        let caller = notes::<LengthDelimited>();
        let (answered, refused) = (caller.answered.clone(), caller.refused.clone());
        let client = Client::builder(protocol).caller(caller).connect(runtime, server.local_addr()).unwrap();
        let long: bytes::Bytes = "much too long".into();
        let mut producer = client.producer();
        for text in ["one", "two", "much too long", "much too long", "three", "much too long"] {
            producer.push(text.into()).unwrap();
        }
        client.push("four".into()).unwrap();
        client.push(long.clone()).unwrap();
        client.push("five".into()).unwrap();
        let error = client.call(long.clone()).wait().unwrap_err();
        assert!(matches!(error, CallError::Encode(_)) && !error.may_have_been_executed(), "{error}");
        assert_eq!(client.call("six".into()).wait().unwrap(), "ok");
        drop(producer);
        let end = client.close().unwrap_err();
        assert_eq!((end.unanswered(), end.unsent(), end.not_encoded()), (0, 0, 4), "{end}");
        assert!(end.to_string().contains("cannot be encoded"), "{end}");
        assert_eq!(*answered.lock().unwrap(), 5);
        assert_eq!(*refused.lock().unwrap(), vec![long; 4]);
    });
}

/// Int32, but for 13.
#[derive(Clone, Copy, Debug)]
struct Superstitious;

impl Decode for Superstitious {
    type Item<'a> = i32;
    type Owned = i32;

    fn decode(&mut self, input: &[u8]) -> Result<Decoded<i32>, DecodeError> {
        Int32.decode(input)
    }

    fn into_owned(item: i32) -> i32 {
        item
    }
}

impl Encode<i32> for Superstitious {
    fn encode(&mut self, item: &i32, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(b"half of it");
        assert_ne!(*item, 13, "on purpose");
        out.truncate(out.len() - 10);
        Int32.encode(item, out)
    }
}

fn a_panic_while_encoding_costs_one_request<P>(runtime: &trochus::Runtime, protocol: P)
where
    P: Protocol<RequestCodec = Superstitious, ResponseCodec = Superstitious> + Sync,
    P::Correlation: trochus::codec::Matching,
{
    let server = Server::bind(runtime, anywhere(), protocol.clone(), |n: i32, reply| reply.send(n)).unwrap();
    let caller = notes::<P>();
    let (answered, refused) = (caller.answered.clone(), caller.refused.clone());
    let client = Client::builder(protocol).caller(caller).connect(runtime, server.local_addr()).unwrap();
    let mut producer = client.producer();
    producer.push_all(0..100).unwrap();
    client.push_all(10..16).unwrap();
    let error = client.call(13).wait().unwrap_err();
    assert!(matches!(error, CallError::Encode(_)), "{error}");
    assert_eq!(client.call(14).wait().unwrap(), 14);
    drop(producer);
    let end = client.close().unwrap_err();
    assert_eq!((end.unanswered(), end.unsent(), end.not_encoded()), (0, 0, 2), "{end}");
    assert_eq!(*answered.lock().unwrap(), 99 + 5);
    assert_eq!(*refused.lock().unwrap(), [13, 13]);
}

#[test]
fn a_codec_that_panics_is_at_fault_with_one_request() {
    on_each_ground(|runtime| {
        a_panic_while_encoding_costs_one_request(runtime, Superstitious);
        a_panic_while_encoding_costs_one_request(runtime, Superstitious.by_id());
    });
}

#[test]
fn a_caller_that_panics_ends_the_client_which_says_so() {
    on_each_ground(|runtime| {
        let server = Server::bind(runtime, anywhere(), Int32, |n: i32, reply| reply.send(n)).unwrap();
        let policy = Reconnect::forever().first_delay(Duration::from_millis(1));
        let client = Client::builder(Int32)
            .options(ClientOptions::new().reconnect(policy))
            .on_response(|n| assert_ne!(n, 3, "on purpose"))
            .connect(runtime, server.local_addr())
            .unwrap();
        client.push_all(0..3).unwrap();
        client.push(3).unwrap();
        eventually("it ends", || client.is_closed());
        let end = client.close().unwrap_err();
        assert!(end.to_string().contains("panicked"), "{end}");
        assert_eq!((end.unanswered(), end.unsent()), (0, 0), "{end}");
    });
}

#[test]
fn limits_that_contradict_each_other_are_found_when_connecting() {
    on_each_ground(|runtime| {
        let (_listener, address) = listen();
        let protocol = LengthDelimited::new().max_frame_bytes(64 << 20);
        let error = Client::connect(runtime, &address, protocol).unwrap_err();
        assert!(error.to_string().contains("input_limit"), "{error}");
    });
}
