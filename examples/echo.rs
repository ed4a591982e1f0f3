//! A server that sends back what it gets, and its client.
//!
//! `cargo run --example echo` serves on `[::]:7000`, and `cargo run --example echo -- ADDR` elsewhere; `nc`, `socat` and
//! `cargo run --example echo -- --client ADDR` can talk to it. `ADDR` is `host:port` or `unix:/path`.

use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::sync::mpsc::{self, Sender};
use trochus::net::{CloseReason, Handler, Io};
use trochus::{Reactor, Runtime};

struct Echo;

impl Handler for Echo {
    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        io.write(bytes);
        bytes.len()
    }
}

fn serve(address: &str) -> trochus::Result<()> {
    let runtime = Runtime::new()?;
    let server = runtime.listen(address, |_peer| Echo)?;
    println!("listening on {} via {}", server.local_addr(), runtime.backend());
    runtime.run_until_interrupted()
}

/// Prints what comes back, and tells when and why that ended.
struct Print {
    ended: Sender<Result<(), String>>,
    failure: Option<io::Error>,
}

impl Handler for Print {
    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        let mut output = io::stdout().lock();
        if let Err(error) = output.write_all(bytes).and_then(|()| output.flush()) {
            self.failure = Some(error);
            io.abort();
        }
        bytes.len()
    }

    fn on_close(&mut self, reason: &CloseReason, _reactor: &mut Reactor) {
        let result = match &self.failure {
            Some(error) => Err(format!("cannot print what came back: {error}")),
            None if reason.is_clean() => Ok(()),
            None => Err(reason.to_string()),
        };
        // `main` waits for it, unless it has failed for a reason of its own.
        let _ = self.ended.send(result);
    }
}

fn talk(address: &str) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = Runtime::builder().reactors(1).build()?;
    let (ended, end) = mpsc::channel();
    let connection = runtime.connect(address, move || Print { ended, failure: None })?;
    let mut input = vec![0; 64 << 10];
    loop {
        let bytes = io::stdin().read(&mut input)?;
        // A connection that has ended by itself says why below.
        if bytes == 0 || connection.write(&input[..bytes]).is_err() {
            break;
        }
    }
    let _ = connection.shutdown_write();
    Ok(end.recv()??)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => serve("[::]:7000").map_err(Into::into),
        ["--client", address] => talk(address),
        [address] if !address.starts_with('-') => serve(address).map_err(Into::into),
        _ => Err("usage: echo [ADDR] | echo --client ADDR".into()),
    };
    if let Err(error) = result {
        eprintln!("echo: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
