//! Plain sockets: those that behave, those that do not, and those that do nothing.

use crate::Result;
use crate::ground::{Job, SOON};
use crate::wire::read_response;
use fastrand::Rng;
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// A connection to a server that is there, or will be soon.
fn dial(job: &Job<'_>, address: SocketAddr) -> Result<Option<TcpStream>> {
    job.watched.doing("connecting");
    loop {
        match TcpStream::connect_timeout(&address, SOON) {
            Ok(stream) => {
                stream.set_read_timeout(Some(SOON))?;
                stream.set_write_timeout(Some(SOON))?;
                stream.set_nodelay(true)?;
                job.ground.ledger.began(job.kind);
                return Ok(Some(stream));
            }
            Err(error) => {
                // It is being restarted.
                let restarts = address == job.ground.calls
                    && matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset);
                if !restarts {
                    return Err(format!("cannot connect: {error}").into());
                }
                if !job.ground.goes_on() {
                    return Ok(None);
                }
                job.ground.rest(Duration::from_millis(5));
            }
        }
    }
}

fn reset(stream: &TcpStream) {
    // It may be broken already.
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Waits until the server ends the connection, whichever way; what it says before is nobody's.
fn see_the_end(job: &Job<'_>, mut stream: TcpStream) -> Result<()> {
    job.watched.doing("waiting for the server to end it");
    let mut bytes = vec![0; 16 << 10];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err("the server does not end a connection that is not in order".into());
            }
            Err(_) => return Ok(()),
        }
    }
}

/// New connections, all the time: none is refused or lost while sockets are handed over.
pub(crate) fn dialing(job: &Job<'_>, random: &mut Rng) -> Result<()> {
    while job.ground.goes_on() {
        let Some(mut stream) = dial(job, job.ground.echoes)? else { return Ok(()) };
        job.watched.doing("echoing");
        let sent: Vec<u8> = (0..random.usize(1..20_000)).map(|_| random.u8(..)).collect();
        stream.write_all(&sent).and_then(|()| stream.shutdown(Shutdown::Write))?;
        let mut received = Vec::new();
        stream.read_to_end(&mut received)?;
        if received != sent {
            return Err(format!("{} bytes came back of {}", received.len(), sent.len()).into());
        }
        job.ground.rest(Duration::from_millis(random.u64(0..10)));
    }
    Ok(())
}

/// Takes its time to read; what it gets is right, as far as it comes.
pub(crate) fn slow(job: &Job<'_>, random: &mut Rng) -> Result<()> {
    let ledger = &job.ground.ledger;
    while job.ground.goes_on() {
        let Some(mut stream) = dial(job, job.ground.calls)? else { return Ok(()) };
        job.watched.doing("reading slowly");
        let asked: HashMap<u64, _> = (0..random.usize(1..200))
            .map(|_| ledger.ask(job.kind, random.u32(0..60_000)))
            .map(|asked| (asked.number, asked))
            .collect();
        let requests: Vec<u8> = asked.values().flat_map(|asked| asked.frame()).collect();
        // A server that stops meanwhile resets it, or ends it.
        let mut left = asked.len();
        let mut sent = stream.write_all(&requests).is_ok();
        while sent && left > 0 && job.ground.goes_on() {
            match read_response(&mut stream) {
                Ok(Some((id, response))) => {
                    let asked = asked.get(&id).ok_or("a response to no request")?;
                    ledger.settle(job.kind, *asked, Ok(&response));
                    left -= 1;
                    job.ground.rest(Duration::from_millis(random.u64(0..5)));
                }
                Ok(None) => sent = false,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Err("there are no responses, and no end".into());
                }
                Err(_) => sent = false,
            }
        }
        ledger.maybe(job.kind, left as u64);
    }
    Ok(())
}

/// Writes as much as it can and never reads: at some point there is no room, or it is cut off.
pub(crate) fn greedy(job: &Job<'_>, random: &mut Rng) -> Result<()> {
    const MOST: usize = 1000;
    while job.ground.goes_on() {
        let Some(mut stream) = dial(job, job.ground.calls)? else { return Ok(()) };
        job.watched.doing("writing");
        stream.set_write_timeout(Some(Duration::from_millis(100)))?;
        for _ in 0..random.usize(1..MOST) {
            let asked = job.ground.ledger.ask(job.kind, 60_000);
            job.ground.ledger.maybe(job.kind, 1);
            if stream.write_all(&asked.frame()).is_err() || !job.ground.goes_on() {
                break;
            }
        }
        job.ground.rest(Duration::from_millis(random.u64(0..500)));
        if random.bool() {
            reset(&stream);
        }
    }
    Ok(())
}

/// Sends what is no request, or never becomes one.
pub(crate) fn malformed(job: &Job<'_>, random: &mut Rng) -> Result<()> {
    while job.ground.goes_on() {
        let Some(mut stream) = dial(job, job.ground.calls)? else { return Ok(()) };
        let bytes = match random.u32(0..4) {
            0 => (0..random.usize(1..5000)).map(|_| random.u8(..)).collect(),
            // An id, and lengths that nobody has.
            1 => [[7; 8].as_slice(), &[255; 4]].concat(),
            2 => [[7; 8].as_slice(), &(random.u32(65 << 10..)).to_be_bytes(), &[1; 100]].concat(),
            // A frame, but no request of ours, and the beginning of another one.
            _ => [[7; 8].as_slice(), &[0, 0, 0, 3], b"abc", &[7; 8], &[0, 0]].concat(),
        };
        job.watched.doing("sending nonsense");
        // The server may have had enough before that is all.
        let _ = stream.write_all(&bytes);
        if random.bool() {
            let _ = stream.shutdown(Shutdown::Write);
        }
        see_the_end(job, stream)?;
        job.ground.rest(Duration::from_millis(random.u64(0..50)));
    }
    Ok(())
}

/// Begins a request and says nothing more, without going away.
pub(crate) fn half_open(job: &Job<'_>, random: &mut Rng) -> Result<()> {
    while job.ground.goes_on() {
        let Some(mut stream) = dial(job, job.ground.calls)? else { return Ok(()) };
        // Nobody executes a part of it, so it is not asked for.
        let len = random.usize(1..30);
        let _ = stream.write_all(&[[7; 8].as_slice(), &[0, 0, 0, 20], &[1; 19]].concat()[..len]);
        see_the_end(job, stream)?;
    }
    Ok(())
}

/// Asks, and is gone in the middle of something.
pub(crate) fn vanishing(job: &Job<'_>, random: &mut Rng) -> Result<()> {
    while job.ground.goes_on() {
        let Some(mut stream) = dial(job, job.ground.calls)? else { return Ok(()) };
        job.watched.doing("vanishing");
        let asked: Vec<_> = (0..random.usize(1..50))
            .map(|_| job.ground.ledger.ask(job.kind, random.u32(0..20_000)))
            .collect();
        job.ground.ledger.maybe(job.kind, asked.len() as u64);
        let bytes: Vec<u8> = asked.iter().flat_map(|asked| asked.frame()).collect();
        let _ = stream.write_all(&bytes[..random.usize(1..=bytes.len())]);
        job.ground.rest(Duration::from_millis(random.u64(0..10)));
        reset(&stream);
    }
    Ok(())
}

/// Many connections that do nothing. They outlive every hand-over, and each of them is still served in the end.
pub(crate) fn idle(job: &Job<'_>, random: &mut Rng) -> Result<()> {
    let mut streams = Vec::new();
    while streams.len() < job.ground.idle && job.ground.goes_on() {
        streams.extend(dial(job, job.ground.echoes)?);
    }
    job.watched.doing("idling");
    while job.ground.goes_on() {
        job.ground.rest(Duration::from_millis(20));
    }
    job.watched.doing("asking whether anybody is there");
    for mut stream in streams {
        let word = random.u64(..).to_be_bytes();
        let mut back = [0; 8];
        stream.write_all(&word)?;
        stream.read_exact(&mut back)?;
        if back != word {
            return Err("an idle connection got what it did not send".into());
        }
    }
    Ok(())
}
