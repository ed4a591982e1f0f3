//! What there is at the moment.

use crate::gauges::Gauges;
use crate::reactor::Reactor;
use crate::reactor::stream::connection::Phase;
use crate::reactor::stream::reading::Reading;

impl Reactor {
    /// What this reactor has at the moment. Looks at each connection.
    pub fn gauges(&self) -> Gauges {
        let mut gauges = Gauges {
            connections: self.connections.len() as u64,
            held_bytes: self.shared.memory.held() as u64,
            listeners: self.listeners.len() as u64,
            timers: self.timers.len() as u64,
            operations: self.driver.in_flight() as u64,
            buffers_on_loan: self.driver.loaned_buffers() as u64,
            ..Gauges::default()
        };
        for id in self.connections.ids() {
            let Some(connection) = self.connections.get(id) else { continue };
            let link = &connection.link;
            gauges.connecting += u64::from(link.phase == Phase::Connecting);
            gauges.handshaking += u64::from(link.phase == Phase::Handshaking);
            gauges.closing += u64::from(matches!(link.phase, Phase::Flushing | Phase::Lingering));
            gauges.paused += u64::from(link.paused);
            gauges.throttled += u64::from(link.throttled || !link.has_passage_open());
            gauges.starved += u64::from(link.reading == Reading::Starved);
            gauges.input_bytes += link.inbox.len() as u64;
            gauges.output_bytes += link.pending_output() as u64;
            let outbox = link.remote.as_ref().map_or(0, |handle| handle.remote().outbox_len());
            gauges.outbox_bytes += outbox as u64;
        }
        gauges
    }
}
