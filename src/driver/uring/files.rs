//! Reads of files: by the ring, or, where that was switched off, by threads.

use super::Uring;
use super::entry::{Raw, Wire};
use super::operations::Memory;
use crate::config::FILE_THREADS;
use crate::driver::{Completion, Event, Token};
use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use trochus_fallback::{FileRead, FileReader};

impl Uring {
    pub(super) fn read_file(
        &mut self,
        token: Token,
        file: Arc<File>,
        range: Range<u64>,
        mut memory: Vec<u8>,
    ) {
        if !self.reads_files {
            let bell = &self.bell;
            let reader = self.reader.get_or_insert_with(|| {
                let bell = bell.clone();
                FileReader::new(FILE_THREADS, move || bell.ring())
            });
            return reader.read(token.bits(), file, range, memory);
        }
        // Both stay where they are: the slot keeps them until the final completion.
        let (address, len) = (memory.as_mut_ptr(), trochus_fallback::fitting(&range, &memory));
        let entry = Wire::Read { file: file.as_raw_fd(), offset: range.start, address, len }.entry();
        self.push_owner(token, entry, Memory::Read(file, memory));
    }

    /// What the threads have read.
    pub(super) fn take_read(&mut self, into: &mut Vec<Completion>) {
        let Some(reader) = &mut self.reader else { return };
        self.in_flight -= reader.take(&mut |FileRead { token, result, memory }| {
            let token = Token::from_bits(token).expect("only tokens were submitted");
            into.push(Completion { token, event: Event::Read(result, memory), more: false });
        });
    }

    pub(super) fn file_read(&mut self, key: Token, raw: Raw) -> (Token, Event) {
        let (token, memory) = self.operations.remove(key);
        let Memory::Read(_, memory) = memory else { unreachable!("{token:?} held no memory to read into") };
        (token, Event::Read(raw.bytes(), memory))
    }
}
