//! Filters between sockets and handlers: one that is as simple as such a thing can be, and the same for both sides, so that a peer which
//! echoes is one as well.

use super::*;
use crate::config::HANDSHAKE_TIMEOUT;
use crate::reactor::stream::filter::{Filter, Filters, MakeFilter, State, Through};
use std::sync::Arc;

const GREETING: &[u8] = b"HELLO";
const ALERT: u8 = 0xff;
const MASK: u8 = 0x55;
const LONGEST: usize = 100;

/// After a greeting, records of a length and so many masked bytes; none at all in the last one.
#[derive(Debug, Default)]
struct Masked {
    greeted: bool,
    held: Vec<u8>,
}

impl Filter for Masked {
    fn begin(&mut self, through: &mut Through<'_>) -> Result<State, CloseReason> {
        through.said.extend_from_slice(GREETING);
        Ok(State::Handshaking)
    }

    fn receive(&mut self, bytes: &mut [u8], through: &mut Through<'_>) -> Result<State, CloseReason> {
        self.held.extend_from_slice(bytes);
        if !self.greeted {
            let len = self.held.len().min(GREETING.len());
            if self.held[..len] != GREETING[..len] {
                through.said.push(ALERT);
                return Err(CloseReason::OutputDamaged);
            }
            if len < GREETING.len() {
                return Ok(State::Handshaking);
            }
            self.greeted = true;
            self.held.drain(..len);
        }
        while let Some(len) = self.held.first().map(|len| usize::from(*len))
            && self.held.len() > len
        {
            if len == 0 {
                return Ok(State::Ended);
            }
            let record: Vec<u8> = self.held.drain(..=len).collect();
            through.plain.extend(record[1..].iter().map(|byte| byte ^ MASK));
        }
        Ok(State::Open)
    }

    fn seal(&mut self, plain: &[u8], into: &mut Vec<u8>) -> Result<(), CloseReason> {
        into.extend(masked(plain));
        Ok(())
    }

    fn end_output(&mut self, into: &mut Vec<u8>) {
        into.push(0);
    }

    fn held_input(&self) -> usize {
        self.held.len()
    }
}

fn masked(plain: &[u8]) -> Vec<u8> {
    let record = |plain: &[u8]| {
        let len = [u8::try_from(plain.len()).unwrap()];
        len.into_iter().chain(plain.iter().map(|byte| byte ^ MASK)).collect::<Vec<_>>()
    };
    plain.chunks(LONGEST).flat_map(record).collect()
}

/// What was said behind the greeting, and whether it was all.
fn unmasked(said: &[u8]) -> (Vec<u8>, bool) {
    let Some(mut rest) = said.strip_prefix(GREETING) else { return (Vec::new(), false) };
    let mut plain = Vec::new();
    while let Some((&len, behind)) = rest.split_first() {
        if len == 0 {
            assert!(behind.is_empty(), "nothing comes behind the end");
            return (plain, true);
        }
        let (record, behind) = behind.split_at(usize::from(len).min(behind.len()));
        plain.extend(record.iter().map(|byte| byte ^ MASK));
        rest = behind;
    }
    (plain, false)
}

/// Tells who it is about, then passes.
#[derive(Debug, Default)]
struct Header {
    port: Vec<u8>,
}

impl Filter for Header {
    fn begin(&mut self, _through: &mut Through<'_>) -> Result<State, CloseReason> {
        Ok(State::Handshaking)
    }

    fn receive(&mut self, bytes: &mut [u8], through: &mut Through<'_>) -> Result<State, CloseReason> {
        let used = bytes.len().min(2 - self.port.len());
        self.port.extend_from_slice(&bytes[..used]);
        let &[high, low] = &self.port[..] else { return Ok(State::Handshaking) };
        *through.peer = Address::Tcp(([10, 0, 0, 1], u16::from_be_bytes([high, low])).into());
        Ok(State::Gone(used))
    }

    fn seal(&mut self, _plain: &[u8], _into: &mut Vec<u8>) -> Result<(), CloseReason> {
        unreachable!("it goes before anything is sealed")
    }

    fn end_output(&mut self, _into: &mut Vec<u8>) {}

    fn held_input(&self) -> usize {
        self.port.len()
    }
}

#[derive(Debug)]
struct Make<F>(fn() -> F);

impl<F: Filter + fmt::Debug + 'static> MakeFilter for Make<F> {
    fn make(&self, _peer: &Address) -> Result<Box<dyn Filter>, CloseReason> {
        Ok(Box::new(self.0()))
    }
}

fn with_filters(mut options: StreamOptions, header: bool, cipher: bool) -> StreamOptions {
    options.filters = filters(header, cipher);
    options
}

fn server_with_filters(stream: StreamOptions, header: bool, cipher: bool) -> ListenOptions {
    let mut options = ListenOptions::new().stream(stream);
    options.filters = filters(header, cipher);
    options
}

fn filters(header: bool, cipher: bool) -> Filters {
    Filters {
        header: header.then(|| Arc::new(Make(Header::default)) as Arc<dyn MakeFilter>),
        cipher: cipher.then(|| Arc::new(Make(Masked::default)) as Arc<dyn MakeFilter>),
    }
}

fn path(name: &str, seed: u64) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("trochus-sim-{name}-{}-{seed}", std::process::id()))
}

/// What a peer says in plain words; whether it does not greet, whether it says that this is the end, and whether it goes away.
type Expected = (Vec<u8>, bool, bool, bool);

/// Every byte that arrives goes back, sealed, in order; an end that the peer said is told from one that it did not; garbage gets an alert;
/// handlers of connections that did not come to terms are not opened, and all are closed once.
#[test]
fn a_server_behind_a_filter_echoes_whatever_happens() {
    for_each_seed(SEEDS, |seed| {
        let mut rng = Rng::with_seed(seed);
        let (mut reactor, world) = reactor(seed, &mut rng);
        let mut expected: Vec<Expected> = Vec::new();
        for number in 0..rng.usize(1..6) {
            let mut peer = arriving(number, &mut rng, 600);
            let plain: Vec<u8> = peer.sends.iter().copied().collect();
            let (is_garbage, is_whole) = (rng.u8(..) < 30, rng.u8(..) < 200);
            peer.sends = if is_garbage { b"HELP".to_vec() } else { GREETING.to_vec() }.into();
            peer.sends.extend(masked(&plain));
            peer.sends.extend(is_whole.then_some(0));
            expected.push((plain, is_garbage, is_whole, peer.resets_after.is_some()));
            world.borrow_mut().arriving.push_back(peer);
        }
        let fates: Rc<RefCell<Vec<Rc<RefCell<Fate>>>>> = Rc::default();
        let (each, handler_rng) = (fates.clone(), Rng::with_seed(seed));
        let soft = rng.usize(1..300);
        let stream = StreamOptions::new().output_limits(soft, 1 << 20);
        let stream = stream.reading(rng.usize(1..200), if rng.bool() { 0 } else { usize::MAX });
        let options = server_with_filters(stream, false, true);
        let make = move |_: &Incoming<'_>| {
            let fate = Rc::<RefCell<Fate>>::default();
            each.borrow_mut().push(fate.clone());
            Echo { rng: handler_rng.clone(), fate }
        };
        reactor.listen_with(&options, path("filter", seed), make).unwrap();
        step_until(&mut reactor, |_| world.borrow().gone.len() == expected.len());
        check_the_end(&mut reactor, &world);
        let fates = fates.borrow();
        assert!(fates.iter().all(|fate| fate.borrow().closed.len() == 1));
        let told = |what: &str| fates.iter().filter(|fate| fate.borrow().closed[0].starts_with(what)).count();
        let count =
            |wanted: fn(&Expected) -> bool| expected.iter().filter(|expected| wanted(expected)).count();
        if count(|(.., resets)| *resets) == 0 {
            assert_eq!(told("OutputDamaged"), count(|(_, garbage, ..)| *garbage));
            assert_eq!(told("Truncated"), count(|(_, garbage, whole, _)| !garbage && !whole));
            assert_eq!(told("ByPeer"), count(|(_, garbage, whole, _)| !garbage && *whole));
            let ended = fates.iter().filter(|fate| fate.borrow().ended == 1).count();
            assert_eq!(ended, told("ByPeer"));
            let metrics = reactor.metrics();
            assert_eq!(metrics.handshakes_failed as usize, told("OutputDamaged"));
        }
        for peer in &world.borrow().gone {
            let (plain, garbage, whole, resets) = &expected[peer.number];
            let (got, ended) = unmasked(&peer.received);
            assert!(plain.starts_with(&got), "{peer:?} was to get {plain:?}");
            if *garbage {
                assert!(*resets || peer.received.last() == Some(&ALERT), "{peer:?}");
                assert!(!peer.saw_end);
            } else if *whole && !resets {
                assert!(got == *plain && ended && peer.saw_end, "{peer:?} was to get {plain:?}");
            }
        }
    });
}

#[test]
fn clients_behind_a_filter_get_everything_or_a_reason() {
    for_each_seed(SEEDS, |seed| {
        let mut rng = Rng::with_seed(seed);
        let (mut reactor, world) = reactor(seed, &mut rng);
        let mut clients = Vec::new();
        for _ in 0..rng.usize(1..6) {
            let resets_after = (rng.u8(..) < 40).then(|| rng.usize(1..40));
            world.borrow_mut().answering.push_back(Peer { echoes: true, resets_after, ..Peer::default() });
            let sends: Vec<u8> = (0..rng.usize(..500)).map(|_| rng.u8(..)).collect();
            let (received, fate) = (Rc::default(), Rc::<RefCell<Fate>>::default());
            clients.push((sends.clone(), Rc::clone(&received), fate.clone()));
            let client = Client { sends, received, fate, rng: Rng::with_seed(seed), written: 0 };
            let options = StreamOptions::new().reading(100, if rng.bool() { 0 } else { usize::MAX });
            reactor.connect(&with_filters(options, false, true), &somewhere(), client);
        }
        step_until(&mut reactor, |reactor| reactor.connections() == 0);
        check_the_end(&mut reactor, &world);
        for (sends, received, fate) in clients {
            let (received, fate) = (received.borrow(), fate.borrow());
            match &fate.closed[..] {
                [reason] if reason == "Closed" || reason == "ByPeer" => {
                    assert_eq!((&*received, fate.opened), (&sends, 1))
                }
                [reason] if reason.starts_with("Failed") => assert!(sends.starts_with(&received)),
                [reason] => assert!(reason.starts_with("ConnectFailed") && fate.opened == 0, "{reason}"),
                reasons => panic!("closed {} times", reasons.len()),
            }
        }
    });
}

#[test]
fn a_drain_in_the_middle_of_handshakes_gives_everything_back() {
    for_each_seed(SEEDS, |seed| {
        let mut rng = Rng::with_seed(seed);
        let (mut reactor, world) = reactor(seed, &mut rng);
        for number in 0..rng.usize(0..6) {
            let mut peer = arriving(number, &mut rng, 600);
            let plain: Vec<u8> = peer.sends.drain(..).collect();
            peer.sends.extend(GREETING.iter().copied().chain(masked(&plain)).chain([0]));
            world.borrow_mut().arriving.push_back(peer);
        }
        let fate = Rc::new(RefCell::new(Fate::default()));
        let (fate_of_each, handler_rng) = (fate.clone(), Rng::with_seed(seed));
        let made = Rc::<RefCell<usize>>::default();
        let count = made.clone();
        let options = server_with_filters(StreamOptions::new(), false, true);
        let echo = move |_: &Incoming<'_>| {
            *count.borrow_mut() += 1;
            Echo { rng: handler_rng.clone(), fate: fate_of_each.clone() }
        };
        reactor.listen_with(&options, path("filter-drain", seed), echo).unwrap();
        for _ in 0..rng.usize(0..40) {
            reactor.step(Some(Duration::ZERO)).unwrap();
        }
        reactor.drain(Duration::from_millis(rng.u64(0..50))).unwrap();
        assert_eq!(reactor.outstanding(), Outstanding::default());
        assert_eq!(world.borrow().faults, Vec::<String>::new());
        assert_eq!(reactor.shared.memory.held(), 0);
        assert_eq!(fate.borrow().closed.len(), *made.borrow());
        let metrics = reactor.metrics();
        assert_eq!(metrics.connections_opened, fate.borrow().opened as u64);
        assert_eq!(metrics.connections_opened, metrics.connections_closed);
    });
}

#[test]
fn who_does_not_finish_the_handshake_is_cut_off_in_time() {
    for_each_seed(20, |seed| {
        let mut rng = Rng::with_seed(seed);
        let (mut reactor, world) = reactor(seed, &mut rng);
        let fate = Rc::<RefCell<Fate>>::default();
        let client = |fate| Client {
            sends: vec![1, 2, 3],
            received: Rc::default(),
            fate,
            rng: Rng::with_seed(seed),
            written: 0,
        };
        // It takes what it is sent too slowly to send all of it back in time.
        let takes = Takes::ByteEach(HANDSHAKE_TIMEOUT / 3);
        world.borrow_mut().answering.push_back(Peer { echoes: true, takes, ..Peer::default() });
        let options = with_filters(StreamOptions::new(), false, true);
        reactor.connect(&options, &somewhere(), client(fate.clone()));
        let began = reactor.driver.now();
        step_until(&mut reactor, |reactor| reactor.connections() == 0);
        let took = reactor.driver.now() - began;
        check_the_end(&mut reactor, &world);
        let fate = fate.borrow();
        if fate.closed[0].starts_with("ConnectFailed") {
            return;
        }
        assert!(fate.opened == 0 && fate.closed.len() == 1, "{fate:?}");
        assert!(fate.closed[0].starts_with("HandshakeTimeout"), "{fate:?}");
        assert!(took >= HANDSHAKE_TIMEOUT && took < HANDSHAKE_TIMEOUT * 2, "{took:?}");
        assert_eq!(reactor.metrics().handshake_timeouts, 1);
    });
}

/// Whom the header names.
struct Named(Rc<RefCell<Seen>>);

type Seen = Vec<(String, Vec<u8>)>;

impl Handler for Named {
    fn on_open(&mut self, io: &mut Io<'_>) {
        self.0.borrow_mut().push((io.peer_addr().to_string(), Vec::new()));
    }

    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        io.write(bytes);
        self.0.borrow_mut()[0].1.extend_from_slice(bytes);
        bytes.len()
    }
}

#[test]
fn a_header_is_consumed_and_what_follows_is_the_next_filters_or_the_handlers() {
    for_each_seed(200, |seed| {
        for cipher in [false, true] {
            let mut rng = Rng::with_seed(seed);
            let (mut reactor, world) = reactor(seed, &mut rng);
            let plain: Vec<u8> = (0..rng.usize(..300)).map(|_| rng.u8(..)).collect();
            let mut sends = vec![1, 2];
            if cipher {
                sends.extend([GREETING, &masked(&plain), &[0]].concat());
            } else {
                sends.extend(&plain);
            }
            world.borrow_mut().arriving.push_back(Peer { sends: sends.into(), ..Peer::default() });
            let seen = Rc::<RefCell<Seen>>::default();
            let of_handler = seen.clone();
            let options = server_with_filters(StreamOptions::new(), true, cipher);
            let make = move |_: &Incoming<'_>| Named(of_handler.clone());
            reactor.listen_with(&options, path("header", seed), make).unwrap();
            step_until(&mut reactor, |_| world.borrow().gone.len() == 1);
            check_the_end(&mut reactor, &world);
            assert_eq!(*seen.borrow(), [("10.0.0.1:258".to_owned(), plain.clone())]);
            let received = &world.borrow().gone[0].received;
            let got = if cipher { unmasked(received) } else { (received.clone(), true) };
            assert_eq!(got, (plain, true));
        }
    });
}
