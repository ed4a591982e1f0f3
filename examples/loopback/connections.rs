//! What all experiments do with servers and connections.

use crate::Result;
use crate::pattern::Pattern;
use crate::session::Session;
use crate::watch::Watch;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};
use trochus::Runtime;
use trochus::net::{Address, Handle, Handler, Incoming, ListenOptions, Server, StreamOptions};

/// How long something may take that is over at once on a healthy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Output that may wait before reading pauses: more than one write of the largest size, or two ends that both write
/// would both stop reading.
const OUTPUT_BYTES: usize = 64 << 20;

fn stream_options() -> StreamOptions {
    StreamOptions::new().output_limits(OUTPUT_BYTES / 2, OUTPUT_BYTES)
}

/// A server that does what its clients want.
pub(crate) fn serve(
    runtime: &Runtime,
    address: &str,
    pattern: &Pattern,
    watch: &Arc<Watch>,
) -> Result<Server> {
    let (pattern, watch) = (pattern.clone(), watch.clone());
    let options = ListenOptions::new().stream(stream_options());
    let accept = move |_: &Incoming<'_>| Session::new(pattern.clone(), watch.clone());
    Ok(runtime.listen_with(&options, address, accept)?)
}

/// Connects from each reactor in turn.
pub(crate) fn open<H: Handler, M: FnOnce() -> H + Send + 'static>(
    runtime: &Runtime,
    server: &Address,
    connections: usize,
    make: impl Fn(u32) -> M,
) -> Result<Vec<Handle>> {
    (0..connections).map(|connection| open_one(runtime, server, connection, &make)).collect()
}

fn open_one<H: Handler, M: FnOnce() -> H + Send + 'static>(
    runtime: &Runtime,
    server: &Address,
    connection: usize,
    make: impl Fn(u32) -> M,
) -> Result<Handle> {
    let reactor = connection % runtime.reactors();
    Ok(runtime.connect_on(reactor, &stream_options(), server, make(connection as u32))?)
}

/// How connecting went while the connections that were there already played.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connecting {
    /// Connections a second, one after the other: of all, and of the slowest tenth.
    pub(crate) per_s: f64,
    pub(crate) slowest_per_s: f64,
    /// What was played a second while the last tenth connected.
    pub(crate) played_per_s: f64,
}

/// As [`open`], and looks at the clock and at `played` meanwhile.
pub(crate) fn open_and_watch<H: Handler, M: FnOnce() -> H + Send + 'static>(
    runtime: &Runtime,
    server: &Address,
    connections: usize,
    make: impl Fn(u32) -> M,
    played: impl Fn() -> u64,
) -> Result<(Vec<Handle>, Connecting)> {
    let start = Instant::now();
    let mut handles = Vec::with_capacity(connections);
    let (mut slowest_per_s, mut played_per_s) = (f64::INFINITY, 0.0);
    while handles.len() < connections {
        let (begun, before) = (Instant::now(), played());
        let share = connections.div_ceil(10).min(connections - handles.len());
        for _ in 0..share {
            handles.push(open_one(runtime, server, handles.len(), &make)?);
        }
        let time = begun.elapsed().as_secs_f64();
        slowest_per_s = slowest_per_s.min(share as f64 / time);
        played_per_s = (played() - before) as f64 / time;
    }
    let per_s = connections as f64 / start.elapsed().as_secs_f64();
    Ok((handles, Connecting { per_s, slowest_per_s, played_per_s }))
}

/// Tells all connections that the time is up, and waits for what they have to say.
pub(crate) fn finish<T>(handles: &[Handle], outcomes: &Receiver<Result<T, String>>) -> Result<Vec<T>> {
    for handle in handles {
        // One that has ended already says why.
        let _ = handle.notify();
    }
    let outcome = |_| match outcomes.recv_timeout(PATIENCE) {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(format!("a connection did not finish within {PATIENCE:?}").into()),
    };
    handles.iter().map(outcome).collect()
}

/// Fails if a handler found something wrong.
pub(crate) fn check(watch: &Watch) -> Result<()> {
    match watch.failures().first() {
        Some(failure) => Err(failure.clone().into()),
        None => Ok(()),
    }
}
