//! What moto never says, said by a server of three lines: throttling, conflicts, a torn transaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower_session_memory::store::{Append, DynamoDbStore, ErrorKind, Store};
use tower_session_memory::{ConversationId, Head, Message, SessionKey, Turn, TurnId, TurnStatus};

use crate::server::{SHARED, config};

/// Answers the first requests itself, with this status and body, and passes the later ones to moto.
async fn store_behind(refusals: usize, body: &'static str, patience: Duration) -> (DynamoDbStore, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (seen, target) = (Arc::new(AtomicUsize::new(0)), SHARED.url().replace("http://", ""));
    let counter = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (seen, target) = (counter.clone(), target.clone());
            tokio::spawn(async move {
                let request = read_request(&mut client).await;
                if seen.fetch_add(1, Ordering::SeqCst) < refusals {
                    let head =
                        "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: application/x-amz-json-1.0";
                    let answer = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                    client.write_all(answer.as_bytes()).await.ok();
                    return;
                }
                let mut server = TcpStream::connect(target).await.unwrap();
                server.write_all(&request).await.unwrap();
                tokio::io::copy(&mut server, &mut client).await.ok();
            });
        }
    });
    let options = SHARED.options();
    options.clone().with_config(&config()).create_table().await.unwrap();
    (options.endpoint(url).patience(patience).attempt_timeout(patience).with_config(&config()), seen)
}

async fn read_request(client: &mut TcpStream) -> Vec<u8> {
    let (mut request, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        let read = client.read(&mut buffer).await.unwrap();
        request.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&request).to_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
            if read == 0 || body.len() >= length.and_then(|length| length.trim().parse().ok()).unwrap_or(0) {
                return request;
            }
        }
    }
}

const THROTTLED: &str = r#"{"__type":"com.amazonaws.dynamodb.v20120810#ThrottlingException","message":"slow down"}"#;
const CONFLICT: &str = r#"{"__type":"com.amazonaws.dynamodb.v20120810#TransactionCanceledException","Message":"cancelled",
    "CancellationReasons":[{"Code":"TransactionConflict","Message":"another transaction"},{"Code":"None"},{"Code":"None"}]}"#;

fn append() -> (SessionKey, Append) {
    let turn = Turn::new(TurnId::random(), TurnStatus::Complete, vec![Message::user("hello")]);
    (SessionKey::new(ConversationId::random()), Append::new(turn, Head::ABSENT))
}

#[tokio::test]
async fn throttled_and_conflicting_appends_are_repeated_and_stored_once() {
    for body in [THROTTLED, CONFLICT] {
        let (store, seen) = store_behind(3, body, Duration::from_secs(8)).await;
        let (key, append) = append();
        let answer = store.append(&key, &append).await.unwrap();
        assert_eq!((answer.sequence, answer.duplicate_of), (1, None), "{body}");
        assert_eq!(seen.load(Ordering::SeqCst), 4);
    }
}

#[tokio::test]
async fn a_table_that_stays_busy_is_unavailable_within_the_patience() {
    for body in [THROTTLED, CONFLICT] {
        let (store, seen) = store_behind(usize::MAX, body, Duration::from_secs(2)).await;
        let (key, append) = append();
        let asked = Instant::now();
        let error = store.append(&key, &append).await.unwrap_err();
        assert!(error.kind().is_temporary(), "{error}");
        if body == CONFLICT {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "nothing was written");
        }
        assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
        assert!(seen.load(Ordering::SeqCst) > 1);
    }
}
