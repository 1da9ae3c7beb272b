//! Which store a `--store` value names.

use std::error::Error;

use tower_session_memory::store::SqliteStore;
use tower_session_memory::{InMemory, SharedStore};

/// What this build can open.
const STORES: &[&str] = &[
    "memory:",
    "sqlite:PATH",
    #[cfg(all(feature = "cache", feature = "redis", feature = "resilience"))]
    "redis://HOST",
    #[cfg(feature = "postgres")]
    "postgres://USER@HOST/DATABASE",
    #[cfg(feature = "dynamodb")]
    "dynamodb://TABLE",
];

pub(crate) async fn open(store: &str) -> Result<SharedStore, Box<dyn Error>> {
    match store.split_once(':') {
        Some(("memory", "")) => Ok(SharedStore::new(InMemory::new())),
        Some(("sqlite", path)) if !path.is_empty() => Ok(SharedStore::new(SqliteStore::open(path).await?)),
        // The scheme in full: the rest of the line is the store's to read.
        #[cfg(all(feature = "cache", feature = "redis", feature = "resilience"))]
        Some(("redis" | "rediss" | "valkey" | "unix" | "redis+sentinel" | "redis+cluster", _)) => {
            open_redis(store).await
        }
        #[cfg(feature = "postgres")]
        Some(("postgres" | "postgresql", _)) => {
            let options = tower_session_memory::store::PostgresOptions::new(store)?;
            options.migrate().await?;
            let store = options.connect().await?;
            tokio::spawn(store.clone().purge_every(std::time::Duration::from_secs(60)));
            Ok(SharedStore::new(store))
        }
        #[cfg(feature = "dynamodb")]
        Some(("dynamodb", table)) => {
            let options = tower_session_memory::store::DynamoDbOptions::new(table.trim_start_matches("//"));
            let store = options.connect().await;
            store.create_table().await?;
            Ok(SharedStore::new(store))
        }
        // Not repeated: it may hold a password.
        _ => Err(format!(
            "--store: it must be {}; other stores are built in by --features redis,cache,resilience or postgres or dynamodb",
            STORES.join(", ")
        )
        .into()),
    }
}

/// Redis as a deployment wants it: a pod keeps what it has seen, and retries what is safe to retry.
#[cfg(all(feature = "cache", feature = "redis", feature = "resilience"))]
async fn open_redis(url: &str) -> Result<SharedStore, Box<dyn Error>> {
    use tower_session_memory::store::{Cached, RedisStore, Resilient};

    let store = RedisStore::connect(url).await?;
    Ok(SharedStore::new(Resilient::new(Cached::new(store, 64 << 20))))
}
