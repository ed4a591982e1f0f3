//! A relay between a client and an upstream, beside tokio's `copy_bidirectional` with buffers of 64 KiB: so many bytes up, and so
//! many down. All of them take turns in one run, each on one thread; client and upstream are plain sockets on threads of
//! their own.
//!
//! `cargo bench --bench relay`, with `-- --megabytes N --rounds N` for others than 200 and 7.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use tokio::io::copy_bidirectional_with_sizes;
use trochus::net::{Address, Relay, Server};
use trochus::{Backend, Runtime};

const BUFFER: usize = 64 << 10;

/// What peers write at a time, and read.
const CHUNK: usize = 256 << 10;

const PATIENCE: Duration = Duration::from_secs(60);

struct Options {
    bytes: usize,
    rounds: usize,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Some(Options { bytes, rounds }) = options()? else { return Ok(()) };
    let upstreams = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let upstream = upstreams.local_addr()?;
    let mut proxies: Vec<(String, SocketAddr)> = Vec::new();
    let mut ours: Vec<(Runtime, Server)> = Vec::new();
    for backend in Backend::available() {
        let runtime = Runtime::builder().backend(backend).reactors(1).build()?;
        let server = runtime.listen("127.0.0.1:0", move |_| Relay::to(vec![Address::Tcp(upstream)]))?;
        proxies.push((backend.to_string(), tcp(server.local_addr())));
        ours.push((runtime, server));
    }
    proxies.push(("tokio".to_owned(), tokio_proxy(upstream)?));
    let mut rates = vec![[Vec::new(), Vec::new()]; proxies.len()];
    for round in 0..=rounds {
        for (at, (name, proxy)) in proxies.iter().enumerate() {
            for (direction, rates) in rates[at].iter_mut().enumerate() {
                let took = transfer(*proxy, &upstreams, direction == 0, bytes)?;
                // The first one warms up.
                if round > 0 {
                    rates.push(bytes as f64 / took.as_secs_f64() / 1e6);
                }
            }
            eprint!("\rround {round} of {rounds}: {name}    ");
        }
    }
    eprintln!("\r{:40}", "");
    println!("{} MB through a relay, MB/s, median of {rounds} rounds (worst to best)", bytes / 1_000_000);
    println!("{:10} {:>24} {:>8}   {:>24} {:>8}", "", "up", "÷ tokio", "down", "÷ tokio");
    rates.iter_mut().flatten().for_each(|rates| rates.sort_by(f64::total_cmp));
    let median = |at: usize, direction: usize| rates[at][direction][rounds / 2];
    let tokio = proxies.len() - 1;
    for (at, (name, _)) in proxies.iter().enumerate() {
        print!("{name:10}");
        for direction in 0..2 {
            let (rates, middle) = (&rates[at][direction], median(at, direction));
            let all = format!("{middle:.0} ({:.0}-{:.0})", rates[0], rates[rounds - 1]);
            print!(" {all:>24} {:>8.2}  ", middle / median(tokio, direction));
        }
        println!();
    }
    Ok(())
}

/// `None` where it is only to be seen that it can be begun.
fn options() -> Result<Option<Options>, lexopt::Error> {
    use lexopt::prelude::*;
    let mut options = Options { bytes: 200_000_000, rounds: 7 };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("megabytes") => options.bytes = parser.value()?.parse::<usize>()? * 1_000_000,
            Long("rounds") => options.rounds = parser.value()?.parse::<usize>()?.max(1),
            Long("test") => options = Options { bytes: 1_000_000, rounds: 1 },
            // What `cargo bench` says to every benchmark, and names of others.
            Long("bench") => {}
            Value(_) => return Ok(None),
            _ => return Err(argument.unexpected()),
        }
    }
    Ok(Some(options))
}

fn tcp(address: &Address) -> SocketAddr {
    match address {
        Address::Tcp(address) => *address,
        other => panic!("{other} is no address of TCP"),
    }
}

/// Serves until the process ends.
fn tokio_proxy(upstream: SocketAddr) -> io::Result<SocketAddr> {
    let (tell, told) = mpsc::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::spawn(move || {
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
            tell.send(listener.local_addr()?).expect("the address is waited for");
            loop {
                let (mut client, _) = listener.accept().await?;
                let mut upstream = tokio::net::TcpStream::connect(upstream).await?;
                client.set_nodelay(true)?;
                upstream.set_nodelay(true)?;
                tokio::spawn(async move {
                    copy_bidirectional_with_sizes(&mut client, &mut upstream, BUFFER, BUFFER).await
                });
            }
            #[expect(unreachable_code, reason = "for the type of its result")]
            io::Result::Ok(())
        })
    });
    told.recv_timeout(PATIENCE).map_err(io::Error::other)
}

/// From the first byte until the other end has all of them, and knows that it was all.
fn transfer(proxy: SocketAddr, upstreams: &TcpListener, up: bool, bytes: usize) -> io::Result<Duration> {
    let client = TcpStream::connect(proxy)?;
    let upstream = upstreams.accept()?.0;
    let (mut from, mut to) = if up { (client, upstream) } else { (upstream, client) };
    from.set_write_timeout(Some(PATIENCE))?;
    to.set_read_timeout(Some(PATIENCE))?;
    let start = Instant::now();
    let sending = thread::spawn(move || {
        let chunk = vec![7; CHUNK];
        let mut left = bytes;
        while left > 0 {
            let some = left.min(CHUNK);
            from.write_all(&chunk[..some])?;
            left -= some;
        }
        from.shutdown(Shutdown::Write).map(|()| from)
    });
    let (mut received, mut buffer) = (0, vec![0; CHUNK]);
    loop {
        match to.read(&mut buffer)? {
            0 => break,
            n => received += n,
        }
    }
    let took = start.elapsed();
    assert_eq!(received, bytes, "some of it is missing");
    drop(sending.join().expect("the sender does not panic")?);
    Ok(took)
}
