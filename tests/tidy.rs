//! Rules of style that keep themselves.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of source before a file's tests. What is longer wants two rooms.
const LINES: usize = 420;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// Name below the root, and text.
fn sources(folders: &[&str]) -> Vec<(String, String)> {
    let mut paths = Vec::new();
    folders
        .iter()
        .map(|folder| root().join(folder))
        .filter(|path| path.exists())
        .for_each(|path| collect(&path, &mut paths));
    assert!(!paths.is_empty());
    let name = |path: &Path| path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
    paths.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

fn code_before_tests(text: &str) -> impl Iterator<Item = &str> {
    text.lines().take_while(|line| !line.starts_with("#[cfg(test)]") && !line.starts_with("#[cfg(all(test"))
}

#[test]
fn files_are_short() {
    let long: Vec<String> = sources(&["src", "fallback/src", "examples", "benches"])
        .into_iter()
        .map(|(name, text)| (name, code_before_tests(&text).count()))
        .filter(|(_, lines)| *lines > LINES)
        .map(|(name, lines)| format!("{name}: {lines} lines"))
        .collect();
    assert!(long.is_empty(), "longer than {LINES} lines before their tests: {long:#?}");
}

#[test]
fn unsafe_code_is_where_the_architecture_says() {
    let architecture = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let section = architecture.split("## Unsafe code").nth(1).unwrap().split("\n## ").next().unwrap();
    let listed: BTreeSet<String> = section
        .lines()
        .filter_map(|line| Some(line.strip_prefix("- `")?.strip_suffix('`')?.to_owned()))
        .collect();
    let found: BTreeSet<String> = sources(&["src", "fallback/src"])
        .into_iter()
        .filter(|(_, text)| text.contains("allow(unsafe_code)"))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(found, listed);
}

#[test]
fn each_unsafe_block_names_its_contract() {
    for (name, text) in sources(&["src", "fallback/src"]) {
        let is_code = |line: &&str| !line.trim_start().starts_with("//");
        let blocks = text
            .lines()
            .filter(is_code)
            .filter(|line| line.contains("unsafe {") || line.contains("unsafe impl"));
        let contracts = text.lines().filter(|line| line.contains("SAFETY:") || line.contains("# Safety"));
        let (blocks, contracts) = (blocks.count(), contracts.count());
        assert!(contracts >= blocks, "{name}: {blocks} unsafe blocks, {contracts} contracts");
    }
}

#[test]
fn nothing_is_left_for_later() {
    let words =
        [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["XX", "X"].concat(), ["todo", "!("].concat()];
    for (name, text) in sources(&["src", "fallback", "examples", "benches", "tests"]) {
        for (number, line) in text.lines().enumerate() {
            let found = words.iter().find(|word| line.contains(word.as_str()));
            assert!(found.is_none(), "{name}:{}: {line}", number + 1);
        }
    }
}
