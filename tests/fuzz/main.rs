//! Every target of `targets/` with its corpus, then with random inputs grown from it: a bounded run
//! without coverage. `tests/fuzz/run.sh` runs the same functions guided by coverage, as long as asked.
//!
//! `FUZZ_CASES` sets how many random inputs each target gets. A file that is added to the corpus is
//! run by every later run: put there what a long run found.

use std::path::PathBuf;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

mod targets;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&folder).expect("the corpus is there").map(|entry| entry.expect("a file").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "an empty corpus shows nothing");
    files.iter().map(|path| std::fs::read(path).expect("the file can be read")).collect()
}

/// Random bytes, and corpus files with a piece cut out, doubled, or replaced.
fn inputs(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let mutated = (
        proptest::sample::select(seeds),
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
        any::<Vec<u8>>(),
        0..3,
    );
    let mutated = mutated.prop_map(|(mut bytes, from, to, fresh, how)| {
        let (from, to) = (from.index(bytes.len() + 1), to.index(bytes.len() + 1));
        let (from, to) = (from.min(to), from.max(to));
        match how {
            0 => drop(bytes.splice(from..to, fresh)),
            1 => drop(bytes.splice(from..from, bytes[from..to].to_vec())),
            _ => drop(bytes.drain(from..to)),
        }
        bytes
    });
    prop_oneof![4 => mutated, 1 => any::<Vec<u8>>(), 1 => "\\PC{0,200}".prop_map(String::into_bytes)]
}

fn check(name: &str) {
    let (_, target) = targets::TARGETS.iter().find(|(target, _)| *target == name).expect("a target");
    let seeds = corpus(name);
    seeds.iter().for_each(|input| target(input));
    let cases = std::env::var("FUZZ_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1_000);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let run = TestRunner::new(config).run(&inputs(seeds), |input| {
        target(&input);
        Ok(())
    });
    run.unwrap_or_else(|failure| panic!("{failure}"));
}

macro_rules! tests {
    ($($target:ident)*) => {
        $(
            #[test]
            fn $target() {
                check(stringify!($target));
            }
        )*

        #[test]
        fn every_target_is_run() {
            assert_eq!(targets::TARGETS.map(|(name, _)| name), [$(stringify!($target)),*]);
        }
    };
}

tests! { cookies headers tokens messages records requests replies conversations }
