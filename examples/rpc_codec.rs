//! A codec of one's own, and a service that has words for everything: a calculator that speaks netstrings
//! (`cargo run --example rpc_codec`).
//!
//! A netstring is a length in decimal, a colon, the bytes and a comma: `3:1+2,`. With `-- --listen ADDR` it only serves, for
//! `printf '3:1+2,' | nc HOST PORT`.

use std::process::ExitCode;
use trochus::Runtime;
use trochus::codec::{Decode, DecodeError, Decoded, Encode, EncodeError};
use trochus::reactor::Address;
use trochus::rpc::{Client, Missing, Reply, Server, Service};

/// The longest text of a netstring, in bytes.
const LONGEST: usize = 1000;

#[derive(Clone, Copy, Debug)]
struct Netstrings;

impl Decode for Netstrings {
    type Item<'a> = &'a str;
    type Owned = String;

    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Decoded<&'a str>, DecodeError> {
        // No length has more digits than the largest.
        let digits = input.iter().take(4).take_while(|byte| byte.is_ascii_digit()).count();
        let length = std::str::from_utf8(&input[..digits]).ok().and_then(|text| text.parse::<usize>().ok());
        match (input.get(digits), length) {
            (None, _) => Ok(Decoded::NeedMore { at_least: 1 }),
            (Some(b':'), Some(length)) if length <= LONGEST => {
                let end = digits + 1 + length;
                match input.get(end) {
                    None => Ok(Decoded::NeedMore { at_least: end + 1 - input.len() }),
                    Some(b',') => {
                        let text =
                            std::str::from_utf8(&input[digits + 1..end]).map_err(DecodeError::custom)?;
                        Ok(Decoded::Item { item: text, consumed: end + 1 })
                    }
                    Some(_) => Err(DecodeError::custom("a netstring without its comma")),
                }
            }
            _ => Err(DecodeError::custom("no netstring, or one of more than 1000 bytes")),
        }
    }

    fn max_item_bytes(&self) -> Option<usize> {
        Some("1000:,".len() + LONGEST)
    }

    fn into_owned(item: &str) -> String {
        item.to_owned()
    }
}

impl Encode<String> for Netstrings {
    fn encode(&mut self, item: &String, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if item.len() > LONGEST {
            return Err(EncodeError::custom("a netstring of more than 1000 bytes"));
        }
        out.extend_from_slice(format!("{}:{item},", item.len()).as_bytes());
        Ok(())
    }
}

struct Calculator;

impl Service<Netstrings> for Calculator {
    fn call(&mut self, request: &str, reply: Reply<String>) {
        // Whatever is wrong with it panics or drops the reply, which costs this request only.
        let (left, right) = request.split_once(['+', '/']).expect("an operator");
        let (Ok(left), Ok(right)) = (left.parse::<i64>(), right.parse::<i64>()) else { return };
        reply.send(if request.contains('+') { left + right } else { left / right }.to_string());
    }

    fn substitute(&mut self, missing: &Missing<'_>) -> Option<String> {
        Some(format!("sorry: {:?}", missing.cause))
    }

    fn on_decode_error(&mut self, error: &DecodeError, _peer: &Address) -> Option<String> {
        Some(format!("goodbye: {error}"))
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let address = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => "127.0.0.1:0",
        ["--listen", address] => address,
        _ => return Err("usage: rpc_codec [--listen ADDR]".into()),
    };
    let runtime = Runtime::new()?;
    let server = Server::builder().bind_each(&runtime, address, Netstrings, |_peer| Calculator)?;
    println!("listening on {} via {}", server.local_addr(), runtime.backend());
    if !arguments.is_empty() {
        return Ok(runtime.run_until_interrupted()?);
    }
    let client = Client::connect(&runtime, server.local_addr(), Netstrings)?;
    for request in ["1+2", "84/2", "1/0", "one+two", "?"] {
        println!("{request}: {}", client.call(request.to_owned()).wait()?);
    }
    Ok(client.close()?)
}

fn main() -> ExitCode {
    if let Err(error) = run() {
        eprintln!("rpc_codec: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
