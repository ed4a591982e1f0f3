//! A chat with rooms, for `nc`: `/join ROOM`, `/nick NAME`, `/who`, and everything else is said to the room.
//!
//! `cargo run --release --example chat`, and then `nc localhost 7001`, several times.
//!
//! The members of a room sit on any of the reactors. Each reactor has a list of its own members (`hall.rs`), which needs no lock,
//! and what is said in a room is one command for each other reactor, however many members it has there. `member.rs` is the handler
//! of one connection: it takes the lines apart, and says who reads too slowly.

mod hall;
mod member;

use hall::Limits;
use member::Member;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use trochus::net::{ListenOptions, StreamOptions};
use trochus::reactor::ReactorHandle;
use trochus::{Backend, Runtime, config};

type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Options {
    listen: String,
    backend: Backend,
    reactors: Option<usize>,
    limits: Limits,
}

fn main() -> ExitCode {
    let result = options().and_then(|options| options.map_or(Ok(()), |options| serve(&options)));
    if let Err(error) = result {
        eprintln!("chat: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn serve(options: &Options) -> Result<(), Failure> {
    let mut builder = Runtime::builder().backend(options.backend);
    if let Some(reactors) = options.reactors {
        builder = builder.reactors(reactors);
    }
    let runtime = builder.build()?;
    let reactors: Arc<[ReactorHandle]> =
        (0..runtime.reactors()).map(|index| runtime.reactor(index).clone()).collect();
    for index in 0..runtime.reactors() {
        let (reactors, limits) = (reactors.clone(), options.limits);
        runtime.run_on(index, move |_| hall::open(index, reactors, limits)).wait()?;
    }
    let limits = options.limits;
    let stream = StreamOptions::new()
        .output_limits(limits.mark.max(config::OUTPUT_SOFT_BYTES), config::OUTPUT_HARD_BYTES)
        // Here whoever was too slow is no longer.
        .low_water(limits.mark / 2)
        // Whoever was told to be too slow and still reads nothing.
        .flush_timeout(limits.patience)
        // What the kernel holds for a member is seen by nobody, so it is not to be much.
        .send_buffer(limits.mark);
    let listen = ListenOptions::new().stream(stream);
    let server = runtime.listen_with(&listen, options.listen.as_str(), |_peer| Member::new())?;
    println!("listening on {} via {}", server.local_addr(), runtime.backend());
    let drained = runtime.run_until_interrupted_with(config::DRAIN_TIMEOUT)?;
    println!("{} members left in good order, {} were cut off", drained.closed, drained.cut_off);
    Ok(())
}

/// `None` if only help was asked for.
fn options() -> Result<Option<Options>, Failure> {
    use lexopt::prelude::{Long, ValueExt};
    let mut options = Options {
        listen: "[::]:7001".to_owned(),
        backend: Backend::Auto,
        reactors: None,
        limits: Limits { mark: 256 << 10, patience: Duration::from_secs(5) },
    };
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("listen") => options.listen = arguments.value()?.string()?,
            Long("backend") => options.backend = arguments.value()?.string()?.parse()?,
            Long("reactors") => options.reactors = Some(arguments.value()?.parse()?),
            Long("mark") => {
                options.limits.mark = arguments.value()?.parse::<usize>()?.clamp(4 << 10, 16 << 20)
            }
            Long("patience") => {
                let seconds = arguments.value()?.parse::<f64>()?.clamp(0.1, 3600.0);
                options.limits.patience = Duration::from_secs_f64(seconds);
            }
            Long("help") => {
                println!(
                    "\
chat [OPTIONS]

  --listen ADDR       host:port or unix:/path ([::]:7001)
  --backend NAME      auto, io_uring or fallback (auto)
  --reactors N        threads that serve (one a core)
  --mark BYTES        what may wait for a member before the room waits for it (262144)
  --patience SECONDS  a member that keeps the room waiting for so long is closed (5)"
                );
                return Ok(None);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Some(options))
}
