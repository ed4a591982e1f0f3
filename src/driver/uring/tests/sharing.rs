//! Buffers that are sent from where they were received.

use super::*;
use bytes::Bytes;

/// Bytes that are shared stay as they are, whatever else is received, until nobody has them; and half of the buffers stay for others.
#[test]
fn shared_bytes_keep_their_buffer_and_leave_others_theirs() {
    const BUFFERS: u16 = 4;
    let Some(mut uring) = ring(BUFFERS, 1 << 10) else { return };
    let (mut sender, receiver) = tcp_pair();
    let (token, socket) = (Token::new(Kind::Receive, 1, 3), receiver.as_raw_fd());
    let mut kept: Vec<(Bytes, u8)> = Vec::new();
    for round in 0..40u8 {
        sender.write_all(&[round; 100]).unwrap();
        uring.submit(token, Op::Receive { socket, once: Some(100) });
        let mut completions = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while completions.is_empty() {
            assert!(Instant::now() < deadline, "nothing was received in round {round}");
            uring.wait(Some(PATIENCE), &mut completions).unwrap();
        }
        let [Completion { event: Event::Received(Ok(Received::Data(lent))), .. }] = completions[..] else {
            panic!("{completions:?}")
        };
        assert_eq!(uring.bytes(lent), [round; 100]);
        match uring.share(lent) {
            Some(bytes) => kept.push((bytes, round)),
            None => uring.release(lent.buffer),
        }
        assert!(kept.len() <= usize::from(BUFFERS) / 2, "{} are shared", kept.len());
        assert!(kept.iter().all(|(bytes, round)| **bytes == [*round; 100]), "one was overwritten");
        assert_eq!(uring.pool.loaned(), kept.len());
        assert_eq!(uring.free_buffers(BufferGroup::Large), usize::from(BUFFERS) - kept.len());
        if round % 5 == 4 {
            // Also on another thread.
            let last = kept.remove(0);
            std::thread::spawn(|| drop(last)).join().unwrap();
            assert_eq!(uring.pool.loaned(), kept.len());
            // Whoever waits for a buffer is told at once, before anybody takes it back.
            assert_eq!(uring.free_buffers(BufferGroup::Large), usize::from(BUFFERS) - kept.len());
        }
    }
    assert!(!kept.is_empty());
    // They outlive the ring.
    drop(uring);
    assert!(kept.iter().all(|(bytes, round)| **bytes == [*round; 100]));
}
