//! Random programs against a model: whatever is submitted, cancelled and held back, both ends see the same
//! stream, every operation ends once, and every buffer comes back.

mod common;

use common::{Harness, Kind, pair, pattern, pattern_at};
use proptest::prelude::*;
use std::os::fd::RawFd;
use trochus_fallback::{BufferId, Completion, Event, Settings};

#[derive(Clone, Debug)]
enum Step {
    Send {
        end: usize,
        len: usize,
    },
    CancelSend {
        end: usize,
    },
    Receive {
        end: usize,
    },
    CancelReceive {
        end: usize,
    },
    /// Keep the buffers that arrive, so that the pool runs dry; or give them all back.
    Hold(bool),
    Wait,
}

const ENDS: usize = 4;

fn step() -> impl Strategy<Value = Step> {
    let end = 0..ENDS;
    prop_oneof![
        4 => (end.clone(), 0..200_000usize).prop_map(|(end, len)| Step::Send { end, len }),
        1 => end.clone().prop_map(|end| Step::CancelSend { end }),
        4 => end.clone().prop_map(|end| Step::Receive { end }),
        1 => end.prop_map(|end| Step::CancelReceive { end }),
        1 => any::<bool>().prop_map(Step::Hold),
        6 => Just(Step::Wait),
    ]
}

/// One end of a connection. The other end of number n is n ^ 1.
#[derive(Default)]
struct End {
    fd: RawFd,
    sent: usize,
    received: usize,
    /// Tokens of what is pending.
    send: Option<u64>,
    receive: Option<u64>,
}

struct World {
    harness: Harness,
    ends: Vec<End>,
    next_token: u64,
    hold: bool,
    held: Vec<BufferId>,
}

impl World {
    fn new(kind: Kind, settings: Settings) -> Self {
        let mut harness = Harness::new(3, settings);
        let mut ends = Vec::new();
        for _ in 0..ENDS / 2 {
            let (here, there) = pair(kind);
            for socket in [here, there] {
                socket.set_send_buffer_size(32 * 1024).unwrap();
                ends.push(End { fd: harness.attach(socket), ..End::default() });
            }
        }
        Self { harness, ends, next_token: 0, hold: false, held: Vec::new() }
    }

    fn token(&mut self) -> Option<u64> {
        self.next_token += 1;
        Some(self.next_token)
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Send { end, len } if self.ends[end].send.is_none() => {
                let payload = pattern(self.ends[end].sent, len);
                self.ends[end].send = self.token();
                self.harness.proactor.send(self.ends[end].fd, payload, self.next_token);
            }
            Step::Receive { end } if self.ends[end].receive.is_none() => {
                self.ends[end].receive = self.token();
                let (fd, token) = (self.ends[end].fd, self.next_token);
                match token % 3 {
                    0 => self.harness.proactor.receive_once(fd, 700, token),
                    _ => self.harness.proactor.receive(fd, token),
                }
            }
            Step::CancelSend { end } => self.cancel(end, self.ends[end].send),
            Step::CancelReceive { end } => self.cancel(end, self.ends[end].receive),
            Step::Hold(hold) => {
                self.hold = hold;
                if !hold {
                    self.held.drain(..).for_each(|buffer| self.harness.proactor.release(buffer));
                }
            }
            Step::Wait => {
                for completion in self.harness.turn() {
                    self.completed(completion);
                }
            }
            Step::Send { .. } | Step::Receive { .. } => {}
        }
    }

    fn cancel(&mut self, end: usize, token: Option<u64>) {
        if let Some(token) = token {
            self.harness.proactor.cancel(self.ends[end].fd, token);
        }
    }

    fn completed(&mut self, completion: Completion<Vec<u8>>) {
        let token = Some(completion.token);
        match completion.event {
            Event::Sent(outcome, payload) => {
                assert!(!completion.more);
                let end = self.ends.iter_mut().find(|end| end.send == token).expect("completed twice");
                end.send = None;
                assert_eq!(payload.first().copied(), (!payload.is_empty()).then(|| pattern_at(end.sent)));
                match outcome {
                    Ok(count) => end.sent += count,
                    Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ECANCELED)),
                }
            }
            Event::Received(outcome) => {
                let end = self.ends.iter_mut().find(|end| end.receive == token).expect("completed twice");
                if !completion.more {
                    end.receive = None;
                }
                match outcome {
                    Ok(received) => {
                        let buffer = received.buffer.expect("no end was sent");
                        let bytes = self.harness.proactor.bytes(buffer, received.len);
                        let expected = (end.received..).map(pattern_at);
                        assert!(bytes.iter().copied().eq(expected.take(received.len)));
                        end.received += received.len;
                        if self.hold {
                            self.held.push(buffer);
                        } else {
                            self.harness.proactor.release(buffer);
                        }
                    }
                    Err(error) => {
                        let number = error.raw_os_error();
                        assert!(matches!(number, Some(libc::ECANCELED | libc::ENOBUFS)), "{number:?}");
                    }
                }
            }
            other => panic!("{other:?}"),
        }
    }

    /// Lets everything that was sent arrive, ends what is armed, and counts.
    fn settle(mut self) {
        self.take(&Step::Hold(false));
        while self.ends.iter().any(|end| end.send.is_some()) || !self.balanced() {
            (0..ENDS).for_each(|end| self.take(&Step::Receive { end }));
            let completion = self.harness.next();
            self.completed(completion);
        }
        (0..ENDS).for_each(|end| self.take(&Step::CancelReceive { end }));
        self.take(&Step::Wait);
        assert!(self.ends.iter().all(|end| end.receive.is_none()));
        self.harness.assert_settled();
    }

    fn balanced(&self) -> bool {
        (0..ENDS).all(|end| self.ends[end].received == self.ends[end ^ 1].sent)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn streams_stay_whole(
        tcp in any::<bool>(),
        buffer_bytes in prop_oneof![Just(512usize), Just(4_096), Just(65_536)],
        per_turn in 1..5usize,
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let kind = if tcp { Kind::Tcp } else { Kind::Unix };
        let settings = Settings::default()
            .buffer_bytes(buffer_bytes)
            .receives_per_turn(per_turn)
            .sends_per_turn(per_turn);
        let mut world = World::new(kind, settings);
        for step in &steps {
            world.take(step);
        }
        world.settle();
    }
}
