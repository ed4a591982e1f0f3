//! Players, each on a thread of its own, and somebody who sends the game datagrams. They check what comes back.

use crate::Failure;
use crate::options::{Load, Options};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use trochus::net::Address;

/// What one player sent and got back, in bytes.
pub(crate) type Served = Result<u64, String>;

pub(crate) struct Players {
    over: Arc<AtomicBool>,
    players: Vec<JoinHandle<Served>>,
    datagrams: JoinHandle<()>,
}

/// Bytes of one write of a bulk player.
const PIECE: usize = 64 << 10;

/// What bulk players send, again and again; its length divides no buffer's.
const PERIOD: usize = 65_521;

pub(crate) fn start(options: &Options, game: &Address, datagrams: SocketAddr) -> Result<Players, Failure> {
    let over = Arc::new(AtomicBool::new(false));
    let Address::Tcp(game) = *game else { return Err("players come over TCP".into()) };
    let play = match options.load {
        Load::Bulk => bulk,
        Load::Ping => ping,
    };
    let players = (0..options.clients).map(|number| {
        let over = over.clone();
        thread::spawn(move || play(game, number, &over).map_err(|error| error.to_string()))
    });
    let players = players.collect();
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let end = over.clone();
    let datagrams = thread::spawn(move || {
        while !end.load(Ordering::Relaxed) {
            // What is lost is only not counted.
            let _ = socket.send_to(b"still there", datagrams);
            thread::sleep(Duration::from_millis(20));
        }
    });
    Ok(Players { over, players, datagrams })
}

impl Players {
    pub(crate) fn stop(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub(crate) fn are_done(&self) -> bool {
        self.players.iter().all(JoinHandle::is_finished)
    }

    pub(crate) fn join(self) -> Vec<Served> {
        let _ = self.datagrams.join();
        let joined = self.players.into_iter().map(JoinHandle::join);
        joined.map(|served| served.unwrap_or_else(|_| Err("the player panicked".to_owned()))).collect()
    }
}

fn connect(game: SocketAddr) -> Result<TcpStream, Failure> {
    let stream = TcpStream::connect(game)?;
    stream.set_nodelay(true)?;
    // Longer than the game has patience: it would have been cut off.
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    Ok(stream)
}

/// One message at a time, and at least one.
fn ping(game: SocketAddr, number: usize, over: &AtomicBool) -> Result<u64, Failure> {
    let mut stream = connect(game)?;
    let mut served = 0;
    while served == 0 || !over.load(Ordering::Relaxed) {
        let message = [number as u64, served].map(u64::to_le_bytes).concat();
        stream.write_all(&message)?;
        let mut answer = vec![0; message.len()];
        stream.read_exact(&mut answer)?;
        if answer != message {
            return Err("something else came back".into());
        }
        served += message.len() as u64;
        thread::sleep(Duration::from_millis(5));
    }
    Ok(served)
}

/// As much as there is room for, read back by another thread.
fn bulk(game: SocketAddr, number: usize, over: &AtomicBool) -> Result<u64, Failure> {
    let mut stream = connect(game)?;
    let content: Vec<u8> = (0..PERIOD + PIECE).map(|at| (at % PERIOD * 31 + number) as u8).collect();
    thread::scope(|scope| {
        let (mut reading, content) = (stream.try_clone()?, &content);
        let reader = scope.spawn(move || -> Result<u64, Failure> {
            let (mut served, mut buffer) = (0, vec![0; PIECE]);
            loop {
                let len = reading.read(&mut buffer)?;
                let start = served % PERIOD;
                if buffer[..len] != content[start..start + len] {
                    return Err("something else came back".into());
                }
                served += len;
                if len == 0 {
                    return Ok(served as u64);
                }
            }
        });
        let mut sent = 0;
        while sent == 0 || !over.load(Ordering::Relaxed) {
            let start = sent % PERIOD;
            stream.write_all(&content[start..start + PIECE])?;
            sent += PIECE;
        }
        stream.shutdown(Shutdown::Write)?;
        let served = reader.join().map_err(|_| "the reader panicked")??;
        if served == sent as u64 { Ok(served) } else { Err(format!("{served} of {sent} bytes").into()) }
    })
}
