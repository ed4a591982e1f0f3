//! Processes that do not outlive their test.
#![allow(dead_code, reason = "each program of tests uses some of it")]

use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

/// How long anything may take that ought to be over at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Ends a process that takes longer than it may, so that the test fails and does not hang.
pub(crate) struct Watchdog {
    _alive: Sender<()>,
}

impl Watchdog {
    pub(crate) fn over(process: &Child) -> Self {
        Watchdog::within(PATIENCE, process)
    }

    fn within(patience: Duration, process: &Child) -> Self {
        let (alive, gone) = mpsc::channel::<()>();
        let id = process.id().to_string();
        thread::spawn(move || {
            if gone.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
                eprintln!("process {id} is ended after {patience:?}");
                Command::new("kill").args(["-KILL", &id]).status().unwrap();
            }
        });
        Watchdog { _alive: alive }
    }
}

/// A server that is ended when the test is over, however that goes.
pub(crate) struct Server {
    process: Child,
    output: BufReader<ChildStdout>,
    pub(crate) address: String,
    _watchdog: Watchdog,
}

impl Server {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let watchdog = Watchdog::over(&process);
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let address = line.strip_prefix("listening on ").and_then(|rest| rest.split_once(" via "));
        let address = address.unwrap_or_else(|| panic!("`{line}` names no address")).0.to_owned();
        Server { process, output, address, _watchdog: watchdog }
    }

    /// Sends it a signal, by its name.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
    }

    /// Asks it to stop. Gives whether it succeeded, and what it printed on both its outputs since it listens.
    pub(crate) fn stop(self) -> (bool, String) {
        self.signal("TERM");
        self.rest()
    }

    /// The same for one that was asked.
    pub(crate) fn rest(mut self) -> (bool, String) {
        let mut text = String::new();
        self.output.read_to_string(&mut text).unwrap();
        self.process.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        (self.process.wait().unwrap().success(), text)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn output(command: &mut Command) -> Output {
    output_within(PATIENCE, command)
}

pub(crate) fn output_within(patience: Duration, command: &mut Command) -> Output {
    let process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _watchdog = Watchdog::within(patience, &process);
    process.wait_with_output().unwrap()
}

pub(crate) fn backends() -> Vec<String> {
    trochus::Backend::available().iter().map(ToString::to_string).collect()
}

/// What a run printed, a JSON value in each line.
pub(crate) fn rows(output: &Output) -> Vec<Value> {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}
