//! The end of one server: its sockets close, its connections finish, then they are cut off.

use super::seats::Seats;
use crate::reactor::Reactor;
use crate::reactor::pace::timers::{self, Due};
use crate::reactor::stream::connection::{Connection, Phase};
use crate::reactor::stream::handler::CloseReason;
use crate::reactor::table::Id;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// A server that has until then to end.
pub(in crate::reactor) struct Stop {
    timer: Option<Instant>,
    seats: Weak<Seats>,
}

impl Reactor {
    /// Closes the sockets of one server here, asks its connections to finish, and cuts them off after `grace`.
    pub(crate) fn stop_server(&mut self, seats: &Arc<Seats>, grace: Duration) {
        seats.stop();
        self.close_doors(seats);
        for id in self.seated(seats) {
            self.stop_connection(id);
        }
        self.cut_off_after(seats, grace);
    }

    fn cut_off_after(&mut self, seats: &Arc<Seats>, grace: Duration) {
        let number = self.stops.last_key_value().map_or(0, |(last, _)| last + 1);
        let mut timer = None;
        let due = timers::deadline(self.driver.now(), grace);
        self.timers.change(&mut timer, Due::Stop(number), Some(due));
        self.stops.insert(number, Stop { timer, seats: Arc::downgrade(seats) });
        let handle = self.handle();
        // Those who ended by themselves are not waited for, nor kept.
        seats.when_empty(move || _ = handle.run(move |reactor| reactor.forget_stop(number)));
    }

    fn forget_stop(&mut self, number: u64) {
        if let Some(mut stop) = self.stops.remove(&number) {
            self.timers.change(&mut stop.timer, Due::Stop(number), None);
        }
    }

    pub(in crate::reactor) fn stop_timer(&mut self, number: u64) {
        let stop = self.stops.remove(&number);
        if let Some(seats) = stop.and_then(|stop| stop.seats.upgrade()) {
            self.cut_off_server(&seats);
        }
    }

    /// Closes the sockets of one server here. Its connections live on.
    pub(crate) fn close_doors(&mut self, seats: &Arc<Seats>) {
        for id in self.listeners.ids() {
            if self.listeners.get(id).is_some_and(|listener| Arc::ptr_eq(&listener.seats, seats)) {
                self.end_listener(id);
            }
        }
    }

    fn cut_off_server(&mut self, seats: &Arc<Seats>) {
        seats.cut();
        let mut ids = self.seated(seats).into_iter();
        while !self.contain(|reactor, _| ids.by_ref().for_each(|id| reactor.cut_off(id))) {}
    }

    /// Ends a connection that had its time to finish.
    pub(in crate::reactor) fn cut_off(&mut self, id: Id) {
        let Some(Connection { link, .. }) = self.connections.get_mut(id) else { return };
        if link.phase >= Phase::Dead {
            return;
        }
        // One that only waits for its peer to end as well has sent all it had to.
        if link.opened && (link.phase < Phase::Lingering || link.is_unfinished()) {
            self.shared.counters.connections_cut_off.add(1);
            link.seat.iter().for_each(|seat| seat.count_cut_off());
        }
        link.fail(CloseReason::Shutdown);
        self.settle(id);
    }

    fn seated(&self, seats: &Arc<Seats>) -> Vec<Id> {
        let is_one = |id: &Id| {
            let seat = self.connections.get(*id).and_then(|connection| connection.link.seat.as_ref());
            seat.is_some_and(|seat| seat.is_of(seats))
        };
        self.connections.ids().into_iter().filter(is_one).collect()
    }
}
