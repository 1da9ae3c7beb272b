//! What moto never says: throttling, conflicts of transactions, and answers that get lost before them.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tower_session_memory::store::{Append, DynamoDbStore, ErrorKind, Store};
use tower_session_memory::{Head, SessionKey};

use crate::relay::{CONFLICT, Reply, Seen, THROTTLED, behind};
use crate::server::config;
use crate::table::{key, kind, turn, turns};

/// Refuses the first requests like this, and passes the later ones.
async fn store_behind(refusals: usize, body: &'static str, patience: Duration) -> (DynamoDbStore, Seen) {
    let reply = move |before, _: &_| if before < refusals { Reply::Refuse(body) } else { Reply::Pass };
    let (options, _, seen) = behind(reply).await;
    (options.patience(patience).attempt_timeout(patience).with_config(&config()), seen)
}

fn append() -> (SessionKey, Append) {
    (key(), Append::new(turn("hello"), Head::ABSENT))
}

#[tokio::test]
async fn throttled_and_conflicting_appends_are_repeated_and_stored_once() {
    for body in [THROTTLED, CONFLICT] {
        let (store, seen) = store_behind(3, body, Duration::from_secs(8)).await;
        let (key, append) = append();
        let answer = store.append(&key, &append).await.unwrap();
        assert_eq!((answer.sequence, answer.duplicate_of), (1, None), "{body}");
        assert_eq!(seen.take().len(), 4);
    }
}

#[tokio::test]
async fn a_table_that_stays_busy_is_unavailable_within_the_patience() {
    for body in [THROTTLED, CONFLICT] {
        let (store, seen) = store_behind(usize::MAX, body, Duration::from_secs(2)).await;
        let (key, append) = append();
        let asked = Instant::now();
        let error = store.append(&key, &append).await.unwrap_err();
        assert!(error.kind().is_temporary(), "{error}");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "nothing was written");
        assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
        assert!(seen.take().len() > 1);
    }
}

#[tokio::test]
async fn a_lost_answer_before_a_refusal_leaves_the_outcome_open() {
    // The first attempt to write is applied, and all that comes after it is refused.
    let reply = |_, asked: &crate::relay::Asked| match asked.operation.as_str() {
        "TransactWriteItems" => Reply::Lose,
        _ => Reply::Pass,
    };
    let (options, quiet, seen) =
        behind(move |before, asked| if before == 0 { reply(before, asked) } else { Reply::Refuse(THROTTLED) }).await;
    let store = options.patience(Duration::from_secs(1)).with_config(&config());
    let (key, append) = append();
    assert_eq!(kind(store.append(&key, &append).await), ErrorKind::Ambiguous, "it is stored");
    assert_eq!(turns(&quiet, &key).await.len(), 1);
    assert!(seen.take().len() > 1, "it was tried again");
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_and_nothing_is_done_twice() {
    // The first write of each kind.
    let lost: Mutex<HashSet<String>> = Mutex::default();
    let (options, quiet, seen) = behind(move |_, asked| {
        let writes = ["TransactWriteItems", "PutItem"].contains(&asked.operation.as_str());
        let first = writes && lost.lock().unwrap().insert(asked.operation.clone());
        if first { Reply::Lose } else { Reply::Pass }
    })
    .await;
    let store = options.with_config(&config());
    let (key, append) = append();
    let answer = store.append(&key, &append).await.unwrap();
    assert_eq!((answer.sequence, turns(&quiet, &key).await.len()), (1, 1));
    assert!(seen.take().len() > 2, "it was sent again, and found");
    assert_eq!(store.delete(&key).await.unwrap().turns, 1, "what the first attempt deleted");
    assert!(turns(&quiet, &key).await.is_empty());
    let puts = seen.take().iter().filter(|asked| asked.operation == "PutItem").count();
    assert_eq!(puts, 1, "the fence that it found is its own");
}
