//! For a reactor that lingers: it leaves items in their lanes until there are enough of them.

use super::Consumer;
use crate::batch::lane::ring::Reader;
use crate::batch::wait::gate::{ASLEEP, LINGERING, STOPPED};

impl<T> Consumer<T> {
    /// As [`prepare_sleep`](Self::prepare_sleep), but `notify` is called only when there may be so many items in all, when a lane is
    /// half full, or for an event. Called early now and then, never too late.
    pub(crate) fn prepare_sleep_until(&mut self, items: usize) {
        self.came_back();
        self.shared.counters.sleep();
        self.arm_for(items);
    }

    /// As [`is_ready`](Self::is_ready), behind [`prepare_sleep_until`](Self::prepare_sleep_until). A flush that a `drain` came upon
    /// is a reason until it is [taken](Self::take_flush).
    pub(crate) fn is_ready_lingering(&self) -> bool {
        self.flush_seen || self.has_reason(true)
    }

    /// Arms for when there may be so many items in the lanes: those that are missing come by equal shares, or one lane gets more
    /// than its share. A lane that is added wakes a consumer that lingers.
    pub(super) fn arm_for(&mut self, items: usize) {
        // Looked at once: what comes in between must not count as missing and then not as new.
        self.looked.clear();
        self.looked.extend(self.lanes.iter().map(Reader::pending));
        let missing = items.saturating_sub(self.looked.iter().sum());
        let share = missing.div_ceil(self.lanes.len().max(1));
        for (lane, &pending) in self.lanes.iter_mut().zip(&self.looked) {
            lane.set_alarm(pending, share);
        }
        self.shared.gate.arm(ASLEEP | LINGERING);
    }

    /// Whether pushes are refused, so that nothing will come to what is in the lanes.
    pub(crate) fn is_stopped(&self) -> bool {
        self.shared.gate.synced_state() & STOPPED != 0
    }

    /// Has pushes refused from now on; what was accepted before remains to be taken.
    pub(crate) fn stop_accepting(&self) {
        self.shared.gate.stop(0);
    }

    /// Whether a flush was asked for since the last time.
    pub(crate) fn take_flush(&mut self) -> bool {
        self.look_for_flush();
        std::mem::take(&mut self.flush_seen)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use crate::batch::Batcher;
    use std::future::Future;
    use std::time::Duration;

    #[test]
    fn a_flush_that_comes_while_items_are_taken_is_not_forgotten() {
        let (batcher, mut consumer) = Batcher::builder().linger(Duration::from_secs(3600)).build();
        let mut producer = batcher.producer();
        assert!(!consumer.take_flush());
        // Behind the look for a flush, before the look into the lanes.
        producer.push(1).unwrap();
        producer.flush();
        assert_eq!(consumer.drain(10, |_| ()), 1);
        consumer.prepare_sleep_until(9);
        assert!(consumer.is_ready_lingering());
        consumer.cancel_sleep();
        assert!(consumer.take_flush());
        consumer.prepare_sleep_until(9);
        assert!(!consumer.is_ready_lingering());
    }

    /// A lane that is full of one large item is full: who waits there would linger as well.
    #[test]
    fn who_waits_at_a_lane_that_is_full_of_bytes_does_not_linger() {
        let builder =
            Batcher::builder().linger(Duration::from_secs(3600)).weigh(|_: &i32| 100).lane_bytes(100);
        let (batcher, mut consumer) = builder.build();
        let mut producer = batcher.producer();
        assert_eq!(consumer.drain(9, |_| ()), 0);
        // Behind the look into the lanes, before the consumer says that it sleeps.
        producer.push(1).unwrap();
        let mut waiting = std::pin::pin!(producer.push_async(2));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        consumer.prepare_sleep_until(9);
        assert!(consumer.is_ready_lingering());
        consumer.cancel_sleep();
        assert_eq!(consumer.drain(9, |_| ()), 1);
        assert!(waiting.as_mut().poll(&mut context).is_ready());
    }
}
