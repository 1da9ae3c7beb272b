//! What breaks: the server, locks, room, connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tower_session_memory::store::{Append, ErrorKind, Store};
use tower_session_memory::{SessionKey, Turn};

use crate::kit::{append, client, key, kind, open, persist, store_in, told, turn, turns, until};
use crate::server::{SHARED, Server};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_kill_9_mid_append_and_is_there_once() {
    let server = Server::start(&[]);
    let store = open(server.options("m").pool_size(4)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|number| {
            let (store, stop) = (store.clone(), stop.clone());
            tokio::spawn(async move {
                let key = key();
                let mut stored: Vec<Turn> = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let append = append(&format!("{number}: {}", stored.len()));
                    persist(&store, &key, &append).await;
                    stored.push(append.turn);
                }
                (key, stored)
            })
        })
        .collect();
    let observer = store.clone();
    let server = tokio::task::spawn_blocking(move || {
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(300));
            server.kill();
            server.launch();
        }
        server
    })
    .await
    .unwrap();
    stop.store(true, Ordering::Relaxed);
    let mut total = 0;
    for writer in writers {
        let (key, stored): (SessionKey, Vec<Turn>) = writer.await.unwrap();
        assert_eq!(turns(&observer, &key).await, stored, "all, once, in order");
        total += stored.len();
    }
    assert!(total > 8, "{total} turns");
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_dies_under_an_append_leaves_its_outcome_open() {
    let store = store_in(&SHARED, "dies").await;
    let key = key();
    store.append(&key, &append("first")).await.unwrap();
    let mut blocker = client(&SHARED).await;
    let transaction = blocker.transaction().await.unwrap();
    transaction.batch_execute("SELECT * FROM dies.session FOR UPDATE").await.unwrap();
    let second = append("second");
    let attempt = tokio::spawn({
        let (store, key, second) = (store.clone(), key.clone(), second.clone());
        async move { store.append(&key, &second).await }
    });
    let observer = client(&SHARED).await;
    let waiting =
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%\"dies\"%'";
    until(&observer, waiting).await;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE wait_event_type = 'Lock' AND query LIKE '%\"dies\"%'";
    observer.execute(end, &[]).await.unwrap();
    assert_eq!(kind(attempt.await.unwrap()), ErrorKind::Ambiguous);
    transaction.rollback().await.unwrap();
    let answer = store.append(&key, &second).await.unwrap();
    assert_eq!(answer.sequence, 2, "the next call gets a connection that lives");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_a_lock_ends_with_nothing_written() {
    let store = open(SHARED.options("lock_wait").lock_timeout(Duration::from_millis(200))).await;
    let key = key();
    store.append(&key, &append("first")).await.unwrap();
    let mut blocker = client(&SHARED).await;
    let transaction = blocker.transaction().await.unwrap();
    transaction.batch_execute("SELECT * FROM lock_wait.session FOR UPDATE").await.unwrap();
    let second = append("second");
    let error = store.append(&key, &second).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", told(&error));
    assert!(told(&error).contains("55P03"), "{}", told(&error));
    transaction.rollback().await.unwrap();
    assert_eq!(turns(&store, &key).await.len(), 1);
    store.append(&key, &second).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_takes_too_long_ends_with_nothing_written() {
    let store = open(SHARED.options("too_long").statement_timeout(Duration::from_millis(200))).await;
    let key = key();
    SHARED.psql(&raising("too_long", "PERFORM pg_sleep(10)"), &[]).unwrap();
    let error = store.append(&key, &append("first")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", told(&error));
    assert!(turns(&store, &key).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_victim_of_a_deadlock_may_try_again() {
    let store = open(SHARED.options("deadlock").lock_timeout(Duration::from_secs(20))).await;
    let key = key();
    store.append(&key, &append("first")).await.unwrap();
    let mut blocker = client(&SHARED).await;
    blocker.batch_execute("SET deadlock_timeout = '60s'").await.unwrap();
    let transaction = blocker.transaction().await.unwrap();
    transaction.batch_execute("SELECT * FROM deadlock.session FOR UPDATE").await.unwrap();
    let second = append("second");
    let attempt = tokio::spawn({
        let (store, key, second) = (store.clone(), key.clone(), second.clone());
        async move { store.append(&key, &second).await }
    });
    let observer = client(&SHARED).await;
    let waiting =
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%\"deadlock\"%'";
    until(&observer, waiting).await;
    // The append holds a weak lock on the table and waits for the row; this holds the row.
    transaction.batch_execute("LOCK TABLE deadlock.session IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let error = attempt.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(told(&error).contains("40P01"), "{}", told(&error));
    transaction.rollback().await.unwrap();
    store.append(&key, &second).await.unwrap();
    assert_eq!(turns(&store, &key).await.len(), 2);
}

/// A trigger that does this for every stored turn, after it was stored.
pub(crate) fn raising(schema: &str, body: &str) -> String {
    format!(
        "CREATE FUNCTION {schema}.fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NULL; END $$;
         CREATE TRIGGER fail AFTER INSERT ON {schema}.turn FOR EACH ROW EXECUTE FUNCTION {schema}.fail();"
    )
}

#[tokio::test]
async fn failures_inside_the_statement_are_classified_and_leave_nothing() {
    let store = store_in(&SHARED, "inside").await;
    let key = key();
    for (code, expected) in [
        ("40001", ErrorKind::Unavailable),
        ("40P01", ErrorKind::Unavailable),
        ("53100", ErrorKind::Full),
        ("53200", ErrorKind::Unavailable),
        ("42501", ErrorKind::Misconfigured),
        ("XX001", ErrorKind::Corrupt),
        ("22P02", ErrorKind::Other),
        ("P0001", ErrorKind::Other),
    ] {
        SHARED.psql(&raising("inside", &format!("RAISE EXCEPTION 'canary' USING ERRCODE = '{code}'")), &[]).unwrap();
        let error = store.append(&key, &append("first")).await.unwrap_err();
        assert_eq!(error.kind(), expected, "{code}");
        assert!(told(&error).contains(code) && !told(&error).contains("canary"), "{}", told(&error));
        assert!(turns(&store, &key).await.is_empty(), "{code} left something");
        SHARED.psql("DROP FUNCTION inside.fail() CASCADE", &[]).unwrap();
    }
    store.append(&key, &append("first")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_callers_and_pods_than_connections_all_get_their_turn() {
    // Three of them are kept for superusers; the test is one, so the role is not.
    let server = Server::start(&["max_connections=10"]);
    server.psql("CREATE ROLE pod LOGIN; GRANT CREATE ON DATABASE postgres TO pod", &[]).unwrap();
    let url = server.url_of("pod", "postgres");
    let options = tower_session_memory::store::PostgresOptions::new(&url).unwrap().pool_size(10);
    options.migrate().await.unwrap();
    let mut pods = Vec::new();
    for _ in 0..5 {
        pods.push(options.clone().connect().await.unwrap());
    }
    let key = key();
    let calls: Vec<_> = (0..200)
        .map(|number| {
            let (store, key) = (pods[number % pods.len()].clone(), key.clone());
            tokio::spawn(async move {
                let append = append(&format!("turn {number}"));
                persist(&store, &key, &append).await;
                append.turn
            })
        })
        .collect();
    // A pod that is done gives its connections back; while all are in use, the others are told to try again.
    drop(pods);
    let mut expected = Vec::new();
    for call in calls {
        expected.push(call.await.unwrap());
    }
    // The connections of the pods are closed in the background.
    let deadline = Instant::now() + Duration::from_secs(60);
    let store = loop {
        match options.clone().connect().await {
            Ok(store) => break store,
            Err(error) => assert!(error.kind().is_temporary() && Instant::now() < deadline, "{}", told(&error)),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let mut stored = turns(&store, &key).await;
    stored.sort_by_key(Turn::id);
    expected.sort_by_key(Turn::id);
    assert_eq!(stored, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_told_at_once_and_found_again() {
    let server = Server::start(&[]);
    let store = store_in(&server, "m").await;
    let (key, first) = (key(), append("first"));
    store.append(&key, &first).await.unwrap();
    let server = tokio::task::spawn_blocking(move || {
        server.kill();
        server
    })
    .await
    .unwrap();
    store.ping().await.ok();
    let asked = Instant::now();
    let error = store.append(&key, &append("second")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", told(&error));
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    let server = tokio::task::spawn_blocking(move || {
        server.launch();
        server
    })
    .await
    .unwrap();
    let second = Append::unconditional(turn("second"));
    persist(&store, &key, &second).await;
    assert_eq!(turns(&store, &key).await, [first.turn, second.turn]);
    drop(server);
}
