//! Plain sockets as clients: bad frames, half-closed connections.

use super::support::*;
use std::io::Write;
use std::thread;
use trochus::Runtime;
use trochus::codec::{Int32, LengthDelimited, Protocol};
use trochus::rpc::{Client, Reply, Server};

fn half_close<P>(runtime: &Runtime, protocol: P, wire: &[i32]) -> Vec<i32>
where
    P: Protocol<RequestCodec = Int32, ResponseCodec = Int32> + Sync,
{
    let (service, kept) = keeper();
    let server = Server::bind(runtime, anywhere(), protocol, service).unwrap();
    let mut peer = dial(server.local_addr());
    write_ints(&mut peer, wire.iter().copied());
    end_output(&peer);
    let replies: Vec<_> = (0..3).map(|_| next(&kept)).collect();
    for (n, reply) in replies {
        thread::spawn(move || reply.send(10 * n)).join().unwrap();
    }
    rest_of_ints(&mut peer)
}

#[test]
fn responses_still_come_when_a_client_has_ended_its_output() {
    on_each_backend(|runtime| {
        assert_eq!(half_close(runtime, Int32, &[1, 2, 3]), [10, 20, 30]);
        assert_eq!(half_close(runtime, Int32.uncorrelated(), &[1, 2, 3]), [10, 20, 30]);
        let by_id = half_close(runtime, Int32.by_id(), &[0, 7, 1, 0, 8, 2, 5, 9, 3]);
        assert_eq!(by_id, [0, 7, 10, 0, 8, 20, 5, 9, 30]);
    });
}

#[test]
fn a_half_frame_at_the_end_is_dropped() {
    on_each_backend(|runtime| {
        let server = Server::bind(runtime, anywhere(), Int32, |n: i32, reply| reply.send(n)).unwrap();
        let mut peer = dial(server.local_addr());
        peer.write_all(&[0, 0, 0, 1, 0, 0]).unwrap();
        end_output(&peer);
        assert_eq!(rest_of_ints(&mut peer), [1]);
    });
}

#[test]
fn a_bad_frame_closes_its_connection_behind_the_good_ones() {
    on_each_backend(|runtime| {
        let service = |frame: &[u8], reply: Reply<bytes::Bytes>| {
            let response = bytes::Bytes::copy_from_slice(frame);
            if frame == b"late" {
                thread::spawn(move || {
                    thread::yield_now();
                    reply.send(response);
                });
            } else {
                reply.send(response);
            }
        };
        let protocol = LengthDelimited::new().max_frame_bytes(100);
        let server = Server::bind(runtime, anywhere(), protocol, service).unwrap();
        let client = Client::connect(runtime, server.local_addr(), protocol).unwrap();
        let good = b"\0\0\0\x05first\0\0\0\x04late\0\0\0\x05third";
        for cut in [1, 10, good.len()] {
            let mut peer = dial(server.local_addr());
            let wire = [&good[..], b"\0\0\0\xff", b"whatever comes then"].concat();
            // In two pieces, wherever the cut is.
            peer.write_all(&wire[..cut]).unwrap();
            thread::sleep(std::time::Duration::from_millis(5));
            peer.write_all(&wire[cut..]).unwrap();
            assert_eq!(rest_until_reset(&mut peer), good);
            assert_eq!(client.call("fine".into()).wait().unwrap(), "fine");
        }
        eventually("only the client is left", || server.connections() == 1);
    });
}

#[test]
fn a_response_that_cannot_be_encoded_closes_behind_the_others() {
    on_each_backend(|runtime| {
        let service = |frame: &[u8], reply: Reply<bytes::Bytes>| {
            let length = usize::from(frame[0]);
            let response = bytes::Bytes::from(vec![b'x'; length]);
            if frame.len() > 1 {
                thread::spawn(move || reply.send(response));
            } else {
                reply.send(response);
            }
        };
        let protocol = LengthDelimited::new().max_frame_bytes(10);
        let server = Server::bind(runtime, anywhere(), protocol, service).unwrap();
        for too_long in [&b"\0\0\0\x01\x20"[..], b"\0\0\0\x02\x20 "] {
            let mut peer = dial(server.local_addr());
            peer.write_all(&[b"\0\0\0\x01\x02\0\0\0\x02\x03 ", too_long, b"\0\0\0\x01\x01"].concat())
                .unwrap();
            assert_eq!(rest_until_reset(&mut peer), b"\0\0\0\x02xx\0\0\0\x03xxx");
        }
    });
}

#[test]
fn requests_may_come_byte_by_byte() {
    on_each_backend(|runtime| {
        let server = Server::bind(runtime, anywhere(), Int32, |n: i32, reply| reply.send(n)).unwrap();
        let mut peer = dial(server.local_addr());
        for n in 0..50_i32 {
            for byte in n.to_be_bytes() {
                peer.write_all(&[byte]).unwrap();
            }
        }
        assert_eq!(read_ints(&mut peer, 50), (0..50).collect::<Vec<_>>());
    });
}
