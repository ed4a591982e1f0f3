//! Descriptors that are reused. A program of its own with one test: another test would take the descriptor.

mod common;

use common::{KINDS, error_number, harness, pair};
use std::io::Write;

/// Descriptors are reused at once; nothing of the old socket may reach the new one.
#[test]
fn a_descriptor_that_is_reused_starts_afresh() {
    for kind in KINDS {
        let mut harness = harness(2);
        let mut last = None;
        for round in 0..20u64 {
            let (socket, mut peer) = pair(kind);
            let fd = harness.attach(socket);
            last.inspect(|last| assert_eq!(*last, fd, "the descriptor was not reused, so nothing is tested"));
            last = Some(fd);
            harness.proactor.receive(fd, round);
            peer.write_all(b"fresh").unwrap();
            if round % 3 == 1 {
                // Leaves its entry in the queue behind.
                harness.proactor.cancel(fd, round);
                assert_eq!(error_number(&harness.next()), Some(libc::ECANCELED));
            } else {
                let completion = harness.next();
                assert_eq!(completion.token, round);
                assert_eq!(harness.bytes_of(completion).unwrap(), b"fresh");
                harness.proactor.cancel(fd, round);
            }
            if round % 3 == 2 {
                // Detached while the cancelled receive has yet to be handed over.
                harness.proactor.detach(fd);
                assert_eq!(harness.next().token, round);
            } else {
                while harness.proactor.pending() > 0 {
                    assert_eq!(harness.next().token, round);
                }
                harness.proactor.detach(fd);
            }
            drop(peer);
            harness.assert_settled();
        }
    }
}
