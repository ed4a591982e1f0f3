//! With the feature `tracing`, log lines go to whoever subscribed: here, to standard error, in the form that they have without it.

use std::fmt;
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber, span};

/// Prints events.
pub(crate) fn install() {
    tracing::subscriber::set_global_default(Printer).expect("this process has no other subscriber");
}

struct Printer;

impl Subscriber for Printer {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut Message);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

struct Message;

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            eprintln!("trochus: {value:?}");
        }
    }
}
