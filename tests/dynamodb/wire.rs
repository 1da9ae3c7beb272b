//! What goes over the wire: how many requests, what they ask for, how large they are.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use tower_session_memory::store::{Append, Cached, Page, Read, Store};
use tower_session_memory::{Head, Retention, Scope, Subject, Window};

use crate::relay::{Asked, Reply, behind};
use crate::server::config;
use crate::table::{key, of_bytes, turn, turns};

fn operations(asked: &[Asked]) -> Vec<&str> {
    asked.iter().map(|asked| asked.operation.as_str()).collect()
}

#[tokio::test]
async fn whatever_decides_is_read_consistently() {
    let (options, _, seen) = behind(|_, _| Reply::Pass).await;
    let (store, key) = (options.with_config(&config()), key());
    let first = turn("first");
    let head = store.append(&key, &Append::new(first.clone(), Head::ABSENT)).await.unwrap().head;
    store.append(&key, &Append::new(first.clone(), head)).await.unwrap();
    for retention in [Retention::default(), Retention::turns(1)] {
        store.append(&key, &Append::unconditional(turn("more")).retention(retention)).await.unwrap();
    }
    let read = Read::new(Window::newest(1)).known(head).find(first.id());
    store.load(&key, &read).await.unwrap();
    store.load(&key, &Read::new(Window::newest(1)).find(first.id())).await.unwrap();
    for scope in [Scope::all(), Scope::all().subject(Subject::new("ada").unwrap())] {
        assert_eq!(store.list(&scope, &Page::first(3)).await.unwrap().sessions.len(), 1);
    }
    store.delete(&key).await.unwrap();
    store.ping().await.unwrap();
    let seen = seen.take();
    let mut consistent = HashMap::new();
    for Asked { operation, body } in &seen {
        let reads = match operation.as_str() {
            "BatchGetItem" => &body["RequestItems"].as_object().unwrap().values().next().unwrap()["ConsistentRead"],
            // An index has no consistent reads: see the test of one that lags.
            "Query" if body["IndexName"].is_string() => continue,
            "Query" | "GetItem" | "Scan" => &body["ConsistentRead"],
            _ => continue,
        };
        assert_eq!(reads, &Value::Bool(true), "{operation}");
        *consistent.entry(operation.as_str()).or_insert(0) += 1;
    }
    assert_eq!(consistent.len(), 4, "every way to read was taken: {consistent:?}");
}

#[tokio::test]
async fn a_load_and_an_append_are_one_request_each() {
    let (options, quiet, seen) = behind(|_, _| Reply::Pass).await;
    let (store, key) = (options.with_config(&config()), key());
    let mut head = Head::ABSENT;
    // Large ones among them: of two items each, and three turns fill a page.
    for turn in [turn("a"), of_bytes(500_000), turn("b"), of_bytes(400_000)] {
        head = store.append(&key, &Append::new(turn, head)).await.unwrap().head;
    }
    assert_eq!(operations(&seen.take()), ["TransactWriteItems"; 4]);
    for newest in [0, 1, 2, 3] {
        let loaded = store.load(&key, &Read::new(Window::newest(newest))).await.unwrap();
        assert_eq!((loaded.turns.len(), loaded.truncated), (newest, true));
        assert_eq!(operations(&seen.take()), ["Query"], "{newest} turns");
    }
    let known = Read::new(Window::ALL).known(Head::new(head.epoch, head.sequence - 1));
    assert_eq!(store.load(&key, &known).await.unwrap().turns.len(), 1);
    assert_eq!(operations(&seen.take()), ["Query"]);
    // A pod that has seen the session asks only for what another one added.
    let warm = Cached::new(store, 8 << 20);
    warm.load(&key, &Read::new(Window::ALL)).await.unwrap();
    quiet.append(&key, &Append::new(turn("news"), head)).await.unwrap();
    seen.take();
    assert_eq!(warm.load(&key, &Read::new(Window::ALL)).await.unwrap().turns.len(), 5);
    let asked = seen.take();
    assert_eq!(operations(&asked), ["Query"]);
    let floor = asked[0].body["ExpressionAttributeValues"][":floor"]["S"].as_str().unwrap();
    assert!(floor.starts_with(&format!("turn#{:020}#{:020}", head.epoch, head.sequence)), "{floor}");
}

/// As DynamoDB weighs an item: names, texts, and numbers at two digits a byte.
fn weight(item: &Value) -> usize {
    let value = |value: &Value| match (value["S"].as_str(), value["N"].as_str()) {
        (Some(text), _) => text.len(),
        (_, Some(number)) => number.len() / 2 + 2,
        _ => 1,
    };
    item.as_object().unwrap().iter().map(|(name, of)| name.len() + value(of)).sum()
}

#[tokio::test]
async fn transactions_stay_within_what_dynamodb_takes() {
    let (options, quiet, seen) = behind(|_, _| Reply::Pass).await;
    let (store, key) = (options.with_config(&config()), key());
    let largest = store.info().max_turn_bytes.unwrap();
    // One that drives out many small ones at once, then large ones that drive out small and large ones.
    for bytes in [vec![300; 60], vec![301], vec![900_000; 6], vec![largest; 3]].concat() {
        let retention = match bytes {
            301 => Retention::turns(20),
            _ if bytes == largest => Retention::bytes(largest as u64 * 2),
            _ => Retention::default(),
        };
        store.append(&key, &Append::unconditional(of_bytes(bytes)).retention(retention)).await.unwrap();
    }
    assert_eq!(turns(&store, &key).await.len(), 2);
    assert_eq!(crate::table::items(&quiet).await.iter().filter(|sort| sort.starts_with("id#")).count(), 2);
    let mut weights: HashMap<String, usize> = HashMap::new();
    let (mut deletes, mut heaviest, mut most) = (0, 0, 0);
    let mut markers = 0;
    for Asked { operation, body } in seen.take() {
        // What no transaction had room for goes afterwards; an id that is free by then may be taken again.
        match operation.as_str() {
            "BatchWriteItem" => assert!(!body.to_string().contains("\"id#"), "{body}"),
            "DeleteItem" => {
                assert_eq!(body["ConditionExpression"], "#sequence = :sequence");
                markers += 1;
            }
            _ => {}
        }
        if operation != "TransactWriteItems" {
            continue;
        }
        let actions = body["TransactItems"].as_array().unwrap();
        assert!(actions.len() <= 100, "{} actions", actions.len());
        let mut sum = 0;
        for action in actions {
            if let Some(put) = action.get("Put") {
                let weight = weight(&put["Item"]);
                assert!(weight <= 400 << 10, "an item of {weight} bytes");
                weights.insert(put["Item"]["item"]["S"].as_str().unwrap().to_owned(), weight);
                sum += weight;
            } else if let Some(delete) = action.get("Delete") {
                sum += weights[delete["Key"]["item"]["S"].as_str().unwrap()];
                deletes += 1;
            }
        }
        assert!(sum <= (4 << 20) - 2_048, "{sum} bytes beside the header");
        (heaviest, most) = (heaviest.max(sum), most.max(actions.len()));
    }
    assert!(heaviest > largest, "the largest turn was among them");
    assert!(markers > 0, "there was more than one transaction holds");
    assert!(deletes > 82 && most > 80, "{deletes} deletes, {most} actions at once");
}

/// The index as it was when this was switched on.
#[tokio::test]
async fn an_index_that_lags_shows_no_session_that_is_gone_and_no_old_head() {
    let frozen = Arc::new((AtomicBool::new(false), std::sync::Mutex::new(None::<Value>)));
    let state = frozen.clone();
    let (options, quiet, _) = behind(move |_, asked| {
        if !state.0.load(Ordering::SeqCst) || !asked.body["IndexName"].is_string() {
            return Reply::Pass;
        }
        Reply::Answer(state.1.lock().unwrap().clone().unwrap())
    })
    .await;
    let store = options.with_config(&config());
    let [deleted, anew, active, quietest] = [key(), key(), key(), key()];
    for key in [&deleted, &anew, &active, &quietest] {
        store.append(key, &Append::unconditional(turn("first"))).await.unwrap();
    }
    let expired = key();
    let brief = Append::unconditional(turn("brief")).ttl(Some(std::time::Duration::from_millis(400)));
    store.append(&expired, &brief).await.unwrap();

    let (client, table) = crate::table::raw(&quiet);
    let index = client.query().table_name(table).index_name("by_subject").scan_index_forward(false);
    let index = index.key_condition_expression("#owner = :owner").expression_attribute_names("#owner", "owner");
    let ada = aws_sdk_dynamodb::types::AttributeValue::S("ada".to_owned());
    let items = index.expression_attribute_values(":owner", ada).send().await.unwrap().items.unwrap();
    assert_eq!(items.len(), 5);
    let wire = |item: &HashMap<String, aws_sdk_dynamodb::types::AttributeValue>| {
        let value = |value: &aws_sdk_dynamodb::types::AttributeValue| match (value.as_s(), value.as_n()) {
            (Ok(text), _) => serde_json::json!({"S": text}),
            (_, Ok(number)) => serde_json::json!({"N": number}),
            _ => panic!("another type"),
        };
        Value::Object(item.iter().map(|(name, of)| (name.clone(), value(of))).collect())
    };
    let page: Vec<Value> = items.iter().map(wire).collect();
    *frozen.1.lock().unwrap() =
        Some(serde_json::json!({"Items": page, "Count": page.len(), "ScannedCount": page.len()}));
    frozen.0.store(true, Ordering::SeqCst);

    store.delete(&deleted).await.unwrap();
    store.delete(&anew).await.unwrap();
    let absent = store.load(&anew, &Read::new(Window::NONE)).await.unwrap().head;
    store.append(&anew, &Append::new(turn("anew"), absent)).await.unwrap();
    store.append(&active, &Append::unconditional(turn("second"))).await.unwrap();
    while store.load(&expired, &Read::new(Window::NONE)).await.unwrap().head != Head::ABSENT {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let scope = Scope::all().subject(Subject::new("ada").unwrap());
    let listed = store.list(&scope, &Page::first(9)).await.unwrap();
    let keys: Vec<_> = listed.sessions.iter().map(|entry| &entry.key).collect();
    assert_eq!(keys, [&active, &anew, &quietest], "those that are there, most recently active first");
    assert_eq!(listed.sessions[0].head.sequence, 2);
    let loaded = store.load(&anew, &Read::new(Window::NONE)).await.unwrap();
    assert_eq!(listed.sessions[1].head, loaded.head, "the life that is lived now");

    // Behind by everything: the sessions are there all the same, and only the list does not know.
    *frozen.1.lock().unwrap() = Some(crate::relay::empty_page());
    let listed = store.list(&scope, &Page::first(9)).await.unwrap();
    assert!(listed.sessions.is_empty() && listed.next.is_none());
    assert_eq!(turns(&store, &active).await.len(), 2);
}
