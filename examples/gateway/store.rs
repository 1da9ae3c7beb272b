//! Which store a `--store` value names.

use tower_session_memory::store::SqliteStore;
use tower_session_memory::{InMemory, SharedStore};

use super::upstream::BoxError;

pub(crate) async fn open(store: &str) -> Result<SharedStore, BoxError> {
    match store.split_once(':') {
        Some(("memory", "")) => Ok(SharedStore::new(InMemory::new())),
        Some(("sqlite", path)) if !path.is_empty() => Ok(SharedStore::new(SqliteStore::open(path).await?)),
        #[cfg(feature = "redis")]
        Some((scheme, _)) if scheme.starts_with("redis") => {
            Ok(SharedStore::new(tower_session_memory::store::RedisStore::connect(store).await?))
        }
        #[cfg(feature = "postgres")]
        Some(("postgres" | "postgresql", _)) => {
            Ok(SharedStore::new(tower_session_memory::store::PostgresStore::connect(store).await?))
        }
        // Not repeated: it may hold a password.
        _ => Err(format!("--store: it must be {}", super::options::STORES).into()),
    }
}
