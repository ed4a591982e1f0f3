//! A panic costs whom it concerns, and nobody else.
//!
//! What handlers panic with is caught where they are called. Here it is about what lies below them: should anything panic
//! while a completion, a command or a timer is dealt with, the connection that this was about is given up, and the loop goes
//! on with the next one.

use crate::driver::{Kind, Token};
use crate::reactor::Reactor;
use crate::reactor::stream::handler::CloseReason;
use crate::reactor::table::Id;
use std::any::Any;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Whom the work is about at the moment, in case that it panics.
pub(in crate::reactor) type About = Option<Token>;

impl Reactor {
    /// Does something that may be about many, one after the other. If it panics, the one that it was about is given up:
    /// `false`, and the caller goes on with the others. It is called around a loop and not within it, so that it costs nothing.
    pub(in crate::reactor) fn contain(&mut self, work: impl FnOnce(&mut Reactor, &mut About)) -> bool {
        let outer = self.settling;
        let mut about = None;
        let result = catch_unwind(AssertUnwindSafe(|| work(self, &mut about)));
        if let Err(panic) = result {
            discard(panic);
            self.give_up_on(about, outer);
            return false;
        }
        true
    }

    /// Does something of the application's; a panic in it ends nothing else.
    pub(in crate::reactor) fn guarded(&mut self, action: impl FnOnce(&mut Reactor)) {
        let outer = self.settling;
        if catch_unwind(AssertUnwindSafe(|| action(self))).is_err() {
            if self.settling != outer {
                return self.give_up_on(None, outer);
            }
            self.shared.counters.handler_panics.add(1);
            crate::log::action_panicked();
        }
    }

    /// Gives up what a panic left half done: what was being settled, and what it was all about.
    #[cold]
    pub(in crate::reactor) fn give_up_on(&mut self, about: About, outer: Option<Id>) {
        self.shared.counters.internal_panics.add(1);
        crate::log::internal_panic();
        let settled = mem::replace(&mut self.settling, outer).filter(|id| Some(*id) != outer);
        let settled = settled.map(|id| id.token(Kind::Receive));
        for token in [settled, about].into_iter().flatten() {
            let again = catch_unwind(AssertUnwindSafe(|| match token.kind() {
                Kind::Accept => self.settle_listener(token.into()),
                _ => self.change(token.into(), |link| link.fail(CloseReason::Internal)),
            }));
            if let Err(panic) = again {
                // Whatever it is, it cannot even be ended. It keeps its place.
                discard(panic);
                self.settling = outer;
            }
        }
    }
}

/// Drops what was panicked with, which might panic as well.
fn discard(panic: Box<dyn Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        mem::forget(again);
    }
}
