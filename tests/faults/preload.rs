//! The fallback where the kernel interrupts, refuses, does half of what was asked for, and runs out of things: a library stands before
//! the calls that it makes (`preload.c`), in a process of its own.
//!
//! Of these calls rustix' `poll`, for sleeps of less than 10 ms, is a bare system call, which cannot be seen from there.

use crate::stage::is_at_rest;
use crate::support::PATIENCE;
use std::collections::HashMap;
use std::env;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;
use trochus::codec::{LengthDelimited, Protocol};
use trochus::net::{ListenOptions, StreamOptions};
use trochus::rpc::{CallError, Client, ClientOptions, Reconnect, Reply, Server};
use trochus::{Backend, Runtime};

/// In the child: that it is one.
const CHILD: &str = "TROCHUS_TEST_PRELOADED";

const SEED: &str = "FAULTS_SEED";

/// In the child: with errors that cost connections.
const HARD: &str = "FAULTS_HARD";

/// Builds the library under a name of its own; `None`, having said so, where there is no compiler.
fn library(name: &str) -> Option<PathBuf> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/preload.c");
    let library = env::temp_dir().join(format!("trochus-faults-{}-{name}.so", std::process::id()));
    let mut compile = Command::new(env::var("CC").unwrap_or_else(|_| "cc".to_owned()));
    compile.args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o"]).arg(&library).args([source, "-ldl"]);
    match compile.status() {
        Ok(status) => {
            assert!(status.success(), "{source} does not compile");
            Some(library)
        }
        Err(error) => {
            println!("SKIPPED: no kernel faults without a C compiler (`cc`): {error}");
            None
        }
    }
}

/// The frame that answers a request with this number.
fn frame(number: u32) -> Vec<u8> {
    let len = 4 + (number as usize * 7919) % 60_000;
    (0..len).map(|index| (index as u32 ^ number) as u8).collect()
}

/// Not a test by itself: what the ones below run in a process of its own.
#[test]
fn a_process_whose_system_calls_fail() {
    const CALLS: u32 = 1500;
    if env::var_os(CHILD).is_none() {
        return;
    }
    let hard = env::var_os(HARD).is_some();
    let runtime = Runtime::builder().backend(Backend::Fallback).reactors(2).build().unwrap();
    let executed = Arc::new(Mutex::new(HashMap::<u32, u32>::new()));
    let theirs = executed.clone();
    let protocol = LengthDelimited::new().by_id();
    let serve = move |request: &[u8], reply: Reply<bytes::Bytes>| {
        let number = u32::from_be_bytes(*request.first_chunk().unwrap());
        *theirs.lock().unwrap().entry(number).or_default() += 1;
        reply.send(frame(number).into());
    };
    // Behind a send that failed, so long is waited for what the peer may have sent before.
    let stream = StreamOptions::new().close_timeout(Duration::from_millis(200));
    let listen = ListenOptions::new().stream(stream.clone());
    let server = Server::builder().listen(listen).bind(&runtime, "127.0.0.1:0", protocol, serve).unwrap();
    let policy = Reconnect::forever().first_delay(Duration::from_millis(1));
    let options =
        ClientOptions::new().stream(stream).reconnect(policy.longest_delay(Duration::from_millis(10)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let client = Client::builder(protocol).options(options.clone());
            client.connect_lazy(&runtime, server.local_addr()).unwrap()
        })
        .collect();
    let (mut answered, mut told) = (0, 0);
    for start in (0..CALLS).step_by(50) {
        let calls = (start..start + 50).map(|number| {
            let mut request = number.to_be_bytes().to_vec();
            request.resize(4 + number as usize % 5000, 0);
            (number, clients[number as usize % 4].call(request.into()).timeout(PATIENCE / 3))
        });
        for (number, call) in calls.collect::<Vec<_>>() {
            let outcome = call.wait();
            let times = executed.lock().unwrap().get(&number).copied().unwrap_or_default();
            match outcome {
                Ok(response) => {
                    assert!(response == frame(number) && times == 1, "call {number}, executed {times} times");
                    answered += 1;
                }
                Err(CallError::Lost(cause)) if hard => {
                    assert!(times <= 1, "{cause}");
                    told += 1;
                }
                Err(error) => panic!("call {number}, executed {times} times: {error}"),
            }
        }
    }
    for client in &clients {
        assert!(client.close().is_ok() || hard);
    }
    drop(clients);
    server.stop(PATIENCE).unwrap();
    is_at_rest(&runtime);
    let metrics = runtime.metrics();
    println!("\nanswered {answered} told {told} reset {}", metrics.connections_reset);
}

/// What was injected, by its name, and what the child said.
fn run(seed: u64, hard: bool) -> Option<(HashMap<String, u64>, HashMap<String, u64>)> {
    let library = library(if hard { "hard" } else { "soft" })?;
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["--exact", "preload::a_process_whose_system_calls_fail", "--nocapture"]);
    child.env(CHILD, "1").env(SEED, seed.to_string()).env("LD_PRELOAD", &library);
    if hard {
        child.env(HARD, "1");
    }
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut outputs: [Box<dyn Read + Send>; 2] =
        [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
    let (tell, ended) = mpsc::channel();
    let readers: Vec<_> = outputs
        .iter_mut()
        .map(|output| {
            let mut output = std::mem::replace(output, Box::new(std::io::empty()));
            let tell = tell.clone();
            thread::spawn(move || {
                let mut text = String::new();
                output.read_to_string(&mut text).unwrap();
                let _ = tell.send(());
                text
            })
        })
        .collect();
    if (0..2).any(|_| ended.recv_timeout(PATIENCE).is_err()) {
        child.kill().unwrap();
    }
    let succeeded = child.wait().unwrap().success();
    let texts: Vec<String> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
    std::fs::remove_file(library).unwrap();
    assert!(succeeded, "seed {seed}: {}\n{}", texts[0], texts[1]);
    let figures = |text: &str, first: &str| {
        let line = text.lines().find_map(|line| Some(&line[line.find(first)?..])).expect("what it counted");
        let words: Vec<&str> = line.trim_start_matches("faults: ").split_whitespace().collect();
        words.chunks_exact(2).map(|pair| (pair[0].to_owned(), pair[1].parse().unwrap())).collect()
    };
    Some((figures(&texts[1], "faults: "), figures(&texts[0], "answered ")))
}

/// What was injected over all seeds.
fn injected(over: &[HashMap<String, u64>], kind: &str) -> u64 {
    over.iter().map(|injected| injected[kind]).sum()
}

#[test]
fn calls_that_are_interrupted_refused_or_cut_short_lose_nothing() {
    let mut all = Vec::new();
    for seed in 1..4 {
        let Some((injected, told)) = run(seed, false) else { return };
        println!("seed {seed}: {injected:?} {told:?}");
        assert_eq!((told["answered"], told["reset"]), (1500, 0), "{told:?}");
        all.push(injected);
    }
    assert!(["interrupted", "refused", "shortened", "starved"].iter().all(|kind| injected(&all, kind) > 0));
}

#[test]
fn calls_that_fail_cost_a_connection_and_every_loss_is_told() {
    let mut all = Vec::new();
    for seed in 1..4 {
        let Some((injected, told)) = run(seed, true) else { return };
        println!("seed {seed}: {injected:?} {told:?}");
        assert_eq!(told["answered"] + told["told"], 1500, "{told:?}");
        all.push(injected);
    }
    assert!(injected(&all, "failed") > 0);
}
