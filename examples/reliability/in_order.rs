//! Large responses behind a request that is not answered.

use crate::Result;
use crate::measure::{until, watching};
use crate::report::Findings;
use crate::serve::runtime;
use bytes::Bytes;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use trochus::Backend;
use trochus::codec::{LengthDelimited, Protocol};
use trochus::config::HELD_HARD_BYTES;
use trochus::rpc::{Reply, Server};

const REQUESTS: usize = 65_000;
const RESPONSE: usize = 1 << 20;
/// Responses that are looked at once the first request is answered.
const LOOKED_AT: usize = 32;
/// Resident beside what is held: what the kernel has been given of it, buffers, and what the allocator keeps.
const BESIDE: u64 = 48 << 20;

const PATIENCE: Duration = Duration::from_secs(20);

/// Those that are answered later: what they come to at most is bounded, in case that nothing else bounds it.
const LATE: usize = 512;

type Replies = Arc<Mutex<Vec<Reply<Bytes>>>>;

/// Each is answered at once.
pub(crate) fn measure(backend: Backend, time: Duration, findings: &mut Findings) -> Result<()> {
    let right = behind_one(backend, findings, REQUESTS, true, |replies, stream, _| {
        thread::sleep(time);
        let first = replies.lock().expect("nobody panics").pop();
        read_responses(first, stream)
    })?;
    findings.exactly(&format!("right responses of {LOOKED_AT} behind it"), right, LOOKED_AT as u64);
    Ok(())
}

/// All are taken, and then answered by another thread.
pub(crate) fn measure_late(backend: Backend, time: Duration, findings: &mut Findings) -> Result<()> {
    let taken = behind_one(backend, findings, LATE, false, |replies, _, response| {
        let taken = || replies.lock().expect("nobody panics").len();
        until(PATIENCE, || taken() == LATE + 1);
        let late = replies.lock().expect("nobody panics").split_off(1);
        let taken = late.len() as u64;
        late.into_iter().for_each(|reply| reply.send(response.clone()));
        thread::sleep(time.min(Duration::from_secs(1)));
        Ok(taken)
    })?;
    findings.exactly("requests taken behind it", taken, LATE as u64);
    Ok(())
}

/// So many requests behind one that is kept, all of them if not `at_once`; what `then` says is known when nothing is held any more.
fn behind_one(
    backend: Backend,
    findings: &mut Findings,
    requests: usize,
    at_once: bool,
    then: impl FnOnce(&Replies, &mut TcpStream, &Bytes) -> Result<u64>,
) -> Result<u64> {
    let runtime = runtime(backend)?;
    let replies = Replies::default();
    let response = Bytes::from(vec![7; RESPONSE]);
    let (kept, shared) = (replies.clone(), response.clone());
    let service = move |request: &[u8], reply: Reply<Bytes>| match at_once && request != b"first" {
        true => reply.send(shared.clone()),
        false => kept.lock().expect("nobody panics").push(reply),
    };
    let codec = LengthDelimited::new().in_order();
    let server = Server::builder().bind(&runtime, "127.0.0.1:0", codec, service)?;
    let before = crate::measure::resident();
    let mut stream = TcpStream::connect(server.local_addr().to_string())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let writing = stream.try_clone()?;
    let (result, peak) = watching(&runtime, || {
        thread::scope(|scope| {
            scope.spawn(move || write_requests(writing, requests));
            let result = then(&replies, &mut stream, &response);
            // So that who writes does not wait for ever. The connection may have ended already.
            let _ = stream.shutdown(Shutdown::Both);
            result
        })
    });
    let most = (HELD_HARD_BYTES + RESPONSE) as u64;
    findings.bytes(&format!("held at most, of {requests} responses of 1 MiB"), peak.held, most);
    if let Some(before) = before {
        findings.bytes("resident above the start", peak.resident.saturating_sub(before), most + BESIDE);
    }
    drop(stream);
    let held = || runtime.memory_budget().held as u64;
    until(PATIENCE, || held() == 0);
    findings.exactly("held in the end", held(), 0);
    result
}

/// As many as are taken.
fn write_requests(mut stream: TcpStream, requests: usize) {
    let next = b"\0\0\0\x04next".repeat(requests);
    // Ends when the connection does.
    let _ = stream.write_all(&[b"\0\0\0\x05first", &next[..]].concat());
}

/// Answers the first request: how many of the responses behind it are right.
fn read_responses(first: Option<Reply<Bytes>>, stream: &mut TcpStream) -> Result<u64> {
    first.ok_or("the first request has not come")?.send(Bytes::from_static(b"first"));
    stream.read_exact(&mut [0; 4 + 5])?;
    let (mut right, mut response) = (0, vec![0; 4 + RESPONSE]);
    for _ in 0..LOOKED_AT {
        stream.read_exact(&mut response)?;
        let is_right =
            response[..4] == (RESPONSE as u32).to_be_bytes() && response[4..].iter().all(|byte| *byte == 7);
        right += u64::from(is_right);
    }
    Ok(right)
}
