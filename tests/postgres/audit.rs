//! The trail, the receipt of an erasure, expiry, and the questions that the documentation answers.

use std::time::{Duration, SystemTime};

use tower_session_memory::store::postgres::{AuditTrail, PostgresStore};
use tower_session_memory::store::{Append, ErrorKind, PostgresOptions, Read, Store};
use tower_session_memory::{Head, Retention, SessionKey, Subject, Tenant, Window};

use crate::common::logs::Logs;
use crate::kit::{append, client, key, key_of, kind, open, store_in, turn, turns, until};
use crate::server::{SHARED, Server};

fn trail() -> AuditTrail {
    AuditTrail::new([7; 32])
}

fn audited(schema: &str) -> PostgresOptions {
    SHARED.options(schema).audit(trail())
}

/// The trail of a schema: action, first and last turn, turns, bytes.
fn noted(schema: &str) -> String {
    let sql = format!("SELECT action, first_turn, last_turn, turns, bytes FROM {schema}.audit ORDER BY id");
    SHARED.psql(&sql, &[]).unwrap()
}

#[tokio::test]
async fn every_change_is_noted_by_the_statement_that_makes_it() {
    let store = open(audited("noted")).await;
    let key = key_of("ada");
    let (a, b, c) = (append("a"), append("b"), append("c").retention(Retention::turns(2)));
    let size = a.turn.bytes();
    for append in [&a, &b, &b, &c] {
        store.append(&key, append).await.unwrap();
    }
    let refused = Append::new(turn("refused"), Head::new(1, 1));
    assert_eq!(kind(store.append(&key, &refused).await), ErrorKind::Gone);
    store.delete(&key).await.unwrap();
    store.delete(&key).await.unwrap();
    let again = append("again");
    store.append(&key, &again).await.unwrap();
    assert_eq!(
        noted("noted"),
        format!(
            "append|1|1|1|{size}\nappend|2|2|1|{size}\nappend|3|3|1|{size}\ntrim|1|1|1|{size}\n\
             delete|2|3|2|{}\nappend|1|1|1|{}",
            2 * size,
            again.turn.bytes()
        )
    );
    let who = SHARED.psql("SELECT DISTINCT subject_hash FROM noted.audit", &[]).unwrap();
    assert_eq!(who, trail().hash(None, &Subject::new("ada").unwrap()));
    let all = SHARED.psql("SELECT * FROM noted.audit", &[]).unwrap();
    assert!(!all.contains("ada|") && !all.contains(key.conversation().as_str()) && !all.contains("re: "), "{all}");
}

#[tokio::test]
async fn the_trail_can_only_be_appended_to() {
    let store = open(audited("append_only")).await;
    store.append(&key(), &append("a")).await.unwrap();
    for change in
        ["UPDATE append_only.audit SET bytes = 0", "DELETE FROM append_only.audit", "TRUNCATE append_only.audit"]
    {
        let refused = SHARED.psql(change, &[]).unwrap_err();
        assert!(refused.contains("can only be appended to"), "{refused}");
    }
    assert_eq!(noted("append_only").lines().count(), 1);
}

#[tokio::test]
async fn without_a_trail_nothing_is_noted() {
    let store = store_in(&SHARED, "unnoted").await;
    let key = key_of("ada");
    store.append(&key, &append("a")).await.unwrap();
    store.delete(&key).await.unwrap();
    assert_eq!(noted("unnoted"), "");
}

#[tokio::test]
async fn a_note_that_cannot_be_made_stops_the_turn() {
    let store = open(audited("unwritable")).await;
    SHARED.psql("ALTER TABLE unwritable.audit ADD CHECK (action <> 'append')", &[]).unwrap();
    let key = key();
    store.append(&key, &append("a")).await.unwrap_err();
    assert!(turns(&store, &key).await.is_empty());
}

#[tokio::test]
async fn erasing_a_subject_leaves_a_receipt_a_fence_and_a_trail_without_content() {
    let store = open(audited("erased")).await;
    let (ada, acme) = (Subject::new("ada").unwrap(), Tenant::new("acme").unwrap());
    let mut expected = (0, 0);
    // More sessions than one statement erases.
    let mine: Vec<SessionKey> = (0..130).map(|_| key_of("ada")).collect();
    for key in &mine {
        let append = append("canary");
        expected = (expected.0 + 1, expected.1 + append.turn.bytes() as u64);
        store.append(key, &append).await.unwrap();
    }
    let in_tenant = key_of("ada").with_tenant(acme.clone());
    let (kept, other) = (append("kept"), key_of("bob"));
    store.append(&in_tenant, &kept).await.unwrap();
    store.append(&other, &kept).await.unwrap();
    let under_way = store.load(&mine[0], &Read::new(Window::ALL)).await.unwrap().head;

    let before = SystemTime::now();
    let receipt = store.erase(Some(&acme), &ada).await.unwrap();
    assert_eq!((receipt.sessions, receipt.turns, receipt.bytes), (1, 1, kept.turn.bytes() as u64));
    let receipt = store.erase(None, &ada).await.unwrap();
    assert_eq!((receipt.sessions, receipt.turns, receipt.bytes), (130, expected.0, expected.1));
    assert!(receipt.at >= before - Duration::from_secs(1) && receipt.at <= SystemTime::now() + Duration::from_secs(1));
    assert_eq!(store.erase(None, &ada).await.unwrap().sessions, 0);

    assert_eq!(kind(store.append(&mine[0], &Append::new(turn("late"), under_way)).await), ErrorKind::Gone);
    assert_eq!(turns(&store, &other).await, [kept.turn]);
    let rows = SHARED
        .psql(
            "SELECT * FROM erased.session WHERE sequence = 0; SELECT * FROM erased.turn; SELECT * FROM erased.audit",
            &[],
        )
        .unwrap();
    assert!(!rows.contains("canary") && !rows.contains("|ada|"), "{rows}");
    let notes = SHARED.psql("SELECT count(*) FROM erased.audit WHERE action = 'erase'", &[]).unwrap();
    assert_eq!(notes, "131");
}

#[tokio::test]
async fn a_purge_is_bounded_noted_and_takes_only_what_is_over() {
    let store = open(audited("purged")).await;
    let short = Some(Duration::from_millis(1));
    for _ in 0..5 {
        store.append(&key_of("ada"), &append("over").ttl(short)).await.unwrap();
    }
    let living = key_of("ada");
    store.append(&living, &append("living").ttl(Some(Duration::from_secs(3600)))).await.unwrap();
    store.append(&key_of("ada"), &append("for ever")).await.unwrap();
    let client = client(&SHARED).await;
    let over = "SELECT count(*) = 5 FROM purged.session WHERE expires_at <= clock_timestamp()";
    until(&client, over).await;

    let first = store.purge(3).await.unwrap();
    assert_eq!((first.sessions, first.turns, first.busy), (3, 3, false));
    assert_eq!(store.purge(3).await.unwrap().sessions, 2);
    assert_eq!(store.purge(3).await.unwrap().sessions, 0);
    assert_eq!(SHARED.psql("SELECT count(*) FROM purged.session", &[]).unwrap(), "2");
    assert_eq!(SHARED.psql("SELECT count(*) FROM purged.turn", &[]).unwrap(), "2");
    assert_eq!(noted("purged").lines().filter(|line| line.starts_with("expire|1|1|1|")).count(), 5);
    assert_eq!(turns(&store, &living).await.len(), 1);
}

#[tokio::test]
async fn one_instance_purges_and_the_others_pass() {
    let store = store_in(&SHARED, "busy").await;
    store.append(&key(), &append("over").ttl(Some(Duration::from_millis(1)))).await.unwrap();
    let mut other = client(&SHARED).await;
    let transaction = other.transaction().await.unwrap();
    transaction.batch_execute("SELECT pg_advisory_xact_lock(hashtextextended('\"busy\" purge', 0))").await.unwrap();
    let passed = store.purge(3).await.unwrap();
    assert!(passed.busy && passed.sessions == 0);
    transaction.rollback().await.unwrap();
    assert!(!store.purge(3).await.unwrap().busy);
}

#[tokio::test]
async fn the_purge_survives_errors() {
    let logs = Logs::capture();
    let server = Server::start(&[]);
    let store = store_in(&server, "session_memory").await;
    let task = tokio::spawn(store.clone().purge_every(Duration::from_millis(20)));
    async fn purged(store: &PostgresStore, server: &Server) {
        crate::kit::persist(store, &key(), &append("over").ttl(Some(Duration::from_millis(1)))).await;
        until(&client(server).await, "SELECT count(*) = 0 FROM session_memory.session").await;
    }
    purged(&store, &server).await;
    server.psql("ALTER FUNCTION session_memory.purge_expired RENAME TO away", &[]).unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while logs.count("purge failed, the next one will do it") == 0 {
        assert!(tokio::time::Instant::now() < deadline && !task.is_finished(), "no purge failed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.psql("ALTER FUNCTION session_memory.away RENAME TO purge_expired", &[]).unwrap();
    purged(&store, &server).await;
    let server = tokio::task::spawn_blocking(move || {
        server.kill();
        server.launch();
        server
    })
    .await
    .unwrap();
    purged(&store, &server).await;
    assert!(!task.is_finished());
    task.abort();
}

#[tokio::test]
async fn the_documented_queries_answer() {
    let server = Server::start(&[]);
    let store = open(server.options("session_memory").audit(trail())).await;
    let (ada, bob) = (key_of("ada@example.org"), key_of("bob"));
    for key in [&ada, &bob] {
        store.append(key, &append("what is said")).await.unwrap();
        store.append(key, &append("and then")).await.unwrap();
    }
    let docs = include_str!("../../src/store/postgres/postgres.md");
    let queries: Vec<&str> =
        docs.split("```sql audit\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(queries.len(), 6);
    let logged = ada.hashed().to_string();
    let hash = trail().hash(None, ada.subject().unwrap());
    let ask = |query: &str| {
        let variables = [
            ("subject", "ada%40example.org"),
            ("subject_hash", hash.as_str()),
            ("logged", logged.as_str()),
            ("since", "2020-01-01"),
            ("until", "2100-01-01"),
        ];
        server.psql(query, &variables).unwrap()
    };
    let lines = |index: usize| ask(queries[index]).lines().count();
    let id = ada.conversation().as_str();
    assert!(ask(queries[0]).starts_with(&format!("{id}|")) && lines(0) == 1, "a subject's sessions");
    assert!(ask(queries[1]).contains("what is said") && lines(1) == 8 / 2, "what was said");
    assert_eq!(lines(2), 4, "a period");
    assert_eq!(lines(3), 2, "by last activity");
    assert_eq!(ask(queries[4]), format!("|ada%40example.org|{id}"), "the session of a log line");
    assert!(ask(queries[5]).lines().filter(|line| line.contains("|append|")).count() >= 3, "{}", ask(queries[5]));
}

#[tokio::test]
async fn the_questions_are_answered_by_indexes() {
    let store = store_in(&SHARED, "indexed").await;
    store.append(&key_of("ada"), &append("a")).await.unwrap();
    let plan = |query: &str| {
        SHARED.psql(&format!("SET enable_seqscan = off; SET enable_bitmapscan = off; EXPLAIN {query}"), &[]).unwrap()
    };
    for (query, index) in [
        ("SELECT * FROM indexed.sessions_of('ada') ORDER BY last_active DESC", "session_by_subject"),
        ("SELECT * FROM indexed.session ORDER BY last_active DESC LIMIT 20", "session_by_activity"),
        ("SELECT * FROM indexed.turn WHERE stored_at >= '2020-01-01' AND stored_at < '2020-01-02'", "turn_by_time"),
        ("SELECT * FROM indexed.audit WHERE subject_hash = 'x' ORDER BY at", "audit_by_subject"),
        ("SELECT * FROM indexed.session WHERE expires_at <= now() ORDER BY expires_at LIMIT 9", "session_by_expiry"),
    ] {
        let plan = plan(query);
        assert!(plan.contains(index) && !plan.contains("Sort"), "{plan}");
    }
}
