//! Callers that leave: at every await, with one connection for all.

use std::time::{Duration, Instant};

use tower_session_memory::store::{Page, Read, Store};
use tower_session_memory::{Scope, Window};

use crate::common::polls::dropped_after;
use crate::kit::{append, client, key, open, turns, until};
use crate::server::SHARED;

#[tokio::test(flavor = "multi_thread")]
async fn at_every_await_the_next_caller_finds_a_clean_connection() {
    let store = open(SHARED.options("cancelled").pool_size(1)).await;
    let (read, page) = (Read::new(Window::ALL), Page::first(3));
    let observer = client(&SHARED).await;
    let mut ended = [false; 6];
    for polls in 0..200 {
        let key = key();
        let first = append("dropped");
        ended[0] |= dropped_after(polls, store.append(&key, &first)).await;
        ended[1] |= dropped_after(polls, store.load(&key, &read)).await;
        ended[2] |= dropped_after(polls, store.list(&Scope::all(), &page)).await;
        ended[3] |= dropped_after(polls, store.delete(&key)).await;
        ended[4] |= dropped_after(polls, store.purge(5)).await;
        let next = append("next");
        store.append(&key, &next).await.unwrap();
        let stored = turns(&store, &key).await;
        assert_eq!(stored.iter().filter(|turn| **turn == next.turn).count(), 1);
        assert!(stored.len() <= 2, "after {polls} polls");
        // The identical attempt finds what became of the one that was dropped.
        let again = append("again");
        for append in [&again, &again] {
            ended[5] |= dropped_after(polls, store.append(&key, append)).await;
        }
        let place = store.append(&key, &again).await.unwrap().sequence;
        let stored = turns(&store, &key).await;
        assert_eq!(stored.iter().filter(|turn| **turn == again.turn).count(), 1, "after {polls} polls");
        assert_eq!(stored[place as usize - 1], again.turn);
        if ended.iter().all(|ended| *ended) {
            break;
        }
    }
    assert_eq!(ended, [true; 6], "every call was followed to its end");
    let open = "SELECT count(*) = 0 FROM pg_stat_activity
                WHERE application_name = 'tower-session-memory' AND state LIKE 'idle in transaction%'";
    until(&observer, open).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_left_waiting_for_a_lock_blocks_nobody_for_long() {
    let store = open(SHARED.options("left_waiting").pool_size(1).lock_timeout(Duration::from_secs(1))).await;
    let (locked, other) = (key(), key());
    store.append(&locked, &append("first")).await.unwrap();
    let mut blocker = client(&SHARED).await;
    let transaction = blocker.transaction().await.unwrap();
    transaction.batch_execute("SELECT * FROM left_waiting.session FOR UPDATE").await.unwrap();

    let observer = client(&SHARED).await;
    let waiting = append("left");
    tokio::select! {
        _ = store.append(&locked, &waiting) => panic!("the row is locked"),
        () = until(&observer, "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted") => {}
    }
    let asked = Instant::now();
    store.append(&other, &append("next")).await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    transaction.rollback().await.unwrap();
    assert_eq!(
        turns(&store, &locked).await.len(),
        1,
        "the statement that was left gave up, or was never applied twice"
    );
    store.append(&locked, &waiting).await.unwrap();
    assert_eq!(turns(&store, &locked).await.len(), 2);
}
