//! What is particular to DynamoDB: its sizes, its pages, its time to live, its refusals.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use tokio::sync::Barrier;
use tower_session_memory::store::dynamodb::LargeTurns;
use tower_session_memory::store::{Append, DynamoDbOptions, DynamoDbStore, ErrorKind, Read, Store, StoreError};
use tower_session_memory::{
    ConversationId, Head, Message, Retention, SessionKey, Subject, Turn, TurnId, TurnStatus, Window,
};

use crate::server::{SHARED, config};

pub(crate) fn key() -> SessionKey {
    SessionKey::new(ConversationId::random()).with_subject(Subject::new("ada").unwrap())
}

pub(crate) fn turn(text: &str) -> Turn {
    Turn::new(TurnId::random(), TurnStatus::Complete, vec![Message::user(text)])
}

pub(crate) fn of_bytes(bytes: usize) -> Turn {
    turn(&"x".repeat(bytes - Message::user("").len()))
}

pub(crate) async fn turns(store: &DynamoDbStore, key: &SessionKey) -> Vec<Turn> {
    store.load(key, &Read::new(Window::ALL)).await.unwrap().turns
}

pub(crate) fn kind<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> ErrorKind {
    answer.unwrap_err().kind()
}

/// A client of the test's own and the table's name, to look at the items.
pub(crate) fn raw(store: &DynamoDbStore) -> (Client, String) {
    let shown = format!("{store:?}");
    let table = shown.split('"').nth(1).unwrap().to_owned();
    let config = aws_sdk_dynamodb::config::Builder::from(&config()).endpoint_url(SHARED.url()).build();
    (Client::from_conf(config), table)
}

pub(crate) async fn items(store: &DynamoDbStore) -> Vec<String> {
    let (client, table) = raw(store);
    let (mut sorts, mut from) = (Vec::new(), None);
    loop {
        let scan = client.scan().table_name(&table).set_exclusive_start_key(from);
        let page = scan.send().await.unwrap();
        sorts.extend(page.items().iter().map(|item| item["item"].as_s().unwrap().clone()));
        from = page.last_evaluated_key;
        if from.is_none() {
            sorts.sort();
            return sorts;
        }
    }
}

#[tokio::test]
async fn the_largest_turn_fits_an_item_and_a_larger_one_is_refused_before_the_network() {
    let options = SHARED.options().large_turns(LargeTurns::Refuse);
    let store = options.with_config(&config());
    store.create_table().await.unwrap();
    let largest = store.info().max_turn_bytes.unwrap();
    assert_eq!(largest, 350 << 10);
    let (key, whole) = (key(), of_bytes(largest));
    store.append(&key, &Append::unconditional(whole.clone())).await.unwrap();
    // As many messages as a turn may have, each with its comma.
    let many = Turn::new(
        TurnId::random(),
        TurnStatus::Complete,
        (0..256).map(|_| Message::user("x".repeat(largest / 256 - Message::user("").len()))).collect(),
    );
    store.append(&key, &Append::unconditional(many.clone())).await.unwrap();
    assert_eq!(turns(&store, &key).await, [whole, many]);

    for policy in [LargeTurns::Refuse, LargeTurns::Split] {
        let nowhere = SHARED.options().endpoint("http://127.0.0.1:1").large_turns(policy).with_config(&config());
        let largest = nowhere.info().max_turn_bytes.unwrap();
        let refused = nowhere.append(&key, &Append::unconditional(of_bytes(largest + 1))).await;
        assert_eq!(kind(refused), ErrorKind::TooLarge);
        // What stands beside the messages counts, too.
        let note = serde_json::value::to_raw_value(&"n".repeat(100_000)).unwrap();
        let noted = of_bytes(largest).with_note(Some(&note));
        assert_eq!(kind(nowhere.append(&key, &Append::unconditional(noted)).await), ErrorKind::TooLarge);
    }
}

#[tokio::test]
async fn histories_of_several_pages_are_whole() {
    let (store, key) = (SHARED.store().await, key());
    let mut expected = Vec::new();
    for _ in 0..9 {
        let turn = of_bytes(300_000);
        store.append(&key, &Append::unconditional(turn.clone())).await.unwrap();
        expected.push(turn);
    }
    assert_eq!(turns(&store, &key).await, expected);
    let window = Window::new(usize::MAX, usize::MAX, 1_600_000);
    let loaded = store.load(&key, &Read::new(window)).await.unwrap();
    assert_eq!(loaded.turns, expected[4..]);
    assert!(loaded.truncated);
    let first = expected[0].id();
    let loaded = store.load(&key, &Read::new(Window::newest(1)).find(first)).await.unwrap();
    assert_eq!(loaded.found.as_ref(), Some(&expected[0]));
}

#[tokio::test]
async fn a_retention_that_shrinks_removes_more_than_one_transaction_holds() {
    let (store, key) = (SHARED.store().await, key());
    for number in 0..70 {
        store.append(&key, &Append::unconditional(turn(&format!("{number}")))).await.unwrap();
    }
    let last = turn("last");
    store.append(&key, &Append::unconditional(last.clone()).retention(Retention::turns(1))).await.unwrap();
    assert_eq!(turns(&store, &key).await, [last]);
    let left = items(&store).await;
    assert_eq!(left.len(), 3, "a header, a turn, a marker: {left:?}");
}

#[tokio::test]
async fn the_end_of_life_is_an_attribute_that_is_rounded_up() {
    let (store, key) = (SHARED.store().await, key());
    // Of several items, which live as long as their session, whose end every append moves.
    let append = Append::unconditional(of_bytes(500_000)).ttl(Some(Duration::from_millis(1_500)));
    store.append(&key, &append).await.unwrap();
    let (client, table) = raw(&store);
    let scanned = client.scan().table_name(&table).send().await.unwrap();
    let number = |value: &AttributeValue| value.as_n().unwrap().parse::<u64>().unwrap();
    let with: Vec<_> = scanned.items().iter().filter(|item| item.contains_key("expires")).collect();
    assert_eq!(with.len(), 1, "the header alone");
    let (seconds, micros) = (number(&with[0]["expires"]), number(&with[0]["expires_at"]));
    assert!(seconds * 1_000_000 >= micros && (seconds - 1) * 1_000_000 < micros);
    let ttl = client.describe_time_to_live().table_name(&table).send().await.unwrap();
    let described = ttl.time_to_live_description.unwrap();
    assert_eq!(described.attribute_name.as_deref(), Some("expires"));
    // Without a life, the attribute goes.
    store.append(&key, &Append::unconditional(turn("b"))).await.unwrap();
    let scanned = client.scan().table_name(&table).send().await.unwrap();
    assert!(scanned.items().iter().all(|item| !item.contains_key("expires")));
    // What a delete leaves behind ends by itself.
    store.delete(&key).await.unwrap();
    let scanned = client.scan().table_name(&table).send().await.unwrap();
    assert_eq!(scanned.items().len(), 1);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let left = number(&scanned.items()[0]["expires"]) - now;
    assert!((23 * 3600..25 * 3600).contains(&left), "{left} s");
}

#[tokio::test]
async fn a_header_that_the_table_expired_is_a_session_that_is_gone() {
    let (store, key) = (SHARED.store().await, key());
    let head = store.append(&key, &Append::unconditional(turn("a"))).await.unwrap().head;
    let (client, table) = raw(&store);
    let header = client.delete_item().table_name(&table).key("session", AttributeValue::S(key.encoded().to_owned()));
    header.key("item", AttributeValue::S("~head".to_owned())).send().await.unwrap();
    assert_eq!(store.load(&key, &Read::new(Window::ALL)).await.unwrap().head, Head::ABSENT);
    assert_eq!(kind(store.append(&key, &Append::new(turn("late"), head)).await), ErrorKind::Gone);
    let anew = turn("anew");
    store.append(&key, &Append::new(anew.clone(), Head::ABSENT)).await.unwrap();
    assert_eq!(turns(&store, &key).await, [anew]);
    // What the old life left is hidden, and the purge removes it.
    assert_eq!(items(&store).await.len(), 5);
    store.purge(None).await.unwrap();
    assert_eq!(items(&store).await.len(), 3);
}

#[tokio::test]
async fn the_purge_removes_what_is_over_and_nothing_else() {
    let store = SHARED.store().await;
    let (over, living) = (key(), key());
    store.append(&over, &Append::unconditional(turn("a")).ttl(Some(Duration::from_millis(1)))).await.unwrap();
    store.append(&living, &Append::unconditional(turn("b")).ttl(Some(Duration::from_secs(60)))).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !turns(&store, &over).await.is_empty() {
        assert!(Instant::now() < deadline);
    }
    let purged = store.purge(None).await.unwrap();
    assert_eq!((purged.sessions, purged.next), (1, None));
    assert_eq!(items(&store).await.len(), 3);
    assert_eq!(turns(&store, &living).await.len(), 1);
}

#[tokio::test]
async fn a_location_is_the_endpoint_the_region_and_the_table() {
    let told = |options: DynamoDbOptions| options.with_config(&config()).info().location.unwrap();
    let table = || DynamoDbOptions::new("chat");
    let first = told(table().endpoint("http://canary:canary@127.0.0.1:1/path"));
    assert_eq!(first.words(), "http://127.0.0.1:1 region=us-east-1 table=chat");
    assert_eq!(told(table().endpoint("http://127.0.0.1:1")), first);
    let others = [told(DynamoDbOptions::new("other").endpoint("http://127.0.0.1:1")), told(table())];
    assert!(others.iter().all(|other| other.fingerprint() != first.fingerprint()), "{first:?} {others:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_pods_make_the_table_at_once() {
    let options = SHARED.options();
    let start = Arc::new(Barrier::new(10));
    let pods: Vec<_> = (0..10)
        .map(|_| {
            let (store, start) = (options.clone().with_config(&config()), start.clone());
            tokio::spawn(async move {
                start.wait().await;
                store.create_table().await.unwrap();
                store.append(&key(), &Append::unconditional(turn("hello"))).await.unwrap();
            })
        })
        .collect();
    for pod in pods {
        pod.await.unwrap();
    }
}

#[tokio::test]
async fn a_missing_table_and_a_missing_server_are_told_apart() {
    let store = SHARED.options().with_config(&config());
    assert_eq!(kind(store.ping().await), ErrorKind::Misconfigured);
    assert_eq!(kind(store.append(&key(), &Append::unconditional(turn("a"))).await), ErrorKind::Misconfigured);
    let patience = Duration::from_millis(500);
    let options = SHARED.options().endpoint("http://127.0.0.1:1").patience(patience).attempt_timeout(patience);
    let store = options.with_config(&config());
    assert_eq!(kind(store.load(&key(), &Read::new(Window::ALL)).await), ErrorKind::Unavailable);
    // Whether a request was sent cannot be told apart from whether it arrived.
    assert_eq!(kind(store.append(&key(), &Append::new(turn("a"), Head::ABSENT)).await), ErrorKind::Ambiguous);
}

#[tokio::test]
async fn damaged_and_foreign_items_are_told_and_left_alone() {
    let store = SHARED.store().await;
    let (one, other) = (key(), key());
    store.append(&one, &Append::unconditional(turn("a"))).await.unwrap();
    store.append(&other, &Append::unconditional(turn("b"))).await.unwrap();
    let (client, table) = raw(&store);
    let scanned = client.scan().table_name(&table).send().await.unwrap();
    let item = |key: &SessionKey| {
        let of = |item: &&std::collections::HashMap<String, AttributeValue>| {
            item["session"].as_s().unwrap() == key.encoded() && item["item"].as_s().unwrap().starts_with("turn#")
        };
        scanned.items().iter().find(of).unwrap().clone()
    };
    let mut swapped = item(&one);
    swapped.insert("record".to_owned(), item(&other)["record"].clone());
    client.put_item().table_name(&table).set_item(Some(swapped)).send().await.unwrap();
    assert_eq!(kind(store.load(&one, &Read::new(Window::ALL)).await), ErrorKind::Corrupt);
    assert_eq!(turns(&store, &other).await.len(), 1);
}
