//! Several addresses for one connection: the first that answers has it (RFC 8305, "Happy Eyeballs").
//!
//! The families take turns. The next address is tried as soon as one has failed, or when nobody has answered for
//! [`CONNECT_STAGGER`]; who is tried already goes on meanwhile.

use super::address::Address;
use super::options::StreamOptions;
use crate::config::CONNECT_STAGGER;
use crate::reactor::Reactor;
use crate::reactor::stream::connection::Connection;
use crate::reactor::stream::handler::{CloseReason, Handler};
use crate::reactor::stream::io::Io;
use crate::reactor::table::Id;
use crate::reactor::threads::stream_handle::Handle;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The attempts to make one connection.
pub(in crate::reactor) struct Race {
    options: Rc<StreamOptions>,
    /// Not tried yet.
    left: VecDeque<Address>,
    running: Vec<Id>,
    /// How many were begun; whoever waits to begin the next one sees whether somebody else has.
    begun: usize,
    contender: Option<Contender>,
    failure: Option<(Address, CloseReason)>,
    tell: Option<Tell>,
    unwanted: Arc<AtomicBool>,
}

pub(in crate::reactor) type SharedRace = Rc<RefCell<Race>>;

/// Whose connection it will be.
pub(crate) enum Contender {
    /// It is there already, and hears of it when nobody answers.
    Made(Box<dyn Handler>),
    /// It is made once there is a connection.
    ToBeMade(Box<dyn FnOnce() -> Box<dyn Handler>>),
}

/// Who hears how it went: with a failure, the address that was tried last.
pub(crate) type Tell = Box<dyn FnOnce(Result<Handle, (Address, io::Error)>)>;

/// Has the place of the handler in an attempt; is never called but for the end.
struct Attempt;

impl Handler for Attempt {
    fn on_bytes(&mut self, _: &mut Io<'_>, bytes: &[u8]) -> usize {
        bytes.len()
    }
}

impl Reactor {
    /// Connects to whichever of `addresses` answers first, without waiting for it; see [`connect`](Self::connect). The handler
    /// hears of the outcome once: `on_open`, or `on_close` with the failure of the last one. Dropping
    /// the result changes nothing; [`Dialing::cancel`] ends the attempts.
    pub fn connect_any<H: Handler>(
        &mut self,
        options: &StreamOptions,
        addresses: &[Address],
        handler: H,
    ) -> Dialing {
        let unwanted = Arc::new(AtomicBool::new(false));
        let dialing = Dialing { reactor: self.handle(), unwanted: unwanted.clone() };
        self.race(options, addresses, Contender::Made(Box::new(handler)), Box::new(drop), unwanted);
        self.disturbed();
        dialing
    }

    /// Begins to connect to whichever of them answers first.
    pub(crate) fn race(
        &mut self,
        options: &StreamOptions,
        addresses: &[Address],
        contender: Contender,
        tell: Tell,
        unwanted: Arc<AtomicBool>,
    ) {
        let race = Race {
            options: Rc::new(options.clone()),
            left: take_turns(addresses),
            running: Vec::new(),
            begun: 0,
            contender: Some(contender),
            failure: None,
            tell: Some(tell),
            unwanted,
        };
        let race = Rc::new(RefCell::new(race));
        self.races.push(race.clone());
        self.try_next(&race);
    }

    /// Begins the next attempt; if there is none and none goes on, that was it.
    fn try_next(&mut self, race: &SharedRace) {
        loop {
            let mut state = race.borrow_mut();
            if state.unwanted.load(Ordering::Relaxed) {
                drop(state);
                return self.give_up_race(race);
            }
            let Some(address) = state.left.pop_front() else {
                let over = state.running.is_empty();
                drop(state);
                if over {
                    self.lose_race(race);
                }
                return;
            };
            state.begun += 1;
            let (begun, options) = (state.begun, state.options.clone());
            drop(state);
            match self.begin_attempt(&options, &address, Box::new(Attempt)) {
                Ok(id) => {
                    race.borrow_mut().running.push(id);
                    if let Some(Connection { link, .. }) = self.connections.get_mut(id) {
                        link.race = Some(race.clone());
                    }
                    return self.try_next_later(race, begun);
                }
                Err(error) => {
                    self.shared.counters.connects_failed.add(1);
                    race.borrow_mut().failure = Some((address, CloseReason::ConnectFailed(error)));
                }
            }
        }
    }

    fn try_next_later(&mut self, race: &SharedRace, begun: usize) {
        if race.borrow().left.is_empty() {
            return;
        }
        let race = Rc::downgrade(race);
        self.after(CONNECT_STAGGER, move |reactor| {
            if let Some(race) = race.upgrade().filter(|race| race.borrow().begun == begun) {
                reactor.try_next(&race);
            }
        });
    }

    /// An attempt has succeeded: if it is the first one, it gets the handler. `false` if it is not.
    pub(in crate::reactor) fn win_race(&mut self, id: Id, race: &SharedRace) -> bool {
        let Some(contender) = race.borrow_mut().contender.take() else { return false };
        let handler = match contender {
            Contender::Made(handler) => Ok(handler),
            Contender::ToBeMade(make) => catch_unwind(AssertUnwindSafe(make)),
        };
        let others = {
            let mut state = race.borrow_mut();
            state.left.clear();
            state.begun += 1;
            std::mem::take(&mut state.running)
        };
        for other in others.into_iter().filter(|other| *other != id) {
            self.change(other, |link| link.fail(CloseReason::Aborted));
        }
        self.forget_race(race);
        let Some(connection) = self.connections.get_mut(id) else { return false };
        match handler {
            Ok(handler) => connection.handler = handler,
            Err(panic) => {
                std::mem::forget(panic);
                self.shared.counters.handler_panics.add(1);
                crate::log::handler_panicked(&connection.link.peer);
                connection.link.fail(CloseReason::Panicked);
                let peer = connection.link.peer.clone();
                self.tell_race(race, Err((peer, CloseReason::Panicked)));
            }
        }
        true
    }

    /// Says that the connection is there, or what became of it as it opened.
    pub(in crate::reactor) fn tell_winner(&mut self, id: Id, race: &SharedRace) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        let panicked = matches!(link.reason, Some(CloseReason::Panicked));
        let (handle, peer) = (link.handle(&self.shared.mailbox), link.peer.clone());
        self.tell_race(race, if panicked { Err((peer, CloseReason::Panicked)) } else { Ok(handle) });
    }

    /// An attempt has come to nothing.
    pub(in crate::reactor) fn lose_attempt(&mut self, id: Id, race: &SharedRace, reason: CloseReason) {
        {
            let mut state = race.borrow_mut();
            state.running.retain(|other| *other != id);
            if state.contender.is_none() {
                return;
            }
            if let Some(Connection { link, .. }) = self.connections.get(id) {
                state.failure = Some((link.peer.clone(), reason));
            }
            if self.drain_deadline.is_some() {
                state.left.clear();
            }
        }
        self.try_next(race);
    }

    fn lose_race(&mut self, race: &SharedRace) {
        self.forget_race(race);
        let contender = race.borrow_mut().contender.take();
        let failure = race.borrow_mut().failure.take();
        let nobody = || (Address::Unix(Default::default()), CloseReason::ConnectFailed(no_address()));
        let (address, reason) = failure.unwrap_or_else(nobody);
        if let Some(Contender::Made(handler)) = contender {
            self.say_goodbye(handler, &reason, &address);
        } else {
            self.guarded(|_| drop(contender));
        }
        self.tell_race(race, Err((address, reason)));
    }

    /// Ends what nobody wants any more.
    pub(crate) fn end_unwanted_races(&mut self) {
        let unwanted = |race: &&SharedRace| race.borrow().unwanted.load(Ordering::Relaxed);
        let unwanted: Vec<SharedRace> = self.races.iter().filter(unwanted).cloned().collect();
        unwanted.iter().for_each(|race| self.give_up_race(race));
    }

    fn give_up_race(&mut self, race: &SharedRace) {
        let running = {
            let mut state = race.borrow_mut();
            state.left.clear();
            state.begun += 1;
            state.failure = Some((Address::Unix(Default::default()), CloseReason::Aborted));
            std::mem::take(&mut state.running)
        };
        // With no contender, what they come to is of no interest.
        let contender = race.borrow_mut().contender.take();
        for id in running {
            self.change(id, |link| link.fail(CloseReason::Aborted));
        }
        race.borrow_mut().contender = contender;
        self.lose_race(race);
    }

    fn forget_race(&mut self, race: &SharedRace) {
        self.races.retain(|other| !Rc::ptr_eq(other, race));
    }

    fn tell_race(&mut self, race: &SharedRace, outcome: Result<Handle, (Address, CloseReason)>) {
        let tell = race.borrow_mut().tell.take();
        if let Some(tell) = tell {
            self.guarded(|_| tell(outcome.map_err(|(address, reason)| (address, refusal(reason)))));
        }
    }

    /// For a reactor that has failed: nobody is tried any more.
    pub(in crate::reactor) fn abandon_races(&mut self) {
        for race in std::mem::take(&mut self.races) {
            race.borrow_mut().running.clear();
            race.borrow_mut().left.clear();
            race.borrow_mut().failure = Some((Address::Unix(Default::default()), CloseReason::Shutdown));
            self.lose_race(&race);
        }
    }
}

/// Several attempts to make one connection, to end them.
#[derive(Clone, Debug)]
pub struct Dialing {
    reactor: crate::reactor::ReactorHandle,
    unwanted: Arc<AtomicBool>,
}

impl Dialing {
    /// Ends the attempts that still go on; the handler's `on_close` is called with
    /// [`CloseReason::Aborted`]. A connection that is established by then is not concerned. From any thread.
    pub fn cancel(&self) {
        self.unwanted.store(true, Ordering::Relaxed);
        // A reactor that has stopped has ended them.
        let _ = self.reactor.run(Reactor::end_unwanted_races);
    }
}

/// The order in which to try them: as they are, but the families in turn, beginning with the first one's.
fn take_turns(addresses: &[Address]) -> VecDeque<Address> {
    let family = |address: &&Address| Some(address.family()) == addresses.first().map(Address::family);
    let (first, others): (Vec<&Address>, Vec<&Address>) = addresses.iter().partition(family);
    let mut others = others.into_iter();
    let mut all = VecDeque::new();
    for address in first {
        all.push_back(address.clone());
        all.extend(others.next().cloned());
    }
    all.extend(others.cloned());
    all
}

/// An attempt's end, for the one who made it.
fn refusal(reason: CloseReason) -> io::Error {
    match reason {
        CloseReason::ConnectFailed(error) => error,
        reason => io::Error::other(reason.to_string()),
    }
}

fn no_address() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "there is no address to connect to")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns_in_the_order_that_was_given() {
        let order = |given: &[&str]| -> Vec<String> {
            let given: Vec<Address> = given.iter().map(|text| Address::Tcp(text.parse().unwrap())).collect();
            take_turns(&given).iter().map(Address::to_string).collect()
        };
        assert_eq!(
            order(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "1.1.1.2:1"]),
            ["[::1]:1", "1.1.1.1:1", "[::2]:1", "1.1.1.2:1", "[::3]:1"]
        );
        assert_eq!(
            order(&["1.1.1.1:1", "[::1]:1", "[::2]:1", "[::3]:1"]),
            ["1.1.1.1:1", "[::1]:1", "[::2]:1", "[::3]:1"]
        );
        assert!(order(&[]).is_empty());
    }
}
