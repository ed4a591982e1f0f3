//! What a server has done so far.

use crossbeam_utils::CachePadded;
use std::cell::Cell;
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// A counter that several threads may write.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    #[inline]
    pub(super) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Powers of two of microseconds: the last one is more than a week.
const BUCKETS: usize = 40;

macro_rules! server_metrics {
    ($($name:ident: $help:literal;)*) => {
        /// One thread's share.
        #[derive(Debug, Default)]
        pub(super) struct Tally {
            $(pub(super) $name: Count,)*
            latencies: Latencies<Count>,
        }

        /// What a [`Server`](crate::rpc::Server) has done so far.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct ServerMetrics {
            $(#[doc = $help] pub $name: u64,)*
            /// How long requests took whose reply was not sent at once, from the service's call to the response's place in the
            /// output.
            pub late_latency: Latency,
        }

        impl ServerMetrics {
            fn add(&mut self, tally: &Tally) {
                $(self.$name += tally.$name.get();)*
                for (sum, count) in self.late_latency.0.0.iter_mut().zip(&tally.latencies.0) {
                    *sum += count.get();
                }
            }

            fn each(&self, mut visit: impl FnMut(&str, &str, u64)) {
                $(visit(stringify!($name), $help.trim(), self.$name);)*
            }
        }
    };
}

server_metrics! {
    requests: " Requests that services were called for.";
    responses: " Responses that were written, substitutes and parts included.";
    late: " Requests whose reply was not sent while the service was being called.";
    pushed: " Responses that no request asked for.";
    dropped: " Replies that were dropped.";
    panics: " Requests whose service or future panicked, where that did not end the connection.";
    timed_out: " Requests that took longer than the limit.";
    encode_errors: " Responses that could not be encoded.";
    decode_errors: " Connections that ended because the peer sent what is no request.";
    over_limit: " Connections that ended because too many bytes of responses were waiting.";
    peers_timed_out: " Connections that ended because the peer sent nothing, or half a request, for too long.";
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Latencies<T>([T; BUCKETS]);

impl<T: Default> Default for Latencies<T> {
    fn default() -> Self {
        Latencies(std::array::from_fn(|_| T::default()))
    }
}

/// A distribution of times, to the next power of two microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latency(Latencies<u64>);

impl Latency {
    /// How many there were.
    pub fn count(&self) -> u64 {
        self.0.0.iter().sum()
    }

    /// The time that this share of them, from 0 to 1, did not exceed: rounded up to a power of two microseconds. `None` if there
    /// were none.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let wanted = (self.count() as f64 * share.clamp(0.0, 1.0)).ceil().max(1.0) as u64;
        let mut so_far = 0;
        for (bucket, count) in self.0.0.iter().enumerate() {
            so_far += count;
            if so_far >= wanted {
                return Some(Duration::from_micros(1 << bucket));
            }
        }
        None
    }
}

impl Tally {
    pub(super) fn late_took(&self, time: Duration) {
        // Up to 1 µs, up to 2 µs, up to 4 µs, …
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
        let bucket = micros.checked_next_power_of_two().map_or(BUCKETS, |up| up.trailing_zeros() as usize);
        self.latencies.0[bucket.min(BUCKETS - 1)].add(1);
    }
}

/// Threads that count apart from each other; more share.
const SHARES: usize = 16;

/// A server's counters. Reactors count in a place of their own each, as long as there are few of them.
#[derive(Debug, Default)]
pub(super) struct Tallies([CachePadded<Tally>; SHARES]);

impl Tallies {
    /// This thread's.
    pub(super) fn mine(&self) -> &Tally {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static SHARE: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed) % SHARES);
        }
        &self.0[SHARE.get()]
    }

    pub(super) fn read(&self) -> ServerMetrics {
        let mut metrics = ServerMetrics::default();
        self.0.iter().for_each(|tally| metrics.add(tally));
        metrics
    }
}

impl ServerMetrics {
    /// The text that a Prometheus server scrapes (exposition format 0.0.4), each figure with the label `server`.
    pub fn to_prometheus(&self, server: &str) -> String {
        let mut text = String::new();
        self.write_prometheus(server, &mut text).expect("a string takes everything");
        text
    }

    fn write_prometheus(&self, server: &str, text: &mut String) -> fmt::Result {
        let mut result = Ok(());
        self.each(|name, help, value| {
            result = result.and_then(|()| {
                writeln!(text, "# HELP trochus_rpc_{name}_total {help}")?;
                writeln!(text, "# TYPE trochus_rpc_{name}_total counter")?;
                writeln!(text, "trochus_rpc_{name}_total{{server={server:?}}} {value}")
            });
        });
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_counts_and_all_are_read() {
        let tallies = Tallies::default();
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| tallies.mine().requests.add(3));
            }
        });
        tallies.mine().dropped.add(1);
        let metrics = tallies.read();
        assert_eq!((metrics.requests, metrics.dropped), (60, 1));
        let text = metrics.to_prometheus("kv");
        assert!(text.contains("\ntrochus_rpc_requests_total{server=\"kv\"} 60\n"), "{text}");
    }

    #[test]
    fn quantiles_are_rounded_up_to_powers_of_two() {
        let (tallies, micros) = (Tallies::default(), Duration::from_micros);
        assert_eq!(tallies.read().late_latency.quantile(0.5), None);
        for time in [0, 1, 2, 3, 4, 5, 1000, u64::MAX / 2] {
            tallies.mine().late_took(micros(time));
        }
        let latency = tallies.read().late_latency;
        assert_eq!(latency.count(), 8);
        for (share, expected) in
            [(0.0, 1), (0.25, 1), (0.26, 2), (0.5, 4), (0.75, 8), (0.875, 1024), (1.0, 1 << 39)]
        {
            assert_eq!(latency.quantile(share), Some(micros(expected)), "{share}");
        }
    }
}
