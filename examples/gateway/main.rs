//! A reverse proxy that gives any LLM endpoint a memory.
//!
//! ```text
//! cargo run --release --example gateway -- --upstream demo: --store sqlite:chat.db
//! curl -s localhost:8090/v1/chat/completions -H 'x-user-id: ada' -H 'x-conversation-id: c1' \
//!      -H 'content-type: application/json' \
//!      -d '{"model":"demo","messages":[{"role":"user","content":"My name is Ada."}]}'
//! ```
//!
//! Clients are the providers' own SDKs with another base URL and those two headers. They send only
//! what is new.

use std::process::ExitCode;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tower::ServiceBuilder;
use tower_session_memory::llm::{LlmMemoryLayer, ModelWindow};
use tower_session_memory::{OnMissing, Policy, Roles, SessionMemoryLayer};

mod demo;
mod health;
mod identity;
mod options;
#[path = "../common/process.rs"]
mod process;
#[path = "../common/store.rs"]
mod store;
mod upstream;

use options::Options;
use process::BoxError;

/// How long requests may go on after the signal to stop, and then what they left in the background.
const GRACE: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> ExitCode {
    process::run("gateway", options::HELP, Options::parse, serve).await
}

async fn serve(options: Options) -> Result<(), BoxError> {
    let memory = memory(&options).await?;
    let mut window = ModelWindow::default();
    window.tokens = options.window_tokens.unwrap_or(usize::MAX);
    let service = ServiceBuilder::new()
        .layer(health::HealthLayer::new(memory.store().clone()))
        .layer(memory.clone())
        .layer(LlmMemoryLayer::new().with_window(window).with_request_limit(32 << 20).with_reply_limit(32 << 20))
        .service(upstream::Upstream::new(&options.upstream, options.silence)?.with_credential(options.jwks.is_some())?);

    let listener = process::listen(&options.listen).await?;
    tracing::info!(address = %listener.local_addr()?, store = options.store.split(':').next(), "listening");

    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(hyper_util::rt::TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
    let connections = GracefulShutdown::new();
    let stop = process::stopped();
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, for example: others may close some.
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let connection =
            server.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(service.clone()));
        let connection = connections.watch(connection.into_owned());
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(GRACE, connections.shutdown()).await.is_err() {
        tracing::warn!("some connections did not end in time");
    }
    // Last of all: turns whose clients left are still on their way to the store.
    memory.drain(GRACE).await?;
    Ok(())
}

/// The memory layer: who is asking, where turns are kept, how large they may be.
async fn memory(options: &Options) -> Result<SessionMemoryLayer, BoxError> {
    let mut policy = Policy::default();
    // A client that names no conversation is told the id of a fresh one.
    policy.on_missing = OnMissing::Mint { header: "x-conversation-id" };
    policy.roles = Roles::Any;
    // Room for images.
    policy.limits.message_bytes = 8 << 20;
    policy.limits.turn_bytes = 16 << 20;
    policy.limits.turn_messages = 2_000;
    policy.window.bytes = 16 << 20;
    Ok(identity::layer(store::open(&options.store).await?, options)?.with_policy(policy)?)
}
