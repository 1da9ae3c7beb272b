//! Turns that a failover lost, when others have taken their places before anybody looked.

use tower_session_memory::store::{Append, Appended, Cached, ErrorKind, Read, RedisStore, Store};
use tower_session_memory::{ConversationId, Head, Message, SessionKey, Subject, Turn, TurnId, TurnStatus, Window};

use crate::common::servers::{RedisServer, eventually};

fn turn(text: &str) -> Turn {
    Turn::new(TurnId::random(), TurnStatus::Complete, vec![Message::user(text)])
}

fn ids(turns: &[Turn]) -> Vec<TurnId> {
    turns.iter().map(Turn::id).collect()
}

/// A turn for whoever has seen what `after` ended with.
fn next(turn: &Turn, after: Option<&Appended>) -> Append {
    let (head, lineage) = after.map_or((Head::ABSENT, None), |after| (after.head, after.lineage));
    Append::new(turn.clone(), head).lineage(lineage).searched()
}

async fn add(store: &impl Store, key: &SessionKey, turn: &Turn, after: Option<&Appended>) -> Appended {
    store.append(key, &next(turn, after)).await.unwrap()
}

/// A session whose newest turns only the old master has, while pods of the new one have put others in
/// their places.
struct Split {
    _old: RedisServer,
    new: RedisServer,
    key: SessionKey,
    /// The newest that the pods of the old master have seen.
    seen: Appended,
}

impl Split {
    /// Loses the third turn and the fourth; `places` others take theirs, and where `retried`, the fourth
    /// is sent once more behind them.
    async fn make(places: usize, retried: bool) -> Self {
        let old = RedisServer::start();
        let new = RedisServer::with(&["--appendonly", "yes", "--replicaof", &format!("127.0.0.1 {}", old.port)]);
        let key = SessionKey::new(ConversationId::random()).with_subject(Subject::new("ada").unwrap());
        let before = RedisStore::connect(&old.url()).await.unwrap();
        let one = add(&before, &key, &turn("one"), None).await;
        let two = add(&before, &key, &turn("two"), Some(&one)).await;
        let name = format!("tsm:{{{}}}", key.encoded());
        eventually("the replica has both", || (new.ask::<i64>(&format!("LLEN {name}")) == 7).then_some(()));
        new.ask::<()>("REPLICAOF NO ONE");
        let three = add(&before, &key, &turn("three, acknowledged and lost"), Some(&two)).await;
        let fourth = turn("four, acknowledged and lost");
        let seen = add(&before, &key, &fourth, Some(&three)).await;

        let other = RedisStore::connect(&new.url()).await.unwrap();
        let mut last = two;
        for _ in 0..places {
            last = add(&other, &key, &turn("another"), Some(&last)).await;
        }
        if retried {
            add(&other, &key, &fourth, Some(&last)).await;
        }
        Self { _old: old, new, key, seen }
    }

    /// Each way in which the places are taken: both and more, both by others, and the last by the same turn.
    async fn all() -> Vec<Self> {
        vec![Self::make(4, false).await, Self::make(2, false).await, Self::make(1, true).await]
    }
}

#[tokio::test]
async fn a_turn_that_followed_a_lost_one_is_refused_although_its_place_is_taken() {
    for split in Split::all().await {
        let pod = Cached::new(RedisStore::connect(&split.new.url()).await.unwrap(), 1 << 20);
        let stored = pod.load(&split.key, &Read::new(Window::ALL)).await.unwrap();
        let late = next(&turn("next"), Some(&split.seen));
        assert_eq!(pod.append(&split.key, &late).await.unwrap_err().kind(), ErrorKind::RolledBack);
        let again = pod.load(&split.key, &Read::new(Window::ALL)).await.unwrap();
        assert_eq!(again.turns, stored.turns, "nothing was stored");
        // Who has seen what is there goes on.
        let on = Append::new(turn("next"), again.head).lineage(again.lineage).searched();
        pod.append(&split.key, &on).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_newer_than_a_lost_turn_is_not_told_as_if_it_followed() {
    for split in Split::all().await {
        let store = RedisStore::connect(&split.new.url()).await.unwrap();
        let whole = store.load(&split.key, &Read::new(Window::ALL)).await.unwrap();
        let pod = Cached::new(RedisStore::connect(&split.new.url()).await.unwrap(), 1 << 20);
        pod.load(&split.key, &Read::new(Window::ALL)).await.unwrap();
        // By a plain command, and by the script.
        for read in [Read::new(Window::ALL), Read::new(Window::default()).find(TurnId::random())] {
            let lost = read.known(split.seen.head).lineage(split.seen.lineage);
            for loaded in [store.load(&split.key, &lost).await.unwrap(), pod.load(&split.key, &lost).await.unwrap()] {
                assert_eq!((loaded.since, ids(&loaded.turns)), (None, ids(&whole.turns)), "{read:?}");
            }
            let known = read.known(whole.head).lineage(whole.lineage);
            let loaded = store.load(&split.key, &known).await.unwrap();
            assert_eq!((loaded.since, loaded.turns.len()), (Some(whole.head), 0), "{read:?}");
        }
    }
}

/// One server, whose session loses turns and gets others in their places, as after a failover that a
/// pod's connections follow.
#[tokio::test]
async fn a_copy_with_a_lost_turn_is_given_up() {
    let server = RedisServer::start();
    let pod = Cached::new(RedisStore::connect(&server.url()).await.unwrap(), 1 << 20);
    let key = SessionKey::new(ConversationId::random());
    let name = format!("tsm:{{{}}}", key.encoded());
    let [first, lost, retried, instead] = ["one", "lost", "sent again", "in its place"].map(turn);
    let one = add(&pod, &key, &first, None).await;
    let two = add(&pod, &key, &lost, Some(&one)).await;
    add(&pod, &key, &retried, Some(&two)).await;
    let read = Read::new(Window::ALL);
    assert_eq!(pod.load(&key, &read).await.unwrap().turns.len(), 3);
    server.ask::<()>(&format!("LTRIM {name} 0 3"));
    let other = RedisStore::connect(&server.url()).await.unwrap();
    let two = add(&other, &key, &instead, Some(&one)).await;
    add(&other, &key, &retried, Some(&two)).await;
    for from in ["the store", "the copy"] {
        let loaded = pod.load(&key, &read).await.unwrap();
        assert_eq!(loaded.turns, [first.clone(), instead.clone(), retried.clone()], "from {from}");
        assert_eq!(loaded.lost, from == "the store", "told once");
    }
}

/// It was searched for in a history that is lost: the one that is there may have it.
#[tokio::test]
async fn a_turn_that_was_stored_again_where_its_history_was_lost_is_a_duplicate() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.unwrap();
    let key = SessionKey::new(ConversationId::random());
    let name = format!("tsm:{{{}}}", key.encoded());
    let [first, lost, mine] = ["one", "acknowledged and lost", "mine"].map(turn);
    let one = add(&store, &key, &first, None).await;
    let two = add(&store, &key, &lost, Some(&one)).await;
    // The answer to this one was lost on its way, and so was the turn.
    add(&store, &key, &mine, Some(&two)).await;
    server.ask::<()>(&format!("LTRIM {name} 0 3"));
    // Another pod sends it once more: in the place of the lost one, or behind another in that place.
    for (before, place) in [(None, 2), (Some(turn("another")), 3)] {
        server.ask::<()>(&format!("LTRIM {name} 0 3"));
        let mut last = one.clone();
        for turn in before.iter().chain([&mine]) {
            last = add(&store, &key, turn, Some(&last)).await;
        }
        let again = store.append(&key, &next(&mine, Some(&two))).await.unwrap();
        assert_eq!((again.sequence, again.duplicate_of), (place, Some(mine.clone())));
        // Another turn of that lost history is refused.
        let late = store.append(&key, &next(&turn("late"), Some(&two))).await;
        assert_eq!(late.unwrap_err().kind(), ErrorKind::RolledBack);
    }
}
