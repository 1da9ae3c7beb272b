//! Which store a `--store` value names.

use tower_session_memory::store::SqliteStore;
use tower_session_memory::{InMemory, SharedStore};

use super::upstream::BoxError;

pub(crate) async fn open(store: &str) -> Result<SharedStore, BoxError> {
    match store.split_once(':') {
        Some(("memory", "")) => Ok(SharedStore::new(InMemory::new())),
        Some(("sqlite", path)) if !path.is_empty() => Ok(SharedStore::new(SqliteStore::open(path).await?)),
        _ => Err(format!("--store {store}: it must be memory: or sqlite:PATH").into()),
    }
}
