//! The command line.

use crate::Failure;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use trochus::Backend;

pub(crate) struct Options {
    /// Subscribers come from elsewhere.
    pub(crate) listen: Option<String>,
    pub(crate) backends: Vec<Backend>,
    pub(crate) reactors: usize,
    pub(crate) rate: f64,
    pub(crate) subscribers: usize,
    /// Those of them that never read.
    pub(crate) slow: usize,
    pub(crate) seconds: Option<Duration>,
    pub(crate) linger: Duration,
    pub(crate) policy: Policy,
    /// Bytes that may wait for a subscriber before it is behind.
    pub(crate) limit: usize,
    /// How long the publisher waits for who is behind.
    pub(crate) wait: Duration,
    pub(crate) json: bool,
}

/// What becomes of a subscriber that is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// The publisher waits for it, and closes it when that takes too long.
    Wait,
    /// It gets the newest message once it has taken what waits, and is told how many it missed.
    Conflate,
    /// It is closed at once.
    Disconnect,
}

impl FromStr for Policy {
    type Err = Failure;

    fn from_str(name: &str) -> Result<Self, Failure> {
        match name {
            "wait" => Ok(Policy::Wait),
            "conflate" => Ok(Policy::Conflate),
            "disconnect" => Ok(Policy::Disconnect),
            _ => Err(format!("--policy is wait, conflate or disconnect, not `{name}`").into()),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Policy::Wait => "wait",
            Policy::Conflate => "conflate",
            Policy::Disconnect => "disconnect",
        })
    }
}

impl Options {
    /// `None` if only help was asked for.
    pub(crate) fn from_command_line() -> Result<Option<Self>, Failure> {
        use lexopt::prelude::{Long, ValueExt};
        let mut options = Options {
            listen: None,
            backends: vec![Backend::Auto],
            reactors: 1,
            rate: 100_000.0,
            subscribers: 10,
            slow: 0,
            seconds: None,
            linger: Duration::from_millis(1),
            policy: Policy::Disconnect,
            limit: 4 << 20,
            wait: Duration::from_secs(1),
            json: false,
        };
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                Long("listen") => options.listen = Some(arguments.value()?.string()?),
                Long("backend") => {
                    let name = arguments.value()?.string()?;
                    options.backends = if name == "all" { Backend::available() } else { vec![name.parse()?] };
                }
                Long("reactors") => options.reactors = arguments.value()?.parse()?,
                Long("rate") => options.rate = arguments.value()?.parse::<f64>()?.clamp(1.0, 1e8),
                Long("subscribers") => options.subscribers = arguments.value()?.parse()?,
                Long("slow") => options.slow = arguments.value()?.parse()?,
                Long("seconds") => {
                    let seconds = arguments.value()?.parse::<f64>()?.clamp(0.1, 3600.0);
                    options.seconds = Some(Duration::from_secs_f64(seconds));
                }
                Long("linger-us") => {
                    options.linger = Duration::from_micros(arguments.value()?.parse::<u64>()?.min(1_000_000))
                }
                Long("policy") => options.policy = arguments.value()?.string()?.parse()?,
                Long("limit") => options.limit = arguments.value()?.parse::<usize>()?.clamp(4 << 10, 1 << 30),
                Long("wait-ms") => {
                    options.wait =
                        Duration::from_millis(arguments.value()?.parse::<u64>()?.clamp(1, 3_600_000))
                }
                Long("json") => options.json = true,
                Long("help") => {
                    println!("{HELP}");
                    return Ok(None);
                }
                other => return Err(other.unexpected().into()),
            }
        }
        if options.slow >= options.subscribers {
            return Err("of the --subscribers, at least one is not --slow".into());
        }
        Ok(Some(options))
    }

    /// Of a measurement.
    pub(crate) fn time(&self) -> Duration {
        self.seconds.unwrap_or(Duration::from_secs(5))
    }
}

const HELP: &str = "\
broadcast [OPTIONS]

  --backend NAME     auto, io_uring, fallback or all, one after the other (auto)
  --reactors N       threads that write to subscribers (1)
  --rate N           messages a second, of 16 bytes (100000)
  --subscribers N    how many there are (10)
  --slow N           those of them that never read (0)
  --seconds S        time of a measurement (5); with --listen, after which it ends (never)
  --linger-us N      messages of so many microseconds are one batch; 0: what is due when the publisher looks (1000)
  --policy NAME      what becomes of who is behind (disconnect):
                       wait        the publisher waits, and closes who keeps it waiting for too long
                       conflate    it gets the newest message once it has taken what waits, and the number it missed
                       disconnect  it is closed
  --limit BYTES      who has more waiting is behind (4194304)
  --wait-ms N        so long the publisher waits (1000)
  --json             one JSON object a line
  --listen ADDR      only publishes, to whoever connects, until SIGINT or SIGTERM or --seconds are over";
