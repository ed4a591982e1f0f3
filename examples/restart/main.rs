//! A server that starts its successor and hands it its sockets: a new version, or new settings, while clients go on.
//!
//! `cargo run --release --example restart -- --rpc 127.0.0.1:7100 --rpc unix:/tmp/restart.sock --lines 127.0.0.1:7101`, then
//! `nc localhost 7101`, and as often as you like `kill -HUP` with the process id that was printed last. Each answer begins with the id
//! of the process that gave it.
//!
//! SIGHUP starts this program once more, with the same arguments. When the new process says that it serves, the old one takes
//! no more, answers what it took (`--grace`) and leaves; if it does not, within `--patience`, the old one serves on. SIGINT and SIGTERM
//! end it in the same order, and the next one at once. `lines.rs` is the handler of a connection that speaks in lines, for which the
//! end of a connection says less than for `trochus::rpc`.
//!
//! Under systemd the sockets are there before the service, and stay when it ends:
//!
//! ```text
//! # restart.socket                          # restart.service
//! [Socket]                                  [Service]
//! ListenStream=7100                         Type=notify-reload
//! ListenStream=/run/restart.sock            ExecStart=/usr/local/bin/restart
//! FileDescriptorName=rpc
//!                                           (before systemd 253: Type=notify
//! [Install]                                 and ExecReload=kill -HUP $MAINPID)
//! WantedBy=sockets.target
//! ```
//!
//! Then `systemctl reload restart` hands over. Sockets for lines are a second `.socket` unit with `FileDescriptorName=lines` and
//! `Service=restart.service`.

mod lines;

use lines::Talk;
use sd_notify::NotifyState;
use std::path::Path;
use std::process::{Command, ExitCode, id};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;
use trochus::codec::{ById, Correlated, Lines, Protocol};
use trochus::net::{self, Address, Listeners, Signal, Successor, ToAddresses};
use trochus::rpc::{self, Reply};
use trochus::{Backend, Runtime, config};

type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Options {
    rpc: Vec<Address>,
    lines: Vec<Address>,
    backend: Backend,
    reactors: Option<usize>,
    patience: Duration,
    grace: Duration,
}

fn main() -> ExitCode {
    let result = options().and_then(|options| options.map_or(Ok(()), |options| serve(&options)));
    if let Err(error) = result {
        eprintln!("restart: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// An 8-byte id and a line, both ways. By id a server can say what it did not take, and clients ask its successor.
type Wire = Correlated<Lines, ById>;

fn protocol() -> Wire {
    Lines::new().by_id()
}

/// Answers with the process id and the line; later, if it begins with `slowly`.
fn answer(line: &str, reply: Reply<String>) {
    let answer = format!("{} {line}", id());
    if !line.starts_with("slowly") {
        return reply.send(answer);
    }
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        reply.send(answer);
    });
}

fn serve(options: &Options) -> Result<(), Failure> {
    // Now, for later there may be a new version at that path, and nothing at the one that the system would tell.
    let program = std::env::current_exe()?;
    net::keep_signals()?;
    let mut inherited = net::inherited()?;
    let rpc = inherited.take_or("rpc", &options.rpc)?;
    let lines = match inherited.take("lines") {
        sockets if !sockets.is_empty() => Some(Listeners::On(sockets)),
        _ if options.lines.is_empty() => None,
        _ => Some(Listeners::At(options.lines.clone())),
    };
    if let Some((name, address)) = inherited.iter().next() {
        return Err(format!("nobody here serves the socket {name:?} at {address}").into());
    }
    let mut builder = Runtime::builder().backend(options.backend);
    if let Some(reactors) = options.reactors {
        builder = builder.reactors(reactors);
    }
    let runtime = builder.build()?;
    // What may fail came first: once it listens, this process has clients of its predecessor.
    let rpc = rpc::Server::builder().bind(&runtime, rpc, protocol(), answer)?;
    let answered = Arc::new(AtomicU64::new(0));
    let counted = answered.clone();
    let lines = lines.map(|at| runtime.listen(at, move |_| Talk::new(counted.clone()))).transpose()?;
    let mut addresses: Vec<String> = rpc.local_addrs().iter().map(ToString::to_string).collect();
    addresses.extend(lines.iter().flat_map(net::Server::local_addrs).map(ToString::to_string));
    println!("listening on {} via {}, process {}", addresses.join(" "), runtime.backend(), id());
    // A service manager listens to the process that it knows; the predecessor speaks for its successor.
    if !inherited.has_predecessor() {
        tell(&[NotifyState::Ready]);
    }
    inherited.ready();

    let has_successor = loop {
        if runtime.wait_for_signal()? == Signal::Stop {
            tell(&[NotifyState::Stopping]);
            break false;
        }
        tell(&[NotifyState::Reloading, NotifyState::monotonic_usec_now()?]);
        match hand_over(&program, options, &rpc, lines.as_ref()) {
            Ok(successor) => {
                tell(&[NotifyState::MainPid(successor), NotifyState::Ready]);
                println!("process {} has taken over from {}", successor, id());
                break true;
            }
            Err(error) => {
                eprintln!("restart: process {} serves on: {error}", id());
                tell(&[
                    NotifyState::Ready,
                    NotifyState::Status("the successor failed, and the old process serves on"),
                ]);
            }
        }
    };
    if has_successor {
        // It stops already; whoever asks for that twice forces it.
        thread::spawn(net::wait_for_interrupt);
    }
    let stopping = (rpc.stop_async(options.grace), lines.map(|lines| lines.stop_async(options.grace)));
    let mut cut_off = stopping.0.wait()?.cut_off;
    if let Some(stopping) = stopping.1 {
        cut_off += stopping.wait()?.cut_off;
    }
    runtime.shutdown(options.grace)?;
    let (metrics, lines) = (rpc.metrics(), answered.load(Relaxed));
    let (requests, responses) = (metrics.requests, metrics.responses);
    println!(
        "process {} is done: {requests} requests, {responses} responses, {lines} lines, {cut_off} cut off",
        id()
    );
    Ok(())
}

/// The successor's process id, once it serves.
fn hand_over(
    program: &Path,
    options: &Options,
    rpc: &rpc::Server,
    lines: Option<&net::Server>,
) -> Result<u32, Failure> {
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1));
    // All of them: each has connections of its own in its queue.
    let mut sockets = vec![("rpc", rpc.sockets()?)];
    if let Some(lines) = lines {
        sockets.push(("lines", lines.sockets()?));
    }
    let successor = Successor::start(command, sockets)?.wait_until_ready(options.patience)?;
    Ok(successor.id())
}

/// Tells the service manager, if it has asked for that (`NOTIFY_SOCKET`).
fn tell(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        eprintln!("restart: cannot tell the service manager {state:?}: {error}");
    }
}

/// `None` if only help was asked for.
fn options() -> Result<Option<Options>, Failure> {
    use lexopt::prelude::{Long, ValueExt};
    let mut options = Options {
        rpc: Vec::new(),
        lines: Vec::new(),
        backend: Backend::Auto,
        reactors: None,
        patience: Duration::from_secs(10),
        grace: config::DRAIN_TIMEOUT,
    };
    let mut arguments = lexopt::Parser::from_env();
    let seconds = |arguments: &mut lexopt::Parser| -> Result<Duration, Failure> {
        Ok(Duration::from_secs_f64(arguments.value()?.parse::<f64>()?.clamp(0.01, 1e6)))
    };
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("rpc") => options.rpc.extend(arguments.value()?.string()?.to_addresses()?),
            Long("lines") => options.lines.extend(arguments.value()?.string()?.to_addresses()?),
            Long("backend") => options.backend = arguments.value()?.string()?.parse()?,
            Long("reactors") => options.reactors = Some(arguments.value()?.parse()?),
            Long("patience") => options.patience = seconds(&mut arguments)?,
            Long("grace") => options.grace = seconds(&mut arguments)?,
            Long("help") => {
                println!(
                    "\
restart [OPTIONS]

  --rpc ADDR          host:port or unix:/path, several times (127.0.0.1:7100); sockets that are passed on as `rpc` come first
  --lines ADDR        the same for a service that speaks in lines (none), as `lines`
  --backend NAME      auto, io_uring or fallback (auto)
  --reactors N        threads that serve (one a core)
  --patience SECONDS  a successor has so long to be ready (10)
  --grace SECONDS     what is going on has so long to finish when it ends (5)

SIGHUP starts a successor and hands over; SIGINT and SIGTERM stop, and a second one ends it at once. Under systemd: a socket unit with
FileDescriptorName=rpc, and a service with Type=notify-reload; the first comment of examples/restart/main.rs has both."
                );
                return Ok(None);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    if options.rpc.is_empty() {
        options.rpc = "127.0.0.1:7100".to_addresses()?;
    }
    Ok(Some(options))
}
