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
    assert!(left(&index()) > left(&session_name));

    server.ask::<()>(&format!("PEXPIRE {} 5000", index()));
    assert!(store.append(&session, &first).await.unwrap().duplicate_of.is_some());
    assert!(left(&index()) > left(&session_name));

    // Within the minute, by a pod that lets sessions live longer, and by one that keeps them for ever.
    let mut last = one;
    for ttl in [Some(Duration::from_secs(90_000)), None] {
        last = store.append(&session, &append(second(20), Some(&last)).ttl(ttl)).await.unwrap();
        let (index, session) = (left(&index()), left(&session_name));
        assert!(if ttl.is_none() { (index, session) == (-1, -1) } else { index > session }, "{index} {session}");
    }
}

/// Cleaning up does not skip the living, however many sessions are no more.
#[tokio::test]
async fn the_dead_hide_none_of_the_living() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.unwrap();
    let mut living = Vec::new();
    for number in 0..600 {
        let session = key();
        add(&store, &session, second(number), None).await;
        if number % 3 == 0 {
            server.ask::<i64>(&format!("DEL tsm:{{{}}}", session.encoded()));
        } else {
            living.push((session, second(number)));
        }
    }
    living.reverse();
    assert_eq!(listed(&store, 1_000).await, living, "the first listing, which cleans up");
    assert_eq!(server.ask::<usize>(&format!("ZCARD {}", index())), living.len());
    assert_eq!(listed(&store, 150).await, living);
}

/// The same moment for many: pages end in the middle of it.
#[tokio::test]
async fn many_sessions_of_one_moment_are_each_told_once() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.unwrap();
    let mut all = Vec::new();
    for _ in 0..450 {
        all.push(key());
        add(&store, &all[all.len() - 1], second(0), None).await;
    }
    all.sort();
    for limit in [100, 1_000] {
        let mut told: Vec<_> = listed(&store, limit).await.into_iter().map(|(key, _)| key).collect();
        told.sort();
        assert_eq!(told, all, "pages of {limit}");
    }
}

#[tokio::test]
async fn a_session_that_begins_again_while_it_is_cleaned_up_stays_listed() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.unwrap();
    for round in 0..200 {
        let session = key();
        add(&store, &session, second(round), None).await;
        server.ask::<i64>(&format!("DEL tsm:{{{}}}", session.encoded()));
        let listing = async {
            listed(&store, 10).await;
        };
        let beginning = async {
            for _ in 0..round % 20 {
                tokio::task::yield_now().await;
            }
            add(&store, &session, second(round + 1), None).await
        };
        let (_, one) = tokio::join!(listing, beginning);
        add(&store, &session, second(round + 1), Some(&one)).await;
        assert!(listed(&store, 10_000).await.iter().any(|(key, _)| *key == session), "round {round}");
    }
}

/// One turn by a clock that is far ahead: told like that once.
#[tokio::test]
async fn an_index_that_is_wrong_is_mended_by_a_listing() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.unwrap();
    let (ahead, other) = (key(), key());
    let one = add(&store, &ahead, second(864_000), None).await;
    add(&store, &ahead, second(0), Some(&one)).await;
    add(&store, &other, second(10), None).await;
    server.ask::<i64>(&format!("ZADD {} {} {}", index(), (DAY + 864_000) * 1000, ahead.encoded()));
    assert_eq!(listed(&store, 10).await[0].0, ahead);
    assert_eq!(listed(&store, 10).await, [(other, second(10)), (ahead, second(0))]);
}

#[tokio::test]
async fn a_rebuild_that_was_given_up_is_made_by_another() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.unwrap();
    let session = key();
    add(&store, &session, second(0), None).await;
    server.ask::<i64>(&format!("DEL {}", index()));
    // As it is left by who was stopped in the middle of it.
    server.ask::<()>("SET tsm:indexed 1 PX 300");
    assert_eq!(listed(&store, 10).await, []);
    let began = std::time::Instant::now();
    while listed(&store, 10).await.is_empty() {
        assert!(began.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(server.ask::<i64>("PTTL tsm:indexed"), -1);
}
