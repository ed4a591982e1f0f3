//! Connections that are lost, and what the client says of each request.

use super::support::*;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;
use trochus::codec::{Int32, LengthDelimited, Protocol};
use trochus::reactor::StreamOptions;
use trochus::rpc::{CallError, Client, ClientOptions, Server};

#[test]
fn nobody_to_connect_to_is_an_error() {
    on_each_ground(|runtime| {
        let (listener, address) = listen();
        drop(listener);
        let error = Client::connect(runtime, &address, Int32).unwrap_err();
        assert!(error.to_string().contains(&address), "{error}");
    });
}

#[test]
fn the_first_address_that_answers_counts() {
    on_each_ground(|runtime| {
        let (refusing, nobody) = listen();
        drop(refusing);
        let server = Server::bind(runtime, anywhere(), Int32, |n: i32, reply| reply.send(n)).unwrap();
        let addresses = vec![nobody.clone(), server.local_addr().to_string(), nobody];
        let client = Client::connect(runtime, addresses, Int32).unwrap();
        assert_eq!(client.call(1).wait().unwrap(), 1);
    });
}

#[test]
fn lost_before_anything_was_sent() {
    on_each_ground(|runtime| {
        for ends_with_reset in [true, false] {
            let (client, peer) = client_of_plain_server(runtime);
            if ends_with_reset {
                reset(peer);
            } else {
                drop(peer);
            }
            eventually("the client notices", || client.is_closed());
            for error in [client.call(1).wait().unwrap_err(), block_on(client.call(2)).unwrap_err()] {
                assert!(matches!(error, CallError::NotSent(_)), "{error}");
                assert!(!error.may_have_been_executed());
            }
            assert_eq!(client.push(3).unwrap_err().into_item(), 3);
            let end = client.close().unwrap_err();
            assert_eq!((end.unanswered(), end.unsent()), (0, 0), "{end}");
        }
    });
}

#[test]
fn lost_behind_some_responses() {
    on_each_ground(|runtime| {
        for ends_with_reset in [true, false] {
            let (client, mut peer) = client_of_plain_server(runtime);
            let calls: Vec<_> = (0..10).map(|n| client.call(n)).collect();
            assert_eq!(read_ints(&mut peer, 10), (0..10).collect::<Vec<_>>());
            write_ints(&mut peer, [0, 10, 20, 30, 40]);
            let mut calls = calls.into_iter();
            for n in 0..5 {
                assert_eq!(calls.next().unwrap().wait().unwrap(), 10 * n);
            }
            if ends_with_reset {
                reset(peer);
            } else {
                drop(peer);
            }
            for call in calls {
                let error = call.wait().unwrap_err();
                assert!(matches!(error, CallError::Lost(_)) && error.may_have_been_executed(), "{error}");
            }
            let end = client.close().unwrap_err();
            assert_eq!((end.unanswered(), end.unsent()), (5, 0), "{end}");
        }
    });
}

#[test]
fn lost_with_calls_that_were_not_sent_yet() {
    on_each_ground(|runtime| {
        let (listener, address) = listen();
        let options = ClientOptions::new().calls_in_flight(2);
        let client = Client::connect_with(runtime, &options, address, Int32, drop).unwrap();
        let mut peer = accept(&listener);
        let calls: Vec<_> = (0..5).map(|n| client.call(n)).collect();
        assert_eq!(read_ints(&mut peer, 2), [0, 1]);
        reset(peer);
        let executed: Vec<bool> =
            calls.into_iter().map(|call| call.wait().unwrap_err().may_have_been_executed()).collect();
        assert_eq!(executed, [true, true, false, false, false]);
        assert_eq!(client.close().unwrap_err().unanswered(), 2);
    });
}

#[test]
fn lost_with_pushed_requests_in_flight() {
    on_each_ground(|runtime| {
        let (client, mut peer) = client_of_plain_server(runtime);
        client.push_all(0..10).unwrap();
        read_ints(&mut peer, 10);
        write_ints(&mut peer, 0..4);
        end_output(&peer);
        let end = client.close().unwrap_err();
        assert_eq!((end.unanswered(), end.unsent()), (6, 0), "{end}");
        assert!(end.to_string().contains("the server ended it"), "{end}");
        assert!(client.take_unsent().is_empty());
    });
}

#[test]
fn what_was_never_sent_can_be_taken_back() {
    on_each_ground(|runtime| {
        let (listener, address) = listen();
        let stream = StreamOptions::new().send_buffer(16 << 10).output_limits(16 << 10, 1 << 20);
        // More than the connection takes at a time: it may yet take some when it is reset.
        let options = ClientOptions::new().lane(1 << 16).stream(stream);
        let client = Client::connect_with(runtime, &options, address, Int32, drop).unwrap();
        let peer = accept(&listener);
        // Until nothing goes any more.
        let (mut accepted, mut refusals) = (0, 0);
        while refusals < 100 {
            match client.try_push(accepted) {
                Ok(()) => (accepted, refusals) = (accepted + 1, 0),
                Err(error) => {
                    assert!(error.is_full());
                    refusals += 1;
                    thread::sleep(Duration::from_millis(1));
                }
            }
        }
        reset(peer);
        let end = client.close().unwrap_err();
        assert_eq!(end.unanswered() + end.unsent() as u64, accepted as u64, "{end}");
        assert!(end.unsent() > 0, "{end}");
        let unsent = client.take_unsent();
        assert_eq!(unsent, (accepted - end.unsent() as i32..accepted).collect::<Vec<_>>());
        assert!(client.take_unsent().is_empty());
    });
}

#[test]
fn a_response_to_no_request_ends_the_connection() {
    on_each_ground(|runtime| {
        let (client, mut peer) = client_of_plain_server(runtime);
        let call = client.call(1);
        read_ints(&mut peer, 1);
        write_ints(&mut peer, [5, 6]);
        assert_eq!(call.wait().unwrap(), 5);
        eventually("the client notices", || client.is_closed());
        let end = client.close().unwrap_err();
        assert!(end.to_string().contains("a response to no request"), "{end}");
    });
}

#[test]
fn a_response_that_cannot_be_decoded_ends_the_connection() {
    on_each_ground(|runtime| {
        let (listener, address) = listen();
        let protocol = LengthDelimited::new().max_frame_bytes(100);
        let client = Client::connect(runtime, address, protocol).unwrap();
        let mut peer = accept(&listener);
        let (good, bad) = (client.call("a".into()), client.call("b".into()));
        peer.read_exact(&mut [0; 10]).unwrap();
        peer.write_all(b"\0\0\0\x02ok\0\0\xff\xff").unwrap();
        assert_eq!(good.wait().unwrap(), "ok");
        let error = bad.wait().unwrap_err();
        assert!(matches!(error, CallError::Lost(_)), "{error}");
        assert!(error.to_string().contains("100"), "the limit is named: {error}");
    });
}

#[test]
fn by_id_a_response_to_an_unknown_id_is_nobodys() {
    on_each_ground(|runtime| {
        let (listener, address) = listen();
        let client = Client::connect(runtime, address, Int32.by_id()).unwrap();
        let mut peer = accept(&listener);
        let call = client.call(1);
        let request = read_ints(&mut peer, 3);
        write_ints(&mut peer, [request[0], request[1] + 1, 666, request[0] + 1, request[1], 667]);
        write_ints(&mut peer, [request[0], request[1], 5]);
        assert_eq!(call.wait().unwrap(), 5);
    });
}

#[test]
fn without_correlation_a_reset_is_not_taken_for_success() {
    on_each_ground(|runtime| {
        let (listener, address) = listen();
        let client = Client::connect(runtime, address, Int32.uncorrelated()).unwrap();
        let mut peer = accept(&listener);
        client.push_all(0..1000).unwrap();
        let closing = client.clone();
        let closing = thread::spawn(move || closing.close());
        // All of it was sent, and the end; a part is thrown away unread.
        read_ints(&mut peer, 10);
        eventually("it closes", || client.is_closing());
        reset(peer);
        assert!(closing.join().unwrap().is_err());
    });
}

#[test]
fn closing_does_not_depend_on_the_server_closing() {
    on_each_ground(|runtime| {
        let (listener, address) = listen();
        let stream = StreamOptions::new().close_timeout(Duration::from_millis(20));
        let options = ClientOptions::new().stream(stream);
        let client = Client::connect_with(runtime, &options, address, Int32, drop).unwrap();
        let mut peer = accept(&listener);
        client.push(1).unwrap();
        let call = client.call(2);
        let requests = read_ints(&mut peer, 2);
        write_ints(&mut peer, requests);
        call.wait().unwrap();
        client.close().unwrap();
        assert!(rest_of_ints(&mut peer).is_empty());
    });
}

/// A server that accepts connections one after the other and has the test's way with each.
fn serve(listener: &TcpListener, answers: usize) {
    let mut peer = accept(listener);
    for n in read_ints(&mut peer, answers) {
        write_ints(&mut peer, [n]);
    }
}

#[test]
fn a_client_that_was_dropped_sends_what_was_accepted() {
    on_each_ground(|runtime| {
        let (listener, address) = listen();
        let client = Client::connect(runtime, address, Int32).unwrap();
        let mut producer = client.producer();
        client.push(1).unwrap();
        drop(client);
        producer.push(2).unwrap();
        drop(producer);
        serve(&listener, 2);
    });
}
