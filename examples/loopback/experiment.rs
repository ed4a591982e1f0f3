//! What can be measured. A new experiment is a module with a [`Experiment`], and a line in [`EXPERIMENTS`].

use crate::options::Options;
use crate::report::{Progress, Report};
use crate::{Result, bandwidth, echo, json, open_loop, pingpong};
use trochus::net::Address;

#[derive(Debug)]
pub(crate) struct Experiment {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// Both ends in this process, compared with plain sockets. Each row is passed on as soon as it is there.
    pub(crate) run: fn(&Options, &mut Progress, Report<'_>) -> Result<()>,
    /// The client's end only, where there is such a thing.
    pub(crate) client: Option<Client>,
}

pub(crate) type Client = fn(&Options, &Address, &mut Progress, Report<'_>) -> Result<()>;

pub(crate) static EXPERIMENTS: &[Experiment] = &[
    bandwidth::BULK,
    bandwidth::DUPLEX,
    pingpong::PING_PONG,
    echo::ECHO4,
    echo::ECHO4_SHARED,
    echo::ECHO276,
    json::JSON,
    open_loop::LATENCY,
];
