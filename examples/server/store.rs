//! Which store a `--store` value names.

use std::error::Error;

use tower_session_memory::store::SqliteStore;
use tower_session_memory::{InMemory, SharedStore};

pub(crate) async fn open(store: &str) -> Result<SharedStore, Box<dyn Error>> {
    match store.split_once(':') {
        Some(("memory", "")) => Ok(SharedStore::new(InMemory::new())),
        Some(("sqlite", path)) if !path.is_empty() => Ok(SharedStore::new(SqliteStore::open(path).await?)),
        _ => Err(format!("--store {store}: it must be memory: or sqlite:PATH").into()),
    }
}
