//! No room, no lock, no file, no time left.

use std::fs;
use std::time::{Duration, Instant};

use tower_session_memory::store::{Append, ErrorKind, SqliteOptions, Store};
use tower_session_memory::{Message, SqliteStore, Turn, TurnId, TurnStatus};

use crate::kit::{CANARY, Place, add, all, key, told, turn, turns};

fn large() -> Turn {
    let text = format!("{CANARY} {}", "x".repeat(200_000));
    Turn::new(TurnId::random(), TurnStatus::Complete, vec![Message::user(text)])
}

#[tokio::test]
async fn a_full_store_refuses_and_keeps_what_it_has() {
    let place = Place::new();
    let store = SqliteStore::with_options(SqliteOptions::new(place.file()).max_bytes(600_000)).await.unwrap();
    let mut stored = Vec::new();
    let error = loop {
        let turn = large();
        match add(&store, &key("a"), &turn).await {
            Ok(_) => stored.push(turn),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Full, "{}", told(&error));
    assert_eq!(stored.len(), 2);
    assert_eq!(turns(&store, &key("a")).await, stored);

    // In one group with the one that is too much, small ones succeed.
    let (one, two) = (turn("one"), turn("two"));
    let (too_large, large_two) = (large(), large());
    let keys = [key("b"), key("c"), key("d")];
    let (first, refused, second, refused_too) = tokio::join!(
        add(&store, &keys[0], &one),
        add(&store, &keys[1], &too_large),
        add(&store, &keys[0], &two),
        add(&store, &keys[2], &large_two),
    );
    assert_eq!((first.unwrap().sequence, second.unwrap().sequence), (1, 2));
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Full);
    assert_eq!(refused_too.unwrap_err().kind(), ErrorKind::Full);
    assert_eq!(turns(&store, &keys[0]).await, [one, two]);
    assert!(turns(&store, &keys[1]).await.is_empty());

    // Deleting makes room.
    store.delete(&key("a")).await.unwrap();
    add(&store, &keys[1], &too_large).await.unwrap();
    assert_eq!(turns(&store, &keys[1]).await, [too_large]);
}

#[tokio::test]
async fn while_another_process_writes_reads_go_on_and_writes_wait_their_time() {
    let place = Place::new();
    let store = place.open_impatient().await;
    let (one, two) = (turn("one"), turn("two"));
    add(&store, &key("a"), &one).await.unwrap();

    let other = place.shell();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = add(&store, &key("a"), &two).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", told(&error));
    assert_eq!(store.ping().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(turns(&store, &key("a")).await.as_slice(), std::slice::from_ref(&one));
    other.execute_batch("COMMIT").unwrap();

    store.ping().await.unwrap();
    assert_eq!(add(&store, &key("a"), &two).await.unwrap().duplicate_of, None, "the refused attempt wrote nothing");
    assert_eq!(turns(&store, &key("a")).await, [one, two]);
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_that_is_gone_takes_no_turn() {
    let place = Place::new();
    let store = place.open().await;
    add(&store, &key("a"), &turn("one")).await.unwrap();

    let aside = place.directory().join("aside.db");
    fs::rename(place.file(), &aside).unwrap();
    let error = add(&store, &key("a"), &turn("two")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured);
    assert!(told(&error).contains("put it back"));
    fs::write(place.file(), b"").unwrap();
    assert_eq!(add(&store, &key("a"), &turn("two")).await.unwrap_err().kind(), ErrorKind::Misconfigured);
    assert_eq!(store.ping().await.unwrap_err().kind(), ErrorKind::Misconfigured);

    fs::rename(aside, place.file()).unwrap();
    add(&store, &key("a"), &turn("two")).await.unwrap();
}

#[tokio::test]
async fn what_expired_is_invisible_at_once_and_removed_in_passing() {
    let place = Place::new();
    let store = place.open().await;
    for number in 0..20 {
        let append = Append::unconditional(turn("short")).ttl(Some(Duration::ZERO));
        store.append(&key(&format!("short{number}")), &append).await.unwrap();
    }
    add(&store, &key("long"), &turn("long")).await.unwrap();
    assert_eq!(all(&store, &key("short1")).await.unwrap().turns, []);
    store.close().await;

    let store = place.open().await;
    store.ping().await.unwrap();
    // The ping was answered before the purge began; closing waits for it.
    store.close().await;
    let count = |table: &str| -> i64 {
        place.shell().query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    };
    assert_eq!((count("session"), count("turn")), (1, 1));
}

#[tokio::test]
async fn hostile_text_is_text() {
    let place = Place::new();
    let store = place.open().await;
    let texts = [
        "'; DROP TABLE turn; --",
        "\u{0} nul \u{1}\u{7f}\u{85}",
        "{\"v\":9,\"sum\":\"0000000000000000\"}",
        "\u{202e}right to left \u{feff}",
        "🦀👩‍👩‍👧‍👦 e\u{301} é",
        "?1 :key @x $y %s {} \\ \" `",
        "",
    ];
    let given: Vec<Turn> = texts.iter().map(|text| turn(text)).collect();
    for turn in &given {
        add(&store, &key("a"), turn).await.unwrap();
    }
    assert_eq!(turns(&store, &key("a")).await, given);
    // Spaces and unknown fields stay where they are.
    let raw = r#"{ "role" : "tool" ,"x":[1.0,1e5, "\u0000\ud83d\ude00"],"content":null }"#;
    let odd = Turn::new(TurnId::random(), TurnStatus::Interrupted, vec![Message::from_json(raw).unwrap()]);
    add(&store, &key("b"), &odd).await.unwrap();
    assert_eq!(turns(&store, &key("b")).await[0].messages()[0].json(), raw);
}

#[tokio::test]
async fn dropped_futures_leave_whole_turns_and_a_working_store() {
    let place = Place::new();
    let store = place.open().await;
    let given: Vec<Turn> = (0..200).map(|number| turn(&format!("{number}"))).collect();
    let key = key("a");
    for (number, turn) in given.iter().enumerate() {
        let mut append = Box::pin(add(&store, &key, turn));
        let mut load = Box::pin(all(&store, &key));
        // Polled not at all, once, or twice.
        for _ in 0..number % 3 {
            if futures_util::poll!(&mut append).is_ready() || futures_util::poll!(&mut load).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    // The writer takes jobs in order: what was accepted before the ping is done after it.
    store.ping().await.unwrap();
    let stored = turns(&store, &key).await;
    let polled: Vec<Turn> = given.iter().enumerate().filter(|(n, _)| n % 3 > 0).map(|(_, turn)| turn.clone()).collect();
    assert_eq!(stored, polled, "an append that was accepted is done, one that was never polled is not");
}

#[tokio::test]
async fn a_store_that_is_dropped_finishes_what_it_accepted() {
    let place = Place::new();
    let store = place.open().await;
    let given: Vec<Turn> = (0..50).map(|number| turn(&format!("{number}"))).collect();
    let key = key("a");
    for turn in &given {
        let mut append = Box::pin(add(&store, &key, turn));
        assert!(futures_util::poll!(&mut append).is_pending());
    }
    drop(store);
    let store = place.open().await;
    let deadline = Instant::now() + Duration::from_secs(10);
    while turns(&store, &key).await.len() < given.len() {
        assert!(Instant::now() < deadline, "accepted writes were lost");
        tokio::task::yield_now().await;
    }
    assert_eq!(turns(&store, &key).await, given);
}
