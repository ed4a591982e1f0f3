//! How many connections the process may have.

use crate::Result;
use crate::options::{Options, Role};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the process opens besides connections, generously.
const OTHERS: u64 = 100;

/// Raises the limit of descriptors as far as the process may, and says so if that is not enough for what was asked for.
pub(crate) fn allow(options: &Options) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    // Fails where the hard limit is more than the kernel takes; then the soft one stays.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let Some(most) = getrlimit(Resource::Nofile).current else { return Ok(()) };
    let Some(connections) = options.connections else { return Ok(()) };
    let ends = if matches!(options.role, Role::Both) { 2 } else { 1 };
    let needed = ends * connections as u64 + OTHERS;
    if needed > most {
        let possible = most.saturating_sub(OTHERS) / ends;
        return Err(format!(
            "{connections} connections need {needed} descriptors and this process may have {most} (the hard limit of \
             `ulimit -n`): ask for at most {possible} connections, or raise the limit"
        )
        .into());
    }
    Ok(())
}
