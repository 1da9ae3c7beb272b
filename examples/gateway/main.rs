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

use std::io::IsTerminal;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tower::ServiceBuilder;
use tower_session_memory::llm::{LlmMemoryLayer, ModelWindow};
use tower_session_memory::{OnMissing, Policy, Roles, SessionMemoryLayer};
use tracing_subscriber::EnvFilter;

mod demo;
mod health;
mod identity;
mod options;
mod store;
mod upstream;

use options::Options;
use upstream::BoxError;

/// How long requests may go on after the signal to stop, and then what they left in the background.
const GRACE: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{}", options::HELP);
            return;
        }
        Err(fault) => {
            eprintln!("gateway: {fault}\n\n{}", options::HELP);
            std::process::exit(2);
        }
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();

    if let Err(error) = run(options).await {
        eprint!("gateway: {error}");
        let mut cause = error.source();
        while let Some(error) = cause {
            eprint!(": {error}");
            cause = error.source();
        }
        eprintln!();
        std::process::exit(1);
    }
}

async fn run(options: Options) -> Result<(), BoxError> {
    let memory = memory(&options).await?;
    let mut window = ModelWindow::default();
    window.tokens = options.window_tokens.unwrap_or(usize::MAX);
    let service = ServiceBuilder::new()
        .layer(health::HealthLayer::new(memory.store().clone()))
        .layer(memory.clone())
        .layer(LlmMemoryLayer::new().with_window(window).with_request_limit(32 << 20).with_reply_limit(32 << 20))
        .service(upstream::Upstream::new(&options.upstream, options.silence)?.with_credential(options.jwks.is_some())?);

    let listener = TcpListener::bind(&options.listen).await.map_err(|error| format!("{}: {error}", options.listen))?;
    tracing::info!(address = %listener.local_addr()?, upstream = options.upstream, "listening");

    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(hyper_util::rt::TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
    let connections = GracefulShutdown::new();
    let stop = signal();
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
    tracing::info!("stopping: no new connections, requests at work may finish");
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

/// Ready at SIGINT or SIGTERM.
async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be listened for");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
