//! Plain counters, written by one reactor each and merged when somebody reads them.

use crossbeam_utils::CachePadded;
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

/// A counter that one thread writes and any thread reads.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// A load and a store: there is one writer, so no read-modify-write is needed.
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! metrics {
    ($($name:ident: $kind:literal, $help:literal;)*) => {
        /// A reactor's counters. The padding keeps its writes off the cache lines of others.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        /// What a reactor, or a whole runtime, has done so far.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Metrics {
            $(#[doc = $help] pub $name: u64,)*
        }

        impl Counters {
            pub(crate) fn read(&self) -> Metrics {
                Metrics { $($name: self.$name.get(),)* }
            }
        }

        impl Metrics {
            /// Adds another reactor's figures.
            pub fn merge(&mut self, other: &Metrics) {
                $(self.$name += other.$name;)*
            }

            fn each(&self, mut visit: impl FnMut(&str, &str, &str, u64)) {
                $(visit(stringify!($name), $kind, $help.trim(), self.$name);)*
            }
        }
    };
}

metrics! {
    connections_opened: "counter", " Connections that were accepted or established.";
    connections_closed: "counter", " Connections that have ended, for whatever reason.";
    connections_cut_off: "counter", " Connections that had not finished when the time to finish was over.";
    connections_refused: "counter", " Connections that were turned away, by their server or at its limit.";
    peers_over_limit: "counter", " Those of them that were turned away because their peer had too many, or came too often.";
    connects_failed: "counter", " Connection attempts that came to nothing.";
    handshakes_failed: "counter", " Connections that ended before the handshake was over.";
    handshake_timeouts: "counter", " Those of them whose peer did not finish it in time.";
    proxy_headers_refused: "counter", " Connections that were closed because their peer sent no header of the PROXY protocol, or may not.";
    handshakes_delayed: "counter", " Connections whose handshake had to wait for others to end.";
    connections_reset: "counter", " Connections that ended with a socket's error.";
    connections_over_limit: "counter", " Connections that were closed because they exceeded a limit.";
    opening_timeouts: "counter", " Connections that were closed because their peer said nothing at all for too long.";
    message_timeouts: "counter", " Connections that were closed because their peer took too long for the rest of a message.";
    idle_timeouts: "counter", " Connections that were closed because nothing moved for too long.";
    write_stalls: "counter", " Connections that were closed because their peer took none of the output for too long.";
    slow_readers: "counter", " Connections that were closed because their peer took too little of the output.";
    flush_timeouts: "counter", " Connections whose peer took too long for the last of the output.";
    close_timeouts: "counter", " Connections whose peer did not end its side in time.";
    lifetimes_over: "counter", " Connections that were asked to end because of their age.";
    lifetimes_exceeded: "counter", " Those of them that did not, and were cut off.";
    memory_refused: "counter", " Connections that were turned away because memory was scarce.";
    memory_closed: "counter", " Connections that were closed because they held the most of it.";
    output_limits: "counter", " Connections that were closed because too much output waited.";
    input_limits: "counter", " Connections that were closed because their handler left too much unconsumed.";
    files_failed: "counter", " Connections that were reset because a file that was to be sent could not be read.";
    handler_panics: "counter", " Panics in handlers, each of which closed its connection, and in actions handed to a reactor.";
    internal_panics: "counter", " Panics below the handlers, each of which ended at most the connections that it concerned: bugs of this library.";
    accept_backoffs: "counter", " Times that a listener rested because the process had run out of descriptors.";
    received_bytes: "counter", " Bytes that arrived.";
    receives: "counter", " Receives that brought them.";
    sent_bytes: "counter", " Bytes that the kernel took.";
    sends: "counter", " Sends that it took them from.";
    short_sends: "counter", " Sends that took only a part and were continued.";
    file_reads: "counter", " Reads of files that were to be sent.";
    file_bytes: "counter", " Bytes that they brought.";
    pool_parks: "counter", " Receives that had to wait for a buffer of the pool.";
    reads_paused: "counter", " Times that reading paused because output was waiting.";
    turns: "counter", " Turns of the run loop.";
    enters: "counter", " Entries into the kernel to submit or wait.";
    completions: "counter", " Completions that were reaped.";
    completion_overflows: "counter", " Entries into the kernel around which completions found their queue full; they came late, and none was lost.";
    commands: "counter", " Commands from other threads.";
    wakes_sent: "counter", " Times that another thread had to signal a sleeping reactor.";
    wakes_saved: "counter", " Times that it found the reactor awake and did not have to.";
    writes_refused: "counter", " Writes by other threads that found no room; those who wait are counted each time they look.";
    sleeps: "counter", " Times that the reactor slept.";
    asleep_us: "counter", " Time spent asleep, in microseconds.";
    reactor_failures: "counter", " Reactors that have ended without being asked to.";
    timers_fired: "counter", " Timers that expired.";
}

/// What became of the connections when a server or a runtime was stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// Connections that ended before the grace was over.
    pub closed: u64,
    /// Connections that had not finished by then, and were reset.
    pub cut_off: u64,
}

impl Drained {
    pub(crate) fn new(closed: u64, cut_off: u64) -> Self {
        Drained { closed, cut_off }
    }
}

pub(crate) type PaddedCounters = CachePadded<Counters>;

impl Metrics {
    /// Connections that are open now.
    pub fn connections(&self) -> u64 {
        self.connections_opened.saturating_sub(self.connections_closed)
    }

    /// Completions an entry into the kernel: how well the ring batches.
    pub fn completions_per_enter(&self) -> f64 {
        self.completions as f64 / self.enters.max(1) as f64
    }

    /// Bytes a receive brings: how well the stream batches.
    pub fn bytes_per_receive(&self) -> f64 {
        self.received_bytes as f64 / self.receives.max(1) as f64
    }

    /// The text that a Prometheus server scrapes (exposition format 0.0.4).
    ///
    /// ```
    /// # let metrics = trochus::Metrics::default();
    /// assert!(metrics.to_prometheus().contains("# TYPE trochus_received_bytes_total counter\n"));
    /// ```
    pub fn to_prometheus(&self) -> String {
        Self::text(&[(String::new(), *self)])
    }

    /// The same for several reactors: each metric of each, with the index as a label.
    ///
    /// ```
    /// # let metrics = trochus::Metrics::default();
    /// let text = trochus::Metrics::to_prometheus_by_reactor(&[metrics, metrics]);
    /// assert!(text.contains("trochus_sends_total{reactor=\"1\"} 0\n"));
    /// ```
    pub fn to_prometheus_by_reactor(reactors: &[Metrics]) -> String {
        let labelled = reactors.iter().enumerate();
        let labelled = labelled.map(|(index, metrics)| (format!("{{reactor=\"{index}\"}}"), *metrics));
        Self::text(&labelled.collect::<Vec<_>>())
    }

    fn text(of: &[(String, Metrics)]) -> String {
        let mut text = String::new();
        Self::write_prometheus(of, &mut text).expect("a string takes everything");
        text
    }

    fn write_prometheus(of: &[(String, Metrics)], text: &mut String) -> fmt::Result {
        let values = of.iter().map(|(label, metrics)| {
            let mut values = Vec::new();
            metrics.each(|_, _, _, value| values.push(value));
            (label, values.into_iter())
        });
        let mut values: Vec<_> = values.collect();
        let mut result = Ok(());
        Metrics::default().each(|name, kind, help, _| {
            result = result.and_then(|()| {
                writeln!(text, "# HELP trochus_{name}_total {help}")?;
                writeln!(text, "# TYPE trochus_{name}_total {kind}")?;
                values.iter_mut().try_for_each(|(label, values)| {
                    writeln!(text, "trochus_{name}_total{label} {}", values.next().unwrap_or_default())
                })
            });
        });
        result?;
        writeln!(text, "# HELP trochus_connections Connections that are open now.")?;
        writeln!(text, "# TYPE trochus_connections gauge")?;
        of.iter().try_for_each(|(label, metrics)| {
            writeln!(text, "trochus_connections{label} {}", metrics.connections())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_adds_and_the_text_names_every_counter_once() {
        let counters = Counters::default();
        counters.sends.add(2);
        counters.sends.add(3);
        let mut metrics = counters.read();
        metrics.merge(&counters.read());
        assert_eq!(metrics.sends, 10);
        let text = metrics.to_prometheus();
        assert_eq!(text.matches("\ntrochus_sends_total 10\n").count(), 1);
        let labelled = Metrics::to_prometheus_by_reactor(&[counters.read(), metrics]);
        assert!(labelled.contains(
            "counter\ntrochus_sends_total{reactor=\"0\"} 5\ntrochus_sends_total{reactor=\"1\"} 10\n"
        ));
        assert_eq!(labelled.matches("# TYPE ").count(), text.matches("# TYPE ").count());
        metrics.each(|name, _, _, _| {
            assert_eq!(text.matches(&format!("# TYPE trochus_{name}_total ")).count(), 1);
        });
    }
}
