//! Streams that a crate of somebody else's carries: a small multiplexer, many streams over one connection.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};
use trochus::net::{
    Address, Carrier, CarrierIo, CloseReason, ConnectionId, Handler, Io, Output, StreamOptions,
};
use trochus::{Backend, Reactor};

use bytes::Buf;

/// Bytes of a stream that may be on their way, or wait at the other end.
const WINDOW: usize = 16 << 10;

/// Stream, kind, length.
const HEAD: usize = 9;

#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(u8)]
enum Kind {
    Open,
    Data,
    Credit,
    End,
    Reset,
}

const KINDS: [Kind; 5] = [Kind::Open, Kind::Data, Kind::Credit, Kind::End, Kind::Reset];

/// One stream's part in it.
#[derive(Default)]
struct Entry {
    stream: Option<ConnectionId>,
    /// What may still be sent.
    credit: usize,
    output: Option<Output>,
    /// Came, and was not taken yet.
    input: Vec<u8>,
    ended: bool,
}

type Accept = Box<dyn Fn() -> Box<dyn FnOnce(&mut Reactor, Stream)>>;

#[derive(Default)]
struct State {
    trunk: Option<ConnectionId>,
    entries: HashMap<u32, Entry>,
    next: u32,
    accept: Option<Accept>,
    /// The most input that waited here.
    waited: usize,
}

#[derive(Clone, Default)]
struct Mux(Rc<RefCell<State>>);

impl Mux {
    fn say(&self, reactor: &mut Reactor, number: u32, kind: Kind, bytes: &[u8]) {
        let Some(trunk) = self.0.borrow().trunk else { return };
        reactor.with_connection(trunk, |io| {
            io.write(&number.to_be_bytes());
            io.write(&[kind as u8]);
            io.write(&(bytes.len() as u32).to_be_bytes());
            io.write(bytes);
        });
    }

    fn open(&self, reactor: &mut Reactor, handler: impl Handler) -> ConnectionId {
        let number = {
            let mut state = self.0.borrow_mut();
            state.next += 1;
            state.next
        };
        self.say(reactor, number, Kind::Open, &[]);
        self.0.borrow_mut().entries.insert(number, Entry { credit: WINDOW, ..Entry::default() });
        let stream = Stream { mux: self.clone(), number };
        reactor.carry(&StreamOptions::new(), stream, handler).unwrap().id()
    }

    /// Sends what may be sent, and gives back what was.
    fn pump_out(&self, reactor: &mut Reactor, number: u32) {
        let mut state = self.0.borrow_mut();
        let Some(entry) = state.entries.get_mut(&number) else { return };
        let taken = entry.output.take();
        let (stream, mut credit) = (entry.stream, entry.credit);
        drop(state);
        let Some(mut output) = taken else { return };
        let mut sent = 0;
        while credit > 0 && output.has_remaining() {
            let len = output.chunk().len().min(credit).min(5_000);
            self.say(reactor, number, Kind::Data, &output.chunk()[..len]);
            output.advance(len);
            (credit, sent) = (credit - len, sent + len);
        }
        let mut state = self.0.borrow_mut();
        let Some(entry) = state.entries.get_mut(&number) else { return };
        entry.credit -= sent;
        if sent == 0 && output.has_remaining() {
            // It waits for the other end.
            entry.output = Some(output);
            return;
        }
        drop(state);
        if let Some(mut carried) = stream.and_then(|stream| reactor.carried(stream)) {
            carried.sent(output);
        }
    }

    /// Gives the stream what came for it, as far as it takes it.
    fn pump_in(&self, reactor: &mut Reactor, number: u32) {
        let mut state = self.0.borrow_mut();
        let Some(entry) = state.entries.get_mut(&number) else { return };
        let (Some(stream), input, ended) = (entry.stream, std::mem::take(&mut entry.input), entry.ended)
        else {
            return;
        };
        state.waited = state.waited.max(input.len());
        drop(state);
        let Some(mut carried) = reactor.carried(stream) else { return };
        let taken = carried.receive(&input);
        drop(carried);
        let left = input[taken..].to_vec();
        if left.is_empty() && ended {
            // Only once what came before is taken.
            if let Some(mut carried) = reactor.carried(stream) {
                carried.end();
            }
        }
        if taken > 0 {
            self.say(reactor, number, Kind::Credit, &(taken as u32).to_be_bytes());
        }
        if let Some(entry) = self.0.borrow_mut().entries.get_mut(&number) {
            let newer = std::mem::replace(&mut entry.input, left);
            entry.input.extend(newer);
        }
    }

    fn heard(&self, reactor: &mut Reactor, number: u32, kind: Kind, bytes: Vec<u8>) {
        let mut state = self.0.borrow_mut();
        if kind == Kind::Open {
            state.entries.insert(number, Entry { credit: WINDOW, ..Entry::default() });
            let accept = state.accept.as_ref().map(|accept| accept());
            drop(state);
            if let Some(accept) = accept {
                accept(reactor, Stream { mux: self.clone(), number });
            }
            return;
        }
        let Some(entry) = state.entries.get_mut(&number) else { return };
        match kind {
            Kind::Data => entry.input.extend(bytes),
            Kind::End => entry.ended = true,
            Kind::Credit => entry.credit += u32::from_be_bytes(bytes[..].try_into().unwrap()) as usize,
            Kind::Reset => {
                let stream = entry.stream;
                state.entries.remove(&number);
                drop(state);
                if let Some(mut carried) = stream.and_then(|stream| reactor.carried(stream)) {
                    carried.fail(std::io::ErrorKind::ConnectionReset.into());
                }
                return;
            }
            Kind::Open => {}
        }
        drop(state);
        match kind {
            Kind::Credit => self.pump_out(reactor, number),
            _ => self.pump_in(reactor, number),
        }
    }
}

/// The connection that carries all of them.
struct Trunk(Mux);

impl Handler for Trunk {
    fn on_open(&mut self, io: &mut Io<'_>) {
        self.0.0.borrow_mut().trunk = Some(io.id());
    }

    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let Some(head) = bytes[at..].get(..HEAD) {
            let len = u32::from_be_bytes(head[5..].try_into().unwrap()) as usize;
            let Some(body) = bytes[at + HEAD..].get(..len) else { break };
            let number = u32::from_be_bytes(head[..4].try_into().unwrap());
            let (mux, kind, body) = (self.0.clone(), KINDS[usize::from(head[4])], body.to_vec());
            io.defer(move |reactor| mux.heard(reactor, number, kind, body));
            at += HEAD + len;
        }
        at
    }

    /// A carried stream never outlives what carries it.
    fn on_close(&mut self, _reason: &CloseReason, reactor: &mut Reactor) {
        let entries: Vec<Entry> = self.0.0.borrow_mut().entries.drain().map(|(_, entry)| entry).collect();
        for stream in entries.into_iter().filter_map(|entry| entry.stream) {
            if let Some(mut carried) = reactor.carried(stream) {
                carried.fail(std::io::ErrorKind::ConnectionAborted.into());
            }
        }
    }
}

struct Stream {
    mux: Mux,
    number: u32,
}

impl Stream {
    fn change<R>(&self, change: impl FnOnce(&mut Entry) -> R) -> Option<R> {
        self.mux.0.borrow_mut().entries.get_mut(&self.number).map(change)
    }

    fn soon(&self, io: &mut CarrierIo<'_>, act: impl FnOnce(&Mux, &mut Reactor, u32) + 'static) {
        let (mux, number) = (self.mux.clone(), self.number);
        io.soon(move |reactor| act(&mux, reactor, number));
    }
}

impl Carrier for Stream {
    fn start(&mut self, io: &mut CarrierIo<'_>) {
        let stream = io.stream();
        self.change(|entry| entry.stream = Some(stream));
    }

    fn send(&mut self, io: &mut CarrierIo<'_>, output: Output) {
        self.change(|entry| entry.output = Some(output));
        self.soon(io, Mux::pump_out);
    }

    fn receive(&mut self, io: &mut CarrierIo<'_>, most: usize) {
        if most > 0 {
            self.soon(io, Mux::pump_in);
        }
    }

    fn end_output(&mut self, io: &mut CarrierIo<'_>) {
        // All output has come back by now, so this is behind it. The entry may be gone by then.
        self.soon(io, |mux, reactor, number| mux.say(reactor, number, Kind::End, &[]));
    }

    fn close(&mut self, io: &mut CarrierIo<'_>, resets: bool) {
        let there = self.mux.0.borrow_mut().entries.remove(&self.number).is_some();
        if resets && there {
            self.soon(io, |mux, reactor, number| mux.say(reactor, number, Kind::Reset, &[]));
        }
    }

    fn peer_addr(&self) -> Address {
        Address::Memory(format!("stream {}", self.number).into())
    }

    fn local_addr(&self) -> Address {
        Address::Memory("".into())
    }
}

struct Echo;

impl Handler for Echo {
    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        io.write(bytes);
        bytes.len()
    }
}

#[derive(Default)]
struct Fate {
    got: Vec<u8>,
    ended: bool,
    closed: Option<CloseReason>,
}

/// Says something, ends, and keeps what comes back.
struct Asker {
    says: Vec<u8>,
    pauses: bool,
    fate: Rc<RefCell<Fate>>,
}

impl Handler for Asker {
    fn on_open(&mut self, io: &mut Io<'_>) {
        io.write(&self.says);
        if self.pauses {
            io.pause_reading();
        } else {
            io.shutdown_write();
        }
    }

    fn on_bytes(&mut self, _io: &mut Io<'_>, bytes: &[u8]) -> usize {
        self.fate.borrow_mut().got.extend_from_slice(bytes);
        bytes.len()
    }

    fn on_end(&mut self, io: &mut Io<'_>) {
        self.fate.borrow_mut().ended = true;
        io.close();
    }

    fn on_close(&mut self, reason: &CloseReason, _reactor: &mut Reactor) {
        self.fate.borrow_mut().closed = Some(reason.clone());
    }
}

fn says(number: usize) -> Vec<u8> {
    (0..number * 7919 % 200_000).map(|at| (at * 31 + number) as u8).collect()
}

/// Both ends of the trunk on one reactor, and both muxes.
fn trunk(backend: Backend) -> (Reactor, Mux, Mux) {
    let mut reactor = Reactor::builder().backend(backend).build().unwrap();
    let (near, far) = (Mux::default(), Mux::default());
    let accepted = far.clone();
    far.0.borrow_mut().accept = Some(Box::new(|| {
        Box::new(|reactor, stream| _ = reactor.carry(&StreamOptions::new(), stream, Echo).unwrap())
    }));
    let listener = reactor.listen("127.0.0.1:0", move |_| Trunk(accepted.clone())).unwrap();
    let address = listener.local_addr().clone();
    let _ = reactor.connect(&StreamOptions::new(), &address, Trunk(near.clone()));
    turn_until(&mut reactor, |_| near.0.borrow().trunk.is_some() && far.0.borrow().trunk.is_some());
    (reactor, near, far)
}

#[track_caller]
fn turn_until(reactor: &mut Reactor, mut done: impl FnMut(&mut Reactor) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done(reactor) {
        assert!(Instant::now() < deadline, "{reactor:?}");
        reactor.turn(Some(Duration::from_millis(10))).unwrap();
    }
}

fn on_each_backend(test: impl Fn(Backend)) {
    Backend::available().into_iter().for_each(test);
}

#[test]
fn many_streams_share_a_connection() {
    on_each_backend(|backend| {
        let (mut reactor, near, far) = trunk(backend);
        let fates: Vec<_> = (0..50)
            .map(|number| {
                let fate = Rc::<RefCell<Fate>>::default();
                near.open(&mut reactor, Asker { says: says(number), pauses: false, fate: fate.clone() });
                fate
            })
            .collect();
        turn_until(&mut reactor, |_| fates.iter().all(|fate| fate.borrow().closed.is_some()));
        for (number, fate) in fates.iter().enumerate() {
            let fate = fate.borrow();
            assert!(fate.got == says(number), "{number}: {} bytes", fate.got.len());
            assert!(
                fate.ended && fate.closed.as_ref().is_some_and(CloseReason::is_clean),
                "{:?}",
                fate.closed
            );
        }
        assert!(near.0.borrow().entries.is_empty());
        turn_until(&mut reactor, |reactor| reactor.connections() == 2);
        assert!(far.0.borrow().waited <= WINDOW && near.0.borrow().waited <= WINDOW);
        reactor.drain(Duration::from_secs(5)).unwrap();
        assert_eq!(reactor.outstanding(), Default::default());
    });
}

/// It holds what the window lets in and its own output, and keeps nobody else waiting.
#[test]
fn a_stream_that_is_not_read_is_bounded_and_hinders_nobody() {
    on_each_backend(|backend| {
        let (mut reactor, near, far) = trunk(backend);
        let paused = Rc::<RefCell<Fate>>::default();
        let stuck =
            near.open(&mut reactor, Asker { says: vec![7; 1 << 20], pauses: true, fate: paused.clone() });
        for number in 1..10 {
            let fate = Rc::<RefCell<Fate>>::default();
            near.open(&mut reactor, Asker { says: says(number), pauses: false, fate: fate.clone() });
            turn_until(&mut reactor, |_| fate.borrow().closed.is_some());
            assert!(fate.borrow().got == says(number));
        }
        assert!(paused.borrow().got.is_empty() && far.0.borrow().waited <= WINDOW);
        // It goes on where it was.
        reactor.with_connection(stuck, |io| {
            io.resume_reading();
            io.shutdown_write();
        });
        turn_until(&mut reactor, |_| paused.borrow().closed.is_some());
        assert!(paused.borrow().got == [7; 1 << 20] && paused.borrow().ended);
        reactor.drain(Duration::from_secs(5)).unwrap();
        assert_eq!(reactor.outstanding(), Default::default());
    });
}

#[test]
fn resets_go_both_ways_and_a_stream_never_outlives_its_carrier() {
    on_each_backend(|backend| {
        let (mut reactor, near, far) = trunk(backend);
        let fates = [(); 3].map(|()| Rc::<RefCell<Fate>>::default());
        let streams = fates.each_ref().map(|fate| {
            near.open(&mut reactor, Asker { says: b"hello".to_vec(), pauses: true, fate: fate.clone() })
        });
        turn_until(&mut reactor, |_| {
            far.0.borrow().entries.values().filter(|entry| entry.stream.is_some()).count() == 3
        });
        reactor.with_connection(streams[0], |io| io.abort());
        turn_until(&mut reactor, |_| far.0.borrow().entries.len() == 2);
        // The other side's.
        let theirs = far.0.borrow().entries[&2].stream.unwrap();
        reactor.with_connection(theirs, |io| io.abort());
        turn_until(&mut reactor, |_| fates[1].borrow().closed.is_some());
        let trunk = far.0.borrow().trunk.unwrap();
        reactor.with_connection(trunk, |io| io.abort());
        turn_until(&mut reactor, |reactor| reactor.connections() == 0);
        let ended = fates.each_ref().map(|fate| fate.borrow().closed.clone().unwrap());
        assert!(matches!(ended[0], CloseReason::Aborted));
        assert!(
            matches!(&ended[1], CloseReason::Failed(error) if error.kind() == std::io::ErrorKind::ConnectionReset)
        );
        assert!(
            matches!(&ended[2], CloseReason::Failed(error) if error.kind() == std::io::ErrorKind::ConnectionAborted)
        );
        reactor.drain(Duration::from_secs(5)).unwrap();
        assert_eq!(reactor.outstanding(), Default::default());
    });
}
