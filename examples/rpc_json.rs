//! Request-response in JSON, one value a line: counts the words of a text.
//!
//! `cargo run --example rpc_json --features json` runs both sides in one process; with `-- --listen ADDR` it is the server, with
//! `-- --connect ADDR` a client. Anything that speaks JSON over a socket can be on the other side:
//! `echo '{"text":"how many words"}' | nc HOST PORT`.

use serde::{Deserialize, Serialize};
use std::process::ExitCode;
use trochus::Runtime;
use trochus::codec::JsonLines;
use trochus::rpc::{Client, Reply, Server};

#[derive(Serialize, Deserialize)]
struct Question {
    text: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    words: usize,
    longest: Option<String>,
}

type Protocol = JsonLines<Question, Answer>;

fn count(question: Question, reply: Reply<Answer>) {
    let words = question.text.split_whitespace();
    reply.send(Answer {
        words: words.clone().count(),
        longest: words.max_by_key(|word| word.len()).map(str::to_owned),
    });
}

fn serve(runtime: &Runtime, address: &str) -> trochus::Result<Server> {
    let server = Server::bind(runtime, address, Protocol::new(), count)?;
    println!("listening on {} via {}", server.local_addr(), runtime.backend());
    Ok(server)
}

fn ask(runtime: &Runtime, address: &str) -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::connect(runtime, address, Protocol::new())?;
    let texts = ["a ring, or a wheel", "a snail with a spiral shell", ""];
    // All are on their way before the first is waited for.
    let calls = texts.map(|text| (text, client.call(Question { text: text.to_owned() })));
    for (text, call) in calls {
        let Answer { words, longest } = call.wait()?;
        println!("{text:?}: {words} words, the longest is {longest:?}");
    }
    Ok(client.close()?)
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = Runtime::new()?;
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => {
            let server = serve(&runtime, "127.0.0.1:0")?;
            ask(&runtime, &server.local_addr().to_string())
        }
        ["--listen", address] => {
            serve(&runtime, address)?.detach();
            Ok(runtime.run_until_interrupted()?)
        }
        ["--connect", address] => ask(&runtime, address),
        _ => Err("usage: rpc_json [--listen ADDR | --connect ADDR]".into()),
    }
}

fn main() -> ExitCode {
    if let Err(error) = run() {
        eprintln!("rpc_json: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
