//! The command line.

use crate::Failure;
use lexopt::Arg::{Long, Short, Value};
use lexopt::{Parser, ValueExt};
use std::time::Duration;
use trochus::Backend;

const HELP: &str = "\
embedded [--seconds S] [--backend auto|io_uring|fallback] [--clients N] [--load bulk|ping]
         [--settings embedded|default] [--listen ADDR] [--json]

--backend auto is what the settings choose: with `embedded` the fallback, with `default` io_uring where it works";

/// What the reactor is built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settings {
    Embedded,
    Default,
}

/// What players do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// Send as much as they can.
    Bulk,
    /// Send a message, wait for it to come back, and pause.
    Ping,
}

#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) time: Duration,
    /// The one that was named, if any was.
    pub(crate) backend: Option<Backend>,
    pub(crate) clients: usize,
    pub(crate) load: Load,
    pub(crate) settings: Settings,
    pub(crate) listen: String,
    pub(crate) json: bool,
}

impl Options {
    /// Reads the command line; `None` if it asks for help.
    pub(crate) fn from_command_line() -> Result<Option<Self>, Failure> {
        let mut options = Options {
            time: Duration::from_secs(5),
            backend: None,
            clients: 16,
            load: Load::Ping,
            settings: Settings::Embedded,
            listen: "127.0.0.1:0".to_owned(),
            json: false,
        };
        let mut parser = Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Long("seconds") => options.time = Duration::try_from_secs_f64(parser.value()?.parse()?)?,
                Long("backend") => {
                    let backend: Backend = parser.value()?.string()?.parse()?;
                    options.backend = (backend != Backend::Auto).then_some(backend);
                }
                Long("clients") => options.clients = parser.value()?.parse()?,
                Long("load") => {
                    options.load = match parser.value()?.string()?.as_str() {
                        "bulk" => Load::Bulk,
                        "ping" => Load::Ping,
                        other => return Err(format!("--load {other}: it is bulk or ping").into()),
                    }
                }
                Long("settings") => {
                    options.settings = match parser.value()?.string()?.as_str() {
                        "embedded" => Settings::Embedded,
                        "default" => Settings::Default,
                        other => return Err(format!("--settings {other}: it is embedded or default").into()),
                    }
                }
                Long("listen") => options.listen = parser.value()?.string()?,
                Long("json") => options.json = true,
                Long("help") | Short('h') => {
                    println!("{HELP}");
                    return Ok(None);
                }
                Long(_) | Short(_) | Value(_) => return Err(argument.unexpected().into()),
            }
        }
        Ok(Some(options))
    }
}
