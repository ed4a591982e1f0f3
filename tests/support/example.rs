//! The examples, as a user runs them.

use std::path::PathBuf;
use std::process::Command;

/// Cargo builds the examples before the tests, beside the folder of the tests.
pub(crate) fn example(name: &str) -> Command {
    let mut path: PathBuf = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    let path = path.join("examples").join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(path.exists(), "{} is not there: `cargo build --examples` makes it", path.display());
    Command::new(path)
}
