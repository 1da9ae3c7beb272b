//! A server in front of moto that sees every request, and answers what moto never does.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower_session_memory::store::{DynamoDbOptions, DynamoDbStore};

use crate::server::{SHARED, config};

pub(crate) const THROTTLED: &str =
    r#"{"__type":"com.amazonaws.dynamodb.v20120810#ThrottlingException","message":"slow down"}"#;
pub(crate) const CONFLICT: &str = r#"{"__type":"com.amazonaws.dynamodb.v20120810#TransactionCanceledException","Message":"cancelled",
    "CancellationReasons":[{"Code":"TransactionConflict","Message":"another transaction"},{"Code":"None"},{"Code":"None"}]}"#;

/// A request: `Query` and its like, and what it asks.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) operation: String,
    pub(crate) body: Value,
}

/// What becomes of a request.
pub(crate) enum Reply {
    Pass,
    /// It never reaches the table.
    Refuse(&'static str),
    /// It is applied, and the connection ends instead of an answer.
    Lose,
    /// The table's answer, changed.
    Change(fn(&mut Value)),
    /// This answer.
    Answer(Value),
}

/// The requests so far.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<Vec<Asked>>>);

impl Seen {
    /// What was asked since this was asked last.
    pub(crate) fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// A table of its own behind a relay. The function is given each request and how many came before it.
pub(crate) async fn behind(
    reply: impl Fn(usize, &Asked) -> Reply + Send + Sync + 'static,
) -> (DynamoDbOptions, DynamoDbStore, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (seen, reply) = (Seen::default(), Arc::new(reply));
    let (counted, number) = (seen.clone(), Arc::new(Mutex::new(0)));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (seen, reply, number) = (counted.clone(), reply.clone(), number.clone());
            // Whoever leaves is no failure of the relay.
            tokio::spawn(async move { carry(client, &*reply, &seen, &number).await.ok() });
        }
    });
    let direct = SHARED.options();
    let quiet = direct.clone().with_config(&config());
    quiet.create_table().await.unwrap();
    (direct.endpoint(url), quiet, seen)
}

async fn carry(
    mut client: TcpStream,
    reply: &(dyn Fn(usize, &Asked) -> Reply + Send + Sync),
    seen: &Seen,
    number: &Mutex<usize>,
) -> std::io::Result<()> {
    let (head, body) = read_message(&mut client).await?;
    let operation = head.split("DynamoDB_20120810.").nth(1).and_then(|rest| rest.lines().next()).unwrap_or_default();
    let asked = Asked { operation: operation.trim().to_owned(), body: serde_json::from_slice(&body)? };
    seen.0.lock().unwrap().push(asked.clone());
    let before = {
        let mut number = number.lock().unwrap();
        *number += 1;
        *number - 1
    };
    let answer = match reply(before, &asked) {
        Reply::Refuse(body) => return respond(&mut client, "400 Bad Request", body.as_bytes()).await,
        Reply::Answer(answer) => return respond(&mut client, "200 OK", answer.to_string().as_bytes()).await,
        other => other,
    };
    let mut server = TcpStream::connect(SHARED.url().replace("http://", "")).await?;
    server.write_all(format!("{}\r\nconnection: close\r\n\r\n", head.trim_end()).as_bytes()).await?;
    server.write_all(&body).await?;
    let (head, body) = read_message(&mut server).await?;
    let status = head.split(' ').skip(1).collect::<Vec<_>>().join(" ");
    let status = status.lines().next().unwrap_or_default();
    match answer {
        Reply::Lose => Ok(()),
        Reply::Change(change) => {
            let mut changed: Value = serde_json::from_slice(&body)?;
            change(&mut changed);
            respond(&mut client, status, changed.to_string().as_bytes()).await
        }
        _ => respond(&mut client, status, &body).await,
    }
}

async fn respond(client: &mut TcpStream, status: &str, body: &[u8]) -> std::io::Result<()> {
    let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: application/x-amz-json-1.0");
    client.write_all(format!("{head}\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes()).await?;
    client.write_all(body).await
}

/// Head and body of a request or an answer.
async fn read_message(from: &mut TcpStream) -> std::io::Result<(String, Vec<u8>)> {
    let mut message = Vec::new();
    let mut end = None;
    loop {
        if let Some(end) = end {
            let head: String = String::from_utf8_lossy(&message[..end]).into_owned();
            let lower = head.to_lowercase();
            let length = lower.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
            let length: usize = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
            if message.len() >= end + 4 + length {
                return Ok((head, message[end + 4..].to_vec()));
            }
        }
        if from.read_buf(&mut message).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        end = end.or_else(|| message.windows(4).position(|window| window == b"\r\n\r\n"));
    }
}

/// A page without items, as a query of an index that knows nothing yet answers it.
pub(crate) fn empty_page() -> Value {
    json!({"Items": [], "Count": 0, "ScannedCount": 0})
}
