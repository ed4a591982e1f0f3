//! The library's presets, to be measured.

use std::str::FromStr;
use trochus::net::RuntimeBuilder;
use trochus::rpc::ClientOptions;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Preset {
    Throughput,
    Balanced,
    Latency,
}

impl Preset {
    pub(crate) fn runtime(self) -> RuntimeBuilder {
        match self {
            Preset::Throughput => RuntimeBuilder::throughput(),
            Preset::Balanced => RuntimeBuilder::balanced(),
            Preset::Latency => RuntimeBuilder::latency(),
        }
    }

    pub(crate) fn client(self) -> ClientOptions {
        match self {
            Preset::Throughput => ClientOptions::throughput(),
            Preset::Balanced => ClientOptions::balanced(),
            Preset::Latency => ClientOptions::latency(),
        }
    }

    /// Its reactors look for work for longer than any pause of these experiments.
    pub(crate) fn polls_busily(self) -> bool {
        self == Preset::Latency
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Preset::Throughput => "throughput",
            Preset::Balanced => "balanced",
            Preset::Latency => "latency",
        }
    }
}

impl FromStr for Preset {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "throughput" => Ok(Preset::Throughput),
            "balanced" => Ok(Preset::Balanced),
            "latency" => Ok(Preset::Latency),
            other => Err(format!("--preset is `throughput`, `balanced` or `latency`, not `{other}`")),
        }
    }
}
