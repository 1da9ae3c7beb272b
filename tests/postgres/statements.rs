//! What goes over the wire: one statement per call, prepared, with its settings, never a BEGIN.

use tower_session_memory::store::{Append, Read, Store};
use tower_session_memory::{Head, Message, Turn, TurnId, TurnStatus, Window};

use crate::kit::{append, client, key, open, store_in, turn};
use crate::server::{SHARED, Server};

#[tokio::test(flavor = "multi_thread")]
async fn a_load_and_an_append_are_one_statement_each() {
    let server = Server::start(&["log_statement=all"]);
    let (store, key) = (open(server.options("m").pool_size(1)).await, key());
    let mut head = Head::ABSENT;
    for text in ["a", "b", "c", "d"] {
        let turn = turn(text);
        head = store.append(&key, &Append::new(turn.clone(), head)).await.unwrap().head;
        // Refused and repeated ones, too.
        store.append(&key, &Append::new(turn, Head::ABSENT)).await.unwrap();
    }
    for _ in 0..5 {
        store.load(&key, &Read::new(Window::ALL).known(head)).await.unwrap();
    }
    let log = server.log();
    let executed = |what: &str| log.lines().filter(|line| line.contains("execute s") && line.contains(what)).count();
    assert_eq!(executed("SELECT outcome, head_epoch"), 8, "{log}");
    assert_eq!(executed("WITH head AS"), 5, "{log}");
    assert!(!log.contains("BEGIN;") && !log.contains(": BEGIN"), "{log}");
    assert_eq!(log.lines().filter(|line| line.contains("execute s")).count(), 13, "{log}");
}

/// Planning a load takes longer than the load; PostgreSQL stops planning once it has seen that it need not.
#[tokio::test(flavor = "multi_thread")]
async fn loads_are_planned_a_few_times_and_then_no_more() {
    let server = Server::start(&["shared_preload_libraries=auto_explain", "auto_explain.log_min_duration=0"]);
    let (store, key) = (open(server.options("m").pool_size(1)).await, key());
    let mut head = Head::ABSENT;
    for _ in 0..20 {
        head = store.append(&key, &Append::new(turn("a"), head)).await.unwrap().head;
    }
    // So many others that the plan matters.
    let others =
        "SELECT m.append_turn(md5(s::text)::uuid, NULL, NULL, 'c' || s, gen_random_uuid(), 'complete', now(), 2,
            800, to_json(repeat('q', 800)), NULL, NULL, false, NULL, NULL, NULL, false, NULL, 'off', NULL)
        FROM generate_series(1, 200) s, generate_series(1, 20)";
    server.psql(&format!("SELECT count(*) FROM ({others}) x; ANALYZE"), &[]).unwrap();
    for _ in 0..20 {
        store.load(&key, &Read::new(Window::ALL)).await.unwrap();
    }
    let log = server.log();
    // A plan for any parameters shows them as such.
    let loads =
        log.split("Query Text: ").filter(|text| text.starts_with("WITH head AS")).map(|text| text.split("LOG:").next());
    let planned: Vec<bool> = loads.flatten().map(|text| !text.contains("(session = $1)")).collect();
    assert_eq!(planned.len(), 20, "{log}");
    assert!(planned[10..].iter().all(|planned| !planned), "{planned:?}");
}

/// The id of all zeros stands for none in the statement, and may be a turn's.
#[tokio::test]
async fn a_turn_is_found_only_when_it_is_looked_for() {
    let (store, key) = (store_in(&SHARED, "zeros").await, key());
    let zeros = Turn::new(TurnId::from_bytes([0; 16]), TurnStatus::Complete, vec![Message::user("zeros")]);
    store.append(&key, &Append::unconditional(zeros.clone())).await.unwrap();
    let read = Read::new(Window::ALL);
    assert_eq!(store.load(&key, &read).await.unwrap().found, None);
    assert_eq!(store.load(&key, &read.find(zeros.id())).await.unwrap().found, Some(zeros));
}

#[tokio::test]
async fn every_connection_works_with_the_settings_it_was_given() {
    let store = store_in(&SHARED, "settings").await;
    let client = client(&SHARED).await;
    client
        .batch_execute(
            "CREATE TABLE settings.seen (name text, value text);
             CREATE FUNCTION settings.see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 INSERT INTO settings.seen SELECT name, setting FROM pg_settings;
                 RETURN NULL;
             END $$;
             CREATE TRIGGER see AFTER INSERT ON settings.turn FOR EACH ROW EXECUTE FUNCTION settings.see();",
        )
        .await
        .unwrap();
    store.append(&key(), &append("hello")).await.unwrap();
    for (name, value) in [
        ("synchronous_commit", "on"),
        ("statement_timeout", "5000"),
        ("lock_timeout", "2000"),
        ("transaction_isolation", "read committed"),
        ("application_name", "tower-session-memory"),
    ] {
        let row = client.query_one("SELECT value FROM settings.seen WHERE name = $1", &[&name]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), value, "{name}");
    }
}

#[tokio::test]
async fn what_is_stored_can_be_read_in_psql_byte_for_byte() {
    let store = store_in(&SHARED, "readable").await;
    let key = crate::kit::key_of("ada@example.org");
    let append = append("spaces  kept, \u{0} too: \"ü\"");
    store.append(&key, &append).await.unwrap();
    let record = SHARED.psql("SELECT record FROM readable.turn", &[]).unwrap();
    assert_eq!(record.as_bytes(), append.turn.to_record(&key));
    let columns =
        "SELECT s.tenant IS NULL, s.subject, s.conversation, t.sequence, t.status, t.messages, t.bytes, s.sequence
        FROM readable.session s JOIN readable.turn t USING (session)";
    let (conversation, bytes) = (key.conversation().as_str(), append.turn.bytes());
    let row = SHARED.psql(columns, &[]).unwrap();
    assert_eq!(row, format!("t|ada%40example.org|{conversation}|1|complete|2|{bytes}|1"));
    let history =
        SHARED.psql("SELECT turn, message, role, message_json ->> 'content' FROM readable.history", &[]).unwrap();
    assert!(history.starts_with("1|1|user|spaces  kept, \u{fffd} too: \"ü\""), "{history}");
}
