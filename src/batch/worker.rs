//! The consumer's own thread.

use std::any::Any;
use std::error::Error;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use super::consumer::Consumer;
use super::error::Panicked;
use super::outcome::Outcome;
use super::sync::Arc;

/// Reserved for the first batch, in items; a vector grows to what batches really are.
const FIRST_RESERVE: usize = 4_096;

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
        let written = catch_unwind(AssertUnwindSafe(|| {
            write(&mut batch).into_result()?;
            batch.clear(); // runs the items' destructors, which may panic as well
            Ok(())
        }));
        let error: Box<dyn Error + Send + Sync> = match written {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error,
            Err(panic) => Box::new(Panicked(panic_message(&*panic))),
        };
        consumer.fail(error, batch);
        return;
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("with a value that is no text").to_owned()
}
