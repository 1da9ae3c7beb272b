//! The index of a subject's sessions: noted once a minute, told to the turn.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tower_session_memory::store::{Append, Appended, Page, RedisStore, Store};
use tower_session_memory::{ConversationId, Head, Message, Scope, SessionKey, Subject, Turn, TurnId, TurnStatus};

use crate::common::servers::RedisServer;

/// A day on which a minute begins at 0.
const DAY: u64 = 1_700_006_400;

fn second(number: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(DAY + number)
}

fn key() -> SessionKey {
    SessionKey::new(ConversationId::random()).with_subject(Subject::new("ada").unwrap())
}

fn index() -> String {
    let subject = Subject::new("ada").unwrap();
    format!("tsm:of:{{{}}}", subject.encoded())
}

fn append(at: SystemTime, after: Option<&Appended>) -> Append {
    let turn = Turn::at_time(TurnId::random(), TurnStatus::Complete, vec![Message::user("hello")], at);
    let (head, lineage) = after.map_or((Head::ABSENT, None), |after| (after.head, after.lineage));
    Append::new(turn, head).lineage(lineage).searched().ttl(Some(Duration::from_secs(3600)))
}

async fn add(store: &RedisStore, key: &SessionKey, at: SystemTime, after: Option<&Appended>) -> Appended {
    store.append(key, &append(at, after)).await.unwrap()
}

async fn listed(store: &RedisStore, limit: usize) -> Vec<(SessionKey, SystemTime)> {
    let scope = Scope::all().subject(Subject::new("ada").unwrap());
    let (mut page, mut all) = (Page::first(limit), Vec::new());
    loop {
        let told = store.list(&scope, &page).await.unwrap();
        all.extend(told.sessions.into_iter().map(|entry| (entry.key, entry.last_active)));
        if told.next.is_none() {
            return all;
        }
        page = Page::first(limit).after(told.next);
    }
}

#[tokio::test]
async fn a_session_is_noted_once_a_minute_and_told_by_its_newest_turn() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.unwrap();
    let sessions: Vec<SessionKey> = (0..5).map(|_| key()).collect();
    let mut ends = Vec::new();
    for (number, session) in sessions.iter().enumerate() {
        ends.push(add(&store, session, second(number as u64), None).await);
    }
    let noted = server.ask::<String>("INFO commandstats");
    assert!(noted.contains("cmdstat_zadd:calls=5,"), "{noted}");

    // In the same minute, and in another order than they began.
    let order = [3, 0, 4, 2, 1];
    for (moment, session) in order.iter().enumerate() {
        ends[*session] = add(&store, &sessions[*session], second(20 + moment as u64), Some(&ends[*session])).await;
    }
    let noted = server.ask::<String>("INFO commandstats");
    assert!(noted.contains("cmdstat_zadd:calls=5,"), "{noted}");
    let newest_first: Vec<_> = (0..5).rev().map(|at| (sessions[order[at]].clone(), second(20 + at as u64))).collect();
    for limit in [1, 2, 3, 5, 10] {
        assert_eq!(listed(&store, limit).await, newest_first, "pages of {limit}");
    }

    let last = order[0];
    add(&store, &sessions[last], second(60), Some(&ends[last])).await;
    assert!(server.ask::<String>("INFO commandstats").contains("cmdstat_zadd:calls=6,"));
    assert_eq!(listed(&store, 3).await[0], (sessions[last].clone(), second(60)));
}

/// What an index lost is not made good, so that pages do not skip what stands elsewhere.
#[tokio::test]
async fn an_index_that_is_far_behind_hides_no_session() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.unwrap();
    let sessions: Vec<SessionKey> = (0..6).map(|_| key()).collect();
    for (number, session) in sessions.iter().enumerate() {
        let one = add(&store, session, second(100 * number as u64), None).await;
        add(&store, session, second(10_000 + number as u64), Some(&one)).await;
        if number % 2 == 0 {
            server.ask::<()>(&format!("ZADD {} {} {}", index(), (DAY + number as u64) * 1000, session.encoded()));
        }
    }
    for limit in [1, 2, 3, 10] {
        let told = listed(&store, limit).await;
        let mut keys: Vec<_> = told.iter().map(|(key, _)| key.clone()).collect();
        keys.sort();
        let mut all = sessions.clone();
        all.sort();
        assert_eq!(keys, all, "pages of {limit}");
        assert!(told.is_sorted_by(|a, b| a.1 >= b.1), "pages of {limit}: {told:?}");
    }
}

#[tokio::test]
async fn an_index_lives_longer_than_its_sessions_also_by_a_duplicate() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.unwrap();
    let session = key();
    let first = append(second(0), None);
    let one = store.append(&session, &first).await.unwrap();
    let left = |name: &str| server.ask::<i64>(&format!("PTTL {name}"));
    let session_name = format!("tsm:{{{}}}", session.encoded());
    assert!(left(&index()) > left(&session_name) + 59_000);

    server.ask::<()>(&format!("PEXPIRE {} 5000", index()));
    assert!(store.append(&session, &first).await.unwrap().duplicate_of.is_some());
    assert!(left(&index()) > left(&session_name) + 59_000);

    // Within the minute the session's life is moved on and the index's is not: it was given a minute more.
    add(&store, &session, second(59), Some(&one)).await;
    assert!(left(&index()) > left(&session_name));
}
