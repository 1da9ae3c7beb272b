//! A scripted model that speaks every protocol, so that the gateway runs without any account.
//!
//! It answers from the whole conversation it is shown, and is as strict as the providers: a tool call
//! without its result, or a thought whose signature does not fit, is a 400.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::{Value, json};

use super::upstream::{BoxBody, BoxError};

mod anthropic;
mod gemini;
mod ollama;
mod openai;
mod responses;

/// How long the model takes for a token.
const TOKEN: Duration = Duration::from_millis(3);

/// What the model was told, in any protocol.
#[derive(Debug, Default)]
pub(crate) struct Talk {
    /// What the user said, oldest first.
    users: Vec<String>,
    /// Results of tools since the model last spoke.
    results: Vec<String>,
    /// The names of the tools that it may call.
    tools: Vec<String>,
    thinks: bool,
    stream: bool,
}

/// What the model says.
#[derive(Debug)]
pub(crate) enum Says {
    Text(String),
    /// Calls of a tool: name and city.
    Calls(Vec<(String, String)>),
}

impl Talk {
    fn user(&mut self, text: &str) {
        self.users.push(text.to_owned());
        self.results.clear();
    }

    fn answer(&self) -> Says {
        if !self.results.is_empty() {
            return Says::Text(format!("The tools say: {}.", self.results.join(" and ")));
        }
        let last = self.users.last().map(String::as_str).unwrap_or_default();
        match self.tools.first() {
            Some(tool) if last.contains("weather") => {
                let cities = ["Paris", "Rome"].into_iter().filter(|city| last.contains(city));
                Says::Calls(cities.map(|city| (tool.clone(), city.to_owned())).collect())
            }
            _ => Says::Text(format!("You said: {}.", self.users.join(" | "))),
        }
    }
}

/// Why the model takes a request not.
pub(crate) struct Invalid(pub(crate) String);

impl From<&str> for Invalid {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// What goes back: one JSON, or events one after the other.
pub(crate) enum Reply {
    Json(Value),
    Stream { content_type: &'static str, events: Vec<String> },
}

type Model = fn(&str, &Value) -> Result<Reply, Invalid>;

pub(crate) async fn answer<B>(request: Request<B>) -> Result<Response<BoxBody>, BoxError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let route = request.uri().path().to_owned();
    let body = request.into_body().collect().await.map_err(Into::into)?.to_bytes();
    let model: Model = match route {
        route if route.ends_with("/chat/completions") => openai::chat,
        route if route.ends_with("/responses") => responses::responses,
        route if route.ends_with("/messages") => anthropic::messages,
        route if route.ends_with("/api/chat") => ollama::chat,
        route if route.contains("enerateContent") => gemini::generate,
        _ => return full(StatusCode::NOT_FOUND, &json!({"error": {"message": "no such route"}})),
    };
    let Ok(body) = serde_json::from_slice::<Value>(&body) else {
        return full(StatusCode::BAD_REQUEST, &json!({"error": {"message": "no JSON"}}));
    };
    match model(&path, &body) {
        Ok(Reply::Json(body)) => full(StatusCode::OK, &body),
        Ok(Reply::Stream { content_type, events }) => {
            let events = stream::iter(events).then(|event| async move {
                tokio::time::sleep(TOKEN).await;
                Ok::<_, BoxError>(Frame::data(Bytes::from(event)))
            });
            let body = BodyExt::boxed_unsync(StreamBody::new(events));
            Ok(Response::builder().header("content-type", content_type).body(body)?)
        }
        Err(Invalid(message)) => {
            let error = json!({"type": "invalid_request_error", "message": message, "code": 400});
            full(StatusCode::BAD_REQUEST, &json!({"type": "error", "error": error}))
        }
    }
}

fn full(status: StatusCode, body: &Value) -> Result<Response<BoxBody>, BoxError> {
    let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed_unsync();
    Ok(Response::builder().status(status).header("content-type", "application/json").body(body)?)
}

pub(crate) fn items<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

pub(crate) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// A content that is a string or a list of parts with texts.
pub(crate) fn content(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        parts => parts.as_array().into_iter().flatten().map(|part| text(part, "text")).collect(),
    }
}

/// A text as a model writes it: a few letters at a time.
pub(crate) fn tokens(text: &str) -> Vec<&str> {
    text.split_inclusive(' ').collect()
}

pub(crate) fn id(prefix: &str) -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("{prefix}_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn sse(event: &Value) -> String {
    match event["type"].as_str() {
        Some(kind) => format!("event: {kind}\ndata: {event}\n\n"),
        None => format!("data: {event}\n\n"),
    }
}
