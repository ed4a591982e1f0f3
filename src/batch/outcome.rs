//! What a consumer's closure may return.

use std::error::Error;

/// The result of writing one batch: `()`, or a `Result<(), E>` with any error that can be boxed.
pub trait Outcome: sealed::Sealed {}

impl Outcome for () {}
impl<E: Into<Box<dyn Error + Send + Sync>>> Outcome for Result<(), E> {}

pub(crate) mod sealed {
    use super::Error;

    pub trait Sealed {
        fn into_result(self) -> Result<(), Box<dyn Error + Send + Sync>>;
    }

    impl Sealed for () {
        fn into_result(self) -> Result<(), Box<dyn Error + Send + Sync>> {
            Ok(())
        }
    }

    impl<E: Into<Box<dyn Error + Send + Sync>>> Sealed for Result<(), E> {
        fn into_result(self) -> Result<(), Box<dyn Error + Send + Sync>> {
            self.map_err(Into::into)
        }
    }
}
