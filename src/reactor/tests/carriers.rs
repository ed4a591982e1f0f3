//! What carriers can do to their streams, and what their streams do to them.

use super::*;
use crate::reactor::carrier::pair::pair;
use std::cell::Cell;

/// Panics where it is told to.
struct Broken(&'static str);

impl Carrier for Broken {
    fn start(&mut self, _io: &mut CarrierIo<'_>) {
        assert_ne!(self.0, "start");
    }

    fn send(&mut self, io: &mut CarrierIo<'_>, output: Output) {
        assert_ne!(self.0, "send");
        let stream = io.stream();
        io.soon(move |reactor| {
            if let Some(mut carried) = reactor.carried(stream) {
                carried.refuse(output, std::io::ErrorKind::BrokenPipe.into());
            }
        });
    }

    fn receive(&mut self, _io: &mut CarrierIo<'_>, _most: usize) {
        assert_ne!(self.0, "receive");
    }

    fn end_output(&mut self, _io: &mut CarrierIo<'_>) {
        assert_ne!(self.0, "end_output");
    }

    fn close(&mut self, _io: &mut CarrierIo<'_>, _resets: bool) {
        assert_ne!(self.0, "close");
    }

    fn peer_addr(&self) -> Address {
        Address::Memory("broken".into())
    }

    fn local_addr(&self) -> Address {
        Address::Memory("".into())
    }
}

/// Writes, and ends its output.
struct Brief {
    fate: Rc<RefCell<Fate>>,
    writes: bool,
    aborts: bool,
}

impl Handler for Brief {
    fn on_open(&mut self, io: &mut Io<'_>) {
        self.fate.borrow_mut().opened += 1;
        if self.writes {
            io.write(b"output");
        }
        io.shutdown_write();
        if self.aborts {
            io.set_timer(Duration::from_millis(1));
        }
    }

    fn on_bytes(&mut self, _io: &mut Io<'_>, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn on_timer(&mut self, io: &mut Io<'_>) {
        io.abort();
    }

    fn on_close(&mut self, reason: &CloseReason, _reactor: &mut Reactor) {
        self.fate.borrow_mut().closed.push(format!("{reason:?}"));
    }
}

#[test]
fn a_carrier_that_panics_costs_its_own_stream() {
    for (place, ending) in [
        ("start", "Panicked"),
        ("send", "Panicked"),
        ("receive", "Panicked"),
        ("end_output", "Panicked"),
        ("close", "Aborted"),
    ] {
        let (mut reactor, world) = prompt_reactor(4, 100);
        let (broken, whole) = (Rc::<RefCell<Fate>>::default(), Rc::<RefCell<Fate>>::default());
        let (one, other) = pair();
        let echo = Echo { rng: Rng::with_seed(1), fate: Rc::default() };
        reactor.carry(&StreamOptions::new(), one, echo).unwrap();
        let brief = Brief { fate: whole.clone(), writes: true, aborts: true };
        reactor.carry(&StreamOptions::new(), other, brief).unwrap();
        let brief = Brief { fate: broken.clone(), writes: place != "end_output", aborts: place == "close" };
        reactor.carry(&StreamOptions::new(), Broken(place), brief).unwrap();
        step_until(&mut reactor, |reactor| reactor.connections() == 0);
        assert!(broken.borrow().closed[0].contains(ending), "in {place}: {broken:?}");
        assert_eq!(broken.borrow().opened, usize::from(place != "start"));
        assert!(!whole.borrow().closed[0].contains("Panicked"), "in {place}: {whole:?}");
        let metrics = reactor.metrics();
        assert_eq!((metrics.handler_panics, metrics.internal_panics), (1, 0), "in {place}");
        check_the_end(&mut reactor, &world);
    }
}

/// What a carrier does with a stream that has gone, or with more than there is room for.
#[test]
fn a_stream_that_has_ended_takes_nothing_more() {
    let (mut reactor, world) = prompt_reactor(4, 100);
    let fate = Rc::<RefCell<Fate>>::default();
    let echo = Echo { rng: Rng::with_seed(1), fate: fate.clone() };
    let stream = reactor.carry(&StreamOptions::new(), Broken("nowhere"), echo).unwrap().id();
    let mut carried = reactor.carried(stream).unwrap();
    assert!(carried.room() > 0);
    assert_eq!(carried.receive(b""), 0);
    carried.end();
    carried.end();
    assert_eq!((carried.room(), carried.receive(b"behind the end")), (0, 0));
    carried.fail(std::io::ErrorKind::ConnectionReset.into());
    drop(carried);
    assert!(reactor.carried(stream).is_none());
    assert_eq!(fate.borrow().closed.len(), 1);
    check_the_end(&mut reactor, &world);
}

/// Takes no output, and says so in a way that could mean that it will.
struct Blocked(Rc<Cell<usize>>);

impl Carrier for Blocked {
    fn send(&mut self, io: &mut CarrierIo<'_>, output: Output) {
        self.0.set(self.0.get() + 1);
        let stream = io.stream();
        io.soon(move |reactor| {
            if let Some(mut carried) = reactor.carried(stream) {
                carried.refuse(output, std::io::ErrorKind::WouldBlock.into());
            }
        });
    }

    fn receive(&mut self, _io: &mut CarrierIo<'_>, _most: usize) {}

    fn end_output(&mut self, _io: &mut CarrierIo<'_>) {}

    fn close(&mut self, _io: &mut CarrierIo<'_>, resets: bool) {
        assert!(resets, "its output never ended");
        self.0.set(self.0.get() + 100);
    }

    fn peer_addr(&self) -> Address {
        Address::Memory("blocked".into())
    }

    fn local_addr(&self) -> Address {
        Address::Memory("".into())
    }
}

/// A refusal is the end of the output, whatever it is called.
#[test]
fn output_that_is_refused_is_not_offered_again() {
    let (mut reactor, world) = prompt_reactor(4, 100);
    let said = Rc::<Cell<usize>>::default();
    let options = StreamOptions::new().close_timeout(Duration::from_millis(20));
    let fate = Rc::<RefCell<Fate>>::default();
    let brief = Brief { fate: fate.clone(), writes: true, aborts: false };
    reactor.carry(&options, Blocked(said.clone()), brief).unwrap();
    step_until(&mut reactor, |reactor| reactor.connections() == 0);
    assert_eq!(said.get(), 101);
    assert!(fate.borrow().closed[0].contains("WouldBlock"), "{fate:?}");
    check_the_end(&mut reactor, &world);
}
