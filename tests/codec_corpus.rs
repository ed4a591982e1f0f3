//! Replays the corpus of the fuzz targets, so that what once failed is tried by every test run, without a fuzzer.

use std::{collections::BTreeSet, fs, path::Path};

#[path = "support/codec_harness.rs"]
mod harness;

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let stem = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    entries.map(|entry| stem(&entry.unwrap().path())).collect()
}

#[test]
fn the_corpus_holds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, check) in harness::TARGETS {
        let mut inputs = 0;
        for entry in fs::read_dir(corpus.join(name)).unwrap_or_else(|error| panic!("{name}: {error}")) {
            check(&fs::read(entry.unwrap().path()).unwrap());
            inputs += 1;
        }
        assert!(inputs > 0, "{name} has no corpus");
    }
}

#[test]
fn every_check_has_a_fuzz_target_and_a_corpus() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let checks: BTreeSet<String> = harness::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let targets = names(&fuzz.join("fuzz_targets"));
    assert_eq!(targets, names(&fuzz.join("corpus")));
    assert!(targets.is_superset(&checks), "{checks:?}");
    if cfg!(all(feature = "json", feature = "zerocopy")) {
        assert_eq!(targets, checks);
    }
}
