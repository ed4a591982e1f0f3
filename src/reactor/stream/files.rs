//! Ranges of files as output: read a little ahead, and sent in their place among what is written.
//!
//! While a file waits, what is written goes to `Link::out` as always, and that is behind everything here: so writing costs what it
//! costs without files. What is to be sent next is in `Files::head`; each read puts what it brought there.

use super::connection::{Link, Phase};
use super::dispatch::is_transient;
use super::handler::CloseReason;
use super::io::Io;
use crate::buf::Payload;
use crate::config::{FILE_READ_BYTES, FILES_WAITING, FILES_WAITING_SOFT, SHORT_BYTES};
use crate::driver::{self, Driver, Kind, Op};
use crate::reactor::table::Id;
use crate::reactor::{Reactor, Shared};
use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Why a range of a file is not taken as output. Nothing of it was written.
#[derive(Debug)]
#[non_exhaustive]
pub enum FileError {
    /// It is not a regular file, but a directory, a pipe, a socket or a device.
    NotRegular,
    /// The range ends before it begins, or behind the end of the file.
    OutOfRange {
        /// What was asked for.
        range: Range<u64>,
        /// Bytes of the file.
        length: u64,
    },
    /// So many files wait already.
    TooMany {
        /// The limit ([`config::FILES_WAITING`](crate::config::FILES_WAITING)).
        limit: usize,
    },
    /// The system does not tell what it is.
    Failed(io::Error),
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileError::NotRegular => f.write_str("only regular files can be sent as output"),
            FileError::OutOfRange { range, length } => {
                write!(
                    f,
                    "the file has {length} bytes; there is no range from {} to {}",
                    range.start, range.end
                )
            }
            FileError::TooMany { limit } => write!(f, "{limit} files wait to be sent, which is the limit"),
            FileError::Failed(error) => write!(f, "the file cannot be looked at: {error}"),
        }
    }
}

impl std::error::Error for FileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            FileError::Failed(error) => Some(error),
            _ => None,
        }
    }
}

/// What a connection's files are waiting for. There as long as something is still to be read.
#[derive(Debug, Default)]
pub(in crate::reactor) struct Files {
    /// What is to be sent before everything else.
    head: Payload,
    queue: VecDeque<Piece>,
    /// Files in the queue, and what is to be read of them.
    waiting: usize,
    left: u64,
    /// Memory that is being read into.
    memory: usize,
}

#[derive(Debug)]
enum Piece {
    Output(Payload),
    /// What is left of it.
    File(Arc<File>, Range<u64>),
}

/// Whether a file is being read for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::reactor) enum FileRead {
    None,
    InFlight,
    Cancelled,
}

impl Files {
    /// So many wait that no more input is to be read, which would only bring more of them.
    pub(in crate::reactor) fn are_many(&self, throttled: bool) -> bool {
        self.waiting > if throttled { FILES_WAITING_SOFT / 2 } else { FILES_WAITING_SOFT }
    }

    /// Bytes of memory, besides what counts as output.
    pub(in crate::reactor) fn memory(&self) -> usize {
        self.memory
    }

    /// Takes `read` bytes off what is left of the first file. They are no more than that: no read asks for more.
    fn advance(&mut self, read: usize) {
        let Some(Piece::File(_, range)) = self.queue.front_mut() else { return };
        range.start += read as u64;
        self.left -= read as u64;
        if range.is_empty() {
            self.queue.pop_front();
            self.waiting -= 1;
        }
    }

    fn missing(&self) -> u64 {
        match self.queue.front() {
            Some(Piece::File(_, range)) => range.end - range.start,
            _ => 0,
        }
    }
}

impl Io<'_> {
    /// Appends a range of a regular file to the output, to be read as it is sent: what is written behind this follows the range's last
    /// byte. At most [`file_ahead`](crate::reactor::StreamOptions::file_ahead) bytes of it lie in memory at a time, whatever its size,
    /// and the reactor never waits for the disk. Takes a [`File`] or an `Arc` of one, which is closed behind the last byte.
    ///
    /// What is still in the file counts for no limit of output, and not in [`pending`](Self::pending), but in
    /// [`pending_file_bytes`](Self::pending_file_bytes). `on_room` and `on_drained` come when all of it has been read, and sent. While
    /// more than [`config::FILES_WAITING_SOFT`](crate::config::FILES_WAITING_SOFT) files wait, input is not read, unless
    /// [`throttle_reading`](crate::reactor::StreamOptions::throttle_reading) is off. [`close`](Self::close) and
    /// [`shutdown_write`](Self::shutdown_write) send the whole range first.
    ///
    /// The file must not change meanwhile. If it has become too short, or cannot be read (it may have been opened for writing only),
    /// the connection is reset ([`CloseReason::FileFailed`]): nobody takes a part for the whole. On a connection that is being
    /// closed the range goes nowhere, as all output does.
    ///
    /// # Errors
    ///
    /// What is no regular file, or not such a range of one, is refused, and so is a file while
    /// [`config::FILES_WAITING`](crate::config::FILES_WAITING) are waiting. To know, it asks the system about the file, which takes
    /// about as long as a small read; opening one may take longer, and is better done elsewhere if the disk is slow.
    pub fn write_file(&mut self, file: impl Into<Arc<File>>, range: Range<u64>) -> Result<(), FileError> {
        let file = file.into();
        let about = file.metadata().map_err(FileError::Failed)?;
        if !about.is_file() {
            return Err(FileError::NotRegular);
        }
        if range.start > range.end || range.end > about.len() {
            return Err(FileError::OutOfRange { range, length: about.len() });
        }
        if self.link.files.as_ref().is_some_and(|files| files.waiting >= FILES_WAITING) {
            return Err(FileError::TooMany { limit: FILES_WAITING });
        }
        if self.link.accepts_output() && !range.is_empty() {
            self.link.append_file(file, range);
        }
        Ok(())
    }

    /// Bytes of [files](Self::write_file) that are to be sent and have not been read yet.
    pub fn pending_file_bytes(&self) -> u64 {
        self.link.file_bytes()
    }
}

impl Link {
    fn append_file(&mut self, file: Arc<File>, range: Range<u64>) {
        if !self.has_intact_output() {
            // Once it has moved on, nobody would see that.
            return self.fail(CloseReason::OutputDamaged);
        }
        let before = std::mem::take(&mut self.out);
        self.ahead += before.len();
        let files = match &mut self.files {
            Some(files) => {
                if !before.is_empty() {
                    files.queue.push_back(Piece::Output(before));
                }
                files
            }
            none => none.insert(Box::new(Files { head: before, ..Files::default() })),
        };
        files.waiting += 1;
        files.left = files.left.saturating_add(range.end - range.start);
        files.queue.push_back(Piece::File(file, range));
        self.undrained = true;
        let all = self.pending_output() as u64 + self.file_bytes();
        self.above_low_water |= all > self.options.limits.low_water() as u64;
    }

    /// Bytes of files that have not been read yet.
    pub(in crate::reactor) fn file_bytes(&self) -> u64 {
        self.files.as_ref().map_or(0, |files| files.left)
    }

    /// Whether anything is still to be sent, in memory or in a file.
    #[inline]
    pub(in crate::reactor) fn has_output(&self) -> bool {
        self.pending_output() > 0 || self.files.is_some()
    }

    /// Bytes that are lost with the connection.
    pub(in crate::reactor) fn unsent(&self) -> usize {
        let left = usize::try_from(self.file_bytes()).unwrap_or(usize::MAX);
        self.pending_output().saturating_add(left)
    }

    /// Whether something could be handed to the driver.
    #[inline]
    pub(in crate::reactor) fn has_sendable(&self) -> bool {
        match &self.files {
            None => !self.out.is_empty(),
            Some(files) => !files.head.is_empty(),
        }
    }

    /// What is to be sent next, which is the caller's from here on.
    #[inline]
    pub(in crate::reactor) fn take_sendable(&mut self) -> Payload {
        match &mut self.files {
            None => std::mem::take(&mut self.out),
            Some(files) => {
                let head = std::mem::take(&mut files.head);
                self.ahead -= head.len();
                head
            }
        }
    }

    /// Moves what was written behind a file to where it is sent from, once that is its turn, and reads on if there is room.
    /// `true` if the driver was asked for something.
    pub(in crate::reactor) fn settle_files(&mut self, driver: &mut Driver, shared: &mut Shared) -> bool {
        let Some(files) = &mut self.files else { return false };
        while let Some(Piece::Output(output)) = files.queue.front_mut() {
            files.head.append(output);
            if let Some(Piece::Output(output)) = files.queue.pop_front() {
                shared.spare.give_payload(output);
            }
        }
        let Some(Piece::File(file, range)) = files.queue.front() else {
            // All are read: what remains is output like any other.
            let mut head = std::mem::take(&mut files.head);
            head.append(&mut self.out);
            shared.spare.give_payload(std::mem::replace(&mut self.out, head));
            (self.files, self.ahead) = (None, 0);
            return false;
        };
        if self.file_read != FileRead::None || self.phase > Phase::Flushing {
            return false;
        }
        // What is read ahead does not keep input from being read by itself, and is never beyond a limit.
        let limits = &self.options.limits;
        let soft =
            if shared.memory.is_short() { limits.output_soft.min(SHORT_BYTES) } else { limits.output_soft };
        let ahead = limits.file_ahead.min(soft / 2);
        let part = (ahead / 2).clamp(1, FILE_READ_BYTES);
        let part = usize::try_from(range.end - range.start).map_or(part, |left| left.min(part));
        let there = self.sending + self.filtered + files.head.len();
        if there > 0 && there + part > ahead {
            return false;
        }
        let range = range.start..range.start + part as u64;
        let (file, memory) = (file.clone(), shared.reads.take(part));
        files.memory = memory.len();
        driver.submit(self.id.token(Kind::Read), Op::Read { file, range, memory });
        self.file_read = FileRead::InFlight;
        true
    }
}

impl Reactor {
    /// A read has ended.
    pub(super) fn file_was_read(&mut self, id: Id, result: io::Result<usize>, memory: Vec<u8>) {
        let Some(link) = self.connections.get_mut(id).map(|connection| &mut connection.link) else {
            return self.shared.reads.give(memory);
        };
        link.file_read = FileRead::None;
        match (&mut link.files, result) {
            // It has ended meanwhile, or its output has.
            (None, _) => self.shared.reads.give(memory),
            (Some(files), Ok(read @ 1..)) => {
                files.memory = 0;
                self.shared.counters.file_reads.add(1);
                self.shared.counters.file_bytes.add(read as u64);
                if files.head.is_empty() && files.head.text_capacity() == 0 {
                    files.head = self.shared.spare.take_payload();
                }
                match self.shared.reads.share(memory, read) {
                    Ok(bytes) => files.head.splice(bytes),
                    Err(memory) => {
                        files.head.text().extend_from_slice(&memory[..read]);
                        self.shared.reads.give(memory);
                    }
                }
                files.advance(read);
                link.ahead += read;
            }
            (Some(files), result) => {
                files.memory = 0;
                self.shared.reads.give(memory);
                match result {
                    // It is read again.
                    Err(error) if driver::is_cancelled(&error) || is_transient(&error) => {}
                    result => {
                        let missing = files.missing();
                        let ended = io::ErrorKind::UnexpectedEof;
                        let error =
                            result.err().unwrap_or_else(|| io::Error::new(ended, "it has become shorter"));
                        link.fail(CloseReason::FileFailed { missing, error });
                    }
                }
            }
        }
        self.settle(id);
    }
}
