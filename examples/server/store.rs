//! Which store a `--store` value names.

use std::error::Error;

use tower_session_memory::store::SqliteStore;
use tower_session_memory::{InMemory, SharedStore};

/// What this build can open.
const STORES: &[&str] = &[
    "memory:",
    "sqlite:PATH",
    #[cfg(feature = "postgres")]
    "postgres://USER@HOST/DATABASE",
    #[cfg(feature = "dynamodb")]
    "dynamodb://TABLE",
];

pub(crate) async fn open(store: &str) -> Result<SharedStore, Box<dyn Error>> {
    match store.split_once(':') {
        Some(("memory", "")) => Ok(SharedStore::new(InMemory::new())),
        Some(("sqlite", path)) if !path.is_empty() => Ok(SharedStore::new(SqliteStore::open(path).await?)),
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
        _ => Err(format!("--store: it must be {}", STORES.join(", ")).into()),
    }
}
