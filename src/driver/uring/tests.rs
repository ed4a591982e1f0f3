//! A ring by itself, without a reactor: what the kernel really does with it.

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
    uring.submit(Token::new(Kind::Receive, 1, 2), Op::Receive { socket: receiver.as_raw_fd() });
    let completion = wait_for(&mut uring, 1).remove(0);
    let Event::Received(Ok(Received::Data(lent))) = completion.event else { panic!("{completion:?}") };
    uring.bytes(Lent { start: lent.start + 2, len: 2, ..lent }).make_ascii_uppercase();
    assert_eq!(uring.bytes(lent), b"abCDef");
    uring.release(lent.buffer);
}
