//! Turns of several items: whole or not at all, whoever takes a part away.

use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::Value;
use tower_session_memory::store::dynamodb::LargeTurns;
use tower_session_memory::store::{Append, ErrorKind, Read, Store};
use tower_session_memory::{Head, Message, Retention, Turn, TurnId, TurnStatus, Window};

use crate::relay::{Reply, behind};
use crate::server::{SHARED, config};
use crate::table::{items, key, kind, of_bytes, raw, turn, turns};

#[tokio::test]
async fn a_large_turn_is_read_back_trimmed_found_replayed_and_deleted_as_one() {
    let (store, key) = (SHARED.store().await, key());
    // Characters of several bytes, so that a cut may fall into one.
    let large = Turn::new(
        TurnId::random(),
        TurnStatus::Complete,
        vec![Message::user("x".repeat(7)), Message::assistant("ü€😀".repeat(120_000))],
    );
    let (first, last) = (turn("first"), turn("last"));
    let mut head = Head::ABSENT;
    for turn in [&first, &large, &last] {
        head = store.append(&key, &Append::new(turn.clone(), head)).await.unwrap().head;
    }
    assert_eq!(turns(&store, &key).await, [first.clone(), large.clone(), last.clone()]);
    let parts = items(&store).await.iter().filter(|sort| sort.contains("#00000000000000000002#")).count();
    assert_eq!(parts, 2, "beside the first");
    // By an instance that would not have written it.
    let other = raw(&store).1;
    let other = tower_session_memory::store::DynamoDbOptions::new(other).endpoint(SHARED.url());
    let other = other.large_turns(LargeTurns::Refuse).with_config(&config());
    assert_eq!(turns(&other, &key).await, [first, large.clone(), last]);
    let found = other.load(&key, &Read::new(Window::newest(1)).find(large.id())).await.unwrap().found;
    assert_eq!(found.as_ref(), Some(&large));
    let replayed = store.append(&key, &Append::new(large.clone(), Head::ABSENT)).await.unwrap();
    assert_eq!((replayed.sequence, replayed.duplicate_of.as_ref()), (2, Some(&large)));

    let kept = Append::unconditional(turn("kept")).retention(Retention::turns(1));
    store.append(&key, &kept).await.unwrap();
    assert_eq!(items(&store).await.len(), 3, "a header, a turn, a marker: {:?}", items(&store).await);
    store.append(&key, &Append::unconditional(large)).await.unwrap();
    assert_eq!(store.delete(&key).await.unwrap().turns, 2);
    assert_eq!(items(&store).await, ["~head"]);
}

#[tokio::test]
async fn a_part_that_is_missing_is_told() {
    let large = || of_bytes(1_000_000);
    for missing in ["", "#01", "#02"] {
        let (store, key) = (SHARED.store().await, key());
        let (before, torn, after) = (turn("before"), large(), turn("after"));
        let mut head = Head::ABSENT;
        for turn in [&before, &torn, &after] {
            head = store.append(&key, &Append::new(turn.clone(), head)).await.unwrap().head;
        }
        let (client, table) = raw(&store);
        let sort = format!("turn#{:020}#{:020}{missing}", head.epoch, 2);
        let gone = client.delete_item().table_name(table);
        let gone = gone.key("session", AttributeValue::S(key.encoded().to_owned()));
        gone.key("item", AttributeValue::S(sort)).send().await.unwrap();
        let all = store.load(&key, &Read::new(Window::ALL)).await;
        assert_eq!(kind(all), ErrorKind::Corrupt, "{missing}");
        let find = Read::new(Window::newest(1)).find(torn.id());
        assert_eq!(kind(store.load(&key, &find).await), ErrorKind::Corrupt, "{missing}");
        assert_eq!(kind(store.append(&key, &Append::unconditional(torn)).await), ErrorKind::Corrupt, "{missing}");
        // Who does not ask for it is not hindered.
        let newest = store.load(&key, &Read::new(Window::newest(1))).await.unwrap();
        assert_eq!(newest.turns, [after]);
        assert!(newest.truncated);
    }
}

/// A query that saw a moment when a turn, or a part of one, had just been trimmed.
#[tokio::test]
async fn a_query_that_is_torn_is_asked_again() {
    fn without(sort: &str, page: &mut Value) {
        let items = page["Items"].as_array_mut().unwrap();
        items.retain(|item| !item["item"]["S"].as_str().unwrap().ends_with(sort));
        page["Count"] = items.len().into();
    }
    let tears: [fn(&mut Value); 3] =
        [|page| without("0002#01", page), |page| without("0002", page), |page| without("0003", page)];
    for tear in tears {
        let (options, quiet, seen) =
            behind(move |before, _| if before == 0 { Reply::Change(tear) } else { Reply::Pass }).await;
        let (store, key) = (options.patience(Duration::from_secs(8)).with_config(&config()), key());
        for turn in [turn("1"), of_bytes(500_000), turn("3"), turn("4")] {
            quiet.append(&key, &Append::unconditional(turn)).await.unwrap();
        }
        assert_eq!(turns(&store, &key).await, turns(&quiet, &key).await);
        assert_eq!(seen.take().len(), 2);
    }
}
