//! Many threads, one file: what a batcher is worth without any network.
//!
//! Every thread appends records; a record counts once it is on the disk (`fdatasync`). Three ways to get there: a
//! mutex around the file, which syncs every record; a channel to a writer that syncs whatever it finds in the channel at a time;
//! and the batcher, which syncs every batch. With the channel, a record is safe when the writer has ended; with the batcher, when
//! `sync` returns. The batcher also waits for room on a full disk, and tries the same batch again.
//!
//! `cargo run --release --example fan_in -- --threads 16 --seconds 2`

use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use trochus::batch::{Batcher, Written};

/// Records that share a sync at most.
const BATCH: usize = 65_536;

/// No way writes more than this, in bytes.
const MOST: u64 = 512 << 20;

type Failure = Box<dyn Error + Send + Sync>;

/// A record on the disk: who wrote it and its number, 16 bytes.
#[derive(Clone, Copy)]
struct Record {
    thread: u64,
    number: u64,
}

impl Record {
    const BYTES: u64 = 16;

    fn encode(self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.thread.to_le_bytes());
        bytes.extend_from_slice(&self.number.to_le_bytes());
    }
}

/// The file and how many records are safe in it.
struct Log {
    file: File,
    bytes: Vec<u8>,
    safe: Arc<AtomicU64>,
}

impl Log {
    fn append(&mut self, records: &[Record]) -> std::io::Result<()> {
        self.bytes.clear();
        records.iter().for_each(|record| record.encode(&mut self.bytes));
        let start = self.file.stream_position()?;
        if let Err(error) = self.file.write_all(&self.bytes).and_then(|()| self.file.sync_data()) {
            // Some of it may be there, and all of it may come again.
            self.file.set_len(start)?;
            self.file.seek(SeekFrom::Start(start))?;
            return Err(error);
        }
        self.safe.fetch_add(records.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

struct Options {
    threads: u64,
    time: Duration,
}

fn main() -> Result<(), Failure> {
    let Some(options) = options()? else { return Ok(()) };
    let directory = tempfile::tempdir()?;
    println!("{} threads, {:?} each way, in {}", options.threads, options.time, directory.path().display());
    let ways: [(&str, Way); 3] = [
        ("mutex around the file", with_mutex),
        ("channel, group commit", with_channel),
        ("batcher", with_batcher),
    ];
    let mut table = Vec::new();
    for (name, way) in ways {
        let path = directory.path().join("log");
        let safe = Arc::new(AtomicU64::new(0));
        let log = Log { file: File::create(&path)?, bytes: Vec::new(), safe: Arc::clone(&safe) };
        let started = Instant::now();
        let (counts, syncs) = watched(name, &safe, || way(log, &options))?;
        let elapsed = started.elapsed();
        verify(&path, &counts)?;
        table.push((name, counts.iter().sum::<u64>(), syncs, elapsed));
    }
    println!("\n{:<22} {:>12} {:>14} {:>16}", "way", "records", "records/s", "records a sync");
    for (name, records, syncs, elapsed) in table {
        let (rate, share) = (records as f64 / elapsed.as_secs_f64(), records as f64 / syncs.max(1) as f64);
        println!("{name:<22} {records:>12} {rate:>14.0} {share:>16.1}");
    }
    println!("\nverified: every record is in its file once, each thread's in order");
    Ok(())
}

/// How many records each thread wrote, and how often the file was synced.
type Way = fn(Log, &Options) -> Result<(Vec<u64>, u64), Failure>;

fn with_mutex(log: Log, options: &Options) -> Result<(Vec<u64>, u64), Failure> {
    let log = Mutex::new(log);
    let counts =
        produce(options, || |record| Ok(log.lock().map_err(|_| "a thread panicked")?.append(&[record])?))?;
    let syncs = counts.iter().sum();
    Ok((counts, syncs))
}

/// The writer takes what else is there, so that many records share a sync.
fn with_channel(mut log: Log, options: &Options) -> Result<(Vec<u64>, u64), Failure> {
    let (sender, receiver) = mpsc::sync_channel::<Record>(BATCH);
    let writer = thread::spawn(move || {
        let (mut records, mut syncs) = (Vec::with_capacity(BATCH), 0);
        while let Ok(first) = receiver.recv() {
            records.push(first);
            records.extend(receiver.try_iter().take(BATCH - 1));
            log.append(&records)?;
            records.clear();
            syncs += 1;
        }
        Ok::<u64, std::io::Error>(syncs)
    });
    let counts = produce(options, || {
        let sender = sender.clone();
        move |record| Ok(sender.send(record)?)
    })?;
    drop(sender);
    let syncs = writer.join().map_err(|_| "the writer panicked")??;
    Ok((counts, syncs))
}

fn with_batcher(mut log: Log, options: &Options) -> Result<(Vec<u64>, u64), Failure> {
    let batcher = Batcher::builder().batch(BATCH).spawn(move |records: &mut Vec<Record>| {
        match log.append(records) {
            Ok(()) => Ok(Written::Done),
            Err(error) if error.kind() == ErrorKind::StorageFull => Ok(Written::again(error)),
            Err(error) => Err(error),
        }
    })?;
    let counts = produce(options, || {
        let mut producer = batcher.producer();
        move |record| Ok(producer.push(record).map_err(|error| error.to_string())?)
    })?;
    batcher.sync()?; // everything is on the disk now, and the log could go on
    batcher.close()?;
    Ok((counts, batcher.stats().batches))
}

/// Has every thread write records until the time is over.
fn produce<P>(options: &Options, mut producer: impl FnMut() -> P) -> Result<Vec<u64>, Failure>
where
    P: FnMut(Record) -> Result<(), Failure> + Send,
{
    let over = AtomicBool::new(false);
    let most = MOST / Record::BYTES / options.threads;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..options.threads)
            .map(|thread| {
                let (mut push, over) = (producer(), &over);
                scope.spawn(move || {
                    let mut number = 0;
                    while number < most && !over.load(Ordering::Relaxed) {
                        push(Record { thread, number })?;
                        number += 1;
                    }
                    Ok(number)
                })
            })
            .collect();
        let deadline = Instant::now() + options.time;
        while Instant::now() < deadline && !threads.iter().all(thread::ScopedJoinHandle::is_finished) {
            thread::sleep(Duration::from_millis(10));
        }
        over.store(true, Ordering::Relaxed);
        threads.into_iter().map(|thread| thread.join().map_err(|_| "a thread panicked")?).collect()
    })
}

/// Shows how many records are safe while the work goes on.
fn watched<R>(name: &str, safe: &AtomicU64, work: impl FnOnce() -> R) -> R {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let showing = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                thread::park_timeout(Duration::from_millis(250));
                print!("\r{name}: {} records on the disk", safe.load(Ordering::Relaxed));
                let _ = std::io::stdout().flush();
            }
            println!();
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        showing.thread().unpark();
        result
    })
}

/// Every record once, each thread's in order.
fn verify(path: &Path, counts: &[u64]) -> Result<(), Failure> {
    let mut file = BufReader::new(File::open(path)?);
    let mut next = vec![0; counts.len()];
    for _ in 0..counts.iter().sum() {
        let (mut thread, mut number) = ([0; 8], [0; 8]);
        file.read_exact(&mut thread)?;
        file.read_exact(&mut number)?;
        let (thread, number) = (u64::from_le_bytes(thread), u64::from_le_bytes(number));
        let expected = next.get_mut(usize::try_from(thread)?).ok_or("a record of nobody")?;
        if *expected != number {
            return Err(format!("thread {thread}: record {number} where {expected} was due").into());
        }
        *expected += 1;
    }
    if !file.fill_buf()?.is_empty() {
        return Err("more records than were written".into());
    }
    if next == counts { Ok(()) } else { Err("records are missing at the end".into()) }
}

/// `None` if only help was asked for.
fn options() -> Result<Option<Options>, Failure> {
    use lexopt::prelude::{Long, ValueExt};
    let mut options = Options { threads: 16, time: Duration::from_secs(2) };
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("threads") => options.threads = arguments.value()?.parse::<u64>()?.clamp(1, 4_096),
            Long("seconds") => {
                let seconds = arguments.value()?.parse::<f64>()?.clamp(0.1, 60.0);
                options.time = Duration::from_secs_f64(seconds);
            }
            Long("help") => {
                println!("fan_in [--threads 1..4096] [--seconds 0.1..60]");
                return Ok(None);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Some(options))
}
