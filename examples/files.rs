//! A server of the files in a directory, over as much of HTTP/1.0 as that takes.
//!
//! `cargo run --example files -- DIRECTORY` serves on `[::]:7008`, and `-- DIRECTORY ADDR` elsewhere. `curl -O
//! http://localhost:7008/name` gets a file. Files are read as they are sent, so one of any size takes little memory.
//!
//! A connection gives one answer and ends. What is not a plain path below the directory is not found; links are followed, so
//! whoever may make some there decides what is served.

use std::fs::File;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use trochus::Runtime;
use trochus::net::{CloseReason, Handler, Io, ListenOptions, StreamOptions};
use trochus::reactor::Reactor;

/// Bytes of a request, with all that it says besides the path.
const LONGEST_REQUEST: usize = 8 << 10;

struct Files {
    root: Arc<Path>,
}

impl Handler for Files {
    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        match bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            Some(end) => {
                self.answer(io, &bytes[..end]);
                io.close();
                bytes.len()
            }
            None if bytes.len() > LONGEST_REQUEST => {
                refuse(io, "431 Request Header Fields Too Large");
                io.close();
                bytes.len()
            }
            None => 0,
        }
    }

    /// Whoever is being answered has its time; there is nothing to be said to others.
    fn on_shutdown(&mut self, io: &mut Io<'_>) {
        io.close();
    }

    fn on_close(&mut self, reason: &CloseReason, _reactor: &mut Reactor) {
        if let CloseReason::FileFailed { .. } = reason {
            eprintln!("files: {reason}");
        }
    }
}

impl Files {
    fn answer(&self, io: &mut Io<'_>, request: &[u8]) {
        let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let [method, target, version] = words[..] else { return refuse(io, "400 Bad Request") };
        if !version.starts_with(b"HTTP/1.") {
            return refuse(io, "400 Bad Request");
        }
        if method != b"GET" && method != b"HEAD" {
            return refuse(io, "405 Method Not Allowed");
        }
        let opened = path_of(target).and_then(|path| File::open(self.root.join(path)).ok());
        let Some((file, length)) = opened.and_then(|file| {
            let about = file.metadata().ok().filter(|about| about.is_file())?;
            Some((file, about.len()))
        }) else {
            return refuse(io, "404 Not Found");
        };
        let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        io.write(head.as_bytes());
        if method == b"GET"
            && let Err(error) = io.write_file(file, 0..length)
        {
            // The length is said already.
            eprintln!("files: {error}");
            io.abort();
        }
    }
}

fn refuse(io: &mut Io<'_>, status: &str) {
    let length = status.len() + 1;
    let head =
        format!("HTTP/1.0 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{status}\n");
    io.write(head.as_bytes());
}

/// The path below the directory that a request means, if it is one: of plain names only.
fn path_of(target: &[u8]) -> Option<PathBuf> {
    let path = target.split(|byte| *byte == b'?').next()?.strip_prefix(b"/")?;
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path.iter();
    while let Some(byte) = rest.next() {
        if *byte == b'%' {
            let digits = [*rest.next()?, *rest.next()?].map(|digit| (digit as char).to_digit(16));
            decoded.push((digits[0]? * 16 + digits[1]?) as u8);
        } else {
            decoded.push(*byte);
        }
    }
    let path = PathBuf::from(String::from_utf8(decoded).ok().filter(|path| !path.contains('\0'))?);
    path.components().all(|part| matches!(part, Component::Normal(_))).then_some(path)
}

fn serve(root: &str, address: &str) -> Result<(), Box<dyn std::error::Error>> {
    let root: Arc<Path> = Path::new(root).canonicalize().map_err(|error| format!("{root}: {error}"))?.into();
    if !root.is_dir() {
        return Err(format!("{} is no directory", root.display()).into());
    }
    let runtime = Runtime::new()?;
    // Whoever says nothing, or takes nothing, is not waited for.
    let patience = Duration::from_secs(30);
    let stream =
        StreamOptions::new().opening_timeout(patience).message_timeout(patience).flush_timeout(patience);
    let options = ListenOptions::new().stream(stream);
    let server = runtime.listen_with(&options, address, move |_peer| Files { root: root.clone() })?;
    println!("listening on {} via {}", server.local_addr(), runtime.backend());
    Ok(runtime.run_until_interrupted()?)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [root] if !root.starts_with('-') => serve(root, "[::]:7008"),
        [root, address] if !root.starts_with('-') => serve(root, address),
        _ => Err("usage: files DIRECTORY [ADDR]".into()),
    };
    if let Err(error) = result {
        eprintln!("files: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
