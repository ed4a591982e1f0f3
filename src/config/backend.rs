//! How a reactor reaches the kernel, and what of that can be switched off.

use std::fmt;

/// How a reactor reaches the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Backend {
    /// What the environment variable `TROCHUS_BACKEND` says (`auto`, `io_uring` or `fallback`); if it says nothing, the
    /// best that works here. Why io_uring was passed over is logged once.
    #[default]
    Auto,
    /// io_uring, or an error.
    IoUring,
    /// epoll or kqueue.
    Fallback,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Backend::Auto => "auto",
            Backend::IoUring => "io_uring",
            Backend::Fallback => "fallback",
        })
    }
}

/// A feature of io_uring that can be switched off: against a kernel's bug, or to test what older kernels do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[non_exhaustive]
pub enum UringFeature {
    /// `IORING_SETUP_NO_SQARRAY` (Linux 6.6).
    NoSqArray,
    /// `IORING_SETUP_DEFER_TASKRUN` (6.1).
    DeferTaskRun,
    /// `IORING_SETUP_SINGLE_ISSUER` (6.0).
    SingleIssuer,
    /// `IORING_SETUP_COOP_TASKRUN` (5.19).
    CoopTaskRun,
    /// `IORING_SETUP_SUBMIT_ALL` (5.18).
    SubmitAll,
    /// `IORING_RECV_MULTISHOT` (6.0).
    MultishotReceive,
    /// `IORING_ACCEPT_MULTISHOT` (5.19).
    MultishotAccept,
    /// Provided-buffer rings (5.19). Without them receives are one-shot and wait by polling.
    BufferRing,
    /// Reads of files. Without them threads read.
    FileRead,
}

impl UringFeature {
    pub(crate) const ALL: [(UringFeature, &str); 9] = [
        (UringFeature::NoSqArray, "no_sqarray"),
        (UringFeature::DeferTaskRun, "defer_taskrun"),
        (UringFeature::SingleIssuer, "single_issuer"),
        (UringFeature::CoopTaskRun, "coop_taskrun"),
        (UringFeature::SubmitAll, "submit_all"),
        (UringFeature::MultishotReceive, "multishot_receive"),
        (UringFeature::MultishotAccept, "multishot_accept"),
        (UringFeature::BufferRing, "buffer_ring"),
        (UringFeature::FileRead, "file_read"),
    ];
}

/// A set of [`UringFeature`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct UringFeatures(u16);

impl UringFeatures {
    pub(crate) fn insert(&mut self, feature: UringFeature) {
        self.0 |= 1 << feature as u16;
    }

    #[cfg(any(test, target_os = "linux"))]
    pub(crate) fn contains(self, feature: UringFeature) -> bool {
        self.0 & 1 << feature as u16 != 0
    }

    /// Reads names separated by commas; `Err` is the first that is none.
    pub(crate) fn parse(names: &str) -> Result<Self, &str> {
        let mut set = UringFeatures::default();
        for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let known = UringFeature::ALL.iter().find(|(_, known)| *known == name);
            set.insert(known.ok_or(name)?.0);
        }
        Ok(set)
    }

    pub(crate) fn union(self, other: Self) -> Self {
        UringFeatures(self.0 | other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_read_by_name() {
        let set = UringFeatures::parse("multishot_receive, buffer_ring").unwrap();
        for (feature, _) in UringFeature::ALL {
            let expected = matches!(feature, UringFeature::MultishotReceive | UringFeature::BufferRing);
            assert_eq!(set.contains(feature), expected, "{feature:?}");
        }
        assert_eq!(UringFeatures::parse("sqpoll"), Err("sqpoll"));
    }
}
