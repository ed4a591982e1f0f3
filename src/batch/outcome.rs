//! What a consumer's closure may return.

use std::error::Error;

/// The result of writing one batch: `()`, or a `Result` of `()` or [`Written`] with any error that can be boxed.
pub trait Outcome: sealed::Sealed {}

impl Outcome for () {}
impl Outcome for Written {}
impl<E: Into<Box<dyn Error + Send + Sync>>> Outcome for Result<(), E> {}
impl<E: Into<Box<dyn Error + Send + Sync>>> Outcome for Result<Written, E> {}

/// What became of a batch, for a closure that can tell what passes from what does not.
///
/// A full disk, a database that restarts: such a batch is written again, and nothing that was accepted is lost meanwhile.
/// Pushes go on until their lanes are full, and then wait.
///
/// ```
/// use std::io::{self, ErrorKind, Write};
/// use trochus::batch::{Batcher, Written};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let mut file = io::sink();
/// let log = Batcher::builder().spawn(move |entries: &mut Vec<String>| {
///     // Nothing is taken out of the vector before it is written: what is left there comes again.
///     let text = entries.concat();
///     match file.write_all(text.as_bytes()) {
///         Ok(()) => Ok(Written::Done),
///         Err(error) if error.kind() == ErrorKind::StorageFull => Ok(Written::again(error)),
///         Err(error) => Err(error), // ends the batcher
///     }
/// })?;
/// # log.close()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
#[must_use]
pub enum Written {
    /// The batch is dealt with. What is left in the vector is dropped.
    Done,
    /// Not now: what is left in the vector is given to the closure again, after a pause, up to as many times as
    /// [`BatcherBuilder::retries`](super::BatcherBuilder::retries) says. Then it fails with this error.
    Again(Box<dyn Error + Send + Sync>),
}

impl Written {
    /// Not now, for this reason; a string will do.
    pub fn again(reason: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Again(reason.into())
    }
}

pub(crate) mod sealed {
    use super::{Error, Written};

    type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

    pub trait Sealed {
        fn into_result(self) -> Result<Written>;
    }

    impl Sealed for () {
        fn into_result(self) -> Result<Written> {
            Ok(Written::Done)
        }
    }

    impl Sealed for Written {
        fn into_result(self) -> Result<Written> {
            Ok(self)
        }
    }

    impl<E: Into<Box<dyn Error + Send + Sync>>> Sealed for std::result::Result<(), E> {
        fn into_result(self) -> Result<Written> {
            self.map(|()| Written::Done).map_err(Into::into)
        }
    }

    impl<E: Into<Box<dyn Error + Send + Sync>>> Sealed for std::result::Result<Written, E> {
        fn into_result(self) -> Result<Written> {
            self.map_err(Into::into)
        }
    }
}
