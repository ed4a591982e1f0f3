//! A ring by itself, without a reactor: what the kernel really does with it.

mod files;
mod sharing;

use super::*;
use crate::config::PoolConfig;
use crate::driver::Received;
use io_uring::{opcode, types};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;

/// Far beyond what anything here takes.
const PATIENCE: Duration = Duration::from_secs(90);

fn ring(buffers: u16, buffer_bytes: usize) -> Option<Uring> {
    let pool = PoolConfig { buffers, buffer_bytes, ..PoolConfig::default() };
    match Uring::new(&pool, RingEntries::default(), UringFeatures::default()) {
        Ok(uring) => Some(uring),
        Err(error) => {
            eprintln!("no io_uring here ({error}), so nothing is tested");
            None
        }
    }
}

fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

/// Waits until there are so many completions.
fn wait_for(uring: &mut Uring, count: usize) -> Vec<Completion> {
    let (deadline, mut completions) = (Instant::now() + PATIENCE, Vec::new());
    while completions.len() < count {
        let left = deadline.checked_duration_since(Instant::now()).expect("completions in time");
        uring.wait(Some(left), &mut completions).unwrap();
    }
    completions
}

/// The kernel reads the memory of such a send until it says so, which is after it told the result.
#[test]
fn a_zero_copy_send_gives_its_payload_back_when_the_kernel_lets_go_of_it() {
    let Some(mut uring) = ring(16, 4096) else { return };
    let (sender, mut receiver) = tcp_pair();
    let token = Token::new(Kind::Send, 1, 5);
    let mut payload = Payload::default();
    payload.text().extend_from_slice(&[7; 10_000]);
    let bytes = payload.as_single().unwrap();
    let entry =
        opcode::SendZc::new(types::Fd(sender.as_raw_fd()), bytes.as_ptr(), bytes.len() as u32).build();
    uring.in_flight += 1;
    uring.push_owner(token, entry, Memory::Send(payload, None));
    let mut completions = wait_for(&mut uring, 1).into_iter();
    let first = completions.next().expect("it was waited for");
    assert_eq!(first.token, token);
    let Event::Sent(Ok(sent), None) = first.event else {
        // Before Linux 6.0 there was no such send, and then nothing was held.
        assert!(matches!(first.event, Event::Sent(Err(_), Some(_))), "{first:?}");
        return;
    };
    assert!(first.more);
    let mut received = vec![0; sent];
    receiver.read_exact(&mut received).unwrap();
    assert!(received.iter().all(|byte| *byte == 7));
    let last = completions.next().unwrap_or_else(|| wait_for(&mut uring, 1).remove(0));
    assert_eq!(last.token, token);
    let Event::Released(payload) = last.event else { panic!("{last:?}") };
    assert_eq!(payload.as_single(), Some(&[7; 10_000][..]));
    assert!(!last.more && uring.in_flight() == 0);
}

/// As of datagrams: the results are told apart, and each payload comes back with its own.
#[test]
fn several_sends_of_one_entry_can_be_in_flight() {
    let Some(mut uring) = ring(16, 4096) else { return };
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.connect(socket.local_addr().unwrap()).unwrap();
    let token = Token::new(Kind::Send, 1, 5);
    for size in 1..=20 {
        let mut payload = Payload::default();
        payload.text().extend_from_slice(&vec![size; usize::from(size)]);
        uring.submit(token, Op::Send { socket: socket.as_raw_fd(), payload });
    }
    let mut sizes = Vec::new();
    for completion in wait_for(&mut uring, 20) {
        let Event::Sent(Ok(sent), Some(payload)) = completion.event else { panic!("{completion:?}") };
        assert_eq!((completion.token, payload.len()), (token, sent));
        sizes.push(sent);
    }
    sizes.sort_unstable();
    assert_eq!(sizes, (1..=20).collect::<Vec<_>>());
    assert_eq!(uring.in_flight(), 0);
}

/// What was received can be changed where it lies, and only that.
#[test]
fn received_bytes_are_lent_to_be_changed() {
    let Some(mut uring) = ring(16, 4096) else { return };
    let (mut sender, receiver) = tcp_pair();
    sender.write_all(b"abcdef").unwrap();
    uring.submit(Token::new(Kind::Receive, 1, 2), Op::Receive { socket: receiver.as_raw_fd(), once: None });
    let completion = wait_for(&mut uring, 1).remove(0);
    let Event::Received(Ok(Received::Data(lent))) = completion.event else { panic!("{completion:?}") };
    uring.bytes(Lent { start: lent.start + 2, len: 2, ..lent }).make_ascii_uppercase();
    assert_eq!(uring.bytes(lent), b"abCDef");
    uring.release(lent.buffer);
}

/// A receive that is wanted once takes no more than it was asked for, of small and of large buffers.
#[test]
fn what_is_received_once_is_no_more_than_was_asked_for() {
    let Some(mut uring) = ring(16, 16 << 10) else { return };
    let (mut sender, receiver) = tcp_pair();
    sender.write_all(&[7; 30_000]).unwrap();
    let (socket, token) = (receiver.as_raw_fd(), Token::new(Kind::Receive, 1, 2));
    for (most, expected) in [(1_000, 1_000), (usize::MAX, 2 << 10), (usize::MAX, 16 << 10), (5, 5)] {
        uring.submit(token, Op::Receive { socket, once: Some(most) });
        let completion = wait_for(&mut uring, 1).remove(0);
        let Event::Received(Ok(Received::Data(lent))) = completion.event else { panic!("{completion:?}") };
        assert_eq!((lent.len, completion.more), (expected, false));
        uring.release(lent.buffer);
        assert_eq!(uring.in_flight(), 0);
    }
}

/// An end is no reset, whether it is there already or comes; neither keeps the watch from being cancelled.
#[test]
fn a_watch_tells_of_a_reset_and_of_nothing_else() {
    let Some(mut uring) = ring(16, 4096) else { return };
    let token = Token::new(Kind::Receive, 1, 2);
    for (ends, resets) in [(false, false), (true, false), (false, true)] {
        let (mut sender, receiver) = tcp_pair();
        let socket = receiver.as_raw_fd();
        uring.submit(token, Op::Watch { socket });
        sender.write_all(&[7; 100]).unwrap();
        if ends {
            sender.shutdown(std::net::Shutdown::Write).unwrap();
        }
        let mut completions = Vec::new();
        (0..3).for_each(|_| uring.wait(Some(Duration::from_millis(2)), &mut completions).unwrap());
        assert!(completions.is_empty(), "{completions:?}");
        if resets {
            // What was not read makes a reset of the end.
            (&receiver).write_all(b"x").unwrap();
            drop(sender);
        } else {
            uring.cancel(token, socket);
        }
        let completion = wait_for(&mut uring, 1).remove(0);
        let Event::Received(Err(error)) = &completion.event else { panic!("{completion:?}") };
        let expected = if resets { libc::ECONNRESET } else { libc::ECANCELED };
        assert_eq!((error.raw_os_error(), completion.more), (Some(expected), false));
        assert_eq!(uring.in_flight(), 0);
    }
}

/// A ring with small buffers of 512 bytes beside large ones of 16 KiB.
fn ring_with_small_buffers(without: &[UringFeature], entries: RingEntries) -> Option<Uring> {
    let pool = PoolConfig { buffers: 64, buffer_bytes: 16 << 10, small_buffers: 64, small_buffer_bytes: 512 };
    let mut masked = UringFeatures::default();
    without.iter().for_each(|feature| masked.insert(*feature));
    ring(64, 16 << 10)?;
    Some(Uring::new(&pool, entries, masked).expect("there was one a moment ago"))
}

/// Receives until so many bytes are there, arming again whenever the receive ended; gives the sizes, and checks the bytes.
fn receive(uring: &mut Uring, token: Token, socket: RawFd, armed: &mut bool, expected: &[u8]) -> Vec<usize> {
    let (mut sizes, mut received) = (Vec::new(), 0);
    while received < expected.len() {
        if !std::mem::replace(armed, true) {
            uring.submit(token, Op::Receive { socket, once: None });
        }
        for completion in wait_for(uring, 1) {
            *armed = completion.more;
            match completion.event {
                Event::Received(Ok(Received::Data(lent))) => {
                    assert!(*uring.bytes(lent) == expected[received..][..lent.len], "at {received}");
                    uring.release(lent.buffer);
                    received += lent.len;
                    sizes.push(lent.len);
                }
                Event::Received(Err(error)) if crate::driver::is_out_of_buffers(&error) => assert!(!*armed),
                Event::NotCancelled => {}
                event => panic!("{event:?}"),
            }
        }
    }
    sizes
}

fn numbered(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index % 251) as u8).collect()
}

/// With a receive that stays armed, and with one that does not.
#[test]
fn small_messages_take_small_buffers_and_long_ones_large_ones() {
    for without in [&[][..], &[UringFeature::MultishotReceive][..]] {
        let Some(mut uring) = ring_with_small_buffers(without, RingEntries::default()) else { return };
        let (mut sender, receiver) = tcp_pair();
        let (token, socket, mut armed) = (Token::new(Kind::Receive, 1, 3), receiver.as_raw_fd(), false);
        for _ in 0..3 {
            for _ in 0..=crate::config::SMALL_AFTER {
                sender.write_all(&numbered(100)).unwrap();
                receive(&mut uring, token, socket, &mut armed, &numbered(100));
            }
            assert_eq!(uring.group(token), BufferGroup::Small);
            let message = numbered(200_000);
            let sizes = std::thread::scope(|scope| {
                scope.spawn(|| sender.write_all(&message).unwrap());
                receive(&mut uring, token, socket, &mut armed, &message)
            });
            assert!(sizes.iter().any(|size| *size > 512), "{sizes:?}");
            assert_eq!(uring.group(token), BufferGroup::Large);
        }
        // Another connection at the same place knows nothing of this one.
        let (mut sender, receiver) = tcp_pair();
        sender.write_all(&numbered(2_000)).unwrap();
        let token = Token::new(Kind::Receive, 2, 3);
        let sizes = receive(&mut uring, token, receiver.as_raw_fd(), &mut false, &numbered(2_000));
        assert_eq!(sizes[0], 512);
        assert_eq!(uring.pool.loaned(), 0);
    }
}

/// While a receive changes its buffers it is told to end, by this side as well: there is one final completion whatever
/// comes first, and no byte is lost between one receive and the next.
#[test]
fn a_receive_that_changes_its_buffers_can_be_cancelled_at_any_time() {
    let Some(mut uring) = ring_with_small_buffers(&[], RingEntries::default()) else { return };
    let mut rng = fastrand::Rng::with_seed(7);
    let (mut sender, receiver) = tcp_pair();
    let (token, socket) = (Token::new(Kind::Receive, 1, 3), receiver.as_raw_fd());
    let (mut sent, mut received) = (0usize, 0usize);
    for _ in 0..500 {
        uring.submit(token, Op::Receive { socket, once: None });
        let (mut armed, mut cancelling) = (true, false);
        let deadline = Instant::now() + PATIENCE;
        while armed {
            assert!(Instant::now() < deadline, "no final completion");
            if received == sent || rng.bool() {
                let size: usize = rng.choice([1, 100, 511, 512, 513, 3_000]).expect("there are some");
                let bytes: Vec<u8> = (sent..sent + size).map(|index| (index % 251) as u8).collect();
                sender.write_all(&bytes).unwrap();
                sent += size;
            }
            if !cancelling && rng.u8(..) < 80 {
                uring.cancel(token, socket);
                cancelling = true;
            }
            let mut completions = Vec::new();
            uring.wait(Some(Duration::ZERO), &mut completions).unwrap();
            for completion in completions {
                assert!(armed || matches!(completion.event, Event::NotCancelled), "{completion:?}");
                match completion.event {
                    Event::NotCancelled if armed && cancelling => uring.cancel(token, socket),
                    Event::NotCancelled => {}
                    Event::Received(result) => {
                        armed = completion.more;
                        if let Ok(Received::Data(lent)) = result {
                            let right = |(at, byte): (usize, &u8)| *byte == ((received + at) % 251) as u8;
                            assert!(uring.bytes(lent).iter().enumerate().all(|(at, byte)| right((at, byte))));
                            uring.release(lent.buffer);
                            received += lent.len;
                        }
                    }
                    event => panic!("{event:?}"),
                }
            }
        }
        assert_eq!((uring.in_flight(), uring.pool.loaned()), (0, 0));
    }
}

/// More completions than the queue takes are late, not lost, and the counter says that it happened.
#[test]
fn an_overflow_of_the_completion_queue_loses_nothing_and_is_counted() {
    let entries = RingEntries { submission: 8, completion: 16 };
    // What the kernel does not put off happens while nobody takes completions out.
    let without = [UringFeature::DeferTaskRun, UringFeature::SingleIssuer, UringFeature::NoSqArray];
    let Some(mut uring) = ring_with_small_buffers(&without, entries) else { return };
    let mut pairs: Vec<_> = (0..200).map(|_| tcp_pair()).collect();
    for (index, (_, receiver)) in (0..).zip(&pairs) {
        uring.submit(
            Token::new(Kind::Receive, 1, index),
            Op::Receive { socket: receiver.as_raw_fd(), once: None },
        );
    }
    let mut completions = Vec::new();
    uring.wait(Some(Duration::ZERO), &mut completions).unwrap();
    for (sender, _) in &mut pairs {
        sender.write_all(&[1]).unwrap();
    }
    let (mut received, deadline) = (vec![false; pairs.len()], Instant::now() + PATIENCE);
    while received.contains(&false) {
        assert!(Instant::now() < deadline, "completions were lost");
        uring.wait(Some(Duration::from_millis(10)), &mut completions).unwrap();
        assert!(uring.stats().completion_overflows > 0);
        for completion in completions.drain(..) {
            let index = completion.token.index() as usize;
            match completion.event {
                Event::Received(Ok(Received::Data(lent))) => {
                    assert!(!std::mem::replace(&mut received[index], true), "twice");
                    uring.release(lent.buffer);
                }
                Event::Received(Err(_)) => {}
                event => panic!("{event:?}"),
            }
            if !completion.more {
                uring
                    .submit(completion.token, Op::Receive { socket: pairs[index].1.as_raw_fd(), once: None });
            }
        }
    }
}

/// Whoever submits more between two waits than the completion queue takes makes it overflow no more: what completed is
/// taken out meanwhile.
#[test]
fn twelve_thousand_sends_between_two_waits_overflow_nothing() {
    for entries in [RingEntries::default(), RingEntries { submission: 4, completion: 8 }] {
        let Some(mut uring) = ring_with_small_buffers(&[], entries) else { return };
        let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.connect(socket.local_addr().unwrap()).unwrap();
        for index in 0..12_000u32 {
            let mut payload = Payload::default();
            payload.text().extend_from_slice(&index.to_le_bytes());
            let token = Token::new(Kind::Send, 1, index);
            uring.submit(token, Op::Send { socket: socket.as_raw_fd(), payload });
        }
        let mut sent = vec![false; 12_000];
        for completion in wait_for(&mut uring, 12_000) {
            let Event::Sent(Ok(4), Some(payload)) = completion.event else { panic!("{completion:?}") };
            let index = completion.token.index();
            assert_eq!(payload.as_single(), Some(&index.to_le_bytes()[..]));
            assert!(!std::mem::replace(&mut sent[index as usize], true), "twice");
        }
        assert_eq!((uring.in_flight(), uring.stats().completion_overflows), (0, 0));
    }
}

/// The poll of the bell has ended, as it does when the completion queue was full: it is armed again, and rings.
#[test]
fn a_bell_whose_poll_ended_wakes_again() {
    let Some(mut uring) = ring(16, 4096) else { return };
    let mut completions = Vec::new();
    for _ in 0..3 {
        uring.push(Wire::Cancel { target: Internal::Wake.bits() }, Internal::Cancelled(None).bits());
        // The cancellation, the end of the poll, and its being armed again.
        for _ in 0..3 {
            uring.wait(Some(Duration::ZERO), &mut completions).unwrap();
        }
        let DriverWaker::Event(bell) = uring.waker() else { unreachable!("a ring has a bell") };
        bell.ring();
        let before = Instant::now();
        uring.wait(Some(PATIENCE), &mut completions).unwrap();
        assert!(before.elapsed() < PATIENCE, "nobody heard it");
        assert!(completions.is_empty());
    }
}

/// A send that is longer than one piece shows how far it came, whatever it is made of.
#[test]
fn a_long_send_shows_its_progress_piece_by_piece() {
    use crate::config::SEND_BYTES;
    let Some(mut uring) = ring(16, 4096) else { return };
    for spliced in [false, true] {
        let (sender, mut receiver) = tcp_pair();
        let mut payload = Payload::default();
        if spliced {
            payload.text().push(0);
            payload.splice(bytes::Bytes::from(vec![0; 3 * SEND_BYTES]));
        } else {
            payload.text().resize(3 * SEND_BYTES + 1, 0);
        }
        let reader = std::thread::spawn(move || std::io::copy(&mut receiver, &mut std::io::sink()).unwrap());
        let mut pieces = 0;
        while !payload.is_empty() {
            let token = Token::new(Kind::Send, 1, 5);
            uring.submit(token, Op::Send { socket: sender.as_raw_fd(), payload });
            let completion = wait_for(&mut uring, 1).remove(0);
            let Event::Sent(Ok(sent), Some(rest)) = completion.event else { panic!("{completion:?}") };
            assert!(sent <= SEND_BYTES);
            payload = rest;
            payload.advance(sent);
            pieces += 1;
        }
        assert!(pieces >= 4);
        drop(sender);
        assert_eq!(reader.join().unwrap(), 3 * SEND_BYTES as u64 + 1);
    }
}

/// What may have completed shows without asking the kernel, and what cannot have does too.
#[test]
fn a_look_at_the_queues_tells_whether_entering_is_worth_it() {
    let Some(mut uring) = ring(16, 4096) else { return };
    let (mut sender, receiver) = tcp_pair();
    uring.submit(Token::new(Kind::Receive, 1, 2), Op::Receive { socket: receiver.as_raw_fd(), once: None });
    let mut completions = Vec::new();
    for _ in 0..3 {
        uring.wait(Some(Duration::ZERO), &mut completions).unwrap();
    }
    if uring.capabilities().deferred_task_work {
        assert!(!uring.may_have_completed());
    }
    sender.write_all(&[1]).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !uring.may_have_completed() {
        assert!(Instant::now() < deadline, "nothing shows");
        std::thread::yield_now();
    }
    assert_eq!(wait_for(&mut uring, 1).len(), 1);
}
