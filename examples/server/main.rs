//! A chat server whose memory survives a restart, a `kill -9` and a second process.
//!
//! ```text
//! cargo run --release --example server
//! curl -s localhost:8080/chat -H 'x-user-id: ada' -H 'x-conversation-id: c1' \
//!      -H 'content-type: application/json' -d '{"message":"My name is Ada."}'
//! ```

use std::error::Error;
use std::future::IntoFuture;
use std::io::IsTerminal;
use std::time::Duration;

use tokio::net::TcpListener;
use tower_session_memory::identity::{Header, Scoped};
use tower_session_memory::{Policy, SessionMemoryLayer, Window};
use tracing_subscriber::EnvFilter;

mod model;
mod options;
mod routes;
mod store;
mod upstream;

/// How long requests may go on after the signal to stop, and then what they left in the background.
const GRACE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() {
    let options = match options::parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{}", options::HELP);
            return;
        }
        Err(fault) => {
            eprintln!("server: {fault}\n\n{}", options::HELP);
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
        eprint!("server: {error}");
        let mut cause = error.source();
        while let Some(error) = cause {
            eprint!(": {error}");
            cause = error.source();
        }
        eprintln!();
        std::process::exit(1);
    }
}

async fn run(options: options::Options) -> Result<(), Box<dyn Error>> {
    // The subject comes from a header that a proxy in front must set and must not let clients set.
    let identity = Scoped::new(Header::subject("x-user-id").trusted_proxy(), Header::conversation("x-conversation-id"));
    let memory = SessionMemoryLayer::new(store::open(&options.store).await?, identity);
    let app = routes::router(&memory, model::Model::new(options.upstream)?)?;

    let listener = TcpListener::bind(&options.listen).await.map_err(|e| format!("{}: {e}", options.listen))?;
    tracing::info!(address = %listener.local_addr()?, store = options.store.split(':').next(), "listening");

    let (stop, stopped) = tokio::sync::watch::channel(());
    let mut signalled = stopped.clone();
    let server = axum::serve(listener, app).with_graceful_shutdown(async move {
        signal().await;
        tracing::info!("stopping: no new connections, requests at work may finish");
        drop(stop);
    });
    let overdue = async {
        let _ = signalled.changed().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = server.into_future() => served?,
        () = overdue => tracing::warn!("some connections did not end in time"),
    }
    // Last of all: turns whose clients left are still on their way to the store.
    memory.drain(GRACE).await?;
    Ok(())
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

/// The policy of routes that show or delete a conversation instead of answering from it.
fn reading(window: Window) -> Policy {
    let mut policy = Policy::default();
    policy.window = window;
    policy
}
