//! Several protocols on one port, told apart by their first bytes.
//!
//! `cargo run --example detect -- --listen ADDR [--upstream ADDR]` serves HTTP (of a very simple kind) and lines of text that come
//! back in capitals, the latter by request-response; what begins with a zero byte, as binary protocols may, is passed on to the
//! upstream if there is one. Try `curl http://ADDR/` and `nc` at the same port.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use trochus::Runtime;
use trochus::codec::Lines;
use trochus::net::{Address, Handler, Io, ListenOptions, Relay, StreamOptions, ToAddresses};
use trochus::rpc::{Handlers, Reply, ServerOptions};

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Http,
    Lines,
    Binary,
    /// A record of a TLS handshake.
    Tls,
}

/// The methods that are told from a line of text. A line that begins like one is taken for one.
const METHODS: [&[u8]; 2] = [b"GET /", b"HEAD /"];

/// `None` if these could be the beginning of several.
fn kind_of(bytes: &[u8]) -> Option<Kind> {
    match bytes.first()? {
        0 => Some(Kind::Binary),
        0x16 => Some(Kind::Tls),
        _ if METHODS.iter().any(|method| bytes.starts_with(method)) => Some(Kind::Http),
        _ if METHODS.iter().any(|method| method.starts_with(bytes)) => None,
        _ => Some(Kind::Lines),
    }
}

/// What all connections share.
struct Services {
    lines: Handlers<Lines>,
    upstream: Vec<Address>,
}

/// A connection that has not said yet what it is.
struct Detect(Arc<Services>);

impl Handler for Detect {
    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        match kind_of(bytes) {
            // More of it comes, or `opening_timeout` and `message_timeout` end it.
            None => {}
            Some(Kind::Http) => io.hand_over(Http),
            Some(Kind::Lines) => io.hand_over(self.0.lines.handler()),
            Some(Kind::Binary) if !self.0.upstream.is_empty() => {
                io.hand_over(Relay::to(self.0.upstream.clone()));
            }
            Some(Kind::Binary | Kind::Tls) => io.abort(),
        }
        // Whoever takes over sees it from the beginning.
        0
    }
}

/// Answers each request with the same few words.
struct Http;

const HEAD_END: &[u8] = b"\r\n\r\n";
const MOST_HEAD: usize = 16 << 10;

impl Handler for Http {
    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        let Some(end) = bytes.windows(HEAD_END.len()).position(|window| window == HEAD_END) else {
            if bytes.len() > MOST_HEAD {
                io.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\n\r\n");
                io.close();
            }
            return 0;
        };
        let body = if bytes.starts_with(b"HEAD") { "" } else { "one port, several protocols\n" };
        let head =
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 28\r\nConnection: close\r\n\r\n";
        io.write(head.as_bytes());
        io.write(body.as_bytes());
        io.close();
        end + HEAD_END.len()
    }
}

fn serve(address: &str, upstream: Option<&str>) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = Runtime::new()?;
    let capitals = |line: &str, reply: Reply<String>| reply.send(line.to_uppercase());
    let lines = ServerOptions::new().handlers(Lines::new(), capitals)?;
    let upstream = upstream.map(str::to_addresses).transpose()?.unwrap_or_default();
    let services = Arc::new(Services { lines, upstream });
    let stream = StreamOptions::new()
        .opening_timeout(Duration::from_secs(10))
        .message_timeout(Duration::from_secs(10));
    let options = ListenOptions::new().stream(stream);
    let theirs = services.clone();
    let server = runtime.listen_with(&options, address, move |_| Detect(theirs.clone()))?;
    println!("listening on {} via {}", server.local_addr(), runtime.backend());
    runtime.run_until_interrupted()?;
    println!("{} lines", services.lines.metrics().requests);
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--listen", address] => serve(address, None),
        ["--listen", address, "--upstream", upstream] => serve(address, Some(upstream)),
        _ => Err("usage: detect --listen ADDR [--upstream ADDR]".into()),
    };
    if let Err(error) = result {
        eprintln!("detect: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
