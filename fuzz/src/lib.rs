//! The checks that the fuzz targets run; the ordinary tests run the same.

#[path = "../../tests/support/codec_harness.rs"]
mod harness;

/// Runs the check of this name on one input.
///
/// # Panics
///
/// A codec broke a promise, or there is no such check.
pub fn check(target: &str, data: &[u8]) {
    let (_, check) = harness::TARGETS.iter().find(|(name, _)| *name == target).expect("a check of this name");
    check(data);
}
