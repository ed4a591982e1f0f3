//! Opening the best ring that the kernel allows, and the queues of it.
#![allow(unsafe_code)]

use super::entry::{Entry, Raw};
use crate::config::{RingEntries, UringFeature as F, UringFeatures};
use io_uring::{IoUring, types};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

/// `IORING_ENTER_NO_IOWAIT` (Linux 6.15): a sleeping reactor does not count as waiting for a disk.
const ENTER_NO_IOWAIT: u32 = 1 << 7;
const ENTER_GETEVENTS: u32 = 1 << 0;
const ENTER_EXT_ARG: u32 = 1 << 3;

/// The ring: its queues, and the flags to enter the kernel with.
pub(super) struct Ring {
    ring: IoUring,
    enter_flags: u32,
    deferred: bool,
    /// The kernel says when there is completion work (`IORING_SETUP_TASKRUN_FLAG`).
    announces_work: bool,
}

impl Ring {
    /// Tries the flags of the newest kernel first, then gives up one after the other.
    pub(super) fn open(entries: RingEntries, without: UringFeatures) -> io::Result<Self> {
        // Each row is what an older kernel refuses the row before for.
        const ATTEMPTS: [&[F]; 5] = [
            &[F::SubmitAll, F::SingleIssuer, F::DeferTaskRun, F::NoSqArray],
            &[F::SubmitAll, F::SingleIssuer, F::DeferTaskRun],
            &[F::SubmitAll, F::SingleIssuer, F::CoopTaskRun],
            &[F::SubmitAll, F::CoopTaskRun],
            &[],
        ];
        let mut refused = None;
        for attempt in ATTEMPTS {
            let wanted = |feature| attempt.contains(&feature) && !without.contains(feature);
            match build(entries, wanted) {
                Ok(ring) => {
                    let deferred = wanted(F::DeferTaskRun) && wanted(F::SingleIssuer);
                    return Ring::over(ring, deferred, deferred || wanted(F::CoopTaskRun));
                }
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(refused.expect("there is an attempt"))
    }

    fn over(ring: IoUring, deferred: bool, announces_work: bool) -> io::Result<Self> {
        let parameters = ring.params();
        // Without these a wait could not time out, and completions could be lost.
        if !parameters.is_feature_ext_arg() || !parameters.is_feature_nodrop() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this kernel's io_uring lacks timed waits (Linux 5.11)",
            ));
        }
        let no_iowait = if parameters.is_feature_no_iowait() { ENTER_NO_IOWAIT } else { 0 };
        Ok(Ring { ring, enter_flags: ENTER_GETEVENTS | ENTER_EXT_ARG | no_iowait, deferred, announces_work })
    }

    /// Completion work runs only when this thread enters the kernel.
    pub(super) fn is_deferred(&self) -> bool {
        self.deferred
    }

    pub(super) fn descriptor(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    /// Queues an entry, unless the queue is full.
    #[must_use]
    pub(super) fn push(&mut self, entry: &Entry) -> bool {
        // SAFETY: what the entry points to stays put until its final completion: `Uring::operations` keeps it.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    pub(super) fn is_full(&mut self) -> bool {
        self.ring.submission().is_full()
    }

    /// Submits everything, as far as the kernel takes it, and waits for a completion, unless one is there or the timeout is
    /// zero.
    pub(super) fn enter(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let want = if timeout == Some(Duration::ZERO) || !self.ring.completion().is_empty() { 0 } else { 1 };
        self.enter_kernel(want, timeout)
            .or_else(|error| if is_back_pressure(&error) { Ok(()) } else { Err(error) })
    }

    fn enter_kernel(&mut self, want: u32, timeout: Option<Duration>) -> io::Result<()> {
        let submit = self.ring.submission().len() as u32;
        let timespec;
        let arguments = match timeout {
            Some(timeout) if want > 0 => {
                timespec = types::Timespec::from(timeout);
                types::SubmitArgs::new().timespec(&timespec)
            }
            _ => types::SubmitArgs::new(),
        };
        // SAFETY: the flags say that the argument is the extended one, whose layout `SubmitArgs` has, and the timespec
        // that it points to outlives the call. What the submitted entries point to is `push`'s contract.
        let result = unsafe { self.ring.submitter().enter(submit, want, self.enter_flags, Some(&arguments)) };
        result.map(drop)
    }

    /// Whether entering the kernel would get something done that the descriptor announces only once, or not at all:
    /// entries that wait to be submitted (a completion can lead to one), and completion work beyond what the kernel does
    /// in one go.
    pub(super) fn has_work(&mut self) -> bool {
        let submission = self.ring.submission();
        let waiting = !submission.is_empty() || submission.taskrun();
        drop(submission);
        waiting || !self.ring.completion().is_empty()
    }

    /// Moves everything that completed to `into`.
    pub(super) fn reap(&mut self, into: &mut Vec<Raw>) {
        into.extend(self.ring.completion().map(Raw::from));
    }

    /// Whether completions found the queue full. The kernel has kept them and delivers them when it is entered.
    pub(super) fn has_overflowed(&mut self) -> bool {
        self.ring.submission().cq_overflow()
    }

    /// Whether completions are there, or completion work that makes some. Asks the kernel nothing.
    pub(super) fn may_have_completed(&mut self) -> bool {
        let submission = self.ring.submission();
        let work = !self.announces_work || submission.taskrun() || submission.cq_overflow();
        drop(submission);
        work || !self.ring.completion().is_empty()
    }

    /// # Safety
    ///
    /// At `address` lie `buffers` zeroed entries, page-aligned, until the ring is closed.
    pub(super) unsafe fn register_buffers(
        &mut self,
        address: u64,
        buffers: u16,
        group: u16,
    ) -> io::Result<()> {
        // SAFETY: the caller's promise is the one that the kernel needs.
        unsafe { self.ring.submitter().register_buf_ring_with_flags(address, buffers, group, 0) }
    }
}

/// Interrupted, timed out, or told to take completions first: back-pressure, not failure.
fn is_back_pressure(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::ETIME | libc::EAGAIN | libc::EBUSY))
}

fn build(entries: RingEntries, wanted: impl Fn(F) -> bool) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.dontfork().setup_clamp().setup_cqsize(entries.completion);
    if wanted(F::SubmitAll) {
        builder.setup_submit_all();
    }
    if wanted(F::SingleIssuer) {
        builder.setup_single_issuer();
    }
    if wanted(F::DeferTaskRun) && wanted(F::SingleIssuer) {
        builder.setup_defer_taskrun().setup_taskrun_flag();
    } else if wanted(F::CoopTaskRun) {
        builder.setup_coop_taskrun().setup_taskrun_flag();
    }
    if wanted(F::NoSqArray) {
        builder.setup_no_sqarray();
    }
    builder.build(entries.submission)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_pressure_is_no_failure() {
        for number in [libc::EINTR, libc::ETIME, libc::EAGAIN, libc::EBUSY] {
            assert!(is_back_pressure(&io::Error::from_raw_os_error(number)), "{number}");
        }
        for number in [libc::EBADF, libc::EBADR, libc::EINVAL, libc::EFAULT, libc::EEXIST] {
            assert!(!is_back_pressure(&io::Error::from_raw_os_error(number)), "{number}");
        }
    }
}
