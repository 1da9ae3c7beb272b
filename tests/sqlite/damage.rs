//! Damage is an error for the session it hits, never other text and never a panic.

use std::fs;

use rusqlite::params;
use tower_session_memory::store::{Append, ErrorKind, Read, Store};
use tower_session_memory::{SqliteStore, Window};

use crate::kit::{Place, add, all, key, told, turn, turns};

/// Changes the record of the first turn of session `a` by an SQL expression.
async fn with_record(expression: &str) -> (Place, SqliteStore, Vec<tower_session_memory::Turn>) {
    let place = Place::new();
    let store = place.open().await;
    let given = [turn("one"), turn("two")];
    for turn in &given {
        add(&store, &key("a"), turn).await.unwrap();
        add(&store, &key("b"), turn).await.unwrap();
    }
    let sql = format!(
        "UPDATE turn SET record = {expression} WHERE sequence = 1 AND session = (SELECT id FROM session WHERE key = ?1)"
    );
    assert_eq!(place.shell().execute(&sql, params![key("a").encoded()]).unwrap(), 1);
    (place, store, given.to_vec())
}

#[tokio::test]
async fn an_altered_record_is_an_error_for_its_session_alone() {
    for expression in [
        "replace(record, 'yes', 'no!')",
        "substr(record, 1, length(record) - 1)",
        "''",
        "'x'",
        "record || ' '",
        // Of another session, and of another turn of this one.
        "(SELECT record FROM turn AS other WHERE other.session <> turn.session AND other.sequence = turn.sequence)",
        "(SELECT record FROM turn AS other WHERE other.session = turn.session AND other.sequence = 2)",
    ] {
        let (_place, store, given) = with_record(expression).await;
        let error = all(&store, &key("a")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{expression}: {}", told(&error));
        assert_eq!(turns(&store, &key("b")).await, given, "{expression}");

        let newest = store.load(&key("a"), &Read::new(Window::newest(1))).await.unwrap();
        assert_eq!(newest.turns, given[1..], "{expression}: what is not read does no harm");
        let again = add(&store, &key("a"), &given[0]).await.unwrap_err();
        assert_eq!(again.kind(), ErrorKind::Corrupt, "{expression}: a retry finds it");
        store.delete(&key("a")).await.unwrap();
    }
}

#[tokio::test]
async fn a_record_of_a_newer_version_is_refused_and_stays() {
    let (place, store, given) = with_record(r#"'{"v":2,' || substr(record, 8)"#).await;
    let content = || -> Vec<(i64, String)> {
        let shell = place.shell();
        let mut statement = shell.prepare("SELECT sequence, record FROM turn ORDER BY session, sequence").unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.map(Result::unwrap).collect()
    };
    let before = content();
    let error = all(&store, &key("a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NewerVersion);
    assert!(told(&error).contains("version 2"));
    let again = add(&store, &key("a"), &given[0]).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::NewerVersion);
    assert_eq!(content(), before);
}

#[tokio::test]
async fn a_missing_turn_is_noticed() {
    let place = Place::new();
    let store = place.open().await;
    for text in ["one", "two", "three"] {
        add(&store, &key("a"), &turn(text)).await.unwrap();
    }
    let shell = place.shell();
    shell.execute("DELETE FROM turn WHERE sequence = 2", []).unwrap();
    assert_eq!(all(&store, &key("a")).await.unwrap_err().kind(), ErrorKind::Corrupt);
    shell.execute("DELETE FROM turn WHERE sequence = 3", []).unwrap();
    assert_eq!(all(&store, &key("a")).await.unwrap_err().kind(), ErrorKind::Corrupt);
}

/// One bit at a time, all over the file.
#[tokio::test]
async fn a_flipped_bit_never_shows_other_text() {
    let place = Place::new();
    let store = place.open().await;
    let given = [turn("one"), turn("two"), turn("three")];
    for turn in &given {
        add(&store, &key("a"), turn).await.unwrap();
    }
    store.close().await;
    let whole = fs::read(place.file()).unwrap();

    let (mut refused, mut noticed) = (0, 0);
    // Few bytes of a small file are in use: every one of those, and some of the others.
    let used = (0..whole.len()).filter(|at| whole[*at] != 0).step_by(17);
    for at in used.chain((0..whole.len()).step_by(1009)) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(place.file(), &damaged).unwrap();
        let store = match SqliteStore::open(place.file()).await {
            Ok(store) => store,
            Err(error) => {
                told(&error);
                refused += 1;
                continue;
            }
        };
        match all(&store, &key("a")).await {
            Ok(loaded) => assert!(given.ends_with(&loaded.turns), "byte {at} changed what was said"),
            Err(error) => {
                told(&error);
                noticed += 1;
            }
        }
        let late = Append::unconditional(turn("late"));
        if let Err(error) = store.append(&key("b"), &late).await {
            told(&error);
        }
        store.close().await;
    }
    assert!(refused > 0 && noticed > 0, "the flips hit neither schema nor records: {refused}, {noticed}");
}
