//! How the connections of an experiment ended, and what that amounts to.

use crate::Result;
use crate::connections::PATIENCE;
use crate::rounds::Sample;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;
use trochus::rpc::Unfinished;

/// What became of a connection.
pub(crate) struct Outcome {
    responses: Result<u64, String>,
    /// When the last response had come.
    at: Instant,
}

/// Tells the outcome of a connection, once.
pub(crate) struct Ending {
    connection: usize,
    told: Option<Sender<Outcome>>,
}

impl Ending {
    pub(crate) fn new(connection: usize, told: Sender<Outcome>) -> Self {
        Ending { connection, told: Some(told) }
    }

    /// The connection has ended; if it was not in order, that counts for more than what was received.
    pub(crate) fn close(
        &mut self,
        end: &Result<(), Unfinished>,
        verdict: impl FnOnce() -> Result<u64, String>,
    ) {
        self.tell(end.clone().map_err(|unfinished| unfinished.to_string()).and_then(|()| verdict()));
    }

    #[cold]
    pub(crate) fn tell(&mut self, responses: Result<u64, String>) {
        if let Some(told) = self.told.take() {
            let responses = responses.map_err(|error| format!("connection {}: {error}", self.connection));
            // Whoever does not wait for it any more has given up with an error already.
            let _ = told.send(Outcome { responses, at: Instant::now() });
        }
    }
}

/// All connections' outcomes.
pub(crate) struct Total {
    pub(crate) responses: u64,
    pub(crate) last: Instant,
}

impl Total {
    /// What was answered since `begun`, when so many bytes had been received, of `received` in the end.
    pub(crate) fn sample(&self, begun: (Instant, u64), received: u64, size: usize) -> Sample {
        let (start, before) = begun;
        let share = 1.0 - before as f64 / received.max(1) as f64;
        let rate = self.responses as f64 * share / (self.last - start).as_secs_f64();
        Sample { messages_per_s: Some(rate), bytes_per_s: Some(rate * size as f64), ..Sample::default() }
    }

    pub(crate) fn wait(outcomes: &Receiver<Outcome>, connections: usize) -> Result<Self> {
        let mut total = Total { responses: 0, last: Instant::now() };
        for index in 0..connections {
            let Ok(Outcome { responses, at }) = outcomes.recv_timeout(PATIENCE) else {
                return Err(format!("a connection was not answered within {PATIENCE:?}").into());
            };
            total.responses += responses?;
            total.last = if index == 0 { at } else { total.last.max(at) };
        }
        Ok(total)
    }
}
