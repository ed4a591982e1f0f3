//! The two halves in processes of their own.

use crate::options::Options;
use crate::pattern::Pattern;
use crate::report::{Progress, Report};
use crate::watch::Watch;
use crate::{Result, connections};
use std::io::Write;
use std::sync::Arc;
use trochus::net::ToAddresses;

/// Serves one client after another, or several at once, until SIGINT or SIGTERM.
pub(crate) fn serve(options: &Options, listen: &str) -> Result<()> {
    let [backend] = options.backends[..] else {
        return Err("a server runs on one backend; name it with --backend".into());
    };
    let runtime = options.runtime(backend, options.reactors, 0).build()?;
    let watch = Arc::new(Watch::default());
    let server = connections::serve(&runtime, listen, &Pattern::new(), &watch)?;
    println!("listening on {} via {}", server.local_addr(), runtime.backend());
    std::io::stdout().flush()?;
    runtime.run_until_interrupted()?;
    connections::check(&watch)?;
    println!("{} bytes from clients were right", watch.verified());
    Ok(())
}

/// Runs the experiments that need only this end.
pub(crate) fn client(options: &Options, connect: &str, report: Report<'_>) -> Result<()> {
    let server = connect.to_addresses()?.swap_remove(0);
    for experiment in &options.experiments {
        if let Some(client) = experiment.client {
            client(options, &server, &mut Progress::new(experiment.name), report)?;
        }
    }
    Ok(())
}
