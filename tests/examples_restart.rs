//! The example that hands over to its successor, run as a user would, under load.
//!
//! `TROCHUS_HAND_OVERS=100 cargo test --test examples_restart` for more of them in a row.

use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process};
use std::collections::HashMap;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use trochus::Runtime;
use trochus::codec::{ById, Correlated, Lines, Protocol};
use trochus::net::{Address, ToAddresses};
use trochus::rpc::{Client, ClientOptions, Reconnect};

#[path = "support/example.rs"]
mod example;
#[path = "support/process.rs"]
mod process;

use example::example;
use process::{PATIENCE, Watchdog, backends};

/// A script must not be open for writing when it is executed, not even in a child that is about to begin.
static FORKING: Mutex<()> = Mutex::new(());

fn hand_overs() -> usize {
    env::var("TROCHUS_HAND_OVERS").map_or(10, |number| number.parse().unwrap())
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// What all the processes have printed.
#[derive(Default)]
struct Printed {
    lines: Mutex<(Vec<String>, bool)>,
    changed: Condvar,
}

impl Printed {
    fn wait_for(&self, what: &str, is_it: impl Fn(&str) -> bool) -> String {
        let mut lines = self.lines.lock().unwrap();
        loop {
            if let Some(line) = lines.0.iter().find(|line| is_it(line)) {
                return line.clone();
            }
            assert!(!lines.1, "they have ended without {what}: {:#?}", lines.0);
            let (now, timeout) = self.changed.wait_timeout(lines, PATIENCE).unwrap();
            assert!(!timeout.timed_out(), "no {what}: {:#?}", now.0);
            lines = now;
        }
    }

    fn wait_for_end(&self) {
        let mut lines = self.lines.lock().unwrap();
        while !lines.1 {
            let (now, timeout) = self.changed.wait_timeout(lines, PATIENCE).unwrap();
            assert!(!timeout.timed_out(), "they do not end: {:#?}", now.0);
            lines = now;
        }
    }
}

/// A process, and those that take over from it, all of them in a group that ends with the test.
struct Chain {
    first: Child,
    guard: Child,
    current: Pid,
    printed: Arc<Printed>,
    reading: Option<JoinHandle<()>>,
    addresses: Vec<String>,
}

impl Chain {
    fn start(mut command: Command) -> Self {
        let (reader, writer) = std::io::pipe().unwrap();
        command.stdout(writer.try_clone().unwrap());
        let script = command.get_program() == "sh";
        if !script {
            // The shell's is a socket, to be passed on.
            command.stderr(writer);
        }
        command.process_group(0);
        let first = {
            let _forking = FORKING.lock().unwrap();
            command.spawn().unwrap()
        };
        // However this process ends: then there is nothing more to be read.
        let group = format!("read nothing; kill -s KILL -- -{}", first.id());
        let guard = Command::new("sh").args(["-c", &group]).stdin(Stdio::piped()).process_group(0).spawn();
        // With the writing end, the end would never be read.
        drop(command);
        let printed = Arc::new(Printed::default());
        let theirs = printed.clone();
        let reading = thread::spawn(move || {
            let add = |line: String| theirs.lines.lock().unwrap().0.push(line);
            for line in BufReader::new(reader).lines() {
                add(line.unwrap());
                theirs.changed.notify_all();
            }
            theirs.lines.lock().unwrap().1 = true;
            theirs.changed.notify_all();
        });
        let current = Pid::from_child(&first);
        let guard = guard.unwrap();
        let mut chain =
            Chain { first, guard, current, printed, reading: Some(reading), addresses: Vec::new() };
        let line = chain.printed.wait_for("address", |line| line.starts_with("listening on "));
        let addresses = line.strip_prefix("listening on ").unwrap().split_once(" via ").unwrap().0;
        chain.addresses = addresses.split(' ').map(str::to_owned).collect();
        chain
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.current, signal).unwrap();
    }

    /// Has the current process hand over, and waits until it has left.
    fn hand_over(&mut self) -> Pid {
        let old = self.current;
        self.signal(Signal::HUP);
        let taken = format!(" has taken over from {old}");
        let line = self.printed.wait_for(&taken, |line| line.ends_with(&taken));
        let new = line.strip_prefix("process ").unwrap().strip_suffix(&taken).unwrap();
        self.current = Pid::from_raw(new.parse().unwrap()).unwrap();
        let done = format!("process {old} is done: ");
        self.printed.wait_for(&done, |line| line.starts_with(&done));
        self.current
    }

    /// Waits until all have ended, and tells what they printed.
    fn rest(mut self) -> Vec<String> {
        // The end is there when the last of them has.
        self.printed.wait_for_end();
        self.reading.take().unwrap().join().unwrap();
        self.printed.lines.lock().unwrap().0.clone()
    }

    fn stop(self) -> Vec<String> {
        self.signal(Signal::TERM);
        self.rest()
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        // They may all have gone.
        let _ = kill_process_group(Pid::from_child(&self.first), Signal::KILL);
        let _ = self.first.wait();
        let _ = self.guard.kill();
        let _ = self.guard.wait();
    }
}

type Wire = Correlated<Lines, ById>;

/// Calls, several at a time, over each address, and lines over a new connection each.
struct Load {
    stops: Arc<AtomicBool>,
    /// Answers, by the process that gave them.
    answers: Arc<Mutex<HashMap<String, u64>>>,
    calls: Arc<AtomicU64>,
    lines: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
    clients: Vec<Client<Wire>>,
    /// Is dropped behind the clients.
    _runtime: Runtime,
}

impl Load {
    fn start(backend: &str, rpc: &[String], lines: &[String]) -> Self {
        let runtime = Runtime::builder().backend(backend.parse().unwrap()).reactors(1).build().unwrap();
        let mut load = Load {
            stops: Arc::default(),
            answers: Arc::default(),
            calls: Arc::default(),
            lines: Arc::default(),
            threads: Vec::new(),
            clients: Vec::new(),
            _runtime: runtime,
        };
        for address in rpc.iter().flat_map(|address| [address, address]) {
            let options = ClientOptions::new().reconnect(Reconnect::forever()).call_timeout(PATIENCE);
            let client = Client::builder(Lines::new().by_id()).options(options);
            let client = client.connect(&load._runtime, address.as_str()).unwrap();
            for caller in 0..4 {
                let client = client.clone();
                let name = format!("{caller} at {address}");
                let calls = load.calls.clone();
                load.spawn(move |number| {
                    let slowly = if number % 5 == 0 { "slowly " } else { "" };
                    let request = format!("{slowly}{number} by {name}");
                    calls.fetch_add(1, SeqCst);
                    let answer = client.call(request.clone()).wait();
                    answer.map(|answer| (request, answer)).map_err(|error| error.to_string())
                });
            }
            load.clients.push(client);
        }
        for (caller, address) in lines.iter().flat_map(|address| [address, address]).enumerate() {
            let address = address.to_addresses().unwrap().remove(0);
            let counted = load.lines.clone();
            load.spawn(move |number| {
                let request = format!("{number} by {caller} anew");
                let answer = ask_anew(&address, &request).map_err(|error| format!("{address}: {error}"))?;
                counted.fetch_add(1, SeqCst);
                // Leaves a core, and ports, to the others.
                thread::sleep(Duration::from_millis(1));
                Ok((request, answer))
            });
        }
        load
    }

    /// Asks until it stops. Any request that fails fails the test.
    fn spawn(&mut self, mut ask: impl FnMut(u64) -> Result<(String, String), String> + Send + 'static) {
        let (stops, answers) = (self.stops.clone(), self.answers.clone());
        self.threads.push(thread::spawn(move || {
            for number in 0.. {
                if stops.load(SeqCst) {
                    return;
                }
                let (request, answer) =
                    ask(number).unwrap_or_else(|error| panic!("request {number} failed: {error}"));
                let (process, rest) = answer.split_once(' ').unwrap();
                assert_eq!(rest, request);
                *answers.lock().unwrap().entry(process.to_owned()).or_default() += 1;
            }
        }));
    }

    /// Until that process has given some answers; sooner if a request failed.
    fn wait_for(&self, process: Pid) {
        let process = process.to_string();
        eventually("the process answers", || {
            let failed = self.threads.iter().any(JoinHandle::is_finished);
            assert!(!failed, "a request failed");
            self.answers.lock().unwrap().get(&process).is_some_and(|answers| *answers > 100)
        });
    }

    /// How many calls and lines were answered.
    fn stop(mut self) -> (u64, u64) {
        self.stops.store(true, SeqCst);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
        self.clients.drain(..).for_each(|client| client.close().unwrap());
        (self.calls.load(SeqCst), self.lines.load(SeqCst))
    }
}

fn ask_anew(address: &Address, request: &str) -> std::io::Result<String> {
    match address {
        Address::Tcp(address) => {
            let stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            converse(stream, request)
        }
        Address::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            converse(stream, request)
        }
        other => panic!("{other}"),
    }
}

fn converse(mut stream: impl Read + Write, request: &str) -> std::io::Result<String> {
    stream.write_all(format!("{request}\n").as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let whole = line.strip_suffix('\n').map(str::to_owned);
    whole.ok_or_else(|| std::io::Error::other(format!("the connection ended with {line:?}")))
}

/// `restart` at addresses of each kind.
fn restart(folder: &Path, backend: &str, options: &[&str]) -> Command {
    with_addresses(example("restart"), folder, backend, options)
}

fn with_addresses(mut command: Command, folder: &Path, backend: &str, options: &[&str]) -> Command {
    let unix = |name: &str| format!("unix:{}", folder.join(name).display());
    command.args([
        "--rpc",
        "127.0.0.1:0",
        "--rpc",
        &unix("rpc"),
        "--lines",
        "127.0.0.1:0",
        "--lines",
        &unix("lines"),
    ]);
    command.args(["--backend", backend]).args(options).env_remove("NOTIFY_SOCKET");
    command
}

/// What the processes say that they have done: requests, responses, lines, connections that were cut off.
fn totals(printed: &[String]) -> [u64; 4] {
    let mut totals = [0; 4];
    for line in printed.iter().filter(|line| line.contains(" is done: ")) {
        let numbers = line.split_once(" is done: ").unwrap().1.split(", ");
        for (total, number) in totals.iter_mut().zip(numbers) {
            *total += number.split(' ').next().unwrap().parse::<u64>().unwrap();
        }
    }
    totals
}

/// Every call was executed once, and every line.
fn assert_all_was_done_once(load: Load, chain: Chain) {
    let (calls, lines) = load.stop();
    let printed = chain.stop();
    assert_eq!(totals(&printed), [calls, calls, lines, 0], "{printed:#?}");
}

#[test]
fn no_request_fails_however_often_it_hands_over() {
    for backend in backends() {
        let folder = tempfile::tempdir().unwrap();
        let mut chain = Chain::start(restart(folder.path(), &backend, &["--reactors", "2"]));
        let load = Load::start(&backend, &chain.addresses[..2], &chain.addresses[2..]);
        load.wait_for(chain.current);
        for _ in 0..hand_overs() {
            let new = chain.hand_over();
            load.wait_for(new);
        }
        assert_all_was_done_once(load, chain);
    }
}

/// Puts a script in the place of a program that may be running.
fn replace(program: &Path, script: &str) {
    let _forking = FORKING.lock().unwrap();
    let new = program.with_extension("new");
    fs::write(&new, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&new, program).unwrap();
}

/// A folder beside the example, so that it can have further names there.
fn beside() -> (tempfile::TempDir, PathBuf) {
    let program = PathBuf::from(example("restart").get_program());
    (tempfile::tempdir_in(program.parent().unwrap()).unwrap(), program)
}

#[test]
fn a_successor_may_be_another_program_with_other_reactors_on_another_backend() {
    let (folder, program) = beside();
    let name = |index: usize| folder.path().join(format!("version{index}"));
    let backends = backends();
    let next = |index: usize| &backends[index % backends.len()];
    // Fewer than there are sockets, and more; then as many.
    let reactors = ["2", "1", "4", "3", "2"];
    fs::hard_link(&program, name(0)).unwrap();
    let command = Command::new(name(0));
    let mut chain =
        Chain::start(with_addresses(command, folder.path(), next(0), &["--reactors", reactors[0]]));
    let load = Load::start(next(0), &chain.addresses[..2], &chain.addresses[2..]);
    load.wait_for(chain.current);
    for (index, reactors) in reactors.iter().enumerate().skip(1) {
        fs::hard_link(&program, name(index)).unwrap();
        let (backend, new) = (next(index), name(index));
        let script = format!("exec '{}' \"$@\" --backend {backend} --reactors {reactors}", new.display());
        replace(&name(index - 1), &script);
        let new = chain.hand_over();
        load.wait_for(new);
        chain
            .printed
            .wait_for("the backend", |line| line.ends_with(&format!("via {backend}, process {new}")));
    }
    assert_all_was_done_once(load, chain);
}

#[test]
fn a_successor_that_fails_leaves_the_old_one_serving() {
    for backend in backends() {
        let (folder, original) = beside();
        let program = folder.path().join("program");
        fs::hard_link(&original, &program).unwrap();
        let options = ["--reactors", "2", "--patience", "1"];
        let mut chain =
            Chain::start(with_addresses(Command::new(&program), folder.path(), &backend, &options));
        let load = Load::start(&backend, &chain.addresses[..2], &chain.addresses[2..]);
        load.wait_for(chain.current);
        let fails = |why: &str| {
            chain.signal(Signal::HUP);
            let says = format!("restart: process {} serves on: ", chain.current);
            let line = chain.printed.wait_for(why, |line| line.starts_with(&says) && line.contains(why));
            // Those behind it are the answers of a process that serves on.
            load.answers.lock().unwrap().clear();
            load.wait_for(chain.current);
            line
        };
        fs::remove_file(&program).unwrap();
        fails("cannot start a successor: ");
        replace(&program, "exit 3");
        fails("it gave up before it was ready (exit status: 3)");
        // A program that fails for its own reasons.
        replace(&program, &format!("exec '{}' \"$@\" --reactors 0", original.display()));
        fails("it gave up before it was ready (exit status: 1)");
        let never = folder.path().join("never");
        replace(&program, &format!("echo $$ > '{}'; exec sleep 600", never.display()));
        fails("it was not ready within 1s");
        let stuck = fs::read_to_string(never).unwrap().trim().parse().unwrap();
        assert!(test_kill_process(Pid::from_raw(stuck).unwrap()).is_err(), "it is still there");
        // Once more, with one that works.
        replace(&program, &format!("exec '{}' \"$@\" --patience 60", original.display()));
        let new = chain.hand_over();
        load.wait_for(new);
        assert_all_was_done_once(load, chain);
    }
}

/// Starts it as a service manager does: the sockets are there, and `variables` tell of them.
fn activated(backend: &str, rpc: impl Into<OwnedFd>, lines: impl Into<OwnedFd>, variables: &str) -> Command {
    let mut command = Command::new("sh");
    let script = format!("exec 3<&0 4<&2 0</dev/null 2>&1; export {variables}; exec \"$0\" \"$@\"");
    command.args(["-c", &script]).arg(example("restart").get_program()).args(["--backend", backend]);
    command.stdin(Stdio::from(rpc.into())).stderr(Stdio::from(lines.into())).env_remove("NOTIFY_SOCKET");
    command
}

#[test]
fn a_service_manager_may_have_the_sockets() {
    for backend in backends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        let (rpc, lines) = (TcpListener::bind("127.0.0.1:0").unwrap(), UnixListener::bind(&path).unwrap());
        let addresses = vec![rpc.local_addr().unwrap().to_string(), format!("unix:{}", path.display())];
        // Who comes before the service is there waits in the queue.
        let mut early = UnixStream::connect(&path).unwrap();
        early.write_all(b"early\n").unwrap();
        let variables = "LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=rpc:lines";
        let mut chain = Chain::start(activated(&backend, rpc, lines, variables));
        assert_eq!(chain.addresses, addresses);
        let mut answer = String::new();
        BufReader::new(&early).read_line(&mut answer).unwrap();
        assert_eq!(answer, format!("{} early\n", chain.current));
        let load = Load::start(&backend, &addresses[..1], &addresses[1..]);
        load.wait_for(chain.current);
        drop(early);
        for _ in 0..2 {
            let new = chain.hand_over();
            load.wait_for(new);
        }
        let (calls, lines) = load.stop();
        let printed = chain.stop();
        assert_eq!(totals(&printed), [calls, calls, lines + 1, 0], "{printed:#?}");
    }
}

#[test]
fn sockets_that_nobody_serves_are_an_error() {
    let (rpc, lines) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let variables = "LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=rpc:what";
    let mut command = activated("auto", rpc, lines, variables);
    let child = command.stdout(Stdio::piped()).spawn().unwrap();
    let _watchdog = Watchdog::over(&child);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!output.status.success() && text.contains("nobody here serves the socket \"what\""), "{text}");
}

/// What a service manager would hear.
struct Notified(UnixDatagram);

impl Notified {
    fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Notified(socket)
    }

    fn next(&self) -> String {
        let mut message = [0; 1024];
        let bytes = self.0.recv(&mut message).unwrap();
        String::from_utf8(message[..bytes].to_vec()).unwrap()
    }

    fn hears_no_more(&self) {
        self.0.set_nonblocking(true).unwrap();
        assert!(self.0.recv(&mut [0; 1]).is_err());
    }
}

#[test]
fn a_service_manager_is_told_of_each_change() {
    for backend in backends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let notified = Notified::at(&path);
        let mut command = restart(folder.path(), &backend, &["--reactors", "1"]);
        command.env("NOTIFY_SOCKET", &path);
        let mut chain = Chain::start(command);
        assert_eq!(notified.next(), "READY=1\n");
        for _ in 0..2 {
            let new = chain.hand_over();
            let reloading = notified.next();
            assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
            // By the process that it knows, and nothing about an end.
            assert_eq!(notified.next(), format!("MAINPID={new}\nREADY=1\n"));
        }
        chain.stop();
        assert_eq!(notified.next(), "STOPPING=1\n");
        notified.hears_no_more();
        // A successor that fails.
        let (beside, original) = beside();
        let program = beside.path().join("program");
        fs::hard_link(&original, &program).unwrap();
        let mut command = with_addresses(Command::new(&program), beside.path(), &backend, &[]);
        notified.0.set_nonblocking(false).unwrap();
        let chain = Chain::start({
            command.env("NOTIFY_SOCKET", &path);
            command
        });
        assert_eq!(notified.next(), "READY=1\n");
        fs::remove_file(&program).unwrap();
        chain.signal(Signal::HUP);
        assert!(notified.next().starts_with("RELOADING=1\n"));
        assert!(notified.next().starts_with("READY=1\nSTATUS=the successor failed"));
        chain.stop();
        assert_eq!(notified.next(), "STOPPING=1\n");
        notified.hears_no_more();
    }
}

#[test]
fn what_was_taken_is_answered_and_the_second_signal_forces() {
    for backend in backends() {
        let folder = tempfile::tempdir().unwrap();
        for hands_over in [false, true] {
            let mut chain = Chain::start(restart(folder.path(), &backend, &["--grace", "600"]));
            let Address::Tcp(address) = chain.addresses[2].to_addresses().unwrap().remove(0) else {
                panic!("{:?}", chain.addresses)
            };
            let connect = || {
                let stream = TcpStream::connect(address).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream
            };
            // One has been heard and is at rest, one is in the middle of a line, and one never says anything.
            let (mut heard, mut begun, silent) = (connect(), connect(), connect());
            for (stream, says) in [(&mut heard, "first\n"), (&mut begun, "first\nsec")] {
                stream.write_all(says.as_bytes()).unwrap();
                let mut answer = String::new();
                BufReader::new(stream).read_line(&mut answer).unwrap();
                assert_eq!(answer, format!("{} first\n", chain.current));
            }
            let old = chain.current;
            if hands_over {
                chain.signal(Signal::HUP);
                let taken = format!(" has taken over from {old}");
                chain.printed.wait_for("the successor", |line| line.ends_with(&taken));
            } else {
                chain.signal(Signal::TERM);
            }
            assert_eq!(heard.read(&mut [0]).unwrap(), 0);
            begun.write_all(b"ond\n").unwrap();
            let mut rest = String::new();
            begun.read_to_string(&mut rest).unwrap();
            assert_eq!(rest, format!("{old} second\n"));
            assert!(chain.first.try_wait().unwrap().is_none());
            // For a successor nobody had asked it to stop yet.
            let mut status = None;
            eventually("it is forced", || {
                chain.signal(Signal::TERM);
                thread::sleep(Duration::from_millis(20));
                status = chain.first.try_wait().unwrap();
                status.is_some()
            });
            assert_eq!(status.unwrap().signal(), Some(Signal::TERM.as_raw()), "{status:?}");
            drop(silent);
        }
    }
}
