//! Connections for one request each, against the same over a bare loop.

use crate::clients::Clients;
use crate::load::Kind;
use crate::measure::{descriptors, rate, until};
use crate::report::{Findings, Unit};
use crate::serve::{FRAME, listen, runtime};
use crate::{PATIENCE, Result};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;
use trochus::Backend;
use trochus::net::{Address, ListenOptions};

/// So many clients at a time.
const CLIENTS: usize = 4;
const ROUNDS: u32 = 5;

pub(crate) fn measure(backend: Backend, time: Duration, findings: &mut Findings) -> Result<()> {
    let runtime = runtime(backend)?;
    let server = listen(&runtime, &ListenOptions::new())?;
    let bare = TcpListener::bind("127.0.0.1:0")?;
    let its_address = Address::from(bare.local_addr()?);
    // Ends with the process.
    thread::spawn(move || serve(&bare));
    let mut clients = [
        Clients::start(Kind::Hurried, server.local_addr(), CLIENTS)?,
        Clients::start(Kind::Hurried, &its_address, CLIENTS)?,
    ];
    let mut outcomes = [Vec::new(), Vec::new()];
    let mut answered = 0;
    let before = descriptors();
    for round in 0..=ROUNDS as usize {
        for which in [round % 2, (round + 1) % 2] {
            let outcome = clients[which].go(time / (2 * ROUNDS))?;
            if which == 0 {
                answered += outcome.answered;
            }
            // The first round is to warm up.
            if round > 0 {
                outcomes[which].push(outcome);
            }
        }
    }
    until(PATIENCE / 2, || runtime.metrics().connections() == 0 && descriptors() == before);
    let metrics = runtime.metrics();
    findings.exactly("connections answered, of those opened", answered, metrics.connections_opened);
    findings.exactly("connections closed, of those", metrics.connections_closed, metrics.connections_opened);
    findings.exactly("descriptors as before", descriptors(), before);
    let [ours, bare] = outcomes.map(|outcomes| rate(&outcomes));
    findings.tell("connections of the bare loop", bare, Unit::PerSecond);
    findings.tell("connections here, to that", ours / bare, Unit::Ratio);
    Ok(())
}

/// One connection after the other.
fn serve(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        // What goes wrong with one is nothing to the next.
        let _ = answer(stream);
    }
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut frame = [0; FRAME];
    stream.set_nodelay(true)?;
    stream.read_exact(&mut frame)?;
    stream.write_all(&frame)?;
    // Its end, so that it is the client's port that rests.
    stream.read(&mut frame).map(drop)
}
