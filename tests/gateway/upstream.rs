//! An upstream that does what the request's `model` asks for, and remembers what it got.

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// A request as the upstream got it.
#[derive(Debug, Clone)]
pub(crate) struct Got {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

/// What streams send, one chunk an `Ok`; `Err` breaks the connection off. The test has the other end.
type Script = mpsc::UnboundedReceiver<Result<Bytes, std::io::Error>>;

/// Ends with the test.
pub(crate) struct Upstream {
    pub(crate) url: String,
    got: Arc<Mutex<Vec<Got>>>,
    scripts: mpsc::UnboundedSender<Script>,
    server: tokio::task::JoinHandle<()>,
}

#[derive(Clone)]
struct Shared {
    got: Arc<Mutex<Vec<Got>>>,
    scripts: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Script>>>,
}

impl Upstream {
    pub(crate) async fn start() -> Self {
        let (scripts, receiver) = mpsc::unbounded_channel();
        let got = Arc::default();
        let shared = Shared { got: Arc::clone(&got), scripts: Arc::new(receiver.into()) };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let app = axum::Router::new().fallback(answer).with_state(shared);
        let server = tokio::spawn(async move { drop(axum::serve(listener, app).await) });
        Self { url, got, scripts, server }
    }

    pub(crate) fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn last(&self) -> Got {
        self.got().pop().expect("the upstream was called")
    }

    /// The other end of the next streamed reply.
    pub(crate) fn next_stream(&self) -> mpsc::UnboundedSender<Result<Bytes, std::io::Error>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.scripts.send(receiver).expect("the upstream runs");
        sender
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A chunk of a streamed chat completion that adds this to the message.
pub(crate) fn delta(delta: Value) -> Result<Bytes, std::io::Error> {
    Ok(format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": delta}]})).into())
}

pub(crate) fn token(text: &str) -> Result<Bytes, std::io::Error> {
    delta(json!({"content": text}))
}

async fn answer(State(shared): State<Shared>, request: Request<Body>) -> impl IntoResponse {
    let (head, body) = request.into_parts();
    let body = body.collect().await.expect("the gateway sends all of it").to_bytes();
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    let count = body["messages"].as_array().map_or(0, Vec::len);
    let (silent, streamed) = (body["model"] == "silent", body["stream"] == true);
    shared.got.lock().unwrap_or_else(PoisonError::into_inner).push(Got { headers: head.headers, body });
    if silent {
        std::future::pending::<()>().await;
    }
    if streamed {
        let script = shared.scripts.lock().await.recv().await.expect("the test has a script");
        let chunks = stream::unfold(script, async |mut script| Some((script.recv().await?, script)));
        return ([("content-type", "text/event-stream")], Body::from_stream(chunks.boxed())).into_response();
    }
    let message = json!({"role": "assistant", "content": format!("{count} messages")});
    axum::Json(json!({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})).into_response()
}
