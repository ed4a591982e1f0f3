//! The consumer's own thread.

use std::any::Any;
use std::error::Error;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use super::consumer::Consumer;
use super::error::Panicked;
use super::outcome::{Outcome, Written};
use super::sync::Arc;
use crate::config;

/// Reserved for the first batch, in items; a vector grows to what batches really are.
const FIRST_RESERVE: usize = 4_096;

type Failure = Box<dyn Error + Send + Sync>;

pub(crate) fn start<T, F, R>(consumer: Consumer<T>, write: F) -> io::Result<()>
where
    T: Send + 'static,
    F: FnMut(&mut Vec<T>) -> R + Send + 'static,
    R: Outcome,
{
    let shared = Arc::clone(consumer.shared());
    let handle = thread::Builder::new().name("trochus-batch".into()).spawn(move || {
        consumer.shared().thread.entered();
        run(consumer, write);
    })?;
    shared.thread.started(handle);
    Ok(())
}

fn run<T, R: Outcome>(mut consumer: Consumer<T>, mut write: impl FnMut(&mut Vec<T>) -> R) {
    let mut batch = Vec::with_capacity(consumer.batch_limit().min(FIRST_RESERVE));
    while consumer.recv(&mut batch) > 0 {
        if let Err(error) = write_until_done(&consumer, &mut batch, &mut write) {
            consumer.fail(error, batch);
            return;
        }
    }
}

fn write_until_done<T, R: Outcome>(
    consumer: &Consumer<T>,
    batch: &mut Vec<T>,
    write: &mut impl FnMut(&mut Vec<T>) -> R,
) -> Result<(), Failure> {
    let retries = consumer.shared().options.retries;
    let mut pause = retries.first_pause;
    for attempt in 0.. {
        let written = catch_unwind(AssertUnwindSafe(|| -> Result<Written, Failure> {
            let written = write(batch).into_result()?;
            if matches!(written, Written::Done) {
                batch.clear(); // runs the items' destructors, which may panic as well
            }
            Ok(written)
        }));
        match written.unwrap_or_else(|panic| Err(Panicked(panic_message(&*panic)).into()))? {
            Written::Done => break,
            Written::Again(error) if attempt == retries.most => return Err(error),
            Written::Again(_) => {}
        }
        consumer.shared().counters.retry();
        thread::sleep(pause);
        pause = pause.saturating_mul(2).min(config::LONGEST_BATCH_RETRY_PAUSE.max(retries.first_pause));
    }
    Ok(())
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("with a value that is no text").to_owned()
}
