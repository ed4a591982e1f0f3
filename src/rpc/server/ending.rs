//! How a server ends a connection: in good order, or with a reset where a request that was taken has no response.

use super::responder::Responder;
use crate::codec::Protocol;
use crate::reactor::Io;
use crate::rpc::Service;
use crate::rpc::notice::Notice;
use std::time::{Duration, Instant};

/// How soon it is asked again whether the peer's system has everything; each time it takes twice as long, up to
/// [`LONGEST_LOOK`].
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LONGEST_LOOK: Duration = Duration::from_millis(16);

/// How long what was sent has to arrive where the system does not tell whether it did.
const BLIND_WAIT: Duration = Duration::from_millis(200);

/// What is known of a connection's end before it comes.
#[derive(Debug, Default)]
pub(super) struct Ending {
    /// Once everything is answered, the client is told what was taken.
    pub(super) says_goodbye: bool,
    /// Something that the peer sent has no answer, and the peer was not told so: an end in good order would be a lie.
    pub(super) owes: bool,
    /// Since when all that was there to say is with the kernel, and how long to wait before looking again.
    sent: Option<(Instant, Duration)>,
}

impl<P: Protocol, S: Service<P>> Responder<P, S> {
    /// No more requests are taken; what is open is still answered.
    pub(super) fn finish(&mut self, io: &mut Io<'_>) {
        self.finishing = true;
        io.pause_reading();
        if self.open.len() > 0 || self.backlog.len() > 0 || io.is_closing() {
            return;
        }
        if self.ending.owes {
            return self.reset(io);
        }
        if self.ending.says_goodbye && !self.is_at_fault() && self.server.options.notices {
            Notice::Goodbye { taken: self.next_ticket }.encode(io.out());
        }
        io.close();
    }

    /// Resets the connection once the peer's system has what came before: a reset takes away what is still on its way, and an end
    /// of the output ahead of it would say that everything was answered. Whoever does not take it in its time does without.
    fn reset(&mut self, io: &mut Io<'_>) {
        if io.pending() > 0 {
            // Looked at again when the kernel has taken it, and cut off if the peer takes none of it.
            return;
        }
        let (since, wait) = *self.ending.sent.get_or_insert((io.now(), FIRST_LOOK));
        let (waited, limit) =
            (io.now().saturating_duration_since(since), self.server.options.listen.stream.close_timeout);
        let is_over = match io.unacknowledged() {
            Some(bytes) => bytes == 0 || waited >= limit,
            None => waited >= limit.min(BLIND_WAIT),
        };
        if is_over {
            return io.abort();
        }
        self.ending.sent = Some((since, LONGEST_LOOK.min(2 * wait)));
        self.clock.arm_after(io, wait);
    }
}
