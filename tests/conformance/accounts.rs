//! What must add up after each test, and what happens to a test that hangs.
#![allow(unsafe_code)]

use crate::bridge;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long a test waits for any one event. Generous: it is there to end a hang, not to measure anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// How long a whole test may take before the process is given up.
const WATCHDOG: Duration = Duration::from_secs(150);

/// The mark of a panic that a test provokes.
pub(crate) const INTENDED: &str = "intended by the test";

static RUNNING: Mutex<Option<(String, Instant)>> = Mutex::new(None);

/// Runs a test and compares the process' descriptors before and after it.
pub(crate) fn audited(title: &str, test: impl FnOnce()) {
    bridge::build();
    let before = open_descriptors();
    *RUNNING.lock().unwrap() = Some((title.to_owned(), Instant::now()));
    test();
    bridge::clear();
    *RUNNING.lock().unwrap() = None;
    let after = open_descriptors();
    assert_eq!(before, after, "descriptors that were open before the test, and after it");
}

/// Aborts the process when a test hangs, so that somebody hears which.
pub(crate) fn start_watchdog() {
    std::thread::spawn(|| {
        loop {
            std::thread::sleep(Duration::from_millis(500));
            if let Some((title, start)) = &*RUNNING.lock().unwrap()
                && start.elapsed() > WATCHDOG
            {
                eprintln!("\n{title} has hung for {WATCHDOG:?}: giving up");
                std::process::abort();
            }
        }
    });
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain until {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Panics that tests provoke need no report.
pub(crate) fn keep_quiet_about_intended_panics() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let message = panic.payload().downcast_ref::<String>().map(String::as_str);
        let message = message.or_else(|| panic.payload().downcast_ref::<&str>().copied()).unwrap_or_default();
        if !message.contains(INTENDED) && !message.starts_with("on_bytes consumed") {
            report(panic);
        }
    }));
}

/// The process' open descriptors, found by asking for each: there may be no `/proc`.
pub(crate) fn open_descriptors() -> Vec<i32> {
    // SAFETY: asking for a descriptor's flags touches no memory and changes nothing, whether it is open or not.
    (0..8192).filter(|&descriptor| unsafe { libc::fcntl(descriptor, libc::F_GETFD) } >= 0).collect()
}
