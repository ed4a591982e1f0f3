//! Reads of files, which are there: what the simulated kernel decides is when, how much at a time, and whether at all.

use super::Simulated;
use super::pending::Outcome;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

impl Simulated {
    pub(super) fn read_file(&mut self, file: &File, range: &Range<u64>, memory: &mut [u8]) -> Outcome {
        let room = trochus_fallback::fitting(range, memory);
        if room == 0 {
            self.fault("a read has no room".to_owned());
        }
        let broken = self.world.borrow_mut().broken_reads.as_mut().is_some_and(|left| {
            *left = left.saturating_sub(1);
            *left == 0
        });
        if broken {
            return Outcome::Failed(io::Error::from_raw_os_error(libc::EIO));
        }
        // What was there before must not be sent.
        memory.fill(0xee);
        let most = if self.whims.prompt { room } else { self.rng.usize(0..room.max(1)) + 1 };
        match file.read_at(&mut memory[..most.min(room)], range.start) {
            Ok(read) => {
                self.world.borrow_mut().reads += 1;
                Outcome::Read(read)
            }
            Err(error) => Outcome::Failed(error),
        }
    }
}
