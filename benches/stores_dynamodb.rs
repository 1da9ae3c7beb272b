//! What `DynamoDbStore` costs beside the SDK's own client sending the same requests, to the same server
//! in the same run: `cargo bench --features dynamodb --bench stores_dynamodb`. Read the ratios.
//!
//! The emulator does the work, and takes so long for it that any client looks free. So the same is
//! measured against a server that answers at once, whatever it is asked: there the client is all there is.

#![expect(clippy::print_stdout, reason = "it is what a benchmark is for")]

use std::collections::HashMap;
use std::future::Future;
use std::time::{Duration, Instant, SystemTime};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{AttributeValue, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower_session_memory::store::{Append, DynamoDbOptions, DynamoDbStore, Read, Store};
use tower_session_memory::{ConversationId, Head, Message, SessionKey, Turn, TurnId, TurnStatus, Window};

#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../tests/dynamodb/server.rs"]
mod server;

const ROUNDS: usize = 5;
const TURNS: usize = 20;
const TABLE: &str = "bench";

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(compare())
}

async fn compare() -> Result<(), Failure> {
    let emulator = server::Server::start();
    let key = SessionKey::new(ConversationId::random());
    let at_once = answering_at_once(page(&key)).await?;
    for (name, url, calls) in [("the emulator", emulator.url(), 100), ("a server that answers at once", at_once, 2_000)]
    {
        let store = DynamoDbOptions::new(TABLE).endpoint(&url).with_config(&server::config());
        if url == emulator.url() {
            store.create_table().await?;
        }
        let config = aws_sdk_dynamodb::config::Builder::from(&server::config()).endpoint_url(&url).build();
        let client = Client::from_conf(config);
        for callers in [1, 8] {
            println!("{calls} appends of two messages, 800 bytes; {callers} at once; {name}; median of {ROUNDS}");
            let (mut raw, mut ours) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                raw.push(at_once_by(callers, || by_hand(&client, &store, calls / callers)).await?);
                ours.push(at_once_by(callers, || appends(&store, calls / callers)).await?);
            }
            report(calls, raw, ours);
        }
        println!("{calls} loads of {TURNS} turns, one at a time; {name}; median of {ROUNDS}");
        let mut head = Head::ABSENT;
        for _ in 0..TURNS {
            head = store.append(&key, &Append::new(turn(), head)).await?.head;
        }
        let (mut raw, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            raw.push(at_once_by(1, || queries(&client, &key, calls)).await?);
            ours.push(at_once_by(1, || loads(&store, &key, calls)).await?);
        }
        report(calls, raw, ours);
    }
    Ok(())
}

fn report(calls: usize, raw: Vec<Duration>, ours: Vec<Duration>) {
    let (raw, ours) = (median(raw), median(ours));
    for (what, took) in [("aws-sdk-dynamodb, the same requests", raw), ("DynamoDbStore", ours)] {
        let ratio = raw.as_secs_f64() / took.as_secs_f64();
        println!("  {what:<40} {:>10.1?} each  {ratio:>6.2} x", took / calls as u32);
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

async fn at_once_by<F: Future<Output = Result<(), Failure>>>(
    callers: usize,
    work: impl Fn() -> F,
) -> Result<Duration, Failure> {
    let start = Instant::now();
    futures_util::future::try_join_all((0..callers).map(|_| work())).await?;
    Ok(start.elapsed())
}

fn turn() -> Turn {
    let messages = vec![Message::user("q".repeat(100)), Message::assistant("a".repeat(600))];
    Turn::new(TurnId::random(), TurnStatus::Complete, messages)
}

async fn appends(store: &DynamoDbStore, calls: usize) -> Result<(), Failure> {
    let key = SessionKey::new(ConversationId::random());
    let mut head = store.append(&key, &Append::new(turn(), Head::ABSENT)).await?.head;
    for _ in 0..calls {
        head = store.append(&key, &Append::new(turn(), head)).await?.head;
    }
    Ok(())
}

fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

fn number(value: u64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

/// What the store sends, sent by hand.
async fn by_hand(client: &Client, store: &DynamoDbStore, calls: usize) -> Result<(), Failure> {
    let key = SessionKey::new(ConversationId::random());
    let head = store.append(&key, &Append::new(turn(), Head::ABSENT)).await?.head;
    let old = ReturnValuesOnConditionCheckFailure::AllOld;
    for sequence in head.sequence..head.sequence + calls as u64 {
        let turn = turn();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_micros() as u64;
        let header = Update::builder()
            .table_name(TABLE)
            .key("session", text(key.encoded()))
            .key("item", text("~head"))
            .condition_expression(
                "#epoch = :epoch AND #sequence = :sequence AND (attribute_not_exists(expires_at) OR expires_at > :now)",
            )
            .update_expression(
                "SET #sequence = :next, last_active = :now, conversation = :conversation REMOVE expires_at, #ttl \
                 ADD #messages :messages, #bytes :bytes",
            )
            .expression_attribute_names("#epoch", "epoch")
            .expression_attribute_names("#sequence", "sequence")
            .expression_attribute_names("#bytes", "bytes")
            .expression_attribute_names("#messages", "messages")
            .expression_attribute_names("#ttl", "expires")
            .expression_attribute_values(":epoch", number(head.epoch))
            .expression_attribute_values(":sequence", number(sequence))
            .expression_attribute_values(":next", number(sequence + 1))
            .expression_attribute_values(":now", number(now))
            .expression_attribute_values(":conversation", text(key.conversation().as_str()))
            .expression_attribute_values(":messages", number(turn.messages().len() as u64))
            .expression_attribute_values(":bytes", number(turn.bytes() as u64))
            .return_values_on_condition_check_failure(old.clone());
        let marker = Put::builder()
            .table_name(TABLE)
            .item("session", text(key.encoded()))
            .item("item", text(format!("id#{}#{:020}", turn.id(), head.epoch)))
            .item("epoch", number(head.epoch))
            .item("sequence", number(sequence + 1))
            .condition_expression("attribute_not_exists(#item) OR #sequence <= :trimmed")
            .expression_attribute_names("#item", "item")
            .expression_attribute_names("#sequence", "sequence")
            .expression_attribute_values(":trimmed", number(0))
            .return_values_on_condition_check_failure(old.clone());
        let put = Put::builder().table_name(TABLE).set_item(Some(item(&key, &turn, head.epoch, sequence + 1)?));
        client
            .transact_write_items()
            .transact_items(TransactWriteItem::builder().update(header.build()?).build())
            .transact_items(TransactWriteItem::builder().put(marker.build()?).build())
            .transact_items(TransactWriteItem::builder().put(put.build()?).build())
            .send()
            .await?;
    }
    Ok(())
}

fn item(key: &SessionKey, turn: &Turn, epoch: u64, sequence: u64) -> Result<HashMap<String, AttributeValue>, Failure> {
    let at = turn.at().duration_since(SystemTime::UNIX_EPOCH)?.as_micros() as u64;
    let item = [
        ("session", text(key.encoded())),
        ("item", text(format!("turn#{epoch:020}#{sequence:020}"))),
        ("turn_id", text(turn.id().to_string())),
        ("status", text(turn.status().as_str())),
        ("at", number(at)),
        ("messages", number(turn.messages().len() as u64)),
        ("bytes", number(turn.bytes() as u64)),
        ("record", text(String::from_utf8(turn.to_record(key))?)),
    ];
    Ok(item.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

async fn loads(store: &DynamoDbStore, key: &SessionKey, calls: usize) -> Result<(), Failure> {
    for _ in 0..calls {
        assert_eq!(store.load(key, &Read::new(Window::newest(TURNS))).await?.turns.len(), TURNS);
    }
    Ok(())
}

/// What the store sends; the records are looked at, not read.
async fn queries(client: &Client, key: &SessionKey, calls: usize) -> Result<(), Failure> {
    for _ in 0..calls {
        let query = client.query().table_name(TABLE).consistent_read(true).scan_index_forward(false);
        let query = query.key_condition_expression("#session = :session AND #item > :floor").limit(TURNS as i32 + 3);
        let query = query.expression_attribute_names("#session", "session").expression_attribute_names("#item", "item");
        let query = query.expression_attribute_values(":session", text(key.encoded()));
        let query = query.expression_attribute_values(":floor", text(format!("turn#{:020}#{:020}~", 0, 0)));
        let answer = query.send().await?;
        assert_eq!(answer.items().iter().filter(|item| item.contains_key("record")).count(), TURNS);
    }
    Ok(())
}

/// A session of so many turns, as a query answers it.
fn page(key: &SessionKey) -> Value {
    let all = TURNS as u64;
    let head = json!({
        "session": {"S": key.encoded()}, "item": {"S": "~head"}, "epoch": {"N": "1"}, "sequence": {"N": all.to_string()},
        "messages": {"N": "40"}, "bytes": {"N": "15000"}, "trimmed_turns": {"N": "0"}, "trimmed_messages": {"N": "0"},
        "trimmed_bytes": {"N": "0"}, "last_active": {"N": "1"}, "conversation": {"S": key.conversation().as_str()},
    });
    let turns = (1..=all).rev().map(|sequence| {
        let item = item(key, &turn(), 1, sequence).expect("a turn has an item");
        let value = |value: AttributeValue| match value {
            AttributeValue::N(number) => json!({"N": number}),
            other => json!({"S": other.as_s().expect("texts and numbers")}),
        };
        Value::Object(item.into_iter().map(|(name, of)| (name, value(of))).collect())
    });
    let items: Vec<Value> = std::iter::once(head).chain(turns).collect();
    json!({"Items": items, "Count": items.len(), "ScannedCount": items.len()})
}

/// Answers each query with this page, and all else with nothing.
async fn answering_at_once(page: Value) -> Result<String, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let answer = |body: String| {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-1.0";
        std::sync::Arc::new(format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
    };
    let (page, nothing) = (answer(page.to_string()), answer("{}".to_owned()));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (page, nothing) = (page.clone(), nothing.clone());
            tokio::spawn(async move { serve(client, &page, &nothing).await.ok() });
        }
    });
    Ok(url)
}

async fn serve(mut client: TcpStream, page: &str, nothing: &str) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if client.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8_lossy(&buffer[..end]).to_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.trim().parse().ok());
        let whole = end + length.unwrap_or(0);
        while buffer.len() < whole {
            if client.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
        let answer = if head.contains("dynamodb_20120810.query") { page } else { nothing };
        client.write_all(answer.as_bytes()).await?;
        buffer.drain(..whole);
    }
}
