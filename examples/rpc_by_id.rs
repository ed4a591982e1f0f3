//! By id between processes: responses leave when they are ready, and a server that is stopped answers what it took.
//!
//! `cargo run --example rpc_by_id -- --listen ADDR` serves until it is interrupted, then stops in good order and says what it did;
//! `-- --connect ADDR` asks. The wire is an 8-byte id, big-endian, and a line, both ways.

use std::process::ExitCode;
use std::thread;
use std::time::Duration;
use trochus::Runtime;
use trochus::codec::{ById, Correlated, Lines, Protocol};
use trochus::net::wait_for_interrupt;
use trochus::rpc::{Client, Reply, Server};

/// A type of one's own keeps signatures short.
type Wire = Correlated<Lines, ById>;

fn protocol() -> Wire {
    Lines::new().by_id()
}

/// Answers after so many milliseconds; nobody else waits for that.
fn nap(line: &str, reply: Reply<String>) {
    let Ok(millis) = line.parse() else { return reply.send(format!("{line:?} is no number")) };
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(millis));
        // Not worth the work if the client has gone, or the time for it is over.
        if reply.is_wanted() {
            reply.send(format!("slept {millis} ms"));
        }
    });
}

fn serve(runtime: &Runtime, address: &str) -> Result<(), Box<dyn std::error::Error>> {
    let options = Server::builder().requests_in_progress(100).request_timeout(Duration::from_secs(10));
    let server = options.bind(runtime, address, protocol(), nap)?;
    println!("listening on {} via {}", server.local_addr(), runtime.backend());
    wait_for_interrupt()?;
    // No more is taken, and what was taken is answered.
    let drained = server.stop(Duration::from_secs(5))?;
    let metrics = server.metrics();
    println!("{} requests, {} responses, {} cut off", metrics.requests, metrics.responses, drained.cut_off);
    Ok(())
}

fn ask(runtime: &Runtime, address: &str) -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::connect(runtime, address, protocol())?;
    let slow = client.call("300".to_owned());
    let quick = client.call("1".to_owned());
    println!("{}, and meanwhile the other one is on its way", quick.wait()?);
    println!("{}", slow.wait()?);
    Ok(client.close()?)
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = Runtime::new()?;
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--listen", address] => serve(&runtime, address),
        ["--connect", address] => ask(&runtime, address),
        _ => Err("usage: rpc_by_id --listen ADDR | --connect ADDR".into()),
    }
}

fn main() -> ExitCode {
    if let Err(error) = run() {
        eprintln!("rpc_by_id: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
