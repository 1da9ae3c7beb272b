//! A streamed reply from a task of its own, on plain parts: what is kept when clients stay, when they
//! leave, and when the store fails.
//!
//! ```text
//! cargo run --example streaming
//! curl -N localhost:8082 -H 'x-conversation-id: c1' -d 'hello'   # and again, with Ctrl-C half-way
//! ```

use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;

use axum::Router;
use axum::response::sse::{Event, Sse};
use axum::routing::post;
use futures_util::Stream;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tower_session_memory::identity::Header;
use tower_session_memory::{ChatSession, InMemory, Message, SessionMemoryLayer, Turn};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_writer(std::io::stderr).init();
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8082".to_owned());
    let memory = SessionMemoryLayer::new(InMemory::new(), Header::conversation("x-conversation-id"));
    let app = Router::new().route("/", post(chat)).layer(memory.clone());
    let listener = TcpListener::bind(&address).await?;
    tracing::info!(address = %listener.local_addr()?, "listening");
    // Streams that are under way come to their end, then what their clients left behind is settled.
    let stop = async { drop(tokio::signal::ctrl_c().await) };
    axum::serve(listener, app).with_graceful_shutdown(stop).await?;
    memory.drain(Duration::from_secs(10)).await?;
    Ok(())
}

async fn chat(session: ChatSession, question: String) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let (events, body) = mpsc::channel(1);
    tokio::spawn(async move {
        if let Err(error) = produce(session, &question, &events).await {
            let _ = events.send(Ok(Event::default().event("error").data(error.to_string()))).await;
        }
    });
    Sse::new(ReceiverStream::new(body))
}

async fn produce(
    session: ChatSession,
    question: &str,
    events: &mpsc::Sender<Result<Event, Infallible>>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    session.append(Message::user(question))?;
    let before: Vec<&str> = session.history().turns().iter().map(Turn::status).map(|status| status.as_str()).collect();
    let reply = format!("You said {question:?}. Before that there were {} turns: {before:?}.", before.len());

    let mut draft = session.draft();
    for token in reply.split_inclusive(' ') {
        tokio::time::sleep(Duration::from_millis(200)).await;
        // What is in the draft is appended even if this task ends here.
        draft.push(token)?;
        if events.send(Ok(Event::default().data(token))).await.is_err() {
            return Ok(());
        }
    }
    draft.finish()?;
    // Clients of event streams leave at the terminator: durable first, then the terminator.
    session.commit().await?;
    let _ = events.send(Ok(Event::default().data("[DONE]"))).await;
    Ok(())
}
