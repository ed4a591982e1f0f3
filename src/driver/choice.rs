//! Which backend, and why not the other one.

use super::Driver;
use crate::config::{Backend, PoolConfig, RingEntries, UringFeatures};
use crate::error::{Error, Result};
use std::io;
use std::str::FromStr;
use std::thread;

const EMBEDDED_REASON: &str =
    "it is embedded, and with io_uring the kernel would interrupt what else this thread waits for";

impl Backend {
    /// The backends that work on this machine, the best one first.
    pub fn available() -> Vec<Backend> {
        let probe = || {
            let pool =
                PoolConfig { buffers: 1, buffer_bytes: 4096, small_buffers: 0, ..PoolConfig::default() };
            open_uring(&pool, &Choice::default()).is_ok()
        };
        // On a thread of its own: some while after a ring has ended, the kernel interrupts what its thread waits in.
        let probing = thread::Builder::new().spawn(probe);
        let io_uring = probing.map_or_else(|_| probe(), |probing| probing.join().unwrap_or(false));
        if io_uring { vec![Backend::IoUring, Backend::Fallback] } else { vec![Backend::Fallback] }
    }
}

impl FromStr for Backend {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(Backend::Auto),
            "io_uring" => Ok(Backend::IoUring),
            "fallback" => Ok(Backend::Fallback),
            _ => Err(Error::UnknownBackend(name.to_owned())),
        }
    }
}

/// What a builder and the environment ask for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Choice {
    pub(crate) backend: Backend,
    /// Where nobody names a backend, it is the fallback: somebody else's loop waits on this thread.
    pub(crate) embedded: bool,
    pub(crate) without: UringFeatures,
    pub(crate) entries: RingEntries,
}

/// A backend, and why it is this one.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) driver: Driver,
    pub(crate) reason: String,
}

/// Opens the backend that was asked for, on the thread that will use it.
pub(crate) fn choose(choice: Choice, pool: &PoolConfig) -> Result<Chosen> {
    let (backend, asked_by) = asked(choice.backend)?;
    let choice = Choice { without: features_from_environment(choice.without)?, ..choice };
    let asked_for = |driver| Chosen { driver, reason: format!("{asked_by} asks for it") };
    match backend {
        Backend::Fallback => open_fallback(pool).map(asked_for),
        Backend::IoUring => open_uring(pool, &choice).map(asked_for).map_err(|source| {
            let advice = advice(&source);
            Error::BackendUnavailable { backend, advice, source }
        }),
        Backend::Auto if choice.embedded => {
            Ok(Chosen { driver: open_fallback(pool)?, reason: EMBEDDED_REASON.to_owned() })
        }
        Backend::Auto => match open_uring(pool, &choice) {
            Ok(driver) => Ok(Chosen { driver, reason: "io_uring works here, which is preferred".to_owned() }),
            Err(error) => {
                let advice = advice(&error);
                crate::log::io_uring_unavailable(&error, &advice);
                let reason = format!("io_uring does not work here: {error} ({advice})");
                Ok(Chosen { driver: open_fallback(pool)?, reason })
            }
        },
    }
}

/// The backend that is asked for, and who asks for it.
fn asked(by_builder: Backend) -> Result<(Backend, &'static str)> {
    match std::env::var("TROCHUS_BACKEND") {
        Ok(name) if by_builder == Backend::Auto && !name.is_empty() => Ok((name.parse()?, "TROCHUS_BACKEND")),
        _ => Ok((by_builder, "the builder")),
    }
}

fn features_from_environment(without: UringFeatures) -> Result<UringFeatures> {
    let Ok(names) = std::env::var("TROCHUS_IO_URING_WITHOUT") else { return Ok(without) };
    let named = UringFeatures::parse(&names).map_err(|name| Error::UnknownFeature(name.to_owned()))?;
    Ok(without.union(named))
}

fn open_fallback(pool: &PoolConfig) -> Result<Driver> {
    Driver::readiness(pool).map_err(|source| {
        let advice = "raise `ulimit -n` if descriptors ran out".to_owned();
        Error::BackendUnavailable { backend: Backend::Fallback, advice, source }
    })
}

#[cfg(target_os = "linux")]
fn open_uring(pool: &PoolConfig, choice: &Choice) -> io::Result<Driver> {
    Driver::uring(pool, choice)
}

#[cfg(not(target_os = "linux"))]
fn open_uring(_pool: &PoolConfig, _choice: &Choice) -> io::Result<Driver> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(target_os = "linux")]
fn advice(error: &io::Error) -> String {
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    let disabled = disabled.trim();
    match error.raw_os_error() {
        Some(libc::EPERM) if matches!(disabled, "1" | "2") => {
            format!("kernel.io_uring_disabled is {disabled}; `sysctl kernel.io_uring_disabled=0` allows io_uring")
        }
        Some(libc::EPERM | libc::EACCES) => {
            "a seccomp filter or a security module forbids io_uring, as containers' defaults do; allow io_uring_setup, \
             io_uring_enter and io_uring_register"
                .to_owned()
        }
        Some(libc::ENOSYS) => "this kernel was built without io_uring, is older than Linux 5.1, or a seccomp filter \
                               hides it; allow io_uring_setup, io_uring_enter and io_uring_register"
            .to_owned(),
        Some(libc::ENOMEM) => "the limit on locked memory is too small for a ring on this kernel; raise it with \
                               `ulimit -l` or LimitMEMLOCK="
            .to_owned(),
        Some(libc::EMFILE | libc::ENFILE) => "out of descriptors; raise `ulimit -n`".to_owned(),
        Some(libc::EINVAL) | None => "this kernel's io_uring is too old; Linux 5.11 is the oldest that works".to_owned(),
        _ => "io_uring cannot be set up here".to_owned(),
    }
}

#[cfg(not(target_os = "linux"))]
fn advice(_error: &io::Error) -> String {
    "io_uring is a part of Linux".to_owned()
}
