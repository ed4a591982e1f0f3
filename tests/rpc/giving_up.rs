//! Calls that are given up at the moment when they are sent: what is told then has to be true.

use super::support::*;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use trochus::Runtime;
use trochus::codec::{Decode, DecodeError, Decoded, Encode, EncodeError, Int32, Matching, Pair, Protocol};
use trochus::rpc::{CallError, Client, Server};

const SOON: Duration = Duration::from_millis(20);

/// Int32, but for 13: there it says that it is encoding, and waits until it is told whether that works.
#[derive(Clone, Debug)]
struct Hesitant(Arc<Mutex<(Sender<()>, Receiver<bool>)>>);

impl Decode for Hesitant {
    type Item<'a> = i32;
    type Owned = i32;

    fn decode(&mut self, input: &[u8]) -> Result<Decoded<i32>, DecodeError> {
        Int32.decode(input)
    }

    fn into_owned(item: i32) -> i32 {
        item
    }
}

impl Encode<i32> for Hesitant {
    fn encode(&mut self, item: &i32, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if *item == 13 {
            let (entered, works) = &*self.0.lock().unwrap();
            entered.send(()).unwrap();
            if !works.recv().unwrap() {
                return Err(EncodeError::custom("on purpose"));
            }
        }
        Int32.encode(item, out)
    }
}

/// What the call was told that ran out of time while it was being encoded, and whether it was executed.
fn out_of_time<P>(runtime: &Runtime, works: bool, protocol: impl FnOnce(Hesitant) -> P) -> (CallError, bool)
where
    P: Protocol<RequestCodec = Hesitant, ResponseCodec = Int32> + Sync,
    P::Correlation: Matching,
{
    let (entered, encoding) = mpsc::channel();
    let (free, told) = mpsc::channel();
    let protocol = protocol(Hesitant(Arc::new(Mutex::new((entered, told)))));
    let executed = Arc::new(Mutex::new(Vec::new()));
    let theirs = executed.clone();
    let server = Server::bind(runtime, anywhere(), protocol.clone(), move |n: i32, reply| {
        theirs.lock().unwrap().push(n);
        reply.send(n);
    });
    let server = server.unwrap();
    let client = Client::connect(runtime, server.local_addr(), protocol).unwrap();
    let call = client.call(13).timeout(SOON);
    encoding.recv_timeout(PATIENCE).unwrap();
    let next = client.call(14);
    let error = call.wait().unwrap_err();
    free.send(works).unwrap();
    // It is sent behind the other one.
    assert_eq!(next.timeout(PATIENCE).wait().unwrap(), 14);
    client.close().unwrap();
    let executed = executed.lock().unwrap().contains(&13);
    (error, executed)
}

#[test]
fn a_call_that_times_out_while_it_is_being_sent_may_have_been_executed() {
    on_each_ground(|runtime| {
        let in_order = out_of_time(runtime, true, |codec| Pair::new(codec, Int32));
        let by_id = out_of_time(runtime, true, |codec| Pair::new(codec, Int32).by_id());
        for (error, executed) in [in_order, by_id] {
            assert!(executed);
            assert!(error.may_have_been_executed(), "{error}");
        }
    });
}

#[test]
fn one_that_cannot_be_encoded_and_is_given_up_takes_no_other_along() {
    on_each_ground(|runtime| {
        let in_order = out_of_time(runtime, false, |codec| Pair::new(codec, Int32));
        let by_id = out_of_time(runtime, false, |codec| Pair::new(codec, Int32).by_id());
        for (error, executed) in [in_order, by_id] {
            assert!(matches!(error, CallError::TimedOut { .. }) && !executed, "{error}");
        }
    });
}
