//! Turns that a failover lost, when others have taken their places before anybody looked.

use tower_session_memory::store::{Append, Cached, ErrorKind, Read, RedisStore, Store};
use tower_session_memory::{
    ConversationId, Head, InMemory, Message, SessionKey, Subject, Turn, TurnId, TurnStatus, Window,
};

use crate::common::servers::{RedisServer, eventually};

fn turn(text: &str) -> Turn {
    Turn::new(TurnId::random(), TurnStatus::Complete, vec![Message::user(text)])
}

fn ids(turns: &[Turn]) -> Vec<TurnId> {
    turns.iter().map(Turn::id).collect()
}

async fn add(store: &impl Store, key: &SessionKey, head: Head, newest: Option<TurnId>, text: &str) -> (Head, TurnId) {
    let append = Append::new(turn(text), head).newest(newest).searched();
    (store.append(key, &append).await.unwrap().head, append.turn.id())
}

/// A session whose third turn only the old master has, while a pod on the new one has stored another
/// third turn, and perhaps more.
struct Split {
    _old: RedisServer,
    new: RedisServer,
    key: SessionKey,
    /// What the pod of the old master has seen.
    seen: (Head, TurnId),
}

async fn split(later: usize) -> (Split, Cached<RedisStore>) {
    let old = RedisServer::start();
    let new = RedisServer::with(&["--appendonly", "yes", "--replicaof", &format!("127.0.0.1 {}", old.port)]);
    let key = SessionKey::new(ConversationId::random()).with_subject(Subject::new("ada").unwrap());
    let pod = Cached::new(RedisStore::connect(&old.url()).await.unwrap(), 1 << 20);
    let (head, first) = add(&pod, &key, Head::ABSENT, None, "one").await;
    let (head, second) = add(&pod, &key, head, Some(first), "two").await;
    let name = format!("tsm:{{{}}}", key.encoded());
    eventually("the replica has both", || (new.ask::<i64>(&format!("LLEN {name}")) == 7).then_some(()));
    new.ask::<()>("REPLICAOF NO ONE");
    let seen = add(&pod, &key, head, Some(second), "three, acknowledged and lost").await;

    let other = RedisStore::connect(&new.url()).await.unwrap();
    let (mut head, mut newest) = (head, second);
    for number in 0..=later {
        (head, newest) = add(&other, &key, head, Some(newest), &format!("another {number}")).await;
    }
    // The pod, as it finds the new master.
    let moved = Cached::new(RedisStore::connect(&new.url()).await.unwrap(), 1 << 20);
    (Split { _old: old, new, key, seen }, moved)
}

#[tokio::test]
async fn a_turn_that_followed_a_lost_one_is_refused_although_its_place_is_taken() {
    for later in [0, 2] {
        let (split, pod) = split(later).await;
        let (head, newest) = split.seen;
        let stored = pod.load(&split.key, &Read::new(Window::ALL)).await.unwrap();
        let next = Append::new(turn("next"), head).newest(Some(newest)).searched();
        assert_eq!(pod.append(&split.key, &next).await.unwrap_err().kind(), ErrorKind::RolledBack);
        let again = pod.load(&split.key, &Read::new(Window::ALL)).await.unwrap();
        assert_eq!(again.turns, stored.turns, "nothing was stored");
        // Who has seen what is there goes on.
        let next = Append::new(turn("next"), again.head).newest(again.turns.last().map(Turn::id)).searched();
        pod.append(&split.key, &next).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_newer_than_a_lost_turn_is_not_told_as_if_it_followed() {
    for later in [0, 2] {
        let (split, _) = split(later).await;
        let store = RedisStore::connect(&split.new.url()).await.unwrap();
        let (head, newest) = split.seen;
        let whole = store.load(&split.key, &Read::new(Window::ALL)).await.unwrap();
        // By a plain command, and by the script.
        for read in [Read::new(Window::ALL), Read::new(Window::default()).find(TurnId::random())] {
            let loaded = store.load(&split.key, &read.known(head).newest(newest)).await.unwrap();
            assert_eq!((loaded.since, ids(&loaded.turns)), (None, ids(&whole.turns)), "{read:?}");
            let known = Head::new(head.epoch, whole.head.sequence);
            let loaded =
                store.load(&split.key, &read.known(known).newest(whole.turns.last().unwrap().id())).await.unwrap();
            assert_eq!((loaded.since, loaded.turns.len()), (Some(known), 0), "{read:?}");
        }
    }
}

/// The same server, whose session loses a turn and gets another in its place, as after a failover that
/// a pod's connections follow.
#[tokio::test]
async fn a_copy_with_a_lost_turn_is_given_up() {
    let server = RedisServer::start();
    let pod = Cached::new(RedisStore::connect(&server.url()).await.unwrap(), 1 << 20);
    let key = SessionKey::new(ConversationId::random());
    let name = format!("tsm:{{{}}}", key.encoded());
    let (head, first) = add(&pod, &key, Head::ABSENT, None, "one").await;
    add(&pod, &key, head, Some(first), "lost").await;
    let read = Read::new(Window::ALL);
    assert_eq!(pod.load(&key, &read).await.unwrap().turns.len(), 2);
    server.ask::<()>(&format!("LTRIM {name} 0 3"));
    let other = RedisStore::connect(&server.url()).await.unwrap();
    let (_, second) = add(&other, &key, head, Some(first), "in its place").await;
    assert_eq!(ids(&pod.load(&key, &read).await.unwrap().turns), [first, second]);
    assert_eq!(ids(&pod.load(&key, &read).await.unwrap().turns), [first, second], "from the copy");
}

/// As the specification says it.
#[tokio::test]
async fn the_store_in_memory_does_the_same() {
    let (store, key) = (InMemory::new(), SessionKey::new(ConversationId::random()));
    let (head, first) = add(&store, &key, Head::ABSENT, None, "one").await;
    let lost = TurnId::random();
    let next = Append::new(turn("next"), head).newest(Some(lost)).searched();
    assert_eq!(store.append(&key, &next).await.unwrap_err().kind(), ErrorKind::RolledBack);
    let read = Read::new(Window::ALL).known(head);
    assert_eq!(store.load(&key, &read.newest(lost)).await.unwrap().since, None);
    assert_eq!(store.load(&key, &read.newest(first)).await.unwrap().since, Some(head));
    add(&store, &key, head, Some(first), "two").await;
}
