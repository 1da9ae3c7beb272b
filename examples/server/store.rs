//! Which store a `--store` value names.

use std::error::Error;

use tower_session_memory::store::SqliteStore;
use tower_session_memory::{InMemory, SharedStore};

pub(crate) async fn open(store: &str) -> Result<SharedStore, Box<dyn Error>> {
    match store.split_once(':') {
        Some(("memory", "")) => Ok(SharedStore::new(InMemory::new())),
        Some(("sqlite", path)) if !path.is_empty() => Ok(SharedStore::new(SqliteStore::open(path).await?)),
        // The scheme in full: the rest of the line is the store's to read.
        #[cfg(all(feature = "cache", feature = "redis", feature = "resilience"))]
        Some(("redis" | "rediss" | "valkey" | "unix" | "redis+sentinel" | "redis+cluster", _)) => {
            open_redis(store).await
        }
        _ => {
            Err(format!("--store {store}: it must be memory:, sqlite:PATH or, in a build with redis, redis://HOST")
                .into())
        }
    }
}

/// Redis as a deployment wants it: a pod keeps what it has seen, and retries what is safe to retry.
#[cfg(all(feature = "cache", feature = "redis", feature = "resilience"))]
async fn open_redis(url: &str) -> Result<SharedStore, Box<dyn Error>> {
    use tower_session_memory::store::{Cached, RedisStore, Resilient};

    let store = RedisStore::connect(url).await?;
    Ok(SharedStore::new(Resilient::new(Cached::new(store, 64 << 20))))
}
