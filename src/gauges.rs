//! What a reactor has at the moment, counted when somebody asks.

use std::fmt::{self, Write};

macro_rules! gauges {
    ($($name:ident: $help:literal;)*) => {
        /// What a reactor has at the moment. Counted when it is asked for, by looking at each connection, so that it costs nothing
        /// otherwise: for a scrape now and then, not for each turn.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Gauges {
            $(#[doc = $help] pub $name: u64,)*
        }

        impl Gauges {
            /// Adds another reactor's.
            pub fn merge(&mut self, other: &Gauges) {
                $(self.$name += other.$name;)*
            }

            fn names() -> &'static [(&'static str, &'static str)] {
                &[$((stringify!($name), $help)),*]
            }

            fn values(&self) -> Vec<u64> {
                vec![$(self.$name),*]
            }
        }
    };
}

gauges! {
    connections: " Connections, those that are connecting or still ending included.";
    connecting: " Connection attempts that go on.";
    handshaking: " Connections, made by either side, whose handshake goes on.";
    closing: " Connections that this side has closed and that have not ended.";
    paused: " Connections whose handler has paused reading.";
    throttled: " Connections that are not read because output waits: their own, or that of the one that they are relayed to.";
    starved: " Connections that wait for a receive buffer.";
    input_bytes: " Bytes that arrived and that handlers have not consumed.";
    output_bytes: " Bytes of output that wait for peers, with what the kernel has not taken yet.";
    outbox_bytes: " Bytes that other threads have written and the reactor has not taken over.";
    held_bytes: " Bytes that count in the budget of memory: these three, and what handlers claim.";
    listeners: " Listening sockets.";
    timers: " Timers that are set.";
    operations: " Operations in flight at the backend.";
    buffers_on_loan: " Receive buffers in use.";
}

impl Gauges {
    /// The text that a Prometheus server scrapes (exposition format 0.0.4), with the index of each of `reactors` as a label.
    ///
    /// ```
    /// # let gauges = trochus::Gauges::default();
    /// assert!(trochus::Gauges::to_prometheus(&[gauges]).contains("trochus_reactor_paused{reactor=\"0\"} 0\n"));
    /// ```
    pub fn to_prometheus(reactors: &[Gauges]) -> String {
        let mut text = String::new();
        Self::write_prometheus(reactors, &mut text).expect("a string takes everything");
        text
    }

    fn write_prometheus(reactors: &[Gauges], text: &mut String) -> fmt::Result {
        let values: Vec<Vec<u64>> = reactors.iter().map(Gauges::values).collect();
        for (column, (name, help)) in Self::names().iter().enumerate() {
            writeln!(text, "# HELP trochus_reactor_{name}{help}\n# TYPE trochus_reactor_{name} gauge")?;
            for (reactor, values) in values.iter().enumerate() {
                writeln!(text, "trochus_reactor_{name}{{reactor=\"{reactor}\"}} {}", values[column])?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_each_gauge_of_each_reactor_once() {
        let (one, two) =
            (Gauges { paused: 1, ..Gauges::default() }, Gauges { paused: 2, ..Gauges::default() });
        let text = Gauges::to_prometheus(&[one, two]);
        assert!(
            text.contains(
                "trochus_reactor_paused{reactor=\"0\"} 1\ntrochus_reactor_paused{reactor=\"1\"} 2\n"
            )
        );
        assert_eq!(text.matches("# TYPE ").count(), Gauges::names().len());
        let mut sum = one;
        sum.merge(&two);
        assert_eq!(sum.paused, 3);
    }
}
