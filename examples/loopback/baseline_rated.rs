//! Requests at a given rate over bare sockets: the thread that makes them writes all that are due at a time with one system call a
//! connection, and the loops of `baseline_requests` answer them and take the answers.

use crate::Result;
use crate::baseline_requests::{Ends, Rhythm, Shared, pin};
use crate::latency::Latencies;
use crate::load::Load;
use crate::open_loop::{Made, Schedule, make_when_due};
use crate::options::Options;
use crate::report::{Progress, Unit};
use crate::rounds::{Sample, Slice};
use std::io::{self, ErrorKind, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;
use trochus::codec::{Encode, Protocol};

pub(crate) fn measure<L: Load>(
    options: &Options,
    load: &L,
    schedule: Schedule,
    size: usize,
    slice: Slice,
    progress: &mut Progress,
) -> Result<Sample> {
    let shared = Shared::of(options.reactors);
    let made: Vec<AtomicU64> = (0..schedule.connections).map(|_| AtomicU64::new(0)).collect();
    let stop = AtomicBool::new(false);
    let measured_from = schedule.start + slice.warm_up;
    let mut ends = Ends::all(load, schedule.connections, options.reactors)?;
    let mut writers: Vec<_> = ends.iter_mut().flat_map(|ends| std::mem::take(&mut ends.writers)).collect();
    writers.sort_by_key(|(connection, _)| *connection);
    let sockets = writers.into_iter().map(|(_, socket)| socket).collect();
    thread::scope(|scope| {
        let (shared, made, stop, busily) = (&shared, &made, &stop, options.polls_busily());
        let start_thread = |(index, ends): (usize, Ends<L>)| {
            scope.spawn(move || {
                pin(index);
                let mut rated = Rated { schedule, measured_from, latencies: Latencies::new(), made };
                let result = ends.run(load, &mut rated, shared, index, busily);
                // One that failed makes the measurement void.
                result.map(|_| rated.latencies).inspect_err(|_| stop.store(true, Ordering::Relaxed))
            })
        };
        let threads: Vec<_> = ends.into_iter().enumerate().map(start_thread).collect();
        let source = scope.spawn(move || write(schedule, load, sockets, slice, stop, made));
        let until_start = measured_from.saturating_duration_since(Instant::now());
        progress.wait(until_start, "plain sockets", Unit::Messages, || shared.answered());
        let start = Instant::now();
        progress.wait(slice.time, "plain sockets", Unit::Messages, || shared.answered());
        let time = start.elapsed();
        stop.store(true, Ordering::Relaxed);
        let generated = source.join().expect("the thread does not panic");
        shared.stop.store(true, Ordering::Release);
        let mut latencies = Latencies::new();
        for thread in threads {
            latencies.merge(&thread.join().expect("the thread reports errors and does not panic")?);
        }
        Ok(Sample { lateness: Some(generated?.lateness), ..latencies.sample(time, size) })
    })
}

/// Latencies count from when a request was due.
struct Rated<'a> {
    schedule: Schedule,
    measured_from: Instant,
    latencies: Latencies,
    made: &'a [AtomicU64],
}

impl Rhythm for Rated<'_> {
    const CLOSED: bool = false;

    #[inline]
    fn answered(&mut self, connection: usize, number: u64) {
        let now = Instant::now();
        if now >= self.measured_from {
            self.latencies.record(now - self.schedule.due_on(connection, number));
        }
    }

    fn made(&self, connection: usize) -> u64 {
        self.made[connection].load(Ordering::Relaxed)
    }
}

/// Makes the requests, and tells how many there were on each connection.
fn write<L: Load>(
    schedule: Schedule,
    load: &L,
    sockets: Vec<TcpStream>,
    slice: Slice,
    stop: &AtomicBool,
    made: &[AtomicU64],
) -> Result<Made, String> {
    let mut codec = load.protocol().request_codec();
    let sockets: Vec<_> =
        sockets.into_iter().map(|socket| (socket, std::cell::RefCell::new(Vec::new()))).collect();
    let make = |connection: usize, number| {
        made[connection].fetch_add(1, Ordering::Relaxed);
        let mut out = sockets[connection].1.borrow_mut();
        codec.encode(&load.request(connection as u32, number), &mut out).map_err(|error| error.to_string())
    };
    let flush = || {
        for (socket, out) in &sockets {
            send(socket, &mut out.borrow_mut()).map_err(|error| error.to_string())?;
        }
        Ok(())
    };
    make_when_due(schedule, slice.warm_up, stop, make, flush)
}

/// Writes all of it: the loops read on, whatever happens here.
fn send(mut socket: &TcpStream, out: &mut Vec<u8>) -> io::Result<()> {
    let mut sent = 0;
    while sent < out.len() {
        match socket.write(&out[sent..]) {
            Ok(bytes) => sent += bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
            Err(error) => return Err(error),
        }
    }
    out.clear();
    Ok(())
}
