//! Reads of regular files, which no selector tells anything about: a few threads make them.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long the threads have to end when their reader is dropped. What reads for longer, on a disk that does not answer, is left
/// to itself: it owns what it needs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads files on threads of its own, so that a slow disk keeps nobody waiting.
///
/// The threads are started when there is something to read, no more of them than were asked for, and end with the reader. Each
/// read owns its file and its memory until it is [taken](Self::take), or dropped with the reader.
pub struct FileReader {
    shared: Arc<Shared>,
    most: usize,
    threads: Vec<JoinHandle<()>>,
    /// Reads that were not taken yet.
    pending: usize,
}

/// A read that has ended.
#[derive(Debug)]
#[must_use = "it gives the memory back"]
pub struct FileRead {
    /// The token that it was submitted with.
    pub token: u64,
    /// Bytes that were read, fewer than were asked for if the file ends before; or `ECANCELED`, or what the system said.
    pub result: io::Result<usize>,
    /// The memory, with the bytes at its start.
    pub memory: Vec<u8>,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    /// Is told when there is something to take and there was nothing before.
    wake: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    done: Vec<FileRead>,
    /// Threads that wait for work.
    idle: usize,
    alive: usize,
    closed: bool,
}

struct Job {
    token: u64,
    file: Arc<File>,
    range: Range<u64>,
    memory: Vec<u8>,
}

/// Bytes of a range that a read into `memory` asks for.
#[must_use]
pub fn fitting(range: &Range<u64>, memory: &[u8]) -> usize {
    let wanted = range.end.saturating_sub(range.start);
    usize::try_from(wanted).map_or(memory.len(), |wanted| wanted.min(memory.len()))
}

impl Shared {
    /// Nothing panics with the lock held; and if it did, the state would be whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self, read: FileRead) {
        let mut state = self.state();
        if state.closed {
            return;
        }
        state.done.push(read);
        let first = state.done.len() == 1;
        drop(state);
        if first {
            (self.wake)();
        }
    }

    /// What a thread does.
    fn work(&self) {
        while let Some(job) = self.next() {
            let Job { token, file, range, mut memory } = job;
            let len = fitting(&range, &memory);
            let result = loop {
                match file.read_at(&mut memory[..len], range.start) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    result => break result,
                }
            };
            drop(file);
            self.finish(FileRead { token, result, memory });
        }
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.state();
        loop {
            if state.closed {
                state.alive -= 1;
                self.work.notify_all();
                return None;
            }
            if let Some(job) = state.queue.pop_front() {
                return Some(job);
            }
            state.idle += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}

impl FileReader {
    /// One with up to `threads` threads, at least 1. `wake` is called, by any of them, when there is something to
    /// [take](Self::take) and there was nothing before.
    pub fn new(threads: usize, wake: impl Fn() + Send + Sync + 'static) -> Self {
        let shared = Shared { state: Mutex::default(), work: Condvar::new(), wake: Box::new(wake) };
        FileReader { shared: Arc::new(shared), most: threads.max(1), threads: Vec::new(), pending: 0 }
    }

    /// Reads a range of a file, as much of it as `memory` has room for. One [`FileRead`] comes of it.
    pub fn read(&mut self, token: u64, file: Arc<File>, range: Range<u64>, memory: Vec<u8>) {
        self.pending += 1;
        let mut state = self.shared.state();
        state.queue.push_back(Job { token, file, range, memory });
        let wants_thread = state.queue.len() > state.idle && state.alive < self.most;
        drop(state);
        self.shared.work.notify_one();
        if wants_thread && let Err(error) = self.start_thread() {
            self.fail_unless_somebody_works(&error);
        }
    }

    fn start_thread(&mut self) -> io::Result<()> {
        let shared = self.shared.clone();
        self.shared.state().alive += 1;
        let started = thread::Builder::new().name("trochus-files".to_owned()).spawn(move || shared.work());
        if started.is_err() {
            self.shared.state().alive -= 1;
        }
        self.threads.push(started?);
        Ok(())
    }

    fn fail_unless_somebody_works(&self, error: &io::Error) {
        let mut state = self.shared.state();
        if state.alive > 0 {
            return;
        }
        for Job { token, memory, .. } in std::mem::take(&mut state.queue) {
            let result = Err(error.raw_os_error().map_or(error.kind().into(), io::Error::from_raw_os_error));
            state.done.push(FileRead { token, result, memory });
        }
        drop(state);
        (self.shared.wake)();
    }

    /// Ends a read that no thread has begun, which then completes with `ECANCELED`. One that was begun completes in its own time.
    pub fn cancel(&mut self, token: u64) {
        let mut state = self.shared.state();
        let Some(at) = state.queue.iter().position(|job| job.token == token) else { return };
        let Some(Job { token, memory, .. }) = state.queue.remove(at) else { return };
        drop(state);
        let result = Err(io::Error::from_raw_os_error(libc::ECANCELED));
        self.shared.finish(FileRead { token, result, memory });
    }

    /// Hands over what has ended, and says how much that was.
    pub fn take(&mut self, sink: &mut impl FnMut(FileRead)) -> usize {
        if self.pending == 0 {
            return 0;
        }
        let done = std::mem::take(&mut self.shared.state().done);
        let taken = done.len();
        self.pending -= taken;
        done.into_iter().for_each(sink);
        taken
    }

    /// Whether there is something to take.
    #[must_use]
    pub fn has_done(&self) -> bool {
        self.pending > 0 && !self.shared.state().done.is_empty()
    }

    /// Reads that were not taken yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending
    }
}

impl Drop for FileReader {
    fn drop(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.shared.state();
        state.closed = true;
        state.queue.clear();
        self.shared.work.notify_all();
        while state.alive > 0
            && let Some(left) = deadline.checked_duration_since(Instant::now())
        {
            state = self.shared.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let all_ended = state.alive == 0;
        drop(state);
        if all_ended {
            self.threads.drain(..).for_each(|thread| drop(thread.join()));
        }
    }
}

impl fmt::Debug for FileReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileReader")
            .field("threads", &self.threads.len())
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}
