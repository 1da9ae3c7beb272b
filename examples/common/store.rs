//! Which store a `--store` value names.

use tower_session_memory::store::SqliteStore;
use tower_session_memory::{InMemory, SharedStore};

use crate::process::BoxError;

/// What this build can open.
const STORES: &[&str] = &[
    "memory:",
    "sqlite:PATH",
    #[cfg(all(feature = "redis", feature = "cache", feature = "resilience"))]
    "redis://HOST",
    #[cfg(all(feature = "postgres", feature = "cache", feature = "resilience"))]
    "postgres://USER@HOST/DATABASE",
    #[cfg(all(feature = "dynamodb", feature = "cache", feature = "resilience"))]
    "dynamodb://TABLE",
];

/// Errors do not repeat what they are about: it may hold a password.
pub(crate) async fn open(store: &str) -> Result<SharedStore, BoxError> {
    match store.split_once(':') {
        Some(("memory", "")) => Ok(SharedStore::new(InMemory::new())),
        Some(("sqlite", path)) if !path.is_empty() => Ok(SharedStore::new(SqliteStore::open(path).await?)),
        // Encrypted, behind Sentinels, a Cluster, a socket: the store reads the scheme in full.
        #[cfg(all(feature = "redis", feature = "cache", feature = "resilience"))]
        Some((scheme, _)) if scheme == "unix" || scheme.starts_with("redis") || scheme.starts_with("valkey") => {
            Ok(distant(tower_session_memory::store::RedisStore::connect(store).await?))
        }
        #[cfg(all(feature = "postgres", feature = "cache", feature = "resilience"))]
        Some(("postgres" | "postgresql", _)) => {
            let options = tower_session_memory::store::PostgresOptions::new(store)?;
            options.migrate().await?;
            let store = options.connect().await?;
            tokio::spawn(store.clone().purge_every(std::time::Duration::from_secs(60)));
            Ok(distant(store))
        }
        #[cfg(all(feature = "dynamodb", feature = "cache", feature = "resilience"))]
        Some(("dynamodb", table)) => {
            let options = tower_session_memory::store::DynamoDbOptions::new(table.trim_start_matches("//"));
            let store = options.connect().await;
            store.create_table().await?;
            Ok(distant(store))
        }
        _ => Err(format!("--store: it must be {} (more in a build with --all-features)", STORES.join(", ")).into()),
    }
}

/// A store on a network as a deployment wants it: a pod keeps what it has seen, and retries what is
/// safe to retry.
#[cfg(all(
    any(feature = "redis", feature = "postgres", feature = "dynamodb"),
    feature = "cache",
    feature = "resilience"
))]
fn distant(store: impl tower_session_memory::Store) -> SharedStore {
    use tower_session_memory::store::{Cached, Resilient};
    SharedStore::new(Resilient::new(Cached::new(store, 64 << 20)))
}
