//! Files as output, whatever becomes of their reads.

use super::*;
use crate::net::FileError;
use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::ops::Range;

/// What a handler writes.
#[derive(Clone, Debug)]
enum Part {
    Text(Vec<u8>),
    Bytes(Vec<u8>),
    File(Range<u64>),
}

fn file_of(content: &[u8]) -> Arc<File> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    Arc::new(file)
}

fn content(rng: &mut Rng) -> Vec<u8> {
    (0..rng.usize(1..3_000)).map(|_| rng.u8(..)).collect()
}

fn parts(rng: &mut Rng, content: &[u8]) -> VecDeque<Part> {
    let some = |rng: &mut Rng| (0..rng.usize(..60)).map(|_| rng.u8(..)).collect();
    let part = |rng: &mut Rng| match rng.u8(..4) {
        0 => Part::Text(some(rng)),
        1 => Part::Bytes(some(rng)),
        _ => {
            let start = rng.usize(..=content.len());
            Part::File(start as u64..rng.usize(start..=content.len()) as u64)
        }
    };
    (0..rng.usize(1..12)).map(|_| part(rng)).collect()
}

#[derive(Default)]
struct Told {
    written: Vec<u8>,
    /// It was closed as one that is not finished.
    cut: bool,
    closed: Option<CloseReason>,
}

/// Writes its parts, some at a time, then ends its output or closes; the file may shrink at any time.
struct Sender {
    number: u8,
    parts: VecDeque<Part>,
    content: Vec<u8>,
    file: Arc<File>,
    shrinks: bool,
    ended: bool,
    told: Rc<RefCell<Told>>,
    rng: Rng,
}

impl Sender {
    fn write_some(&mut self, io: &mut Io<'_>) {
        if self.parts.is_empty() && std::mem::replace(&mut self.ended, true) {
            return;
        }
        if self.parts.is_empty() {
            return match self.rng.u8(..3) {
                0 => io.close(),
                1 => io.shutdown_write(),
                _ => {
                    self.told.borrow_mut().cut = true;
                    io.close_unfinished();
                }
            };
        }
        let some = self.rng.usize(1..=self.parts.len());
        for part in self.parts.drain(..some) {
            let mut told = self.told.borrow_mut();
            match part {
                Part::Text(text) => {
                    io.write(&text);
                    told.written.extend(text);
                }
                Part::Bytes(bytes) => {
                    told.written.extend(&bytes);
                    io.write_bytes(Bytes::from(bytes));
                }
                Part::File(range) => {
                    told.written.extend(&self.content[range.start as usize..range.end as usize]);
                    match io.write_file(self.file.clone(), range) {
                        Ok(()) => {}
                        // It is shorter already. No part of it may be missing: that would be a lie.
                        Err(FileError::OutOfRange { .. }) if self.shrinks => return io.abort(),
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        }
        if self.shrinks && self.rng.u8(..) < 60 {
            let length = self.file.metadata().unwrap().len();
            self.file.set_len(self.rng.u64(..=length)).unwrap();
        }
        if self.parts.is_empty() && self.rng.bool() {
            self.write_some(io);
        }
    }
}

impl Handler for Sender {
    fn on_open(&mut self, io: &mut Io<'_>) {
        io.write(&[self.number]);
        self.told.borrow_mut().written.push(self.number);
        self.write_some(io);
    }

    fn on_bytes(&mut self, _io: &mut Io<'_>, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn on_timer(&mut self, io: &mut Io<'_>) {
        io.close();
    }

    fn on_end(&mut self, _io: &mut Io<'_>) {}

    fn on_room(&mut self, io: &mut Io<'_>) {
        assert_eq!(io.pending_file_bytes(), 0, "there is room though a file waits");
    }

    fn on_drained(&mut self, io: &mut Io<'_>) {
        assert_eq!((io.pending(), io.pending_file_bytes()), (0, 0), "drained of all output");
        self.write_some(io);
        if io.pending() == 0 && io.pending_file_bytes() == 0 {
            io.set_timer(Duration::ZERO);
        }
    }

    fn on_shutdown(&mut self, _io: &mut Io<'_>) {}

    fn on_close(&mut self, reason: &CloseReason, _reactor: &mut Reactor) {
        self.told.borrow_mut().closed = Some(reason.clone());
    }
}

struct Scene {
    reactor: Reactor,
    world: Shared,
    told: Vec<Rc<RefCell<Told>>>,
    files: Vec<Arc<File>>,
    shrinks: Vec<bool>,
}

fn scene(seed: u64, rng: &mut Rng) -> Scene {
    let (mut reactor, world) = reactor(seed, rng);
    if rng.u8(..) < 60 {
        world.borrow_mut().broken_reads = Some(rng.usize(1..60));
    }
    let (mut told, mut files, mut shrink) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..rng.usize(1..5) {
        let mut peer = arriving(number, rng, 300);
        peer.takes =
            if rng.u8(..) < 20 { Takes::ByteEach(Duration::from_millis(1)) } else { Takes::Everything };
        world.borrow_mut().answering.push_back(peer);
        let content = content(rng);
        let (parts, file) = (parts(rng, &content), file_of(&content));
        let (shrinks, rng_of_it) = (rng.u8(..) < 60, Rng::with_seed(rng.u64(..)));
        told.push(Rc::<RefCell<Told>>::default());
        files.push(file.clone());
        shrink.push(shrinks);
        let told = told.last().unwrap().clone();
        let sender = Sender {
            number: number as u8,
            parts,
            content,
            file,
            shrinks,
            ended: false,
            told,
            rng: rng_of_it,
        };
        let options =
            StreamOptions::new().file_ahead(rng.usize(1..300)).output_limits(rng.usize(1..300), 1 << 20);
        let options = options.reading(rng.usize(1..200), if rng.bool() { 0 } else { usize::MAX });
        reactor.connect(&options, &somewhere(), sender);
    }
    Scene { reactor, world, told, files, shrinks: shrink }
}

/// Peers get everything in the order in which it was written, or a part and no end; and whoever is told that it was all has told the
/// truth.
#[test]
fn files_are_sent_whole_and_in_their_place_or_not_as_if_they_were() {
    for_each_seed(SEEDS / 2, |seed| {
        let mut rng = Rng::with_seed(seed);
        let Scene { mut reactor, world, told, files, shrinks } = scene(seed, &mut rng);
        step_until(&mut reactor, |reactor| reactor.connections() == 0);
        check_the_end(&mut reactor, &world);
        for (number, told) in told.iter().enumerate() {
            let (told, world) = (told.borrow(), world.borrow());
            // Which peer is whose, the first byte tells.
            let nobody = Peer::default();
            let peer = world.gone.iter().find(|peer| peer.received.first() == Some(&(number as u8)));
            let peer = peer.unwrap_or(&nobody);
            let is_whole = peer.received == told.written;
            match told.closed.as_ref().unwrap() {
                CloseReason::Closed | CloseReason::ByPeer => assert!(is_whole && peer.saw_end, "{peer:?}"),
                CloseReason::FileFailed { missing, .. } => {
                    assert!(
                        *missing > 0 && told.written.starts_with(&peer.received) && !is_whole,
                        "{peer:?}"
                    );
                    assert!(!peer.saw_end);
                    assert!(shrinks[number] || world.broken_reads == Some(0), "nothing was wrong with it");
                }
                CloseReason::Failed(_) => assert!(told.written.starts_with(&peer.received)),
                CloseReason::ConnectFailed(_) => {}
                CloseReason::Aborted => {
                    let resets = peer.resets_after.is_some();
                    assert!(
                        !peer.saw_end && (is_whole || resets || !told.cut),
                        "{} of {}",
                        peer.received.len(),
                        told.written.len()
                    );
                }
                other => panic!("{other}"),
            }
        }
        drop(reactor);
        assert!(files.iter().all(|file| Arc::strong_count(file) == 1), "a file is still open");
    });
}

#[test]
fn a_drain_amid_files_gives_everything_back() {
    for_each_seed(SEEDS / 2, |seed| {
        let mut rng = Rng::with_seed(seed);
        let Scene { mut reactor, world, files, .. } = scene(seed, &mut rng);
        for _ in 0..rng.usize(0..40) {
            reactor.step(Some(Duration::ZERO)).unwrap();
        }
        reactor.drain(Duration::from_millis(rng.u64(0..50))).unwrap();
        assert_eq!(reactor.outstanding(), Outstanding::default());
        assert_eq!(world.borrow().faults, Vec::<String>::new());
        assert_eq!(reactor.shared.memory.held(), 0);
        assert!(files.iter().all(|file| Arc::strong_count(file) == 1), "a file is still open");
    });
}

/// Writes one file when it opens.
struct One(Arc<File>, u64);

impl Handler for One {
    fn on_open(&mut self, io: &mut Io<'_>) {
        io.write_file(self.0.clone(), 0..self.1).unwrap();
        assert_eq!((io.pending(), io.pending_file_bytes()), (0, self.1));
    }

    fn on_bytes(&mut self, _io: &mut Io<'_>, bytes: &[u8]) -> usize {
        bytes.len()
    }
}

fn sending(takes: Takes, file: &Arc<File>, len: u64, options: &StreamOptions) -> (Reactor, Shared) {
    let (mut reactor, world) = prompt_reactor(4, 100);
    world.borrow_mut().answering.push_back(Peer { takes, echoes: true, ..Peer::default() });
    reactor.connect(options, &somewhere(), One(file.clone(), len));
    (reactor, world)
}

/// However large the file is, and however slow the peer.
#[test]
fn of_a_file_that_nobody_takes_no_more_is_in_memory_than_may_be() {
    let len = 4 << 20;
    let file = file_of(&vec![7; len]);
    for ahead in [1, 100, 5_000, crate::config::FILE_AHEAD_BYTES] {
        let options = StreamOptions::new().file_ahead(ahead);
        let (mut reactor, world) = sending(Takes::Nothing, &file, len as u64, &options);
        for _ in 0..100 {
            reactor.step(Some(Duration::ZERO)).unwrap();
            let gauges = reactor.gauges();
            assert!(gauges.output_bytes <= ahead as u64, "{gauges:?}");
        }
        let gauges = reactor.gauges();
        assert!(
            gauges.output_bytes > 0 && gauges.output_bytes + gauges.file_bytes == len as u64,
            "{gauges:?}"
        );
        // As much as there is room for, and each byte of it once.
        assert!(gauges.output_bytes as usize > ahead / 2 && world.borrow().reads <= 2);
        assert_eq!(gauges.held_bytes, gauges.output_bytes);
        reactor.drain(Duration::ZERO).unwrap();
    }
}

/// A read that is going on holds memory as well.
#[test]
fn what_is_being_read_into_counts() {
    let len = 4 << 20;
    let file = file_of(&vec![7; len]);
    let (mut reactor, _world) = sending(Takes::Everything, &file, len as u64, &StreamOptions::new());
    let mut most = 0;
    for _ in 0..20 {
        reactor.step(Some(Duration::ZERO)).unwrap();
        let gauges = reactor.gauges();
        most = most.max(gauges.held_bytes - gauges.output_bytes);
    }
    assert!(most >= crate::config::FILE_READ_BYTES as u64, "{most}");
    reactor.drain(Duration::ZERO).unwrap();
    assert_eq!(reactor.shared.memory.held(), 0);
}

#[test]
fn a_range_that_is_none_is_refused_and_nothing_is_written() {
    struct Asks(Arc<File>);
    impl Handler for Asks {
        fn on_open(&mut self, io: &mut Io<'_>) {
            let file = || self.0.clone();
            #[expect(clippy::reversed_empty_ranges, reason = "that is what is refused")]
            for range in [0..11, 11..11, 5..4, 0..u64::MAX, u64::MAX..u64::MAX, u64::MAX..0] {
                let refusal = io.write_file(file(), range.clone()).unwrap_err();
                let FileError::OutOfRange { range: told, length: 10 } = refusal else { panic!("{refusal}") };
                assert_eq!(told, range);
            }
            let directory = File::open("/").unwrap();
            assert!(matches!(io.write_file(directory, 0..0), Err(FileError::NotRegular)));
            for at in [0, 5, 10] {
                io.write_file(file(), at..at).unwrap();
            }
            assert_eq!(io.pending_file_bytes(), 0);
            for _ in 0..crate::config::FILES_WAITING {
                io.write_file(file(), 0..1).unwrap();
            }
            let refusal = io.write_file(file(), 0..1).unwrap_err();
            assert!(
                matches!(refusal, FileError::TooMany { limit: crate::config::FILES_WAITING }),
                "{refusal}"
            );
            io.close();
            assert!(io.write_file(file(), 0..1).is_err());
        }

        fn on_bytes(&mut self, _io: &mut Io<'_>, bytes: &[u8]) -> usize {
            bytes.len()
        }
    }
    let (mut reactor, world) = prompt_reactor(4, 100);
    world.borrow_mut().answering.push_back(Peer { echoes: true, ..Peer::default() });
    reactor.connect(&StreamOptions::new(), &somewhere(), Asks(file_of(b"0123456789")));
    step_until(&mut reactor, |reactor| reactor.connections() == 0);
    assert_eq!(world.borrow().gone[0].received, vec![b'0'; crate::config::FILES_WAITING]);
    check_the_end(&mut reactor, &world);
}

/// Or a peer that asks for much and takes nothing would have as many files open as it likes.
#[test]
fn who_has_many_files_waiting_is_not_read() {
    struct Server(Arc<File>);
    impl Handler for Server {
        fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
            bytes.iter().for_each(|_| io.write_file(self.0.clone(), 0..100).unwrap());
            bytes.len()
        }
    }
    for (throttles, least, most) in [(true, 1, crate::config::FILES_WAITING_SOFT + 10), (false, 490, 500)] {
        let (mut reactor, world) = prompt_reactor(4, 10);
        let sends = std::iter::repeat_n(1, 500).collect();
        world.borrow_mut().answering.push_back(Peer { sends, takes: Takes::Nothing, ..Peer::default() });
        let options =
            StreamOptions::new().throttle_reading(throttles).file_ahead(100).reading(10, usize::MAX);
        let file = file_of(&[7; 100]);
        reactor.connect(&options, &somewhere(), Server(file.clone()));
        for _ in 0..2_000 {
            reactor.step(Some(Duration::ZERO)).unwrap();
        }
        let waiting = Arc::strong_count(&file) - 2;
        assert!((least..=most).contains(&waiting), "{waiting} files wait");
        world.borrow_mut().peers.values_mut().for_each(|peer| peer.takes = Takes::Everything);
        step_until(&mut reactor, |reactor| reactor.connections() == 0);
        assert_eq!(world.borrow().gone[0].received.len(), 50_000);
        check_the_end(&mut reactor, &world);
    }
}

/// What was written before a file is looked at as it moves on, for later nobody can.
#[test]
fn output_that_was_damaged_before_a_file_is_told() {
    struct Damages(Arc<File>, Rc<RefCell<Vec<String>>>);
    impl Handler for Damages {
        fn on_open(&mut self, io: &mut Io<'_>) {
            io.write(b"text");
            io.write_bytes(Bytes::from_static(b"between"));
            io.out().clear();
            io.write_file(self.0.clone(), 0..10).unwrap();
        }

        fn on_bytes(&mut self, _io: &mut Io<'_>, bytes: &[u8]) -> usize {
            bytes.len()
        }

        fn on_close(&mut self, reason: &CloseReason, _reactor: &mut Reactor) {
            self.1.borrow_mut().push(format!("{reason:?}"));
        }
    }
    let (mut reactor, world) = prompt_reactor(4, 100);
    world.borrow_mut().answering.push_back(Peer { echoes: true, ..Peer::default() });
    let reasons = Rc::default();
    let damages = Damages(file_of(b"0123456789"), Rc::clone(&reasons));
    reactor.connect(&StreamOptions::new(), &somewhere(), damages);
    step_until(&mut reactor, |reactor| reactor.connections() == 0);
    assert_eq!(*reasons.borrow(), ["OutputDamaged"]);
    check_the_end(&mut reactor, &world);
}
