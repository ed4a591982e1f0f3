//! What this machine offers, and why: the kernel, the backend that `Auto` chose, and what that backend can do.
//!
//! `cargo run --example capabilities` prints a line for each, `cargo run --example capabilities -- --json` one JSON object.
//! Worth putting first into a report about anything that this library does on your machine.

use std::process::{Command, ExitCode};
use trochus::{Backend, Capabilities, Runtime};

struct Report {
    kernel: String,
    backend: Backend,
    reason: String,
    capabilities: Capabilities,
}

impl Report {
    fn new() -> trochus::Result<Self> {
        let runtime = Runtime::builder().reactors(1).build()?;
        let backend = runtime.backend();
        Ok(Report {
            kernel: kernel(),
            backend,
            reason: runtime.reactor_info(0).backend_reason.clone(),
            capabilities: runtime.capabilities(),
        })
    }

    fn features(&self) -> [(&'static str, bool); 5] {
        let Capabilities {
            batched_submission,
            multishot_receive,
            multishot_accept,
            provided_buffers,
            deferred_task_work,
        } = self.capabilities;
        [
            ("batched_submission", batched_submission),
            ("multishot_receive", multishot_receive),
            ("multishot_accept", multishot_accept),
            ("provided_buffers", provided_buffers),
            ("deferred_task_work", deferred_task_work),
        ]
    }

    fn print(&self) {
        println!("kernel: {}", self.kernel);
        println!("backend: {}", self.backend);
        println!("reason: {}", self.reason);
        for (name, present) in self.features() {
            println!("{name}: {}", if present { "yes" } else { "no" });
        }
    }

    fn print_json(&self) {
        let features: Vec<String> =
            self.features().iter().map(|(name, present)| format!("\"{name}\":{present}")).collect();
        println!(
            "{{\"kernel\":{},\"backend\":\"{}\",\"reason\":{},\"capabilities\":{{{}}}}}",
            json_string(&self.kernel),
            self.backend,
            json_string(&self.reason),
            features.join(",")
        );
    }
}

fn kernel() -> String {
    let uname = Command::new("uname").arg("-sr").output().ok().filter(|output| output.status.success());
    match (std::fs::read_to_string("/proc/sys/kernel/osrelease"), uname) {
        (Ok(release), _) => format!("Linux {}", release.trim()),
        (_, Some(output)) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => std::env::consts::OS.to_owned(),
    }
}

/// What speaks for `chosen`: somebody's wish, or what the other one says when it is asked for by name.
fn json_string(text: &str) -> String {
    let escape = |character: char| match character {
        '"' | '\\' => format!("\\{character}"),
        control if control.is_control() => format!("\\u{:04x}", control as u32),
        other => other.to_string(),
    };
    format!("\"{}\"", text.chars().map(escape).collect::<String>())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let json = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--json"] => true,
        _ => {
            eprintln!("usage: capabilities [--json]");
            return ExitCode::FAILURE;
        }
    };
    match Report::new() {
        Ok(report) if json => report.print_json(),
        Ok(report) => report.print(),
        Err(error) => {
            eprintln!("capabilities: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
