//! How the examples' processes start and stop.

use std::error::Error;
use std::io::IsTerminal;
use std::process::ExitCode;

use tokio::net::TcpListener;
use tracing_subscriber::EnvFilter;

pub(crate) type BoxError = Box<dyn Error + Send + Sync>;

/// Serves by what the command line says; `parse` gives `None` when help was asked for.
pub(crate) async fn run<O>(
    name: &str,
    help: &str,
    parse: impl FnOnce(std::iter::Skip<std::env::Args>) -> Result<Option<O>, String>,
    serve: impl AsyncFnOnce(O) -> Result<(), BoxError>,
) -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{help}");
            return ExitCode::SUCCESS;
        }
        Err(fault) => {
            eprintln!("{name}: {fault}\n\n{help}");
            return ExitCode::from(2);
        }
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let Err(error) = serve(options).await else { return ExitCode::SUCCESS };
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    eprintln!("{name}: {error}{}", causes.map(|cause| format!(": {cause}")).collect::<String>());
    ExitCode::FAILURE
}

pub(crate) async fn listen(address: &str) -> Result<TcpListener, BoxError> {
    Ok(TcpListener::bind(address).await.map_err(|error| format!("--listen {address}: {error}"))?)
}

/// Ready at SIGINT or SIGTERM.
pub(crate) async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be listened for");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    tracing::info!("stopping: no new connections, requests at work may finish");
}
