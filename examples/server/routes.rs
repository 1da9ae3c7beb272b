//! The routes, and how each uses the conversation.

use std::convert::Infallible;
use std::time::UNIX_EPOCH;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use futures_util::Stream;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tower_session_memory::{
    AppendError, ChatSession, Message, Role, SessionError, SessionMemoryLayer, Store, Turn, Window,
};

use crate::model::{Model, ModelError};
use crate::reading;

#[derive(Clone)]
struct App {
    memory: SessionMemoryLayer,
    model: Model,
}

pub(crate) fn router(memory: &SessionMemoryLayer, model: Model) -> Result<Router, tower_session_memory::PolicyError> {
    let whole = memory.clone().with_policy(reading(Window::ALL))?;
    let nothing = memory.clone().with_policy(reading(Window::NONE))?;
    let history = get(history).layer(whole).merge(delete(forget).layer(nothing));
    Ok(Router::new()
        .route("/chat", post(chat))
        .route("/chat/stream", post(stream))
        .layer(memory.clone())
        .route("/history", history)
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .with_state(App { memory: memory.clone(), model }))
}

#[derive(Deserialize)]
struct Question {
    message: String,
}

/// One question, one answer: the turn is durable before the response goes out.
async fn chat(
    State(app): State<App>,
    session: ChatSession,
    Json(question): Json<Question>,
) -> Result<Json<Value>, Failure> {
    let turns = session.history().head().sequence;
    if let Some(turn) = session.replay() {
        return Ok(Json(json!({"reply": reply_of(turn), "turns": turns})));
    }
    let question = Message::user(question.message);
    let mut tokens = app.model.answer(session.history(), &question);
    let mut reply = String::new();
    while let Some(token) = tokens.recv().await {
        reply.push_str(&token?);
    }
    session.append(question)?;
    session.append(Message::assistant(&reply))?;
    Ok(Json(json!({"reply": reply, "turns": turns + 1})))
}

/// The same, token by token. A client stops reading at `[DONE]`, so the turn is committed before it.
async fn stream(
    State(app): State<App>,
    session: ChatSession,
    Json(question): Json<Question>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Failure> {
    let (events, body) = mpsc::channel(16);
    if let Some(turn) = session.replay() {
        let reply = reply_of(turn);
        tokio::spawn(async move {
            let _ = events.send(Ok(token_event(&reply))).await;
            let _ = events.send(Ok(Event::default().data("[DONE]"))).await;
        });
    } else {
        let question = Message::user(question.message);
        session.append(question.clone())?;
        let tokens = app.model.answer_slowly(session.history(), &question);
        tokio::spawn(async move {
            if let Err(failure) = produce(session, tokens, &events).await {
                tracing::warn!(%failure, "reply broke off");
                let error = json!({"error": failure.told()}).to_string();
                let _ = events.send(Ok(Event::default().event("error").data(error))).await;
            }
        });
    }
    Ok(Sse::new(ReceiverStream::new(body)))
}

/// Sends tokens as they come. When the client leaves, the draft is dropped with what it has, and the
/// layer keeps the turn as interrupted.
async fn produce(
    session: ChatSession,
    mut tokens: mpsc::Receiver<Result<String, ModelError>>,
    events: &mpsc::Sender<Result<Event, Infallible>>,
) -> Result<(), Failure> {
    let mut draft = session.draft();
    while let Some(token) = tokens.recv().await {
        let token = token?;
        draft.push(&token)?;
        if events.send(Ok(token_event(&token))).await.is_err() {
            return Ok(());
        }
    }
    draft.finish()?;
    session.commit().await?;
    let _ = events.send(Ok(Event::default().data("[DONE]"))).await;
    Ok(())
}

fn token_event(token: &str) -> Event {
    Event::default().data(json!({"token": token}).to_string())
}

#[derive(Deserialize)]
struct Newest {
    last: Option<usize>,
}

async fn history(session: ChatSession, Query(newest): Query<Newest>) -> impl IntoResponse {
    let turns = session.history().last(newest.last.unwrap_or(usize::MAX));
    let shown = Turns { turns: turns.iter().map(Shown::from).collect() };
    // Written at once: the messages are borrowed from the session, and stay byte for byte.
    match serde_json::to_vec(&shown) {
        Ok(json) => ([(CONTENT_TYPE, "application/json")], json).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[derive(Serialize)]
struct Turns<'a> {
    turns: Vec<Shown<'a>>,
}

#[derive(Serialize)]
struct Shown<'a> {
    id: String,
    /// Milliseconds since 1970.
    at: u64,
    status: &'static str,
    messages: &'a [Message],
}

impl<'a> From<&'a Turn> for Shown<'a> {
    fn from(turn: &'a Turn) -> Self {
        Self {
            id: turn.id().to_string(),
            at: turn.at().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64,
            status: turn.status().as_str(),
            messages: turn.messages(),
        }
    }
}

async fn forget(State(app): State<App>, session: ChatSession) -> Result<StatusCode, Failure> {
    app.memory.store().delete(session.key()).await.map_err(Failure::Store)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn ready(State(app): State<App>) -> Result<&'static str, Failure> {
    app.memory.store().ping().await.map_err(Failure::Store)?;
    Ok("ready")
}

/// The reply that a stored turn holds.
fn reply_of(turn: &Turn) -> String {
    let replies = turn.messages().iter().filter(|message| *message.role() == Role::Assistant);
    replies.filter_map(Message::text).collect()
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Store(tower_session_memory::StoreError),
}

impl Failure {
    fn told(&self) -> &'static str {
        match self {
            Self::Append(_) => "the message is too large to be kept",
            Self::Session(_) => "the reply could not be stored",
            Self::Model(_) => "the model does not answer",
            Self::Store(_) => "the store does not answer",
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::Append(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Session(error) => error.status(),
            Self::Model(_) => StatusCode::BAD_GATEWAY,
            Self::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        // As an error, so that its causes are in the log, too.
        tracing::warn!(failure = &self as &(dyn std::error::Error + 'static), "request failed");
        (status, Json(json!({"error": self.told()}))).into_response()
    }
}
