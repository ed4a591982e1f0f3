//! Clients in a process of their own, which is this program once more, as their server's sees them.

use crate::Result;
use crate::load::Kind;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;
use trochus::net::Address;

/// What became of a slice of time.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Outcome {
    /// Requests that were answered.
    pub(crate) answered: u64,
    pub(crate) per_second: f64,
    pub(crate) p99_us: f64,
}

#[derive(Debug)]
pub(crate) struct Clients {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Clients {
    /// Starts so many, and waits until they are connected.
    pub(crate) fn start(kind: Kind, target: &Address, count: usize) -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["--load", kind.name(), &target.to_string(), &count.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(input), Some(output)) = (process.stdin.take(), process.stdout.take()) else {
            unreachable!("both were asked for")
        };
        let mut clients = Clients { process, input, output: BufReader::new(output) };
        match clients.line()?.as_str() {
            "ready\n" => Ok(clients),
            _ => Err(format!("the {} clients could not connect", kind.name()).into()),
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line)
    }

    /// Has them begin what they do until they are dropped.
    pub(crate) fn begin(&mut self) -> Result<()> {
        writeln!(self.input, "0")?;
        Ok(())
    }

    /// Has them make requests for so long.
    pub(crate) fn go(&mut self, time: Duration) -> Result<Outcome> {
        writeln!(self.input, "{}", time.as_secs_f64())?;
        let line = self.line()?;
        serde_json::from_str(&line)
            .map_err(|_| "clients have ended: what they waited for did not come".into())
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
