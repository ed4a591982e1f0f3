//! How a server ends a connection: in good order, or with a reset where a request that was taken has no response.

use super::responder::Responder;
use crate::codec::Protocol;
use crate::reactor::Io;
use crate::rpc::Service;
use crate::rpc::notice::Notice;

/// What is known of a connection's end before it comes.
#[derive(Debug, Default)]
pub(super) struct Ending {
    /// Once everything is answered, the client is told what was taken.
    pub(super) says_goodbye: bool,
    /// Something that the peer sent has no answer, and the peer was not told so: an end in good order would be a lie.
    pub(super) owes: bool,
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
            return io.close_unfinished();
        }
        if self.ending.says_goodbye && !self.is_at_fault() && self.server.options.notices {
            Notice::Goodbye { taken: self.next_ticket }.encode(io.out());
        }
        io.close();
    }
}
