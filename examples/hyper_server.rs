//! The layer without axum: a hyper server that remembers what each conversation has said.
//!
//! ```text
//! cargo run --example hyper_server
//! curl -s localhost:8081 -H 'x-conversation-id: c1' -d 'hello'
//! ```

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tower::{ServiceBuilder, service_fn};
use tower_session_memory::identity::Header;
use tower_session_memory::{ChatSession, Message, SessionMemoryLayer, SqliteStore};

type BoxError = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8081".to_owned());
    let path = std::env::args().nth(2).unwrap_or_else(|| "chat.db".to_owned());

    let memory = SessionMemoryLayer::new(SqliteStore::open(path).await?, Header::conversation("x-conversation-id"));
    let service = ServiceBuilder::new().layer(memory.clone()).service(service_fn(answer));
    let service = TowerToHyperService::new(service);

    let listener = TcpListener::bind(&address).await?;
    tracing::info!(address = %listener.local_addr()?, "listening");
    let connections = GracefulShutdown::new();
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let server = auto::Builder::new(TokioExecutor::new());
                let connection = server.serve_connection(TokioIo::new(accepted?.0), service.clone()).into_owned();
                let connection = connections.watch(connection);
                tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::info!(%error, "connection broke off");
                    }
                });
            }
            _ = &mut stop => break,
        }
    }
    let _ = tokio::time::timeout(Duration::from_secs(10), connections.shutdown()).await;
    memory.drain(Duration::from_secs(10)).await?;
    Ok(())
}

/// Answers with everything that was said in this conversation.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, BoxError> {
    let (parts, body) = request.into_parts();
    let session = parts.extensions.get::<ChatSession>().ok_or("the layer is not mounted")?;
    let Ok(said) = Limited::new(body, 64 << 10).collect().await else {
        return Ok(Response::builder().status(StatusCode::PAYLOAD_TOO_LARGE).body(Full::default())?);
    };
    session.append(Message::user(String::from_utf8_lossy(&said.to_bytes())))?;
    let mut reply = String::new();
    for (index, turn) in session.history().turns().iter().enumerate() {
        let said = turn.messages().first().and_then(Message::text).unwrap_or_default();
        reply += &format!("{}: {said}\n", index + 1);
    }
    Ok(Response::new(Full::from(reply)))
}
