//! A chat server whose memory survives a restart, a `kill -9` and a second process.
//!
//! ```text
//! cargo run --release --example server
//! curl -s localhost:8080/chat -H 'x-user-id: ada' -H 'x-conversation-id: c1' \
//!      -H 'content-type: application/json' -d '{"message":"My name is Ada."}'
//! ```

use std::future::IntoFuture;
use std::process::ExitCode;
use std::time::Duration;

use tower_session_memory::identity::{Header, Scoped};
use tower_session_memory::{Policy, SessionMemoryLayer, Window};

mod model;
mod options;
#[path = "../common/process.rs"]
mod process;
mod routes;
#[path = "../common/store.rs"]
mod store;
mod upstream;

/// How long requests may go on after the signal to stop, and then what they left in the background.
const GRACE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> ExitCode {
    process::run("server", options::HELP, options::parse, serve).await
}

async fn serve(options: options::Options) -> Result<(), process::BoxError> {
    // The subject comes from a header that a proxy in front must set and must not let clients set.
    let identity = Scoped::new(Header::subject("x-user-id").trusted_proxy(), Header::conversation("x-conversation-id"));
    let memory = SessionMemoryLayer::new(store::open(&options.store).await?, identity);
    let app = routes::router(&memory, model::Model::new(options.upstream)?)?;

    let listener = process::listen(&options.listen).await?;
    tracing::info!(address = %listener.local_addr()?, store = options.store.split(':').next(), "listening");

    let (stop, mut signalled) = tokio::sync::watch::channel(());
    let server = axum::serve(listener, app).with_graceful_shutdown(async move {
        process::stopped().await;
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

/// The policy of routes that show or delete a conversation instead of answering from it.
fn reading(window: Window) -> Policy {
    let mut policy = Policy::default();
    policy.window = window;
    policy
}
