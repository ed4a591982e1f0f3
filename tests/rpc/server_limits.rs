//! What a server does for one connection is bounded: in bytes, in requests, in time.

use super::support::*;
use bytes::Bytes;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};
use trochus::codec::{ById, Correlated, Int32, LengthDelimited, Pair, Protocol};
use trochus::reactor::{Address, CloseReason, Handle, ListenOptions, StreamOptions};
use trochus::rpc::{Connection, Fault, Missing, MissingCause, Reply, Server, ServerOptions, Service};
use trochus::{Error, Runtime};

type Frames = Pair<Int32, LengthDelimited>;

fn frames() -> Frames {
    Pair::new(Int32, LengthDelimited::new())
}

type Kept = mpsc::Receiver<Reply<Bytes>>;

/// Answers at once with so many bytes, but for the first request, whose reply comes out here.
fn one_is_slow(bytes: usize) -> (impl Fn(i32, Reply<Bytes>) + Send + Sync, Kept, Arc<AtomicUsize>) {
    let (keep, kept) = mpsc::channel();
    let (keep, served) = (Mutex::new(keep), Arc::new(AtomicUsize::new(0)));
    let (count, response) = (served.clone(), Bytes::from(vec![1; bytes]));
    let service = move |n: i32, reply: Reply<Bytes>| {
        count.fetch_add(1, Ordering::SeqCst);
        if n == 0 {
            keep.lock().unwrap().send(reply).unwrap();
        } else {
            reply.send(response.clone());
        }
    };
    (service, kept, served)
}

#[test]
fn what_is_held_behind_a_slow_request_is_limited_in_bytes() {
    const REQUESTS: i32 = 600;
    const BYTES: usize = 100_000;
    on_each_backend(|runtime| {
        let (service, kept, served) = one_is_slow(BYTES);
        let server = Server::bind(runtime, anywhere(), frames(), service).unwrap();
        let mut peer = dial(server.local_addr());
        write_ints(&mut peer, 0..REQUESTS);
        let slow = kept.recv_timeout(PATIENCE).unwrap();
        let most = trochus::config::HELD_SOFT_BYTES / BYTES + 2;
        eventually("the limit is reached", || served.load(Ordering::SeqCst) >= most - 1);
        thread::sleep(Duration::from_millis(100));
        assert!(served.load(Ordering::SeqCst) <= most, "{} served", served.load(Ordering::SeqCst));
        // Nothing is lost, and it goes on in this way.
        slow.send(Bytes::from_static(b"slow"));
        let mut received = vec![0; 8];
        peer.read_exact(&mut received).unwrap();
        assert_eq!(received, b"\0\0\0\x04slow");
        let mut received = vec![0; (REQUESTS as usize - 1) * (4 + BYTES)];
        peer.read_exact(&mut received).unwrap();
        assert_eq!(served.load(Ordering::SeqCst), REQUESTS as usize);
        assert!(received.chunks(4 + BYTES).all(|frame| frame[4..].iter().all(|byte| *byte == 1)));
    });
}

fn small_output() -> ListenOptions {
    ListenOptions::new().stream(StreamOptions::new().send_buffer(16 << 10).output_limits(64 << 10, 1 << 20))
}

/// Tells why its connection ended.
struct Tells<S>(S, mpsc::Sender<String>);

impl<P: Protocol, S: Service<P>> Service<P> for Tells<S> {
    fn call(
        &mut self,
        request: trochus::codec::RequestRef<'_, P>,
        reply: Reply<trochus::codec::Response<P>>,
    ) {
        self.0.call(request, reply);
    }

    fn on_close(&mut self, _reason: &CloseReason, fault: Option<&Fault>) {
        let _ = self.1.send(fault.map_or("nothing".to_owned(), ToString::to_string));
    }
}

#[test]
fn late_replies_beyond_the_hard_limit_end_the_connection() {
    on_each_backend(|runtime| {
        let (keep, kept) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let channels = Mutex::new((keep, tell));
        let options = ServerOptions::new().listen(small_output()).held_limits(128 << 10, 1 << 20);
        let make = move |_: &Address| {
            let (keep, tell) = channels.lock().unwrap().clone();
            Tells(move |_: i32, reply: Reply<Bytes>| drop(keep.send(reply)), tell)
        };
        let server = options.bind_each(runtime, anywhere(), frames(), make).unwrap();
        let mut peer = dial(server.local_addr());
        write_ints(&mut peer, 0..400);
        let replies: Vec<Reply<Bytes>> = (0..400).map(|_| kept.recv_timeout(PATIENCE).unwrap()).collect();
        // 40 MB for a peer that does not read.
        let response = Bytes::from(vec![7; 100_000]);
        replies.into_iter().for_each(|reply| reply.send(response.clone()));
        let why = told.recv_timeout(PATIENCE).unwrap();
        assert!(why.contains("bytes of responses were waiting to be sent; the limit is 1048576"), "{why}");
        assert_eq!(server.metrics().over_limit, 1);
        drop(peer);
    });
}

#[test]
fn once_it_is_known_how_large_responses_are_no_more_requests_are_taken_than_there_is_room_for() {
    on_each_backend(|runtime| {
        let (keep, kept) = mpsc::channel();
        let keep = Mutex::new(keep);
        let service = move |_: i32, reply: Reply<Bytes>| drop(keep.lock().unwrap().send(reply));
        let options = ServerOptions::new().held_limits(128 << 10, 1 << 20);
        let server = options.bind(runtime, anywhere(), frames(), service).unwrap();
        let mut peer = dial(server.local_addr());
        let response = Bytes::from(vec![7; 100_000]);
        write_ints(&mut peer, [0]);
        kept.recv_timeout(PATIENCE).unwrap().send(response.clone());
        peer.read_exact(&mut vec![0; 100_004]).unwrap();
        write_ints(&mut peer, 0..200);
        let mut answered = 0;
        let mut open = Vec::new();
        let mut reading = peer.try_clone().unwrap();
        let reading = thread::spawn(move || reading.read_exact(&mut vec![0; 200 * 100_004]).unwrap());
        while answered < 200 {
            open.push(kept.recv_timeout(PATIENCE).unwrap());
            thread::sleep(Duration::from_millis(2));
            open.extend(kept.try_iter());
            assert!(open.len() <= 10, "{} in progress", open.len());
            answered += open.len();
            open.drain(..).for_each(|reply| reply.send(response.clone()));
        }
        reading.join().unwrap();
    });
}

#[test]
fn a_connection_with_much_to_do_lets_the_others_have_their_turn() {
    const REQUESTS: usize = 60_000;
    for backend in trochus::Backend::available() {
        watched(&backend.to_string(), move || {
            let runtime = Runtime::builder().backend(backend).reactors(1).build().unwrap();
            let served = Arc::new(AtomicUsize::new(0));
            let count = served.clone();
            let service = move |n: i32, reply: Reply<i32>| {
                if n > 0 {
                    let begin = Instant::now();
                    while begin.elapsed() < Duration::from_micros(20) {}
                    count.fetch_add(1, Ordering::SeqCst);
                }
                reply.send(n);
            };
            let server = Server::bind(&runtime, anywhere(), Int32, service).unwrap();
            let (mut busy, mut other) = (dial(server.local_addr()), dial(server.local_addr()));
            write_ints(&mut busy, 1..=REQUESTS as i32);
            let mut rounds = 0;
            while served.load(Ordering::SeqCst) < REQUESTS {
                write_ints(&mut other, [0]);
                assert_eq!(read_ints(&mut other, 1), [0]);
                rounds += 1;
            }
            // 1.2 seconds of work, in slices of some milliseconds: hundreds on a machine of one's own.
            assert!(rounds >= 30, "{rounds} rounds");
            assert_eq!(read_ints(&mut busy, REQUESTS), (1..=REQUESTS as i32).collect::<Vec<_>>());
        });
    }
}

/// As many requests are in progress as may be, and whoever waits for the others to be answered may wait for ever.
#[test]
fn as_many_requests_are_taken_as_may_be_in_progress() {
    const MOST: i32 = 100;
    on_each_backend(|runtime| {
        let (keep, kept) = mpsc::channel();
        let keep = Mutex::new(keep);
        let service = move |n: i32, reply: Reply<i32>| {
            if n == MOST / 2 {
                // The connection has had its slice of the turn, which shows behind 64 requests.
                thread::sleep(trochus::config::SERVE_SLICE);
            }
            let _ = keep.lock().unwrap().send((n, reply));
        };
        let server = Server::builder().requests_in_progress(MOST as usize);
        let server = server.bind(runtime, anywhere(), Int32, service).unwrap();
        let mut peer = dial(server.local_addr());
        write_ints(&mut peer, 0..2 * MOST);
        let mut replies: VecDeque<_> = (0..MOST).map(|_| next(&kept)).collect();
        for n in MOST..2 * MOST {
            thread::sleep(Duration::from_micros(100));
            assert!(kept.try_recv().is_err(), "more than {MOST} at {n}");
            let (first, reply) = replies.pop_front().unwrap();
            reply.send(first);
            replies.push_back(next(&kept));
            assert_eq!(replies.back().unwrap().0, n);
        }
        replies.into_iter().for_each(|(n, reply)| reply.send(n));
        assert_eq!(read_ints(&mut peer, 2 * MOST as usize), (0..2 * MOST).collect::<Vec<_>>());
    });
}

/// Keeps the replies to the first requests, and answers the others at once.
struct LateAndPrompt {
    opened: mpsc::Sender<Handle>,
    keep: mpsc::Sender<Reply<Bytes>>,
}

const LATE: u8 = 24;

impl Service<Correlated<Frames, ById>> for LateAndPrompt {
    fn on_open(&mut self, connection: &Connection<Bytes>) {
        let _ = self.opened.send(connection.handle().unwrap().clone());
    }

    fn call(&mut self, n: i32, reply: Reply<Bytes>) {
        match n as u8 {
            ..LATE => self.keep.send(reply).unwrap(),
            n => reply.send(Bytes::from(vec![n; 100_000])),
        }
    }
}

/// A response that is ready at once does not pass others that wait for room, nor does it or what others write get between their
/// parts.
#[test]
fn responses_stay_whole_where_late_and_prompt_ones_mix() {
    const OTHERS: u64 = 99;
    for backend in trochus::Backend::available() {
        watched(&backend.to_string(), move || {
            let runtime = Runtime::builder().backend(backend).reactors(1).build().unwrap();
            let ((opened, handles), (keep, kept)) = (mpsc::channel(), mpsc::channel());
            let make = move |_peer: &Address| LateAndPrompt { opened: opened.clone(), keep: keep.clone() };
            let server = Server::builder().bind_each(&runtime, anywhere(), frames().by_id(), make).unwrap();
            let mut peer = dial(server.local_addr());
            let request = |n: u8| [&u64::to_be_bytes(n.into())[..], &i32::from(n).to_be_bytes()].concat();
            peer.write_all(&(0..LATE).flat_map(request).collect::<Vec<_>>()).unwrap();
            let replies: Vec<_> = (0..LATE).map(|_| kept.recv_timeout(PATIENCE).unwrap()).collect();
            // All of them at once.
            let held = hold(&runtime, 0);
            for (n, reply) in (0..).zip(replies) {
                reply.send(Bytes::from(vec![n; 100_000]));
            }
            drop(held);
            let mut seen = Vec::new();
            while seen.len() < 2 * usize::from(LATE) + 1 {
                let (mut header, mut bytes) = ([0; 12], vec![0; 100_000]);
                peer.read_exact(&mut header).unwrap();
                if seen.is_empty() {
                    // Most of them wait for room now.
                    peer.write_all(&(LATE..2 * LATE).flat_map(request).collect::<Vec<_>>()).unwrap();
                    let others =
                        [&OTHERS.to_be_bytes()[..], &100_000_i32.to_be_bytes(), &[OTHERS as u8; 100_000]];
                    handles.recv().unwrap().write(&others.concat()).unwrap();
                }
                let id = u64::from_be_bytes(header[..8].try_into().unwrap());
                assert_eq!(header[8..], 100_000_i32.to_be_bytes(), "behind {seen:?}");
                peer.read_exact(&mut bytes).unwrap();
                assert!(bytes.iter().all(|byte| u64::from(*byte) == id), "of {id}, behind {seen:?}");
                seen.push(id);
            }
            assert!(seen.contains(&OTHERS));
            seen.retain(|id| *id != OTHERS);
            assert_eq!(seen, (0..2 * u64::from(LATE)).collect::<Vec<_>>());
        });
    }
}

/// Where output does not hold reading back by itself, a server that has no room for responses goes on once it has.
#[test]
fn requests_that_found_no_room_for_their_responses_are_served_later() {
    const REQUESTS: i32 = 100;
    const BYTES: usize = 100_000;
    on_each_backend(|runtime| {
        let (service, _kept, _served) = one_is_slow(BYTES);
        let options = ServerOptions::new()
            .listen(ListenOptions::new().stream(StreamOptions::new().throttle_reading(false)));
        let server = options.bind(runtime, anywhere(), frames(), service).unwrap();
        let mut peer = dial(server.local_addr());
        write_ints(&mut peer, 1..=REQUESTS);
        let mut received = vec![0; REQUESTS as usize * (4 + BYTES)];
        peer.read_exact(&mut received).unwrap();
        assert!(received.chunks(4 + BYTES).all(|frame| frame[4..].iter().all(|byte| *byte == 1)));
    });
}

/// Who is not read because as much is in progress as may be is known all the same to have gone.
#[test]
fn whoever_goes_away_while_he_is_not_read_is_known_to_have_gone() {
    on_each_backend(|runtime| {
        let (service, kept) = keeper();
        let server = Server::builder().requests_in_progress(3);
        let server = server.bind(runtime, anywhere(), Int32, service).unwrap();
        let mut peer = dial(server.local_addr());
        write_ints(&mut peer, 0..25_000);
        let replies: Vec<_> = (0..3).map(|_| next(&kept).1).collect();
        thread::sleep(Duration::from_millis(20));
        assert!(replies.iter().all(Reply::is_wanted));
        reset(peer);
        eventually("nobody waits for replies", || !replies.iter().any(Reply::is_wanted));
        assert!(kept.try_recv().is_err());
    });
}

/// Forgets negative requests, and has words for that if `speaks`.
struct Forgets {
    speaks: bool,
    wanted: mpsc::Sender<bool>,
}

impl<P: Protocol<RequestCodec = Int32, ResponseCodec = Int32>> Service<P> for Forgets {
    fn call(&mut self, n: i32, reply: Reply<i32>) {
        if n >= 0 {
            return reply.send(n);
        }
        let wanted = self.wanted.clone();
        thread::spawn(move || {
            assert!(reply.is_wanted());
            eventually("nobody waits any more", || !reply.is_wanted());
            let _ = wanted.send(reply.is_wanted());
            // Too late: it goes nowhere.
            reply.send(-9);
        });
    }

    fn substitute(&mut self, missing: &Missing<'_>) -> Option<i32> {
        assert!(matches!(missing.cause, MissingCause::TimedOut));
        self.speaks.then_some(-1000 - missing.request as i32)
    }
}

#[test]
fn a_request_that_takes_too_long_does_not_hold_the_others_up() {
    fn bind<P>(runtime: &Runtime, protocol: P, speaks: bool) -> (Server, mpsc::Receiver<bool>)
    where
        P: Protocol<RequestCodec = Int32, ResponseCodec = Int32> + Sync,
    {
        let (tell, told) = mpsc::channel();
        let tell = Mutex::new(tell);
        let make = move |_: &Address| Forgets { speaks, wanted: tell.lock().unwrap().clone() };
        let options = ServerOptions::new().request_timeout(Duration::from_millis(200));
        (options.bind_each(runtime, anywhere(), protocol, make).unwrap(), told)
    }
    on_each_backend(|runtime| {
        let (server, unwanted) = bind(runtime, Int32, true);
        let mut peer = dial(server.local_addr());
        write_ints(&mut peer, [1, -2, 3]);
        assert_eq!(read_ints(&mut peer, 3), [1, -1001, 3]);
        assert!(!unwanted.recv_timeout(PATIENCE).unwrap());
        write_ints(&mut peer, [4]);
        assert_eq!(read_ints(&mut peer, 1), [4]);
        assert_eq!(server.metrics().timed_out, 1);
        // Without words for it, an in-order connection ends there, and another one goes on.
        let (server, _) = bind(runtime, Int32, false);
        let mut peer = dial(server.local_addr());
        write_ints(&mut peer, [1, -2, 3]);
        assert_eq!(ints(&rest_until_reset(&mut peer)), [1]);
        let (server, _) = bind(runtime, Int32.by_id(), false);
        let mut peer = dial(server.local_addr());
        write_ints(&mut peer, [0, 7, -2, 0, 8, 3]);
        assert_eq!(read_ints(&mut peer, 3), [0, 8, 3]);
        assert_eq!(read_notice(&mut peer), (2, 3, 7));
        write_ints(&mut peer, [0, 9, 4]);
        assert_eq!(read_ints(&mut peer, 3), [0, 9, 4]);
    });
}

#[test]
fn half_a_request_is_waited_for_a_while() {
    on_each_backend(|runtime| {
        let (tell, told) = mpsc::channel();
        let tell = Mutex::new(tell);
        let make =
            move |_: &Address| Tells(|n: i32, reply: Reply<i32>| reply.send(n), tell.lock().unwrap().clone());
        let options = ServerOptions::new().half_request_timeout(Duration::from_millis(300));
        let server = options.bind_each(runtime, anywhere(), Int32, make).unwrap();
        // Whoever sends whole ones, however slowly, is not concerned, nor who sends none.
        let (mut slow, mut idle) = (dial(server.local_addr()), dial(server.local_addr()));
        let mut peer = dial(server.local_addr());
        peer.write_all(&[0, 0, 0, 1, 0]).unwrap();
        for n in 0..10 {
            write_ints(&mut slow, [n]);
            assert_eq!(read_ints(&mut slow, 1), [n]);
            thread::sleep(Duration::from_millis(50));
            // A byte now and then does not help.
            let _ = peer.write_all(&[0][..usize::from(n == 2)]);
        }
        assert_eq!(rest_of_ints(&mut peer), [1]);
        drop(peer);
        let why = told.recv_timeout(PATIENCE).unwrap();
        assert!(why.contains("a part of a request and not the rest within 300ms"), "{why}");
        write_ints(&mut idle, [5]);
        assert_eq!(read_ints(&mut idle, 1), [5]);
        assert_eq!(server.metrics().peers_timed_out, 1);
    });
}

/// A server that waits for the rest of a request for ever is not overruled by the limit of its streams.
#[test]
fn how_long_half_a_request_is_waited_for_is_the_servers_to_say() {
    on_each_backend(|runtime| {
        let stream = StreamOptions::new().message_timeout(Duration::from_millis(50));
        let options =
            ServerOptions::new().half_request_timeout(None).listen(ListenOptions::new().stream(stream));
        let server =
            options.bind(runtime, anywhere(), Int32, |n: i32, reply: Reply<i32>| reply.send(n)).unwrap();
        let mut peer = dial(server.local_addr());
        peer.write_all(&[0, 0]).unwrap();
        thread::sleep(Duration::from_millis(200));
        peer.write_all(&[0, 7]).unwrap();
        assert_eq!(read_ints(&mut peer, 1), [7]);
    });
}

/// Whoever sets it for streams means the server's, which knows of requests in progress.
#[test]
fn silence_on_streams_is_silence_of_a_server() {
    on_each_backend(|runtime| {
        let stream = StreamOptions::new().idle_timeout(Duration::from_millis(400));
        let options = ServerOptions::new().listen(ListenOptions::new().stream(stream));
        let (service, kept) = keeper();
        let server = options.bind(runtime, anywhere(), Int32.by_id(), service).unwrap();
        let (mut waits, mut idle) = (dial(server.local_addr()), dial(server.local_addr()));
        write_ints(&mut waits, [0, 1, 10]);
        let (_, reply) = next(&kept);
        assert_eq!(read_notice(&mut idle), (1, 0, 0), "goodbye: nothing was taken");
        thread::sleep(Duration::from_millis(500));
        reply.send(11);
        assert_eq!(read_ints(&mut waits, 3), [0, 1, 11]);
        assert_eq!(server.metrics().peers_timed_out, 1);
    });
}

/// By a goodbye; who has said something has all the time.
#[test]
fn who_says_nothing_to_a_server_is_sent_away() {
    on_each_backend(|runtime| {
        let stream = StreamOptions::new().opening_timeout(Duration::from_millis(300));
        let options = ServerOptions::new().listen(ListenOptions::new().stream(stream));
        let server =
            options.bind(runtime, anywhere(), Int32.by_id(), |n, reply: Reply<i32>| reply.send(n)).unwrap();
        let mut speaks = dial(server.local_addr());
        write_ints(&mut speaks, [0, 1, 10]);
        assert_eq!(read_ints(&mut speaks, 3), [0, 1, 10]);
        let mut silent = dial(server.local_addr());
        assert_eq!(read_notice(&mut silent), (1, 0, 0), "goodbye: nothing was taken");
        assert_eq!(silent.read(&mut [0]).unwrap(), 0);
        write_ints(&mut speaks, [0, 2, 20]);
        assert_eq!(read_ints(&mut speaks, 3), [0, 2, 20]);
    });
}

#[test]
fn who_is_idle_for_too_long_is_sent_away() {
    on_each_backend(|runtime| {
        let options = ServerOptions::new().idle_timeout(Duration::from_millis(400));
        let (service, kept) = keeper();
        let server = options.bind(runtime, anywhere(), Int32.by_id(), service).unwrap();
        // Whoever waits for a response is not idle.
        let (mut waits, mut idle) = (dial(server.local_addr()), dial(server.local_addr()));
        write_ints(&mut waits, [0, 1, 10]);
        let (_, reply) = next(&kept);
        assert_eq!(read_notice(&mut idle), (1, 0, 0), "goodbye: nothing was taken");
        assert_eq!(idle.read(&mut [0]).unwrap(), 0);
        thread::sleep(Duration::from_millis(500));
        reply.send(11);
        assert_eq!(read_ints(&mut waits, 3), [0, 1, 11]);
        assert_eq!(read_notice(&mut waits), (1, 0, 1));
    });
}

#[test]
fn limits_that_make_no_sense_are_refused() {
    on_each_backend(|runtime| {
        let echo = |n: i32, reply: Reply<i32>| reply.send(n);
        for (options, part) in [
            (ServerOptions::new().request_timeout(Duration::ZERO), "`None` switches them off"),
            (ServerOptions::new().half_request_timeout(Duration::ZERO), "`None` switches them off"),
            (ServerOptions::new().idle_timeout(Duration::ZERO), "`None` switches them off"),
            (ServerOptions::new().held_limits(0, 1), "soft limit"),
            (ServerOptions::new().held_limits(5, 5), "soft limit"),
        ] {
            let error = options.bind(runtime, anywhere(), Int32, echo).unwrap_err();
            assert!(matches!(&error, Error::InvalidSetting(text) if text.contains(part)), "{error}");
        }
        // The longest there is never comes.
        let long = Duration::MAX;
        let options =
            ServerOptions::new().request_timeout(long).half_request_timeout(long).idle_timeout(long);
        let server = options.bind(runtime, anywhere(), Int32, echo).unwrap();
        let mut peer = dial(server.local_addr());
        peer.write_all(&[0, 0]).unwrap();
        peer.write_all(&[0, 7]).unwrap();
        assert_eq!(read_ints(&mut peer, 1), [7]);
        // A codec that takes more than its connection keeps.
        let stream = StreamOptions::new().input_limit(1 << 20);
        let options = ServerOptions::new().listen(ListenOptions::new().stream(stream));
        let codec = LengthDelimited::new().max_frame_bytes(8 << 20);
        let error = options.bind(runtime, anywhere(), codec, |_: &[u8], _| {}).unwrap_err();
        assert!(error.to_string().contains("input_limit"), "{error}");
    });
}
