//! The conformance suite on the stores that need no server, and proof that it bites.
#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests")]

#[allow(dead_code, unreachable_pub, reason = "an example is a program of its own")]
#[path = "../../examples/custom_store.rs"]
mod custom_store;
mod flawed;
mod flaws;

use tower_session_memory::store::conformance::{self, Instances, SENTENCES};
use tower_session_memory::{InMemory, SharedStore};

mod in_memory {
    tower_session_memory::conformance_tests!(super::in_memory);
}

mod shared_store {
    tower_session_memory::conformance_tests!(super::shared_store);
}

mod the_example {
    tower_session_memory::conformance_tests!(super::journal);
}

async fn in_memory() -> Instances {
    Instances::new(InMemory::new())
}

async fn shared_store() -> Instances {
    let store = SharedStore::new(InMemory::new());
    Instances::new(store.clone()).and(store)
}

async fn journal() -> Instances {
    let directory = tempfile::tempdir().unwrap();
    let store = custom_store::JournalStore::open(&directory.path().join("sessions.jsonl")).unwrap();
    Instances::new(store.clone()).and(store).keeping(directory)
}

#[tokio::test]
async fn run_all_reports_every_case_once() {
    let report = conformance::run_all(&in_memory().await).await;
    assert!(report.is_ok(), "{report}");
    let names: Vec<&str> = report.outcomes.iter().map(|outcome| outcome.case.name).collect();
    let listed: Vec<&str> = conformance::cases().iter().map(|case| case.name).collect();
    assert_eq!(names, listed);
}

#[test]
fn every_sentence_stands_in_the_docs_and_has_a_case() {
    let docs = [
        include_str!("../../src/store/mod.rs"),
        include_str!("../../src/store/info.rs"),
        include_str!("../../src/store/types.rs"),
        include_str!("../../src/policy.rs"),
        include_str!("../../src/key.rs"),
    ];
    let docs = docs.map(words_of_docs).join(" ");
    for sentence in SENTENCES {
        assert!(docs.contains(sentence), "no longer in the docs: {sentence}");
        assert!(conformance::cases().iter().any(|case| case.sentence == *sentence), "no case: {sentence}");
    }
}

/// Doc comments as running text: without markup, link targets and line breaks.
fn words_of_docs(source: &str) -> String {
    let lines = source.lines().filter_map(|line| line.trim_start().strip_prefix("///"));
    let text = lines.collect::<Vec<_>>().join(" ").replace(['`', '*', '['], "");
    // `](target)` is a link's second half; a bare `]` closes one without a target.
    let mut pieces = text.split("](");
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        plain.push_str(piece.split_once(')').map_or(piece, |(_, rest)| rest));
    }
    plain.replace(']', "").split_whitespace().collect::<Vec<_>>().join(" ")
}
