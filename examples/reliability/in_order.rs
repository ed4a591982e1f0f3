//! Large responses behind a request that is not answered.

use crate::Result;
use crate::measure::{until, watching};
use crate::report::{Findings, Unit};
use crate::serve::runtime;
use bytes::Bytes;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use trochus::codec::{LengthDelimited, Protocol};
use trochus::config::HELD_HARD_BYTES;
use trochus::rpc::{Reply, Server};
use trochus::{Backend, Runtime};

const REQUESTS: usize = 65_000;
const RESPONSE: usize = 1 << 20;
/// Responses that are looked at once the first request is answered.
const LOOKED_AT: usize = 32;
/// Resident beside what is held: what the kernel has been given of it, buffers, and what the allocator keeps.
const BESIDE: u64 = 48 << 20;

const PATIENCE: Duration = Duration::from_secs(20);

/// Whether a response is there when its service returns.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answers {
    AtOnce,
    /// By another thread, when all requests are there that will be.
    Later,
}

type Replies = Arc<Mutex<Vec<Reply<Bytes>>>>;

pub(crate) fn measure(backend: Backend, time: Duration, findings: &mut Findings) -> Result<()> {
    for (name, answers) in [("at once", Answers::AtOnce), ("later", Answers::Later)] {
        behind_one(name, answers, backend, time / 2, findings)?;
    }
    Ok(())
}

fn behind_one(
    name: &str,
    answers: Answers,
    backend: Backend,
    time: Duration,
    findings: &mut Findings,
) -> Result<()> {
    let runtime = runtime(backend)?;
    let replies = Replies::default();
    let response = Bytes::from(vec![7; RESPONSE]);
    let (kept, shared) = (replies.clone(), response.clone());
    let service = move |request: &[u8], reply: Reply<Bytes>| match (request, answers) {
        (b"first", _) | (_, Answers::Later) => {
            kept.lock().expect("nobody panics").push(reply);
        }
        (_, Answers::AtOnce) => reply.send(shared.clone()),
    };
    let server =
        Server::builder().bind(&runtime, "127.0.0.1:0", LengthDelimited::new().in_order(), service)?;
    let before = crate::measure::resident();
    let mut stream = TcpStream::connect(server.local_addr().to_string())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let writing = stream.try_clone()?;
    let (result, peak) = watching(&runtime, || {
        thread::scope(|scope| {
            scope.spawn(move || write_requests(writing));
            let taken = || replies.lock().expect("nobody panics").len();
            if answers == Answers::Later {
                until(PATIENCE, || taken() == REQUESTS + 1);
                let late = replies.lock().expect("nobody panics").split_off(1);
                findings.tell(
                    &format!("requests in progress ({name})"),
                    late.len() as f64 + 1.0,
                    Unit::Number,
                );
                late.into_iter().for_each(|reply| reply.send(response.clone()));
            }
            thread::sleep(time);
            let first = replies.lock().expect("nobody panics").pop();
            let result = match answers {
                Answers::AtOnce => read_responses(first, &mut stream),
                Answers::Later => Ok(0),
            };
            // So that who writes does not wait for ever.
            let _ = stream.shutdown(Shutdown::Both);
            result
        })
    });
    let most = (HELD_HARD_BYTES + RESPONSE) as u64;
    findings.bytes(&format!("held at most, {REQUESTS} responses of 1 MiB ({name})"), peak.held, most);
    if let Some(before) = before {
        let grown = peak.resident.saturating_sub(before);
        findings.bytes(&format!("resident above the start ({name})"), grown, most + BESIDE);
    }
    match answers {
        Answers::AtOnce => {
            findings.exactly(&format!("right responses of {LOOKED_AT} behind it"), result?, LOOKED_AT as u64);
        }
        Answers::Later => {
            let faults = server.metrics().requests;
            findings.tell(&format!("requests taken ({name})"), faults as f64, Unit::Number);
        }
    }
    drop(stream);
    is_empty(&runtime, name, findings);
    Ok(())
}

/// As many as are taken.
fn write_requests(mut stream: TcpStream) {
    let mut requests = b"\0\0\0\x05first".to_vec();
    requests.extend(b"\0\0\0\x04next".repeat(REQUESTS));
    // Ends when the connection does.
    let _ = stream.write_all(&requests);
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

fn is_empty(runtime: &Runtime, name: &str, findings: &mut Findings) {
    let held = || runtime.memory_budget().held as u64;
    until(PATIENCE, || held() == 0);
    findings.exactly(&format!("held in the end ({name})"), held(), 0);
}
